"""Jobs that are drawn on other hosts while every part is killed at random: what goes in comes out, each job once.

A real spooler sends to real workers (whose engine only sleeps) through a real Redis and a real S3 server. Every moment one of
them meets its fate: a worker or the spooler is killed by SIGKILL, Redis is killed and starts again with what it had written, or
with nothing (FLUSHALL), or the store is away for a while.
"""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from cluster import BUCKET, S3, Redis, free_port

from spooler import fsck
from spooler.place import Place
from spooler.spool import Spool
from tests.prove.report import ROOT, Figure, main, report
from tests.prove.restart import picture

NAME = "cluster"
WORKERS = 3
#: Of a job: so that of some the first pictures come home while the others are being drawn.
SLEEP_S = 0.2
MAX_ATTEMPTS = 5
COUNT = 3
JOB = {"prompt": "a cat", "width": 64, "height": 64, "steps": 1, "count": COUNT}
#: Seconds between two fates, and for which a part stays away at most.
LONG_PAUSE_S, SHORT_PAUSE_S = 3.0, 2.0
AWAY_S = 3.0
FATES = ("worker", "worker", "spooler", "redis", "flush", "store")
#: Waiting jobs beyond which none is submitted for a while: the proof is about what is under way.
DEPTH = 60
#: No job ended for so long, in seconds: something is stuck.
STUCK_S = 240.0


class Farm:
    """The parts, and what befalls them."""

    def __init__(self, root: Path, seed: int):
        self.root = root
        self.spool = Spool(root / "spool")
        self.spool.create()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # the store's, with each request
        self.redis, self.s3 = Redis(root / "redis"), S3()
        self.s3.client().create_bucket(Bucket=BUCKET)
        self.fates: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._back: list[tuple[float, str]] = []  # when, and which part that is away
        common = ["--dispatch", self.redis.url, "--dispatch-password-file", str(self.redis.password_file)]
        common += ["--store", self.s3.url, "--cache", str(root / "cache")]
        where = ["--spool", str(self.spool.root), "--spooler", "prove", "--floor-mib", "0", f"--max-attempts={MAX_ATTEMPTS}"]
        self._commands = {"spooler": ["-m", "spooler", *where, *common]}
        for number in range(WORKERS):
            self._commands[f"worker{number}"] = ["-m", "bench.sleeping_worker", str(SLEEP_S), *common, "--together=2"]
        self._processes = {name: self._start(name) for name in self._commands}

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        env = {**os.environ, **self.s3.env, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with (self.root / f"{name}.log").open("ab") as log:
            return subprocess.Popen([sys.executable, *self._commands[name]], cwd=ROOT, env=env, stdout=log, stderr=log)

    def strike(self, now: float) -> None:
        """One fate, at random; what is away already is left there."""
        fate = self._rng.choice(FATES)
        away = {name for _, name in self._back}
        name = f"worker{self._rng.randrange(WORKERS)}" if fate == "worker" else fate
        if name in away or (fate == "flush" and "redis" in away):
            return
        self.fates[fate] += 1
        if fate == "flush":
            self.redis.client.flushall()
            return
        if fate == "redis":
            self.redis.kill()
        elif fate == "store":
            self.s3.stop()
        else:
            self._processes[name].kill()
            self._processes[name].wait()
        self._back.append((now + self._rng.uniform(0, AWAY_S), name))

    def mend(self, now: float) -> None:
        """Bring back what was away for long enough, and what ended by itself."""
        for due, name in [each for each in self._back if each[0] <= now]:
            self._back.remove((due, name))
            if name == "redis":
                self.redis.start()
            elif name == "store":
                self.s3.start()
            else:
                self._processes[name] = self._start(name)
        away = {name for _, name in self._back}
        for name, process in self._processes.items():
            if name not in away and process.poll() is not None:  # a supervisor would
                self.fates["ended by itself"] += 1
                self._back.append((now + 1.0, name))

    def run(self, jobs: int, pause_s: float) -> list[str]:
        """Submit and strike until all has ended; returns the ids that were acknowledged."""
        given: list[str] = []
        ended, moved, next_fate = 0, time.monotonic(), time.monotonic() + pause_s
        while ended < jobs:
            now = time.monotonic()
            while len(given) < jobs and len(given) - ended < DEPTH:
                given.append(self.spool.submit(json.dumps(JOB).encode(), f"job-{len(given):05d}"))
            if now >= next_fate and ended < jobs * 0.95:
                self.strike(now)
                next_fate = now + pause_s
            self.mend(now)
            time.sleep(0.05)  # how often the driver looks; no verdict depends on it: it is over what lies there in the end
            if (finished := len(self.out())) != ended:
                ended, moved = finished, now
            if now - moved > STUCK_S:
                break
        return given

    def out(self) -> list[str]:
        return [place.id for state in ("done", "failed", "cancelled") for place in self.spool.walk(state)]  # type: ignore[arg-type]

    def close(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.redis.kill()
        if "store" not in {name for _, name in self._back}:
            self.s3.stop()


def is_mixed(spool: Spool, place: Place) -> bool:
    """Whether not all of its pictures, and no others, are of its last attempt, whose number they tell."""
    record = spool.read_record(place)
    if not record:
        return True
    number = record.attempts[-1].number
    drawn = {path.name: path.read_bytes() for path in place.path.glob("*.png")}
    return drawn != {f"{index}.png": picture(number, index) for index in range(COUNT)}


def prove(short: bool) -> list[Figure]:
    jobs, pause_s = (40, SHORT_PAUSE_S) if short else (2_000, LONG_PAUSE_S)
    with tempfile.TemporaryDirectory() as folder:
        farm = Farm(Path(folder), seed=free_port() if not short else 4)
        began = time.monotonic()
        try:
            given = farm.run(jobs, pause_s)
        finally:
            farm.close()
        took_s = time.monotonic() - began
        out = Counter(farm.out())
        lost, doubled = sorted((Counter(given) - out).elements()), sorted((out - Counter(given)).elements())
        places = [place for state in ("done", "failed") for place in farm.spool.walk(state)]  # type: ignore[arg-type]
        records = [record for place in places if (record := farm.spool.read_record(place))]
        tries = max((record.attempts_used for record in records), default=0)
        failed = [f"{each.id}: {each.failure.reason}" for each in records if each.failure]
        found = [each for each in fsck.examine(farm.spool, deep=True) if not each.can_be_mended]
        mixed = [place.id for place in places if place.state == "done" and is_mixed(farm.spool, place)]
        broken = [f"{each.path.name}: {each.sentence}" for each in found]
        fates = ", ".join(f"{name} {number}" for name, number in sorted(farm.fates.items()))
        details = f"{took_s:.0f} s; {fates}; attempts {sum(len(each.attempts) for each in records)}, failed {len(failed)}"
        place = Path(folder)
        return [
            report(NAME, "jobs in and out", f">= {jobs}", sum(out.values()), sum(out.values()) >= jobs, details, folder=place),
            report(NAME, "jobs lost", "0", len(lost), not lost, "; ".join(lost[:5]), folder=place),
            report(NAME, "jobs shown twice", "0", len(doubled), not doubled, "; ".join(doubled[:5]), folder=place),
            report(NAME, "jobs with pictures of two tries", "0", len(mixed), not mixed, "; ".join(mixed[:5]), folder=place),
            report(NAME, "most attempts of a job that count", f"<= {MAX_ATTEMPTS}", tries, tries <= MAX_ATTEMPTS, folder=place),
            report(NAME, "findings of fsck afterwards", "0", len(broken), not broken, "; ".join(broken[:5]), folder=place),
        ]


if __name__ == "__main__":
    sys.exit(main(prove))
