"""Where a job is, and what a rejected file says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spooler.states import STATUS, State, Status

#: What the name of an editor in claimed/ begins with: it changes jobs that wait, and gives them back (spooler/edit.py). No
#: spooler may have such a name (settings.py), and no host has.
EDITOR = "edit_"


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

    @property
    def is_edited(self) -> bool:
        """Whether it is being changed: it is claimed, but waits, and is back in a moment."""
        return self.state == "claimed" and (self.spooler or "").startswith(EDITOR)

    @property
    def status(self) -> Status:
        """As people are told."""
        return "waiting" if self.is_edited else STATUS[self.state]


@dataclass(frozen=True)
class Rejected:
    """A dropped file that is no valid job, and why."""

    name: str
    reason: str
    at: str
