"""A power cut after every change that an operation makes, with every disk that may be found then: no acknowledged job is lost.

Each operation is done by a real process under strace; what reached the kernel is replayed on the model of disk.py. After each
change, each state that the model allows is laid out as a folder. It is looked at as it lies, then a spooler takes it over and
runs it to the end, and it is looked at again: what was acknowledged by then is there once and whole, with every byte, and what
was not is there whole or not at all. States are counted without what is in tmp/, the times, and what is random in names.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import multiprocessing
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spooler.spool import Spool
from spooler.states import FOLDERS
from tests.prove import stages
from tests.prove.disk import Cut, Disk, Found, Tree, lay
from tests.prove.fire import fire, scratch, shared_memory, usable
from tests.prove.firing_range import AFTER_DEATH, HEIRS, Tally
from tests.prove.kernel import SAID, replay
from tests.prove.lives import Script, scripts
from tests.prove.promises import Ledger, look, violations
from tests.prove.report import Figure, cannot_run, main, report
from tests.prove.restart import restart

NAME = "power"
WORKERS = 2
#: At most about so many states are looked for after one change; where there are more, it is a choice of them.
MOST = {False: 50, True: 3}
#: How many orders are tried where several are at work on the spool at once.
SEEDS = {False: 30, True: 1}
#: Of the changes of a long operation, one of so many is followed by a cut.
EVERY = {False: 1, True: 10}
LONG = 40  # changes
#: Times, random parts of names, and ids that are made of both: no two runs share them.
TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
UNIQUE = re.compile(rb"\d+\.[0-9a-f]{24}")
NEW_ID = re.compile(rb"(\d{8}-\d{6}-\d{3}-[0-9a-f]{10})")
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
    one_of: tuple[bytes, ...]

    def ledger(self, state: State) -> Ledger:
        return self.ledgers[self.said_by[state.cut]]

    def tree(self, state: State) -> Tree:
        return self.disk.tree(self.disk.cuts[state.cut], state.chosen, state.found)

    def allows(self, said: int, tree: Tree) -> bool:
        """Whether the model has that state at some cut after that acknowledgement and before the next."""
        cuts = [cut for number, cut in enumerate(self.disk.cuts) if self.said_by[number] == said]
        # Up to the next acknowledgement, which a cut may have been just before.
        return any(self.disk.allows(cut, tree) for cut in dict.fromkeys(cuts))

    def states(self, most: int, every: int = 1) -> dict[bytes, State]:
        """Those that differ outside tmp/, or in what was acknowledged by then, by a digest of both."""
        kept: dict[bytes, State] = {}
        seen: set[tuple[object, ...]] = set()
        ledgers = [repr(each) for each in self.ledgers]
        for number, cut in list(enumerate(self.disk.cuts))[:: every if len(self.disk.cuts) > LONG else 1]:
            if (key := (cut.made, cut.kept, self.said_by[number])) in seen:
                continue  # as after the change before
            seen.add(key)
            # The first changes of a seed are the same whatever else is recorded.
            rng = random.Random(f"{self.name} {number}")
            known: set[tuple[object, ...]] = set()
            for chosen, found in self.disk.states(cut, most, rng):
                if (key := (chosen, *sorted(found.items()))) not in known:
                    known.add(key)
                    state = State(number, chosen, found)
                    kept.setdefault(_digest(self.tree(state), ledgers[self.said_by[number]]), state)
        return kept


def _digest(tree: Tree, ledger: str) -> bytes:
    """Two states have the same one when they differ in nothing but what is in tmp/, the times, and names that are random."""
    digest = hashlib.blake2b(digest_size=16)
    ids: dict[bytes, bytes] = {}
    pieces = [_plain(ledger, b"")]
    pieces += [_plain(path, b"/" if data is None else data) for path, data in sorted(tree.items()) if path[:4] != "tmp/"]
    for text, *others in pieces:
        digest.update(text)
        for number, each in enumerate(others):
            digest.update(each if number % 2 else ids.setdefault(each, b"id %d" % len(ids)))
    return digest.digest()


@functools.lru_cache(1 << 16)
def _plain(path: str, data: bytes) -> list[bytes]:
    """A file's path and bytes without times and random names; the ids in them, which are random too, are every second piece."""
    text = b"%s=%s\0" % (path.encode(errors="surrogateescape"), data)
    return NEW_ID.split(TIME.sub(b"time", UNIQUE.sub(b"unique", text)))


def record(
    script: Script,
    folder: Path,
    unsynced: bool = False,
    torn_renames: bool = False,
    leave_out: Container[int] = (),
    note: Callable[[int], None] = lambda said: None,
) -> Recording:
    """Do the script in a process of its own. `unsynced`: with an os.fsync that does nothing, which must be found out;
    `leave_out`: the numbers of fsyncs that are taken out of what it did.

    `note` hears of each acknowledgement at once, by its number: 0 when the stage is set, -1 when the process has ended.
    """
    stage = folder / "stage"
    spool = Spool(stage)
    ledger = script.stage(spool)
    root = stages.copy(stage, folder / "recorded")
    script.ready(Spool(root)).close()  # the lock's file is there, as it is in every spool that was used before
    disk = Disk.of(root, torn_renames)
    ledgers = [ledger]

    def deed() -> list[Ledger]:
        def say(now: Ledger) -> None:
            ledgers.append(now)
            os.access(f"{SAID}{len(ledgers) - 1}", os.F_OK)
            note(len(ledgers) - 1)

        script.act(Spool(root), ledger, say)
        return ledgers

    def ready() -> contextlib.ExitStack:
        if unsynced:
            os.fsync = lambda fd: None
        return script.ready(Spool(root))

    note(0)
    run = fire(deed, ready, data=True)
    note(-1)
    assert run.ended == "returned", f"{script.name}: {run.ended} {run.value}: {run.text}"
    said_by = [0]

    def said(number: int) -> None:
        # What was acknowledged holds from here on: a cut of its own, for no change has to follow.
        _fill(said_by, disk)
        disk.cut(f"{disk.cuts[-1].after}, acknowledged {number}")
        said_by.append(number)

    syncs = replay(run.trace, root, disk, said, leave_out)
    _fill(said_by, disk)
    shutil.rmtree(stage)
    shutil.rmtree(root)
    return Recording(script.name, disk, run.value, said_by, syncs, script.one_of)


def _fill(said_by: list[int], disk: Disk) -> None:
    """The cuts since the last word stand under that word."""
    said_by += [said_by[-1]] * (len(disk.cuts) - len(said_by))


def check(tree: Tree, ledger: Ledger, one_of: Sequence[bytes], folder: Path, heirs: Sequence[str]) -> Iterator[str]:
    """What is wrong with a spool that was found so, as it lies and after each heir has run it to its end."""
    root = folder / "spool"
    laid = False
    if all(name in tree for name in FOLDERS):  # else the power went before all of them were made
        lay(tree, root)
        yield from violations(root, ledger, rested=False)
        yield from _neither(root, one_of)
        laid = True
    for heir in heirs:
        if not laid:
            lay(tree, root)
        laid = False
        told: list[tuple[bytes, int]] = []

        def hear(raw: bytes, number: int, told: list[tuple[bytes, int]] = told) -> None:
            told.append((raw, number))

        try:
            name, recover_first = HEIRS[heir]
            restart(root, name, hear, recover_first)
            wrong = [*violations(root, ledger.heard(told), rested=True), *_neither(root, one_of)]
            yield from (f"{each} [{heir}]" for each in wrong)
        except Exception as error:  # noqa: BLE001 - whatever it is, the spool is stuck
            yield f"P2: it cannot be run to its end: {type(error).__name__}: {error} [{heir}]"
        shutil.rmtree(root)


def _neither(root: Path, one_of: Sequence[bytes]) -> Iterator[str]:
    if one_of and not any(sight.raw in one_of for sight in look(root)):
        yield "P2: the job is neither there as it was, nor as it was edited"


# -- all of them, on two cores -----------------------------------------------------------------------------------------------

#: What the workers inherit when they are forked.
_recordings: list[Recording] = []


def _states_of(number: int, most: int, every: int) -> dict[bytes, State]:
    return _recordings[number].states(most, every)


def _check(number: int, states: Sequence[tuple[int, State]]) -> Tally:
    recording = _recordings[number]
    tally = Tally()
    with scratch() as folder:
        for index, state in states:
            cut = recording.disk.cuts[state.cut]
            heirs = (AFTER_DEATH[index % len(AFTER_DEATH)],)
            problems = check(recording.tree(state), recording.ledger(state), recording.one_of, folder, heirs)
            tally.points += 1
            tally.note(
                f"{recording.name}, power cut after {cut.after}; the disk has {describe(recording.disk, cut, state)}",
                (f"{recording.name}: {problem}" for problem in problems),
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


def tried(chosen: Sequence[Recording], most: int, every: int = 1) -> Tally:
    """Check the states of these recordings; of the long ones, those after every `every`th change."""
    _recordings[:] = chosen
    tally = Tally()
    # One after another, for the workers must be forked when the recordings are there.
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork")) as pool:
        known: set[bytes] = set()
        work = []
        numbers = range(len(chosen))
        found = pool.map(_states_of, numbers, itertools.repeat(most), itertools.repeat(every))
        for number, states in enumerate(found):
            new = list(enumerate(state for digest, state in states.items() if digest not in known))
            known |= states.keys()
            work += [(number, new[first : first + AT_ONCE]) for first in range(0, len(new), AT_ONCE)]
        for part in pool.map(_check, *zip(*work, strict=True)):
            tally.add(part)
    return tally


def recorded(names: Collection[str] = (), seeds: int = 0, **options: Any) -> Iterator[Recording]:
    """Record the scripts of these names, or all; with these options of `record`."""
    for script in scripts(seeds):
        if not names or script.name in names:
            with scratch() as folder:
                yield record(script, folder, **options)


def prove(short: bool) -> list[Figure]:
    figure, target = "a power cut, states of the disk", ">= 10,000"
    if reason := usable():
        return [cannot_run(NAME, figure, target, reason)]
    chosen = list(recorded(seeds=SEEDS[short]))
    tally = tried(chosen, MOST[short], EVERY[short])
    tally.tell()
    folder = Path(shared_memory() or "/tmp")
    cuts, syncs = sum(len(each.disk.cuts) for each in chosen), sum(each.syncs for each in chosen)
    details = f"{len(chosen)} operations, cut after each of {cuts} changes and acknowledgements, {syncs} of them fsyncs"
    enough = tally.points >= (300 if short else 10_000)
    bad = sum(tally.found.values())
    return [
        report(NAME, figure, target, tally.points, enough, details, folder=folder),
        report(NAME, "violations of P1 to P5 after a power cut", "0", bad, not bad, folder=folder),
    ]


if __name__ == "__main__":
    sys.exit(main(prove))
