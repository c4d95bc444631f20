"""Eight waiting jobs through the whole product, together and one at a time: `./run.sh bench together` (`--rounds 7`).

The eight of `batching.py`: four samplers, 14 to 26 steps, the demo model on the CPU. Two real spoolers with spools of their
own, one with `--together 1` and one with the default. In each round both draw all eight, in an order by chance: paused, the
files dropped, the pause lifted; measured from there until the last job's folder is in done/. Beside it a lone job of each;
and the bound: with `--together 1 --batch 8` one job of eight pictures of 20 steps, which the stock pipeline draws in one call,
for which all must ask for the same. The figures are medians over the rounds of the ratio within a round. The first two rounds,
in which the knee is found, are not counted. `--size 128` is the pictures' side, `--json FILE` keeps the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import torch

from bench.batching import GUIDANCE, PROMPTS, SAMPLERS, STEPS
from bench.product import Product, product

UNCOUNTED = 2
ALONE, TOGETHER, BOUND = "eight, one at a time", "eight, together", "one job of eight, one stock call"
LONE_ALONE, LONE = "a lone job, --together 1", "a lone job"


class Rounds:
    """A product and the rounds that went through it."""

    def __init__(self, ours: Product):
        self._product = ours
        self._number = 0

    def _names(self, jobs: int) -> list[str]:
        return [f"r{self._number}-{number}" for number in range(jobs)]

    def seconds(self, jobs: list[dict[str, Any]]) -> float:
        """From the end of the pause, with all of the jobs waiting, until the last is in done/."""
        ours, spool = self._product, self._product.spool
        self._number += 1
        spool.pause()
        names = self._names(len(jobs))
        for name, job in zip(names, jobs, strict=True):
            ours.drop(name, job)
        ours.wait(lambda: (told := ours.status) and told.paused and told.waiting == len(jobs), "the jobs to be known")
        begun = time.perf_counter()
        spool.resume()
        ours.wait(lambda: all(ours.done(name).exists() for name in names), "the pictures")
        return time.perf_counter() - begun

    def shared(self) -> list[int]:
        """Of the last round: the most pictures that were in one call with each job's."""
        spool = self._product.spool
        places = [spool.find(name) for name in self._names(len(STEPS))]
        records = [spool.read_record(place) for place in places if place]
        return [record.engine.shared for record in records if record and record.engine]


def mixed(size: int) -> list[dict[str, Any]]:
    """The eight jobs."""
    return [
        {
            "prompt": PROMPTS[number % len(PROMPTS)],
            "sampler": SAMPLERS[number % len(SAMPLERS)],
            "steps": steps,
            "guidance_scale": GUIDANCE,
            "seed": number,
            "width": size,
            "height": size,
        }
        for number, steps in enumerate(STEPS)
    ]


def measure(size: int, rounds: int, folder: Path) -> dict[str, Any]:
    with product(folder / "alone", "--together=1", "--batch=8") as one, product(folder / "together") as eight:
        return measured(size, rounds, Rounds(one), Rounds(eight))


def measured(size: int, rounds: int, alone: Rounds, together: Rounds) -> dict[str, Any]:
    jobs = mixed(size)
    same = jobs[4] | {"steps": sum(STEPS) // len(STEPS), "count": len(STEPS)}
    ways: dict[str, Callable[[], float]] = {
        ALONE: lambda: alone.seconds(jobs),
        TOGETHER: lambda: together.seconds(jobs),
        BOUND: lambda: alone.seconds([same]),
        LONE_ALONE: lambda: alone.seconds([same | {"count": 1}]),
        LONE: lambda: together.seconds([same | {"count": 1}]),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    shared: list[int] = []
    for number in range(rounds + UNCOUNTED):
        order = list(ways)
        random.Random(number).shuffle(order)
        for name in order:
            seconds = ways[name]()
            if name == TOGETHER:
                shared = together.shared()
            if number >= UNCOUNTED:
                taken[name].append(seconds)

    def over(slow: str, fast: str) -> float:
        return round(statistics.median(one / other for one, other in zip(taken[slow], taken[fast], strict=True)), 3)

    return {
        "size": size,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cpus": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "seconds": {name: round(statistics.median(seconds), 4) for name, seconds in taken.items()},
        "most pictures in a call": shared,
        "together over one at a time": over(ALONE, TOGETHER),
        "bound: one stock call of eight over one at a time": over(ALONE, BOUND),
        "a lone job, its time over that with --together 1": over(LONE, LONE_ALONE),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sdspool-together-"))
    try:
        found = measure(given.size, given.rounds, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, value in found.items():
        if name != "seconds":
            print(f"{name:60} {value}")
    for name, value in found["seconds"].items():
        print(f"{name:30} {value:8.3f} s")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
