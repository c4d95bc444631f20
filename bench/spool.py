"""What a submit and a claim cost, beside a raw loop and other queues of files, in the same run: `./run.sh bench spool`.

./run.sh bench spool [--quick] [--only submits,claims,depths,latency] [--json FILE] [--scratch FOLDER] [--write]

    submits  durable submits a second against create + write + fsync + rename + fsync(folder) in Python, in alternate blocks
    claims   claims a second with 10,000 jobs waiting, against huey, dirq and litequeue, in alternate blocks
    depths   what a claim costs with 100 to 100,000 waiting jobs; with the most: from the start of a real service, whose
             engine only sleeps, to its first claim, and its memory
    latency  from a rename into pending/ to the claim by a real, idle service

The scratch folder should be on the disk that a spool would be on. `--write` puts the table into docs/benchmarks.md. Exit
status: 1 when a figure misses its target.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.figures import percentile
from bench.peers import CONTENDERS, RAW, Contender, Ours, RawLoop
from spooler.spool import Spool
from tests.prove.report import commit, machine

PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN = "<!-- The table is made by ./run.sh bench spool --write. -->"
END = "<!-- The end of the table. -->"
#: Nothing here is waited for longer, in seconds.
DEADLINE_S = 300.0


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    submit_blocks: int = 120
    claim_blocks: int = 15
    claim_block: int = 40
    waiting: int = 10_000
    depths: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    depth_blocks: int = 100
    drops: int = 1_000
    traced: int = 96  # as the blocks, whole goes of eight


FULL = Scale()
QUICK = Scale(20, 4, 24, 1_000, (100, 10_000), 20, 100, 48)


@dataclass(frozen=True)
class Row:
    """One figure. `ok` is None when it has no target; `reason` says why there is no value."""

    group: str
    figure: str
    value: float | None
    unit: str = ""
    target: str = ""
    ok: bool | None = None
    reason: str = ""
    about: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        value = f"not measured: {self.reason}" if self.value is None else f"{number(self.value)} {self.unit}".strip()
        verdict = {True: "reached", False: "MISSED", None: ""}[self.ok]
        return (self.figure, value, self.target, verdict)


@dataclass
class Figures:
    """What was measured, printed as it comes."""

    rows: list[Row] = field(default_factory=list)

    def add(self, group: str, figure: str, value: float | None, unit: str = "", **more: object) -> None:
        row = Row(group, figure, value, unit, **more)  # type: ignore[arg-type]
        self.rows.append(row)
        print("  ".join((f"{row.cells[0]:<72}", f"{row.cells[1]:>20}", *(cell for cell in row.cells[2:] if cell))), flush=True)

    def at_most(self, group: str, figure: str, value: float, unit: str, most: float, about: str = "") -> None:
        self.add(group, figure, value, unit, target=f"<= {most:g}", ok=value <= most, about=about)

    def at_least(self, group: str, figure: str, value: float, unit: str, least: float, about: str = "") -> None:
        self.add(group, figure, value, unit, target=f">= {least:g}", ok=value >= least, about=about)


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


# -- submits -----------------------------------------------------------------------------------------------------------------


def submits(folder: Path, scale: Scale, figures: Figures) -> None:
    spool = Spool(folder / "spool")
    spool.create()
    raw = RawLoop(spool)
    ways: tuple[Callable[[], object], ...] = (raw.submit, lambda: spool.submit(RAW))
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(scale.submit_blocks + 4):
        for which in (0, 1) if turn % 2 else (1, 0):
            begin = time.perf_counter()
            for _ in range(20):
                ways[which]()
            if turn >= 4:  # the first ones warm up
                seconds[which].append((time.perf_counter() - begin) / 20)
    for name, which, traced in (("raw loop", 0, "raw submit"), ("Spool.submit", 1, "submit")):
        figures.add("submits", f"{name}, a second", 1 / statistics.median(seconds[which]), about=calls(folder, traced, scale))
    ratio = statistics.median(before / after for before, after in zip(*seconds, strict=True))
    figures.at_least("submits", f"Spool.submit / raw loop, median of {len(seconds[0])} pairs of blocks", ratio, "times", 0.9)


def calls(folder: Path, name: str, scale: Scale) -> str:
    """The system calls of one operation, counted by strace: the difference of two runs of another length."""
    if not shutil.which("strace"):
        return "not counted: strace is not here"
    totals = []
    for many in (24, 24 + scale.traced):
        with tempfile.TemporaryDirectory(dir=folder) as made:
            out = Path(made) / "strace"
            command = ["strace", "-f", "-c", "-o", out, sys.executable, __file__.replace("spool.py", "peers.py")]
            ended = subprocess.run([*command, name, f"{made}/queue", str(many)], capture_output=True, text=True)
            if ended.returncode:
                return f"not counted: {ended.stderr.strip().splitlines()[-1] if ended.stderr else 'it failed'}"
            totals.append(counted(out.read_text()))
    each = {call: (totals[1].get(call, 0) - totals[0].get(call, 0)) / scale.traced for call in totals[1]}
    sync = each.get("fsync", 0) + each.get("fdatasync", 0)
    # A getpid asks nothing of a disk, and filelock asks it a score of times; garbage collection has a few of the others.
    rest = sum(value for call, value in each.items() if call not in ("fsync", "fdatasync", "getpid", "brk", "munmap", "mmap"))
    return f"{sync:.2g} fsyncs and {rest:.0f} other system calls each"


def counted(table: str) -> dict[str, int]:
    """Calls by name, from what `strace -c` wrote."""
    rows = (line.split() for line in table.splitlines())
    return {row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[3].isdigit() and row[-1] != "total"}


# -- claims ------------------------------------------------------------------------------------------------------------------


OURS = [name for name, kind in CONTENDERS.items() if issubclass(kind, Ours)]
#: Which of ours the target is for.
TARGETED = "sdspool, eight in one go"


def claims(folder: Path, scale: Scale, figures: Figures) -> None:
    queues: dict[str, Contender] = {}
    missing: dict[str, str] = {}
    for name, kind in CONTENDERS.items():
        try:
            queues[name] = kind(folder / name.replace(", ", "-").replace(" ", "-"))
        except ImportError as error:
            missing[name] = f"{error.name} is not installed: pip install -e '.[bench]'"
    for queue in queues.values():
        queue.fill(scale.waiting)
    os.sync()
    seconds: dict[str, list[float]] = {name: [] for name in queues}
    order = random.Random(7)
    for turn in range(scale.claim_blocks + 1):
        for name in order.sample(list(queues), len(queues)):
            took = 0.0
            for _ in range(scale.claim_block):
                begin = time.perf_counter()
                raw = queues[name].claim()
                took += time.perf_counter() - begin
                assert raw == RAW
                queues[name].end()
            if turn:
                seconds[name].append(took / scale.claim_block)
    typical = {name: statistics.median(blocks) for name, blocks in seconds.items()}
    for name in CONTENDERS:
        figure = f"{name}, a second with {scale.waiting:,} waiting"
        if name in missing:
            figures.add("claims", figure, None, reason=missing[name])
            continue
        about = f"{CONTENDERS[name].about}; {calls(folder, name, scale)}"
        figures.add("claims", figure, 1 / typical[name], about=about)
    for name in queues:
        if name not in OURS:
            for ours in OURS:
                figures.add("claims", f"{ours} / {name}", times_faster(seconds, ours, name), "times")
    for what, best in (
        ("the best file-based peer that looks at the folder for each claim", ["huey", "dirq, a look each"]),
        ("the best file-based peer of all", [name for name, kind in CONTENDERS.items() if kind.is_peer]),
    ):
        there = [name for name in best if name in queues]
        if len(there) < len(best):
            figures.add("claims", f"{TARGETED} / {what}", None, reason="not all of them are installed")
            continue
        fastest = min(there, key=typical.__getitem__)
        ratio = times_faster(seconds, TARGETED, fastest)
        figures.at_least("claims", f"{TARGETED} / {what} ({fastest})", ratio, "times", 10)


def times_faster(seconds: dict[str, list[float]], ours: str, theirs: str) -> float:
    """The median over the pairs of blocks of one turn."""
    return statistics.median(a / b for a, b in zip(seconds[theirs], seconds[ours], strict=True))


# -- depths and the start ----------------------------------------------------------------------------------------------------


def depths(folder: Path, scale: Scale, figures: Figures) -> None:
    spools: dict[int, Ours] = {}
    for depth in scale.depths:
        spools[depth] = Ours(folder / str(depth))
        spools[depth].fill(depth)
    os.sync()
    claimed: dict[int, list[float]] = {depth: [] for depth in spools}
    looked: dict[int, list[float]] = {depth: [] for depth in spools}
    order = random.Random(7)
    for _ in range(scale.depth_blocks):
        for depth in order.sample(list(spools), len(spools)):
            ours = spools[depth]
            for _ in range(10):
                name = ours.drop()  # so that as many wait as before
                begin = time.perf_counter()
                ours.look(name)
                between = time.perf_counter()
                ours.claim()
                claimed[depth].append(time.perf_counter() - between)
                looked[depth].append(between - begin)
    for depth in spools:
        for label, part in (("median", 0.5), ("p99", 0.99)):
            about = f"the look before it: {1000 * percentile(looked[depth], part):.2g} ms"
            about += f", longest {1000 * max(looked[depth]):.0f} ms" if label == "p99" else ""
            cost = 1000 * percentile(claimed[depth], part)
            figures.add("depths", f"a claim with {depth:,} waiting, {label}", cost, "ms", about=about)
    first, last = scale.depths[0], scale.depths[-1]
    for label, part, most in (("median", 0.5, 1.5), ("p99", 0.99, None)):
        ratio = percentile(claimed[last], part) / percentile(claimed[first], part)
        figure = f"the same, {last:,} / {first:,} waiting, {label}"
        if most:
            figures.at_most("depths", figure, ratio, "times", most)
        else:
            figures.add("depths", figure, ratio, "times")
    start(folder, spools[last].spool, last, figures)


class Service:
    """A real service in a process of its own, whose engine only sleeps."""

    def __init__(self, spool: Spool, name: str, sleep_s: float):
        self.spool, self.name = spool, name
        command = [sys.executable, "-m", "tests.prove.sleeper", f"--spool={spool.root}", f"--spooler={name}"]
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            [*command, f"--sleep-s={sleep_s}", "--floor-mib=1"], cwd=ROOT, stderr=subprocess.DEVNULL
        )

    def wait(self, condition: Callable[[], bool], rest_s: float = 0.001) -> float:
        """Seconds from its start until the condition is true."""
        while not condition():
            if self.process.poll() is not None or time.perf_counter() - self.began > DEADLINE_S:
                raise RuntimeError(f"the service did not do what it was waited for; its status is {self.process.poll()}")
            time.sleep(rest_s)
        return time.perf_counter() - self.began

    def claims_something(self) -> bool:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.spool.claimed / self.name) as entries:
            return any(os.path.lexists(f"{each.path}/job.json") for each in entries if each.name[0] != ".")
        return False

    def knows(self, waiting: int) -> bool:
        """Whether it says that so many wait."""
        with contextlib.suppress(FileNotFoundError):
            told = json.loads((self.spool.claimed / self.name / "spooler.json").read_bytes())
            return bool(told["waiting"] >= waiting and told["state"] == "ready")
        return False

    def memory(self, name: str) -> int:
        """VmRSS or VmHWM, in bytes."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def service(spool: Spool, name: str, sleep_s: float) -> Iterator[Service]:
    made = Service(spool, name, sleep_s)
    try:
        yield made
    finally:
        made.kill()


def start(folder: Path, spool: Spool, waiting: int, figures: Figures) -> None:
    empty = Spool(folder / "empty")
    empty.create()
    with service(empty, "bench", 0) as idle:
        idle.wait(lambda: idle.knows(0))
        bare = idle.memory("VmHWM")
    with service(spool, "bench", 3600) as busy:
        first_s = busy.wait(busy.claims_something)
        all_s = busy.wait(lambda: busy.knows(waiting - 1), 0.02)
        peak = busy.memory("VmHWM")
    figures.at_most("start", f"start of the process to its first claim, {waiting:,} waiting", first_s, "s", 5)
    figures.add("start", f"the same, until it knows all {waiting:,}", all_s, "s")
    figures.add("start", f"peak memory (RSS) of the service then, without an engine, {waiting:,} waiting", peak / 2**20, "MiB")
    figures.add("start", "the same, nothing waiting", bare / 2**20, "MiB")
    figures.add("start", "memory of a waiting job", (peak - bare) / waiting, "bytes")


# -- latency -----------------------------------------------------------------------------------------------------------------


def latency(folder: Path, scale: Scale, figures: Figures) -> None:
    spool = Spool(folder / "spool")
    spool.create()
    seconds = []
    pause = random.Random(7)
    with service(spool, "bench", 0.005) as idle:
        idle.wait(lambda: idle.knows(0))
        for index in range(scale.drops + 5):
            name = f"drop-{index}"
            draft, target = spool.tmp / name, spool.pending / f"{name}.json"
            claimed, done = f"{spool.claimed}/bench/{name}/job.json", f"{spool.root}/done/{name}"
            draft.write_bytes(RAW)
            time.sleep(0.005 + 0.01 * pause.random())  # idle, and not in step with its clocks
            begin = time.perf_counter()
            draft.rename(target)
            while not (os.path.lexists(claimed) or os.path.lexists(done)):
                if time.perf_counter() - begin > DEADLINE_S:
                    raise RuntimeError(f"{name} was never claimed")
                time.sleep(0.00005)
            if index >= 5:
                seconds.append(time.perf_counter() - begin)
            idle.began = time.perf_counter()
            idle.wait(lambda done=done: os.path.lexists(done))  # type: ignore[misc]
    figures.add("latency", f"rename into pending/ to its claim, p50 of {len(seconds):,}", 1000 * percentile(seconds, 0.5), "ms")
    last = 1000 * percentile(seconds, 0.99)
    figures.at_most("latency", "the same, p99", last, "ms", 20, about=f"the longest: {1000 * max(seconds):.1f} ms")


# -- the whole ---------------------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Path, Scale, Figures], None]] = {
    "submits": submits,
    "claims": claims,
    "depths": depths,
    "latency": latency,
}


def table(rows: list[Row], head: dict[str, str]) -> str:
    """The figures as Markdown, with what is to be known of them below."""
    lines = [
        f"{head['date']}, commit {head['commit']}; {head['machine']}.",
        "",
        "| figure | measured | target | |",
        "|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(row.cells) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"- {row.figure}: {row.about}" for row in rows if row.about)])


def with_table(page: str, made: str) -> str:
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.split(END)[1]}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench spool", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer of everything, to see that it works")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas (default %(default)s)")
    parser.add_argument("--scratch", type=Path, default=ROOT, help="folder to measure in (default: the repository's)")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--write", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"--only must name parts out of {', '.join(PARTS)}, but names {', '.join(sorted(unknown))}")
    if options.write and (options.quick or set(chosen) != set(PARTS)):
        parser.error("--write is for all parts in full, but --quick or --only leaves some out")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was made is removed then, too
    figures = Figures()
    head = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": commit(), "machine": machine(options.scratch)}
    print(f"{head['date']}, commit {head['commit']}; {head['machine']}. {os.getloadavg()[0]:.1f} processes at work here.")
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="sdspool-bench-", dir=options.scratch) as folder:
            PARTS[name](Path(folder), QUICK if options.quick else FULL, figures)
    if options.json:
        options.json.write_text(json.dumps({"head": head, "rows": [asdict(row) for row in figures.rows]}, indent=2) + "\n")
    if options.write:
        PAGE.write_text(with_table(PAGE.read_text(), table(figures.rows, head)))
    return int(any(row.ok is False for row in figures.rows))


if __name__ == "__main__":
    sys.exit(main())
