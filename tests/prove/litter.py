"""Thousands of hostile files in pending/: each is taken whole, or set aside as it was with a sentence; none stays or is lost.

The files are those of hostile.py, of all five kinds, and the intake is the product's: the index and the doorman, over a real
folder, with a clock that this holds. Whether a file is a job is asked of the parser alone, which the proof `parser` tries.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from spooler import job
from spooler.batch_file import read_rows
from spooler.doorman import Doorman
from spooler.mistakes import JobError
from spooler.pending import Pending
from spooler.spool import Spool
from tests.prove import hostile
from tests.prove.fire import shared_memory
from tests.prove.parser import TARGETS
from tests.prove.report import Figure, main, report
from tests.prove.traces import quiet

NAME = "litter"
SEED = 20261121
GRACE_S = 10.0
#: Turns after which what is still in pending/ stays there: each may do 0.2 s of work.
TURNS = 5_000


def is_valid(name: str, data: bytes) -> bool:
    try:
        if name.endswith(".json"):
            job.decode(data)
        else:
            read_rows(name, data)
    except JobError:
        return False
    return True


def drop(spool: Spool, count: int) -> dict[str, bytes]:
    """Put so many files into pending/, one kind after another, each by a rename; returns their bytes by name."""
    rng = random.Random(SEED)
    given = {}
    for number in range(count):
        target = list(TARGETS)[number % len(TARGETS)]
        name = f"f{number:05d}{'.json' if target == 'job' else target}"
        given[name] = hostile.hostile(rng, target)
        draft = spool.tmp / name
        draft.write_bytes(given[name])
        draft.rename(spool.pending / name)
    return given


def settle(spool: Spool) -> int:
    """Turn the intake until nothing that was dropped is undecided. Returns the number of turns."""

    pending = Pending(spool)
    doorman = Doorman(spool, pending, lambda job: None, lambda: GRACE_S)
    doorman.recover()
    for turn in range(1, TURNS):
        pending.distrust()
        pending.refresh(turn * GRACE_S, rescan_s=1e9)
        doorman.turn(turn * GRACE_S)
        if turn > 2 and not (pending.suspects or pending.sources or doorman.busy):
            return turn
    return TURNS


def verdicts(spool: Spool, given: dict[str, bytes]) -> tuple[Counter[str], list[str]]:
    """What became of each, and what is wrong with that."""
    found, wrong = Counter[str](), list[str]()
    reasons = {each.name: each.reason for each in spool.rejected()}
    for name, data in given.items():
        stem = name.partition(".")[0]
        if name in reasons:
            found["set aside"] += 1
            if (spool.rejected_folder / name).read_bytes() != data:
                wrong.append(f"{name} was changed as it was set aside")
            if not reasons[name].strip() or not all(line.isprintable() for line in reasons[name].splitlines()):
                wrong.append(f"{name} has no reason that can be read: {reasons[name]!r}")
            if is_valid(name, data):
                wrong.append(f"{name} is a valid job, and was set aside: {reasons[name][:200]}")
            continue
        found["taken"] += 1
        taken = spool.pending / name if name.endswith(".json") else spool.batches / stem / name
        if not taken.exists() or taken.read_bytes() != data:
            wrong.append(f"{name} is nowhere as it was: {data[:80]!r}")
        elif not is_valid(name, data):
            wrong.append(f"{name} is no valid job, and was taken: {data[:80]!r}")
    return found, wrong


def prove(short: bool) -> list[Figure]:
    count = 250 if short else 10_000
    with tempfile.TemporaryDirectory(dir=shared_memory()) as folder, quiet():
        spool = Spool(Path(folder) / "spool")
        spool.create()
        (spool.claimed / "me").mkdir()
        given = drop(spool, count)
        turns = settle(spool)
        found, wrong = verdicts(spool, given)
    for each in wrong[:20]:
        print(f"  {each}", file=sys.stderr)
    details = f"{found['set aside']:,} set aside with their reasons, {found['taken']:,} taken; {turns} turns"
    figure = f"{count:,} hostile files in pending/: lost, changed, left there, or with a wrong verdict"
    return [report(NAME, figure, "0", len(wrong), not wrong and turns < TURNS, details)]


if __name__ == "__main__":
    sys.exit(main(prove))
