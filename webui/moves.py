"""Moving a waiting job before another, with what the spool has for it: priorities, and "to the top". Pure.

The order of the line is made of ranks (moved to the top, then the priority), of owners that take turns within a rank, and of
arrival (spooler/schedule.py). There is no number that says "directly before that one". So a move is the first of these that
the schedule, asked what it would do, answers with exactly the wanted order:

1. another priority for the moved job alone: that of the job before which it is to stand, or one more or one less than that of
   a neighbour, or the top of the queue;
2. the moved job to the top, and then, nearest first, every job that is to stay ahead of it: for operators, since it touches the
   jobs of others, and at most MOST_TOPPED of them;
3. else the change of the first kind that brings it nearest to its place, but not to the wrong side of where it was.

Whoever shows the queue afterwards shows what the schedule says, so nobody is told of an order that does not hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from spooler import schedule
from spooler.schedule import Waiting

Value = int | Literal["top"]

MOST_TOPPED = 50
MOST_PRIORITY = 100


@dataclass(frozen=True)
class Move:
    """What to do, in this order, and whether the job is then exactly where it was wanted."""

    changes: tuple[tuple[str, Value], ...]  # id, and its priority from then on
    is_exact: bool


def plan(
    line: Sequence[Waiting],
    job_id: str,
    before: str | None,
    turns: Mapping[str, int] | None = None,
    owner_cap: int = 0,
    may_touch_others: bool = False,
) -> Move | None:
    """How the job comes to stand before that one (None: at the end). None when it is there, or nothing brings it nearer.

    `line` is the order of now, of jobs that may run; the job and the other are in it.
    """
    ids = [each.id for each in line]
    job = line[ids.index(job_id)]
    others = [each for each in line if each is not job]
    to = next((at for at, each in enumerate(others) if each.id == before), len(others))
    wanted = [each.id for each in (*others[:to], job, *others[to:])]
    if wanted == ids:
        return None

    def order(changes: Sequence[tuple[str, Value]]) -> list[str]:
        made = {each.id: each for each in line}
        highest = max((each.top for each in line), default=0)
        for number, (each, value) in enumerate(changes, 1):
            topped = {"top": highest + number} if value == "top" else {"top": 0, "priority": value}
            made[each] = replace(made[each], **topped)  # type: ignore[arg-type]
        return [each.id for each in schedule.order(made.values(), turns, owner_cap)]

    best: tuple[int, Move] | None = None
    now = ids.index(job_id)
    for value in _values(others, to):
        found = order([(job_id, value)])
        if found == wanted:
            return Move(((job_id, value),), True)
        at = found.index(job_id)
        is_nearer = abs(at - to) < abs(now - to) or (at != now and (at < now) == (to < now))
        if is_nearer and (best is None or abs(at - to) < best[0]):
            best = abs(at - to), Move(((job_id, value),), False)
    if may_touch_others and to <= MOST_TOPPED:
        topped: list[tuple[str, Value]] = [(job_id, "top"), *((each.id, "top") for each in reversed(others[:to]))]
        if order(topped) == wanted:
            return Move(tuple(topped), True)
    return best[1] if best else None


def _values(others: Sequence[Waiting], to: int) -> Iterator[Value]:
    """Priorities that may bring a job between its neighbours-to-be, the least change first."""
    after = others[to] if to < len(others) else None
    ahead = others[to - 1] if to else None
    near = [each.priority for each in (after, ahead) if each is not None]
    for step in (0, 1, -1):
        for priority in dict.fromkeys(near):
            if abs(priority + step) <= MOST_PRIORITY:
                yield priority + step
    if to == 0 or (after is not None and after.top):
        yield "top"
