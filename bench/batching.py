"""What sharing the UNet's calls gives: `./run.sh bench batching` (`--size 128`, `--rounds 5`, `--threads N`, `--json FILE`).

Eight jobs with the demo model on the CPU, of four samplers, with 14 to 26 steps: from their texts to pictures. Through the
running batch with room for 1, 2, 4 and 8 rows, against the stock diffusers pipeline one job after the other in the same
process, and against the bound: one stock call that draws eight pictures of 20 steps at once, for which all must ask for the
same. Each round runs all of them, in another order; the figures are medians over the rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import diffusers
import torch

from spooler import library, samplers
from spooler.engine import ends
from spooler.engine.batch import Batch
from spooler.engine.row import Desk

STEPS = (14, 16, 18, 20, 20, 22, 24, 26)
SAMPLERS = ("DPM++ 2M", "Euler", "Euler a", "DDIM")
PROMPTS = ("a small yellow star", "a large red circle on a blue background", "a green square", "a huge white triangle")
GUIDANCE = 2.0
ROOMS = (1, 2, 4, 8)
ALONE, BOUND = "stock, one at a time", "stock, one call of eight"


class Bench:
    """The model and the ways to draw with it."""

    def __init__(self, size: int):
        self._size = size
        self._pipe = diffusers.StableDiffusionPipeline.from_pretrained(library.DEMO, dtype=torch.float32)
        self._pipe.set_progress_bar_config(disable=True)
        self._config = dict(self._pipe.scheduler.config)
        self._desk = Desk()

    def _take(self, sampler: str) -> None:
        row = samplers.find(sampler)
        assert row
        scheduler = getattr(diffusers, row.scheduler_class)
        self._pipe.scheduler = scheduler.from_config(self._config, **row.config("Automatic"))

    def alone(self) -> None:
        for number, steps in enumerate(STEPS):
            self._take(SAMPLERS[number % len(SAMPLERS)])
            self._stock(PROMPTS[number % len(PROMPTS)], [number], steps)

    def bound(self) -> None:
        self._take(SAMPLERS[0])
        self._stock([*PROMPTS, *PROMPTS], list(range(8)), sum(STEPS) // len(STEPS))

    def _stock(self, prompts: str | list[str], seeds: list[int], steps: int) -> None:
        self._pipe(
            prompts,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            width=self._size,
            height=self._size,
        )

    def batched(self, room: int) -> None:
        """All eight wait; whoever is done makes room for the next."""
        batch = Batch(self._pipe.unet, torch.device("cpu"), torch.float32)
        texts = ends.read(self._pipe, [(prompt, "") for prompt in PROMPTS])
        left, done = list(enumerate(STEPS)), list[torch.Tensor]()
        while left or len(batch):
            while left and len(batch) < room:
                number, steps = left.pop(0)
                self._take(SAMPLERS[number % len(SAMPLERS)])
                generator = torch.Generator().manual_seed(number)
                noise = torch.randn((1, 4, self._size // 8, self._size // 8), generator=generator)
                asked = texts[number % len(texts)]
                batch.join(self._desk.from_noise(self._pipe, str(number), asked, GUIDANCE, steps, noise, generator))
            done += [row.latents for row in batch.tick()]
            if len(done) >= room or not (left or len(batch)):
                ends.decoded(self._pipe, done)
                done = []


def measure(size: int, rounds: int) -> dict[str, Any]:
    bench = Bench(size)
    ways: dict[str, Callable[[], None]] = {ALONE: bench.alone, BOUND: bench.bound}
    for room in ROOMS:
        ways[f"running batch, {room} rows"] = lambda room=room: bench.batched(room)  # type: ignore[misc]
    for way in ways.values():
        way()  # the first of each is slower
    taken: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for number in range(rounds):
        random.Random(number).shuffle(order)
        for name in order:
            begun = time.perf_counter()
            ways[name]()
            taken[name].append(time.perf_counter() - begun)
    rows = {
        name: {
            "images_per_s": round(len(STEPS) / statistics.median(seconds), 3),
            "over_one_at_a_time": round(
                statistics.median(alone / mine for alone, mine in zip(taken[ALONE], seconds, strict=True)), 3
            ),
        }
        for name, seconds in taken.items()
    }
    return {"size": size, "rounds": rounds, "threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    if given.threads:
        torch.set_num_threads(given.threads)
    with torch.inference_mode():
        found = measure(given.size, given.rounds)
    print(f"Eight jobs, {given.size} px, {found['threads']} threads, median of {given.rounds} rounds")
    print(f"{'':28} {'images/s':>9} {'over one at a time':>19}")
    for name, row in found["rows"].items():
        print(f"{name:28} {row['images_per_s']:9.2f} {row['over_one_at_a_time']:18.2f}x")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
