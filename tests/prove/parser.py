"""Whatever is dropped, the parser answers in time, with rows or with sentences; and nothing cut off is taken for whole.

Hypothesis makes files from the grammar, a mutator damages whole ones, atheris is led by the branches of the code, and the
giants are made by hand. A crash is any error but JobError, a hang more than a second of the thread's own time, and a sentence
that says no place or would act on a terminal is counted as well.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import multiprocessing
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings

from spooler import job
from spooler.batch_file import complete, read_rows
from spooler.mistakes import IncompleteError, JobError
from tests.prove import hostile, report
from tests.prove.report import Figure

NAME = "parser"
#: Of this thread's own time, so that a machine at work on other things makes no input dear.
LIMIT_S = 1.0
#: In the suite, where cores are shared with who knows what: it finds what takes for ever, not what takes a second.
SHORT_LIMIT_S = 10.0
#: A process that does not come back at all from one input is ended, with its traceback.
STUCK_S = 600
PLACE = re.compile(r"line \d+: |overrides: |parameters: |The file |The picture |A picture |A PNG |The text ")


def read_job(data: bytes) -> None:
    made = job.decode(data)
    if job.decode(job.encode(made)) != made:
        raise AssertionError("a job does not come back as it went")


def _rows(suffix: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        overrides = None if data[-1:] < b"\x40" else b'{"steps": 7, "hires": {"strength": 0.5}, "sampler": null}'
        try:
            rows = read_rows(f"x{suffix}", data, overrides)
        except JobError as error:
            for mistake in error.mistakes:
                if not PLACE.match(mistake.message):
                    raise AssertionError(f"a sentence without a place: {mistake.message!r}") from error
            raise
        for row in rows[:3]:
            if job.decode(job.encode(row.job)) != row.job:
                raise AssertionError(f"the job of line {row.line} does not come back as it went")

    return read


TARGETS: dict[str, Callable[[bytes], None]] = {"job": read_job} | {
    suffix: _rows(suffix) for suffix in (".jsonl", ".csv", ".txt", ".png")
}


@dataclass
class Tally:
    """What came of the inputs so far; a hang is what takes more than `limit_s` of the thread's time."""

    limit_s: float = LIMIT_S
    inputs: int = 0
    valid: int = 0
    crashes: int = 0
    hangs: int = 0
    slowest_s: float = 0.0
    findings: list[str] = field(default_factory=list)

    def judge(self, target: str, data: bytes) -> None:
        """Read the bytes as the target does, and count what came of it."""
        self.inputs += 1
        began = time.thread_time()
        problem = None
        try:
            TARGETS[target](data)
            self.valid += 1
        except JobError as error:
            if not error.mistakes or not all(mistake.message.isprintable() for mistake in error.mistakes):
                problem = f"sentences that are none: {error.mistakes!r}"
        except Exception as error:  # noqa: BLE001 - whatever else it is, it is what is looked for
            problem = repr(error)
        seconds = time.thread_time() - began
        self.slowest_s = max(self.slowest_s, seconds)
        if problem:
            self.crashes += 1
            self.findings.append(f"{target}: {problem[:300]} on {data[:300]!r}")
        if seconds > self.limit_s:
            self.hangs += 1
            self.findings.append(f"{target}: {seconds:.1f} s on {len(data)} bytes that begin {data[:60]!r}")

    def add(self, other: Tally) -> None:
        self.inputs += other.inputs
        self.valid += other.valid
        self.crashes += other.crashes
        self.hangs += other.hangs
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.findings += other.findings


def mutations(target: str, count: int, seed: int) -> Tally:
    rng, tally = random.Random(f"{target} {seed}"), Tally()
    for done in range(count):
        if done % 10_000 == 0:
            faulthandler.dump_traceback_later(STUCK_S, exit=True)
        tally.judge(target, hostile.hostile(rng, target))
    faulthandler.cancel_dump_traceback_later()
    return tally


def grammar(target: str, count: int, derandomize: bool) -> Tally:
    """Hypothesis' own files, one after another; nothing fails in there, so nothing is shrunk."""
    tally = Tally()

    @settings(
        max_examples=count,
        derandomize=derandomize,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(hostile.STRATEGIES[target])
    def judge(data: bytes) -> None:
        if tally.inputs % 100 == 0:
            faulthandler.dump_traceback_later(STUCK_S, exit=True)
        tally.judge(target, data)

    judge()
    faulthandler.cancel_dump_traceback_later()
    return tally


def giants(limit_s: float = LIMIT_S) -> Tally:
    tally = Tally(limit_s)
    for target, files in hostile.giants().items():
        for data in files:
            faulthandler.dump_traceback_later(STUCK_S, exit=True)
            tally.judge(target, data)
    faulthandler.cancel_dump_traceback_later()
    return tally


def led_by_branches(target: str, count: int) -> Tally:
    """Atheris in a process of its own, which it ends itself: libFuzzer holds that process."""
    with tempfile.TemporaryDirectory() as folder:
        told, corpus = Path(folder) / "tally.json", Path(folder) / "corpus"
        corpus.mkdir()
        for number in range(100):
            (corpus / str(number)).write_bytes(hostile.WHOLE[target](random.Random(number)))
        dictionary = Path(folder) / "dictionary"
        escaped = ("".join(f"\\x{byte:02x}" for byte in token[:60]) for token in hostile.TOKENS)
        dictionary.write_text("\n".join(f'"{each}"' for each in escaped))
        libfuzzer = [f"-atheris_runs={count}", "-timeout=60", "-max_len=8192", f"-dict={dictionary}"]
        libfuzzer += [f"-artifact_prefix={folder}/"]
        ended = subprocess.run(
            [sys.executable, "-m", "tests.prove.parser_atheris", target, str(told), *libfuzzer, str(corpus)],
            cwd=report.ROOT,
            capture_output=True,
            text=True,
        )
        tally = Tally(**json.loads(told.read_text())) if told.exists() else Tally()
        if ended.returncode:
            tally.crashes += 1
            tally.findings.append(f"{target}: atheris ended with status {ended.returncode}: {ended.stderr[-1500:]}")
        return tally


def object_prefixes(count: int, seed: int) -> Tally:
    """Strict prefixes of whole job files: each must be one that may still be arriving, none a job and none refused."""
    rng, tally = random.Random(seed), Tally()
    while tally.inputs < count:
        whole = hostile.json_object(rng)
        job.decode(whole)
        for end in range(len(whole.rstrip())):
            tally.inputs += 1
            try:
                job.decode(whole[:end])
                tally.crashes += 1
                tally.findings.append(f"taken for whole: {whole[:end]!r}")
            except IncompleteError:
                continue
            except JobError as error:
                tally.crashes += 1
                tally.findings.append(f"refused while it arrives: {error}: {whole[:end]!r}")
    return tally


def file_prefixes(count: int, seed: int) -> Tally:
    """Strict prefixes of whole batch files: none is refused for good, none of a picture is whole, and but for the last row
    those that are read are those of the whole file."""
    rng, tally = random.Random(seed), Tally()
    while tally.inputs < count:
        for suffix in (".jsonl", ".csv", ".txt", ".png"):
            name, whole = f"x{suffix}", hostile.WHOLE[suffix](rng)
            rows = read_rows(name, whole)
            for end in range(len(whole)):
                tally.inputs += 1
                problem = _problem_of_prefix(name, whole[:end], rows)
                if problem:
                    tally.crashes += 1
                    tally.findings.append(f"{suffix}: {problem}: {whole[:end]!r} of {whole!r}")
    return tally


def _problem_of_prefix(name: str, prefix: bytes, rows: list[object]) -> str | None:
    if complete(name, prefix):
        return "taken for whole"
    try:
        read = read_rows(name, prefix)
    except IncompleteError:
        return None
    except JobError as error:
        return f"refused while it arrives ({error})"
    return None if read[:-1] == rows[: len(read) - 1] else "other rows than those of the whole file"


def prove(short: bool) -> Iterator[Figure]:
    mutated, made, led, prefixes = (600, 60, 0, 20_000) if short else (120_000, 5_000, 80_000, 1_000_000)
    seed = 0 if short else random.SystemRandom().randrange(1 << 32)
    if led and not importlib.util.find_spec("atheris"):
        reason = "atheris is not installed: pip install 'sdspool[prove]'; more mutations stand in for it"
        yield report.cannot_run(NAME, "files led by the code's branches", "0 crashes, 0 hangs", reason)
        mutated, led = mutated + led, 0
    tally = Tally(SHORT_LIMIT_S if short else LIMIT_S)
    # Each in a process: one that is stuck ends alone.
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        parts = [pool.submit(giants, tally.limit_s)]
        parts += [pool.submit(mutations, target, mutated, seed) for target in TARGETS]
        parts += [pool.submit(grammar, target, made, short) for target in TARGETS]
        parts += [pool.submit(led_by_branches, target, led) for target in TARGETS if led]
        whole, lines = pool.submit(object_prefixes, prefixes, seed), pool.submit(file_prefixes, prefixes // 4, seed)
        for part in parts:
            tally.add(part.result())
    shares = {"mutations": mutated, "hypothesis": made, "atheris": led}
    said = ", ".join(f"{count * len(TARGETS):,} by {name}" for name, count in shares.items() if count)
    yield from _figures(tally, tally.inputs if short else 1_000_000, f"{said}, the giants by hand (seed {seed})")
    yield _prefix_figure("strict prefixes of job files taken for whole, or refused", whole.result())
    yield _prefix_figure("strict prefixes of .jsonl, .csv, .txt, .png refused for good, or read as other rows", lines.result())


def _figures(tally: Tally, least: int, said: str) -> Iterator[Figure]:
    details = f"{said}; {tally.valid:,} were valid; the dearest took {tally.slowest_s:.2f} s of its thread"
    details = "; ".join([details, *tally.findings[:3]])
    enough = tally.inputs >= least
    yield report.report(NAME, "hostile files read, of five kinds", f">= {least:,}", tally.inputs, enough, details)
    yield report.report(NAME, "crashes, and sentences that are none", "0", tally.crashes, tally.crashes == 0)
    yield report.report(NAME, f"hangs (over {tally.limit_s:g} s)", "0", tally.hangs, tally.hangs == 0)


def _prefix_figure(what: str, tally: Tally) -> Figure:
    details = "; ".join([f"{tally.inputs:,} prefixes", *tally.findings[:3]])
    return report.report(NAME, what, "0", tally.crashes, tally.crashes == 0, details)


if __name__ == "__main__":
    sys.exit(report.main(prove))
