"""Looking through a whole spool for what a promise forbids, and mending what recovery may mend.

Nothing here guesses: what cannot be mended without losing or inventing something is told, for a person to decide. It may run
beside spoolers and web apps. What changes while it looks is looked at twice before it is told.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout
from PIL import Image, UnidentifiedImageError
from pydantic import ValidationError

from spooler import durable
from spooler.batches import Batches
from spooler.dropped import kind_of
from spooler.ids import is_id
from spooler.job import decode
from spooler.mistakes import JobError
from spooler.place import EDITOR
from spooler.reader import MAX_RECORD_BYTES, PRIORITY, RESULT, folders, has_job, mtime_ns
from spooler.record import Record
from spooler.removal import remove
from spooler.spool import Spool
from spooler.states import ENDS, FOLDERS, STATES

#: What a finished folder has no more use for.
LEFT_OVER = frozenset({"cancel", "progress.json", "preview.jpg", "hold"})


@dataclass(frozen=True)
class Finding:
    """Something that is not as promised: which promise, where, and what; `mend` is what recovery may do about it."""

    promise: str
    path: Path
    sentence: str
    mend: Callable[[], None] | None = None

    @property
    def can_be_mended(self) -> bool:
        return self.mend is not None


def examine(spool: Spool, deep: bool = False, tmp_max_age_s: float = 129_600.0) -> Iterator[Finding]:
    """Everything that is wrong with the spool, one by one as it is found. `deep` reads every picture to its last byte.

    Memory is bounded however many jobs there are: finished jobs are walked through, not listed.
    """
    yield from _folders(spool)
    for state in ENDS:
        for folder in _walk(spool.root / state):
            yield from _twice(lambda folder=folder, state=state: _ended(spool, state, folder, deep))  # type: ignore[misc]
    yield from _claimed(spool)
    yield from _waiting(spool)
    yield from _rejected(spool)
    yield from _batches(spool)
    yield from _tmp(spool, tmp_max_age_s)


def _twice(look: Callable[[], list[Finding]]) -> list[Finding]:
    """What two looks in a row agree on: the first may have come in the middle of a move."""
    try:
        if not (first := look()):
            return []
        again = {(each.path, each.sentence) for each in look()}
    except PermissionError as error:
        return [_closed(error)]
    return [each for each in first if (each.path, each.sentence) in again]


def _closed(error: PermissionError) -> Finding:
    return Finding("P5", Path(error.filename), "It is closed to the user who runs this: its owner, or root, has to open it.")


def _walk(parent: Path) -> Iterator[Path]:
    """The entries of a folder, one by one; hidden ones left out."""
    with contextlib.suppress(FileNotFoundError), os.scandir(parent) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                yield Path(entry.path)


def _folders(spool: Spool) -> Iterator[Finding]:
    devices = set()
    for name in FOLDERS:
        path = spool.root / name
        if not path.is_dir():
            yield Finding("P3", path, "The folder is missing.", lambda path=path: path.mkdir(parents=True))  # type: ignore[misc]
        else:
            devices.add(path.stat().st_dev)
    if len(devices) > 1:
        yield Finding("P2", spool.root, f"The folders are on {len(devices)} file systems, so no rename can move a job.")


# -- where jobs end ------------------------------------------------------------------------------------------------------------


def _ended(spool: Spool, state: str, folder: Path, deep: bool) -> list[Finding]:
    """What is wrong with one entry of done/, failed/ or cancelled/."""
    if not durable.exists(folder):
        return []
    if not stat.S_ISDIR(folder.lstat().st_mode):
        return [Finding("P3", folder, "Only folders of jobs belong here, but this is none.")]
    if not durable.exists(folder / "job.json"):
        names = {entry.name for entry in _walk(folder)}
        if names <= {"record.json"} and state == "cancelled":
            return [Finding("P2", folder, "Left by a cancel that was killed: there is no job in it.", _leftover(spool, folder))]
        return [Finding("P2", folder, "The job.json is missing.")]
    found = [*_elsewhere(spool, state, folder), *_job_file(folder)]
    try:
        record = Record.decode(durable.read_small(folder / "record.json", MAX_RECORD_BYTES))
    except FileNotFoundError:
        mend = (lambda: _write_cancelled(folder)) if state == "cancelled" else None
        return [*found, Finding("P2", folder / "record.json", "The record is missing.", mend)]
    except (ValidationError, durable.UnreadableError) as error:
        return [*found, Finding("P2", folder / "record.json", f"The record cannot be read: {str(error).splitlines()[0]}")]
    if record.id != folder.name:
        found.append(Finding("P3", folder / "record.json", f"The record is of a job {record.id!a}."))
    if state == "done":
        found += _pictures(folder, record, deep)
    if state == "failed" and record.failure is None:
        found.append(Finding("P4", folder / "record.json", "The job failed, but the record has no reason."))
    for entry in _walk(folder):
        if entry.name in LEFT_OVER:
            found.append(Finding("P3", entry, "Left over from when the job ran.", entry.unlink))
        elif state == "done" and RESULT.fullmatch(entry.name) and entry.name not in record.files:
            found.append(Finding("P2", entry, "A picture that the record does not list."))
    return found


def _elsewhere(spool: Spool, state: str, folder: Path) -> list[Finding]:
    """The same job in another state too."""
    if state == "done":
        places = [spool.root / other / folder.name for other in ("failed", "cancelled")]
    elif state == "failed":
        places = [spool.root / "cancelled" / folder.name]
    else:
        places = []
    places += [theirs / folder.name for theirs in spool.spooler_folders()]
    others = [place for place in places if durable.exists(place / "job.json")]
    return [Finding("P2", other, f"The job is in {state}/ too.") for other in others]


def _job_file(folder: Path) -> list[Finding]:
    try:
        decode(durable.read_small(folder / "job.json", 1 << 20))
    except (JobError, durable.UnreadableError) as error:
        return [Finding("P2", folder / "job.json", f"The job cannot be read: {error}")]
    return []


def _pictures(folder: Path, record: Record, deep: bool) -> list[Finding]:
    found = []
    for name in sorted(record.files):
        path = folder / name
        if not durable.exists(path):
            found.append(Finding("P2", path, "The record lists this picture, but it is missing."))
        elif path.lstat().st_size == 0:
            found.append(Finding("P2", path, "The picture is empty."))
        elif deep and (why := _cannot_be_read(path)):
            found.append(Finding("P2", path, f"The picture cannot be read: {why}."))
    return found


def _cannot_be_read(path: Path) -> str | None:
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        return str(error) or type(error).__name__
    return None


def _write_cancelled(folder: Path) -> None:
    record = Record(id=folder.name).fail("cancelled", "Cancelled while it waited.")
    durable.replace(folder / "record.json", record.encode())


# -- on the way ------------------------------------------------------------------------------------------------------------


def _claimed(spool: Spool) -> Iterator[Finding]:
    anybody = any(spool.alive(folder.name) for folder in spool.spooler_folders())
    # One that was stopped left its jobs for its next start, as it should.
    stopped = {status.spooler for status, alive in spool.spoolers() if not alive and status.state == "stopped"}
    for theirs in spool.spooler_folders():
        if spool.alive(theirs.name):
            continue
        jobs = folders(theirs)
        for folder in jobs:
            try:
                is_job = durable.exists(folder / "job.json")
            except PermissionError as error:
                yield _closed(error)
                continue
            if not is_job:
                yield Finding("P2", folder, "Left by a claim that was killed: there is no job in it.", _leftover(spool, folder))
            elif not anybody and theirs.name not in stopped:
                yield Finding("P2", folder, "The spooler that has this job is dead, and no other runs: start one.")
        if not jobs and theirs.name.startswith(EDITOR):
            yield Finding("P2", theirs, "Left by an edit that was killed.", _dead_editor(spool, theirs))


def _waiting(spool: Spool) -> Iterator[Finding]:
    ids: set[str] | None = None  # of all that wait, those whose name is another too, which takes a listing
    for state in ("pending", "held"):
        for entry in _walk(spool.root / state):
            kind = kind_of(entry.name, entry.is_dir)
            if kind is None:
                yield Finding("P5", entry, "Nobody will ever take this: its name is that of no job, list of jobs or picture.")
            if kind == "side":
                job_id = entry.name.removesuffix(PRIORITY)
                place = spool.find_by_name(job_id)
                if place is None or place.state not in ("pending", "held"):
                    ids = {each.id for state in STATES[:2] for each in spool.walk(state)} if ids is None else ids
                    if job_id in ids:
                        continue
                    yield Finding("P5", entry, "A priority for a job that does not wait.", _remover(entry))
            if kind == "job" and entry.suffix == ".json" and is_id(entry.stem):
                if has_job(entry.with_suffix("")):
                    yield Finding("P2", entry, "A folder of the same name waits too: the second of them will get another id.")
                if state == "held" and durable.exists(spool.pending / entry.name):
                    yield Finding("P2", entry, "The same name waits in pending/ too.")


def _rejected(spool: Spool) -> Iterator[Finding]:
    for entry in _walk(spool.rejected_folder):
        if entry.name.endswith(".reason.txt"):
            if not durable.exists(entry.with_name(entry.name.removesuffix(".reason.txt"))):
                yield Finding("P5", entry, "A reason without its file.", _lone_reason(spool, entry))
        elif not durable.exists(reason := entry.with_name(f"{entry.name}.reason.txt")):
            yield Finding("P5", entry, "A rejected file without its reason.", _reason_writer(reason))


def _batches(spool: Spool) -> Iterator[Finding]:
    batches = Batches(spool)
    for folder in folders(spool.batches):
        try:
            batch = batches.read(folder.name)
        except PermissionError as error:
            yield _closed(error)
            continue
        if batch is None or not durable.exists(folder / batch.file):
            yield Finding("P2", folder, "Begun for a dropped file that was not taken.", lambda: _ignore(batches.unfinished()))
        elif not durable.exists(folder / "queued"):
            yield Finding("P2", folder, "Not all of its jobs are in the queue yet: a spooler that runs goes on with it.")


def _tmp(spool: Spool, max_age_s: float) -> Iterator[Finding]:
    newest = max((mtime_ns(entry) for entry in _walk(spool.tmp)), default=0)
    for entry in _walk(spool.tmp):
        if newest - mtime_ns(entry) > max_age_s * 1e9:
            yield Finding("P2", entry, "Left by a writer that was killed.", _remover(entry))


# A mend may come long after the look: it looks again, under the lock of whoever makes such a thing into a job.


def _leftover(spool: Spool, folder: Path) -> Callable[[], None]:
    def mend() -> None:
        with spool.claim_lock():
            if durable.exists(folder) and not durable.exists(folder / "job.json"):
                remove(folder)

    return mend


def _dead_editor(spool: Spool, folder: Path) -> Callable[[], None]:
    def mend() -> None:
        with contextlib.suppress(Timeout), spool.life_lock(folder.name).acquire(timeout=0):
            if not folders(folder):
                remove(folder)

    return mend


def _lone_reason(spool: Spool, reason: Path) -> Callable[[], None]:
    def mend() -> None:
        with spool.claim_lock():
            if not durable.exists(reason.with_name(reason.name.removesuffix(".reason.txt"))):
                remove(reason)

    return mend


def _remover(path: Path) -> Callable[[], None]:
    return lambda: remove(path)


def _reason_writer(path: Path) -> Callable[[], None]:
    return lambda: durable.write_new(path, b"The reason was lost.\n")


def _ignore(what: object) -> None:
    """For a mend whose answer nobody needs."""
