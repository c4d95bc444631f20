"""The spool: a job's folder is its state, and every change of state is one rename. All of those renames are in this file.

The table of the moves is in states.py (`python -m spooler.cli states`, docs/spool.md); each passes `Spool.move`, which holds it
to the table. Looking, which changes nothing, is in reader.py.

Nothing overwrites: a file is linked, or renamed to a name that only its owner can make. A rename is the fence: a spooler that
was taken for dead finds its folder gone, `publish` returns None, and what was adopted cannot be published twice.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from spooler import durable, states
from spooler.durable import StrPath
from spooler.ids import clean_id, new_id, versions
from spooler.place import Place
from spooler.reader import PRIORITY, RESULT, Reader, folders, mtime
from spooler.record import Record
from spooler.removal import remove
from spooler.states import FOLDERS, End
from spooler.status import Progress, SpoolerStatus

log = logging.getLogger(__name__)

#: What stays when a claimed folder is made ready for another attempt.
KEPT = frozenset({"job.json", "submitted.json", "record.json", "inputs", "cancel", "hold"})

CLAIM_LOCK_WAIT_S = 30.0
#: Seconds between two looks at a clock that stands still, and how often it is looked at.
TICK_S, TICKS = 0.004, 25
#: Beside the jobs in a spooler's folder; hidden, for a job may be named like any file that is not.
EPOCH = ".epoch"
#: What a rejected file's reason ends with, and so no rejected file.
REASON = ".reason.txt"


class SpoolError(RuntimeError):
    """The spool cannot be used as it is, or cannot do what was asked: met by the operator, the sentence says what to change."""


class TakenError(SpoolError):
    """A job of that id exists: met by whoever chose the id."""


class Spool(Reader):
    """The folders of one spool. Any number of these, in any number of processes, may work on the same folders."""

    #: The time of the "top" that was given last, in nanoseconds.
    _last_top_ns = 0

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
        except OSError as error:
            raise SpoolError(f"The spool {self.root} cannot be used: {error}.") from error
        if len(devices) > 1:
            raise SpoolError(f"The folders of the spool {self.root} must be on one file system, but are on {len(devices)}.")

    def move(self, verb: str, source: StrPath, target: StrPath, synced: bool = True) -> None:
        """One change of state. `target` is a name that only the caller can own; raises FileNotFoundError for a lost race."""
        states.check(verb, self.root, source, target)
        try:
            durable.rename(source, target, synced)
        except FileNotFoundError:
            parent = Path(target).parent
            if not durable.exists(source) or durable.exists(parent):
                raise
            # No lost race: whoever took it for one would try for ever.
            self.restore(parent)
            durable.rename(source, target, synced)

    def restore(self, folder: Path) -> None:
        """Make one of the spool's own folders that somebody removed under us. Raises OSError where that is not ours to do.

        Not pending/: who replaces it moves another to its name. The caller knows that the rest of the spool is there.
        """
        if durable.exists(folder):
            return
        if folder.parent != self.root or folder == self.pending:
            # Not FileNotFoundError, which is a lost race to whoever moves a job; it may be back soon.
            raise OSError(errno.ESTALE, "The folder is gone", str(folder))
        log.warning("%s was gone: it is made again", folder)
        durable.make_folder(folder, exist_ok=True)

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
        draft = f"{self.tmp}/{durable.unique_name()}"
        durable.write_new(draft, raw)
        try:
            job_id = self._link_as(draft, wanted_id, to) if wanted_id else self._link(draft, to)
            try:
                durable.sync_folder(self._queue(to))  # only now is it durable, and only now may the caller say so
            except OSError:
                # Not acknowledged, so better not there at all: a caller that tries again would have it twice.
                with contextlib.suppress(OSError):
                    (self._queue(to) / f"{job_id}.json").unlink()
                raise
        finally:
            _forget(draft)
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
            with contextlib.suppress(FileExistsError):
                self.link_draft(draft, job_id, to)
                return job_id

    def _link_as(self, draft: StrPath, wanted_id: str, to: Literal["pending", "held"]) -> str:
        # Under the claim lock: else a job could be claimed between the look for the id and the link.
        with self.claim_lock():
            if not self.find_by_name(wanted_id):
                with contextlib.suppress(FileExistsError):
                    self.link_draft(draft, wanted_id, to)
                    return wanted_id
        raise TakenError(f"`id` must be a new one, but a job {wanted_id!r} exists.")

    def link_draft(self, draft: StrPath, job_id: str, to: Literal["pending", "held"] = "pending") -> None:
        """Link a durable draft to pending/<id>.json; the caller has the disk keep the folder. Raises FileExistsError."""
        target = f"{self._queue(to)}/{job_id}.json"
        states.check("submit", self.root, draft, target)
        durable.link(draft, target)

    def _queue(self, state: Literal["pending", "held"]) -> Path:
        return self.pending if state == "pending" else self.held

    # -- claim, run, publish: the spooler's side -------------------------------------------------------------------------

    def claim(
        self,
        name: str,
        spooler: str,
        state: Literal["pending", "held"] = "pending",
        still: Callable[[str], bool] = lambda name: True,
        to_edit: bool = False,
    ) -> Place | None:
        """As `claim_many`, one: its place, or None for a lost race. Raises the OSError that kept it from being claimed."""
        (answer,) = self.claim_many([name], spooler, state, still, to_edit)
        if isinstance(answer, OSError):
            raise answer
        return answer

    def claim_many(
        self,
        names: Sequence[str],
        spooler: str,
        state: Literal["pending", "held"] = "pending",
        still: Callable[[str], bool] = lambda name: True,
        to_edit: bool = False,
    ) -> list[Place | OSError | None]:
        """Take these out of pending/ for this spooler in one go: one hold of the claim lock, one fsync for all their folders,
        one for all their moves.

        The answer to each: its place. None when somebody else was faster, or took it away: a lost race. Or the OSError that
        kept this one from being claimed: it is where it was. What keeps all of them from it is raised, and then none was moved;
        but after an UnsyncedError some were, and a power cut may take that back: recovery finds those that are in claimed/.

        `still` says of a name, right before its move, whether it is what was looked at: else it is a lost race, too.

        What is claimed out of held/, to be edited, is marked: whoever takes it over from the dead gives it back. `to_edit`: it
        will be given back, so the priority that somebody gave it stays.
        """
        queue, mine = f"{self.root}/{state}", f"{self.claimed}/{spooler}"
        answers: list[Place | OSError | None] = []
        with self.claim_lock():
            ids = self.free_ids(map(clean_id, names))
            claims = [_Claim(f"{queue}/{name}", f"{mine}/{job_id}") for name, job_id in zip(names, ids, strict=True)]
            moved: list[_Claim] = []
            try:
                failed = {each: error for each in claims if (error := self._make_room(each, state))}
                if any(each.is_file for each in claims):
                    durable.sync_folder(mine)  # first of all: what is moved into a folder would be lost with its name
                for name, job_id, each in zip(names, ids, claims, strict=True):
                    try:
                        if error := failed.get(each):
                            raise error
                        if not still(name):
                            raise FileNotFoundError(name)
                        self._take(each, state)
                    except FileNotFoundError:  # RACE: claimed by another spooler, cancelled, or moved away by hand
                        answers.append(None)
                    except OSError as error:
                        answers.append(error)
                    else:
                        moved.append(each)
                        answers.append(Place(job_id, "claimed", Path(each.folder), spooler))
                if moved:
                    # A new folder's own fsync comes with the first record, before which nothing is begun.
                    durable.sync_moves(queue, mine if any(not each.is_file for each in moved) else None)
            finally:
                for each in claims:
                    if each not in moved:
                        self._clear(each)
        for answer in answers:
            if isinstance(answer, Place) and not to_edit:
                _forget(f"{self.pending}/{answer.id}{PRIORITY}")
        return answers

    def _make_room(self, claim: _Claim, state: str) -> OSError | None:
        """Make the folder that a file is moved into, or see to it that there is none where a folder is moved to.

        If there is one, it has no job.json, for the id is free: left by one that was killed. Raises FileNotFoundError when the
        spooler has no folder of its own, which must not be taken for a lost race.
        """
        try:
            if claim.is_file:
                try:
                    os.mkdir(claim.folder)  # noqa: PTH102
                except FileExistsError:
                    self._discard(Path(claim.folder))
                    os.mkdir(claim.folder)  # noqa: PTH102
                if state == "held":
                    durable.write_new_if_missing(Path(claim.folder) / "hold", b"")
            elif durable.exists(claim.folder):
                self._discard(Path(claim.folder))
        except FileNotFoundError:
            raise
        except OSError as error:
            return error
        return None

    def _take(self, claim: _Claim, state: str) -> None:
        """The move itself, which the caller has synced."""
        if not claim.is_file:
            hold = Path(claim.source) / "hold"
            if state == "held":
                durable.write_new_if_missing(hold, b"")
            elif durable.exists(hold):
                hold.unlink()  # an editor's that died: it was released since
        self.move("claim", claim.source, f"{claim.folder}/job.json" if claim.is_file else claim.folder, synced=False)

    def _clear(self, claim: _Claim) -> None:
        """Remove the folder of a claim that came to nothing, unless the job is in it after all."""
        with contextlib.suppress(OSError):
            if durable.exists(claim.folder) and not durable.exists(f"{claim.folder}/job.json"):
                self._discard(Path(claim.folder))

    def give_back(self, place: Place, to: Literal["pending", "held"] = "pending") -> Place | None:
        """Put a claimed job back where it waits, as a folder. None: it was adopted by another meanwhile."""
        for name in os.listdir(place.path):  # noqa: PTH208 - the names alone
            if name in ("progress.json", "preview.jpg"):
                _forget(place.path / name)
        with self.claim_lock():
            for job_id in versions(place.id):
                target = self.root / to / job_id
                if not durable.exists(target):
                    try:
                        self.move("give back", place.path, target)
                    except FileNotFoundError:  # RACE: we were taken for dead, and another has it
                        return None
                    _forget(target / "hold")
                    return Place(job_id, to, target)
        raise AssertionError("unreachable")

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

    def _discard(self, entry: Path) -> None:
        """Remove a stranger's file or folder, by way of tmp/: where it cannot be removed it is at least out of the way."""
        if entry.name.startswith(".nfs"):
            return  # an NFS client's: it cannot be moved, and goes when whoever still reads it closes it (N9)
        aside = self.tmp / durable.unique_name()
        try:
            entry.rename(aside)
        except FileNotFoundError:
            if not entry.parent.is_dir():
                raise
            return
        with contextlib.suppress(OSError, RecursionError):
            remove(aside)

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
        _forget(target / "cancel")
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
                _forget(draft)
                _forget(reason_file)
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

    def recover(self, spooler: str, take_along: Callable[[Path, Path], object] = lambda theirs, mine: None) -> list[Place]:
        """The jobs that a dead spooler (this one's earlier life too) had claimed, now in this one's folder.

        `take_along` is called with a dead one's folder and ours, under its life lock, for what else is to be taken over.

        A function of the listing: killed anywhere in it, it does the rest the next time. The caller holds its own life lock.
        """
        mine = self.claimed / spooler
        for theirs in self.spooler_folders():
            if theirs.name != spooler and (any(folders(theirs)) or any((theirs / ".outbox").glob("*.json"))):
                self._adopt_all(theirs, mine, take_along)
        found = []
        for folder in folders(mine):
            if durable.exists(folder / "job.json"):
                found.append(Place(folder.name, "claimed", folder, spooler))
            else:
                self._discard(folder)  # killed between mkdir and rename: the job is still in pending/
        return found

    def _adopt_all(self, theirs: Path, mine: Path, take_along: Callable[[Path, Path], object]) -> None:
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
                with contextlib.suppress(FileNotFoundError):  # RACE: it lives after all, and was faster
                    if not durable.exists(folder / "job.json"):
                        self._discard(folder)
                    elif not durable.exists(mine / folder.name):
                        self.move("adopt", folder, mine / folder.name)
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
        while place := self.find(job_id):
            try:
                if place.state in ("pending", "held"):
                    return self._cancel_waiting(place)
                if place.state == "claimed":
                    (place.path / "cancel").touch()
                    durable.sync_folder(place.path)
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
            job_id = next(job_id for job_id in versions(place.id) if self._is_free_end("cancelled", job_id))
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
        _forget(self.pending / f"{place.id}{PRIORITY}")
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
                _forget(source / "cancel")
                durable.replace(source / "record.json", record.retry().encode())
                self.move("retry", source, target)
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
        return None

    def set_priority(self, job_id: str, priority: int | Literal["top"] | None) -> Place | None:
        """Give a waiting job another priority than its own, or take that back (None). Returns where it is; None: no such job.

        It is a side file, pending/<id>.priority: the job itself never changes, and a person may write one with an editor.
        """
        place = self.find(job_id)
        if place and place.state in ("pending", "held"):
            side = self.pending / f"{job_id}{PRIORITY}"
            if priority is None:
                _forget(side)
            else:
                self._draft_of(priority).replace(side)
            durable.sync_folder(self.pending)
        return place

    def _draft_of(self, priority: int | str) -> Path:
        """A draft of a side file. A later "top" is above an earlier one by their times, and a file system's clock stands still
        for milliseconds: it is written again until its time is another, or for so long that the clock must be a coarse one."""
        for attempt in range(TICKS):
            draft = self.tmp / durable.unique_name()
            durable.write_new(draft, f"{priority}\n".encode())
            at_ns = draft.stat().st_mtime_ns
            if priority != "top" or at_ns != self._last_top_ns or attempt == TICKS - 1:
                break
            _forget(draft)
            time.sleep(TICK_S)
        if priority == "top":
            self._last_top_ns = at_ns
        return draft

    def star(self, job_id: str, starred: bool) -> Place | None:
        """Mark a finished job, which spares it from retention, or take the mark away. None: no such finished job."""
        place = self.find_by_name(job_id)
        if place is None or place.state not in states.ENDS:
            return None
        if starred:
            durable.write_new_if_missing(place.path / "starred", b"")
        else:
            (place.path / "starred").unlink(missing_ok=True)
            durable.sync_folder(place.path)
        return place

    # -- telling -----------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        (self.root / "PAUSE").touch()

    def resume(self) -> None:
        _forget(self.root / "PAUSE")

    def write_progress(self, place: Place, progress: Progress) -> None:
        durable.replace_lightly(place.path / "progress.json", progress.model_dump_json().encode())

    def write_status(self, status: SpoolerStatus) -> None:
        durable.replace_lightly(self.claimed / status.spooler / "spooler.json", status.model_dump_json(indent=2).encode())

    # -- locks and upkeep ----------------------------------------------------------------------------------------------------

    def claim_lock(self) -> FileLock:
        """What is held while a job is claimed, or moved backward."""
        # A new object each time: one object may be acquired twice, even from two threads.
        return FileLock(self.root / ".claim.lock", timeout=CLAIM_LOCK_WAIT_S, fallback_to_soft=False)

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


@dataclass(frozen=True, slots=True)
class _Claim:
    """One job that is being claimed: where it waits, and the folder that it will have. In text, as `durable.StrPath` says."""

    source: str
    folder: str

    @property
    def is_file(self) -> bool:
        return self.source.endswith(".json")


def _forget(path: StrPath) -> None:
    """Remove a file that matters no more; where that fails it is only in the way, and fsck or the reaper will find it."""
    try:
        os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("cannot remove %s: %s", path, error)
