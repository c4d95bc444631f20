"""SIGKILL before every system call of every operation, and again inside the recovery from it: P1 to P5 must hold throughout.

After each kill the spool is looked at as it lies. Then it is run to its end three times, on copies: by the spooler of that name
started again, by another one, and by another one that was alive meanwhile and claims before it looks for the dead.
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from spooler.spool import Spool
from tests.prove import operations
from tests.prove.fire import MARK, Call, Run, fire, forked, scratch, shared_memory, usable
from tests.prove.operations import ME, Operation
from tests.prove.promises import Ledger, violations
from tests.prove.report import Figure, cannot_run, main, report
from tests.prove.restart import restart

NAME = "kill"
WORKERS = 2
#: Who runs the spool to its end after a kill: its name, and whether it looks for the dead first.
HEIRS = {"started again": (ME, True), "another": ("other", True), "one that was alive": ("other", False)}
#: Of how many kills of an operation the recovery is killed too; of the operation `recover`, and of no other, it is all.
NESTED = 4


@dataclass
class Tally:
    """What came of some points."""

    points: int = 0
    missed: int = 0  #: points that the process did not reach: the run was not the same as the one that was counted
    nested: int = 0  #: kills inside a recovery, among the points
    found: Counter[str] = field(default_factory=Counter)  #: violations, in words
    first: dict[str, str] = field(default_factory=dict)  #: where each was met first

    def note(self, where: str, problems: Iterable[str]) -> None:
        for problem in problems:
            self.found[problem] += 1
            self.first.setdefault(problem, where)

    def add(self, other: Tally) -> None:
        self.points += other.points
        self.missed += other.missed
        self.nested += other.nested
        self.found += other.found
        self.first = other.first | self.first


class Range:
    """One operation, its stage set once, to be fired at again and again."""

    def __init__(self, operation: Operation, folder: Path):
        self.operation = operation
        self._folder = folder
        self._numbers = count()
        self._stage = folder / "stage"
        self.ledger = operation.stage(Spool(self._stage))
        # What Python loads at the first use is loaded here, so that no run differs from another in that.
        forked(lambda: None)
        self._act(self.copy(self._stage))

    def copy(self, root: Path) -> Path:
        return operations.copy(root, self._folder / str(next(self._numbers)))

    def _act(self, root: Path) -> None:
        spool = Spool(root)
        with self.operation.ready(spool):
            try:
                self.operation.deed(spool)
            except Exception as error:  # noqa: BLE001 - `counted` looks at what it answers
                assert type(error).__name__ == self.operation.answer, error
        restart(root, ME)
        shutil.rmtree(root)

    def fire(self, inject: str = "", log: bool = False) -> tuple[Path, Run]:
        """Do the deed on a fresh copy of the stage. Returns the copy and how it went."""
        root = self.copy(self._stage)
        spool = Spool(root)
        return root, fire(lambda: self.operation.deed(spool), lambda: self.operation.ready(spool), inject, log)

    def counted(self) -> tuple[Run, list[str]]:
        """The deed without a fault: its calls, and what is wrong even so."""
        root, run = self.fire(log=True)
        problems = [] if run.answer == self.operation.answer else [f"without a fault it answers {run.answer}: {run.text}"]
        ledger = self.operation.acknowledged(self.ledger, run.value) if run.ended == "returned" else self.ledger
        problems += violations(root, ledger, rested=False)
        for heir in HEIRS:
            problems += self.rest(root, ledger, heir)
        shutil.rmtree(root)
        return run, problems

    def rest(self, root: Path, ledger: Ledger, heir: str) -> list[str]:
        """Run a copy of the spool to its end. Returns what is wrong then."""
        name, recover_first = HEIRS[heir]
        lies = self.copy(root)

        def work() -> list[str]:
            told: list[tuple[bytes, int]] = []
            restart(lies, name, lambda raw, number: told.append((raw, number)), recover_first)
            return violations(lies, ledger.heard(told), rested=True)

        try:
            found: list[str] = forked(work)
        except RuntimeError as error:
            found = [f"P2: it cannot be run to its end: {error}"]
        shutil.rmtree(lies)
        return [f"{problem} [{heir}]" for problem in found]


def points(run: Run) -> list[Call]:
    """Where to kill: before each call, and when all is done but the answer."""
    return [*run.calls, Call(MARK, 2)]


def kill(call: Call) -> str:
    return f"{call.name}:signal=SIGKILL:when={call.number}"


def try_operation(name: str, part: int, parts: int, every: int) -> Tally:
    """Kill at every `every`th point of the operation; of these, the `part`th of `parts` shares."""
    operation = next(each for each in operations.operations() if each.name == name)
    tally = Tally()
    with scratch() as folder:
        target = Range(operation, folder)
        run, problems = target.counted()
        if part == 0:
            tally.note(f"{name}, no fault", problems)
        chosen = points(run)[::every]
        for number, call in list(enumerate(chosen))[part::parts]:
            where = f"{name}, killed before {call}"
            root, killed = target.fire(kill(call))
            tally.points += 1
            if killed.ended != "killed":
                tally.missed += 1
            tally.note(where, violations(root, target.ledger, rested=False))
            for heir in HEIRS:
                tally.note(f"{where}, then {heir}", target.rest(root, target.ledger, heir))
            if name == "recover" or number % max(1, len(chosen) // NESTED) == 1:
                kill_recovery(target, root, where, tally, every)
            shutil.rmtree(root)
    return tally


def kill_recovery(target: Range, killed: Path, where: str, tally: Tally, every: int) -> None:
    """Kill the recovery from a kill at each of its own points, and recover from that."""

    def recover(root: Path, inject: str = "", log: bool = False) -> Run:
        spool = Spool(root)
        return fire(lambda: spool.recover(ME), lambda: spool.life_lock(ME).acquire(timeout=5), inject, log)

    run = recover(target.copy(killed), log=True)
    for number, call in enumerate(points(run)[::every]):
        root = target.copy(killed)
        again = recover(root, kill(call))
        tally.points += 1
        tally.nested += 1
        tally.missed += again.ended != "killed"
        there = f"{where}, and its recovery before {call}"
        tally.note(there, violations(root, target.ledger, rested=False))
        tally.note(there, target.rest(root, target.ledger, list(HEIRS)[number % len(HEIRS)]))
        shutil.rmtree(root)


def units(short: bool) -> Iterator[tuple[str, int, int, int]]:
    """The work in shares of about one length, the longest first."""
    long = ("restart after a crash", "recover")
    for operation in sorted(operations.operations(), key=lambda each: each.name not in long):
        parts = 8 if operation.name in long else 1
        every = 1 if not short else 97 if operation.name in long else 9
        yield from ((operation.name, part, parts, every) for part in range(1 if short else parts))


def prove(short: bool) -> list[Figure]:
    target = ">= 1,000 points, 0 violations"
    figure = "SIGKILL before a system call, points"
    if reason := usable():
        return [cannot_run(NAME, figure, target, reason)]
    tally = Tally()
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork")) as pool:
        for part in pool.map(try_operation, *zip(*units(short), strict=True)):
            tally.add(part)
    for problem, times in tally.found.most_common():
        print(f"  {times} x {problem}\n      first: {tally.first[problem]}", file=sys.stderr)
    folder = Path(shared_memory() or "/tmp")
    details = f"{len(operations.operations())} operations; {tally.nested} of the points are inside a recovery from a kill"
    enough = tally.points >= (100 if short else 1000)
    return [
        report(NAME, figure, ">= 1,000", tally.points, enough and not tally.missed, details, folder=folder),
        report(NAME, "violations of P1 to P5 after a kill", "0", sum(tally.found.values()), not tally.found, folder=folder),
    ]


if __name__ == "__main__":
    sys.exit(main(prove))
