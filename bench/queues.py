"""No benchmark: three ways to serve the same arrivals with one device, as pure functions of what a call costs.

A job is its steps and its sampler; a call of the network for n jobs takes `cost(n)` seconds, whatever steps they are at. Texts,
decoding and files are left out: they are the same for all three.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Arrival:
    """A job and when it comes, seconds."""

    at: float
    steps: int
    sampler: str = ""


Cost = Callable[[int], float]


def poisson(rate: float, number: int, steps: Sequence[int], samplers: Sequence[str], seed: int) -> list[Arrival]:
    """That many jobs which come independently of each other, `rate` a second on average; any of these steps and samplers."""
    rng = random.Random(seed)
    at, found = 0.0, []
    for _ in range(number):
        at += rng.expovariate(rate)
        found.append(Arrival(at, rng.choice(steps), rng.choice(samplers)))
    return found


def capacity(cost: Cost, most: int, steps: Sequence[int]) -> float:
    """Jobs a second when calls are always full."""
    return most / cost(most) / (sum(steps) / len(steps))


def one_at_a_time(arrivals: Sequence[Arrival], cost: Cost) -> list[float]:
    """How long each waits for its end, seconds."""
    return in_batches(arrivals, cost, 1)


def in_batches(arrivals: Sequence[Arrival], cost: Cost, most: int) -> list[float]:
    """Static batches: the first in line, with those behind it of its steps and sampler; nobody joins what has begun."""
    waits = [0.0] * len(arrivals)
    line: list[int] = []
    coming, now = 0, 0.0
    while coming < len(arrivals) or line:
        if not line:
            now = max(now, arrivals[coming].at)
        while coming < len(arrivals) and arrivals[coming].at <= now:
            line.append(coming)
            coming += 1
        batch = alike(arrivals, line, most)
        now += arrivals[batch[0]].steps * cost(len(batch))
        for job in batch:
            waits[job] = now - arrivals[job].at
        line = [job for job in line if job not in batch]
    return waits


def alike(arrivals: Sequence[Arrival], line: Sequence[int], most: int) -> list[int]:
    """The first in line and those behind it that one call of a stock pipeline can draw together with it."""
    first = arrivals[line[0]]
    return [job for job in line if (arrivals[job].steps, arrivals[job].sampler) == (first.steps, first.sampler)][:most]


def continuous(arrivals: Sequence[Arrival], cost: Cost, most: int) -> list[float]:
    """The running batch: whoever comes joins at the next call when there is room, and leaves when done."""
    waits = [0.0] * len(arrivals)
    ends: list[tuple[int, int]] = []  # the number of the last call of each, and whose it is
    coming, call, now = 0, 0, 0.0
    while coming < len(arrivals) or ends:
        if not ends:
            now = max(now, arrivals[coming].at)
        while coming < len(arrivals) and arrivals[coming].at <= now and len(ends) < most:
            heapq.heappush(ends, (call + arrivals[coming].steps, coming))
            coming += 1
        now += cost(len(ends))
        call += 1
        while ends and ends[0][0] == call:
            job = heapq.heappop(ends)[1]
            waits[job] = now - arrivals[job].at
    return waits
