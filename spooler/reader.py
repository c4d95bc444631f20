"""Looking at a spool: where a job is, what lies beside it, who works on it. Nothing here changes a job's state.

Jobs move forward without a lock and backward (retry, release, give back) only under the claim lock; so whoever looks in the
order of the flow, pending to done, cannot miss one that moves forward, and a second look finds the one that moved back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from pathlib import Path

from filelock import FileLock, lock_descriptor
from pydantic import ValidationError

from spooler import durable, job, priority, tally
from spooler.durable import StrPath
from spooler.ids import ID, clean_id, versions
from spooler.place import Place, Rejected
from spooler.record import Record, iso
from spooler.states import ENDS, STATES, State
from spooler.status import Progress, SpoolerStatus
from spooler.tally import TALLY, Tally

log = logging.getLogger(__name__)

#: What a job's folder may have besides job.json and the pictures that it names, when it was claimed before.
OURS = frozenset({"record.json", "submitted.json", "starred", "hold", "error.txt", "cancel", "progress.json", "preview.jpg"})
#: Beside the jobs in a spooler's folder.
LIFE_LOCK = ".lock"
#: Names of results: of these, and no others, the web app opens files.
RESULT = re.compile(r"\d{1,4}\.png|sheet\.png")
#: What somebody's tools may leave beside a dropped job.
MAX_HIDDEN = 100
#: Of record.json, and of what a spooler tells: a sweep has many pictures, a catalogue many LoRAs.
MAX_RECORD_BYTES = 16 << 20
#: Of what a thousand mistakes of one file come to no more is read.
MAX_REASON_BYTES = 1 << 20
MAX_PREVIEW_BYTES = 8 << 20
#: Seconds for which a job that is being edited is waited for, and between two looks.
EDIT_S, EDIT_LOOK_S = 2.0, 0.01
#: A side file in pending/: the job's priority, told apart from the job itself, which never changes.
PRIORITY = ".priority"


class Reader:
    """The folders of one spool, to look at. Any number of these, in any number of processes, on the same folders."""

    def __init__(self, root: Path):
        self.root = root
        self.tmp = root / "tmp"
        self.pending = root / "pending"
        self.held = root / "held"
        self.claimed = root / "claimed"
        self.rejected_folder = root / "rejected"
        self.batches = root / "batches"
        self._statuses: dict[Path, tuple[tuple[int, int, int], SpoolerStatus]] = {}

    # -- where a job is ----------------------------------------------------------------------------------------------------

    def find(self, job_id: str) -> Place | None:
        """Where the job is now; None when there is no such job. It may have moved on by the time the caller looks there."""
        if not ID.fullmatch(job_id):
            return None
        # The second look for one that was moved back meanwhile. Last, for it has to list: a waiting file whose name is not
        # yet an id ("my cat.json" will be my-cat).
        return (
            self.find_by_name(job_id)
            or self.find_by_name(job_id)
            or next((place for state in STATES[:2] for place in self.walk(state) if place.id == job_id), None)
        )

    def find_by_name(self, job_id: str) -> Place | None:
        """As `find`, at the names alone where a job of that id should be: never a listing, however many jobs there are."""
        if not ID.fullmatch(job_id):  # whatever somebody asks for: nothing else may become a path
            return None
        # In text: a batch asks this of each of its jobs, and pathlib took three times as long as the calls.
        for state in STATES:
            if state == "claimed":
                for theirs in self.spooler_folders():
                    if has_job(f"{theirs}/{job_id}"):
                        return Place(job_id, state, theirs / job_id, theirs.name)
                continue
            at = f"{self.root}/{state}/{job_id}"
            if state in ("pending", "held") and durable.exists(f"{at}.json"):
                return Place(job_id, state, Path(f"{at}.json"), is_folder=False)
            if has_job(at):
                return Place(job_id, state, Path(at))
        return None

    def settled(self, job_id: str) -> Place | None:
        """As `find`, but one that is being edited is waited for, a moment; longer only an editor takes that was killed."""
        end = time.monotonic() + EDIT_S
        while (place := self.find(job_id)) and place.is_edited and time.monotonic() < end:
            time.sleep(EDIT_LOOK_S)
        return place

    def places(self, state: State) -> list[Place]:
        """All jobs of a state, those that came into it last first (waiting ones: first come first)."""
        found = [(mtime_ns(place.path), place) for place in self.walk(state)]
        found.sort(key=lambda pair: (pair[0], pair[1].id), reverse=state not in ("pending", "held"))
        return [place for _, place in found]

    def read_priority(self, job_id: str) -> priority.Given:
        """What the side file of a waiting job says."""
        try:
            return priority.read(self.pending / f"{job_id}{PRIORITY}")
        except FileNotFoundError:
            return priority.Given()
        except OSError as error:
            return priority.Given(mistake=f"Its .priority file cannot be read: {error.strerror}.")

    def walk(self, state: State) -> Iterator[Place]:
        """The jobs of a state in no order, one by one as the folder is read: however many there are, none is kept."""
        if state == "claimed":
            for theirs in self.spooler_folders():
                yield from (Place(folder.name, state, folder, theirs.name) for folder in folders(theirs))
            return
        with os.scandir(self.root / state) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False) and entry.name[-5:] != ".json":
                    yield Place(entry.name, state, Path(entry.path))
                elif state in ("pending", "held") and entry.name.endswith(".json"):
                    yield Place(clean_id(entry.name), state, Path(entry.path), is_folder=False)

    def rejected(self, most: int | None = None) -> list[Rejected]:
        """The files in rejected/ with their reasons, the newest first; at most so many of them are read."""
        reasons = sorted(self.rejected_folder.glob("*.reason.txt"), key=mtime_ns, reverse=True)
        return list(islice((each for path in reasons if (each := self._rejected(path))), most))

    def _rejected(self, path: Path) -> Rejected | None:
        """None for a reason whose file was not moved here yet, or taken away again."""
        name = path.name.removesuffix(".reason.txt")
        if not durable.exists(self.rejected_folder / name):
            return None
        try:
            return Rejected(name, durable.read_small(path, MAX_REASON_BYTES).decode(errors="replace").strip(), mtime(path))
        except FileNotFoundError:
            return None
        except OSError as error:  # a stranger's link or FIFO, or closed to us
            return Rejected(name, f"Its reason cannot be read: {error.strerror or error}.", mtime(path))

    # -- what lies with a job ----------------------------------------------------------------------------------------------

    def read_job(self, place: Place) -> job.Job:
        """Raises FileNotFoundError when the job moved on, JobError or UnreadableError for a file that is no job."""
        return job.decode(durable.read_small(place.job_file, job.MAX_BYTES))

    def read_record(self, place: Place) -> Record | None:
        """What is known of the job so far; None for one that no spooler had yet."""
        if not place.is_folder:
            return None
        try:
            return Record.decode(durable.read_small(place.path / "record.json", MAX_RECORD_BYTES))
        except FileNotFoundError:
            return None
        except (ValidationError, durable.UnreadableError) as error:
            log.warning("job %s: its record.json cannot be read: %s", place.id, error)
            return None

    def read_progress(self, place: Place) -> Progress | None:
        """How far a claimed job is; None before its first step."""
        try:
            return Progress.model_validate_json(durable.read_small(place.path / "progress.json", MAX_RECORD_BYTES))
        except (OSError, ValidationError):  # RACE: replaced just now, over NFS as a stale handle: the next look has it
            return None

    def queued_at(self, place: Place) -> str:
        """When a waiting job came, for people; no decision rests on it but the order among those found at a start."""
        return mtime(place.job_file)

    def preview(self, place: Place) -> bytes:
        """A small JPEG of the picture at work; empty while there is none."""
        try:
            return durable.read_small(place.path / "preview.jpg", MAX_PREVIEW_BYTES) if place.state == "claimed" else b""
        except OSError:  # RACE: not yet, or no longer, over NFS as a stale handle; or a stranger's link
            return b""

    def has_preview(self, place: Place) -> bool:
        """Whether there is one; not in a folder that is closed to us."""
        try:
            return (place.path / "preview.jpg").exists()
        except OSError:
            return False

    def input_file(self, place: Place, name: str) -> Path:
        """Where a picture is that the job names: in inputs/, or beside job.json as somebody dropped it."""
        gathered = place.path / "inputs" / name
        is_theirs = gathered.exists() and not gathered.parent.is_symlink()  # a stranger's link may lead anywhere
        return gathered if is_theirs else place.path / name

    def odd_entry(self, place: Place, names: Sequence[str]) -> str | None:
        """What is wrong with the files of a job's folder: one that the job does not name, a link, a device; None: all is well.

        A folder comes from a stranger: nothing in it is opened, followed or moved before it was looked at here.
        """
        hidden = 0
        for folder, allowed in ((place.path, {"job.json", *OURS, *names}), (place.path / "inputs", set(names))):
            if folder != place.path and not durable.exists(folder):
                continue
            if not stat.S_ISDIR(folder.lstat().st_mode):
                return f"`{folder.name}` must be a folder, but is none."
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name == "inputs" and folder == place.path:
                        continue
                    if entry.name.startswith("."):
                        hidden += 1
                        if hidden > MAX_HIDDEN:  # each look goes over them, and nobody else needs as many
                            return f"A job's folder must hold at most {MAX_HIDDEN} hidden entries, but holds more."
                        continue
                    if entry.name not in allowed and not RESULT.fullmatch(entry.name):
                        return f"A job's folder must hold what the job names, but {entry.name!a} is none of that."
                    if not entry.is_file(follow_symlinks=False):
                        return f"A job's folder must hold ordinary files, but {entry.name!a} is none."
        return None

    # -- the whole -------------------------------------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """A file PAUSE in the spool stops claiming; what is claimed is finished."""
        return (self.root / "PAUSE").exists()

    def free_bytes(self) -> int:
        """What the file system has left for this user."""
        return shutil.disk_usage(self.root).free

    def spoolers(self) -> list[tuple[SpoolerStatus, bool]]:
        """What each spooler last told of itself, and whether it is alive, which only its lock can say."""
        found = []
        for folder in self.spooler_folders():
            with contextlib.suppress(FileNotFoundError, ValidationError, durable.UnreadableError):
                found.append((self._status(folder / "spooler.json"), self.alive(folder.name)))
        return found

    def _status(self, path: Path) -> SpoolerStatus:
        """What the file says. It is read anew when it is another: each is a new file, renamed into place."""
        info = path.stat()
        version = (info.st_ino, info.st_mtime_ns, info.st_size)
        known = self._statuses.get(path)
        if known is None or known[0] != version:
            # RACE: should it be replaced between the two, what is read is newer than its version, and is read once more.
            known = (version, SpoolerStatus.model_validate_json(durable.read_small(path, MAX_RECORD_BYTES)))
            self._statuses[path] = known
        return known[1]

    def tally(self, spooler: str) -> Tally:
        """What the spooler of that name has counted: nothing when it never did, or what lies there is no count."""
        try:
            return Tally.model_validate_json(durable.read_small(self.claimed / spooler / TALLY, tally.MAX_BYTES))
        except (OSError, ValidationError):
            return Tally()

    def spooler_folders(self) -> list[Path]:
        """The folders of claimed/, one of each spooler that ever was."""
        return folders(self.claimed)

    def life_lock(self, spooler: str) -> FileLock:
        """The lock that a spooler holds for its life: a free one means dead, with no timeout and no pid."""
        # No soft fallback: a lock that cannot be had from the kernel must fail, not pretend.
        path = self.claimed / spooler / LIFE_LOCK
        return FileLock(path, mode=self._lock_mode, fallback_to_soft=False, thread_local=False)

    @cached_property
    def _lock_mode(self) -> int:
        """Who may open the locks: whoever may write to the spool itself. Who may only read a file can hold it for ever."""
        return 0o660 if self.root.stat().st_mode & stat.S_IWGRP else 0o600

    def alive(self, spooler: str) -> bool:
        """Whether the spooler of that name holds its life lock."""
        try:
            # Only a look, which each submit takes: a FileLock, made to be held, takes ten times as long.
            fd = os.open(f"{self.claimed}/{spooler}/{LIFE_LOCK}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # a disk that fails is no death certificate
            return True
        try:
            return not lock_descriptor(fd, blocking=False)
        except OSError:
            return True
        finally:
            os.close(fd)  # which lets the lock go

    def free_ids(self, wanted: Iterable[str]) -> list[str | PermissionError]:
        """An id for each of these, its own or that with a number, which no other job has, claimed or ended, and none of the
        others here: what a claim asks, under the claim lock. Or what a folder of that name answers that is closed to us.
        """
        parents = [f"{each}" for each in (*self.spooler_folders(), *(f"{self.root}/{state}" for state in ENDS))]
        found: list[str | PermissionError] = []
        for each in wanted:
            try:
                found.append(next(job_id for job_id in versions(each) if job_id not in found and is_free(job_id, parents)))
            except PermissionError as error:
                found.append(error)
        return found


def is_free(job_id: str, parents: Iterable[str]) -> bool:
    """Whether none of these folders has a job of that id.

    A folder without a job.json is what somebody who was killed left of a claim or a cancel: it keeps no id from anybody.
    """
    return not any(durable.exists(f"{parent}/{job_id}/job.json") for parent in parents)


def folders(parent: Path) -> list[Path]:
    """The folders in a folder, by name; those that begin with a dot left out. None when it is not there."""
    try:
        with os.scandir(parent) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False) and entry.name[0] != ".")
    except FileNotFoundError:
        return []


def has_job(folder: StrPath) -> bool:
    """Whether the folder is a job's: it has a job.json, or its owner has closed it to us, which makes it nobody else's."""
    try:
        return durable.exists(f"{folder}/job.json")
    except PermissionError:
        return durable.exists(folder)  # of one that is not there a "no" must not be taken for a job (durable.exists)


def mtime_ns(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except FileNotFoundError:
        return 0


def mtime(path: Path) -> str:
    """When the file was written last, for people."""
    try:
        return iso(datetime.fromtimestamp(mtime_ns(path) / 1e9, UTC))
    except (ValueError, OverflowError):  # a time that no calendar has, which a file system may well hold
        return iso(datetime.fromtimestamp(0, UTC))
