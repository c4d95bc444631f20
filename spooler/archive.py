"""A queue as a tar file: the waiting jobs in the order in which they came, with what a job's file alone does not tell.

pending/<id>/job.json   and its pictures; held/<id>/ for one that is held. It names its owner.
<id>.priority           what was said of its turn since; behind all jobs, the latest "top" last
"""

from __future__ import annotations

import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from spooler import durable, job, pictures, priority
from spooler.dropped import owner_of
from spooler.ids import is_id, new_id, versions
from spooler.job import decode, encode
from spooler.mistakes import JobError, Mistake
from spooler.place import Place
from spooler.reader import PRIORITY, mtime_ns
from spooler.spool import Spool, SpoolError, TakenError

Waits = Literal["pending", "held"]
STATES: tuple[Waits, ...] = ("pending", "held")
#: Of one job in a tar: job.json and its pictures, of which no job names as many. All of them are in memory at once.
MAX_FILES = 1 + job.MAX_INPUTS


@dataclass(frozen=True)
class Imported:
    """What became of one job of a tar: its id in the spool, or why it is not there."""

    id: str
    taken_as: str | None
    why: str = ""


def export(spool: Spool, file: IO[bytes], refused: list[PermissionError] | None = None) -> int:
    """Write the waiting jobs into a tar; returns how many. The queue stays as it is.

    One that its owner has closed to us is left out: `refused` has what it answers; without that it is raised.
    """
    written: dict[str, str] = {}  # its name there -> its id
    with tarfile.open(fileobj=file, mode="w|") as tar:

        def add(name: str, data: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))

        for place, name in _named([place for state in STATES for place in spool.places(state)]):
            try:
                files = _files(spool, place)
            except (JobError, FileNotFoundError, durable.UnreadableError):
                continue  # RACE: claimed meanwhile; or no job, which the spooler will say
            except PermissionError as error:
                if refused is None:
                    raise
                refused.append(error)
                continue
            for part, data in files.items():
                add(f"{place.state}/{name}/{part}", data)
            if files:
                written[name] = place.id
        for name, job_id in sorted(written.items(), key=lambda pair: mtime_ns(spool.pending / f"{pair[1]}{PRIORITY}")):
            given = spool.read_priority(job_id).value if name == job_id else None  # it is that one's whose the id is
            if given is not None:
                add(f"{name}{PRIORITY}", f"{given}\n".encode())
    return len(written)


def _named(places: Sequence[Place]) -> Iterator[tuple[Place, str]]:
    """Each with its name in the tar: its id. Of several files that come to one id ("my cat.json", "my-cat.json") it is that
    one's whose name says it, and the others have a number, as they would when they are claimed."""

    def by_name(place: Place) -> int:
        names = (f"{place.id}.json", place.id)
        return names.index(place.path.name) if place.path.name in names else len(names)

    first: dict[str, Place] = {}
    for place in places:
        if place.id not in first or by_name(place) < by_name(first[place.id]):
            first[place.id] = place
    taken = set(first)
    for place in places:
        name = place.id if first[place.id] is place else next(each for each in versions(place.id) if each not in taken)
        taken.add(name)
        yield place, name


def _files(spool: Spool, place: Place) -> dict[str, bytes]:
    """The files of a waiting job by their names; none of one with a link or a device: nothing outside is ever read (P9)."""
    raw = durable.read_small(place.job_file, job.MAX_BYTES)
    wanted = decode(raw)
    if place.is_folder and spool.odd_entry(place, wanted.inputs):
        return {}
    if not wanted.owner:  # whoever the file belongs to, which an import would not find out
        raw = encode(wanted.model_copy(update={"owner": owner_of(place.job_file.stat().st_uid)}))
    return {"job.json": raw, **{name: _read_picture(spool.input_file(place, name)) for name in wanted.inputs}}


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
    """Submit the jobs of a tar, each under its id; with `new_ids` under a new one, by which those that wait for it know it too:
    then the file is read twice, and must be one that can be. Yields what became of each, one by one.

    Nothing is unpacked: only names of the form that `export` writes are read, and of those only ordinary files.
    """
    ids = _new_ids(file) if new_ids else {}
    taken: dict[str, str] = {}
    with _reading(file) as tar:
        for each in _contents(tar):
            if isinstance(each, _Job):
                found = _submit(spool, each, ids)
                if found.taken_as:
                    taken[each.id] = found.taken_as
                yield found
            elif each.id in taken and (value := priority.understood(each.text).value) is not None:
                spool.set_priority(taken[each.id], value)


@dataclass(frozen=True)
class _Job:
    """A job of a tar: where it waits, its id there, and its files by their names."""

    state: Waits
    id: str
    files: dict[str, bytes]


@dataclass(frozen=True)
class _Priority:
    """What a tar has of a job's turn."""

    id: str
    text: str


def _new_ids(file: IO[bytes]) -> dict[str, str]:
    """A new id for each job of a tar, by the one that it has there."""
    begin = file.tell()
    with _reading(file) as tar:
        found = {at[1]: new_id() for entry in tar if (at := _place_of(entry))}
    file.seek(begin)
    return found


def _place_of(entry: tarfile.TarInfo) -> tuple[Waits, str, str] | None:
    """Where a job's file is, by its name: the state, the job's id, and the file's own name; None for anything else."""
    parts = PurePosixPath(entry.name).parts
    if len(parts) != 3 or parts[0] not in STATES or not is_id(parts[1]) or not entry.isfile():
        return None
    return "pending" if parts[0] == "pending" else "held", parts[1], parts[2]


def _contents(tar: tarfile.TarFile) -> Iterator[_Job | _Priority]:
    """What there is in a tar, in its order."""
    now: _Job | None = None
    for entry in tar:
        at = _place_of(entry)
        if now and (at is None or at[:2] != (now.state, now.id) or at[2] in now.files):
            yield now
            now = None
        if at:
            now = now or _Job(at[0], at[1], {})
            if len(now.files) >= MAX_FILES:
                raise JobError(Mistake("", f"{now.id!r} must have at most {MAX_FILES} files, but has more."))
            if entry.size > pictures.MAX_FILE_BYTES:
                rule = f"{entry.name!a} must have at most {pictures.MAX_FILE_BYTES} bytes, but has {entry.size}."
                raise JobError(Mistake("", rule))
            now.files[at[2]] = _read(tar, entry)
        elif entry.name.endswith(PRIORITY) and entry.isfile() and entry.size <= priority.MAX_BYTES:
            yield _Priority(entry.name.removesuffix(PRIORITY), _read(tar, entry).decode(errors="replace"))
    if now:
        yield now


def _read(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    data = tar.extractfile(entry)
    return data.read() if data else b""


def _submit(spool: Spool, given: _Job, ids: Mapping[str, str]) -> Imported:
    try:
        raw = given.files.get("job.json", b"")
        wanted = decode(raw)
        inputs = {name: given.files[name] for name in wanted.inputs if name in given.files}
        if missing := [name for name in wanted.inputs if name not in given.files]:
            return Imported(given.id, None, f"`{missing[0]}`, which the job names, is not in the file.")
        for name, data in inputs.items():
            pictures.check_bytes(data, name)
        if not ids.keys().isdisjoint(wanted.after):
            raw = encode(wanted.model_copy(update={"after": [ids.get(each, each) for each in wanted.after]}))
        return Imported(given.id, spool.submit(raw, ids.get(given.id, given.id), inputs, given.state))
    except (JobError, TakenError, pictures.InputError) as error:
        return Imported(given.id, None, str(error))
