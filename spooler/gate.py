"""Whether a waiting job may run yet, by its `not_before`, `expires_at` and `after`; and the clock that this may trust."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from spooler.schedule import Waiting
from spooler.states import State

#: Seconds that the wall clock may differ from the monotonic one before it is taken for set, and that it must then run evenly.
JUMP_S = 30.0
SETTLE_S = 60.0


#: Jobs of the longest circle that is looked for, and those that the reason names.
LONGEST_CIRCLE, TOLD = 10_000, 5


@dataclass(frozen=True)
class Verdict:
    """What the gate says: the job may run, must wait, or can never run; and why, in a sentence."""

    answer: Literal["ready", "later", "never"]
    why: str = ""


READY = Verdict("ready")


def judge(job: Waiting, now: float | None, where: Callable[[str], State | None]) -> Verdict:
    """`now` is seconds since 1970, None while the clock cannot be trusted; `where` tells the state of a job by its id."""
    if job.expires_at is not None and now is not None and now >= job.expires_at:
        return Verdict("never", "It was not started before its `expires_at`.")
    for other in job.after:
        if other == job.id:
            return Verdict("never", "It was to run after itself.")
        state = where(other)
        if state in ("failed", "cancelled"):
            return Verdict("never", f"It was to run after {other!r}, but that one is {state}.")
        if state is None:
            return Verdict("later", f"It waits for {other!r}, of which there is no job yet.")
        if state != "done":
            return Verdict("later", f"It waits until {other!r} is done.")
    if job.not_before is not None and (now is None or now < job.not_before):
        until = f"{datetime.fromtimestamp(job.not_before, UTC):%Y-%m-%d %H:%M:%S} UTC"
        why = f"It waits for its `not_before`, {until}." if now is not None else "The clock was set just now."
        return Verdict("later", why)
    return READY


def circle(
    job: Waiting, waiting: Callable[[str], Waiting | None], known: dict[str, tuple[str, ...]] | None = None
) -> tuple[str, ...]:
    """The ids of the jobs that wait for each other in a circle with this one; empty when it is in none.

    Of each job the first that it waits for is followed, by `waiting`: a job by its id if it waits for others, too. The ones
    before that in its list will end, and then it is the first. `known` is what was found before for an id, and this adds to it,
    so that looking at each of many jobs takes no longer than going over all of them once.
    """
    known = {} if known is None else known
    way: dict[str, None] = {}
    here: Waiting | None = job
    while here is not None and here.id not in known and here.id not in way and len(way) < LONGEST_CIRCLE:
        way[here.id] = None
        here = next((found for each in here.after if (found := waiting(each))), None)
    ids = tuple(way)
    at = ids.index(here.id) if here is not None and here.id in way else len(ids)
    known.update(dict.fromkeys(ids[:at], ()) | dict.fromkeys(ids[at:], ids[at:]))
    return known[job.id]


def in_circle(ids: tuple[str, ...]) -> Verdict:
    told = ", ".join(repr(each) for each in ids[:TOLD]) + (f" and {len(ids) - TOLD} more" if len(ids) > TOLD else "")
    return Verdict("never", f"It can never run, for these jobs wait for each other in a circle: {told}.")


def conditional(jobs: Iterable[Waiting]) -> list[Waiting]:
    """Those of the jobs that have a condition."""
    return [job for job in jobs if is_conditional(job)]


def is_conditional(job: Waiting) -> bool:
    return bool(job.after) or job.not_before is not None or job.expires_at is not None


class WallClock:
    """Seconds since 1970, or None for a while after somebody set the clock: what it says then may be set back at once.

    Only what a job asks for in wall time is decided by it; everything else goes by the monotonic clock.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic):
        self._wall, self._monotonic = wall, monotonic
        self._offset = wall() - monotonic()
        self._untrusted_until = float("-inf")

    def now(self) -> float | None:
        wall, monotonic = self._wall(), self._monotonic()
        if abs(wall - monotonic - self._offset) > JUMP_S:
            self._untrusted_until = monotonic + SETTLE_S
        self._offset = wall - monotonic  # a slow drift is followed, and is no jump
        return None if monotonic < self._untrusted_until else wall
