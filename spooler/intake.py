"""What waits, as one spooler sees it, and which is next: the watch, the index of pending/, the doorman, the gate, the turns.

It decides and claims; what becomes of a claimed job is the service's.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Literal

from spooler import company, estimate, gate, mounts
from spooler.catalogue import Catalogue, Sizes
from spooler.denylist import DenyList
from spooler.doorman import Doorman
from spooler.dropped import owner_of
from spooler.durable import CLOSED_S
from spooler.job import Job
from spooler.logs import event, whose
from spooler.mistakes import JobError, printable
from spooler.moments import seconds
from spooler.pending import Judged, Pending
from spooler.place import Place
from spooler.schedule import Waiting
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.states import State
from spooler.watch import Hint, Watch

log = logging.getLogger(__name__)

#: Seconds between two looks at the watch and at the conditions of waiting jobs.
POLL_S = 1.0
#: Seconds of one turn that may go into looking at pending/: a claim never waits longer for it.
LOOK_S = 0.2
#: Seconds of one turn, and the part of all the time, that may go into the conditions of waiting jobs, however many there are.
GATE_S = 0.05
GATE_SHARE = 0.2
#: On a network file system a copy may stall for as long as its caches last (N5).
NETWORK_GRACE_S = 60.0
#: Owners whose last turns are told in spooler.json.
TOLD_OWNERS = 100


class Intake:
    """All methods are for one thread; `hint` is called from another, and must not wait."""

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        catalogue: Callable[[], Catalogue],
        deny_list: DenyList,
        hint: Callable[[Hint], None],
    ):
        self.clock = gate.WallClock()
        self.next_gate = 0.0
        self._settings = settings
        self._spool = spool
        self._catalogue = catalogue
        self._deny_list = deny_list
        self._watch = Watch(spool.root, settings.spooler, hint)
        self.pending = Pending(spool, self._judge, owner_cap=settings.owner_waiting, polling=lambda: self._watch.polling)
        self._network = mounts.of(spool.root).network
        self._doorman = Doorman(spool, self.pending, lambda job: self._judge(job, {}), self._grace_s)
        self._next_watch = 0.0
        self._is_away = False  # pending/ is not there
        self._last_turn: dict[str, int] = {}  # by owner
        self._turns = 0
        self._owners: dict[str, str] = {}  # of claimed jobs, by id
        self._circles: dict[str, tuple[str, ...]] = {}  # what this round found of jobs that wait for each other
        self._closed: dict[str, tuple[Waiting, float]] = {}  # what could not be claimed by its name, and when it is tried again
        self._to_judge: deque[Waiting] = deque()  # what is left of this round through the waiting jobs with conditions
        self.hopeless: list[tuple[Waiting, str]] = []  # whose conditions can never be met any more, and why

    def __len__(self) -> int:
        return len(self.pending)

    @property
    def ready(self) -> int:
        """How many jobs wait for nothing but their turn."""
        return len(self.pending.queue)

    @property
    def busy(self) -> bool:
        """Whether a batch is being submitted, row by row."""
        return self._doorman.busy

    def take_rejected(self) -> int:
        """How many dropped files were set aside since this was asked last."""
        rejected, self._doorman.rejected = self._doorman.rejected, 0
        return rejected

    @property
    def lying(self) -> tuple[str, ...]:
        """Names in pending/ that nobody will take; the first few, fit to be shown."""
        return tuple(printable(name) for name in self._doorman.lying)

    @property
    def watching(self) -> Literal["events", "polling"]:
        return self._watch.mode

    def stop(self) -> None:
        self._watch.stop()

    def hear(self, hint: Hint, now: float) -> None:
        if hint.name is None:
            self.pending.distrust()
            self._next_watch = now  # perhaps a folder is another
        else:
            self.pending.hint(hint.name, hint.whole)

    def due(self, now: float) -> float:
        """When there is something to look at, monotonic seconds."""
        if self._is_away:
            return self._next_watch
        rescan = self.pending.due(now, self._settings.rescan_s)
        again = min((due for _, due in self._closed.values()), default=float("inf"))
        return min(self._next_watch, self.next_gate, rescan, again, self._doorman.due(now))

    def look(self, now: float) -> None:
        """Bring the index of pending/ up to date, set aside what is no job, let through what may run by now."""
        if now >= self._next_watch:
            self._watch.keep()
            self._next_watch = now + POLL_S
        self._is_away = True
        try:
            self.pending.refresh(now, LOOK_S, self._settings.rescan_s)
        except FileNotFoundError:  # pending/ is being replaced: look again at once when it is back, and soon in any case
            self._next_watch = now + POLL_S / 10
            return
        self._is_away = False
        for name in [name for name, (_, due) in self._closed.items() if now >= due]:
            self.pending.put_back(self._closed.pop(name)[0])
        self._doorman.turn(now)
        if now >= self.next_gate:
            started = time.perf_counter()
            self._mind_gate(started + GATE_S)
            rest_s = (time.perf_counter() - started) / GATE_SHARE if self._to_judge else POLL_S
            self.next_gate = now + rest_s

    def recover(self) -> None:
        """Go on with what dead spoolers left half done on the way in."""
        self._doorman.recover()

    # -- which is next -------------------------------------------------------------------------------------------------------

    def choose(
        self, model: str, now: float, most: int = 1, key: str | None = None, elsewhere: Collection[str] = ()
    ) -> list[Waiting]:
        """The jobs to run next, at most so many, with that model loaded; none when none may run. They are for `claim`.

        Each is picked as if those before it had begun to run: a turn of its owner, its model loaded. `key`: only such as may be
        drawn with those at work (company.py); when it is the turn of one that may not, that one waits until nothing is.
        `elsewhere`: models for which another host has an idle engine: see `schedule.Queue.pick`.
        """
        running = self._running_jobs()
        default = self._catalogue().default
        chosen: list[Waiting] = []
        while len(chosen) < most and (next_ := self._pick(model, default, now, running, key, elsewhere)):
            if key is not None and next_.key != key:
                break
            if self.pending.may_be_claimed(next_, now, self._grace_s()):
                self.pending.queue.remove(next_.name)
                self._turns += 1
                self._last_turn[next_.owner] = self._turns
                running[next_.owner] += 1
                model = next_.model or default
                chosen.append(next_)
        return chosen

    def _pick(
        self, model: str, default: str, now: float, running: Counter[str], key: str | None, elsewhere: Collection[str]
    ) -> Waiting | None:
        """The one job that is next. `running`: how many of an owner's run, where that is bounded."""
        cap = self._settings.owner_running
        busy = {owner for owner, number in running.items() if number >= cap} if cap else set()
        overtake_s = self._settings.overtake_s
        while chosen := self.pending.queue.pick(self._last_turn, model, default, now, overtake_s, busy, key, elsewhere):
            wall = self.clock.now() if chosen.expires_at is not None else None
            if chosen.expires_at is None or (wall is not None and wall < chosen.expires_at):
                return chosen
            self.pending.queue.remove(chosen.name)  # it expired while it waited for its turn
            self.pending.gated[chosen.name] = chosen
            self.next_gate = now if wall is not None else now + POLL_S  # the clock was set: not before it is believed
        return None

    def claim(self, chosen: Sequence[Waiting], now: float) -> list[tuple[Waiting, Place]]:
        """Claim these in one go. Left out: those that somebody else was faster with, or writes to; and those that are closed
        to us, which come later.

        Raises the OSError that kept jobs from being claimed, unless others were: it will come again.
        """
        still = self.pending.is_same
        try:
            answers = self._spool.claim_many([each.name for each in chosen], self._settings.spooler, still=still)
        except OSError:
            for each in chosen:
                self.pending.put_back(each)
            raise
        claimed: list[tuple[Waiting, Place]] = []
        failed: OSError | None = None
        for each, answer in zip(chosen, answers, strict=True):
            if isinstance(answer, PermissionError):  # a folder that its owner has closed to us
                log.error("job %s: cannot be claimed, tried again in %g s: %s", each.id, CLOSED_S, answer)
                self.pending.queue.remove(each.name)
                self._closed[each.name] = each, now + CLOSED_S
            elif isinstance(answer, OSError):
                self.pending.put_back(each)
                failed = failed or answer
            else:
                self.pending.forget(each.name)
                if answer:
                    self._owners[answer.id] = each.owner
                    claimed.append((each, answer))
                    told = event("claimed", job=answer.id, owner=each.owner or None)
                    log.info("job %s: claimed%s", answer.id, whose(each.owner), extra=told)
                else:
                    self.pending.hint(each.name)
                    log.info("job %s: somebody else took it, or is writing to it", each.id)
        if failed and not claimed:
            raise failed
        return claimed

    def claim_hopeless(self, now: float, most: int = 1) -> list[tuple[Waiting, Place, str]]:
        """Claim waiting jobs whose conditions can never be met any more, at most so many, and say why; none: there are none."""
        while self.hopeless:
            reasons: dict[str, str] = {}
            chosen: list[Waiting] = []
            while self.hopeless and len(chosen) < most:
                waiting, why = self.hopeless.pop()
                if (
                    self.pending.gated.get(waiting.name) is not waiting
                    or waiting.name in reasons
                    or waiting.name in self._closed
                ):
                    continue
                if self._verdict(waiting, self.clock.now(), self._where).answer != "never":
                    continue  # its predecessor was sent back to the queue meanwhile
                reasons[waiting.name] = why
                chosen.append(waiting)
            if chosen and (claimed := self.claim(chosen, now)):
                return [(waiting, place, reasons[waiting.name]) for waiting, place in claimed]
        return []

    def verdict(self, place: Place, job: Job) -> gate.Verdict:
        """What the gate says of a claimed job: who had claimed it, and died, did not have to mean to run it now."""
        waiting = Waiting(
            place.id,
            is_folder=True,
            arrival=0,
            not_before=seconds(job.not_before) if job.not_before else None,
            expires_at=seconds(job.expires_at) if job.expires_at else None,
            after=tuple(job.after),
        )
        return gate.judge(waiting, self.clock.now(), self._where)

    def owner(self, job_id: str) -> str:
        """Whose a claimed job is that does not say so itself; "" when it is not known."""
        return self._owners.get(job_id, "")

    def last_turns(self) -> dict[str, int]:
        """The turns of the owners served last: enough for a page to show the order, whoever else there ever was."""
        newest = sorted(self._last_turn, key=self._last_turn.__getitem__, reverse=True)[:TOLD_OWNERS]
        return {owner: self._last_turn[owner] for owner in newest}

    def _where(self, job_id: str) -> State | None:
        place = self._spool.find_by_name(job_id)
        return place.state if place else None

    def _mind_gate(self, until: float) -> None:
        """Let waiting jobs through whose conditions are met; note those whose conditions never will be.

        It ends at the time `until` (perf_counter), one job more at the most, and the next call goes on from there.
        """
        wall = self.clock.now()
        where = cache(self._where)  # many may wait for the same; not kept for the next call, by which it may have moved
        if not self._to_judge:
            self._to_judge.extend(self.pending.gated.values())
            self._circles = {}
            self.hopeless = []
        while self._to_judge:
            waiting = self._to_judge.popleft()
            if waiting.mine and self.pending.gated.get(waiting.name) is waiting:
                self._mind_condition(waiting, self._verdict(waiting, wall, where, self._circles))
            if time.perf_counter() >= until:
                return

    def _verdict(
        self,
        waiting: Waiting,
        wall: float | None,
        where: Callable[[str], State | None],
        known: dict[str, tuple[str, ...]] | None = None,
    ) -> gate.Verdict:
        """What the gate says; a job that waits for itself by way of others will never run."""
        verdict = gate.judge(waiting, wall, where)
        if verdict.answer == "later" and waiting.after and (ids := gate.circle(waiting, self._gated, known)):
            return gate.in_circle(ids)
        return verdict

    def _gated(self, job_id: str) -> Waiting | None:
        waiting = self.pending.get(job_id)
        return waiting if waiting and waiting.after and waiting.name in self.pending.gated else None

    def _mind_condition(self, waiting: Waiting, verdict: gate.Verdict) -> None:
        if verdict.answer == "ready":
            self.pending.let_through(waiting)
        elif verdict.answer == "never":
            self.hopeless.append((waiting, verdict.why))

    def _running_jobs(self) -> Counter[str]:
        """How many jobs of each owner are claimed, on all spoolers, where that is bounded."""
        counts: Counter[str] = Counter()
        if not self._settings.owner_running:
            return counts
        claimed = {place.id: place for place in self._spool.walk("claimed")}
        for job_id, place in claimed.items():
            if job_id not in self._owners:
                try:
                    owner = self._spool.read_job(place).owner or owner_of(place.job_file.stat().st_uid)
                except (OSError, JobError):
                    continue
                self._owners[job_id] = owner
            counts[self._owners[job_id]] += 1
        self._owners = {job_id: owner for job_id, owner in self._owners.items() if job_id in claimed}
        return counts

    # -- what a dropped job is -----------------------------------------------------------------------------------------------

    def _judge(self, job: Job, sizes: Sizes) -> Judged:
        """What this spooler makes of a job that it sees; raises JobError with what keeps every spooler from running it."""
        self._deny_list.check(job)
        catalogue = self._catalogue()
        try:
            catalogue.check(job, sizes)
        except JobError:
            others = (status.catalogue for status, _ in self._spool.spoolers() if status.spooler != self._settings.spooler)
            if any(_accepts(other, job, sizes) for other in others):
                return Judged(mine=False)  # a job for another spooler's model is that one's to run
            raise
        card = catalogue.card(job.model)
        start = sizes.get(job.image) if job.image else None
        return Judged(mine=True, work=estimate.work(job, card, start), key=company.key(job, card, start))

    def _grace_s(self) -> float:
        return max(self._settings.drop_grace_s, NETWORK_GRACE_S) if self._network else self._settings.drop_grace_s


def _accepts(catalogue: Catalogue, job: Job, sizes: Sizes) -> bool:
    try:
        catalogue.check(job, sizes)
    except JobError:
        return False
    return True
