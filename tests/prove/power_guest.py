"""Runs in a guest of power_vm.py: does the operations of the power-cut proof on a file system, and notes on its disk what it
has acknowledged, and when.

    python -m tests.prove.power_guest <disk> <folder on it> <first byte beyond the file system> <answer> <seeds>
"""

from __future__ import annotations

import mmap
import os
import pickle
import sys
from pathlib import Path

from tests.prove.blocks import NOTE
from tests.prove.lives import scripts
from tests.prove.power import Recording, record

BLOCK = 4096


def main(disk: str, folder: str, beyond: str, answer: str, seeds: str) -> None:
    block = mmap.mmap(-1, BLOCK)  # aligned, as a write past the page cache must be
    fd = os.open(disk, os.O_WRONLY | os.O_DIRECT)
    recordings: list[Recording] = []
    for number, script in enumerate(scripts(int(seeds))):

        def note(said: int, number: int = number) -> None:
            if said == 0:
                os.sync()  # the stage is what the disk has
            block[:] = (NOTE + f"{number} {said}\n".encode()).ljust(BLOCK, b"\0")
            os.pwrite(fd, block, int(beyond))

        place = Path(folder) / f"{number:03d}"
        place.mkdir()
        recordings.append(record(script, place, note=note))
        print(number, script.name, flush=True)
    Path(answer).write_bytes(pickle.dumps(recordings))


if __name__ == "__main__":
    main(*sys.argv[1:])
