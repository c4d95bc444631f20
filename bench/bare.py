"""No benchmark: the stock diffusers pipeline, warm, in a process of its own, which the product is measured against."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT)]

from spooler import samplers
from spooler.child import ENVIRONMENT, OFFLINE
from spooler.library import DEMO

#: The sampler that the demo model's checkpoint has; as a job it would get another by default.
SAMPLER = "DDIM"


@dataclass(frozen=True)
class Call:
    """One picture to be drawn with the demo model and its checkpoint's own sampler."""

    prompt: str
    seed: int
    steps: int
    size: int
    guidance_scale: float = 2.0

    def fields(self) -> dict[str, Any]:
        """The same as a job."""
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            "steps": self.steps,
            "width": self.size,
            "height": self.size,
            "guidance_scale": self.guidance_scale,
            "sampler": SAMPLER,
        }


def calls(number: int, steps: int, size: int) -> list[Call]:
    """That many, each with a prompt and a seed of its own: nothing can be kept from one to the next."""
    sizes, colours = ("small", "large", "huge"), ("red", "yellow", "green", "blue", "white")
    shapes, grounds = ("circle", "square", "triangle", "star"), ("black", "grey", "purple")
    prompts = [f"a {s} {c} {h} on a {g} background" for g in grounds for h in shapes for c in colours for s in sizes]
    return [Call(f"{prompts[each % len(prompts)]}, {each // len(prompts)}", each, steps, size) for each in range(number)]


class Bare:
    """The process. It draws what it is asked for, one call after the other."""

    def __init__(self, pipe: Connection):
        self._pipe = pipe
        assert pipe.recv() == "ready"

    def seconds(self, wanted: Sequence[Call]) -> float:
        """How long these calls took together, from the first call to the last picture."""
        return self._ask("seconds", wanted)  # type: ignore[no-any-return]

    def to_first_step(self, call: Call) -> float:
        """Seconds from one call to the UNet's first."""
        return self._ask("to_first_step", [call])  # type: ignore[no-any-return]

    def together(self, wanted: Sequence[Call], sampler: str) -> None:
        """One call for all of them, which are of the first one's steps."""
        self._ask("together", wanted, sampler)

    def _ask(self, what: str, wanted: Sequence[Call], *more: Any) -> Any:
        self._pipe.send((what, list(wanted), *more))
        return self._pipe.recv()


@contextlib.contextmanager
def bare() -> Iterator[Bare]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield Bare(ours)
    finally:
        ours.send(None)
        process.join(30)


def _serve(pipe: Connection) -> None:
    os.environ |= ENVIRONMENT | OFFLINE
    import diffusers
    import torch

    diffusers.utils.logging.disable_progress_bar()
    drawer = diffusers.StableDiffusionPipeline.from_pretrained(DEMO, dtype=torch.float32)
    drawer.set_progress_bar_config(disable=True)
    begun: list[float] = []
    drawer.unet.register_forward_pre_hook(lambda module, given: begun.append(time.monotonic()))

    config = dict(drawer.scheduler.config)

    def draw(wanted: Sequence[Call]) -> None:
        drawer(
            [call.prompt for call in wanted],
            num_inference_steps=wanted[0].steps,
            guidance_scale=wanted[0].guidance_scale,
            width=wanted[0].size,
            height=wanted[0].size,
            generator=[torch.Generator().manual_seed(call.seed) for call in wanted],
        )

    def take(sampler: str) -> None:
        row = samplers.find(sampler)
        assert row
        drawer.scheduler = getattr(diffusers, row.scheduler_class).from_config(config, **row.config("Automatic"))

    draw([Call("warm up", 0, 2, 128)])
    pipe.send("ready")
    while asked := pipe.recv():
        what, wanted, *more = asked
        begun.clear()
        start = time.monotonic()
        if what == "together":
            take(more[0])
            draw(wanted)
        else:
            for call in wanted:
                draw([call])
        pipe.send(begun[0] - start if what == "to_first_step" else time.monotonic() - start)
