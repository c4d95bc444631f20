"""Where a job is, and what a rejected file says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spooler.states import State


@dataclass(frozen=True)
class Place:
    """Where a job is: its state, and its file (a waiting job without inputs) or folder."""

    id: str
    state: State
    path: Path
    spooler: str | None = None
    is_folder: bool = True

    @property
    def job_file(self) -> Path:
        return self.path / "job.json" if self.is_folder else self.path


@dataclass(frozen=True)
class Rejected:
    """A dropped file that is no valid job, and why."""

    name: str
    reason: str
    at: str
