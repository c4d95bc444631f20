"""One operation under fire again and again: its stage, what came of it, and who runs the spool to its end afterwards."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from spooler.spool import Spool
from tests.prove import operations
from tests.prove.fire import Run, fire, forked
from tests.prove.operations import ME, Operation
from tests.prove.promises import Ledger, violations
from tests.prove.restart import restart

#: Who runs the spool to its end: its name, and whether it looks for the dead first.
HEIRS = {
    "started again": (ME, True),
    "another": ("other", True),
    "one that was alive": ("other", False),
    "going on": (ME, False),
}
#: The last one did not die.
AFTER_DEATH = tuple(HEIRS)[:3]


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

    def tell(self) -> None:
        """Print each violation, how often it was met, and where first."""
        for problem, times in self.found.most_common():
            print(f"  {times} x {problem}\n      first: {self.first[problem]}", file=sys.stderr)

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
