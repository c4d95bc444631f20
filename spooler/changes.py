"""What changed in a queue between two looks at it: which jobs came, began, went on and ended.

A look is three listings that are made one after the other, and one of a long line is a little old. So whatever cannot be seen
in it (a job that is in none of them, one that stands in the line though it ran before) is looked for by its name, on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field

from spooler.client import ENDED, ChangeView, ProgressView
from spooler.states import Status


@dataclass(frozen=True)
class Seen:
    """One look: the ids of the jobs that wait, that are held, and that run, with their progress."""

    waiting: Set[str] = field(default_factory=frozenset)
    held: Set[str] = field(default_factory=frozenset)
    running: Mapping[str, ProgressView] = field(default_factory=dict)


class Changes:
    """The queue as it was told of last. `where` tells a job's status by its id; None: there is none."""

    def __init__(self, seen: Seen, where: Callable[[str], Status | None]):
        self._where = where
        self._begin(seen)

    def _begin(self, seen: Seen) -> None:
        self._seen = seen
        self._told: dict[str, Status] = dict.fromkeys(seen.waiting, "waiting")
        self._told |= dict.fromkeys(seen.held, "held")
        self._told |= dict.fromkeys(seen.running, "running")
        self._doubtful: set[str] = set()  # those that are not as the look says

    def look(self, seen: Seen, hints: Iterable[str] = (), most: int = 1000) -> list[ChangeView] | None:
        """What changed since the look before; None when that is more than `most`, and nobody is told each.

        `hints` are ids of jobs that came just now, and may have ended already.
        """
        before, self._seen = self._seen, seen
        todo = self._doubtful | set(hints) | seen.running.keys() | before.running.keys() | (seen.held ^ before.held)
        if seen.waiting is not before.waiting:
            todo |= seen.waiting ^ before.waiting
        if len(todo) > most:
            self._begin(seen)
            return None
        return [change for job_id in sorted(todo) if (change := self._change(job_id, before))]

    def _change(self, job_id: str, before: Seen) -> ChangeView | None:
        was = self._told.get(job_id)
        looks = self._looks(job_id)
        # What the listings say is true of a job that goes its way; one that comes back to the queue is looked for.
        is_sure = looks == "running" or (
            looks is not None and was in (None, looks, "held" if looks == "waiting" else "waiting")
        )
        status = looks if is_sure else self._where(job_id)
        if status == looks or (looks is None and status not in ("waiting", "held", "running")):
            self._doubtful.discard(job_id)
        else:
            self._doubtful.add(job_id)
        if status is None or (status in ENDED and looks is None):
            self._told.pop(job_id, None)
        else:
            self._told[job_id] = status
        progress = self._seen.running.get(job_id) if status == "running" else None
        if status == was and (progress is None or progress == before.running.get(job_id)):
            return None
        return ChangeView(id=job_id, status=status, was=was, progress=progress)

    def _looks(self, job_id: str) -> Status | None:
        """What the last look says of the job. Of several, what comes later in a job's way is true."""
        if job_id in self._seen.running:
            return "running"
        if job_id in self._seen.waiting:
            return "waiting"
        return "held" if job_id in self._seen.held else None
