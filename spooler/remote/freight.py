"""A job's files on their way to a worker and its pictures on their way home, by the store.

Whole or not at all: what comes is held to its checksums, and to what the worker tells of it, before the spooler hears of it.
Pictures that come while others are being drawn are shown and no more: the end of the job says which ones count.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from spooler import durable, messages
from spooler.reader import RESULT
from spooler.record import Image
from spooler.remote.sent import Sent
from spooler.remote.store import DamagedError, Store
from spooler.remote.wire import File, Made, Name, Result, Task, image_fits

log = logging.getLogger(__name__)

T = TypeVar("T")
End = messages.Finished | messages.Failed | messages.Lost
FETCHES = 3


class UnwantedError(Exception):
    """The try ended otherwise meanwhile: met by a thread that still worked for it."""


class Patience(Protocol):
    """Does it, and again as long as the store does not answer. Raises UnwantedError when it need not be done."""

    def __call__(self, do: Callable[[], T], sent: Sent) -> T: ...


class _Meta(BaseModel):
    """What Celery keeps of a task that ended."""

    model_config = ConfigDict(extra="ignore")

    status: str
    result: Any = None


@dataclass(frozen=True)
class Home:
    """How a try ended, with its pictures in the job's folder."""

    end: End
    images: tuple[Image, ...] = ()


class Freight:
    """Of one spooler. Its methods are called from several threads."""

    def __init__(self, spooler: str, store: Store, patiently: Patience):
        self._spooler = spooler
        self._store = store
        self._patiently = patiently

    def pack(self, sent: Sent) -> Task:
        """The try as a message, with its pictures in the store. Raises UnwantedError."""
        run, files = sent.run, []
        folder = f"{sent.name.folder(self._spooler)}/inputs"
        for name in run.job.inputs:
            try:
                data = (Path(run.folder) / "inputs" / name).read_bytes()
            except FileNotFoundError:  # RACE: adopted; the spooler sees it
                raise UnwantedError from None
            files.append(self._patiently(lambda name=name, data=data: self._store.put(folder, name, data), sent))  # type: ignore[misc]
        return Task(spooler=self._spooler, run=run.model_copy(update={"folder": ""}), inputs=tuple(files))

    def unpack(self, sent: Sent, raw: str) -> Home | None:
        """What a worker's result says, its pictures fetched; None when the job is another's by now. Raises UnwantedError."""
        run = sent.run
        try:
            result = _result(run, raw)
        except ValueError as error:  # pydantic's too
            log.error("job %s: a worker's result that is none: %s", run.id, ascii(str(error))[:500])
            return Home(messages.Lost(id=run.id, how="its worker sent back what is no result"))
        if isinstance(result.end, messages.Failed):  # what else it says is of the worker's own process and disk
            return Home(result.end.model_copy(update={"fatal": False, "errno": None}))
        if isinstance(result.end, messages.Lost):
            return Home(result.end)
        try:
            self._write_down(sent, result)
        except DamagedError as error:
            return Home(messages.Lost(id=run.id, how=str(error)))
        except FileNotFoundError:  # RACE: adopted; the spooler sees it
            return None
        except OSError as error:
            reason = f"The pictures of this job could not be written: {error}"
            return Home(messages.Failed(id=run.id, code="no_space", reason=reason, errno=error.errno))
        return Home(result.end, tuple(self.with_address(image, sent) for image in result.images))

    def fetch_ahead(self, name: Name, made: Made, tmp: Path) -> Path | None:
        """A picture of a try that is still being drawn, whole and on stable storage: a file in `tmp`, to be moved to where it
        belongs; None for one that was withheld. Raises StoreError, DamagedError, OSError: then it comes with all others."""
        if not made.file:
            return None
        draft = tmp / durable.unique_name()
        durable.write_new(draft, self._store.get(name.folder(self._spooler), made.file))
        return draft

    def discard(self, sent: Sent, is_done: bool) -> None:
        """Leave nothing in the store but a done job's pictures. Raises StoreError."""
        folder = sent.name.folder(self._spooler)
        if sent.run.job.inputs or not is_done:
            self._store.remove(f"{folder}/inputs" if is_done else folder)

    def _write_down(self, sent: Sent, result: Result) -> None:
        """Have the job's folder hold its pictures, and no others, whole and for good."""
        folder, target = sent.name.folder(self._spooler), Path(sent.run.folder)
        for name in {f"{index}.png" for index in sent.ahead} - {file.name for file in result.files}:
            (target / name).unlink(missing_ok=True)
        for file in result.files:
            if _is_there(target / file.name, file):
                continue
            for number in range(FETCHES):
                try:
                    data = self._patiently(lambda file=file: self._store.get(folder, file), sent)  # type: ignore[misc]
                    break
                except DamagedError:
                    if number == FETCHES - 1:
                        raise
            (target / file.name).unlink(missing_ok=True)
            durable.write_new(target / file.name, data)
        durable.sync_folder(target)

    def with_address(self, image: Image, sent: Sent) -> Image:
        folder = sent.name.folder(self._spooler)
        return image.model_copy(update={"stored": self._store.address(folder, image.file) if image.file else None})


def _is_there(path: Path, file: File) -> bool:
    """Whether the file is at home already. Who put it there has had the disk keep it."""
    try:
        return file.is_of(durable.read_small(path, file.size))
    except (FileNotFoundError, durable.UnreadableError):
        return False


def _result(run: messages.Run, raw: str) -> Result:
    """What Celery has of it. Raises ValueError for what is no result of this try."""
    meta = _Meta.model_validate_json(raw)
    if meta.status != "SUCCESS":
        raise ValueError(f"Celery has it as {meta.status}: {meta.result}")
    result = Result.model_validate(meta.result)
    if result.end.id != run.id:
        raise ValueError(f"it is of job {result.end.id!a}")
    if isinstance(result.end, messages.Finished):
        _check_pictures(run, result)
        _check_files(result, result.end)
    return result


def _check_pictures(run: messages.Run, result: Result) -> None:
    """Raises ValueError unless each picture of the job is told of, once."""
    told = sorted(image.index for image in result.images)
    if told != list(range(run.job.pictures)):
        raise ValueError(f"it tells of the pictures {told}, but the job makes {run.job.pictures}")
    for image in result.images:
        if not image_fits(image, run):
            raise ValueError(f"its picture {image.index} is {image.file!a}, at {image.cell}")


def _check_files(result: Result, end: messages.Finished) -> None:
    """Raises ValueError unless the files are those of the pictures and the sheet that it tells of, under our own names."""
    told = {image.file for image in result.images if image.file} | ({end.sheet} if end.sheet else set())
    sent = {file.name for file in result.files}
    if told != sent or not all(RESULT.fullmatch(name) for name in told):
        raise ValueError(f"it has the files {sorted(sent)}, and tells of {sorted(told)}")
