"""From a job's rename to its first step: `./run.sh bench wake` (`--quick`, `--json FILE`, `--scratch FOLDER`).

    bare     a process that sleeps in inotify on a folder, beside the spool: from a rename to its wake-up
    direct   the stock diffusers pipeline, warm, in a process of its own: from the call to the first call of its UNet
    product  a real, idle spooler: from a rename into pending/ to the first call of its engine's UNet. Between them lie the look
             at the file, the claim, the record of the attempt (all on disk first), the message to the engine, and the texts

With the demo model on the CPU; each prompt is new. The three take turns in the same run. What must be is a bare wake-up and the
direct call after it: the figure is the product's p99 beyond the p99 of that sum, turn by turn. Beside it stands the p99 beyond
the sum's median, which counts for the product's what the machine does to either. Exit status: 1 when it misses its target.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT)]

from watchdog.observers.inotify_c import CallbackId, InotifyConstants, InotifyEvent, InotifyFD, Mask

from bench.bare import Bare, Call, bare, calls
from bench.figures import percentile
from bench.product import Product, product
from tests.prove.report import commit, machine

#: The figure to reach, seconds.
TARGET_S = 0.005
#: Read by Python at the start of the engine's process, which does not know of it: it notes when each call of a UNet begins.
WITNESS = """
import sys, threading, time

def witness():
    while "diffusers.models.unets.unet_2d_condition" not in sys.modules:
        time.sleep(0.05)
    module = sys.modules["diffusers.models.unets.unet_2d_condition"]
    while not hasattr(module, "UNet2DConditionModel"):
        time.sleep(0.05)
    forward = module.UNet2DConditionModel.forward
    calls = open({path!r}, "a", buffering=1)

    def told(self, *given, **named):
        calls.write(f"{{time.monotonic()}}\\n")
        return forward(self, *given, **named)

    module.UNet2DConditionModel.forward = told

if "spooler.engine" in " ".join(sys.orig_argv):
    threading.Thread(target=witness, daemon=True).start()
"""


class Sleeper:
    """One that does nothing but wake up."""

    def __init__(self, folder: Path, pipe: Connection):
        self._folder, self._pipe = folder, pipe
        assert pipe.recv() == "ready"

    def wake(self, name: str) -> float:
        """Seconds from a rename into its folder to its wake-up."""
        draft = self._folder.parent / f"draft-{name}"
        draft.write_bytes(b"{}")
        begun = time.monotonic()
        draft.rename(self._folder / name)
        woken: float = self._pipe.recv()
        return woken - begun


@contextlib.contextmanager
def sleeper(folder: Path) -> Iterator[Sleeper]:
    folder.mkdir()
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_sleep, args=(folder, theirs), daemon=True)
    process.start()
    try:
        yield Sleeper(folder, ours)
    finally:
        process.kill()
        process.join()


class _Told:
    """A callback of watchdog's: its thread is what wakes up, as in the spooler."""

    def __init__(self, pipe: Connection):
        self._pipe = pipe

    def on_event(self, event: InotifyEvent) -> None:
        self._pipe.send(time.monotonic())

    def on_queue_overflow(self) -> None: ...

    def on_watch_deleted(self, wd: object) -> None: ...


def _sleep(folder: Path, pipe: Connection) -> None:
    inotify = InotifyFD()
    inotify.start()
    inotify.add_callback(os.fsencode(folder), Mask(InotifyConstants.IN_MOVED_TO), _Told(pipe), CallbackId(1))
    pipe.send("ready")
    inotify.join()


def first_step(running: Product, witnessed: Path, name: str, call: Call) -> float:
    """Seconds from a rename into pending/ to the engine's first step of it. Returns when the spooler is idle again."""
    before = witnessed.stat().st_size
    begun = running.drop(name, call.fields())
    running.wait(running.done(name).is_dir, f"{name} to be done")
    told = witnessed.read_bytes()[before:].split()
    running.wait(lambda: (status := running.status) and not status.running, "the spooler to be idle")
    return float(told[0]) - begun


def measure(running: Product, witnessed: Path, direct: Bare, idle: Sleeper, wanted: Sequence[Call]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"bare": [], "direct": [], "product": []}
    for number, call in enumerate(wanted):
        found["product"].append(first_step(running, witnessed, f"wake{number}", call))
        time.sleep(0.02)  # what the last one left to be tidied up is not the next one's
        found["bare"].append(idle.wake(f"wake{number}"))
        found["direct"].append(direct.to_first_step(call))
    return {name: seconds[len(seconds) // 10 :] for name, seconds in found.items()}  # the first ones are slower


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--jobs", type=int, help="(330; quick: 40)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--scratch", type=Path)
    given = parser.parse_args()
    wanted = calls(given.jobs or (40 if given.quick else 330), steps=2, size=128)
    with tempfile.TemporaryDirectory(dir=given.scratch, prefix="wake-") as scratch:
        folder = Path(scratch)
        witnessed = folder / "calls"
        witnessed.touch()
        (folder / "witness").mkdir()
        (folder / "witness" / "sitecustomize.py").write_text(WITNESS.format(path=str(witnessed)))
        path = os.pathsep.join(filter(None, (str(folder / "witness"), os.environ.get("PYTHONPATH"))))
        with (
            product(folder / "product", env={"PYTHONPATH": path}) as running,
            bare() as direct,
            sleeper(folder / "idle") as idle,
        ):
            running.drop("warm-up", wanted[-1].fields())
            running.wait(running.done("warm-up").is_dir, "the first job")
            found = measure(running, witnessed, direct, idle, wanted)
    found["must be"] = [sum(turn) for turn in zip(found["bare"], found["direct"], strict=True)]
    for name, seconds in found.items():
        middle, late = (percentile(seconds, part) * 1000 for part in (0.5, 0.99))
        print(f"{name:8} p50 {middle:7.2f} ms   p99 {late:7.2f} ms   of {len(seconds)}")
    late = percentile(found["product"], 0.99)
    beyond, beyond_median = (late - percentile(found["must be"], part) for part in (0.99, 0.5))
    verdict = "reached" if beyond <= TARGET_S else "MISSED"
    print(f"p99 beyond p99 of what must be: {beyond * 1000:.2f} ms (target <= {TARGET_S * 1000:g} ms: {verdict})")
    print(f"p99 beyond the median of what must be: {beyond_median * 1000:.2f} ms")
    if given.json:
        rows = {name: {"p50_s": statistics.median(s), "p99_s": percentile(s, 0.99), "of": len(s)} for name, s in found.items()}
        told = {**rows, "beyond_s": beyond, "beyond_median_s": beyond_median, "target_s": TARGET_S}
        given.json.write_text(json.dumps({**told, "machine": machine(), "commit": commit()}, indent=2) + "\n")
    return int(beyond > TARGET_S)


if __name__ == "__main__":
    sys.exit(main())
