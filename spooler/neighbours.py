"""What the other spoolers on this spool have loaded, as they tell."""

from __future__ import annotations

from spooler.spool import Spool

#: Seconds between two looks at what they tell.
LOOK_S = 1.0


class Neighbours:
    """The other spoolers. What they tell decides no more than who goes first: each job is claimed by one alone."""

    def __init__(self, spool: Spool, me: str):
        self._spool = spool
        self._me = me
        self._next_look = 0.0
        self._warm: frozenset[str] = frozenset()

    def warm(self, now: float) -> frozenset[str]:
        """The models that an idle engine of another has loaded; not that of a paused or dead one."""
        if now >= self._next_look:
            self._next_look = now + LOOK_S
            others = [status for status, alive in self._spool.spoolers() if alive and status.spooler != self._me]
            idle = (each for status in others if status.takes_jobs for each in status.engines if not each.running)
            self._warm = frozenset(each.engine.model for each in idle if each.engine and not each.reason)
        return self._warm
