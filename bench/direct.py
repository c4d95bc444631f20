"""An engine in this process, without a spool: for benches, and for tests that look at many pictures.

What runs is the engine itself, with its ladder, filters and files; only the two pipes to the spooler are replaced by lists.
"""

from __future__ import annotations

import atexit
import io
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.Image import Image as Picture

from spooler import messages
from spooler.catalogue import resolve_all
from spooler.engine import device as devices
from spooler.engine.worker import Engine
from spooler.job import Job, from_fields
from spooler.library import scan
from spooler.record import EngineFacts
from spooler.settings import Settings


def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sdspool-direct-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Nobody:
    """Commands that never come, but for the cancels of the jobs in a set."""

    stopped = False

    def __init__(self) -> None:
        self.cancelled: set[str] = set()

    def unwanted(self, job_id: str) -> bool:
        return job_id in self.cancelled


class Direct:
    """An engine with the settings given by name, and its default model loaded."""

    def __init__(self, scratch: Path | None = None, **settings: Any):
        self.scratch = scratch or _scratch()
        given = {"models": self.scratch / "models", "cache": self.scratch / "cache", "device": "cpu"} | settings
        options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        self.settings = Settings.parse(options, "direct", env={})
        self.library = scan(self.settings.models, self.settings.model)
        self.catalogue = self.library.catalogue()
        self._out = io.BytesIO()
        commands = Nobody()
        self.unwanted = commands.cancelled  # ids of jobs to be cancelled
        device = devices.choose(self.settings.device, self.settings.model)
        self.engine = Engine.make(self.settings, self.library, device, commands, self._out)  # type: ignore[arg-type]
        self.facts: EngineFacts = self.engine.warm_up()
        self._number = 0

    def run(self, fields: Mapping[str, Any] | Job, inputs: Mapping[str, Picture] | None = None) -> Path:
        """Run a job to its end; the folder with its pictures. `ended` has the engine's last word. Raises JobError."""
        run = self._ordered(fields, inputs or {}, "direct")
        self._forget()
        self.ended = self.engine.run(run)
        self._hear()
        return Path(run.folder)

    def run_all(
        self,
        jobs: Sequence[tuple[Mapping[str, Any], Mapping[str, Picture]]],
        on_turn: Callable[[int], None] = lambda turn: None,
    ) -> list[Path]:
        """Run jobs that all wait, each with its pictures, as direct0, direct1, ...; `ended_all` has the last word of each."""
        runs = [self._ordered(fields, inputs, f"direct{number}") for number, (fields, inputs) in enumerate(jobs)]
        self._forget()
        self.unwanted.clear()
        self.ended_all = self.engine.run_all(runs, on_turn)
        self._hear()
        return [Path(run.folder) for run in runs]

    def _ordered(self, fields: Mapping[str, Any] | Job, inputs: Mapping[str, Picture], job_id: str) -> messages.Run:
        job = fields if isinstance(fields, Job) else from_fields(dict(fields))
        self.catalogue.check(job)
        self._number += 1
        folder = self.scratch / f"job{self._number}"
        (folder / "inputs").mkdir(parents=True)
        for name, picture in inputs.items():
            picture.save(folder / "inputs" / name)
        sizes = {name: picture.size for name, picture in inputs.items()}
        parameters, cells = resolve_all(job, self.catalogue, 3, sizes)
        return messages.Run(id=job_id, folder=str(folder), job=parameters, cells=cells)

    def _forget(self) -> None:
        self._out.seek(0)
        self._out.truncate()

    def _hear(self) -> None:
        self.said = [messages.from_engine.validate_json(line) for line in self._out.getvalue().splitlines()]

    def close(self) -> None:
        """Free the models' memory, for the next engine in this process."""
        for name in self.engine._residents.names:
            self.engine._residents.drop(name)
        self.engine._files.shutdown()

    def draw(self, inputs: Mapping[str, Picture] | None = None, **fields: Any) -> list[Picture]:
        """The pictures of a job. Raises RuntimeError with the reason when it failed."""
        folder = self.run(fields, inputs)
        if isinstance(self.ended, messages.Failed):
            raise RuntimeError(f"{self.ended.code}: {self.ended.reason}\n{self.ended.details}")
        pictures = []
        for path in sorted(folder.glob("[0-9]*.png"), key=lambda path: int(path.stem)):
            with Image.open(path) as picture:
                pictures.append(picture.convert("RGB"))
        return pictures
