"""Writers and spoolers that are killed all the time: what goes in comes out, each job once.

Eight writers submit jobs, four spoolers run them (their engine only sleeps), and a hundred times a minute one of the twelve
is killed by SIGKILL and started anew. A writer notes what was acknowledged and, started anew, submits again what was not, under
the same id: the job of an answer that was lost is not submitted twice. In the end, what was acknowledged and what is in done/
are compared as multisets.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from spooler import fsck
from spooler.settings import Settings
from spooler.spool import Spool, TakenError
from tests.prove import sleeper
from tests.prove.report import Figure, main, report

NAME = "storm"
WRITERS, SPOOLERS = 8, 4
KILLS_A_MINUTE = 100
#: In the short form, so that there are some at all.
SHORT_KILLS_A_MINUTE = 400
#: Waiting jobs beyond which a writer rests: the storm is about kills, not about depth.
DEPTH = 400
#: No job finished for so long, in seconds: something is stuck.
STUCK_S = 120.0

_FORK = multiprocessing.get_context("fork")  # a Python that starts anew a hundred times a minute would be all that runs


def write(root: Path, number: int, jobs: int, ledger: Path) -> None:
    """One life of a writer: go on where the ledger ends. Every third job is dropped as a file, the others are submitted."""
    spool = Spool(root)
    begin = len(ledger.read_bytes()) // 16 if ledger.exists() else 0
    with ledger.open("ab", buffering=0) as acknowledged:
        for index in range(begin, jobs):
            job_id = f"w{number}-{index:08d}"
            raw = b'{"prompt": "%s", "owner": "writer %d"}' % (job_id.encode(), number)
            if index % 3:
                with contextlib.suppress(TakenError):  # submitted in an earlier life, whose answer was lost
                    spool.submit(raw, job_id)
            else:
                _drop(spool, job_id, raw)
            acknowledged.write(f"{job_id:15}\n".encode())  # one call: a kill leaves it whole or not at all
            while index % 20 == 0 and sum(1 for _ in os.scandir(spool.pending)) > DEPTH:
                time.sleep(0.05)


def _drop(spool: Spool, job_id: str, raw: bytes) -> None:
    """As a careful person does: write it elsewhere, then mv. Who does not know whether the mv was done looks first."""
    if spool.find_by_name(job_id) is None:
        draft = spool.tmp / f"drop-{job_id}"
        draft.write_bytes(raw)
        draft.rename(spool.pending / f"{job_id}.json")


def spool_jobs(root: Path, name: str) -> None:
    """One life of a spooler."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - until the process ends
    settings = Settings(spool=root, spooler=name, max_attempts=1000, max_waiting=0, floor_mib=0.0, rescan_s=5.0)
    sleeper.serve(settings, 0.0)


class Storm:
    """The twelve processes, and who kills them."""

    def __init__(self, root: Path, jobs: int, kills_a_minute: int, seed: int):
        self.spool = Spool(root / "spool")
        self.spool.create()
        self.jobs = jobs
        self.kills = 0
        self._pause_s = 60.0 / kills_a_minute
        self._rng = random.Random(seed)
        self._ledgers = [root / f"ledger-{number}" for number in range(WRITERS)]
        each = jobs // WRITERS
        self._begin: list[Callable[[], BaseProcess]] = [
            lambda number=number: _FORK.Process(  # type: ignore[misc]
                target=write, args=(self.spool.root, number, each, self._ledgers[number])
            )
            for number in range(WRITERS)
        ]
        self._begin += [
            lambda number=number: _FORK.Process(target=spool_jobs, args=(self.spool.root, f"s{number}"))  # type: ignore[misc]
            for number in range(SPOOLERS)
        ]
        self._processes = [self._start(begin) for begin in self._begin]

    @staticmethod
    def _start(begin: Callable[[], BaseProcess]) -> BaseProcess:
        process = begin()
        process.start()
        return process

    @property
    def acknowledged(self) -> Counter[str]:
        return Counter(line.strip() for ledger in self._ledgers if ledger.exists() for line in ledger.read_text().splitlines())

    def run(self) -> None:
        """Kill until all is written, then let the spoolers finish; raises AssertionError when nothing moves any more."""
        done, moved = 0, time.monotonic()
        next_kill = time.monotonic()
        while done < self.jobs // WRITERS * WRITERS:
            now = time.monotonic()
            if now >= next_kill:
                self._kill_one()
                next_kill += self._pause_s
            time.sleep(0.05)
            if (finished := sum(1 for _ in os.scandir(self.spool.root / "done"))) != done:
                done, moved = finished, now
            if now - moved > STUCK_S:
                break

    def _kill_one(self) -> None:
        index = self._rng.randrange(len(self._processes))
        process = self._processes[index]
        if process.is_alive():
            process.kill()
            self.kills += 1
        process.join()
        if index >= WRITERS or len(self._ledgers[index].read_bytes() if self._ledgers[index].exists() else b"") < 16 * (
            self.jobs // WRITERS
        ):
            self._processes[index] = self._start(self._begin[index])

    def end(self) -> None:
        for process in self._processes:
            if process.is_alive() and process.pid:
                os.kill(process.pid, signal.SIGTERM)
        for process in self._processes:
            process.join(20)
            if process.is_alive():
                process.kill()


def judge(storm: Storm) -> tuple[list[str], list[str]]:
    """What was lost and what was doubled: ids of what was acknowledged, of what came out."""
    out = Counter(path.name for path in (storm.spool.root / "done").iterdir() if not path.name.startswith("."))
    for state in ("failed", "cancelled", "pending", "held"):
        for place in storm.spool.walk(state):  # type: ignore[arg-type]
            out[f"{place.id} in {state}/"] += 1
    for rejected in storm.spool.rejected():
        out[f"{rejected.name} in rejected/: {rejected.reason}"] += 1
    given = storm.acknowledged
    return sorted((given - out).elements()), sorted((out - given).elements())


def prove(short: bool) -> list[Figure]:
    jobs, kills = (800, SHORT_KILLS_A_MINUTE) if short else (100_000, KILLS_A_MINUTE)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        storm = Storm(Path(folder), jobs, kills, seed=1)
        began = time.monotonic()
        try:
            storm.run()
        finally:
            storm.end()
        took_s = time.monotonic() - began
        lost, doubled = judge(storm)
        broken = [f"{each.path.name}: {each.sentence}" for each in fsck.examine(storm.spool) if not each.can_be_mended]
        details = f"{storm.kills} SIGKILLs, {took_s:.0f} s, {WRITERS} writers, {SPOOLERS} spoolers"
        place = Path(folder)
        return [
            report(NAME, "jobs in and out", f">= {jobs}", storm.acknowledged.total(), not lost, details, folder=place),
            report(NAME, "jobs lost", "0", len(lost), not lost, "; ".join(lost[:5]), folder=place),
            report(
                NAME, "jobs shown twice, or elsewhere", "0", len(doubled), not doubled, "; ".join(doubled[:5]), folder=place
            ),
            report(NAME, "findings of fsck afterwards", "0", len(broken), not broken, "; ".join(broken[:5]), folder=place),
        ]


if __name__ == "__main__":
    sys.exit(main(prove))
