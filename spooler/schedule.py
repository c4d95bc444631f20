"""What is next on the GPU. Pure functions: the order of the waiting jobs, and the one to take now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from spooler.job import Job
from spooler.spool import Place


@dataclass(frozen=True)
class Waiting:
    """A valid job in pending/.

    `arrival` orders the jobs among themselves (seconds, the file system's clock); `seen` is when this process first saw it
    (monotonic seconds): no host's clock is ever held against another's.
    """

    place: Place
    job: Job
    arrival: float
    seen: float


def order(waiting: Iterable[Waiting], last_turn: Mapping[str, int] | None = None) -> list[Waiting]:
    """The jobs in the order in which they will run, as far as known now.

    Priority first; then the owners take turns, the one served longest ago first (`last_turn`: owner to the number of its last
    turn, none for one never served); then first come, first served.
    """
    turns = last_turn or {}
    by_arrival = sorted(waiting, key=lambda each: (each.arrival, each.place.id))
    seen: Counter[tuple[int, str]] = Counter()
    ranked = []
    for each in by_arrival:
        lane = (each.job.priority, each.job.owner)
        # An owner's k-th job of a priority waits for every other owner's first k.
        ranked.append((-each.job.priority, seen[lane], turns.get(each.job.owner, -1), each.arrival, each.place.id, each))
        seen[lane] += 1
    return [row[-1] for row in sorted(ranked, key=lambda row: row[:-1])]


def pick(
    waiting: Iterable[Waiting], last_turn: Mapping[str, int], loaded: str, default: str, now: float, overtake_s: float
) -> Waiting | None:
    """The job to run now; None when none waits.

    A job for the loaded model may overtake others of its priority, which saves loading back and forth, until the one that is
    overtaken has waited `overtake_s` seconds. `default` is the model of a job that names none; `now` is monotonic seconds.
    """
    line = order(waiting, last_turn)
    if not line:
        return None
    head = line[0]
    if now - head.seen < overtake_s:
        same = (each for each in line if each.job.priority == head.job.priority and (each.job.model or default) == loaded)
        return next(same, head)
    return head
