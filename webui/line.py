"""The line of waiting jobs, as this web app sees it: kept in memory, brought up to date when somebody asks."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass

from spooler import estimate, gate, mounts, schedule
from spooler.catalogue import Catalogue, Sizes
from spooler.durable import UnreadableError
from spooler.job import Job
from spooler.mistakes import JobError
from spooler.pending import Judged, Pending
from spooler.place import Place
from spooler.reader import PRIORITY
from spooler.schedule import Waiting
from spooler.spool import Spool
from spooler.states import State
from spooler.status import SpoolerStatus

#: Seconds that one request may spend on bringing the line up to date; a background thread does the rest of a long first look.
LOOK_S = 0.05
RESCAN_S = 10.0
#: Putting the jobs into order may take this part of the time, so that a long line is ordered less often. What comes meanwhile
#: takes its place in it; what leaves is still in it.
ORDER_SHARE = 0.05
KEEP_UP_S = 1.0
#: A line of fewer jobs is listed and put into order for each who asks: what another web app took in just now is in it.
FEW = 100


@dataclass(frozen=True)
class Standing:
    """Where a waiting job stands: its place in the line from 1, when it is thought to start and end, what keeps it back."""

    position: int | None = None
    starts_in_s: float | None = None
    waits_for: str | None = None
    ends_in_s: float | None = None


class Line:
    """The waiting jobs of one spool. Safe for many threads."""

    def __init__(self, spool: Spool, owner_cap: int = 0):
        self._spool = spool
        self._cap = owner_cap
        self._lock = threading.Lock()
        self._catalogue = Catalogue()
        network = mounts.of(spool.root).network
        self._pending = Pending(spool, self._judge, decode=False, owner_cap=owner_cap, polling=lambda: network)
        self._order = schedule.Order()
        self._gated: dict[str, int] = {}  # name -> place behind those that wait for nothing but their turn
        self._ordered: list[Waiting] | None = None  # all of them, made when somebody asks for them
        self._starts: list[float | None] = []  # of those that wait for nothing but their turn
        self._engines = 1
        self._running_s = 0.0  # that the running jobs still need together
        self._speeds: dict[str, float] = {}
        self._turns: dict[str, int] = {}
        self._owners: Counter[str] = Counter()
        self._next_order = float("-inf")

    def keep_up(self, stop: threading.Event) -> None:
        """Keep the line up to date until told to stop: the work of a thread of its own, so that no request has much to do."""
        while not stop.is_set():
            try:
                with self._lock:
                    done = self._pending.refresh(time.monotonic(), LOOK_S, RESCAN_S)
            except OSError:
                done = True
            stop.wait(KEEP_UP_S if done else 0.01)

    def jobs(self, told: list[tuple[SpoolerStatus, bool]]) -> list[Waiting]:
        """The waiting jobs, the next to run first; those that must wait for something come last."""
        with self._lock:
            self._bring_up_to_date(told)
            if self._ordered is None:
                gated = self._pending.gated
                self._ordered = [*self._order.jobs, *(gated[name] for name in self._gated if name in gated)]
            return self._ordered

    def may_run(self, told: list[tuple[SpoolerStatus, bool]]) -> tuple[list[Waiting], dict[str, int]]:
        """The jobs that wait for nothing but their turn, in their order, and the owners' last turns that it goes by."""
        with self._lock:
            self._bring_up_to_date(told)
            return list(self._order.jobs), self._turns

    def hint(self, job_id: str) -> None:
        """Look at the job's side file again: somebody changed its priority."""
        with self._lock:
            self._pending.hint(f"{job_id}{PRIORITY}")
            self._next_order = float("-inf")

    @property
    def owner_cap(self) -> int:
        return self._cap

    def place(self, waiting: Waiting) -> Place:
        return self._pending.place(waiting)

    def __len__(self) -> int:
        return len(self._pending)

    def waiting_of(self, owner: str) -> int:
        """How many jobs of that owner wait, as of the last order."""
        return self._owners[owner]

    def next_start_s(self, told: list[tuple[SpoolerStatus, bool]]) -> float:
        """Seconds until the first of the line has probably left it: when to try again, 1 to 600; 10 when nobody knows."""
        with self._lock:
            self._bring_up_to_date(told)
            starts = self._starts
        if len(starts) > 1 and starts[1] is not None:
            return max(1.0, min(600.0, starts[1]))
        return 10.0

    def last_start_s(self, told: list[tuple[SpoolerStatus, bool]]) -> float | None:
        """Seconds until the last job of the line is thought to start; None when nobody knows, or none waits."""
        with self._lock:
            self._bring_up_to_date(told)
            return self._starts[-1] if self._starts else None

    def work_s(self, told: list[tuple[SpoolerStatus, bool]]) -> float | None:
        """Seconds that one engine would need for all that waits and runs; None when no speed was measured, or it is paused."""
        with self._lock:
            self._bring_up_to_date(told)
            if not self._speeds:
                return None
            return (self._start(len(self._starts)) or 0.0) * self._engines if self._starts else self._running_s

    def standing(self, job_id: str, told: list[tuple[SpoolerStatus, bool]], came: tuple[Place, Job] | None = None) -> Standing:
        """Where the job stands; all unknown when the line does not have it. `came`: it was put there just now, and is this."""
        with self._lock:
            # First of all: what others took in before it comes before it.
            self._bring_up_to_date(told)
            waiting = self._pending.get(job_id)
            if waiting is None:
                if came:
                    self._pending.came(*came)
                else:
                    self._pending.hint(f"{job_id}.json")
                    self._pending.hint(job_id)
                    self._pending.refresh(time.monotonic(), LOOK_S, RESCAN_S)
                self._add_new()
                waiting = self._pending.get(job_id)
            if waiting is None:
                return Standing()
            index = self._index(waiting.name)
            starts = self._starts[index] if index is not None and index < len(self._starts) else None
            speeds = self._speeds
        verdict = gate.judge(waiting, time.time(), self._where) if gate.is_conditional(waiting) else gate.READY
        ends = None if starts is None else starts + waiting.work * _speed(speeds, waiting.model or self._catalogue.default)
        return Standing(None if index is None else index + 1, starts, verdict.why or None, ends)

    def _index(self, name: str) -> int | None:
        """How many are before that job; None: it was not there when the order was made."""
        if name in self._order:
            return self._order.index(name)
        return len(self._order) + self._gated[name] if name in self._gated else None

    def left_s(self, place: Place, told: list[tuple[SpoolerStatus, bool]]) -> float | None:
        """Seconds that a running job probably still needs, with a share of the device; None while no speed was measured."""
        speeds = _speeds(told)
        engines = (each for status, _ in told for each in status.engines)
        sharing = next((len(each.running) for each in engines if place.id in each.running), 1)
        return sharing * self._left_s(place, speeds) if speeds else None

    def _where(self, job_id: str) -> State | None:
        place = self._spool.find_by_name(job_id)
        return place.state if place else None

    def _judge(self, job: Job, sizes: Sizes) -> Judged:
        return Judged(work=estimate.work(job, self._catalogue.card(job.model)))

    def _left_s(self, place: Place, speeds: dict[str, float]) -> float:
        """Seconds of the device that a running job still needs, as far as can be told; `speeds` is not empty."""
        try:
            job, progress = self._spool.read_job(place), self._spool.read_progress(place)
        except (OSError, JobError, UnreadableError):  # it ended just now
            return 0.0
        speed = _speed(speeds, job.model or self._catalogue.default)
        return self._judge(job, {}).work * speed * (1 - (progress.fraction if progress else 0.0))

    def _bring_up_to_date(self, told: list[tuple[SpoolerStatus, bool]]) -> None:
        now = time.monotonic()
        alive = [status for status, lives in told if lives]
        if alive:
            self._catalogue = alive[0].catalogue
        is_short = len(self._pending) < FEW
        if is_short:
            self._pending.distrust()
        self._pending.refresh(now, LOOK_S, RESCAN_S)
        if now < self._next_order and not is_short:
            self._add_new()
            return
        started = time.perf_counter()
        self._turns = {}
        for status in alive:
            self._turns = self._turns | status.last_turn
        self._order = schedule.Order(self._pending.queue, self._turns, self._cap)
        gated = sorted(self._pending.gated.values(), key=lambda each: each.arrival)
        self._gated = {each.name: number for number, each in enumerate(gated)}
        self._ordered = None
        self._owners = Counter(each.owner for each in (*self._order.jobs, *gated))
        # While the queue is paused nobody knows when anything starts.
        self._speeds = speeds = {} if self._spool.paused else _speeds(told)
        self._engines = sum(len(status.engines) for status in alive) or 1
        self._running_s = sum(self._left_s(place, speeds) for place in self._spool.walk("claimed")) if speeds else 0.0
        self._starts = estimate.starts(self._order.jobs, self._catalogue.default, speeds, self._running_s, self._engines)
        self._next_order = time.monotonic() + (time.perf_counter() - started) / ORDER_SHARE

    def _add_new(self) -> None:
        """Give those that came since the last order their place in it. Those behind it start later than told until the next."""
        new = list(itertools.takewhile(lambda each: each.name not in self._order, reversed(self._pending.queue)))
        for job in reversed(new):
            index = self._order.add(job)
            self._starts.insert(index, self._start(index))
            self._owners[job.owner] += 1
        gated = list(itertools.takewhile(lambda name: name not in self._gated, reversed(self._pending.gated)))
        for name in reversed(gated):
            self._gated[name] = len(self._gated)
            self._owners[self._pending.gated[name].owner] += 1
        if new or gated:
            self._ordered = None

    def _start(self, index: int) -> float | None:
        """When a job starts that takes that place in the line: as the one that has it, or when the last one is done."""
        if index < len(self._starts):
            return self._starts[index]
        if not self._starts:
            return None
        last, at = self._order.jobs[index - 1], self._starts[-1]
        if at is None:
            return None
        return at + last.work * _speed(self._speeds, last.model or self._catalogue.default) / self._engines


def _speeds(told: list[tuple[SpoolerStatus, bool]]) -> dict[str, float]:
    """Measured seconds a megapixel-step by model, of the spoolers that live."""
    return {model: speed for status, lives in told if lives for model, speed in status.speeds.items()}


def _speed(speeds: dict[str, float], model: str) -> float:
    """Of that model; one that was not measured is taken for as fast as the mean of the others. `speeds` is not empty."""
    return speeds.get(model, sum(speeds.values()) / len(speeds))
