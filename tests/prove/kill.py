"""SIGKILL before every system call of every operation, and again inside the recovery from it: P1 to P5 must hold throughout.

After each kill the spool is looked at as it lies. Then it is run to its end three times, on copies: by the spooler of that name
started again, by another one, and by another one that was alive meanwhile and claims before it looks for the dead.
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from spooler.spool import Spool
from tests.prove import operations
from tests.prove.fire import MARK, Call, Run, fire, scratch, shared_memory, usable
from tests.prove.firing_range import AFTER_DEATH, Range, Tally, spread
from tests.prove.promises import violations
from tests.prove.report import Figure, cannot_run, main, report
from tests.prove.stages import ME

NAME = "kill"
WORKERS = 2
#: Of how many kills of an operation the recovery is killed too; of the operation `recover`, and of no other, it is all.
NESTED = 4
#: The operations with the most points.
LONG = frozenset({"restart after a crash", "recover"})
#: Points of each operation in the short form. After each, one of the heirs comes, in turn.
SHORT = 3


def points(run: Run) -> list[Call]:
    """Where to kill: before each call, and when all is done but the answer."""
    return [*run.calls, Call(MARK, 2)]


KILL = "signal=SIGKILL"


def try_operation(name: str, part: int, parts: int, most: int) -> Tally:
    """Kill at the operation's points, at `most` so many, spread evenly; of these, the `part`th of `parts` shares."""
    operation = next(each for each in operations.operations() if each.name == name)
    tally = Tally()
    with scratch() as folder:
        target = Range(operation, folder)
        run, problems = target.counted()
        if part == 0:
            tally.note(f"{name}, no fault", problems)
        chosen = spread(points(run), most)
        for number, call in list(enumerate(chosen))[part::parts]:
            where = f"{name}, killed before {call}"
            root, killed = target.fire(call, KILL)
            tally.points += 1
            if killed.ended != "killed":
                tally.missed += 1
            tally.note(where, violations(root, target.ledger, rested=False))
            for heir in AFTER_DEATH if most > SHORT else (in_turn(name, number),):
                tally.note(f"{where}, then {heir}", target.rest(root, target.ledger, heir))
            if name == "recover" or (most > SHORT and call in spread(chosen, NESTED)):
                kill_recovery(target, root, where, tally, most)
            shutil.rmtree(root)
        tally.runs = target.runs
    return tally


def in_turn(name: str, number: int) -> str:
    """Who comes after that point: over all operations, each after each of them."""
    return AFTER_DEATH[(number + len(name)) % len(AFTER_DEATH)]


def kill_recovery(target: Range, killed: Path, where: str, tally: Tally, most: int) -> None:
    """Kill the recovery from a kill at each of its own points, and recover from that."""

    def recover(root: Path, inject: str = "", log: bool = False) -> Run:
        spool = Spool(root)
        return fire(lambda: spool.recover(ME), lambda: spool.life_lock(ME).acquire(timeout=5), inject, log)

    run = recover(target.copy(killed), log=True)
    for number, call in enumerate(spread(points(run), most)):
        root = target.copy(killed)
        again = recover(root, f"{call.name}:{KILL}:when={call.number}")
        tally.points += 1
        tally.nested += 1
        tally.missed += again.ended != "killed"
        there = f"{where}, and its recovery before {call}"
        tally.note(there, violations(root, target.ledger, rested=False))
        tally.note(there, target.rest(root, target.ledger, AFTER_DEATH[number % len(AFTER_DEATH)]))
        shutil.rmtree(root)


def units(short: bool) -> Iterator[tuple[str, int, int, int]]:
    """The work in shares of about one length, the longest first."""
    for operation in sorted(operations.operations(), key=lambda each: each.name not in LONG):
        parts = 8 if operation.name in LONG and not short else 1
        yield from ((operation.name, part, parts, SHORT if short else sys.maxsize) for part in range(parts))


def prove(short: bool) -> list[Figure]:
    target = ">= 1,000 points, 0 violations"
    figure = "SIGKILL before a system call, points"
    if reason := usable():
        return [cannot_run(NAME, figure, target, reason)]
    tally = Tally()
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork")) as pool:
        for part in pool.map(try_operation, *zip(*units(short), strict=True)):
            tally.add(part)
    tally.tell()
    folder = Path(shared_memory() or "/tmp")
    number = len(operations.operations())
    details = f"{number} operations; {tally.nested} points are inside a recovery from a kill; {tally.runs} runs to the end"
    enough = tally.points >= (100 if short else 1000)
    return [
        report(NAME, figure, ">= 1,000", tally.points, enough and not tally.missed, details, folder=folder),
        report(NAME, "violations of P1 to P5 after a kill", "0", sum(tally.found.values()), not tally.found, folder=folder),
    ]


if __name__ == "__main__":
    sys.exit(main(prove))
