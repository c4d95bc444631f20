"""What waits in pending/, kept in memory: files that have not changed since the last scan are not read again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from spooler import durable, pictures
from spooler.job import Job
from spooler.mistakes import IncompleteError, JobError, Mistake
from spooler.schedule import Waiting
from spooler.spool import Place, Spool, clean_id

#: Device-independent identity of a file's content as far as a look from outside tells: inode, size, modification time.
Signature = tuple[int, int, int]


UNSEEN: Signature = (0, 0, 0)


@dataclass(frozen=True)
class Suspect:
    """Something in pending/ that is no job: for good, or perhaps not yet (a copy that is still arriving)."""

    path: Path
    reason: str
    final: bool
    since: float


class Pending:
    """The index of pending/. Not thread-safe: each scan is one call from one thread."""

    def __init__(self, spool: Spool, decode: bool = True):
        """`decode`: whether the pictures of jobs are looked at too, which takes its time."""
        self._spool = spool
        self._decode = decode
        self._seen: dict[str, tuple[Signature, Waiting | Suspect]] = {}

    @property
    def waiting(self) -> list[Waiting]:
        return [found for _, found in self._seen.values() if isinstance(found, Waiting)]

    @property
    def suspects(self) -> list[Suspect]:
        return [found for _, found in self._seen.values() if isinstance(found, Suspect)]

    def scan(self, now: float) -> None:
        """Bring the index up to date with the folder. `now` is monotonic seconds."""
        before, self._seen = self._seen, {}
        with os.scandir(self._spool.pending) as entries:
            for entry in entries:
                if _is_candidate(entry):
                    try:
                        self._look(entry.name, Path(entry.path), before, now)
                    except FileNotFoundError:  # RACE: taken away since the listing
                        continue
                    except OSError as error:  # one that cannot be looked at must not hide the others
                        self._seen[entry.name] = (UNSEEN, self._unseen(Path(entry.path), error, before, now))

    def _unseen(
        self, path: Path, error: OSError, before: dict[str, tuple[Signature, Waiting | Suspect]], now: float
    ) -> Suspect:
        known = before.get(path.name)
        since = known[1].since if known and isinstance(known[1], Suspect) else now
        return Suspect(path, f"A job must be readable, but: {error.strerror or error}.", final=False, since=since)

    def forget(self, waiting: Waiting) -> None:
        """Drop one that was claimed, without waiting for the next scan to notice."""
        self._seen.pop(waiting.place.path.name, None)

    def _look(self, name: str, path: Path, before: dict[str, tuple[Signature, Waiting | Suspect]], now: float) -> None:
        place = Place(clean_id(name), "pending", path, is_folder=path.suffix != ".json")
        signature = _signature(place)
        known = before.get(name)
        if known and known[0] == signature:
            self._seen[name] = known
            return
        try:
            job = self._spool.read_job(place)
            found: Waiting | Suspect = Waiting(place, job, place.job_file.lstat().st_mtime, seen=now)
            if problem := self._inputs_problem(place, job):
                # Perhaps still on its way: a copy of a folder brings the files one by one.
                found = Suspect(path, problem, final=not place.is_folder, since=now)
            if _signature(place) != signature:  # it changed while it was read: look again at the next scan
                signature = UNSEEN
        except IncompleteError as error:
            found = Suspect(path, str(error), final=False, since=now)
        except (JobError, durable.UnreadableError) as error:
            found = Suspect(path, _lines(error), final=True, since=now)
        except PermissionError as error:
            found = Suspect(path, f"A job must be readable, but: {error.strerror}.", final=False, since=now)
        except FileNotFoundError:
            if not place.is_folder or not path.is_dir():
                raise
            found = Suspect(path, f"A folder in pending/ must have a job.json, but {name!a} has none.", False, now)
        self._seen[name] = (signature, found)

    def _inputs_problem(self, place: Place, job: Job) -> str | None:
        """What is wrong with the pictures that the job names; None when all are there and whole."""
        if job.inputs and not place.is_folder:
            names = ", ".join(job.inputs)
            return f"A job with pictures must be a folder in pending/ with job.json and {names} in it, but this is a file."
        if place.is_folder and (odd := self._spool.odd_entry(place, job.inputs)):
            return odd
        if not self._decode:
            return None
        for name in job.inputs:
            try:
                pictures.check(self._spool.input_file(place, name))
            except FileNotFoundError:
                return f"`{name}` must lie beside job.json, but is not there."
            except pictures.InputError as error:
                return str(error)
        return None


def _is_candidate(entry: os.DirEntry[str]) -> bool:
    """Names that may be jobs: *.json of whatever kind, and folders. The rest are others' temporary names."""
    if entry.name.startswith((".", "~", "._")):
        return False
    return entry.name.endswith(".json") or entry.is_dir(follow_symlinks=False)


def _signature(place: Place) -> Signature:
    try:
        info = place.job_file.lstat()
    except FileNotFoundError:
        if not place.is_folder:
            raise
        info = place.path.lstat()
    if place.is_folder:  # its pictures count too: they may come after job.json
        inside = [entry.stat(follow_symlinks=False) for entry in _entries(place.path)]
        newest = max((each.st_mtime_ns for each in inside), default=0)
        return (info.st_ino, sum(each.st_size for each in inside) + len(inside), max(newest, info.st_mtime_ns))
    return (info.st_ino, info.st_size, info.st_mtime_ns)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        found = list(entries)
    inputs = folder / "inputs"
    if inputs.is_dir() and not inputs.is_symlink():
        with os.scandir(inputs) as entries:
            found += list(entries)
    return found


def _lines(error: JobError | durable.UnreadableError) -> str:
    mistakes = error.mistakes if isinstance(error, JobError) else (Mistake("", str(error)),)
    return "\n".join(str(mistake) for mistake in mistakes)
