"""What a UNet's call costs on a CPU by its threads: `./run.sh bench cores` (`--quick`, `--json FILE`).

The demo model's UNet at 128 pixels, and one of SD 1.5's size with random weights at 256 (3.4 GB; dense arithmetic takes the
same time whatever its numbers are), each with a prompt and a negative one:

    spinning   threads on all cores that spin while they wait, as PyTorch has them
    sleeping   the same, but they sleep: OMP_WAIT_POLICY=passive
    one core   one thread
    what is left   as many as other programs leave cores, looked at again and again: the engine's way (spooler/engine/cores.py)

each alone, and beside one other program that computes on one core all the time. All are warm processes that take turns; the
figure is the median of the rounds, and its ratio to that of spinning in the same rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT)]

from spooler.child import ENVIRONMENT, OFFLINE
from spooler.library import DEMO
from tests.prove.report import commit, machine

WAYS: Mapping[str, Mapping[str, str]] = {
    "spinning": {},
    "sleeping": {"OMP_WAIT_POLICY": "passive"},
    "one core": {"OMP_NUM_THREADS": "1"},
    "what is left": {},
}
#: The latents' side, and calls in a round.
MODELS = {"demo": (16, 20), "SD 1.5": (32, 1)}


@dataclass(frozen=True)
class Row:
    model: str
    beside: str  # what else computes
    way: str
    call_ms: float
    ratio: float  # to spinning


class Caller:
    """A process that calls one model in one way."""

    def __init__(self, model: str, way: str):
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, model, way), daemon=True)
        self._process.start()
        assert self._pipe.recv() == "ready"

    def call_s(self) -> float:
        """Seconds of a call, the mean of a round."""
        self._pipe.send("call")
        return float(self._pipe.recv())

    def stop(self) -> None:
        self._pipe.send(None)
        self._process.join(60)


def _serve(pipe: Connection, model: str, way: str) -> None:
    for name in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS"):
        os.environ.pop(name, None)
    os.environ |= {**ENVIRONMENT, **OFFLINE, **WAYS[way]}
    import torch
    from diffusers import UNet2DConditionModel

    from spooler.engine.cores import CHOOSE_S, Cores

    cores = Cores(torch.device("cpu"))
    adapts = way == "what is left"

    side, calls = MODELS[model]
    torch.manual_seed(0)
    unet: Any
    if model == "demo":
        unet = UNet2DConditionModel.from_pretrained(DEMO, subfolder="unet")
    else:
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    latents, texts = torch.randn(2, 4, side, side), torch.randn(2, 77, unet.config.cross_attention_dim)
    with torch.inference_mode():
        unet(latents, 1, texts)
        pipe.send("ready")
        while pipe.recv():
            cores.begin()
            begun = time.perf_counter()
            while time.perf_counter() < begun + 1.5 * CHOOSE_S:  # until what was is forgotten
                unet(latents, 1, texts)
                if adapts:
                    cores.look()
            begun = time.perf_counter()
            for _ in range(calls):
                unet(latents, 1, texts)
                if adapts:
                    cores.look()
            pipe.send((time.perf_counter() - begun) / calls)


@contextlib.contextmanager
def beside(busy: bool) -> Iterator[None]:
    """With another program at work on a core, or without."""
    if not busy:
        yield
        return
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _spin() -> None:
    while True:
        pass


def measure(model: str, rounds: int) -> Iterator[Row]:
    """The rows of one model."""
    callers = {way: Caller(model, way) for way in WAYS}
    try:
        for busy in (False, True):
            with beside(busy):
                found = [{way: caller.call_s() for way, caller in callers.items()} for _ in range(rounds + 1)][1:]
            for way in WAYS:
                call_s = statistics.median(each[way] for each in found)
                ratio = statistics.median(each[way] / each["spinning"] for each in found)
                yield Row(model, "one busy program" if busy else "nothing", way, round(1000 * call_s, 1), round(ratio, 2))
    finally:
        for caller in callers.values():
            caller.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="the demo model alone, three rounds")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print("| model | beside | way | a call | to spinning |\n|---|---|---|---|---|")
    rows = []
    for model in ["demo"] if given.quick else MODELS:
        for row in measure(model, 3 if given.quick else 7):
            rows.append(row)
            print(f"| {row.model} | {row.beside} | {row.way} | {row.call_ms} ms | {row.ratio:.2f} |", flush=True)
    if given.json:
        told = {"rows": [asdict(row) for row in rows], "machine": machine(), "commit": commit()}
        given.json.write_text(json.dumps(told, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
