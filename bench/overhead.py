"""What the product costs beside the bare pipeline: `./run.sh bench overhead` (`--quick`, `--json FILE`, `--scratch FOLDER`).

The same jobs, with the demo model on the CPU, one at a time, in alternate blocks of the same run: as calls of the stock
diffusers pipeline that throw the picture away, in a warm process of its own; and as files that are renamed into pending/ of a
real spooler, from the first rename until the last is in done/ with its picture, its record and every fsync. The figure is the
median over the blocks of one over the other. The scratch folder should be on the disk that a spool would be on.

Both compute on all cores, where each other thread that runs, the product's and the machine's own, keeps the whole step waiting:
beside other programs a block says nothing. With `--threads 1` both leave the other cores to whatever else there is to do, as a
GPU does.

Exit status: 1 when the figure misses its target.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT)]

from bench.bare import Bare, Call, bare, calls
from bench.product import Product, product
from tests.prove.report import commit, machine

#: The figure to reach: the product's time over the bare calls'.
TARGET = 1.02


def through_the_product(running: Product, wanted: Sequence[Call], block: str) -> float:
    """Seconds until all of them are done."""
    folders = [running.done(f"{block}-{number}") for number in range(len(wanted))]
    begun = time.monotonic()
    for folder, call in zip(folders, wanted, strict=True):
        running.drop(folder.name, call.fields())
    running.wait(lambda: all(folder.is_dir() for folder in reversed(folders)), "a block to be done")
    return time.monotonic() - begun


def measure(running: Product, direct: Bare, blocks: int, jobs: int, steps: int, size: int) -> list[tuple[float, float]]:
    """Seconds of each block, through the product and bare."""
    wanted = calls(jobs * (blocks + 1), steps, size)
    found = []
    for block in range(blocks + 1):
        these = wanted[block * jobs : (block + 1) * jobs]
        if block % 2:
            bare_s, ours_s = direct.seconds(these), through_the_product(running, these, f"block{block}")
        else:
            ours_s, bare_s = through_the_product(running, these, f"block{block}"), direct.seconds(these)
        if block:  # the first of all is slower for both
            print(
                f"  block {block}: {ours_s:.2f} s through the product, {bare_s:.2f} s bare: {ours_s / bare_s:.3f}", flush=True
            )
            found.append((ours_s, bare_s))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--blocks", type=int, help="(7; quick: 3)")
    parser.add_argument("--jobs", type=int, default=10, help="in each block (10)")
    parser.add_argument("--steps", type=int, default=20, help="(20)")
    parser.add_argument("--size", type=int, default=128, help="pixels (128)")
    parser.add_argument("--threads", type=int, help="that the pipeline computes with, on either side (all cores)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--option", action="append", default=[], help="one of the spooler's, as --option=--device=cpu")
    given = parser.parse_args()
    if given.threads:
        os.environ["OMP_NUM_THREADS"] = str(given.threads)  # read by torch in the processes that compute
    blocks = given.blocks or (3 if given.quick else 7)
    with (
        tempfile.TemporaryDirectory(dir=given.scratch, prefix="overhead-") as folder,
        product(Path(folder) / "product", "--together=1", *given.option) as running,
        bare() as direct,
    ):
        print(f"{given.jobs} jobs a block, {given.steps} steps, {given.size} px")
        found = measure(running, direct, blocks, given.jobs, given.steps, given.size)
    ratio = statistics.median(ours / theirs for ours, theirs in found)
    print(f"the product over bare calls: {ratio:.3f} (target <= {TARGET}: {'reached' if ratio <= TARGET else 'MISSED'})")
    if given.json:
        told = {
            "ratio": round(ratio, 4),
            "target": TARGET,
            "threads": given.threads,
            "blocks": found,
            "machine": machine(),
            "commit": commit(),
        }
        given.json.write_text(json.dumps(told, indent=2) + "\n")
    return int(ratio > TARGET)


if __name__ == "__main__":
    sys.exit(main())
