"""One engine of a spooler and the jobs that it has: a lane. A spooler has one for each device.

What one lane's engine does, its death and its silence among it, is nothing to the jobs of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from spooler import company, messages
from spooler.child import Child
from spooler.running import Running
from spooler.settings import Settings
from spooler.status import LaneStatus
from spooler.warden import Warden


class Lane:
    """One engine, and what it has to do."""

    def __init__(self, settings: Settings, running: Mapping[str, Running], start: Callable[[], Child]):
        """`settings`: with this lane's device; `running`: the jobs of all lanes, by id; `start`: of this lane's engine."""
        self.settings = settings
        self.warden = Warden(settings, start)
        #: Whether a job is to be begun here that may not be drawn with those at work: nothing joins them any more.
        self.reserved = False
        self._running = running
        self._shared_out = 0.0  # monotonic seconds, see share_out

    @property
    def at_work(self) -> list[Running]:
        """The jobs that the engine has, the oldest first; others of its jobs have ended, and are about to be published."""
        return [running for running in self._running.values() if running.lane is self and not running.outcome]

    @property
    def model(self) -> str | None:
        """The model that ran last; None while no engine is warm."""
        return self.warden.facts.model if self.warden.facts else None

    @property
    def is_remote(self) -> bool:
        """Whether its jobs are drawn in different places, so that none of them must be like another."""
        return bool(self.warden.child and self.warden.child.is_remote)

    @property
    def offers(self) -> list[tuple[str | None, int]]:
        """What may be begun here now, the best first: jobs of that key, None: of any, and how many."""
        at_work = self.at_work
        found: list[tuple[str | None, int]] = []
        if self.is_remote or not at_work:
            found = [(None, self.warden.room(busy=self.is_remote))]
        elif not (self.reserved or any(running.alone for running in at_work)):
            key = at_work[0].key  # which all of them have, but for one that was given while they were nearly over
            joining = self.warden.room(busy=True) if key != company.ALONE else 0
            found = [(key, joining), (None, int(self.warden.is_ending))]  # the last is begun after those at work
        return [offer for offer in found if offer[1]]

    @property
    def is_draining(self) -> bool:
        """Whether the end of those at work is waited for."""
        return self.reserved and bool(self.at_work)

    def takes(self, key: str, alone: bool) -> bool:
        """Whether a job of that key may be begun here now. `alone`: it may be what ends the engine (P4)."""
        if alone and self.at_work and not self.is_remote:
            return False
        return any(offered in (None, key) for offered, _ in self.offers)

    def mind(self, now: float) -> None:
        """Start, end or kill the engine as it is due; one that was silent for too long while it works is killed."""
        at_work = self.at_work
        self.warden.mind(now, busy=bool(at_work))
        if at_work and not self.is_remote:
            self.warden.kill_if_silent(now, self._last_sign(at_work), *self._steps(at_work))

    def due(self) -> float:
        """When its silence is to be looked at, monotonic seconds."""
        at_work = self.at_work
        if not at_work or self.is_remote:
            return float("inf")
        return self._last_sign(at_work) + self.warden.patience_s(*self._steps(at_work))

    def share_out(self, now: float) -> None:
        """Charge the jobs at work with the time since this was done last: each with its share."""
        for running in (at_work := self.at_work):
            running.device_s += (now - max(self._shared_out, running.began)) / len(at_work)
        self._shared_out = now

    def cancel(self, running: Running) -> None:
        running.cancelling = True
        self.warden.send(messages.Cancel(id=running.place.id))

    def told(self) -> LaneStatus:
        """What readers are told of it."""
        state = "ready" if self.warden.facts else "failing" if self.warden.failing else "starting"
        ids = tuple(running.place.id for running in self.at_work)
        return LaneStatus(
            device=self.settings.device, state=state, reason=self.warden.reason, running=ids, engine=self.warden.facts
        )

    def _steps(self, at_work: Iterable[Running]) -> tuple[bool, list[float]]:
        """Whether it loads a model, and how long a usual step takes, seconds, of each job."""
        is_loading = any(running.progress.phase == "load" for running in at_work)
        return is_loading, [running.median_step_s for running in at_work]

    def _last_sign(self, at_work: Iterable[Running]) -> float:
        """When the engine was last heard of, of whichever job: all of them are drawn by one thread."""
        return max(running.last_sign for running in at_work)


def best(lanes: Iterable[Lane], key: str, model: str, alone: bool) -> Lane | None:
    """Where a job of that key and model is begun: by the loaded model, then by load. None: nowhere now."""
    able = [lane for lane in lanes if lane.takes(key, alone)]
    return min(able, key=lambda lane: (lane.model != model, len(lane.at_work)), default=None)
