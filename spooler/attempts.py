"""The attempts at jobs: each from its beginning to the end of the job, which is published, or to where it is to be tried again.

Beginning is a record on disk before the engine hears of the job (P4). Ending is the notices in the outbox, then one rename
(spool.py); while the disk will not have it, it is tried at each turn.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence

from spooler import estimate, messages
from spooler.durable import CLOSED_S, NO_ROOM, PASSING, UnsyncedError
from spooler.examine import Ends, Runs
from spooler.floor import Floor
from spooler.lane import Lane
from spooler.logs import event
from spooler.notices import Outbox, notices_for
from spooler.notify import Notifier
from spooler.place import Place
from spooler.record import COMPANY_DIED, UNDELIVERED, WORKER_DIED, EngineFacts, Record, Timings
from spooler.running import Running
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.states import End
from spooler.status import Progress

log = logging.getLogger(__name__)

#: Between two looks after the jobs at work, and two writings of how far one is: on a CPU each takes time from the drawing.
LOOK_S = 0.2


class Attempts:
    """Those of one spooler: at the jobs that its engines have, and the jobs that wait to be tried again."""

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        floor: Floor,
        outbox: Outbox,
        notifier: Notifier,
        owner: Callable[[str], str],
        goes_on: Callable[[], bool],
        learn: Callable[[Lane, EngineFacts], None],
    ):
        """`owner`: whose file the job with that id was; `goes_on`: whether this spooler may still commit; `learn`: is told what
        an engine tells of itself."""
        self.running: dict[str, Running] = {}  # by the jobs' ids, the oldest first
        self.again: list[Place] = []  # claimed jobs that no engine has, to be tried again; the next first
        self.speeds: dict[str, float] = {}  # seconds a megapixel-step, by model
        self.tally = spool.tally(settings.spooler)
        self._settings = settings
        self._spool = spool
        self._floor = floor
        self._outbox = outbox
        self._notifier = notifier
        self._owner_of = owner
        self._goes_on = goes_on
        self._learn = learn
        self._next_look = 0.0
        self._unwritten: dict[str, tuple[Place, Record]] = {}  # of jobs in `again`, by their ids: what the disk did not take

    def begin(self, lane: Lane, place: Place, job: Runs, now: float, work: float) -> None:
        """Give a job to an engine."""
        assert lane.warden.facts  # noqa: S101 - it has room
        lane.reserved = False  # it is begun where nothing is at work, or joins with the same key
        card = job.card
        now_true = {"model": card.name, "hash": card.hash or "", "family": card.family, "rung": None, "peak_bytes": None}
        facts = lane.warden.facts.model_copy(update=now_true)
        record = job.record.begin_attempt(job.job, facts)
        self._spool.prepare(place, record)  # on disk before the engine hears of it
        work = work or estimate.work(job.job, card)
        lane.share_out(now)
        progress = Progress(count=job.job.pictures)
        self.running[place.id] = Running(place, record, now, progress, lane, began=now, work=work, key=job.key, alone=job.alone)
        self.tally = self.tally.with_attempt(record)
        number, waited = record.attempts[-1].number, round(record.queue_seconds, 3)
        told = event("attempt", job=place.id, owner=job.owner or None, number=number, model=card.name, waited=waited)
        log.info("job %s: attempt %d", place.id, number, extra=told)
        lane.warden.send(
            messages.Run(id=place.id, folder=str(place.path), job=job.job, cells=job.cells, attempt=number, alone=job.alone)
        )

    def hear(self, lane: Lane, running: Running, message: messages.FromEngine, now: float) -> None:
        """What the engine says of a job that it has."""
        silent_s = running.sign(now)
        match message:
            case messages.Progress():
                running.advance(message, silent_s)
            case messages.ImageDone():
                running.add_image(message.image)
                if len(running.images) < running.progress.count:  # after the last one comes the job's end
                    self.look_soon()
            case messages.Finished():
                timings = _whole_timings(lane, running.record, message.timings)
                self._learn(lane, message.facts)
                took_s = max(0.0, running.device_s - message.timings.load)
                # By the name that it was begun under: a worker elsewhere may say any, and what is kept must not grow by it.
                begun = running.record.engine or message.facts
                self.speeds = estimate.learn(self.speeds, begun.model, took_s, running.work)
                running.record = running.record.finish(tuple(running.images), timings, message.facts, message.sheet)
                running.outcome = "done"
                lane.warden.recycle_if_grown(message.grown_bytes)
            case messages.Failed():
                lane.warden.recycle_if_grown(message.grown_bytes)
                if message.details:
                    self._write_error(running.place, message.details)
                if message.fatal:  # it ends by itself, but the next job must not be given to it meanwhile
                    lane.warden.kill("it met an error that no later job would survive")
                if message.errno in PASSING:
                    self.put_back(running, _of_disk(message.errno))
                    return
                running.record = running.record.fail(message.code, message.reason, message.facts)
                running.outcome = "cancelled" if message.code == "cancelled" else "failed"
                if message.fatal:  # the others had not begun, and are not to blame (P4)
                    self.put_all_back(lane.at_work, f"{UNDELIVERED}: the engine ended with the job before")
            case messages.Lost():
                died = WORKER_DIED if message.alone else COMPANY_DIED
                self.put_back(running, f"{died if message.blame else UNDELIVERED}: {message.how}")

    def put_all_back(self, lost: Sequence[Running], outcome: str) -> None:
        """As `put_back`, each of them, whatever the disk does not take; the first is the next to be tried again."""
        errors: list[OSError] = []
        for running in reversed(lost):
            try:
                self.put_back(running, outcome)
            except OSError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def put_back(self, running: Running, outcome: str) -> None:
        """End the attempt without an end of the job: it is tried again, later or as often as `outcome` allows."""
        self.running.pop(running.place.id, None)
        running.record = running.record.end_attempt(outcome)
        self.again.insert(0, running.place)
        self.tally = self.tally.with_broken()
        told = event("put_back", job=running.place.id, outcome=outcome)
        log.warning("job %s: to be tried again: %s", running.place.id, outcome, extra=told)
        if outcome == "no-room":
            self._floor.met_full_disk(time.monotonic())
        self._unwritten[running.place.id] = running.place, running.record
        self._write(running.place.id)

    def take_again(self, place: Place) -> Place:
        """One of those to be tried again, taken out; how its last attempt ended is on disk. Raises OSError."""
        self._write(place.id)
        self.again.remove(place)
        return place

    def _write(self, job_id: str) -> None:
        """Write how a job's last attempt ended, if that is not on disk. Where only its own folder is in the way, once."""
        if held := self._unwritten.pop(job_id, None):
            try:
                self._spool.prepare(*held)
            except OSError as error:
                if error.errno in PASSING:
                    self._unwritten[job_id] = held
                raise

    @property
    def is_ending(self) -> bool:
        """Whether a job has ended and is not shown yet; one whose folder is closed to us does not count."""
        return any(running.outcome and not running.is_closed for running in self.running.values())

    @property
    def is_stuck(self) -> bool:
        """Whether the disk does not take a job's end."""
        return any(running.tried and not running.is_closed for running in self.running.values())

    @property
    def due(self) -> float:
        """When `mind` has something to do, monotonic seconds: how far a job is is to be shown, or one is to be tried again."""
        at = [
            max(self._next_look, each.next_shown, each.next_try) if each.outcome is None else each.next_try
            for each in self.running.values()
            if each.outcome or each.progress != each.shown
        ]
        return min(at, default=float("inf"))

    def look_soon(self) -> None:
        """Look after the jobs at work at the next turn: one was cancelled, or has something new to be shown."""
        self._next_look = 0.0

    def mind(self, now: float) -> None:
        """Publish the jobs that ended; now and then look after those at work. What the disk does not take of one is raised
        after the others."""
        errors: list[OSError] = []
        for job_id in list(self._unwritten):
            try:
                self._write(job_id)
            except OSError as error:
                errors.append(error)
        looks = now >= self._next_look
        if looks:
            self._next_look = now + LOOK_S
        for running in list(self.running.values()):
            try:
                self._mind(running, now, looks)
            except OSError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _mind(self, running: Running, now: float, looks: bool = False) -> None:
        """As `mind`, one of them. Raises the OSError that all would meet; one of the job's own folder is told in the log."""
        if now < running.next_try:
            return
        running.is_closed = False
        try:
            if running.outcome:
                self._publish(running, running.outcome)
            elif looks:
                self._look_after(running, now)
        except OSError as error:
            if _passes(error):
                raise
            log.error("job %s: its folder cannot be used, tried again in %g s: %s", running.place.id, CLOSED_S, error)
            running.is_closed, running.next_try = True, now + CLOSED_S

    def _publish(self, running: Running, outcome: End) -> None:
        if not self._goes_on():
            return
        running.tried = True
        try:
            # The notices first: killed in between there is one too many, which is found out, and never one too few.
            self._outbox.put(notices_for(running.record, outcome, self._settings, self._owner(running)))
            place = self._spool.publish(running.place, running.record, outcome)
        except UnsyncedError as error:
            if not running.place.path.exists():  # it is shown: a power cut now may have it run and shown once more
                log.error("job %s: %s, but the disk may forget it: %s", running.place.id, outcome, error)
                self.running.pop(running.place.id, None)
                return
            if outcome != "done":
                raise
            log.error("job %s: a picture cannot be kept, it is drawn anew: %s", running.place.id, error)
            self.put_back(running, _of_disk(error.errno))
            return
        self.running.pop(running.place.id, None)
        self._notifier.wake()
        if place:
            self._count_end(running, place)
        else:
            log.info("job %s: another spooler has it", running.place.id)

    def _look_after(self, running: Running, now: float) -> None:
        """Leave a job that is another's by now, pass on a cancel, show its progress."""
        # The fence: another spooler took us for dead and has the job. Of a spool that is away `goes_on` raises.
        if not running.place.job_file.exists() and self._goes_on():
            log.error("job %s: another spooler has it", running.place.id)
            self.running.pop(running.place.id, None)
            if running.lane:
                running.lane.cancel(running)
            return
        if running.lane and not running.cancelling and (running.place.path / "cancel").exists():
            running.lane.cancel(running)
        if running.progress != running.shown and now >= running.next_shown:
            running.next_shown = now + LOOK_S * max(1.0, len(self.running) / 4)
            with contextlib.suppress(FileNotFoundError):  # RACE: adopted; the next look sees it
                self._spool.write_progress(running.place, running.progress)
                running.shown = running.progress

    def _count_end(self, running: Running, place: Place) -> None:
        assert running.outcome  # noqa: S101 - it is published
        shared = running.record.engine.shared if running.record.engine else 1
        self.tally = self.tally.with_end(running.record, running.outcome, max(running.batch, shared))
        _tell_end(place.id, running.record, running.outcome, self._owner(running))

    def _write_error(self, place: Place, details: str) -> None:
        try:
            (place.path / "error.txt").write_text(details)
        except OSError as error:
            log.warning("job %s: cannot write error.txt: %s", place.id, error)

    def end(self, place: Place, end: Ends, now: float) -> None:
        """End a job that no engine has."""
        running = self.running[place.id] = Running(place, end.record, now, Progress(), outcome=end.state)
        self._mind(running, now)

    def leave(self, running: Running) -> None:
        """Note how a job is left when the spooler stops."""
        try:
            if running.outcome:
                self._outbox.put(notices_for(running.record, running.outcome, self._settings, self._owner(running)))
                if place := self._spool.publish(running.place, running.record, running.outcome):
                    self._count_end(running, place)
            else:
                self._spool.prepare(running.place, running.record.end_attempt("stopped"))
        except OSError as error:
            log.warning("job %s: cannot note how it was left: %s", running.place.id, error)

    def _owner(self, running: Running) -> str:
        """Whose job it is: one that does not say so is whose file it was."""
        given = running.record.parameters.owner if running.record.parameters else ""
        return given or self._owner_of(running.place.id)


def _passes(error: OSError) -> bool:
    """Whether it is of the disk or the share, not of one job's folder; that the spool is away is, too."""
    return isinstance(error, FileNotFoundError) or error.errno in PASSING


def _whole_timings(lane: Lane, record: Record, measured: Timings) -> Timings:
    """With the time in the queue, and that of the engine's start, which its first job is charged with."""
    load, lane.warden.load_seconds = lane.warden.load_seconds, 0.0
    return measured.model_copy(update={"queue": record.queue_seconds, "load": measured.load + load})


def _of_disk(code: int | None) -> str:
    """How an attempt ended that met this answer of the disk."""
    return "no-room" if code in NO_ROOM else f"disk: {os.strerror(code or 0)}"


def _tell_end(job_id: str, record: Record, state: End, owner: str) -> None:
    """Log how a job ended."""
    seconds = round(record.seconds, 3)
    about = {"job": job_id, "owner": owner or None, "attempts": record.tries, "seconds": seconds}
    if state == "done":
        told = event("done", images=len(record.images), waited=round(record.queue_seconds, 3), **about)
        pictures = "1 picture" if len(record.images) == 1 else f"{len(record.images)} pictures"
        log.info("job %s: done, %s in %.1f s", job_id, pictures, seconds, extra=told)
        return
    code, reason = (record.failure.code, record.failure.reason) if record.failure else ("unknown", "")
    if state == "failed":
        log.warning("job %s: failed: %s: %s", job_id, code, reason, extra=event("failed", code=code, reason=reason, **about))
    else:
        log.info("job %s: cancelled: %s", job_id, reason, extra=event("cancelled", reason=reason, **about))
