"""A cluster under fire: workers, the spooler, Redis and the store are killed at random while jobs come in (P2, P4).

Everything is the real thing but the engine, which only sleeps: redis-server, moto's S3 server, Celery workers, spoolers. In the
end each job that went in lies in one folder, once, and none has used up more tries than it may.
"""

from __future__ import annotations

import collections
import json
import os
import random
import shutil
import sys
import time
from pathlib import Path

from spooler.record import Record
from spooler.spool import Spool
from tests.cluster import Cluster, Worker, cluster
from tests.house import Spooler, wait_for
from tests.prove.fire import scratch
from tests.prove.report import ROOT, Figure, cannot_run, main, report

NAME = "cluster"
SLEEP_S = 0.05
WORKERS = 3
ATTEMPTS = 6
ENDS = ("done", "failed", "cancelled")
#: What is done to whom, and how many times as often as the others.
FAULTS = {"worker": 3, "spooler": 1, "redis": 1, "flush": 1, "store": 1}


class Storm:
    """One cluster, its spool, and the hand that kills."""

    def __init__(self, made: Cluster, folder: Path, seed: int):
        self.made, self.random = made, random.Random(seed)
        self.spool = Spool(folder / "spool")
        self.spool.create()
        self.workers = [self._worker() for _ in range(WORKERS)]
        self.spooler = self._spooler()
        self.faults: collections.Counter[str] = collections.Counter()

    def _worker(self) -> Worker:
        script = [str(ROOT / "bench" / "sleeping_worker.py"), str(SLEEP_S)]
        return self.made.add_worker("--together", "4", program=script)

    def _spooler(self) -> Spooler:
        bound = ["--max-attempts", str(ATTEMPTS), "--rescan-s", "1"]
        return Spooler(self.spool, *self.made.options, *bound, env=self.made.s3.env)

    def drop(self, name: str) -> None:
        draft = self.spool.tmp / name
        draft.write_text(json.dumps({"prompt": f"a red circle, {name}", "seed": 1, "steps": 1}))
        draft.rename(self.spool.pending / f"{name}.json")

    def strike(self) -> None:
        fault = self.random.choices(list(FAULTS), list(FAULTS.values()))[0]
        self.faults[fault] += 1
        match fault:
            case "worker":
                number = self.random.randrange(WORKERS)
                self.workers[number].kill()
                self.workers[number] = self._worker()
            case "spooler":
                self.spooler.kill()
                self.spooler = self._spooler()
            case "redis":
                self.made.redis.kill()
                time.sleep(self.random.uniform(0, 2))
                self.made.redis.start()
            case "flush":
                self.made.redis.client.flushall()
            case "store":
                self.made.s3.stop()
                time.sleep(self.random.uniform(0, 2))
                self.made.s3.start()

    def ended(self) -> int:
        return sum(len(os.listdir(self.spool.root / state)) for state in ENDS)  # noqa: PTH208 - quick, and often


def prove(short: bool) -> list[Figure]:
    number, faults = (60, 6) if short else (int(os.environ.get("STORM", "2000")), 120)
    target, figure = "0", "jobs lost, shown twice, or tried too often in a cluster under fire"
    if not shutil.which("redis-server"):
        return [cannot_run(NAME, figure, target, "needs redis-server")]
    names = [f"job{index}" for index in range(number)]
    with scratch() as folder, cluster(folder / "cluster") as made:
        storm = Storm(made, folder, seed=7)
        try:
            began = time.monotonic()
            for index, name in enumerate(names):
                storm.drop(name)
                if index % (number // faults) == number // faults - 1:
                    storm.strike()
                    time.sleep(storm.random.uniform(0, 3))
            wait_for(lambda: storm.ended() >= number, f"{number} jobs to end", deadline_s=1800)
            took_s = time.monotonic() - began
        finally:
            storm.spooler.stop()
        wrong = violations(storm.spool, names)
    for each in wrong[:20]:
        print(each)
    said = ", ".join(f"{count} {fault}" for fault, count in sorted(storm.faults.items()))
    details = f"{number} jobs in {took_s:.0f} s; killed or emptied: {said}"
    return [report(NAME, figure, target, len(wrong), not wrong, details, folder=folder)]


def violations(spool: Spool, names: list[str]) -> list[str]:
    """What is not as promised, in sentences."""
    wrong = []
    places = collections.Counter(path.name for state in ENDS for path in (spool.root / state).iterdir() if path.is_dir())
    for name in names:
        if places[name] != 1:
            wrong.append(f"{name}: in {places[name]} folders")
            continue
        place = spool.find(name)
        record = spool.read_record(place) if place else None
        if not place or not isinstance(record, Record):
            wrong.append(f"{name}: has no record")
        elif place.state == "done" and [image.file for image in record.images if (place.path / image.file).is_file()] != [
            "0.png"
        ]:
            wrong.append(f"{name}: is done, with {record.images}")
        elif record.attempts_used > ATTEMPTS or (place.state != "done" and record.attempts_used < ATTEMPTS):
            wrong.append(f"{name}: {place.state} after {[attempt.outcome for attempt in record.attempts]}")
    wrong += [f"{name}: nobody sent it" for name in places if name not in names]
    return wrong


if __name__ == "__main__":
    sys.exit(main(prove))
