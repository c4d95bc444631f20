"""How many cores to compute on, on a CPU: those that other programs leave.

PyTorch's threads meet after every operation, and spin until they do. With one more program than there are cores, each meeting
waits for a thread that has none: on two cores a call of the demo's UNet takes four times as long beside one busy program, and
one of SD 1.5's size twice as long, where one thread would have hardly noticed (bench/cores.py). So it is looked again and again
what others take, and as many threads compute as there are cores left. Sums are then rounded one way or the other; who names a
number of threads by OMP_NUM_THREADS has that, and the same bits each time. So has who binds threads to cores, or compiles:
compiled code is of one number of threads, and another one would have it compiled anew in the middle of a job.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch

#: Seconds of drawing after which the number of threads is chosen anew: it is counted in hundredths of a second.
CHOOSE_S = 1.0
#: Seconds between two readings.
READ_S = 0.05
#: What a core does when it is not at rest. A guest's time is in the user's; not every system has all of them.
AT_WORK = ("user", "nice", "system", "irq", "softirq", "steal")


@dataclass(frozen=True)
class Reading:
    """CPU time spent until a moment, all in seconds."""

    moment: float
    all: float  # by whatever runs on the cores that this process may use
    own: float  # by this process


def read() -> Reading:
    """The reading of now."""
    each = psutil.cpu_times(percpu=True)
    usable = _usable()
    # Of CPUs that are offline there is no entry, and the places of the others tell nothing: then all count.
    chosen = [each[cpu] for cpu in usable] if max(usable) < len(each) else each
    at_work = sum(getattr(times, name, 0.0) for times in chosen for name in AT_WORK)
    return Reading(time.monotonic(), at_work, time.process_time())


def left(cores: int, others: float) -> int:
    """How many cores there are to compute on, where others are at work on so many: to the nearest, and one at least."""
    return max(1, int(cores - others + 0.5))


class Cores:
    """The cores on which one thread, which asks between steps, has torch compute.

    Only what others do while something is drawn counts: what they did meanwhile says nothing of now.
    """

    def __init__(self, device: torch.device, is_compiled: bool = False, read: Callable[[], Reading] = read):
        is_fixed = device.type != "cpu" or is_compiled or _is_named()
        self._most = 1 if is_fixed else torch.get_num_threads()
        self._cores = len(_usable())
        self._read = read
        self._before = Reading(0.0, 0.0, 0.0)
        try:
            self.begin()
        except OSError:  # a sandbox that hides what others do
            self._most = 1
        self._seconds = self._others = 0.0  # of drawing since the last choice, and CPU time of others in it

    def begin(self) -> None:
        """Something is to be drawn, after a time in which nothing was."""
        if self._most > 1:
            self._before = self._read()

    def look(self) -> None:
        """Something is being drawn."""
        if self._most == 1 or time.monotonic() < self._before.moment + READ_S:
            return
        before, self._before = self._before, self._read()
        self._seconds += self._before.moment - before.moment
        self._others += (self._before.all - before.all) - (self._before.own - before.own)
        if self._seconds >= CHOOSE_S:
            torch.set_num_threads(min(self._most, left(self._cores, self._others / self._seconds)))
            self._seconds = self._others = 0.0


def _is_named() -> bool:
    """Whether the operator has said how many threads there are, in a way that OpenMP understands, or where each is to run."""
    if any(os.environ.get(name) for name in ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY")):
        return True
    return bool(re.match(r"\s*[1-9]", os.environ.get("OMP_NUM_THREADS", "")))


def _usable() -> set[int]:
    """The cores that this process may use, by their numbers."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
