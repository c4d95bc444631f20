"""Jobs through Celery, Redis and a store to workers that only sleep: how many a second, and what it costs beside less.

In one run: 1, 2, 4 and 8 real workers over what they could do at best; a job's time beyond its sleep with one worker, beside
that of the spooler's own engine and of plain Celery with the same sleep, in turn and several times, the median of all jobs. And
what each part does for a job, which bench/growth.py takes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from cluster import Redis

from bench.growth import Costs
from spooler.spool import Spool

WORKERS = (1, 2, 4, 8)
#: How often the three ways take turns, for what a job takes beyond its sleep.
ROUNDS = 5
SLEEP_S = 1.0
#: Of that many workers, what is asked of the ideal; and of plain Celery's overhead, what is allowed.
TARGET, AT = 0.9, 8
ALLOWED = 1.1
DEADLINE_S = 600.0
#: Seconds without a job, in which Redis is counted at rest.
IDLE_S = 5.0
JOB = {"prompt": "a cat", "width": 64, "height": 64, "steps": 1}


def waited(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"waited in vain for {what}")
        time.sleep(0.01)


@contextmanager
def process(log: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that is told to end at the end."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        made = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=file, stderr=file, env=env)
    try:
        yield made
    finally:
        made.terminate()
        try:
            made.wait(30)
        except subprocess.TimeoutExpired:
            made.kill()
            made.wait()


class Queue:
    """A spool whose jobs wait, and what becomes of them."""

    def __init__(self, folder: Path):
        self.spool = Spool(folder / "spool")
        self.spool.create()
        self._submitted = 0

    def fill(self, jobs: int) -> None:
        """Let so many wait, all at once."""
        (self.spool.root / "PAUSE").touch()
        for _ in range(jobs):
            self.spool.submit(json.dumps(JOB).encode())
        self._submitted += jobs
        (self.spool.root / "PAUSE").unlink()

    def spans(self) -> list[tuple[float, float]]:
        """When each job that is done was begun and ended, seconds, the first first."""
        records = [self.spool.read_record(place) for place in self.spool.walk("done")]
        return sorted((_seconds(each.attempts[-1].started), _seconds(each.completed or "")) for each in records if each)

    def drain(self) -> None:
        """Wait until all are done."""
        waited(lambda: sum(1 for _ in self.spool.walk("done")) == self._submitted, "all to be done")


def _seconds(moment: str) -> float:
    from spooler.moments import seconds

    return seconds(moment)


def of_ideal(spans: list[tuple[float, float]], workers: int, sleep_s: float) -> float:
    """Jobs a second between the end of the first round and the last end, over what so many could do that only sleep."""
    ends = sorted(end for _, end in spans)[workers - 1 :]
    return (len(ends) - 1) / (ends[-1] - ends[0]) * sleep_s / workers


def gaps_ms(spans: list[tuple[float, float]], sleep_s: float) -> list[float]:
    """Milliseconds beyond its sleep from each job's end to the next one's, of one worker."""
    ends = sorted(end for _, end in spans)
    return [(later - end - sleep_s) * 1e3 for end, later in itertools.pairwise(ends)]


def remote(folder: Path, server: Redis, workers: int, jobs: int, sleep_s: float) -> dict[str, Any]:
    """So many workers draw so many jobs."""
    folder.mkdir(parents=True)
    server.client.flushall()
    queue = Queue(folder)
    common = ["--dispatch", server.url, "--dispatch-password-file", str(server.password_file)]
    common += ["--store", f"file://{folder / 'store'}", "--cache", str(folder / "cache")]
    with ExitStack() as stack:
        for number in range(workers):
            words = ["-m", "bench.sleeping_worker", str(sleep_s), *common, "--together=1"]
            stack.enter_context(process(folder / f"worker-{number}.log", *words))
        where = ["--spool", str(queue.spool.root), "--spooler", "bench", "--floor-mib", "0", *common]
        spooler = psutil.Process(stack.enter_context(process(folder / "spooler.log", "-m", "spooler", *where)).pid)
        waited(lambda: server.client.scard("sdspool:workers") == workers, "the workers")
        waited(lambda: any(status.state == "ready" for status, _ in queue.spool.spoolers()), "the spooler")
        resting = commands(server)
        time.sleep(IDLE_S)  # which also lets the spooler see every heartbeat
        before, cpu, began = commands(server), threads(spooler), time.monotonic()
        queue.fill(jobs)
        queue.drain()
        took = time.monotonic() - began
        after, used = commands(server), threads(spooler)
    idle = (before[0] - resting[0]) / IDLE_S  # a second, of all workers and the spooler
    return {
        "of_ideal": of_ideal(queue.spans(), workers, sleep_s),
        "gaps_ms": gaps_ms(queue.spans(), sleep_s) if workers == 1 else [],
        "jobs_s": jobs / took,
        "idle_commands_s": idle / workers,
        "commands": max(0.0, after[0] - before[0] - idle * took) / jobs,
        "command_s": (after[1] - before[1]) / (after[0] - before[0]),
        "main_s": (used[0] - cpu[0]) / jobs,
        "others_s": (used[1] - cpu[1]) / jobs,
    }


def commands(server: Redis) -> tuple[int, float]:
    """How many commands Redis has had, and the seconds that they took it."""
    stats = server.client.info("commandstats").values()
    return sum(each["calls"] for each in stats), sum(each["usec"] for each in stats) / 1e6


def threads(of: psutil.Process) -> tuple[float, float]:
    """CPU seconds of the first thread, and of all others together."""
    times = {each.id: each.user_time + each.system_time for each in of.threads()}
    whole = of.cpu_times()
    first = times.get(of.pid, 0.0)
    return first, whole.user + whole.system - first


def local(folder: Path, jobs: int, sleep_s: float) -> list[float]:
    """One engine under the spooler itself: milliseconds of each job beyond its sleep."""
    folder.mkdir(parents=True)
    queue = Queue(folder)
    where = ["--spool", str(queue.spool.root), "--spooler", "bench", "--floor-mib", "0", "--sleep-s", str(sleep_s)]
    with process(folder / "log", "-m", "tests.prove.sleeper", *where):
        waited(lambda: any(status.state == "ready" for status, _ in queue.spool.spoolers()), "the spooler")
        queue.fill(jobs)
        queue.drain()
    return gaps_ms(queue.spans(), sleep_s)


def plain(folder: Path, server: Redis, jobs: int, sleep_s: float) -> list[float]:
    """The same with nothing but Celery: a task that sleeps, one worker, all results awaited."""
    folder.mkdir(parents=True)
    server.client.flushall()
    from bench.plain_celery import app_of

    url = server.url.replace(
        "redis://", f"redis://:{server.password_file.read_text().strip().replace('/', '%2F').replace(':', '%3A')}@"
    )
    app = app_of(url)
    with process(folder / "log", "-m", "bench.plain_celery", url):
        results = [app.send_task("bench.sleep", args=[sleep_s]) for _ in range(jobs)]
        ends = sorted(result.get(timeout=DEADLINE_S) for result in results)
    return gaps_ms([(end, end) for end in ends], sleep_s)


def measure(folder: Path, jobs: int, sleep_s: float) -> dict[str, Any]:
    server = Redis(folder / "redis")
    try:
        runs = {}
        for workers in WORKERS:
            runs[workers] = remote(folder / f"remote-{workers}", server, workers, jobs * workers, sleep_s)
            print(
                f"{workers} workers: {runs[workers]['jobs_s']:.2f} jobs/s, {runs[workers]['of_ideal']:.3f} of the ideal",
                flush=True,
            )
        beside: dict[str, list[float]] = {"local": [], "celery": [], "remote": []}
        for turn in range(ROUNDS):
            beside["celery"] += plain(folder / f"plain-{turn}", server, jobs, sleep_s)
            beside["remote"] += remote(folder / f"lone-{turn}", server, 1, jobs, sleep_s)["gaps_ms"]
            beside["local"] += local(folder / f"local-{turn}", jobs, sleep_s)
    finally:
        server.kill()
    most = runs[max(WORKERS)]
    costs = Costs(
        turn_s=most["main_s"],
        fetch_s=most["others_s"],
        commands=most["commands"],
        worker_commands_s=most["idle_commands_s"],
        command_s=most["command_s"],
    )
    return {
        "jobs_s": {str(workers): run["of_ideal"] * workers / sleep_s for workers, run in runs.items()},
        "of_ideal": {str(workers): run["of_ideal"] for workers, run in runs.items()},
        "overhead_ms": {name: statistics.median(gaps) for name, gaps in beside.items()},
        "costs": asdict(costs),
        "sleep_s": sleep_s,
        "runs": {str(workers): run for workers, run in runs.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--jobs", type=int, default=20, help="for each worker (20)")
    parser.add_argument("--sleep-s", type=float, default=SLEEP_S)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--scratch", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch, prefix="cluster-") as folder:
        found = measure(Path(folder), given.jobs, given.sleep_s)
    part = found["of_ideal"][str(AT)]
    reached = "reached" if part >= TARGET else "MISSED"
    print(f"jobs a second with {AT} workers over the ideal: {part:.3f} (target >= {TARGET}: {reached})")
    times = found["overhead_ms"]
    print(", ".join(f"{name}: {value:.1f} ms" for name, value in times.items()), "a job beyond its sleep, one worker")
    ratio = times["remote"] / times["celery"] if times["celery"] > 0 else float("inf")
    verdict = "reached" if ratio <= ALLOWED else "MISSED"
    print(f"through the product over plain Celery: {ratio:.2f} (target <= {ALLOWED}: {verdict})")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return int(part < TARGET or ratio > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
