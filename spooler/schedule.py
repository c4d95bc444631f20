"""What is next on the GPU: the order of the waiting jobs (`order`, to be shown) and the one to take now (`Queue.pick`).

Rank first (moved to the top, then the priority); within it the owners take turns, the one served longest ago first; within an
owner first come, first served. A job for the loaded model, or one that may be drawn with those at work, may go before that
order, within a bound. An owner's jobs beyond the cap come into the line as the earlier ones leave it, and cannot be raised. No
file is touched here, and no clock is read.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from zlib import crc32

from spooler.ids import clean_id

#: (arrival, number that makes it unique, job)
_Heap = list[tuple[int, int, "Waiting"]]
#: What the order sorts by: rank, round, the owner's turn, the lane's first arrival, the arrival, which nobody else has.
_Key = tuple[int, int, int, int, int, int]
#: Jobs of one lane have one model and, nearly always, one key: all keys there may ever be share so many lanes.
_Lane = tuple[str, int]
KEY_LANES = 32
#: Seconds in which a host that has a job's model loaded, and nothing to do, should have claimed it.
COURTESY_S = 1.0
#: Higher is sooner: when it was moved to the top (0: it was not), then the priority.
Rank = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A valid job in pending/: only what the schedule needs, for there may be a hundred thousand.

    `arrival` numbers the jobs as this process saw them come; those found at a start by the times of their files, which are held
    against each other and never against a clock. `not_before` and `expires_at` are seconds since 1970.
    """

    name: str  # of the entry in pending/
    is_folder: bool
    arrival: int
    owner: str = ""
    priority: int = 0
    model: str = ""
    top: int = 0
    work: float = 1.0  # megapixel-steps, for estimates
    not_before: float | None = None
    expires_at: float | None = None
    after: tuple[str, ...] = ()
    mine: bool = True  # whether this spooler has what it takes
    key: str = ""  # of the jobs that it may be drawn with, see company.py

    @property
    def id(self) -> str:
        return clean_id(self.name)

    @property
    def rank(self) -> Rank:
        return (self.top, self.priority)


def order(waiting: Iterable[Waiting], last_turn: Mapping[str, int] | None = None, owner_cap: int = 0) -> list[Waiting]:
    """The jobs in the order in which they will run, as far as known now: see `Order`."""
    return Order(waiting, last_turn, owner_cap).jobs


class Order:
    """The jobs in the order in which they will run, as far as known now; one that comes takes its place without a new order.

    One that leaves is in it until a new one is made.
    """

    def __init__(self, waiting: Iterable[Waiting] = (), last_turn: Mapping[str, int] | None = None, owner_cap: int = 0):
        """`last_turn`: owner to the number of its last turn, none for one never served; `owner_cap`: jobs of an owner that take
        part in the order, 0 for all."""
        self._turns, self._cap = last_turn or {}, owner_cap
        self._of_owner: Counter[str] = Counter()
        self._of_lane: Counter[tuple[Rank, str]] = Counter()
        self._first_of_lane: dict[tuple[Rank, str], int] = {}
        ranked = [(self._key(each), each) for each in sorted(waiting, key=lambda each: each.arrival)]
        ranked.sort(key=lambda row: row[0])
        self._keys = [key for key, _ in ranked]
        self._key_of = {each.name: key for key, each in ranked}
        self.jobs = [each for _, each in ranked]

    def __contains__(self, name: str) -> bool:
        return name in self._key_of

    def __len__(self) -> int:
        return len(self.jobs)

    def index(self, name: str) -> int:
        """How many run before the job of that name. Raises KeyError when it is not there."""
        return bisect_left(self._keys, self._key_of[name])

    def add(self, job: Waiting) -> int:
        """Put in a job that came after all the others; returns how many run before it."""
        key = self._key_of[job.name] = self._key(job)
        index = bisect_left(self._keys, key)
        self._keys.insert(index, key)
        self.jobs.insert(index, job)
        return index

    def _key(self, job: Waiting) -> _Key:
        """What the job is sorted by, when those that came before it have theirs."""
        within = not self._cap or self._of_owner[job.owner] < self._cap
        rank = job.rank if within else _rank_beyond(job)
        lane = (rank, job.owner)
        first = self._first_of_lane.setdefault(lane, job.arrival)
        # An owner's k-th job of a rank waits for every other owner's first k; the turns stay in the order of the first round.
        key = (-rank[0], -rank[1], self._of_lane[lane], self._turns.get(job.owner, -1), first, job.arrival)
        self._of_owner[job.owner] += 1
        self._of_lane[lane] += 1
        return key


def _rank_beyond(job: Waiting) -> Rank:
    """The rank of a job that came when its owner had as many waiting as allowed: no place at the top, no raised priority."""
    return (0, min(0, job.priority))


class Queue:
    """The jobs that may run now, so kept that picking one costs the same however many wait."""

    def __init__(self, owner_cap: int = 0):
        """`owner_cap`: waiting jobs of one owner that take part in the order; 0: all of them."""
        self._cap = owner_cap
        self._jobs: dict[str, Waiting] = {}
        self._beyond: dict[str, _Heap] = defaultdict(list)  # by owner
        self._is_beyond: set[str] = set()
        self._count: Counter[str] = Counter()  # owner -> jobs within the cap
        # By rank and owner. What has left is dropped from a heap when it comes to its top.
        self._lanes: dict[Rank, dict[str, dict[_Lane, _Heap]]] = {}
        self._pushes = count()
        self._passed_since: dict[str, float] = {}  # when a job was first overtaken, monotonic seconds

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, name: str) -> bool:
        return name in self._jobs

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._jobs.values())

    def __reversed__(self) -> Iterator[Waiting]:
        """Those that were added last come first."""
        return reversed(self._jobs.values())

    def add(self, job: Waiting) -> None:
        """Add a job, in the place of the one of that name."""
        self.remove(job.name)
        self._jobs[job.name] = job
        if self._cap and self._count[job.owner] >= self._cap:
            self._is_beyond.add(job.name)
            heapq.heappush(self._beyond[job.owner], (job.arrival, next(self._pushes), job))
        else:
            self._enter(job, job.rank)

    def put_back(self, job: Waiting) -> None:
        """Add a job that was taken out to be claimed and could not be: it had its place in the line, cap or no cap."""
        self._jobs[job.name] = job
        self._enter(job, job.rank)

    def remove(self, name: str) -> None:
        """Take a job out, if it is there."""
        job = self._jobs.pop(name, None)
        if job is None:
            return
        self._passed_since.pop(name, None)
        if name in self._is_beyond:
            self._is_beyond.discard(name)
            return
        self._count[job.owner] -= 1
        if self._count[job.owner] >= self._cap:
            return  # one was put back meanwhile, or there is no cap
        if (following := self._first(self._beyond.get(job.owner, []), beyond=True)) is not None:
            self._is_beyond.discard(following.name)
            self._enter(following, _rank_beyond(following))

    def _enter(self, job: Waiting, rank: Rank) -> None:
        self._count[job.owner] += 1
        lane = (job.model, crc32(job.key.encode()) % KEY_LANES)
        heap = self._lanes.setdefault(rank, {}).setdefault(job.owner, {}).setdefault(lane, [])
        heapq.heappush(heap, (job.arrival, next(self._pushes), job))

    def _first(self, heap: _Heap, beyond: bool = False) -> Waiting | None:
        """The heap's first job that is still there, as it was when it was put in."""
        while heap:
            job = heap[0][2]
            if self._jobs.get(job.name) is job and (job.name in self._is_beyond) == beyond:
                return job
            heapq.heappop(heap)
        return None

    def pick(
        self,
        last_turn: Mapping[str, int],
        loaded: str,
        default: str,
        now: float,
        overtake_s: float,
        busy_owners: Collection[str] = (),
        key: str | None = None,
        elsewhere: Collection[str] = (),
    ) -> Waiting | None:
        """The job to run now; None when none may. It stays in the queue until it is removed.

        A job for the loaded model may overtake others of its rank, which saves loading back and forth, until the one at the
        head has been overtaken for `overtake_s` seconds. `default` is the model of a job that names none; `now` is monotonic
        seconds; `busy_owners` have as many jobs running as they may. With a `key` jobs are at work that have it: then those
        that have it too may overtake, and what is picked may be another's turn, which must wait for the end of those.
        `elsewhere`: models that an idle engine of another host has loaded: a job for one of them is left to that host for
        `COURTESY_S` seconds, as long as it may be overtaken; then whoever has room takes it.
        """

        def fits(job: Waiting) -> bool:
            return (job.model or default) == loaded if key is None else job.key == key

        def turn(job: Waiting) -> tuple[int, int]:
            return (last_turn.get(job.owner, -1), job.arrival)

        for rank in sorted(self._lanes, reverse=True):
            owners = self._lanes[rank]
            heads: list[Waiting] = []
            warm: list[Waiting] = []
            for owner in list(owners):
                firsts = []
                for lane in list(owners[owner]):
                    if job := self._first(owners[owner][lane]):
                        firsts.append(job)
                    else:
                        del owners[owner][lane]
                if not firsts:
                    del owners[owner]
                elif owner not in busy_owners:
                    heads.append(min(firsts, key=lambda job: job.arrival))
                    fitting = [job for job in firsts if fits(job)]
                    warm += [min(fitting, key=lambda job: job.arrival)] if fitting else []
            if not owners:
                del self._lanes[rank]
            if not heads:
                continue
            head = min(heads, key=turn)
            if fits(head):
                return head
            passed_s = now - self._passed_since.setdefault(head.name, now)
            if warm and passed_s < overtake_s:
                return min(warm, key=turn)
            is_left = (head.model or default) in elsewhere and passed_s < min(COURTESY_S, overtake_s)
            return None if is_left else head
        return None
