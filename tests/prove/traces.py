"""Drop traces: programs write into pending/ as they really do, and the real spooler looks in between, after every step.

Several writers (writers.py) at once, in the order of a seed; the service is the real one (its index, its doorman, its watch
with the kernel's own events), turned by hand on a clock that is held (turned.py), with an engine that answers at once or later.
In three ways: the events are read before each look; now and then; and there are none (no inotify instance is left).

The oracle knows what each writer meant: what is taken is whole, what is valid is taken once, what is not is set aside with a
reason, a temporary name is let alone, and of versions of one file the last is taken.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spooler.batch_file import read_rows
from spooler.spool import Spool
from tests.prove.plans import plans
from tests.prove.programs import PROGRAMS, real
from tests.prove.report import Figure, main, report
from tests.prove.turned import MODES, Desk, Mode, held_events
from tests.prove.writing import ANY, OPEN, SHUT, Steps, Whole, Work

NAME = "traces"
#: Writers at once in one folder.
AT_ONCE = 6


@dataclass
class Trace:
    """A writer at work."""

    label: str
    seed: int
    work: Work
    steps: Steps
    until: float = 0.0  # when it has to go on
    failed: str = ""  # the error that it met

    def judge(self, found: Found, heard: dict[str, bytes]) -> Iterator[str]:
        """What is wrong in the end with what became of it."""
        work = self.work
        if self.failed:
            yield f"the writer failed: {self.failed}"
        rejected = {name: data for name, data in found.rejected.items() if _is_of(name, work.stem)}
        taken = [whole for job_id, whole in found.taken.items() if _is_of(job_id, work.stem)]
        for whole in taken:
            if whole not in work.wholes:
                yield f"taken half: {whole}, where whole were {work.wholes}"
        if work.invalid is not None:
            if rejected != {work.name: work.invalid}:
                yield f"to be set aside: {work.invalid!r}; but set aside are {rejected}, taken {taken}"
            elif not found.reasons[work.name].strip():
                yield "set aside without a reason"
            return
        if rejected:
            yield f"wrongly rejected: {[(name, data, found.reasons[name]) for name, data in rejected.items()]}"
        if not work.wholes or work.wholes[-1] not in taken:
            yield f"not taken: {work.wholes[-1:]}, but {taken}; left in pending/ are {found.left}"
        if twice := [whole for whole in taken if taken.count(whole) > work.wholes.count(whole)]:
            yield f"taken twice: {twice[0]}"


@dataclass
class Found:
    """What lies in the spool in the end."""

    taken: dict[str, Whole]
    rejected: dict[str, bytes]
    reasons: dict[str, str]
    left: set[str]
    broken: list[str]

    @classmethod
    def of(cls, desk: Desk) -> Found:
        spool, broken = desk.spool, []
        taken: dict[str, Whole] = {}
        rows: set[str] = set()
        for folder in spool.batches.iterdir():
            batch = json.loads((folder / "batch.json").read_bytes())
            taken[folder.name] = {
                path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("batch.json", "queued")
            }
            rows |= set(batch["jobs"])
            extra = taken[folder.name].get(f"{batch['file']}.overrides.json")
            wanted = [row.job.prompt for row in read_rows(batch["file"], taken[folder.name][batch["file"]], extra)]
            got = [_prompt(spool.root / "done" / job_id) for job_id in batch["jobs"]]
            if wanted != got:
                broken.append(f"batch {folder.name}: rows {wanted}, jobs in done/ {got}")
        for folder in (spool.root / "done").iterdir():
            data = (folder / "job.json").read_bytes()
            if data != desk.engine.heard.get(folder.name):
                broken.append(f"{folder.name}: the engine heard {desk.engine.heard.get(folder.name)!r}, done/ has {data!r}")
            if folder.name not in rows:
                inputs = folder / "inputs"
                pictures = {f"inputs/{each.name}": each.read_bytes() for each in inputs.iterdir()} if inputs.is_dir() else {}
                taken[folder.name] = {"job.json": data, **pictures}
        for state in ("failed", "cancelled"):
            broken += [f"{state}: {each.name}" for each in (spool.root / state).iterdir()]
        broken += [f"claimed: {each}" for each in spool.walk("claimed")]
        files = {each.name for each in spool.rejected_folder.iterdir()}
        rejected = {name for name in files if not name.endswith(".reason.txt")}
        return cls(
            taken=taken,
            rejected={name: _bytes(spool.rejected_folder / name) for name in rejected},
            reasons={name: (spool.rejected_folder / f"{name}.reason.txt").read_text() for name in rejected},
            left={each.name for each in spool.pending.iterdir()},
            broken=broken,
        )


def _prompt(folder: Path) -> object:
    try:
        return json.loads((folder / "job.json").read_bytes())["prompt"]
    except FileNotFoundError:
        return None


def _bytes(path: Path) -> bytes:
    if path.is_file():
        return path.read_bytes()
    return b"a folder of " + b", ".join(sorted(os.fsencode(each.name) for each in path.iterdir()))


def _is_of(name: str, stem: str) -> bool:
    return name == stem or name.startswith((f"{stem}.", f"{stem}-"))


def clear(spool: Spool) -> None:
    for name in ("pending", "done", "failed", "cancelled", "rejected", "batches", "tmp"):
        for entry in (spool.root / name).iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def run_together(desk: Desk, traces: Sequence[Trace], every_step: bool) -> list[str]:
    """Let the writers work in turns, with looks in between; returns what went wrong."""
    rng, active = desk.rng, list(traces)
    paused = desk.spool.root / "PAUSE"
    if rng.random() < 0.3:
        paused.touch()
    for trace in traces:
        trace.until = desk.now + ANY
    while active:
        soonest = min(active, key=lambda trace: trace.until)
        slack = soonest.until - desk.now
        if rng.random() < 0.3:
            desk.wait(rng.choice((0.0, 0.004, 0.05, 0.3, 1.0, rng.random() * slack)) if slack > 1.2 else 0.0)
            slack = soonest.until - desk.now
        chosen = soonest if slack < 1.2 else rng.choice(active)
        try:
            limit = next(chosen.steps)
            chosen.until = desk.now + (SHUT if limit == OPEN and chosen.work.seems_whole else limit)
        except StopIteration:
            active.remove(chosen)
        except OSError as error:  # its file was taken from under it
            chosen.failed = str(error)
            active.remove(chosen)
        if every_step or rng.random() < 0.6:
            for _ in range(rng.choice((1, 1, 2))):
                desk.look()
        if rng.random() < 0.03:
            paused.unlink(missing_ok=True)
    paused.unlink(missing_ok=True)
    desk.settle()
    found = Found.of(desk)
    wrong = list(found.broken)
    known: set[str] = set()
    for trace in traces:
        wrong += [f"{trace.label} seed {trace.seed} ({desk.mode}): {each}" for each in trace.judge(found, desk.engine.heard)]
        known |= trace.work.litter
    stems = [trace.work.stem for trace in traces]
    strangers = [name for name in (*found.taken, *found.rejected) if not any(_is_of(name, stem) for stem in stems)]
    wrong += [f"a temporary name was taken or set aside: {name}" for name in strangers]
    wrong += [f"left in pending/: {name}" for name in found.left - known if not name.startswith(".")]
    clear(desk.spool)
    desk.engine.heard.clear()
    if desk.fd:
        desk.fd.pump()
    desk.turn()
    return wrong


def run_mode(mode: Mode, seed: int, seeds: int, prefix_step: int, part: float = 1.0) -> tuple[int, int, list[str]]:
    """All traces in one way of hearing, or a random `part` of them.

    Returns how many there were, how many looks, and what went wrong.
    """
    rng = random.Random(f"{seed} {mode}")
    todo = list(plans(seeds, prefix_step))
    todo = rng.sample(todo, round(len(todo) * part))
    wrong: list[str] = []
    count = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder, held_events():
        desk = Desk(Path(folder) / "spool", mode, rng)
        try:
            while todo:
                group = [todo.pop() for _ in range(min(len(todo), rng.randint(1, AT_ONCE)))]
                traces = []
                for label, byte_by_byte, make in group:
                    count += 1
                    own = rng.getrandbits(32)
                    work, steps = make(desk, f"t{count:06d}", random.Random(own))
                    work.byte_by_byte = byte_by_byte
                    traces.append(Trace(label, own, work, steps))
                wrong += run_together(desk, traces, every_step=any(byte_by_byte for _, byte_by_byte, _ in group))
        finally:
            desk.close()
    return count, desk.looks, wrong


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of thousands of files that are set aside on purpose."""
    logger = logging.getLogger("spooler")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def prove(short: bool) -> list[Figure]:
    seed = 20261121
    total, looks, wrong = 0, 0, list[str]()
    for mode in MODES:
        with quiet():
            count, seen, found = run_mode(
                mode, seed, seeds=1 if short else 10, prefix_step=7 if short else 1, part=0.15 if short else 1
            )
        total, looks, wrong = total + count, looks + seen, wrong + found
    kinds = Counter(each.split(": ")[1] if ": " in each else each for each in wrong)
    for each in wrong[:20]:
        print(each[:1000], file=sys.stderr)
    details = f"seed {seed}, {looks} looks" + (f"; {dict(kinds.most_common(5))}" if wrong else "")
    ok_count = total >= (100 if short else 10_000)
    return [
        report(NAME, "drop traces", ">= 10,000", total, ok_count, f"{looks} looks in between; seed {seed}"),
        report(NAME, "drop traces taken half, wrongly rejected, lost or taken twice", "0", len(wrong), not wrong, details),
        *([] if short else [_real_figure()]),
    ]


def _real_figure() -> Figure:
    count, wrong = real(rounds=3)
    for each in wrong[:20]:
        print(each[:1000], file=sys.stderr)
    left_out = sorted({needs for needs, _ in PROGRAMS.values() if not shutil.which(needs)})
    details = f"{count} files by {len(PROGRAMS)} programs, to the end in done/"
    details += f"; not installed: {', '.join(left_out)}" if left_out else ""
    figure = "of real programs' files under a real spooler, not done with their exact bytes"
    return report(NAME, figure, "0", len(wrong), not wrong and count >= 100, details)


if __name__ == "__main__":
    sys.exit(main(prove))
