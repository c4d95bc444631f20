"""Each fsync, each look at what a rename did, each check, flag, lock and verify is taken out in turn: the suite must notice.

mutation.py finds the points in the source. Each mutant is made in a copy of the tree that is thrown away, where those tests are
run that could catch it, the quick ones first, until one fails: the test that caught it the last time (caught.json); the
operations of the power cut's proof that come by that line, cut at the same points as in its long form; the tests of the module;
the operations under kills and errors. What survives them meets all that the suite has without an engine. A hang is a catch, and
is told apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any

from spooler.spool import Spool
from tests.prove import errno_, fire, firing_range, kill, lives, operations, power
from tests.prove.mutation import PATH, Mutant, mutants
from tests.prove.report import ROOT, Figure, cannot_run, main, report

NAME = "mutants"
#: Mutants that are tried at once: what tests them waits for half of the time.
WORKERS = 4
#: Where jobs are moved and written. Not here: what only reads, and what writes a probe that it removes (doctor, mounts).
MODULES = (
    "durable", "moves", "claims", "marks", "spool", "reader", "life", "pending", "dropped", "pictures", "batches", "doorman",
    "notices", "edit", "archive", "fsck",
    "retention", "intake", "removal", "service", "attempts",
)  # fmt: skip
#: Seconds after which a run hangs: the longest one that does not takes a third of it. Where the same run without the mutant
#: takes as long, it gets more, up to the second figure.
LIMIT_S, BUSY_LIMIT_S = 100.0, 3200.0
#: By mutant the test that caught it, so that the next time it is asked first. Nothing is believed of it: it is run.
CAUGHT = Path(__file__).with_name("caught.json")
_NOTING = threading.Lock()
#: What pytest says when there is no such test: it may be called otherwise by now.
NOTHING_RUN = (4, 5)
#: Operations that come by a line, of which so many are tried.
OPERATIONS = 6
#: States of the disk that are looked for after a change; in a long operation after each fourth one.
STATES = 6
#: The tests of a module, quick ones first. Those of spool.py serve for what it is made of.
TESTS: Mapping[str, Sequence[str]] = {
    "pending": ("looks", "races", "claims", "gone", "batches", "spool", "watch", "prove_traces"),
    "dropped": ("looks", "races", "gone", "strangers", "watch", "prove_traces"),
    "pictures": ("looks", "pictures", "strangers"),
    "batches": ("taking", "looks", "races", "gone", "syncs", "batches", "locks", "prove_traces"),
    "doorman": ("taking", "looks", "gone", "batches", "watch", "prove_traces"),
    "notices": ("syncs", "gone", "notices", "outbox", "webhook", "targets"),
    "edit": ("looks", "syncs", "gone", "claims", "verbs", "locks"),
    "archive": ("looks", "gone", "verbs"),
    "fsck": ("mends", "closed", "syncs", "races", "gone", "verbs"),
    "retention": ("gone", "retention"),
    "intake": ("begin", "closed", "gone", "looks", "claims", "locks", "spool", "service"),
    "removal": ("races", "gone", "retention", "spool"),
    "service": ("life", "begin", "closed", "claims", "prove_clock"),
    "attempts": ("life", "begin", "closed", "claims", "prove_clock"),
}
SPOOL = (
    "durable", "syncs", "looks", "races", "claims", "gone", "closed", "life", "verbs", "batches", "locks", "spool",
    "prove_traces",
)  # fmt: skip
#: Tests of races, which take long and are for the locks.
RACES = ("eight_claimers", "submitters_of_one_id", "killed_at_any_moment")
#: All that the suite has and that needs no engine and no network, for a mutant that survived the tests of its module.
REST = (
    "durable", "syncs", "life", "looks", "races", "claims", "gone", "closed", "begin", "verbs", "taking", "mends", "batches",
    "locks", "batch_file",
    "retention", "spool", "mounts", "index", "pictures", "notices", "outbox", "webhook", "targets", "watch",
    "prove_errno", "prove_kill", "prove_power", "prove_clock", "prove_storm", "prove_disk_full", "prove_traces",
)  # fmt: skip
#: Mutants that change nothing that anybody could see, each with the reason. They are counted apart.
PROBE = "The file is empty and removed at once; nobody asks for more than that it could be made."
EQUIVALENT: Mapping[tuple[str, str, str, str], str] = {
    ("spool", "Spool.create", 'durable.write_new(probe, b"")', f'{PATH}(probe).write_bytes(b"")'): PROBE,
    (
        "spool",
        "Spool.reap_tmp",
        'durable.write_new(now_file, b"")',
        f'{PATH}(now_file).write_bytes(b"")',
    ): PROBE,
    (
        "retention",
        "agrees_with_disk",
        'durable.write_new(probe, b"")',
        f'{PATH}(probe).write_bytes(b"")',
    ): PROBE,
    (
        "pending",
        "Pending._list",
        "False",
        "True",
    ): "Only the order of new names is told by it; the look at each follows no link.",
    ("dropped", "is_dir", "False", "True"): "Only what is worth a look is told by it; the look itself follows no link.",
    ("batches", "Batches._submit", "spool.find_by_name(job_id) is None", "True"): "The look under the lock decides.",
    ("durable", "write_new", "os.O_NOFOLLOW", "0"): "With O_CREAT and O_EXCL no link is followed (open(2)); W1 asks for both.",
}


@dataclass(frozen=True)
class Fate:
    """What became of a mutant: which run caught it, if one did."""

    mutant: Mutant
    caught_by: str = ""
    hung: bool = False
    why: str = ""


def all_mutants() -> list[Mutant]:
    return [each for name in MODULES for each in mutants((ROOT / "spooler" / f"{name}.py").read_bytes(), name)]


# -- what could catch it -----------------------------------------------------------------------------------------------------


def lines_of(script: lives.Script) -> set[tuple[str, int]]:
    """The lines of spooler/ that the script comes by, each as module and number."""
    found: set[tuple[str, int]] = set()
    ours = str(ROOT / "spooler") + os.sep

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        path = frame.f_code.co_filename
        if not path.startswith(ours):
            return None
        found.add((Path(path).stem, frame.f_lineno))
        return trace

    with fire.scratch() as folder:
        spool = Spool(folder / "spool")
        ledger = script.stage(spool)
        with script.ready(spool):
            threading.settrace(trace)
            sys.settrace(trace)
            try:
                script.act(spool, ledger, lambda said: None)
            finally:
                sys.settrace(None)
                threading.settrace(None)  # type: ignore[arg-type]
    return found


def paths() -> dict[str, set[tuple[str, int]]]:
    """The lines that each script of the power cut's proof comes by, the shortest script first."""
    chosen = [script for script in lives.scripts(seeds=0) if script.name not in errno_.LONG]
    found = {script.name: fire.forked(lambda script=script: lines_of(script)) for script in chosen}
    return dict(sorted(found.items(), key=lambda pair: len(pair[1])))


def caught_before() -> dict[str, str]:
    """By mutant the test that caught it the last time."""
    try:
        found: dict[str, str] = json.loads(CAUGHT.read_text())
    except FileNotFoundError:
        return {}
    return found


def remember(fate: Fate) -> None:
    """Note which test caught it, for the next time."""
    if failed := re.search(r"^FAILED (tests/.+?)(?: - |$)", fate.why, re.MULTILINE):
        with _NOTING:
            caught = caught_before() | {_hint(fate.mutant): failed[1]}
            draft = CAUGHT.with_suffix(".draft")
            draft.write_text(json.dumps(dict(sorted(caught.items())), indent=1) + "\n")
            draft.replace(CAUGHT)  # others read it meanwhile


def _hint(mutant: Mutant) -> str:
    return " | ".join(mutant.key)


def runs(mutant: Mutant, come_by: Mapping[str, set[tuple[str, int]]], rest: bool = False) -> Iterator[tuple[str, list[str]]]:
    """The runs that could catch a mutant, the likeliest first: a name for each, and the arguments of Python."""
    known = caught_before().get(_hint(mutant), "")
    if known and (ROOT / known.partition("::")[0]).exists():
        yield known, ["-m", "pytest", *_pytest(()), known]
    names = firing_range.spread([name for name, lines in come_by.items() if (mutant.file, mutant.line) in lines], OPERATIONS)
    table = {each.name for each in operations.operations()}
    fired = firing_range.spread([name for name in names if name in table], 3)
    quick = [] if mutant.kind == "lock" else ["-k", f"not ({' or '.join(RACES)})"]
    tests = (mutant.file, ["-m", "pytest", *_pytest(TESTS.get(mutant.file, SPOOL)), *quick])
    cut = ("power", ["-m", "tests.prove.mutants", "power", *names])
    if mutant.kind in ("fsync", "rename"):
        yield from [cut] * bool(names)
        yield tests
    else:
        yield tests
        if fired:
            yield "errno_ and kill", ["-m", "tests.prove.mutants", "fire", *fired]
        yield from [cut] * bool(names)
    if rest:
        yield "the rest", ["-m", "pytest", *_pytest(REST)]


def _pytest(names: Iterable[str]) -> list[str]:
    return ["-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", *(f"tests/test_{name}.py" for name in names)]


def attack(kind: str, names: Collection[str]) -> list[str]:
    """Attack these operations as the proofs do; returns the violations. This is what runs in the copy, with the mutant."""
    for name in names:
        if kind == "power":
            tally = power.tried(list(power.recorded([name])), STATES, 4)
        else:
            tally = errno_.try_operation(name, 0, 1, errno_.SHORT)
            tally.add(kill.try_operation(name, 0, 1, kill.SHORT))
        if tally.found:
            return list(tally.found)
    return []


# -- one after another, each in a copy ---------------------------------------------------------------------------------------


class Copy:
    """A copy of the tree, of which one module at a time is another."""

    def __init__(self, root: Path):
        self.root = root
        big = {"demo_model", "configs"}

        def ignore(folder: str, names: list[str]) -> set[str]:
            skipped = {".git", ".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"}
            return {name for name in names if name in skipped or name in big}

        shutil.copytree(ROOT, root, symlinks=True, ignore=ignore)
        (root / "spooler" / "demo_model").symlink_to(ROOT / "spooler" / "demo_model")
        (root / "spooler" / "engine" / "configs").symlink_to(ROOT / "spooler" / "engine" / "configs")

    @contextlib.contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        path = self.root / "spooler" / f"{mutant.file}.py"
        whole = path.read_bytes()
        self._write(path, mutant.applied(whole))
        try:
            yield
        finally:
            self._write(path, whole)

    @staticmethod
    def _write(path: Path, source: bytes) -> None:
        path.write_bytes(source)
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            compiled.unlink()  # it is told from a new one by size and second alone

    def run(self, arguments: Sequence[str], limit_s: float = LIMIT_S) -> tuple[int | None, str]:
        """The exit status of Python in the copy, None when it hangs; and the end of what it said."""
        temporary = self.root.with_name(f"{self.root.name}-tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        pytest = [f"--basetemp={temporary}/pytest"] if "pytest" in arguments else []
        environment = {**os.environ, "PYTHONPATH": str(self.root), "TMPDIR": str(temporary)}
        process = subprocess.Popen(
            [sys.executable, *arguments, *pytest],
            cwd=self.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=limit_s)
            return process.returncode, said[-2000:]
        except subprocess.TimeoutExpired:
            return None, f"it hangs: {limit_s:g} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            self._end_what_it_left()

    def _end_what_it_left(self) -> None:
        """Kill what was started in the copy and still runs: processes in sessions of their own."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    if (entry / "cwd").readlink().is_relative_to(self.root):
                        os.kill(int(entry.name), signal.SIGKILL)


def try_mutant(copy: Copy, mutant: Mutant, come_by: Mapping[str, set[tuple[str, int]]], rest: bool) -> Fate:
    for name, arguments in runs(mutant, come_by, rest):
        limit_s, slow = LIMIT_S, True
        while slow:
            with copy.mutated(mutant):
                status, said = copy.run(arguments, limit_s)
            # What takes as long without the mutant does not hang: the machine is busy.
            slow = status is None and limit_s < BUSY_LIMIT_S and copy.run(arguments, limit_s)[0] is None
            limit_s *= 2
        if status not in (0, *NOTHING_RUN):
            return Fate(mutant, name, status is None, said)
    return Fate(mutant)


def tried(
    chosen: Sequence[Mutant], rest: bool, tell: Callable[[Fate], object] = lambda fate: None, copies: int = WORKERS
) -> list[Fate]:
    """Try these mutants. `rest`: those that survive the tests of their module meet the rest of the suite too."""
    come_by = paths()
    with fire.scratch() as folder:
        free: SimpleQueue[Copy] = SimpleQueue()
        for number in range(min(copies, len(chosen))):
            free.put(Copy(folder / f"copy-{number}"))

        def work(mutant: Mutant) -> Fate:
            copy = free.get()
            try:
                fate = try_mutant(copy, mutant, come_by, rest)
            finally:
                free.put(copy)
            tell(fate)
            return fate

        with ThreadPoolExecutor(copies) as pool:
            return list(pool.map(work, chosen))


def clean(chosen: Collection[Mutant]) -> list[str]:
    """What fails without a mutant, among all runs that these may meet: it would be taken for a catch."""
    come_by = paths()
    every = {tuple(arguments): name for mutant in chosen for name, arguments in runs(mutant, come_by, rest=True)}
    tests = sorted({each.partition("::")[0] for arguments in every for each in arguments if each.startswith("tests/")})
    with fire.scratch() as folder:
        copy = Copy(folder / "clean")
        found = [copy.run(["-m", "pytest", *_pytest(()), *tests], BUSY_LIMIT_S)] if tests else []
        for kind in ("power", "fire"):
            names = sorted({name for arguments in every if kind in arguments[:3] for name in arguments[3:]})
            found += [copy.run(["-m", "tests.prove.mutants", kind, *names], BUSY_LIMIT_S)] if names else []
    return [said for status, said in found if status != 0]


def spread(number: int) -> list[Mutant]:
    """So many of the mutants, at an even stride."""
    found = [each for each in all_mutants() if each.key not in EQUIVALENT]
    return found[:: max(1, len(found) // number)][:number]


def prove(short: bool) -> list[Figure]:
    figure, target = "mutants that the suite catches, of all", "all"
    if reason := fire.usable():
        return [cannot_run(NAME, figure, target, reason)]
    everything = all_mutants()
    chosen = spread(4) if short else [each for each in everything if each.key not in EQUIVALENT]
    if not short and (broken := clean(chosen)):
        return [report(NAME, figure, target, 0, False, f"without a mutant it fails too: {broken}")]
    fates = tried(chosen, rest=not short, tell=_tell if short else _tell_and_note)
    survivors = [fate.mutant for fate in fates if not fate.caught_by]
    kinds = Counter(each.kind for each in chosen)
    hung = sum(fate.hung for fate in fates)
    equal = len([each for each in everything if each.key in EQUIVALENT])
    details = f"of {len(chosen)}: {', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))}; {hung} by a hang; "
    details += f"{equal} more change nothing that can be seen"
    if survivors:
        details += f"; survivors: {'; '.join(map(str, survivors))}"
    caught = len(chosen) - len(survivors)
    return [
        report(NAME, figure, target, caught, not survivors and caught > 0, details, folder=Path(fire.shared_memory() or "/tmp"))
    ]


def _tell_and_note(fate: Fate) -> None:
    _tell(fate)
    remember(fate)


def _tell(fate: Fate) -> None:
    by = f"caught by {fate.caught_by}{', a hang' if fate.hung else ''}" if fate.caught_by else "SURVIVES"
    print(f"  {by}: {fate.mutant}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("power", "fire"):
        wrong = attack(sys.argv[1], sys.argv[2:])
        print("\n".join(wrong))
        sys.exit(bool(wrong))
    sys.exit(main(prove))
