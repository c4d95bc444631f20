"""The doorman of the drop folder: sets aside what is no job, takes files of many jobs, and submits their rows."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from spooler import durable, job
from spooler.batch_file import read_rows
from spooler.batches import MAX_BYTES, Batch, Batches, jobs_of
from spooler.dropped import OVERRIDES, Source, Suspect, has_writer, owner_of
from spooler.ids import is_text
from spooler.job import Job
from spooler.logs import event
from spooler.mistakes import IncompleteError, JobError, Mistake, printable
from spooler.pending import Pending
from spooler.reader import PRIORITY
from spooler.spool import Spool

log = logging.getLogger(__name__)

#: Seconds between two looks at what is no job yet.
LOOK_S = 1.0
#: Seconds of one turn that may go into setting aside and taking; what is left over is for the next.
WORK_S = 0.2
#: What is said of a file that is left where it is.
ALONE = f"it is not taken and stays: what comes without {OVERRIDES!r} in its name is not there"
NOBODYS = "it is not taken and stays: a job is a .json, many are a .jsonl, .csv or .txt, a picture to draw again is a .png"


@dataclass
class Expansion:
    """A batch whose rows are being submitted."""

    batch: Batch
    rows: list[Job]
    begin: int = 0


class Doorman:
    """Minds everything in pending/ that is not simply a job. A turn does little, so that the queue goes on meanwhile."""

    def __init__(self, spool: Spool, pending: Pending, check: Callable[[Job], object], grace_s: Callable[[], float]):
        """`check` raises JobError for a job that no spooler here can run; `grace_s`: seconds that a file must stay unchanged
        and unreadable before it is taken for broken."""
        self._spool = spool
        self._pending = pending
        self._check = check
        self._grace_s = grace_s
        self._batches = Batches(spool)
        self._expansions: list[Expansion] | None = None  # None: what an earlier life began is not known yet
        self._refused: set[str] = set()  # ids of batches that cannot be read, as of the last recovery
        self._next_look = float("-inf")
        self.rejected = 0  # files that were set aside, until somebody takes note
        self.lying: tuple[str, ...] = ()  # names in pending/ that nobody will take
        self._left_over = False  # the last turn had more to do than it had time for

    @property
    def busy(self) -> bool:
        return bool(self._expansions)

    def turn(self, now: float) -> None:
        """Everything there is to do now, once; OSError when the disk will not have it."""
        if now >= self._next_look:
            self._next_look = now + LOOK_S
            self._pending.look_again(now)
            self._remove_orphans(self._pending.orphans(now, self._grace_s()))
            self._tell_lying(now)
        end = time.perf_counter() + WORK_S
        self._left_over = False
        todo: list[Suspect | Source] = [*self._pending.suspects, *self._pending.sources]
        for odd in todo:
            if time.perf_counter() >= end:
                self._left_over = True
                break
            if isinstance(odd, Suspect):
                self._mind_suspect(odd, now)
            else:
                self._mind_source(odd, now)
        self._expand()

    def due(self, now: float) -> float:
        """When there is something to do, monotonic seconds."""
        if self._expansions or self._left_over:
            return now
        return self._next_look if self._pending.suspects or self._pending.sources else now + LOOK_S

    def recover(self) -> None:
        """Go on with the batches that somebody began and did not end."""
        known = {each.batch.id for each in self._expansions or ()}
        self._expansions = self._expansions or []
        refused: dict[str, Exception] = {}
        for batch in self._batches.unfinished(refused):
            if batch.id not in known:
                try:
                    self._expansions.append(Expansion(batch, self._batches.rows(batch)))
                except (JobError, durable.UnreadableError, PermissionError) as error:
                    refused[batch.id] = error
        for batch_id, why in refused.items():
            if batch_id not in self._refused:  # each is told once, not at each look
                log.error("batches/%s: cannot be read, its jobs are not all in the queue: %s", batch_id, why)
        self._refused = set(refused)

    def _tell_lying(self, now: float) -> None:
        """Say once of each file of another kind that it will stay: whoever dropped it waits for it."""
        lying = self._pending.lying(now, self._grace_s())
        for name in sorted({*lying} - {*self.lying}):
            log.warning("pending/%s: %s", printable(name), ALONE if name.endswith(OVERRIDES) else NOBODYS)
        self.lying = lying

    def _mind_suspect(self, suspect: Suspect, now: float) -> None:
        unchanged = now - suspect.since >= self._grace_s()
        if not (suspect.final or unchanged):
            return
        if has_writer(suspect.path):  # a copy that stalls is still a copy
            if unchanged:
                self._pending.patient(suspect, now)
            return
        if self._pending.confirm(suspect, now):
            self.reject(suspect.path.name, suspect.reason)

    def _mind_source(self, source: Source, now: float) -> None:
        """Take a file of many jobs once it is whole: at once when it came by a rename, or when its end can be told."""
        abandoned = now - source.since >= self._grace_s()
        picture = source.path.suffix.lower() == ".png"
        if not (source.whole or abandoned or picture):
            return
        overrides = source.path.with_name(f"{source.path.name}{OVERRIDES}")
        try:
            if has_writer(source.path) or has_writer(overrides):
                if abandoned:
                    self._pending.patient(source, now)
                return
            if not is_text(source.path.name):
                raise JobError(Mistake("", f"The file's name must be UTF-8, but is {source.path.name!a}."))
            info = source.path.stat(follow_symlinks=False)
            extra = self._read(overrides, job.MAX_BYTES) if durable.exists(overrides) else None
            rows = [row.job for row in read_rows(source.path.name, self._read(source.path, MAX_BYTES), extra)]
            for row in rows:
                self._check(row)
            name = source.path.name
            batch = self._batches.take(name, len(rows), owner_of(info.st_uid), lambda: self._pending.is_same(name))
        except IncompleteError as error:
            if abandoned:
                self._reject_source(source, str(error))
            return
        except (JobError, durable.UnreadableError) as error:
            lines = error.mistakes if isinstance(error, JobError) else (error,)
            self._reject_source(source, "\n".join(str(line) for line in lines))
            return
        except FileNotFoundError:  # RACE: withdrawn
            batch = None
        self._pending.forget(source.path.name)
        if batch:
            told = event("batch", batch=batch.id, owner=batch.owner or None, jobs=len(batch.jobs), file=batch.file)
            jobs = f"{len(batch.jobs)} job{'s' * (len(batch.jobs) > 1)}"
            log.info("batches/%s: %s of %s", batch.id, jobs, ascii(batch.file)[1:-1], extra=told)
            self._expansions = [*(self._expansions or []), Expansion(batch, jobs_of(batch, rows))]

    @staticmethod
    def _read(path: Path, max_bytes: int) -> bytes:
        """As `durable.read_small`; one that cannot be read is that file's fault alone, and must not stop the queue (P5)."""
        try:
            return durable.read_small(path, max_bytes)
        except (FileNotFoundError, durable.UnreadableError):
            raise
        except OSError as error:  # it may pass: somebody gives us leave, or the share comes back
            raise IncompleteError(Mistake("", f"{path.name!a} must be readable, but: {error.strerror}.")) from error

    def _expand(self) -> None:
        """Submit some rows of the first batch that is not all in the queue."""
        if self._expansions:
            first = self._expansions[0]
            try:
                following = self._batches.submit_some(first.batch, first.rows, first.begin)
            except PermissionError as error:  # recovery finds it again; the others go on
                log.error("batches/%s: cannot be brought into the queue just now: %s", first.batch.id, error)
                following = None
            if following is None:
                self._expansions.pop(0)
            else:
                first.begin = following

    def reject(self, name: str, reason: str) -> None:
        """Set an entry of pending/ aside; one that cannot be moved must not stop the others."""
        try:
            if aside := self._spool.reject(self._spool.pending / name, reason, still=lambda: self._pending.is_same(name)):
                self.rejected += 1
                told = event("rejected", file=aside, reason=reason)
                log.warning("rejected/%s: %s", ascii(aside)[1:-1], ascii(reason)[1:-1], extra=told)
            self._pending.forget(name)
        except OSError as error:
            log.error("cannot set %s aside: %s", ascii(name), error)

    def _reject_source(self, source: Source, reason: str) -> None:
        """Set it aside, and the overrides that came with it, which would wait for it for ever."""
        name = source.path.name
        self.reject(name, reason)
        overrides = source.path.with_name(f"{name}{OVERRIDES}")
        if not durable.exists(source.path) and durable.exists(overrides):
            try:
                self._spool.reject(overrides, f"It came with {name!a}, which was set aside.")
            except OSError as error:
                log.error("cannot set %s aside: %s", ascii(overrides.name), error)

    def _remove_orphans(self, names: Iterable[str]) -> None:
        """Remove side files whose jobs do not wait here, unless they are held: then they come back."""
        held: set[str] | None = None  # ids of those whose name is another, too, which takes a listing
        for name in names:
            job_id = name.removesuffix(PRIORITY)
            place = self._spool.find_by_name(job_id)
            if place is None or place.state not in ("pending", "held"):
                held = {each.id for each in self._spool.walk("held")} if held is None else held
                if job_id not in held:
                    with contextlib.suppress(OSError):
                        (self._spool.pending / name).unlink()
