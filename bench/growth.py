"""Where many GPUs bend first: a simulation of a spooler, Redis, an object store and 1 to 1,000 workers, from measured costs.

One spooler begins and publishes jobs one after the other, fetches results on a few threads, and looks at Redis once a second.
Redis does one command after the other. The network to the store is one pipe at the spooler's end. A worker draws a job at a
time and has a few more waiting. What each of them costs is measured by `bench/cluster.py`, which also checks this simulation:
its throughput at 1, 2, 4 and 8 workers is held against that of real ones.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import simpy

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.figures import percentile

SEED = 20261122
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
CLIENTS = (1, 10, 100, 1000)
#: Jobs per worker in one run, within bounds: enough that the start does not tell.
JOBS_EACH, LEAST_JOBS, MOST_JOBS = 30, 400, 12_000
#: Of the capacity of the workers, which the clients ask for together.
LOAD = 0.8
#: Below this part of the ideal it has bent.
BENT = 0.9


@dataclass(frozen=True)
class Costs:
    """What the parts cost: seconds of a part that does one thing after the other, commands, bytes."""

    submit_s: float = 1 / 521  # of a web process, a job over HTTP (docs/benchmarks.md)
    turn_s: float = 0.004  # of the spooler's thread, a job from claim to publication, all fsyncs
    fetch_s: float = 0.008  # of one of the spooler's fetching threads, a job, beside the bytes
    fetchers: int = 8
    look_s: float = 2e-5  # of the spooler's other thread, a second, for each worker and each job that it has sent
    commands: float = 25.0  # of Redis, a job
    worker_commands_s: float = 4.0  # of Redis, a second, for each worker
    command_s: float = 1 / 60_000  # of Redis
    picture_bytes: float = 450_000.0  # of a job's pictures: 512 x 512 as PNG
    pipe_bytes_s: float = 1.25e9 * 0.8  # of the spooler's network: ten gigabits a second
    window: int = 2  # jobs that wait at each worker


@dataclass
class Found:
    """What came of one run."""

    gpus: int
    clients: int
    jobs_s: float
    of_ideal: float
    wait_p50_s: float
    wait_p95_s: float
    redis_ops_s: float
    store_bytes_s: float
    busy: dict[str, float]  # the part of the time that each part works

    @property
    def bends(self) -> str:
        """The part that works most."""
        return max((name for name in self.busy if name != "workers"), key=self.busy.__getitem__)


class Model:
    """One run: so many workers, clients that submit at a rate, and every part between them."""

    def __init__(self, costs: Costs, gpus: int, clients: int, job_s: float, load: float | None, seed: int = SEED):
        """`load`: of the workers' capacity, which the clients ask for; None: everything waits from the start."""
        self.costs, self.gpus, self.clients, self.job_s, self.load = costs, gpus, clients, job_s, load
        self.env = simpy.Environment()
        self.chance = random.Random(seed)
        self.web = simpy.Resource(self.env, 1)
        self.spooler = simpy.Resource(self.env, 1)
        self.fetchers = simpy.Resource(self.env, costs.fetchers)
        self.pipe = simpy.Resource(self.env, 1)
        self.redis = simpy.Resource(self.env, 1)
        self.workers = simpy.Resource(self.env, gpus)
        #: What may be sent and not yet published: as many as the workers can have, drawn and waiting.
        self.room = simpy.Resource(self.env, gpus * (1 + costs.window))
        self.worked: dict[str, float] = dict.fromkeys(("web", "spooler", "fetchers", "pipe", "redis", "workers"), 0.0)
        self.waits: list[float] = []
        self.submitted = self.ended = 0
        self.jobs = min(MOST_JOBS, max(LEAST_JOBS, JOBS_EACH * gpus))

    def run(self) -> Found:
        for _ in range(self.clients):
            self.env.process(self._client())
        self.env.process(self._upkeep())
        while self.ended < self.jobs:
            self.env.step()
        took = self.env.now
        costs, of = self.costs, {"workers": self.gpus, "fetchers": self.costs.fetchers}
        commands = self.jobs * costs.commands / took + self.gpus * costs.worker_commands_s
        asked = self.gpus / self.job_s * (1.0 if self.load is None else self.load)
        return Found(
            gpus=self.gpus,
            clients=self.clients,
            jobs_s=self.jobs / took,
            of_ideal=self.jobs / took / asked,
            wait_p50_s=percentile(self.waits, 0.5),
            wait_p95_s=percentile(self.waits, 0.95),
            redis_ops_s=commands,
            store_bytes_s=self.jobs * costs.picture_bytes / took,
            busy={name: seconds / took / of.get(name, 1) for name, seconds in self.worked.items()},
        )

    def _client(self) -> Generator[Any, Any, None]:
        """Submits, each job after a time that is as chance has it, until there are enough of all clients."""
        rate = (self.load or 0.0) * self.gpus / self.job_s / self.clients
        while True:
            yield self.env.timeout(self.chance.expovariate(rate) if rate else 0)
            if self.submitted >= self.jobs:
                return
            self.submitted += 1
            self.env.process(self._job())

    def _job(self) -> Generator[Any, Any, None]:
        """From the submit to its place in done/."""
        costs = self.costs
        if self.load is not None:
            yield from self._use("web", self.web, costs.submit_s)
        came = self.env.now
        with self.room.request() as room:
            yield room
            yield from self._use("spooler", self.spooler, costs.turn_s / 2)
            yield from self._use("redis", self.redis, costs.commands / 2 * costs.command_s)
            with self.workers.request() as worker:
                yield worker
                self.waits.append(self.env.now - came)
                yield from self._at_work("workers", self.job_s)
            yield from self._use("redis", self.redis, costs.commands / 2 * costs.command_s)
            with self.fetchers.request() as fetcher:
                yield fetcher
                yield from self._at_work("fetchers", costs.fetch_s)
                yield from self._use("pipe", self.pipe, costs.picture_bytes / costs.pipe_bytes_s)
            yield from self._use("spooler", self.spooler, costs.turn_s / 2)
        self.ended += 1

    def _upkeep(self) -> Generator[Any, Any, None]:
        """Each second: the heartbeats of the workers, and the spooler's look at them and at all that is sent."""
        costs = self.costs
        while True:
            self.env.process(self._use("redis", self.redis, self.gpus * costs.worker_commands_s * costs.command_s))
            seen = self.gpus + self.room.count
            yield from self._use("spooler", self.spooler, seen * costs.look_s)
            yield self.env.timeout(1.0)

    def _use(self, name: str, part: simpy.Resource, seconds: float) -> Generator[Any, Any, None]:
        with part.request() as turn:
            yield turn
            yield from self._at_work(name, seconds)

    def _at_work(self, name: str, seconds: float) -> Generator[Any, Any, None]:
        self.worked[name] += seconds
        yield self.env.timeout(seconds)


def grow(costs: Costs, job_s: float, gpus: Sequence[int] = GPUS) -> list[Found]:
    """With every number of workers, so many clients as there are workers, at LOAD of what the workers can do."""
    return [Model(costs, number, number, job_s, LOAD).run() for number in gpus]


def limit(costs: Costs, job_s: float) -> Found:
    """The first number of GPUs at which a backlog is no longer drawn at BENT of the ideal; the last when there is none."""
    found = None
    for number in GPUS:
        found = Model(costs, number, 1, job_s, None).run()
        if found.of_ideal < BENT:
            break
    assert found
    return found


def checked(measured: dict[str, Any]) -> list[dict[str, float]]:
    """This simulation beside what bench/cluster.py measured with real workers that slept for so long."""
    costs = Costs(**measured["costs"])
    rows = []
    for text, jobs_s in sorted(measured["jobs_s"].items(), key=lambda row: int(row[0])):
        here = Model(costs, int(text), 1, measured["sleep_s"], None).run().jobs_s
        rows.append({"workers": int(text), "measured": jobs_s, "simulated": here, "ratio": here / jobs_s})
    return rows


def line(found: Found) -> str:
    mib = found.store_bytes_s / (1 << 20)
    return (
        f"{found.gpus:5d} GPUs, {found.clients:5d} clients: {found.jobs_s:8.2f} jobs/s, {found.of_ideal:4.0%} of the asked; "
        f"wait {found.wait_p50_s:6.2f} s, p95 {found.wait_p95_s:6.2f} s; Redis {found.redis_ops_s:7.0f}/s, "
        f"store {mib:7.1f} MiB/s; most at work: {found.bends} {found.busy[found.bends]:.0%}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--measured", type=Path, help="what `bench/cluster.py --json` wrote; without it, the costs in this file"
    )
    parser.add_argument("--job-s", type=float, default=2.0, help="seconds of a GPU for a job (2.0)")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    measured = json.loads(given.measured.read_text()) if given.measured else None
    costs = Costs(**measured["costs"]) if measured else Costs()
    # The pictures of a bench are small, its network is the loopback: what a real one has is assumed, and printed.
    costs = replace(costs, picture_bytes=Costs.picture_bytes, pipe_bytes_s=Costs.pipe_bytes_s)
    print("costs:", ", ".join(f"{name} {value:g}" for name, value in asdict(costs).items()))
    rows = grow(costs, given.job_s, GPUS[:5] if given.quick else GPUS)
    for row in rows:
        print(line(row))
    number = 8 if given.quick else 64
    crowd = [Model(costs, number, clients, given.job_s, LOAD).run() for clients in CLIENTS]
    for row in crowd:
        print(line(row))
    bent = limit(costs, given.job_s)
    print("backlog, first below", f"{BENT:.0%} of the ideal:" if bent.of_ideal < BENT else "none to the end:", line(bent))
    checks = checked(measured) if measured else []
    for check in checks:
        print("{workers:.0f} workers: measured {measured:.2f} jobs/s, simulated {simulated:.2f}: {ratio:.2f}".format(**check))
    if given.json:
        found = {"grow": rows, "crowd": crowd, "bends": [bent]}
        told = {name: [asdict(row) | {"bends": row.bends} for row in each] for name, each in found.items()}
        given.json.write_text(
            json.dumps({**told, "checks": checks, "costs": asdict(costs), "job_s": given.job_s}, indent=2) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
