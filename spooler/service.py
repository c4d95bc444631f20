"""The spooler: claims jobs, feeds its engines as many as each can draw together, watches over them, publishes what comes of it.

One turn of the loop is `Service.turn`; it never waits. What happened since the last turn lies in the inbox: messages of the
engine, its death, and hints that the spool changed.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue

from spooler import estimate, messages
from spooler import lane as lanes
from spooler.catalogue import Catalogue
from spooler.child import Child, Gone
from spooler.denylist import DenyList
from spooler.durable import UnsyncedError
from spooler.examine import Ends, Examiner, GoesBack, Runs, SetAside
from spooler.floor import Floor
from spooler.intake import LOOK_S, Intake
from spooler.lane import Lane
from spooler.life import Life
from spooler.logs import event
from spooler.neighbours import Neighbours
from spooler.notices import OUTBOX, Outbox, adopt, notices_for
from spooler.notify import Notifier
from spooler.place import Place
from spooler.record import COMPANY_DIED, UNDELIVERED, WORKER_DIED, EngineFacts, Record, Timings, utc_now
from spooler.retention import Retention
from spooler.running import Running
from spooler.schedule import Waiting
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.states import FOLDERS, End
from spooler.status import Progress, SpoolerStatus
from spooler.watch import Hint

log = logging.getLogger(__name__)

BEAT_S = 2.0
PROGRESS_S = 0.2
RECOVER_S = 10.0
REAP_S = 3600.0
POLL_S = 1.0
#: Jobs whose conditions can never be met that are claimed in one go. Should we die then, so many are looked at once more.
HOPELESS_AT_ONCE = 8

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
#: What will be otherwise when there is room, or the share is back: to be tried again, no job is given up for it.
PASSING = NO_ROOM | {
    *(errno.EIO, errno.ESTALE, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT, errno.EAGAIN)
}


class Service:
    """One spooler. Everything here happens in one thread but the putting into `inbox`."""

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        catalogue: Catalogue,
        deny_list: DenyList,
        life: Life,
        start_engine: Callable[[Service, Settings], Child],
    ):
        """`start_engine`: that of one lane, for the settings with the lane's device."""
        self.settings = settings
        self.spool = spool
        self.catalogue = catalogue
        self.deny_list = deny_list
        self.inbox: SimpleQueue[tuple[Child, messages.FromEngine | Gone] | Hint] = SimpleQueue()
        self.stopping = False
        self.fenced = False  # another spooler took this one for dead, and has its jobs
        self.running: dict[str, Running] = {}  # by the jobs' ids, the oldest first
        self._life = life
        self._outbox = Outbox(spool.claimed / settings.spooler / OUTBOX)
        self._notifier = Notifier(settings, spool, self._outbox)
        self.intake = Intake(settings, spool, lambda: self.catalogue, deny_list, self.inbox.put)
        self._floor = Floor(spool, settings.floor_mib)
        self._retention = Retention(spool, settings)
        self._next_retention = 0.0
        self._speeds: dict[str, float] = {}  # seconds a megapixel-step, by model
        self.lanes = tuple(
            Lane(each, self.running, lambda each=each: start_engine(self, each))  # type: ignore[misc]
            for each in settings.of_lanes()
        )
        self._neighbours = Neighbours(spool, settings.spooler)
        self._examiner = Examiner(settings, spool, self.intake, deny_list)
        self._recovered: list[Place] = []
        self._hopeless: deque[tuple[Waiting, Place, str]] = deque()  # claimed, to be ended for that reason
        self._hashes: dict[str, str] = {}  # of the models that this engine has loaded
        self._left: set[str] = set()  # claimed jobs that cannot be moved
        self._next_recover = self._next_beat = self._next_reaping = 0.0
        self._told: SpoolerStatus | None = None
        self._tally = self._counted = spool.tally(settings.spooler)
        self._started = utc_now()

    # -- the loop ------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Turn until told to stop, or until the engine says that it can never work here (then `refused` says why)."""
        self._notifier.start()
        while not (self.stopping or self.refused or self.fenced):
            try:
                self.turn(time.monotonic())
                self._wait()
            except OSError as error:
                # A full disk, a share that went away: nothing is lost by waiting, and a crash would not mend it.
                log.error("the spool cannot be used just now: %s", error)
                time.sleep(POLL_S)
            except Exception:
                log.exception("a turn went wrong")
                time.sleep(POLL_S)
        self.close()

    def stop(self) -> None:
        """From a signal handler: only a flag, and a wake-up that is safe there (SimpleQueue.put is reentrant)."""
        self.stopping = True
        self.inbox.put(Hint())

    def turn(self, now: float) -> None:
        """Everything there is to do now, once."""
        self._read_inbox(now)
        for lane in self.lanes:
            lane.mind(now)
        for running in list(self.running.values()):
            self._mind_running(running, now)
        self.intake.look(now)
        self._end_hopeless(now)
        if now >= self._next_recover:
            self._recover()
            self._next_recover = now + RECOVER_S
        self._end_unwanted(now)
        self._feed(now)
        if now >= self._next_retention:
            more = self._retention.turn(LOOK_S / 4, clock_steady=self.intake.clock.now() is not None)
            self._next_retention = now + (POLL_S / 4 if more else RECOVER_S)
        if now >= self._next_reaping:
            self._next_reaping = now + REAP_S
            self._reap()
        self._tell(now)

    def close(self) -> None:
        """End the engines at their next step. A job that one had stays claimed for the next start; the try does not count."""
        self.intake.stop()
        for lane in self.lanes:
            lane.warden.stop()
        for lane in self.lanes:
            lane.warden.close()
        self._notifier.stop()
        self._retention.close()
        for running in () if self.fenced else self.running.values():
            self._leave(running)
        self.running.clear()
        self._told = None
        try:
            self._tell(time.monotonic(), stopped=True)
        except OSError as error:
            log.warning("it cannot be told that the spooler stops: %s", error)

    def _leave(self, running: Running) -> None:
        """Note how a job is left when the spooler stops."""
        try:
            if running.outcome:
                self._outbox.put(notices_for(running.record, running.outcome, self.settings, self._owner(running)))
                if place := self.spool.publish(running.place, running.record, running.outcome):
                    self._count_end(running, place)
            else:
                self.spool.prepare(running.place, running.record.end_attempt("stopped"))
        except OSError as error:
            log.warning("job %s: cannot note how it was left: %s", running.place.id, error)

    def _wait(self) -> None:
        """Sleep until something is in the inbox or the next thing is due."""
        now = time.monotonic()
        due = min(self._next_recover, self._next_beat, self._next_retention, self.intake.due(now))
        due = min(due, *(lane.due() for lane in self.lanes))
        wait_s = min(max(0.0, due - now), POLL_S)
        try:
            event = self.inbox.get(timeout=wait_s)
        except Empty:
            return
        self._receive(event, time.monotonic())

    def _read_inbox(self, now: float) -> None:
        while True:
            try:
                event = self.inbox.get_nowait()
            except Empty:
                return
            self._receive(event, now)

    # -- the engines ---------------------------------------------------------------------------------------------------------

    @property
    def refused(self) -> str | None:
        """An engine's reason why it can never work here."""
        return next((lane.warden.refused for lane in self.lanes if lane.warden.refused), None)

    def _owner(self, running: Running) -> str:
        """Whose job it is: one that does not say so is whose file it was."""
        given = running.record.parameters.owner if running.record.parameters else ""
        return given or self.intake.owner(running.place.id)

    def _receive(self, event: tuple[Child, messages.FromEngine | Gone] | Hint, now: float) -> None:
        if isinstance(event, Hint):
            self.intake.hear(event, now)
            return
        child, message = event
        lane = next((lane for lane in self.lanes if lane.warden.child is child), None)
        if lane is None:
            return  # of an engine that was given up
        match message:
            case Gone():
                # The attempt that it took along is counted: the job runs again, or fails after the last one. Of several jobs
                # nobody knows which was the reason: none is blamed, and each is tried again, alone (P4).
                lost = [] if self.stopping else lane.at_work
                how = lane.warden.gone(message, now, bool(lane.at_work), self.stopping)
                for running in reversed(lost):
                    self._put_back(running, f"{COMPANY_DIED if len(lost) > 1 else WORKER_DIED}: {how}")
            case messages.OfItself():
                lane.warden.hear(message)
                if isinstance(message, messages.Ready):
                    self._learn(lane, message.facts)
            case _:
                told = self.running.get(message.id)
                if told and told.lane is lane and not told.outcome:
                    lane.share_out(now)
                    self._hear_of_job(lane, told, message, now)

    def _learn(self, lane: Lane, facts: EngineFacts) -> None:
        """Note what an engine told of itself and of the model that it ran."""
        lane.warden.facts = facts
        self._hashes[facts.model] = facts.hash
        cards = [card.model_copy(update={"hash": self._hashes.get(card.name, card.hash)}) for card in self.catalogue.models]
        self.catalogue = self.catalogue.model_copy(update={"models": tuple(cards)})

    # -- the running job -----------------------------------------------------------------------------------------------------

    def _hear_of_job(self, lane: Lane, running: Running, message: messages.FromEngine, now: float) -> None:
        silent_s = running.sign(now)
        match message:
            case messages.Progress():
                running.advance(message, silent_s)
            case messages.ImageDone():
                running.add_image(message.image)
            case messages.Finished():
                timings = _whole_timings(lane, running.record, message.timings)
                self._learn(lane, message.facts)
                took_s = max(0.0, running.device_s - message.timings.load)
                self._speeds = estimate.learn(self._speeds, message.facts.model, took_s, running.work)
                running.record = running.record.finish(tuple(running.images), timings, message.facts, message.sheet)
                running.outcome = "done"
                lane.warden.recycle_if_grown(message.grown_bytes)
            case messages.Failed():
                lane.warden.recycle_if_grown(message.grown_bytes)
                if message.details:
                    self._write_error(running.place, message.details)
                if message.fatal:  # it ends by itself, but the next job must not be given to it meanwhile
                    lane.warden.kill("it met an error that no later job would survive")
                if message.no_room:
                    self._put_back(running, "no-room")
                    return
                running.record = running.record.fail(message.code, message.reason, message.facts)
                running.outcome = "cancelled" if message.code == "cancelled" else "failed"
            case messages.Lost():
                died = WORKER_DIED if message.alone else COMPANY_DIED
                self._put_back(running, f"{died if message.blame else UNDELIVERED}: {message.how}")

    def _put_back(self, running: Running, outcome: str) -> None:
        """End the attempt without an end of the job: it is tried again, later or as often as `outcome` allows."""
        self.running.pop(running.place.id, None)
        running.record = running.record.end_attempt(outcome)
        self._recovered.insert(0, running.place)
        self._tally = self._tally.with_broken()
        told = event("put_back", job=running.place.id, outcome=outcome)
        log.warning("job %s: to be tried again: %s", running.place.id, outcome, extra=told)
        if outcome == "no-room":
            self._floor.met_full_disk(time.monotonic())
        self.spool.prepare(running.place, running.record)

    def _mind_running(self, running: Running, now: float) -> None:
        """Publish a job that ended, pass on a cancel, show progress."""
        if running.outcome:
            if not self._goes_on():
                return
            try:
                # The notices first: killed in between there is one too many, which is found out, and never one too few.
                self._outbox.put(notices_for(running.record, running.outcome, self.settings, self._owner(running)))
                place = self.spool.publish(running.place, running.record, running.outcome)
            except UnsyncedError as error:
                if not running.place.path.exists():  # it is shown: a power cut now may have it run and shown once more
                    log.error("job %s: %s, but the disk may forget it: %s", running.place.id, running.outcome, error)
                    self.running.pop(running.place.id, None)
                    return
                if running.outcome != "done":
                    raise
                log.error("job %s: a picture cannot be kept, it is drawn anew: %s", running.place.id, error)
                self._put_back(running, "no-room" if error.errno in NO_ROOM else f"disk: {error.strerror}")
                return
            self.running.pop(running.place.id, None)
            self._notifier.wake()
            if place:
                self._count_end(running, place)
            else:
                log.info("job %s: another spooler has it", running.place.id)
            return
        if not running.place.job_file.exists():  # the fence: another spooler took us for dead and has the job
            log.error("job %s: another spooler has it", running.place.id)
            self.running.pop(running.place.id, None)
            if running.lane:
                running.lane.cancel(running)
            return
        if running.lane and not running.cancelling and (running.place.path / "cancel").exists():
            running.lane.cancel(running)
        if now - running.progress_written >= PROGRESS_S * max(1.0, len(self.running) / 4):
            running.progress_written = now
            try:
                self.spool.write_progress(running.place, running.progress)
            except FileNotFoundError:  # RACE: adopted; the next turn sees it
                return

    def _count_end(self, running: Running, place: Place) -> None:
        assert running.outcome  # noqa: S101 - it is published
        shared = running.record.engine.shared if running.record.engine else 1
        self._tally = self._tally.with_end(running.record, running.outcome, max(running.batch, shared))
        _tell_end(place.id, running.record, running.outcome, self._owner(running))

    def _write_error(self, place: Place, details: str) -> None:
        try:
            (place.path / "error.txt").write_text(details)
        except OSError as error:
            log.warning("job %s: cannot write error.txt: %s", place.id, error)

    # -- the queue -----------------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        try:
            self.spool.reap_tmp(self.settings.tmp_max_age_s)
        except OSError as error:
            log.warning("tmp/ cannot be cleared just now: %s", error)

    def _recover(self) -> None:
        """Take over what dead spoolers had claimed, this one's earlier life among them."""
        held = {place.id for place in self._recovered} | set(self.running)
        held |= {place.id for _, place, _ in self._hopeless}
        for place in self.spool.recover(self.settings.spooler, adopt):
            if place.id not in held | self._left:
                log.info("job %s: recovered", place.id, extra=event("recovered", job=place.id))
                self._recovered.append(place)
        self._notifier.wake()
        if self._life.goes_on():  # so the spool is there, and not the empty place where it was mounted
            for name in FOLDERS:
                if name != "pending":
                    self.spool.restore(self.spool.root / name)
        self.intake.recover()

    def _feed(self, now: float) -> None:
        """Give warm engines jobs while they have room: those that were recovered, else the next in pending/."""
        while not self.stopping and any(lane.room for lane in self.lanes):
            if any(running.outcome for running in self.running.values()):  # one whose end the disk does not take
                return
            if not self._floor.has_room(now) or not self._goes_on():
                return
            if self._recovered and not any(lane.is_draining for lane in self.lanes):
                self._begin_or_fail(self._recovered.pop(0), now)
            elif self.spool.paused or not self._claim_next(now):
                return

    def _claim_next(self, now: float) -> bool:
        """Claim the jobs that are next, as many as an engine can take, and begin them. False when none may run."""
        for lane in sorted((lane for lane in self.lanes if lane.room), key=lambda lane: len(lane.at_work)):
            # The first is chosen by itself, and then those that are like it.
            key, most, model = lane.key, lane.room, lane.model or ""
            elsewhere: frozenset[str] = frozenset()
            if lane.is_remote:
                key, model = None, ""  # each may go to another worker
            elif key is None:
                most, elsewhere = 1, self._neighbours.warm(now)
            if chosen := self.intake.choose(model, now, most, key, elsewhere):
                for waiting, place in self.intake.claim(chosen):
                    self._begin_or_fail(place, now, given_name=waiting.name, work=waiting.work)
                return True
        return False

    def _end_hopeless(self, now: float) -> None:
        """End the jobs whose conditions can never be met any more: one that ends at a time, while nothing else does."""
        until = time.perf_counter() + LOOK_S  # a hundred thousand of them must not keep a job that can run (P5)
        while not any(running.outcome for running in self.running.values()) and self._goes_on():
            if not self._hopeless and self.intake.hopeless and time.perf_counter() < until:
                self._hopeless.extend(self.intake.claim_hopeless(HOPELESS_AT_ONCE))
            if not self._hopeless:
                return
            waiting, place, why = self._hopeless[0]
            end = self._examiner.hopeless(place, waiting.name, why)
            self._hopeless.popleft()  # from here on it is what runs, until it is shown
            self._end(place, end, now)

    def _end_unwanted(self, now: float) -> None:
        """End the jobs that wait for another try and are not wanted any more: there may be no room for one for long."""
        for place in [place for place in self._recovered if (place.path / "cancel").exists()]:
            if any(running.outcome for running in self.running.values()) or not self._goes_on():
                return
            self._recovered.remove(place)
            self._begin_or_fail(place, now)

    def _goes_on(self) -> bool:
        """Whether this spooler may still commit; else it stops, for another took it for dead (N8)."""
        if not self._life.goes_on():
            log.error("another spooler took this one for dead and has its jobs; starting anew")
            self.fenced = True
        return not self.fenced

    def _begin_or_fail(self, place: Place, now: float, given_name: str = "", work: float = 0.0) -> None:
        """As `_begin`; a job that this program stumbles over ends in failed/, and the queue goes on."""
        try:
            self._begin(place, now, given_name, work)
        except Exception as error:
            if isinstance(error, FileNotFoundError) and not place.job_file.exists():
                log.error("job %s: another spooler has it", place.id)  # RACE: adopted meanwhile
                return
            if isinstance(error, OSError) and error.errno in PASSING:
                self._recovered.insert(0, place)
                raise
            log.exception("job %s: cannot be begun", place.id)
            self._give_up(place, f"The spooler could not begin this job: {error!r}"[:1000], now)

    def _give_up(self, place: Place, reason: str, now: float) -> None:
        """End a job that cannot be begun; one that cannot even be ended is left where it is, and told of in the log."""
        try:
            self._end(place, self._examiner.stumbled(place, reason), now)
        except OSError as error:
            if error.errno in PASSING:
                raise
            log.error("job %s: left in %s, it cannot be moved: %s", place.id, place.path, error)
            self.running.pop(place.id, None)
            self._left.add(place.id)

    def _begin(self, place: Place, now: float, given_name: str, work: float) -> None:
        """Start a claimed job's next attempt, or do with it what else is its due."""
        match self._examiner.examine(place, self.catalogue, given_name):
            case GoesBack(to=to):
                self.spool.give_back(place, to)
            case SetAside(reason=reason):
                if name := self.spool.reject_claimed(place, reason):
                    self._tally = self._tally.with_rejected()
                    told = event("rejected", job=place.id, file=name, reason=reason)
                    log.warning("rejected/%s: %s", name, ascii(reason)[1:-1], extra=told)
            case Ends() as end:
                self._end(place, end, now)
            case Runs() as job:
                if lane := lanes.best(self.lanes, job.key, job.card.name):
                    self._start(lane, place, job, now, work)
                else:  # it is its turn, but it may not be drawn with those that are at work
                    self._recovered.insert(0, place)
                    min(self.lanes, key=lambda lane: len(lane.at_work)).reserved = True

    def _start(self, lane: Lane, place: Place, job: Runs, now: float, work: float) -> None:
        """Give a job to an engine."""
        assert lane.warden.facts  # noqa: S101 - it has room
        lane.reserved = False  # it is begun where nothing is at work, or joins with the same key
        card = job.card
        now_true = {"model": card.name, "hash": card.hash or "", "family": card.family, "rung": None, "peak_bytes": None}
        facts = lane.warden.facts.model_copy(update=now_true)
        record = job.record.begin_attempt(job.job, facts)
        self.spool.prepare(place, record)  # on disk before the engine hears of it
        work = work or estimate.work(job.job, card)
        lane.share_out(now)
        progress = Progress(count=job.job.pictures)
        self.running[place.id] = Running(place, record, now, progress, lane, began=now, work=work, key=job.key)
        self._tally = self._tally.with_attempt(record)
        number, waited = record.attempts[-1].number, round(record.queue_seconds, 3)
        told = event("attempt", job=place.id, owner=job.owner or None, number=number, model=card.name, waited=waited)
        log.info("job %s: attempt %d", place.id, number, extra=told)
        lane.warden.send(
            messages.Run(id=place.id, folder=str(place.path), job=job.job, cells=job.cells, attempt=number, alone=job.alone)
        )

    def _end(self, place: Place, end: Ends, now: float) -> None:
        """End a job that no engine has."""
        running = self.running[place.id] = Running(place, end.record, now, Progress(), outcome=end.state)
        self._mind_running(running, now)

    # -- telling -------------------------------------------------------------------------------------------------------------

    def _tell(self, now: float, stopped: bool = False) -> None:
        """Write spooler.json when it changed, and now and then for its date."""
        told_lanes = tuple(lane.told() for lane in self.lanes)
        first = next((each for each in told_lanes if each.state == "ready" and not each.reason), None)
        engines = tuple(each for lane in self.lanes for each in lane.warden.workers or (lane.told(),))
        # One engine that works is enough: what ails the others is told with them.
        ailing = first or min(told_lanes, key=lambda each: ("failing", "ready", "starting").index(each.state))
        status = SpoolerStatus(
            spooler=self.settings.spooler,
            host=socket.gethostname(),
            started=self._started,
            beat=utc_now(),
            state="stopped" if stopped else ailing.state,
            reason=self._floor.reason or ailing.reason,
            paused=self.spool.paused,
            running=tuple(self.running),
            watching=self.intake.watching,
            waiting=len(self.intake),
            last_turn=self.intake.last_turns(),
            speeds=self._speeds,
            engine=ailing.engine,
            lanes=engines if len(engines) > 1 or engines[0].name else (),
            catalogue=self.catalogue,
        )
        if rejected := self.intake.take_rejected():
            self._tally = self._tally.with_rejected(rejected)
        told = self._told and self._told.model_copy(update={"beat": status.beat})
        if status != told or now >= self._next_beat:
            self._told, self._next_beat = status, now + BEAT_S
            self.spool.write_status(status)
        if self._tally != self._counted:
            self.spool.write_tally(self.settings.spooler, self._tally)
            self._counted = self._tally


def _whole_timings(lane: Lane, record: Record, measured: Timings) -> Timings:
    """With the time in the queue, and that of the engine's start, which its first job is charged with."""
    load, lane.warden.load_seconds = lane.warden.load_seconds, 0.0
    return measured.model_copy(update={"queue": record.queue_seconds, "load": measured.load + load})


def _tell_end(job_id: str, record: Record, state: End, owner: str) -> None:
    """Log how a job ended."""
    seconds = round(record.seconds, 3)
    about = {"job": job_id, "owner": owner or None, "attempts": len(record.attempts), "seconds": seconds}
    if state == "done":
        told = event("done", images=len(record.images), waited=round(record.queue_seconds, 3), **about)
        log.info("job %s: done, %d pictures in %.1f s", job_id, len(record.images), seconds, extra=told)
        return
    code, reason = (record.failure.code, record.failure.reason) if record.failure else ("unknown", "")
    if state == "failed":
        log.warning("job %s: failed: %s: %s", job_id, code, reason, extra=event("failed", code=code, reason=reason, **about))
    else:
        log.info("job %s: cancelled: %s", job_id, reason, extra=event("cancelled", reason=reason, **about))
