"""The spool: a job's folder is its state, and every change of state is one rename.

The table of the moves is in states.py (`python -m spooler.cli states`, docs/spool.md); each passes `Moves.move`, which holds it
to the table. Claiming is in claims.py, what is noted on a job in marks.py; looking, which changes nothing, in reader.py.

Nothing overwrites: a file is linked, or renamed to a name that only its owner can make. A rename is the fence: a spooler that
was taken for dead finds its folder gone, `publish` returns None, and what was adopted cannot be published twice.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Literal

from filelock import Timeout

from spooler import durable, states
from spooler.claims import Claims
from spooler.durable import StrPath
from spooler.ids import new_id, versions
from spooler.logs import event
from spooler.marks import Marks
from spooler.moves import CLAIM_LOCK, forget
from spooler.place import Place
from spooler.reader import LIFE_LOCK, PRIORITY, RESULT, folders, has_job, mtime
from spooler.record import Record
from spooler.removal import remove
from spooler.states import ENDS, FOLDERS, End
from spooler.status import Progress, SpoolerStatus
from spooler.tally import TALLY, Tally

log = logging.getLogger(__name__)

#: What stays when a claimed folder is made ready for another attempt.
KEPT = frozenset({"job.json", "submitted.json", "record.json", "inputs", "starred", "cancel", "hold"})

#: Beside the jobs in a spooler's folder; hidden, for a job may be named like any file that is not.
EPOCH = ".epoch"
#: What a rejected file's reason ends with, and so no rejected file.
REASON = ".reason.txt"


class SpoolError(RuntimeError):
    """The spool cannot be used as it is, or cannot do what was asked: met by the operator, the sentence says what to change."""


class TakenError(SpoolError):
    """A job of that id exists: met by whoever chose the id."""


class Spool(Claims, Marks):
    """The folders of one spool. Any number of these, in any number of processes, may work on the same folders."""

    def create(self) -> None:
        """Make the folders that are missing. Raises SpoolError when they cannot serve as a spool."""
        try:
            if not durable.exists(self.root):
                self.root.mkdir(parents=True, exist_ok=True)
                durable.sync_folder(self.root.parent)
            for name in FOLDERS:
                (self.root / name).mkdir(exist_ok=True)
            durable.sync_folder(self.root)
            devices = {(self.root / name).stat().st_dev for name in FOLDERS}
            # A rename has to work between all of them, and this user has to be allowed to: try it rather than guess.
            probe = self.tmp / durable.unique_name()
            durable.write_new(probe, b"")
            probe.unlink()
            self._shut_locks()
        except OSError as error:
            raise SpoolError(f"The spool {self.root} cannot be used: {error}.") from error
        if len(devices) > 1:
            raise SpoolError(f"The folders of the spool {self.root} must be on one file system, but are on {len(devices)}.")

    def _shut_locks(self) -> None:
        """Take from others what an earlier version gave them: see `_lock_mode`."""
        for lock in (self.root / CLAIM_LOCK, *(folder / LIFE_LOCK for folder in self.spooler_folders())):
            with contextlib.suppress(FileNotFoundError, PermissionError):  # PermissionError: another user's
                if (mode := stat.S_IMODE(lock.lstat().st_mode)) & ~self._lock_mode and not durable.is_odd(lock):
                    lock.chmod(mode & self._lock_mode)

    # -- submit --------------------------------------------------------------------------------------------------------

    def submit(
        self,
        raw: bytes,
        wanted_id: str | None = None,
        inputs: Mapping[str, bytes] | None = None,
        to: Literal["pending", "held"] = "pending",
    ) -> str:
        """Put a job's bytes into pending/ and return its id. When this returns, a power cut cannot take the job back.

        `inputs` are the pictures that it names; with them it is a folder. Raises TakenError when `wanted_id` exists; OSError
        when the disk will not have it, and then nothing is in pending/.
        """
        if inputs:
            return self._submit_folder(raw, wanted_id, inputs, to)
        draft, queue = f"{self.tmp}/{durable.unique_name()}", f"{self.root}/{to}"
        durable.write_new(draft, raw)
        try:
            job_id = self._link_as(draft, wanted_id, to) if wanted_id else self._link(draft, to)
            try:
                durable.sync_folder(queue)  # only now is it durable, and only now may the caller say so
            except OSError:
                # Not acknowledged, so better not there at all: a caller that tries again would have it twice.
                with contextlib.suppress(OSError):
                    os.unlink(f"{queue}/{job_id}.json")  # noqa: PTH108
                raise
        finally:
            forget(draft)
        return job_id

    def _submit_folder(
        self, raw: bytes, wanted_id: str | None, inputs: Mapping[str, bytes], to: Literal["pending", "held"]
    ) -> str:
        """As `submit`, by one rename of a folder, which cannot overwrite one that has a job in it."""
        draft = self.tmp / durable.unique_name()
        try:
            (draft / "inputs").mkdir(parents=True)
            for name, data in inputs.items():
                durable.write_new(draft / "inputs" / name, data)
            durable.write_new(draft / "job.json", raw)
            for folder in (draft / "inputs", draft):
                durable.sync_folder(folder)
            with self.claim_lock() if wanted_id else contextlib.nullcontext():
                job_id = wanted_id or new_id()
                if wanted_id and self.find_by_name(wanted_id):
                    raise TakenError(f"`id` must be a new one, but a job {wanted_id!r} exists.")
                try:
                    self.move("submit", draft, self.root / to / job_id)
                except durable.UnsyncedError:  # it is there, but was not acknowledged: take it back, if nobody has it yet
                    with contextlib.suppress(OSError):
                        (self.root / to / job_id).rename(draft)
                    raise
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return job_id

    def _link(self, draft: StrPath, to: Literal["pending", "held"]) -> str:
        """Link a draft into its folder under a new id: link, for it fails where rename would overwrite."""
        while True:
            job_id = new_id()
            try:
                self.link_draft(draft, f"{job_id}.json", to)
            except FileExistsError:
                continue
            return job_id

    def _link_as(self, draft: StrPath, wanted_id: str, to: Literal["pending", "held"]) -> str:
        # Under the claim lock: else a job could be claimed between the look for the id and the link.
        with self.claim_lock():
            if not self.find_by_name(wanted_id):
                with contextlib.suppress(FileExistsError):
                    self.link_draft(draft, f"{wanted_id}.json", to)
                    return wanted_id
        raise TakenError(f"`id` must be a new one, but a job {wanted_id!r} exists.")

    def link_draft(self, draft: StrPath, name: str, to: Literal["pending", "held"] = "pending") -> None:
        """Link a durable draft to pending/<name>; the caller has the disk keep the folder. Raises FileExistsError."""
        target = f"{self.root}/{to}/{name}"
        states.check("submit", self.root, draft, target)
        durable.link(draft, target)

    # -- claim, run, publish: the spooler's side -------------------------------------------------------------------------

    def gather_inputs(self, place: Place, names: Sequence[str]) -> None:
        """Bring the pictures that lie beside a claimed job.json into inputs/, out of the way of the results' names."""
        folder = place.path / "inputs"
        beside = [name for name in names if not (folder / name).exists() and (place.path / name).exists()]
        if beside:
            durable.make_folder(folder, exist_ok=True)
        for name in beside:
            durable.sync_file(place.path / name)  # whoever dropped it did not
            durable.rename(place.path / name, folder / name)

    def prepare(self, place: Place, record: Record) -> None:
        """Empty a claimed folder of an earlier attempt's results and store the record: what comes next may kill the process.

        Raises FileNotFoundError when the folder is gone: another spooler adopted it.
        """
        for entry in list(place.path.iterdir()):
            if entry.name not in KEPT:
                self._discard(entry)
        durable.replace(place.path / "record.json", record.encode())

    def publish(self, place: Place, record: Record, state: End) -> Place | None:
        """Show the job's end: everything in the folder is made durable, then ONE rename. None: adopted by another, drop it.

        Raises UnsyncedError when a picture cannot be made durable: it must be drawn anew, for a second fsync of the same file
        would say that all is well when it is not (W5). With the folder gone it means that the job is shown, but that the disk
        may forget that it was.
        """
        try:
            for entry in list(place.path.iterdir()):
                if entry.name.startswith(".") or entry.name in ("progress.json", "preview.jpg"):
                    self._discard(entry)
            job_id = self._free_end(state, place.id)
            target = self.root / state / job_id
            durable.replace(place.path / "record.json", record.published_as(job_id).encode())
            self._sync(place, {"job.json", *record.files})
            self.move("publish", place.path, target)
        except FileNotFoundError:  # RACE: another spooler took us for dead and adopted the folder
            if place.path.is_dir():
                raise
            return None
        # Not before: a cancel that was acknowledged must outlive whoever dies here.
        forget(target / "cancel")
        return Place(job_id, state, target)

    def _sync(self, place: Place, ours: Set[str]) -> None:
        """Have the disk keep all files of a claimed folder, but those of a stranger's that we may not open.

        Their names are kept already, by the fsync of the folder with which record.json was replaced.
        """
        for entry in place.path.iterdir():
            if entry.name == "record.json" or not stat.S_ISREG(entry.lstat().st_mode):
                continue
            try:
                durable.sync_file(entry)
            except PermissionError:
                if entry.name in ours or RESULT.fullmatch(entry.name):
                    raise

    def reject(self, source: Path, reason: str, wanted: str = "", still: Callable[[], bool] = lambda: True) -> str | None:
        """Set a dropped file aside in rejected/ with its reason beside it. Returns its name there; None: it was taken away.

        `still` says, right before the move, whether the reason still holds: else it is left where it is, as in a lost race.
        """
        self.restore(self.rejected_folder)
        wanted = wanted or source.name
        stem, suffix = (wanted[:-5], ".json") if wanted.endswith(".json") else (wanted, "")
        stem = os.fsdecode(os.fsencode(stem)[:200])  # a name as long as can be has no room for .reason.txt
        if stem.endswith(REASON):
            suffix = ".dropped"  # else it would have the name of another's reason
        with self.claim_lock():  # so a reason without its file is nobody's who is still at it, and may be overwritten
            names = (version + suffix for version in versions(stem))
            name = next(name for name in names if not durable.exists(self.rejected_folder / name))
            reason_file = self.rejected_folder / f"{name}{REASON}"
            draft = self.tmp / durable.unique_name()
            # The reason first: a file without one would be a riddle.
            durable.write_new(draft, reason.encode(errors="backslashreplace") + b"\n")
            try:
                draft.replace(reason_file)
                durable.sync_folder(self.rejected_folder)
                if not still():
                    raise FileNotFoundError(source)
                self.move("reject", source, self.rejected_folder / name)
            except durable.UnsyncedError:
                raise
            except OSError as error:
                forget(draft)
                forget(reason_file)
                if isinstance(error, FileNotFoundError):
                    return None  # RACE: claimed, rejected by another spooler, or taken away by hand
                raise
        return name

    def reject_claimed(self, place: Place, reason: str) -> str | None:
        """As `reject`, for a file that turned out bad between the look at it and the claim."""
        if (place.path / "inputs").exists():
            return self.reject(place.path, reason)  # with its pictures
        name = self.reject(place.job_file, reason, f"{place.id}.json")
        self._discard(place.path)
        return name

    def recover(
        self,
        spooler: str,
        take_along: Callable[[Path, Path], object] = lambda theirs, mine: None,
        closed: list[PermissionError] | None = None,
    ) -> list[Place]:
        """The jobs that a dead spooler (this one's earlier life too) had claimed, now in this one's folder.

        `take_along` is called with a dead one's folder and ours, under its life lock, for what else is to be taken over.

        A folder that its owner has closed to us stays where it is, and keeps no other from being taken over: what it answers is
        put into `closed`; without that the first is raised in the end.

        A function of the listing: killed anywhere in it, it does the rest the next time. The caller holds its own life lock.
        """
        mine = self.claimed / spooler
        refused: list[PermissionError] = [] if closed is None else closed
        for theirs in self.spooler_folders():
            if theirs.name != spooler and (any(folders(theirs)) or any((theirs / ".outbox").glob("*.json"))):
                self._adopt_all(theirs, mine, take_along, refused)
        found = []
        for folder in folders(mine):
            try:
                if durable.exists(folder / "job.json"):
                    found.append(Place(folder.name, "claimed", folder, spooler))
                else:
                    self._discard(folder)  # killed between mkdir and rename: the job is still in pending/
            except PermissionError as error:
                refused.append(error)
        if refused and closed is None:
            raise refused[0]
        return found

    def _adopt_all(
        self, theirs: Path, mine: Path, take_along: Callable[[Path, Path], object], refused: list[PermissionError]
    ) -> None:
        """Move the jobs of a spooler whose life lock is free into ours, and tell it, should it live after all."""
        lock = self.life_lock(theirs.name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return  # alive
        try:
            # First the epoch: one that only lost its lease must claim and publish nothing more (N8).
            self.raise_epoch(theirs.name)
            for folder in folders(theirs):
                try:
                    if not durable.exists(folder / "job.json"):
                        self._discard(folder)
                    elif not durable.exists(mine / folder.name):
                        self.move("adopt", folder, mine / folder.name)
                except FileNotFoundError:  # RACE: it lives after all, and was faster
                    pass
                except PermissionError as error:
                    refused.append(error)
            take_along(theirs, mine)
        finally:
            lock.release()

    # -- the epoch: what a spooler that was taken for dead cannot miss ---------------------------------------------------------

    def raise_epoch(self, spooler: str) -> int:
        """Begin a new epoch of that spooler, durably, and return its number. The caller holds its life lock."""
        epoch = self.epoch(spooler) + 1
        durable.replace(self.claimed / spooler / EPOCH, f"{epoch}\n".encode())
        return epoch

    def epoch(self, spooler: str) -> int:
        """The spooler's epoch; 0 before its first. A number that nobody can read counts as the first, so that it goes on."""
        try:
            return int(durable.read_small(self.claimed / spooler / EPOCH, 32))
        except FileNotFoundError:
            return 0
        except ValueError:
            log.warning("claimed/%s/%s is no number", spooler, EPOCH)
            return 0

    # -- what people do to jobs ------------------------------------------------------------------------------------------

    def cancel(self, job_id: str) -> Place | None:
        """Cancel a job: a waiting one at once, a running one at its next step. Returns where it is then; None: no such job.

        A place in done/ or failed/ means that it was too late.
        """
        while place := self.settled(job_id):
            try:
                if place.state in ("pending", "held"):
                    return self._cancel_waiting(place)
                if place.state == "claimed":
                    (place.path / "cancel").touch()
                    durable.sync_folder(place.path)
                    log.info("job %s: is to be cancelled", place.id, extra=event("cancel", job=place.id))
            except FileNotFoundError:  # RACE: it moved on; look where to
                continue
            return place
        return None

    def _cancel_waiting(self, place: Place) -> Place:
        """Under the claim lock. The record first, so that a cancelled job always has one; then one rename of the job.

        Raises FileNotFoundError when it was claimed, or moved by hand: a lost race.
        """
        record = self.read_record(place) or Record(id=place.id, queued=mtime(place.job_file))
        record = record.fail("cancelled", "Cancelled while it waited.")
        with self.claim_lock():
            # Free everywhere, as at a claim: of two with one id everybody would find but one.
            others = [f"{each}" for each in (*self.spooler_folders(), *(f"{self.root}/{state}" for state in ENDS))]
            job_id = next(
                job_id
                for job_id in versions(place.id)
                if self._is_free_end("cancelled", job_id) and not any(has_job(f"{each}/{job_id}") for each in others)
            )
            target = self.root / "cancelled" / job_id
            encoded = record.published_as(job_id).encode()
            if place.is_folder:
                durable.replace(place.path / "record.json", encoded)
                self.move("cancel", place.path, target)
            else:
                self.restore(target.parent)
                durable.make_folder(target)
                try:
                    durable.replace(target / "record.json", encoded)
                    self.move("cancel", place.path, target / "job.json")
                except durable.UnsyncedError:
                    raise
                except OSError:
                    with contextlib.suppress(OSError):
                        self._discard(target)
                    raise
        forget(self.pending / f"{place.id}{PRIORITY}")
        log.info("job %s: cancelled while it waited", job_id, extra=event("cancelled", job=job_id))
        return Place(job_id, "cancelled", target)

    def _free_end(self, state: End, wanted: str) -> str:
        """The id under which a claimed job ends: nobody else makes its own, unless a person does by hand, and then the next.

        Under the claim lock when there is something of that name: it may be what a canceller is making just now, or has left.
        """
        if not durable.exists(self.root / state / wanted):
            return wanted
        with self.claim_lock():
            return next(job_id for job_id in versions(wanted) if self._is_free_end(state, job_id))

    def _is_free_end(self, state: End, job_id: str) -> bool:
        """Whether that id is free there, under the claim lock; what a canceller left there without a job is cleared away."""
        target = self.root / state / job_id
        if durable.exists(target) and not durable.exists(target / "job.json"):
            if not {entry.name for entry in target.iterdir()} <= {"record.json"}:
                return False  # put there by hand
            self._discard(target)
        return not durable.exists(target)

    def retry(self, job_id: str) -> Place | None:
        """Send a failed or cancelled job back to pending/ with its whole record, its attempts counted afresh. None: it is
        in neither."""
        target = self.pending / job_id
        with self.claim_lock():
            for state in ("failed", "cancelled"):
                source = self.root / state / job_id
                place = Place(job_id, state, source)
                waits = durable.exists(target) or durable.exists(self.pending / f"{job_id}.json")
                if waits or not durable.exists(place.job_file):
                    continue
                record = self.read_record(place) or Record(id=job_id)
                forget(source / "cancel")
                durable.replace(source / "record.json", record.retry().encode())
                self.move("retry", source, target)
                log.info("job %s: sent back to the queue", job_id, extra=event("retried", job=job_id))
                return Place(job_id, "pending", target)
        return None

    def hold(self, job_id: str) -> Place | None:
        """Keep a waiting job from being claimed. Returns where it is then; None: no such job. Another state: too late."""
        return self._between(job_id, "hold", "pending", "held")

    def release(self, job_id: str) -> Place | None:
        """Let a held job go on. Returns where it is then; None: no such job. Another state: it was not held."""
        return self._between(job_id, "release", "held", "pending")

    def _between(self, job_id: str, verb: str, source: Literal["pending", "held"], target: str) -> Place | None:
        while place := self.find(job_id):
            if place.state != source:
                return place
            with self.claim_lock():
                moved = self.root / target / place.path.name
                if durable.exists(moved) and durable.exists(place.path):  # else somebody else just did it
                    raise TakenError(
                        f"{target}/ has an entry {place.path.name!a} already, so job {job_id!r} stays in {source}/."
                    )
                with contextlib.suppress(FileNotFoundError):  # RACE: claimed, cancelled, or moved by hand: look where
                    self.move(verb, place.path, moved)
                    done = {"hold": "held", "release": "released"}[verb]
                    log.info("job %s: %s", job_id, done, extra=event(done, job=job_id))
        return None

    # -- telling -----------------------------------------------------------------------------------------------------------

    def write_progress(self, place: Place, progress: Progress) -> None:
        durable.replace_lightly(place.path / "progress.json", progress.model_dump_json().encode())

    def write_status(self, status: SpoolerStatus) -> None:
        durable.replace_lightly(self.claimed / status.spooler / "spooler.json", status.model_dump_json(indent=2).encode())

    def write_tally(self, spooler: str, counted: Tally) -> None:
        durable.replace_lightly(self.claimed / spooler / TALLY, counted.model_dump_json().encode())

    # -- locks and upkeep ----------------------------------------------------------------------------------------------------

    def reap_tmp(self, max_age_s: float) -> int:
        """Remove what a killed writer left in tmp/. Ages are by the file system's own clock, so no host's clock decides.

        Raises the first OSError of those that cannot be removed, when all others are.
        """
        now_file = self.tmp / durable.unique_name()
        durable.write_new(now_file, b"")
        now = now_file.stat().st_mtime
        now_file.unlink()
        reaped = 0
        failed: OSError | None = None
        for entry in self.tmp.iterdir():
            try:
                if entry.name != ".gitignore" and now - entry.lstat().st_mtime > max_age_s:
                    remove(entry)
                    reaped += 1
            except FileNotFoundError:  # RACE: another reaper, or its writer after all
                continue
            except OSError as error:  # one that cannot be removed must not keep the others
                failed = failed or error
        if failed:
            raise failed
        return reaped
