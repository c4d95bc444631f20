"""One operation under fire again and again: its stage, what came of it, and who runs the spool to its end afterwards."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import TypeVar

from spooler import durable, fsck
from spooler.spool import Spool
from tests.prove import stages
from tests.prove.fire import Call, Run, fire
from tests.prove.operations import Operation
from tests.prove.promises import Ledger, look, violations
from tests.prove.restart import restart
from tests.prove.stages import ME

T = TypeVar("T")

#: Who runs the spool to its end: its name, and whether it looks for the dead first.
HEIRS = {
    "started again": (ME, True),
    "another": ("other", True),
    "one that was alive": ("other", False),
    "going on": (ME, False),
}
#: What no two runs share: drafts in tmp/, ids from the web, claimers that edit, times in records.
UNIQUE = re.compile(
    r"edit_[A-Za-z0-9-]+-\d+|\d+\.[0-9a-f]{24}|\d{8}-\d{6}-\d{3}-[0-9a-f]{10}|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"
)
UNIQUE_BYTES = re.compile(UNIQUE.pattern.encode())
#: The last one did not die.
AFTER_DEATH = tuple(HEIRS)[:3]


@dataclass
class Tally:
    """What came of some points."""

    points: int = 0
    missed: int = 0  #: points that the process did not reach: the run was not the same as the one that was counted
    nested: int = 0  #: kills inside a recovery, among the points
    runs: int = 0  #: spools that were run to their end: one for each heir and each state that differs
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
        self.runs += other.runs
        self.found += other.found
        self.first = other.first | self.first


class Range:
    """One operation, its stage set once, to be fired at again and again."""

    def __init__(self, operation: Operation, folder: Path):
        self.operation = operation
        self._folder = folder
        self._numbers = count()
        self._stage = folder / "stage"
        self._verdicts: dict[tuple[bytes, bytes, str], list[str]] = {}
        self.ledger = operation.stage(Spool(self._stage))
        # What Python loads at the first use is loaded here, so that no run differs from another in that.
        self._act(self.copy(self._stage))

    def copy(self, root: Path) -> Path:
        return stages.copy(root, self._folder / str(next(self._numbers)))

    def _act(self, root: Path) -> None:
        spool = Spool(root)
        with self.operation.ready(spool):
            try:
                self.operation.deed(spool)
            except Exception as error:  # noqa: BLE001 - `counted` looks at what it answers
                assert type(error).__name__ == self.operation.answer, error
        restart(root, ME)
        shutil.rmtree(root)

    def fire(self, at: Call | None = None, what: str = "", and_on: bool = False, log: bool = False) -> tuple[Path, Run]:
        """Do the deed on a fresh copy of the stage, with `what` (strace's) injected at that call; `and_on`: and at every later
        one of its name, in each thread from that number on. Returns the copy and how it went.

        `log`: with the calls; where one is injected at, with those of the first thread, or those about the path that it is of.
        """
        root = self.copy(self._stage)
        spool = Spool(root)

        def ready() -> ExitStack:
            numbers = count(1)
            # In turn, for a draft that a thread writes is told by its name.
            durable.unique_name = lambda: f"1.{next(numbers):024x}"
            return self.operation.ready(spool)

        inject = f"{at.name}:{what}:when={at.number}{'+' if and_on else ''}" if at else ""
        about = str(root / at.of) if at and at.of and not and_on else ""
        run = fire(lambda: self.operation.deed(spool), ready, inject, log, threads=and_on or not at, about=about)
        calls = (replace(each, of=each.of.removeprefix(f"{root}/")) for each in run.calls)
        return root, replace(run, calls=tuple(in_order(list(calls))))

    def counted(self, heirs: Iterable[str] = HEIRS) -> tuple[Run, list[str]]:
        """The deed without a fault: its calls, and what is wrong even so, afterwards with each of these."""
        root, run = self.fire(log=True)
        assert not any(each.of.startswith("/") for each in run.calls), "a thread is busy elsewhere"
        problems = [] if run.answer == self.operation.answer else [f"without a fault it answers {run.answer}: {run.text}"]
        ledger = self.operation.acknowledged(self.ledger, run.value) if run.ended == "returned" else self.ledger
        problems += violations(root, ledger, rested=False)
        for heir in heirs:
            problems += self.rest(root, ledger, heir)
        shutil.rmtree(root)
        return run, problems

    def rest(self, root: Path, ledger: Ledger, heir: str) -> list[str]:
        """Run a copy of the spool to its end. Returns what is wrong then.

        What comes of it depends on the files alone, so spools that differ in nothing but times and random names are run once.
        """
        key = (state_of(root), pickle.dumps(ledger), heir)
        if key not in self._verdicts:
            self._verdicts[key] = self._run(root, ledger, heir)
        return self._verdicts[key]

    @property
    def runs(self) -> int:
        """How often a spool was run to its end."""
        return len(self._verdicts)

    def _run(self, root: Path, ledger: Ledger, heir: str) -> list[str]:
        name, recover_first = HEIRS[heir]
        lies = self.copy(root)
        told: list[tuple[bytes, int]] = []
        before = logging.root.manager.disable
        logging.disable()  # of what is mended: thousands of lines
        try:
            restart(lies, name, lambda raw, number: told.append((raw, number)), recover_first)
            found = violations(lies, ledger.heard(told), rested=True)
            found += _released(lies, ledger, name) + _examined(lies)
        except Exception as error:  # noqa: BLE001 - whatever it is, the spool is stuck
            found = [f"P2: it cannot be run to its end: {type(error).__name__}: {error}"]
        finally:
            logging.disable(before)
        shutil.rmtree(lies)
        return [f"{problem} [{heir}]" for problem in found]


def in_order(calls: Sequence[Call]) -> list[Call]:
    """The calls with those of the other threads, which come in any order, path after path where the first of them was."""
    begin = next((number for number, each in enumerate(calls) if each.of), 0)
    theirs = sorted((each for each in calls if each.of), key=lambda each: each.of)
    return [*calls[:begin], *theirs, *(each for each in calls[begin:] if not each.of)]


def spread(points: Sequence[T], most: int) -> list[T]:
    """At most so many of the points, from the first to the last at even distances."""
    if len(points) <= most:
        return list(points)
    return [points[number * (len(points) - 1) // max(1, most - 1)] for number in range(most)]


def state_of(root: Path) -> bytes:
    """A digest of all names and bytes in a spool, but for times, random names and process numbers."""
    digest = hashlib.sha256()
    lines = []
    for folder, names, files in os.walk(root):
        where = UNIQUE.sub("*", os.path.relpath(folder, root))
        lines += [f"{where}/{UNIQUE.sub('*', name)}/" for name in names]
        for name in files:
            data = UNIQUE_BYTES.sub(b"*", Path(folder, name).read_bytes())
            lines.append(f"{where}/{UNIQUE.sub('*', name)} {hashlib.sha256(data).hexdigest()}")
    digest.update("\n".join(sorted(lines)).encode(errors="surrogateescape"))
    return digest.digest()


def _released(root: Path, ledger: Ledger, heir: str) -> list[str]:
    """Let the held jobs of a spool at rest go on: they must come to their end too. Returns what is wrong then."""
    spool = Spool(root)
    waiting = {
        entry.id for entry in ledger.entries for sight in look(root) if sight.state == "held" and sight.raw in entry.raws
    }
    if not waiting:
        return []
    for job_id in waiting:
        spool.release(job_id)
    restart(root, heir)
    for job_id in waiting:
        ledger = ledger.but(job_id, ends=frozenset({"done"}))
    return [f"{problem}, released" for problem in violations(root, ledger, rested=True)]


def _examined(root: Path) -> list[str]:
    """What `sdspool fsck` still finds after it has mended what it may. There should be nothing left."""
    spool = Spool(root)
    for finding in fsck.examine(spool):
        if finding.mend:
            finding.mend()
    return [f"fsck cannot mend {each.path.relative_to(root)}: {each.sentence}" for each in fsck.examine(spool)]
