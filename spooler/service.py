"""The spooler: claims jobs, feeds its engines as many as each can draw together, and watches over them. What comes of a
job is in attempts.py.

One turn of the loop is `Service.turn`; it never waits. What happened since the last turn lies in the inbox: messages of the
engine, its death, and hints that the spool changed.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from spooler import durable, messages
from spooler import lane as lanes
from spooler.attempts import Attempts
from spooler.catalogue import Catalogue
from spooler.child import Child, Gone
from spooler.denylist import DenyList
from spooler.durable import PASSING
from spooler.examine import Ends, Examiner, GoesBack, Runs, SetAside
from spooler.floor import Floor
from spooler.intake import LOOK_S, Intake
from spooler.lane import Lane
from spooler.life import Life
from spooler.logs import event
from spooler.neighbours import Neighbours
from spooler.notices import OUTBOX, Outbox, adopt
from spooler.notify import Notifier
from spooler.place import Place
from spooler.record import COMPANY_DIED, WORKER_DIED, EngineFacts, utc_now
from spooler.retention import Retention
from spooler.schedule import Waiting
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.states import FOLDERS
from spooler.status import SpoolerStatus
from spooler.watch import Hint

log = logging.getLogger(__name__)

BEAT_S = 2.0
RECOVER_S = 10.0
REAP_S = 3600.0
POLL_S = 1.0
#: Jobs whose conditions can never be met that are claimed in one go. Should we die then, so many are looked at once more.
HOPELESS_AT_ONCE = 8


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
        self._life = life
        outbox = Outbox(spool.claimed / settings.spooler / OUTBOX)
        self._notifier = Notifier(settings, spool, outbox)
        self.intake = Intake(settings, spool, lambda: self.catalogue, deny_list, self.inbox.put)
        self._floor = Floor(spool, settings.floor_mib)
        self._attempts = Attempts(
            settings, spool, self._floor, outbox, self._notifier, self.intake.owner, self._goes_on, self._learn
        )
        self.running = self._attempts.running
        self._retention = Retention(spool, settings)
        self._next_retention = 0.0
        self.lanes = tuple(
            Lane(each, self.running, lambda each=each: start_engine(self, each))  # type: ignore[misc]
            for each in settings.of_lanes()
        )
        self._neighbours = Neighbours(spool, settings.spooler)
        self._examiner = Examiner(settings, spool, self.intake, deny_list)
        self._hopeless: deque[tuple[Waiting, Place, str]] = deque()  # claimed, to be ended for that reason
        self._hashes: dict[str, str] = {}  # of the models that this engine has loaded
        self._refused: set[str] = set()  # what is closed to us of claimed jobs, as of the last recovery
        self._next_recover = self._next_beat = self._next_reaping = 0.0
        self._told: dict[str, Any] | None = None  # by the fields of SpoolerStatus
        self._counted = self._attempts.tally
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
        # The next job first where one has ended: the engine waits for it, and draws while the other's end is made durable. Not
        # where an owner's running jobs are bounded: the one that has ended counts until it is shown.
        if self._attempts.is_ending and not self.settings.owner_running:
            with contextlib.suppress(OSError):  # it comes again below, and must not keep the end from being shown
                self._feed(now)
        self._attempts.mind(now)
        self.intake.look(now)
        self._end_hopeless(now)
        if now >= self._next_recover:
            self._next_recover = now + RECOVER_S
            self._recover()
        self._end_unwanted(now)
        self._feed(now)
        if self._floor.reason:  # which is asked by nobody while nothing waits, but told to all
            self._floor.has_room(now)
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
            self._attempts.leave(running)
        self.running.clear()
        self._told = None
        try:
            self._tell(time.monotonic(), stopped=True)
        except OSError as error:
            log.warning("it cannot be told that the spooler stops: %s", error)

    def _wait(self) -> None:
        """Sleep until something is in the inbox that calls for a turn, or the next thing is due."""
        now = time.monotonic()
        due = min(self._next_recover, self._next_beat, self._next_retention, self.intake.due(now), now + POLL_S)
        due = min(due, self._attempts.due, *(lane.due() for lane in self.lanes))
        is_urgent = False
        while not is_urgent:
            try:
                event = self.inbox.get(timeout=max(0.0, due - now))
            except Empty:
                return
            now = time.monotonic()
            self._receive(event, now)
            is_urgent = now >= due or not _can_wait(event if isinstance(event, Hint) else event[1])
            due = min(due, self._attempts.due)

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

    def _receive(self, event: tuple[Child, messages.FromEngine | Gone] | Hint, now: float) -> None:
        if isinstance(event, Hint):
            self.intake.hear(event, now)
            if event.name is None:
                self._attempts.look_soon()  # perhaps one of them was cancelled
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
                self._attempts.put_all_back(lost, f"{COMPANY_DIED if len(lost) > 1 else WORKER_DIED}: {how}")
            case messages.OfItself():
                lane.warden.hear(message)
                if isinstance(message, messages.Ready):
                    self._learn(lane, message.facts)
            case _:
                told = self.running.get(message.id)
                if told and told.lane is lane and not told.outcome:
                    lane.share_out(now)
                    self._attempts.hear(lane, told, message, now)

    def _learn(self, lane: Lane, facts: EngineFacts) -> None:
        """Note what an engine told of itself and of the model that it ran."""
        lane.warden.facts = facts
        if not self.catalogue.card(facts.model):  # a worker elsewhere may say anything: what is kept does not grow by it
            return
        self._hashes[facts.model] = facts.hash
        cards = [card.model_copy(update={"hash": self._hashes.get(card.name, card.hash)}) for card in self.catalogue.models]
        self.catalogue = self.catalogue.model_copy(update={"models": tuple(cards)})

    # -- the queue -----------------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        try:
            self.spool.reap_tmp(self.settings.tmp_max_age_s)
        except OSError as error:
            log.warning("tmp/ cannot be cleared just now: %s", error)

    def _recover(self) -> None:
        """Take over what dead spoolers had claimed, this one's earlier life among them."""
        held = {place.id for place in self._attempts.again} | set(self.running)
        held |= {place.id for _, place, _ in self._hopeless}
        closed: list[PermissionError] = []
        for place in self.spool.recover(self.settings.spooler, adopt, closed):
            if place.id not in held:
                log.info("job %s: recovered", place.id, extra=event("recovered", job=place.id))
                self._attempts.again.append(place)
        for error in closed:
            if error.filename not in self._refused:  # each is told once, not at each look
                log.error("a job that was claimed cannot be taken up: %s", error)
        self._refused = {error.filename for error in closed}
        self._notifier.wake()
        if self._goes_on():  # so the spool is there, and not the empty place where it was mounted
            for name in FOLDERS:
                if name != "pending":
                    self.spool.restore(self.spool.root / name)
        self.intake.recover()

    def _feed(self, now: float) -> None:
        """Give warm engines jobs while they have room: those that were recovered, else the next in pending/."""
        while not self.stopping and (self._attempts.again or self.intake.ready) and any(lane.offers for lane in self.lanes):
            if self._attempts.is_stuck or not self._floor.has_room(now) or not self._goes_on():
                return
            if self._attempts.again and not any(lane.is_draining for lane in self.lanes):
                self._begin_or_fail(self._attempts.take_again(self._attempts.again[0]), now)
            elif self.spool.paused or not self._claim_next(now):
                return

    def _claim_next(self, now: float) -> bool:
        """Claim the jobs that are next, as many as an engine can take, and begin them. False when none may run."""
        able = [(lane, key, jobs) for lane in self.lanes for key, jobs in lane.offers]
        for lane, key, jobs in sorted(able, key=lambda offer: len(offer[0].at_work)):
            most, model, elsewhere = jobs, lane.model or "", frozenset[str]()
            if lane.is_remote:
                model = ""  # each may go to another worker
            elif key is None:  # the first is chosen by itself, and then those that are like it
                most, elsewhere = 1, self._neighbours.warm(now)
            if chosen := self.intake.choose(model, now, most, key, elsewhere):
                for waiting, place in self.intake.claim(chosen, now):
                    self._begin_or_fail(place, now, given_name=waiting.name, work=waiting.work)
                return True
        return False

    def _end_hopeless(self, now: float) -> None:
        """End the jobs whose conditions can never be met any more: one that ends at a time, while nothing else does."""
        until = time.perf_counter() + LOOK_S  # a hundred thousand of them must not keep a job that can run (P5)
        while self._hopeless or self.intake.hopeless:
            if self._attempts.is_ending or not self._goes_on():
                return
            if not self._hopeless and time.perf_counter() < until:
                self._hopeless.extend(self.intake.claim_hopeless(now, HOPELESS_AT_ONCE))
            if not self._hopeless:
                return
            waiting, place, why = self._hopeless[0]
            try:
                end = self._examiner.hopeless(place, waiting.name, why)
            except PermissionError as error:
                self._hopeless.popleft()
                self._stumble(place, error, now)
                continue
            self._hopeless.popleft()  # from here on it is what runs, until it is shown
            self._attempts.end(place, end, now)

    def _end_unwanted(self, now: float) -> None:
        """End the jobs that wait for another try and are not wanted any more: there may be no room for one for long."""
        for place in [place for place in self._attempts.again if _is_unwanted(place)]:
            if self._attempts.is_ending or not self._goes_on():
                return
            self._begin_or_fail(self._attempts.take_again(place), now)

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
                self._attempts.again.insert(0, place)
                raise
            self._stumble(place, error, now)

    def _stumble(self, place: Place, error: Exception, now: float) -> None:
        """End a job that cannot be begun. One whose folder is closed to us stays: recovery finds it when that is mended."""
        if isinstance(error, PermissionError) and not durable.is_ours(place.path):
            log.error("job %s: its folder cannot be used, tried again in %g s: %s", place.id, RECOVER_S, error)
            return
        log.error("job %s: cannot be begun", place.id, exc_info=error)
        reason = f"The spooler could not begin this job: {error!r}"[:1000]
        self._attempts.end(place, self._examiner.stumbled(place, reason), now)

    def _begin(self, place: Place, now: float, given_name: str, work: float) -> None:
        """Start a claimed job's next attempt, or do with it what else is its due."""
        match self._examiner.examine(place, self.catalogue, given_name):
            case GoesBack(to=to):
                self.spool.give_back(place, to)
            case SetAside(reason=reason):
                if name := self.spool.reject_claimed(place, reason):
                    self._attempts.tally = self._attempts.tally.with_rejected()
                    told = event("rejected", job=place.id, file=name, reason=reason)
                    log.warning("rejected/%s: %s", name, ascii(reason)[1:-1], extra=told)
            case Ends() as end:
                self._attempts.end(place, end, now)
            case Runs() as job:
                if lane := lanes.best(self.lanes, job.key, job.card.name, job.alone):
                    self._attempts.begin(lane, place, job, now, work)
                else:  # it is its turn, but it may not be drawn with those that are at work
                    self._attempts.again.insert(0, place)
                    min(self.lanes, key=lambda lane: len(lane.at_work)).reserved = True

    # -- telling -------------------------------------------------------------------------------------------------------------

    def _tell(self, now: float, stopped: bool = False) -> None:
        """Write spooler.json when it changed, and now and then for its date."""
        told_lanes = tuple(lane.told() for lane in self.lanes)
        first = next((each for each in told_lanes if each.state == "ready" and not each.reason), None)
        engines = tuple(each for lane in self.lanes for each in lane.warden.workers or (lane.told(),))
        # One engine that works is enough: what ails the others is told with them.
        ailing = first or min(told_lanes, key=lambda each: ("failing", "ready", "starting").index(each.state))
        told: dict[str, Any] = {
            "spooler": self.settings.spooler,
            "host": socket.gethostname(),
            "started": self._started,
            "state": "stopped" if stopped else ailing.state,
            "reason": self._floor.reason or ailing.reason,
            "paused": self.spool.paused,
            "running": tuple(self.running),
            "watching": self.intake.watching,
            "waiting": len(self.intake),
            "lying": self.intake.lying,
            "last_turn": self.intake.last_turns(),
            "speeds": self._attempts.speeds,
            "engine": ailing.engine,
            "lanes": engines if len(engines) > 1 or engines[0].name else (),
            "catalogue": self.catalogue,
        }
        if rejected := self.intake.take_rejected():
            self._attempts.tally = self._attempts.tally.with_rejected(rejected)
        is_due = stopped or now >= self._next_beat
        if told != self._told or is_due:
            self._told, self._next_beat = told, now + BEAT_S
            self.spool.write_status(SpoolerStatus(beat=utc_now(), **told))
        tally = self._attempts.tally
        if tally.ended != self._counted.ended or (is_due and tally != self._counted):
            self.spool.write_tally(self.settings.spooler, tally)
            self._counted = tally


def _is_unwanted(place: Place) -> bool:
    """Whether somebody cancelled the claimed job; not, as far as can be told, where its folder is closed to us."""
    try:
        return (place.path / "cancel").exists()
    except PermissionError:
        return False


def _can_wait(event: Hint | messages.FromEngine | Gone) -> bool:
    """Whether it waits for the next look after the jobs at work: on a CPU each turn takes from the drawing."""
    match event:
        case Hint():
            return event.left  # each of our own claims is heard of so
        case messages.Room():
            return not (event.jobs or event.ending)
    return isinstance(event, (messages.Progress, messages.ImageDone))
