"""The spool: a job's folder is its state, and every change of state is one rename. All of those renames are in this file.

| verb    | from                          | to                               | who does it                     |
|---------|-------------------------------|----------------------------------|---------------------------------|
| submit  | tmp/<unique>                  | pending/<id>.json                | web app, command line           |
| (drop)  | anywhere                      | pending/<name>.json              | anybody with a file manager     |
| claim   | pending/<name>.json or /<id>/ | claimed/<spooler>/<id>/          | a spooler, under the claim lock |
| publish | claimed/<spooler>/<id>/       | done/ failed/ cancelled/ <id>/   | the spooler that has it         |
| adopt   | claimed/<dead>/<id>/          | claimed/<me>/<id>/               | a spooler that finds a free lock|
| cancel  | pending/ held/ <id>           | cancelled/<id>/                  | web app, command line           |
| retry   | failed/<id>/                  | pending/<id>/                    | web app, under the claim lock   |
| reject  | pending/<name>                | rejected/<name>                  | a spooler                       |

Nothing overwrites: a file is linked, or renamed to a name that only its owner can make. A rename is the fence: a spooler that
was taken for dead finds its folder gone, `publish` returns None, and what was adopted cannot be published twice.

Jobs move forward without a lock and backward (retry) only under the claim lock; so whoever looks in the order of the flow,
pending to done, cannot miss one that moves forward, and a second look finds the one that moved back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import ValidationError

from spooler import durable, job
from spooler.record import Record, iso
from spooler.status import Progress, SpoolerStatus

log = logging.getLogger(__name__)

State = Literal["pending", "held", "claimed", "done", "failed", "cancelled"]
#: In the order of the flow, which is the order to look in.
STATES: tuple[State, ...] = ("pending", "held", "claimed", "done", "failed", "cancelled")
FOLDERS = ("tmp", *STATES, "rejected")

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
#: What stays when a claimed folder is made ready for another attempt.
KEPT = frozenset({"job.json", "record.json", "inputs", "cancel"})
#: What a job's folder may have besides job.json and the pictures that it names, when it was claimed before.
OURS = frozenset({"record.json", "error.txt", "cancel", "progress.json", "preview.jpg"})
#: Names of results: of these, and no others, the web app opens files.
RESULT = re.compile(r"\d{1,4}\.png|sheet\.png")
MAX_RECORD_BYTES = 16 << 20

CLAIM_LOCK_WAIT_S = 30.0
LIFE_LOCK_WAIT_S = 5.0


class SpoolError(RuntimeError):
    """The spool cannot be used as it is, or cannot do what was asked: met by the operator, the sentence says what to change."""


class TakenError(SpoolError):
    """A job of that id exists: met by whoever chose the id."""


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


class Spool:
    """The folders of one spool. Any number of these, in any number of processes, may work on the same folders."""

    def __init__(self, root: Path):
        self.root = root
        self.tmp = root / "tmp"
        self.pending = root / "pending"
        self.claimed = root / "claimed"
        self.rejected_folder = root / "rejected"

    def create(self) -> None:
        """Make the folders that are missing. Raises SpoolError when they cannot serve as a spool."""
        try:
            for name in FOLDERS:
                (self.root / name).mkdir(parents=True, exist_ok=True)
            devices = {(self.root / name).stat().st_dev for name in FOLDERS}
            # A rename has to work between all of them, and this user has to be allowed to: try it rather than guess.
            probe = self.tmp / durable.unique_name()
            durable.write_new(probe, b"")
            probe.unlink()
        except OSError as error:
            raise SpoolError(f"The spool {self.root} cannot be used: {error}.") from error
        if len(devices) > 1:
            raise SpoolError(f"The folders of the spool {self.root} must be on one file system, but are on {len(devices)}.")

    # -- submit --------------------------------------------------------------------------------------------------------

    def submit(self, raw: bytes, wanted_id: str | None = None, inputs: Mapping[str, bytes] | None = None) -> str:
        """Put a job's bytes into pending/ and return its id. When this returns, a power cut cannot take the job back.

        `inputs` are the pictures that it names; with them it is a folder. Raises TakenError when `wanted_id` exists; OSError
        when the disk will not have it, and then nothing is in pending/.
        """
        if inputs:
            return self._submit_folder(raw, wanted_id, inputs)
        draft = self.tmp / durable.unique_name()
        durable.write_new(draft, raw)
        try:
            # With a wanted id under the claim lock: else a job could be claimed between the look for the id and the link.
            with self._claim_lock() if wanted_id else contextlib.nullcontext():
                job_id = self._link(draft, wanted_id)
            durable.sync_folder(self.pending)  # only now is it durable, and only now may the caller say so
        finally:
            draft.unlink(missing_ok=True)
        return job_id

    def _submit_folder(self, raw: bytes, wanted_id: str | None, inputs: Mapping[str, bytes]) -> str:
        """As `submit`, by one rename of a folder, which cannot overwrite one that has a job in it."""
        draft = self.tmp / durable.unique_name()
        try:
            (draft / "inputs").mkdir(parents=True)
            for name, data in inputs.items():
                durable.write_new(draft / "inputs" / name, data)
            durable.write_new(draft / "job.json", raw)
            for folder in (draft / "inputs", draft):
                durable.sync_folder(folder)
            with self._claim_lock() if wanted_id else contextlib.nullcontext():
                job_id = wanted_id or new_id()
                if wanted_id and self.find(wanted_id):
                    raise TakenError(f"`id` must be a new one, but a job {wanted_id!r} exists.")
                durable.rename(draft, self.pending / job_id)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return job_id

    def _link(self, draft: Path, wanted_id: str | None) -> str:
        """Link a draft into pending/ under a free id: link, for it fails where rename would overwrite."""
        while True:
            job_id = wanted_id or new_id()
            try:
                if wanted_id and self.find(wanted_id):
                    raise FileExistsError(wanted_id)
                os.link(draft, self.pending / f"{job_id}.json")
                return job_id
            except FileExistsError:
                if wanted_id:
                    raise TakenError(f"`id` must be a new one, but a job {wanted_id!r} exists.") from None

    # -- claim, run, publish: the spooler's side -------------------------------------------------------------------------

    def claim(self, name: str, spooler: str) -> Place | None:
        """Take pending/<name> for this spooler. None when somebody else was faster, or took it away: a lost race."""
        source = self.pending / name
        mine = self.claimed / spooler
        with self._claim_lock():
            job_id = self._free_id(clean_id(name))
            folder = mine / job_id
            try:
                if source.suffix == ".json":
                    folder.mkdir()
                    durable.rename(source, folder / "job.json")
                    durable.sync_folder(mine)
                else:
                    durable.rename(source, folder)
            except FileNotFoundError:  # RACE: claimed by another spooler, cancelled, or moved away by hand
                with contextlib.suppress(FileNotFoundError):
                    folder.rmdir()
                return None
        return Place(job_id, "claimed", folder, spooler)

    def odd_entry(self, place: Place, names: Sequence[str]) -> str | None:
        """What is wrong with the files of a job's folder: one that the job does not name, a link, a device; None: all is well.

        A folder comes from a stranger: nothing in it is opened, followed or moved before it was looked at here.
        """
        for folder, allowed in ((place.path, {"job.json", *OURS, *names}), (place.path / "inputs", set(names))):
            if folder != place.path and not os.path.lexists(folder):
                continue
            if not stat.S_ISDIR(folder.lstat().st_mode):
                return f"`{folder.name}` must be a folder, but is none."
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name == "inputs" and folder == place.path:
                        continue
                    if entry.name not in allowed and not RESULT.fullmatch(entry.name) and not entry.name.startswith("."):
                        return f"A job's folder must hold what the job names, but {entry.name!a} is none of that."
                    if not entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
                        return f"A job's folder must hold ordinary files, but {entry.name!a} is none."
        return None

    def gather_inputs(self, place: Place, names: Sequence[str]) -> None:
        """Bring the pictures that lie beside a claimed job.json into inputs/, out of the way of the results' names."""
        folder = place.path / "inputs"
        beside = [name for name in names if not (folder / name).exists() and (place.path / name).exists()]
        if beside:
            folder.mkdir(exist_ok=True)
        for name in beside:
            durable.rename(place.path / name, folder / name)

    def prepare(self, place: Place, record: Record) -> None:
        """Empty a claimed folder of an earlier attempt's results and store the record: what comes next may kill the process.

        Raises FileNotFoundError when the folder is gone: another spooler adopted it.
        """
        for entry in list(place.path.iterdir()):
            if entry.name not in KEPT:
                self._discard(entry)
        durable.replace(place.path / "record.json", record.encode())

    def _discard(self, entry: Path) -> None:
        """Remove a stranger's file or folder, by way of tmp/: where it cannot be removed it is at least out of the way."""
        aside = self.tmp / durable.unique_name()
        entry.rename(aside)
        with contextlib.suppress(OSError, RecursionError):
            _remove(aside)

    def publish(self, place: Place, record: Record, state: Literal["done", "failed", "cancelled"]) -> Place | None:
        """Show the job's end: everything in the folder is made durable, then ONE rename. None: adopted by another, drop it."""
        try:
            for entry in list(place.path.iterdir()):
                if entry.name.startswith(".") or entry.name in ("progress.json", "preview.jpg", "cancel"):
                    self._discard(entry)
            durable.replace(place.path / "record.json", record.encode())
            for entry in place.path.iterdir():
                if stat.S_ISREG(entry.lstat().st_mode):
                    with contextlib.suppress(PermissionError):  # a file that somebody else left there
                        durable.sync_file(entry)
            durable.sync_folder(place.path)
            for job_id in _versions(place.id):
                target = self.root / state / job_id
                # Nobody else makes <id> while we have it claimed, unless a person does by hand: then the next name.
                if not os.path.lexists(target):
                    durable.rename(place.path, target)
                    return Place(job_id, state, target)
        except FileNotFoundError:  # RACE: another spooler took us for dead and adopted the folder
            return None
        raise AssertionError("unreachable")

    def reject(self, source: Path, reason: str, wanted: str = "") -> str | None:
        """Set a dropped file aside in rejected/ with its reason beside it. Returns its name there; None: it was taken away."""
        wanted = wanted or source.name
        stem, suffix = (wanted[:-5], ".json") if wanted.endswith(".json") else (wanted, "")
        stem = os.fsdecode(os.fsencode(stem)[:200])  # a name as long as can be has no room for .reason.txt
        for version in _versions(stem):
            name = version + suffix
            reason_file = self.rejected_folder / f"{name}.reason.txt"
            if os.path.lexists(self.rejected_folder / name):
                continue
            try:
                # The reason first: a file without one would be a riddle. Its exclusive creation also reserves the name.
                durable.write_new(reason_file, reason.encode(errors="backslashreplace") + b"\n")
            except FileExistsError:
                continue
            try:
                durable.rename(source, self.rejected_folder / name)
            except FileNotFoundError:  # RACE: claimed, rejected by another spooler, or taken away by hand
                reason_file.unlink()
                return None
            return name
        raise AssertionError("unreachable")

    def reject_claimed(self, place: Place, reason: str) -> str | None:
        """As `reject`, for a file that turned out bad between the look at it and the claim."""
        if (place.path / "inputs").exists():
            return self.reject(place.path, reason)  # with its pictures
        name = self.reject(place.job_file, reason, f"{place.id}.json")
        self._discard(place.path)
        return name

    def recover(self, spooler: str) -> list[Place]:
        """The jobs that a dead spooler (this one's earlier life too) had claimed, now in this one's folder.

        A function of the listing: killed anywhere in it, it does the rest the next time. The caller holds its own life lock.
        """
        mine = self.claimed / spooler
        for theirs in self._folders(self.claimed):
            if theirs.name == spooler:
                continue
            lock = self.life_lock(theirs.name)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue  # alive
            try:
                for folder in self._folders(theirs):
                    if (folder / "job.json").exists() and not os.path.lexists(mine / folder.name):
                        durable.rename(folder, mine / folder.name)
            finally:
                lock.release()
        found = []
        for folder in self._folders(mine):
            if (folder / "job.json").exists():
                found.append(Place(folder.name, "claimed", folder, spooler))
            else:
                with contextlib.suppress(OSError):  # killed between mkdir and rename: the job is still in pending/
                    folder.rmdir()
        return found

    # -- cancel and retry: the web app's side ----------------------------------------------------------------------------

    def cancel(self, job_id: str) -> Place | None:
        """Cancel a job: a waiting one at once, a running one at its next step. Returns where it is then; None: no such job.

        A place in done/ or failed/ means that it was too late.
        """
        while place := self.find(job_id):
            try:
                if place.state in ("pending", "held"):
                    return self._cancel_waiting(place)
                if place.state == "claimed":
                    (place.path / "cancel").touch()
            except FileNotFoundError:  # RACE: it moved on; look where to
                continue
            return place
        return None

    def _cancel_waiting(self, place: Place) -> Place:
        record = self.read_record(place) or Record(id=place.id, queued=_mtime(place.job_file))
        for job_id in _versions(place.id):
            target = self.root / "cancelled" / job_id
            try:
                if place.is_folder:
                    if os.path.lexists(target):
                        continue
                    durable.rename(place.path, target)
                else:
                    target.mkdir()
                    try:
                        durable.rename(place.path, target / "job.json")
                    except FileNotFoundError:
                        target.rmdir()
                        raise
                    durable.sync_folder(target.parent)
            except FileExistsError:
                continue
            reason = "Cancelled while it waited."
            durable.replace(target / "record.json", record.fail("cancelled", reason).encode())
            return Place(job_id, "cancelled", target)
        raise AssertionError("unreachable")

    def retry(self, job_id: str) -> Place | None:
        """Send a failed job back to pending/ with its whole record, its attempts counted afresh. None: it is not in failed/."""
        source, target = self.root / "failed" / job_id, self.pending / job_id
        with self._claim_lock():
            place = Place(job_id, "failed", source)
            if not place.job_file.exists() or os.path.lexists(target):
                return None
            record = self.read_record(place) or Record(id=job_id)
            durable.replace(source / "record.json", record.retry().encode())
            durable.rename(source, target)
        return Place(job_id, "pending", target)

    # -- looking -----------------------------------------------------------------------------------------------------------

    def find(self, job_id: str) -> Place | None:
        """Where the job is now; None when there is no such job. It may have moved on by the time the caller looks there."""
        if not ID.fullmatch(job_id):
            return None
        return self._find_once(job_id) or self._find_once(job_id)  # the second for one that a retry moved back

    def _find_once(self, job_id: str) -> Place | None:
        for state in STATES:
            if state == "claimed":
                for theirs in self._folders(self.claimed):
                    if (theirs / job_id / "job.json").exists():
                        return Place(job_id, state, theirs / job_id, theirs.name)
                continue
            if state in ("pending", "held") and os.path.lexists(self.root / state / f"{job_id}.json"):
                return Place(job_id, state, self.root / state / f"{job_id}.json", is_folder=False)
            if (self.root / state / job_id / "job.json").exists():
                return Place(job_id, state, self.root / state / job_id)
        # Last, for it has to list: a waiting file whose name is not yet an id ("my cat.json" will be my-cat).
        return next((place for state in STATES[:2] for place in self._places(state) if place.id == job_id), None)

    def places(self, state: State) -> list[Place]:
        """All jobs of a state, those that came into it last first (waiting ones: first come first)."""
        found = [(_mtime_ns(place.path), place) for place in self._places(state)]
        found.sort(key=lambda pair: (pair[0], pair[1].id), reverse=state not in ("pending", "held"))
        return [place for _, place in found]

    def _places(self, state: State) -> Iterator[Place]:
        if state == "claimed":
            for theirs in self._folders(self.claimed):
                yield from (Place(folder.name, state, folder, theirs.name) for folder in self._folders(theirs))
            return
        with os.scandir(self.root / state) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False) and entry.name[-5:] != ".json":
                    yield Place(entry.name, state, Path(entry.path))
                elif state in ("pending", "held") and entry.name.endswith(".json"):
                    yield Place(clean_id(entry.name), state, Path(entry.path), is_folder=False)

    def rejected(self) -> list[Rejected]:
        """The files in rejected/ with their reasons, the newest first."""
        reasons = sorted(self.rejected_folder.glob("*.reason.txt"), key=_mtime_ns, reverse=True)
        found = []
        for path in reasons:
            with contextlib.suppress(FileNotFoundError):
                text = path.read_text(errors="replace").strip()
                found.append(Rejected(path.name.removesuffix(".reason.txt"), text, _mtime(path)))
        return found

    def read_job(self, place: Place) -> job.Job:
        """Raises FileNotFoundError when the job moved on, JobError or UnreadableError for a file that is no job."""
        return job.decode(durable.read_small(place.job_file, job.MAX_BYTES))

    def input_file(self, place: Place, name: str) -> Path:
        """Where a picture is that the job names: in inputs/, or beside job.json as somebody dropped it."""
        gathered = place.path / "inputs" / name
        return gathered if gathered.exists() else place.path / name

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

    def queued_at(self, place: Place) -> str:
        """When a waiting job came, for people; no decision rests on it but the order among those found at a start."""
        return _mtime(place.job_file)

    @property
    def paused(self) -> bool:
        """A file PAUSE in the spool stops claiming; what is claimed is finished."""
        return (self.root / "PAUSE").exists()

    def read_progress(self, place: Place) -> Progress | None:
        """How far a claimed job is; None before its first step."""
        try:
            return Progress.model_validate_json((place.path / "progress.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def write_progress(self, place: Place, progress: Progress) -> None:
        durable.replace_lightly(place.path / "progress.json", progress.model_dump_json().encode())

    def spoolers(self) -> list[tuple[SpoolerStatus, bool]]:
        """What each spooler last told of itself, and whether it is alive, which only its lock can say."""
        found = []
        for folder in self._folders(self.claimed):
            with contextlib.suppress(FileNotFoundError, ValidationError):
                status = SpoolerStatus.model_validate_json((folder / "spooler.json").read_bytes())
                found.append((status, self.alive(folder.name)))
        return found

    def write_status(self, status: SpoolerStatus) -> None:
        durable.replace_lightly(self.claimed / status.spooler / "spooler.json", status.model_dump_json(indent=2).encode())

    # -- locks -------------------------------------------------------------------------------------------------------------

    def life_lock(self, spooler: str) -> FileLock:
        """The lock that a spooler holds for its life: a free one means dead, with no timeout and no pid."""
        # No soft fallback: a lock that cannot be had from the kernel must fail, not pretend.
        return FileLock(self.claimed / spooler / ".lock", fallback_to_soft=False, thread_local=False)

    def alive(self, spooler: str) -> bool:
        lock = self.life_lock(spooler)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:
            return False
        lock.release()
        return False

    def _claim_lock(self) -> FileLock:
        # A new object each time: one object may be acquired twice, even from two threads.
        return FileLock(self.root / ".claim.lock", timeout=CLAIM_LOCK_WAIT_S, fallback_to_soft=False)

    # -- upkeep --------------------------------------------------------------------------------------------------------------

    def reap_tmp(self, max_age_s: float) -> int:
        """Remove what a killed writer left in tmp/. Ages are by the file system's own clock, so no host's clock decides."""
        now_file = self.tmp / durable.unique_name()
        durable.write_new(now_file, b"")
        now = now_file.stat().st_mtime
        now_file.unlink()
        old = [entry for entry in self.tmp.iterdir() if entry.name != ".gitignore" and now - _mtime_ns(entry) / 1e9 > max_age_s]
        for entry in old:
            _remove(entry)
        return len(old)

    def _free_id(self, wanted: str) -> str:
        for job_id in _versions(wanted):
            taken = any(os.path.lexists(theirs / job_id) for theirs in self._folders(self.claimed))
            if not taken and not any(os.path.lexists(self.root / state / job_id) for state in ("done", "failed", "cancelled")):
                return job_id
        raise AssertionError("unreachable")

    @staticmethod
    def _folders(parent: Path) -> list[Path]:
        try:
            with os.scandir(parent) as entries:
                return sorted(
                    Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False) and entry.name[0] != "."
                )
        except FileNotFoundError:
            return []


def new_id() -> str:
    """An id for a job from the web: it sorts by time, and 40 random bits make it new."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}-{secrets.token_hex(5)}"


def clean_id(name: str) -> str:
    """The id of a dropped file: its name without .json, with what an id may not have made into dashes."""
    stem = name
    while stem.endswith(".json"):  # an id that ends so would be taken for a file's name
        stem = stem.removesuffix(".json")
    if ID.fullmatch(stem):
        return stem
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-")[:120].rstrip("-")
    return cleaned or "job"


def _versions(wanted: str) -> Iterator[str]:
    """cat, cat-2, cat-3, ..."""
    yield wanted
    yield from (f"{wanted[:120]}-{number}" for number in count(2))


def _mtime_ns(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _mtime(path: Path) -> str:
    return iso(datetime.fromtimestamp(_mtime_ns(path) / 1e9, UTC))


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)
