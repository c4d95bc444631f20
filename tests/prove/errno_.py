"""The Nth system call of an operation fails, with each errno, for every N: no promise breaks, and no answer is a lie.

An operation that says OK has made durable all that it makes durable when nothing fails: each file and folder that it fsyncs
then was fsynced, none of them after an fsync or a close of the same file had failed (W5). A lost race is no answer to a failing
disk, and neither is a mistake of the program. Afterwards the fault is gone, and every job comes to its end: by the process that
met the fault, going on at once, and by one of those that may come after it.
"""

from __future__ import annotations

import multiprocessing
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from spooler.edit import Edited
from spooler.place import Place
from spooler.states import ENDS
from tests.prove import operations
from tests.prove.fire import Call, Run, scratch, shared_memory, usable
from tests.prove.firing_range import AFTER_DEATH, UNIQUE, Range, Tally, spread
from tests.prove.promises import violations
from tests.prove.report import Figure, cannot_run, main, report
from tests.prove.stages import ME

NAME = "errno_"
WORKERS = 2
ERRNOS = ("EIO", "ENOSPC", "EDQUOT", "EROFS", "EACCES", "ESTALE", "EMFILE")
#: Of an operation with very many calls each call fails with one of them, in turn.
LONG = frozenset({"restart after a crash"})
#: Pairs of each operation in the short form.
SHORT = 3
#: What an operation may raise when a call fails: the error itself, a lock that was not to be had, or a sentence about it.
HONEST = frozenset({"OSError", "UnsyncedError", "PermissionError", "Timeout", "SpoolError", "BlockingIOError"})
#: Some file systems say this of a lock that another process has, and filelock believes them: the deed may leave it for later.
HELD_BY_ANOTHER = ("flock", "EACCES")


def durable(run: Run) -> tuple[Counter[str], list[str]]:
    """What the run made durable, each file and folder as often as it was fsynced, and the files where W5 was broken."""
    good: Counter[str] = Counter()
    written, spoiled = set(), set()
    broken = []
    for call in run.calls:
        if call.name in ("write", "pwrite64", "writev", "sendfile", "copy_file_range") and call.paths:
            written.add(call.paths[0])
        if call.name in ("fsync", "fdatasync"):
            path = call.paths[0]
            if call.failed:
                spoiled.add(path)
            elif path in spoiled:
                broken.append(_plain(path))
            else:
                good[_plain(path)] += 1
        if call.name == "close" and call.failed and call.paths and call.paths[0] in written:
            spoiled.add(call.paths[0])
            good[_plain(call.paths[0])] -= 1
    return good, broken


def of_its_kind(clean: Run, call: Call) -> Run:
    """The run with those of its calls that are noted, too, when that call fails: its thread's, or those about its path."""
    return replace(clean, calls=tuple(each for each in clean.calls if (call.of in each.paths if call.of else not each.of)))


def _plain(path: str) -> str:
    """The path from the spool on, without what is unique to one run."""
    return UNIQUE.sub("*", re.sub(r"^/.*?/\d+(/|$)", "", path))


def gist(value: Any) -> Any:
    """What an answer says, as far as two runs must agree in it."""
    if isinstance(value, Place):
        return value.state, value.id
    if isinstance(value, list):
        return sorted((gist(each) for each in value), key=repr)
    if isinstance(value, Edited):
        return value.state, value.id
    return value if isinstance(value, bool | int) else None


def lies(clean: Run, run: Run) -> Iterator[str]:
    """What is dishonest in the answer of a run in which a call failed, beside the one without a fault."""
    if run.ended == "raised":
        if run.value != clean.answer and run.value not in HONEST:
            yield f"it raises {run.value}: {UNIQUE.sub('*', _shortened(run.text))}"
        return
    if run.ended != "returned":
        yield f"it {run.ended}"
        return
    if clean.ended == "raised":
        yield f"it says OK, where it would have raised {clean.value}"
        return
    if run.answer != clean.answer:
        yield f"it says {run.answer}"
        return
    if gist(run.value) != gist(clean.value):
        yield f"it says {gist(run.value)}, not {gist(clean.value)}"
    (good, broken), (needed, _) = durable(run), durable(clean)
    for path in sorted((needed - good).keys()):
        yield f"P1: it says OK, but {path or 'the spool'} was not made durable"
    for path in broken:
        yield f"W5: it says OK after a second fsync of {path}"


def excused(name: str, lie: str) -> bool:
    """What is no lie of this operation.

    A published job is shown by then, and cannot be taken back: where the disk will not promise to keep the rename, the log
    says so, and a power cut may have the job run again (P2). Its mark `cancel` was made durable by whoever made it, and may be
    closed to us. What retention cannot remove now, or a power cut brings back whole, the next pass removes. A restart does
    many things, one after another, each looked at alone.
    """
    unsynced = lie.startswith(("P1: it says OK, but", "W5:"))
    if name.startswith("publish"):
        folders = (*ENDS, f"claimed/{ME}", f"claimed/{ME}/cat/cancel")
        return lie in {f"P1: it says OK, but {folder} was not made durable" for folder in folders}
    if name == "prune":
        folders = ("tmp", "done")
        unkept = {f"P1: it says OK, but {folder} was not made durable" for folder in folders}
        return lie in {"it says False, not True", *unkept}
    return name in LONG and unsynced


def _shortened(text: str) -> str:
    return re.sub(r"/[^' ]*?/\d+/", "", text)


def try_operation(name: str, part: int, parts: int, most: int) -> Tally:
    """Let the operation's calls fail, at `most` so many, spread evenly; of these, the `part`th of `parts` shares."""
    operation = next(each for each in operations.operations() if each.name == name)
    tally = Tally()
    with scratch() as folder:
        target = Range(operation, folder)
        clean, problems = target.counted() if most > SHORT else target.counted(["going on"])  # the rest is in kill's short form
        if part == 0:
            tally.note(f"{name}, no fault", problems)
        chosen = spread(list(faults(clean.calls, name in LONG)), most)
        for number, (call, errno, and_on) in list(enumerate(chosen))[part::parts]:
            where = f"{name}: {errno} at {call}{' and every one after it' if and_on else ''}"
            root, run = target.fire(call, f"error={errno}", and_on, log=True)
            tally.points += 1
            tally.missed += not any(each.answer.endswith("(INJECTED)") for each in run.calls)
            ledger = target.ledger
            if run.ended == "returned" and run.answer == clean.answer:
                ledger = operation.acknowledged(ledger, run.value)
            found = violations(root, ledger, rested=False)
            if (call.name, errno) != HELD_BY_ANOTHER:
                looked_at = clean if and_on else of_its_kind(clean, call)
                found += (lie for lie in lies(looked_at, run) if not excused(name, lie))
            after = AFTER_DEATH[number % len(AFTER_DEATH)]
            for heir in ("going on", after) if most > SHORT or number % 2 else (after,):
                found += target.rest(root, ledger, heir)
            tally.note(where, (f"{name}: {call.name}: {problem}" for problem in found))
            shutil.rmtree(root)
        tally.runs = target.runs
    return tally


def faults(calls: Iterable[Call], long: bool) -> Iterator[tuple[Call, str, bool]]:
    """A call, its errno, and whether every later call of that name fails too."""
    known = set()
    for number, call in enumerate(calls):
        if long:
            yield call, ERRNOS[number % len(ERRNOS)], False
            continue
        yield from ((call, errno, False) for errno in ERRNOS)
        if (point := (call.name, call.number)) not in known:  # another thread's: then it is every one in each of them
            known.add(point)
            yield call, "EIO", True


def units(short: bool) -> Iterator[tuple[str, int, int, int]]:
    """The work in shares of about one length, the longest first."""
    for operation in sorted(operations.operations(), key=lambda each: (each.name not in LONG, each.name != "recover")):
        parts = 1 if short else 8 if operation.name in LONG or operation.name == "recover" else 2
        yield from ((operation.name, part, parts, SHORT if short else sys.maxsize) for part in range(parts))


def prove(short: bool) -> list[Figure]:
    figure, target = "a system call that fails, pairs of call and errno", "every call, 7 errnos"
    if reason := usable():
        return [cannot_run(NAME, figure, target, reason)]
    tally = Tally()
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork")) as pool:
        for part in pool.map(try_operation, *zip(*units(short), strict=True)):
            tally.add(part)
    tally.tell()
    folder = Path(shared_memory() or "/tmp")
    details = f"{len(operations.operations())} operations; also EIO from the Nth call of a name on"
    bad = sum(tally.found.values())
    return [
        report(NAME, figure, target, tally.points, tally.points > 0 and not tally.missed, details, folder=folder),
        report(NAME, "violations of P1 to P5, W5 and silent OKs", "0", bad, not bad, folder=folder),
    ]


if __name__ == "__main__":
    sys.exit(main(prove))
