"""The spooler: claims jobs, feeds the engine one at a time, watches over it, and publishes what comes of them.

One turn of the loop is `Service.turn`; it never waits. What happened since the last turn lies in the inbox: messages of the
engine, its death, and hints that the spool changed.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from statistics import median
from typing import Literal

from filelock import Timeout

from spooler import messages, models, pictures, schedule
from spooler.child import Child, Gone
from spooler.denylist import DenyList, DenyListError
from spooler.durable import UnreadableError
from spooler.job import MAX_SEED, Job
from spooler.mistakes import JobError
from spooler.models import Catalogue
from spooler.pending import Pending
from spooler.record import EngineFacts, Image, Record, Timings, utc_now
from spooler.settings import Settings
from spooler.spool import LIFE_LOCK_WAIT_S, Place, Spool, SpoolError
from spooler.status import Progress, SpoolerStatus
from spooler.watch import Watch

log = logging.getLogger(__name__)

BEAT_S = 2.0
PROGRESS_S = 0.2
RECOVER_S = 10.0
STOP_WAIT_S = 10.0
#: Starts of the engine that may fail in a row before only one a minute is tried.
FAILED_STARTS = 3
FAILED_START_WAIT_S = 60.0
POLL_S = 1.0

#: What will be otherwise when somebody has made room, or the share is back: to be tried again, not to be given up.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS})
#: Usual steps without a sign of life that an engine at work is given, when that is longer than the setting.
STALL_STEPS = 20

End = Literal["done", "failed", "cancelled"]


@dataclass
class Running:
    """A job that the engine has. `outcome` is set when it ended; then it is published, again and again if the disk is full."""

    place: Place
    record: Record
    last_sign: float
    progress: Progress
    progress_written: float = 0.0
    images: list[Image] = field(default_factory=list)
    step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    cancelling: bool = False
    outcome: End | None = None

    @property
    def median_step_s(self) -> float:
        """Seconds of its usual denoising step, as far as seen."""
        return median(self.step_seconds) if self.step_seconds else 0.0


class Service:
    """One spooler. The caller holds its life lock; everything here happens in one thread but the putting into `inbox`."""

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        catalogue: Catalogue,
        deny_list: DenyList,
        start_engine: Callable[[Service], Child],
    ):
        self.settings = settings
        self.spool = spool
        self.catalogue = catalogue
        self.deny_list = deny_list
        self.inbox: SimpleQueue[tuple[Child, messages.FromEngine | Gone] | None] = SimpleQueue()
        self.pending = Pending(spool)
        self.stopping = False
        self.refused: str | None = None  # the engine's reason why it can never work here
        self.engine: EngineFacts | None = None  # of the model that ran last; set while the engine is warm
        self.running: Running | None = None
        self._watch = Watch(spool.root, lambda: self.inbox.put(None))
        self._start_engine = start_engine
        self._child: Child | None = None
        self._child_since = 0.0
        self._next_start = 0.0
        self._failed_starts = 0
        self._last_failure: str | None = None
        self._killed_for: str | None = None
        self._ever_ready = False
        self._load_seconds = 0.0  # of a start that no job has been charged with yet
        self._recovered: list[Place] = []
        self._checked: dict[str, schedule.Waiting] = {}  # waiting jobs that this spooler can run
        self._hashes: dict[str, str] = {}  # of the models that this engine has loaded
        self._recycling = False
        self._left: set[str] = set()  # claimed jobs that cannot be moved, and waiting ones that cannot be claimed
        self._last_turn: dict[str, int] = {}
        self._turns = 0
        self._hinted = True
        self._next_scan = self._next_recover = self._next_beat = 0.0
        self._told: SpoolerStatus | None = None
        self._started = utc_now()

    # -- the loop ------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Turn until told to stop, or until the engine says that it can never work here (then `refused` says why)."""
        self.spool.reap_tmp(self.settings.tmp_max_age_s)
        while not (self.stopping or self.refused):
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
        self.inbox.put(None)

    def turn(self, now: float) -> None:
        """Everything there is to do now, once."""
        self._read_inbox(now)
        self._mind_engine(now)
        self._mind_running(now)
        if self._hinted or now >= self._next_scan:
            self._scan(now)
        if now >= self._next_recover:
            self._recover()
            self._next_recover = now + RECOVER_S
        self._feed(now)
        self._tell(now)

    def close(self) -> None:
        """End the engine at its next step. A job that it had stays claimed for the next start; the attempt does not count."""
        self._watch.stop()
        if self._child:
            self._child.send(messages.Stop())
            self._child.wait(STOP_WAIT_S if self.engine else 0)  # one that still loads has nothing to finish
        if self.running:
            try:
                if self.running.outcome:
                    self.spool.publish(self.running.place, self.running.record, self.running.outcome)
                else:
                    self.spool.prepare(self.running.place, self.running.record.end_attempt("stopped"))
            except OSError as error:
                log.warning("job %s: cannot note how it was left: %s", self.running.place.id, error)
            self.running = None
        self.engine, self._child = None, None
        self._told = None
        self._tell(time.monotonic(), stopped=True)

    def _wait(self) -> None:
        """Sleep until something is in the inbox or the next thing is due."""
        due = min(self._next_scan, self._next_recover, self._next_beat)
        if self.running:
            due = min(due, self.running.last_sign + self.settings.stall_s)
        wait_s = min(max(0.0, due - time.monotonic()), POLL_S)
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

    # -- the engine ----------------------------------------------------------------------------------------------------------

    def _mind_engine(self, now: float) -> None:
        """Start the engine when there is none; kill one that takes too long."""
        if self._child is None:
            if now >= self._next_start and not self.refused:
                self._child, self._child_since = self._start_engine(self), now
                log.info("engine %d: starting with the model %s", self._child.pid, self.catalogue.default)
        elif self.engine is None and now - self._child_since > self.settings.load_s:
            self._kill(f"it did not load within {self.settings.load_s:g} s")
        elif self.running and not self.running.outcome and now - self.running.last_sign > (limit_s := self._patience_s()):
            self._kill(f"it gave no sign of life for {limit_s:g} s")
        elif self._recycling and not self.running:
            self._child.send(messages.Stop())

    def _patience_s(self) -> float:
        """How long the engine at work may be silent: to load a model, its time; else many of its usual steps, with a floor."""
        if self.running is None:
            return self.settings.stall_s
        if self.running.progress.phase == "load":
            return self.settings.load_s
        return max(self.settings.stall_s, STALL_STEPS * self.running.median_step_s)

    def _kill(self, why: str) -> None:
        if self._child and not self._killed_for:
            log.error("engine %d: killed, %s", self._child.pid, why)
            self._killed_for = why
            self._child.kill()

    def _receive(self, event: tuple[Child, messages.FromEngine | Gone] | None, now: float) -> None:
        if event is None:
            self._hinted = True
            return
        child, message = event
        if child is not self._child:
            return  # of an engine that was given up
        match message:
            case Gone():
                self._engine_gone(message, now)
            case messages.Refused():
                self._last_failure = message.reason
                if not self._ever_ready:
                    self.refused = message.reason
            case messages.Ready():
                self._learn(message.facts)
                self._load_seconds = message.facts.load_seconds
                self._failed_starts, self._last_failure, self._ever_ready = 0, None, True
                log.info("engine %d: ready, %s on %s", child.pid, message.facts.model, message.facts.device_name)
            case _ if self.running and message.id == self.running.place.id and not self.running.outcome:
                self._hear_of_job(self.running, message, now)

    def _learn(self, facts: EngineFacts) -> None:
        """Note what the engine told of itself and of the model that it ran."""
        self.engine = facts
        self._hashes[facts.model] = facts.hash
        cards = [card.model_copy(update={"hash": self._hashes.get(card.name, card.hash)}) for card in self.catalogue.models]
        self.catalogue = self.catalogue.model_copy(update={"models": tuple(cards)})

    def _engine_gone(self, gone: Gone, now: float) -> None:
        """Bury the engine. The attempt that it took along is counted: the job runs again, or fails after the last one."""
        how = f"{gone.how}: {self._killed_for}" if self._killed_for else gone.how
        was_ready = self.engine is not None
        pid = self._child.pid if self._child else 0
        recycled, self._recycling = self._recycling, False
        self._child, self.engine, self._killed_for = None, None, None
        if self.stopping:
            return
        if recycled and not self.running:
            log.info("engine %d: ended between two jobs, to give its memory back", pid)
            return
        log.error("engine %d: gone, %s", pid, how)
        if not was_ready:
            self._failed_starts += 1
            self._last_failure = self._last_failure or f"it ended while it loaded ({how})"
            if self._failed_starts >= FAILED_STARTS:
                self._next_start = now + FAILED_START_WAIT_S
        if self.running and not self.running.outcome:
            running, self.running = self.running, None
            running.record = running.record.end_attempt(f"worker-died: {how}")
            self._recovered.insert(0, running.place)
            self.spool.prepare(running.place, running.record)

    # -- the running job -----------------------------------------------------------------------------------------------------

    def _hear_of_job(self, running: Running, message: messages.FromEngine, now: float) -> None:
        silent_s, running.last_sign = now - running.last_sign, now
        match message:
            case messages.Progress():
                before = running.progress
                if message.phase == before.phase == "denoise" and message.step > before.step:
                    running.step_seconds.append(silent_s / (message.step - before.step))
                known = {"phase", "image", "batch", "step", "steps"}
                running.progress = before.model_copy(update=message.model_dump(include=known))
            case messages.ImageDone():
                running.images = sorted([*running.images, message.image], key=lambda image: image.index)
                running.progress = running.progress.model_copy(update={"images": tuple(running.images)})
                running.progress_written = 0.0  # a finished picture is shown at once
            case messages.Finished():
                timings = self._whole_timings(running.record, message.timings)
                self._learn(message.facts)
                running.record = running.record.finish(tuple(running.images), timings, message.facts, message.sheet)
                running.outcome = "done"
                self._recycle_if_grown(message.grown_bytes)
            case messages.Failed():
                running.record = running.record.fail(message.code, message.reason, message.facts)
                self._recycle_if_grown(message.grown_bytes)
                running.outcome = "cancelled" if message.code == "cancelled" else "failed"
                log.warning("job %s: %s: %s", running.place.id, message.code, message.reason)
                if message.details:
                    self._write_error(running.place, message.details)
                if message.fatal:  # it ends by itself, but the next job must not be given to it meanwhile
                    self._kill("it met an error that no later job would survive")

    def _recycle_if_grown(self, grown_bytes: int) -> None:
        if grown_bytes > self.settings.recycle_gib * (1 << 30):
            self._recycling = True

    def _whole_timings(self, record: Record, measured: Timings) -> Timings:
        load, self._load_seconds = self._load_seconds, 0.0
        return measured.model_copy(update={"queue": record.queue_seconds, "load": measured.load + load})

    def _mind_running(self, now: float) -> None:
        """Publish the job that ended, pass on a cancel, show progress."""
        running = self.running
        if running is None:
            return
        if running.outcome:
            place = self.spool.publish(running.place, running.record, running.outcome)
            self.running = None
            log.info("job %s: %s", running.place.id, running.outcome if place else "another spooler has it")
            return
        if not running.place.job_file.exists():  # the fence: another spooler took us for dead and has the job
            log.error("job %s: another spooler has it", running.place.id)
            running.cancelling = True
            self.running = None
            if self._child:
                self._child.send(messages.Cancel(id=running.place.id))
            return
        if not running.cancelling and (running.place.path / "cancel").exists():
            running.cancelling = True
            if self._child:
                self._child.send(messages.Cancel(id=running.place.id))
        if now - running.progress_written >= PROGRESS_S:
            running.progress_written = now
            try:
                self.spool.write_progress(running.place, running.progress)
            except FileNotFoundError:  # RACE: adopted; the next turn sees it
                return

    def _write_error(self, place: Place, details: str) -> None:
        try:
            (place.path / "error.txt").write_text(details)
        except OSError as error:
            log.warning("job %s: cannot write error.txt: %s", place.id, error)

    # -- the queue -----------------------------------------------------------------------------------------------------------

    def _scan(self, now: float) -> None:
        """Look through pending/, set aside what is no job."""
        self._hinted = False
        self._watch.keep()
        self._next_scan = now + (POLL_S if self._watch.polling else self.settings.rescan_s)
        self.pending.scan(now)
        for suspect in self.pending.suspects:
            if suspect.final or now - suspect.since >= self.settings.drop_grace_s:
                self._reject(suspect.path, suspect.reason)
            else:
                self._next_scan = min(self._next_scan, suspect.since + self.settings.drop_grace_s, now + POLL_S)
        checked: dict[str, schedule.Waiting] = {}
        others: list[Catalogue] | None = None
        for waiting in self.pending.waiting:
            if self._checked.get(waiting.place.path.name) is waiting:
                checked[waiting.place.path.name] = waiting
                continue
            try:
                self._check(waiting.job)
            except JobError as error:
                if others is None:
                    others = [
                        status.catalogue for status, _ in self.spool.spoolers() if status.spooler != self.settings.spooler
                    ]
                if not any(_accepts(catalogue, waiting.job) for catalogue in others):
                    self._reject(waiting.place.path, "\n".join(str(mistake) for mistake in error.mistakes))
                    self.pending.forget(waiting)
                continue  # a job for another spooler's model is that one's to run
            except ValueError as error:  # a mistake of this program's: it must cost one job, not the queue
                log.exception("job %s: cannot be checked", waiting.place.id)
                self._reject(waiting.place.path, f"The spooler could not check this job: {error!r}"[:1000])
                self.pending.forget(waiting)
                continue
            checked[waiting.place.path.name] = waiting
        self._checked = checked

    def _check(self, job: Job) -> None:
        """Raise JobError with what keeps this spooler from running the job."""
        self.catalogue.check(job)
        self.deny_list.check(job)

    def _reject(self, path: Path, reason: str) -> None:
        try:
            if name := self.spool.reject(path, reason):
                log.warning("rejected/%s: %s", ascii(name)[1:-1], ascii(reason)[1:-1])
        except OSError as error:  # one file that cannot be moved must not stop the others
            log.error("cannot set %s aside: %s", ascii(path.name), error)

    def _recover(self) -> None:
        """Take over what dead spoolers had claimed, this one's earlier life among them."""
        held = {place.id for place in self._recovered} | ({self.running.place.id} if self.running else set())
        for place in self.spool.recover(self.settings.spooler):
            if place.id not in held | self._left:
                log.info("job %s: recovered", place.id)
                self._recovered.append(place)

    def _feed(self, now: float) -> None:
        """Give an idle, warm engine its next job: one that was recovered, else the next in pending/."""
        while self.engine and not (self.running or self.stopping or self._recycling or self._killed_for):
            if self._recovered:
                self._begin_or_fail(self._recovered.pop(0), now)
            elif self.spool.paused:
                return
            else:
                mine = [each for each in self.pending.waiting if self._checked.get(each.place.path.name) is each]
                mine = [each for each in mine if each.place.id not in self._left]
                loaded, default = self.engine.model, self.catalogue.default
                chosen = schedule.pick(mine, self._last_turn, loaded, default, now, self.settings.overtake_s)
                if chosen is None:
                    return
                self.pending.forget(chosen)
                self._turns += 1
                self._last_turn[chosen.job.owner] = self._turns
                try:
                    place = self.spool.claim(chosen.place.path.name, self.settings.spooler)
                except PermissionError as error:  # a folder that its owner has closed to us
                    log.error("job %s: cannot be claimed: %s", chosen.place.id, error)
                    self._left.add(chosen.place.id)
                    continue
                if place:
                    self._begin_or_fail(place, now, given_name=chosen.place.path.name)
                else:
                    log.info("job %s: somebody else took it", chosen.place.id)

    def _begin_or_fail(self, place: Place, now: float, given_name: str = "") -> None:
        """As `_begin`; a job that this program stumbles over ends in failed/, and the queue goes on."""
        try:
            self._begin(place, now, given_name)
        except FileNotFoundError:  # RACE: adopted by another spooler
            log.error("job %s: another spooler has it", place.id)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                self._recovered.insert(0, place)
                raise
            log.exception("job %s: cannot be begun", place.id)
            self._give_up(place, f"The spooler could not begin this job: {error!r}"[:1000], now)

    def _give_up(self, place: Place, reason: str, now: float) -> None:
        """End a job that cannot be begun; one that cannot even be ended is left where it is, and told of in the log."""
        try:
            record = self.spool.read_record(place) or Record(id=place.id, spooler=self.settings.spooler)
            self._end(place, record.fail("internal", reason), "failed", now)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            log.error("job %s: left in %s, it cannot be moved: %s", place.id, place.path, error)
            self.running = None
            self._left.add(place.id)

    def _begin(self, place: Place, now: float, given_name: str) -> None:
        """Start a claimed job's next attempt, or end it without one."""
        record = self.spool.read_record(place) or Record(id=place.id, queued=self.spool.queued_at(place))
        record = record.claimed_by(self.settings.spooler, place.id, given_name)
        record = record.end_attempt("worker-died: the spooler died")  # no effect on an attempt that has its end
        try:
            job = self.spool.read_job(place)  # what is run is what was claimed, whatever was seen in pending/
            self._check(job)
            if odd := self.spool.odd_entry(place, job.inputs):
                raise pictures.InputError(odd)
            self.spool.gather_inputs(place, job.inputs)
            start_size = pictures.size(place.path / "inputs" / job.image) if job.image else None
            self._check_size(job, start_size)
        except (JobError, UnreadableError, pictures.InputError) as error:
            if record.attempts:
                self._end(place, record.fail("invalid", str(error)), "failed", now)
            elif name := self.spool.reject_claimed(place, str(error)):
                log.warning("rejected/%s: %s", name, ascii(str(error))[1:-1])
            return
        if (place.path / "cancel").exists():
            self._end(place, record.fail("cancelled", "Cancelled before it started."), "cancelled", now)
            return
        if record.attempts_used >= self.settings.max_attempts:
            last = record.attempts[-1].outcome
            reason = f"The engine ended {record.attempts_used} times while it ran this job; the last time: {last}."
            self._end(place, record.fail("worker-died", reason), "failed", now)
            return
        earlier = record.parameters.seed if record.parameters else None
        seed = secrets.randbelow(MAX_SEED + 1) if earlier is None else earlier
        parameters, *cells = [self._resolved(each, seed, start_size) for each in (job, *job.cells())]
        assert self.engine and self._child  # noqa: S101 - _feed looked
        card = self.catalogue.card(parameters.model)
        assert card  # noqa: S101 - _check looked
        facts = self.engine.model_copy(
            update={"model": card.name, "hash": card.hash or "", "family": card.family, "rung": None, "peak_bytes": None}
        )
        record = record.begin_attempt(parameters, facts)
        self.spool.prepare(place, record)  # on disk before the engine hears of it
        self.running = Running(place, record, now, Progress(count=parameters.pictures))
        log.info("job %s: attempt %d", place.id, record.attempts[-1].number)
        self._child.send(messages.Run(id=place.id, folder=str(place.path), job=parameters, cells=tuple(cells)))

    def _check_size(self, job: Job, start_size: tuple[int, int] | None) -> None:
        for cell in job.cells():
            card = self.catalogue.card(cell.model)
            if card and (mistake := models.too_large(cell, card, start_size)):
                raise JobError(mistake)

    def _resolved(self, job: Job, seed: int, start_size: tuple[int, int] | None) -> Job:
        card = self.catalogue.card(job.model)
        assert card  # noqa: S101 - _check looked
        return models.resolve(job, card, seed, start_size)

    def _end(self, place: Place, record: Record, state: End, now: float) -> None:
        """End a job that the engine does not have."""
        self.running = Running(place, record, now, Progress(), outcome=state)
        self._mind_running(now)

    # -- telling -------------------------------------------------------------------------------------------------------------

    def _tell(self, now: float, stopped: bool = False) -> None:
        """Write spooler.json when it changed, and now and then for its date."""
        state: Literal["starting", "ready", "failing", "stopped"] = "ready" if self.engine else "starting"
        if self._failed_starts >= FAILED_STARTS and not self.engine:
            state = "failing"
        status = SpoolerStatus(
            spooler=self.settings.spooler,
            host=socket.gethostname(),
            started=self._started,
            beat=utc_now(),
            state="stopped" if stopped else state,
            reason=None if self.engine else self._last_failure,
            paused=self.spool.paused,
            running=self.running.place.id if self.running else None,
            watching=self._watch.mode,
            last_turn={each.job.owner: self._last_turn.get(each.job.owner, -1) for each in self.pending.waiting},
            engine=self.engine,
            catalogue=self.catalogue,
        )
        told = self._told and self._told.model_copy(update={"beat": status.beat})
        if status != told or now >= self._next_beat:
            self._told, self._next_beat = status, now + BEAT_S
            self.spool.write_status(status)


def _accepts(catalogue: Catalogue, job: Job) -> bool:
    try:
        catalogue.check(job)
    except JobError:
        return False
    return True


def serve(settings: Settings) -> int:
    """Run a spooler until SIGTERM or SIGINT. Returns the exit status: 0, or 2 when it cannot work as configured."""
    spool = Spool(settings.spool)
    try:
        spool.create()
        library = models.scan(settings.models, settings.model)
        deny_list = DenyList.read(Path(settings.deny_list)) if settings.deny_list else DenyList()
        (spool.claimed / settings.spooler).mkdir(exist_ok=True)
        life = spool.life_lock(settings.spooler)
        life.acquire(timeout=LIFE_LOCK_WAIT_S)
    except Timeout:
        log.error("a spooler named %s is running on this spool: give this one another name with --spooler", settings.spooler)
        return 2
    except (SpoolError, models.ModelError, DenyListError, OSError) as error:
        log.error("%s", error)
        return 2

    for reason in library.refused:
        log.warning("not taken: %s", reason)
    service = Service(settings, spool, library.catalogue(), deny_list, start_engine=_start_engine)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    log.info("spooler %s on %s, process %d", settings.spooler, settings.spool, os.getpid())
    try:
        service.run()
    finally:
        life.release()
    if service.refused:
        log.error("%s", service.refused)
        return 2
    return 0


def _start_engine(service: Service) -> Child:
    settings = service.settings
    return Child(settings, lambda child, message: service.inbox.put((child, message)))
