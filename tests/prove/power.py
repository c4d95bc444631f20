"""A power cut after every change that an operation makes, with every disk that may be found then: no acknowledged job is lost.

Each operation is done by a real process under strace; what reached the kernel is replayed on the model of disk.py. After each
change, each state that the model allows is laid out as a folder. It is looked at as it lies (P1, P2, P3), then a spooler takes
it over and runs it to the end, and it is looked at again: what was acknowledged by then is there once and whole, with every
byte, and what was not is there whole or not at all. States are counted without what is in tmp/, which nobody reads.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import multiprocessing
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from spooler.spool import Spool
from tests.prove import operations
from tests.prove.disk import Cut, Disk, Found, Tree, lay
from tests.prove.fire import fire, scratch, shared_memory, usable
from tests.prove.firing_range import AFTER_DEATH, HEIRS, Tally
from tests.prove.kernel import SAID, replay
from tests.prove.lives import Script, scripts
from tests.prove.promises import Ledger, violations
from tests.prove.report import Figure, cannot_run, main, report
from tests.prove.restart import restart

NAME = "power"
WORKERS = 2
#: At most so many states are looked for after one change; where there are more, it is a choice of them.
MOST = {False: 300, True: 6}
#: States that one task of a worker checks.
AT_ONCE = 40


@dataclass(frozen=True)
class State:
    """One disk that may be found, and what had been acknowledged when the power went."""

    cut: int
    chosen: frozenset[int]
    found: Mapping[int, Found]


@dataclass
class Recording:
    """What a script did to the disk, and what it had acknowledged at each cut."""

    name: str
    disk: Disk
    ledgers: list[Ledger]
    said_by: list[int]  #: number of the ledger that holds, for each cut
    syncs: int

    def ledger(self, state: State) -> Ledger:
        return self.ledgers[self.said_by[state.cut]]

    def tree(self, state: State) -> Tree:
        return self.disk.tree(self.disk.cuts[state.cut], state.chosen, state.found)

    def states(self, most: int) -> list[State]:
        """Those that differ outside tmp/, or in what was acknowledged by then."""
        known: set[bytes] = set()
        kept = []
        seen: set[tuple[object, ...]] = set()
        for number, cut in enumerate(self.disk.cuts):
            if (key := (cut.made, cut.kept, self.said_by[number])) in seen:
                continue  # as after the change before
            seen.add(key)
            # The first changes of a seed are the same whatever else is recorded.
            rng = random.Random(f"{self.name} {number}")
            for chosen, found in self.disk.states(cut, most, rng):
                state = State(number, chosen, found)
                if (digest := _digest(self.tree(state), self.said_by[number])) not in known:
                    known.add(digest)
                    kept.append(state)
        return kept


def _digest(tree: Tree, said: int) -> bytes:
    sha = hashlib.blake2b(str(said).encode(), digest_size=16)
    for path in sorted(tree):
        if not path.startswith("tmp/"):
            data = tree[path]
            sha.update(f"{path}\0{'-' if data is None else len(data)}\0".encode(errors="surrogateescape") + (data or b""))
    return sha.digest()


def record(
    script: Script,
    folder: Path,
    unsynced: bool = False,
    torn_renames: bool = False,
) -> Recording:
    """Do the script in a process of its own. `unsynced`: with an os.fsync that does nothing, which must be found out."""
    stage = folder / "stage"
    spool = Spool(stage)
    ledger = script.stage(spool)
    root = operations.copy(stage, folder / "recorded")
    disk = Disk.of(root, torn_renames)
    ledgers = [ledger]

    def deed() -> list[Ledger]:
        def say(now: Ledger) -> None:
            ledgers.append(now)
            os.access(f"{SAID}{len(ledgers) - 1}", os.F_OK)

        script.act(Spool(root), ledger, say)
        return ledgers

    def ready() -> contextlib.ExitStack:
        if unsynced:
            os.fsync = lambda fd: None
        return script.ready(Spool(root))

    run = fire(deed, ready, data=True)
    assert run.ended == "returned", f"{script.name}: {run.ended} {run.value}: {run.text}"
    said_by = [0]

    def said(number: int) -> None:
        # What was acknowledged holds from here on: a cut of its own, for no change has to follow.
        _fill(said_by, disk)
        disk.cut(f"{disk.cuts[-1].after}, acknowledged {number}")
        said_by.append(number)

    syncs = replay(run.trace, root, disk, said)
    _fill(said_by, disk)
    shutil.rmtree(stage)
    shutil.rmtree(root)
    return Recording(script.name, disk, run.value, said_by, syncs)


def _fill(said_by: list[int], disk: Disk) -> None:
    """The cuts since the last word stand under that word."""
    said_by += [said_by[-1]] * (len(disk.cuts) - len(said_by))


def check(recording: Recording, state: State, folder: Path, heirs: Sequence[str]) -> Iterator[str]:
    """What is wrong with that state, as it lies and after each heir has run it to its end."""
    ledger, tree = recording.ledger(state), recording.tree(state)
    numbers = itertools.count()
    found: list[str] = []
    if all(name in tree for name in ("pending", "held", "claimed", "done", "failed", "cancelled", "rejected")):
        root = lay(tree, folder / str(next(numbers)))
        found += violations(root, ledger, rested=False)
        shutil.rmtree(root)
    for heir in heirs:
        root = lay(tree, folder / str(next(numbers)))
        told: list[tuple[bytes, int]] = []
        try:
            name, recover_first = HEIRS[heir]
            restart(root, name, lambda raw, number, told=told: told.append((raw, number)), recover_first)
            found += (f"{each} [{heir}]" for each in violations(root, ledger.heard(told), rested=True))
        except Exception as error:  # noqa: BLE001 - whatever it is, the spool is stuck
            found.append(f"P2: it cannot be run to its end: {type(error).__name__}: {error} [{heir}]")
        shutil.rmtree(root)
    return iter(found)


# -- all of them, on two cores -----------------------------------------------------------------------------------------------

#: What the workers inherit when they are forked.
_recordings: list[Recording] = []


def _states_of(number: int, most: int) -> list[State]:
    return _recordings[number].states(most)


def _check(number: int, states: Sequence[tuple[int, State]]) -> Tally:
    recording = _recordings[number]
    tally = Tally()
    with scratch() as folder:
        for index, state in states:
            cut = recording.disk.cuts[state.cut]
            heirs = (AFTER_DEATH[index % len(AFTER_DEATH)],)
            tally.points += 1
            tally.note(
                f"{recording.name}, power cut after {cut.after}; the disk has {describe(recording.disk, cut, state)}",
                (f"{recording.name}: {problem}" for problem in check(recording, state, folder, heirs)),
            )
    return tally


def describe(disk: Disk, cut: Cut, state: State) -> str:
    """The state in words: what of the open changes is missing, and what is odd about files."""
    entries, _ = disk.open_changes(cut)
    missing = [_words(disk, index) for index in entries if index not in state.chosen]
    there = [_words(disk, index) for index in entries if index in state.chosen]
    files = [f"file {number} {found.value}" for number, found in state.found.items() if found is not Found.WHOLE]
    return f"[{', '.join(there)}] but not [{', '.join(missing)}]{'; ' if files else ''}{', '.join(files)}"


def _words(disk: Disk, index: int) -> str:
    return next(cut.after for cut in disk.cuts if cut.made > index)


def tried(chosen: Sequence[Recording], most: int) -> Tally:
    """Check the states of these recordings."""
    _recordings[:] = chosen
    tally = Tally()
    # One after another, for the workers must be forked when the recordings are there.
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork")) as pool:
        found = list(pool.map(_states_of, range(len(chosen)), itertools.repeat(most)))
        work = [
            (number, list(enumerate(states))[first : first + AT_ONCE])
            for number, states in enumerate(found)
            for first in range(0, len(states), AT_ONCE)
        ]
        for part in pool.map(_check, *zip(*work, strict=True)):
            tally.add(part)
    return tally


def recorded(wanted: Callable[[Script], bool] = lambda script: True, **options: bool) -> Iterator[Recording]:
    for script in filter(wanted, scripts()):
        with scratch() as folder:
            yield record(script, folder, **options)


def prove(short: bool) -> list[Figure]:
    figure, target = "a power cut, states of the disk", ">= 10,000"
    if reason := usable():
        return [cannot_run(NAME, figure, target, reason)]
    chosen = list(recorded())
    tally = tried(chosen, MOST[short])
    tally.tell()
    folder = Path(shared_memory() or "/tmp")
    cuts, syncs = sum(len(each.disk.cuts) for each in chosen), sum(each.syncs for each in chosen)
    details = f"{len(chosen)} operations, cut after each of {cuts} changes and acknowledgements, {syncs} of them fsyncs"
    enough = tally.points >= (1000 if short else 10_000)
    bad = sum(tally.found.values())
    return [
        report(NAME, figure, target, tally.points, enough, details, folder=folder),
        report(NAME, "violations of P1 to P5 after a power cut", "0", bad, not bad, folder=folder),
    ]


if __name__ == "__main__":
    sys.exit(main(prove))
