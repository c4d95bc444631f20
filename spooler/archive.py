"""A queue as a tar file: the waiting jobs, each a folder `pending/<id>/` or `held/<id>/` with job.json and its pictures."""

from __future__ import annotations

import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from spooler import durable, job, pictures
from spooler.ids import is_id
from spooler.job import decode
from spooler.mistakes import JobError, Mistake
from spooler.spool import Spool, SpoolError, TakenError

STATES: tuple[Literal["pending", "held"], ...] = ("pending", "held")


#: Of one job in a tar: job.json and its pictures, of which no job names as many. All of them are in memory at once.
MAX_FILES = 1 + job.MAX_INPUTS


@dataclass(frozen=True)
class Imported:
    """What became of one job of a tar: its id in the spool, or why it is not there."""

    id: str
    taken_as: str | None
    why: str = ""


def export(spool: Spool, file: IO[bytes]) -> int:
    """Write the waiting jobs into a tar; returns how many. The queue stays as it is."""
    number = 0
    with tarfile.open(fileobj=file, mode="w|") as tar:
        for state in STATES:
            for place in sorted(spool.places(state), key=lambda place: place.id):
                try:
                    raw = durable.read_small(place.job_file, job.MAX_BYTES)
                    names = decode(raw).inputs
                    if place.is_folder and spool.odd_entry(place, names):
                        continue  # a link, a device: nothing outside the spool is ever read (P9)
                    inputs = {name: _read_picture(spool.input_file(place, name)) for name in names}
                except (JobError, FileNotFoundError, durable.UnreadableError):
                    continue  # RACE: claimed meanwhile; or no job, which the spooler will say
                for name, data in {"job.json": raw, **inputs}.items():
                    entry = tarfile.TarInfo(f"{state}/{place.id}/{name}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
                number += 1
    return number


def _read_picture(path: Path) -> bytes:
    return durable.read_small(path, pictures.MAX_FILE_BYTES)


@contextmanager
def _reading(file: IO[bytes]) -> Iterator[tarfile.TarFile]:
    """Raises SpoolError for a file that is no tar, or ends in its middle: what came before is in the spool by then."""
    try:
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            yield tar
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise SpoolError(f"`file` must be a whole tar file, but: {error}") from error


def load(spool: Spool, file: IO[bytes], new_ids: bool = False) -> Iterator[Imported]:
    """Submit the jobs of a tar, each under its id, or under a new one. Yields what became of each, one by one.

    Nothing is unpacked: only names of the form that `export` writes are read, and of those only ordinary files.
    """
    folder: tuple[Literal["pending", "held"], str] | None = None
    files: dict[str, bytes] = {}
    with _reading(file) as tar:
        for entry in tar:
            parts = PurePosixPath(entry.name).parts
            if len(parts) != 3 or parts[0] not in STATES or not is_id(parts[1]) or not entry.isfile():
                continue
            here: tuple[Literal["pending", "held"], str] = ("pending" if parts[0] == "pending" else "held", parts[1])
            if folder and here != folder:
                yield _submit(spool, folder, files, new_ids)
                files = {}
            folder = here
            if len(files) >= MAX_FILES:
                raise JobError(Mistake("", f"{here[1]!r} must have at most {MAX_FILES} files, but has more."))
            if entry.size > pictures.MAX_FILE_BYTES:
                rule = f"{entry.name!a} must have at most {pictures.MAX_FILE_BYTES} bytes, but has {entry.size}."
                raise JobError(Mistake("", rule))
            data = tar.extractfile(entry)
            files[parts[2]] = data.read() if data else b""
    if folder:
        yield _submit(spool, folder, files, new_ids)


def _submit(spool: Spool, folder: tuple[Literal["pending", "held"], str], files: dict[str, bytes], new_ids: bool) -> Imported:
    state, job_id = folder
    try:
        raw = files.get("job.json", b"")
        inputs = {name: files[name] for name in decode(raw).inputs if name in files}
        if missing := [name for name in decode(raw).inputs if name not in files]:
            return Imported(job_id, None, f"`{missing[0]}`, which the job names, is not in the file.")
        for name, data in inputs.items():
            pictures.check_bytes(data, name)
        return Imported(job_id, spool.submit(raw, None if new_ids else job_id, inputs, state))
    except (JobError, TakenError, pictures.InputError) as error:
        return Imported(job_id, None, str(error))
