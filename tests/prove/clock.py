"""A clock that jumps by an hour and by ten years, either way, and files from the future: no decision may rest on it.

The spooler is the real service with an engine that sleeps; its wall clock is the one thing that is set here, in its process.
Files' times are set with utime(2), as a copy that keeps them does.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from spooler import gate, retention, service
from spooler.denylist import DenyList
from spooler.job import encode, from_fields
from spooler.life import Life
from spooler.record import iso
from spooler.settings import Settings
from spooler.spool import Spool
from tests.prove import sleeper
from tests.prove.report import Figure, main, report
from tests.prove.sleeper import CATALOGUE

NAME = "clock"
HOUR_S, DECADE_S = 3600.0, 10 * 365.25 * 86_400.0
JUMPS = (HOUR_S, -HOUR_S, DECADE_S, -DECADE_S)
WAIT_S = 20.0


class Clock:
    """time.time() with a jump."""

    def __init__(self) -> None:
        self.jump_s = 0.0
        self._time = time.time

    def __call__(self) -> float:
        return self._time() + self.jump_s


class Desk:
    """A service that is turned by hand."""

    def __init__(self, root: Path, clock: Clock, **settings: float):
        self.spool = Spool(root)
        self.spool.create()
        made = Settings(spool=root, spooler="s", floor_mib=0.0, **settings)  # type: ignore[arg-type]
        self.life = Life.begin(self.spool, "s")
        self.service = service.Service(made, self.spool, CATALOGUE, DenyList(), self.life, lambda of, _: sleeper.of(of, 0.0))
        self.service.intake.clock = gate.WallClock(wall=clock)

    def turn_until(self, done: int) -> None:
        """Turn until so many jobs have ended, or for a while."""
        end = time.monotonic() + WAIT_S
        while self.ended < done and time.monotonic() < end:
            self.service.turn(time.monotonic())
            time.sleep(0.002)

    def turn(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.service.intake.next_gate = 0.0
            self.service.turn(time.monotonic())
            time.sleep(0.01)

    @property
    def ended(self) -> int:
        return sum(1 for state in ("done", "failed", "cancelled") for _ in self.spool.walk(state))  # type: ignore[arg-type]

    def submit(self, job_id: str, **fields: object) -> None:
        self.spool.submit(encode(from_fields({"prompt": "x", **fields})), job_id)

    def state(self, job_id: str) -> str:
        place = self.spool.find(job_id)
        return place.state if place else "nowhere"

    def close(self) -> None:
        self.service.close()
        self.life.end()


@contextmanager
def desk(clock: Clock, **settings: float) -> Iterator[Desk]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        made = Desk(Path(folder) / "spool", clock, **settings)
        try:
            yield made
        finally:
            made.close()


def moment(from_now_s: float) -> str:
    return iso(datetime.now(UTC) + timedelta(seconds=from_now_s))


def conditions(jump_s: float) -> Iterator[str]:
    """A clock that is set, and set back: nothing expires by it, nothing starts early."""
    clock = Clock()
    with desk(clock) as made:
        made.submit("expires", expires_at=moment(0.5 * HOUR_S), after=["never"])
        made.submit("later", not_before=moment(0.5 * HOUR_S))
        made.submit("plain")
        made.turn_until(1)
        clock.jump_s = jump_s
        made.submit("during")
        made.turn_until(2)
        made.turn(0.3)
        if made.state("expires") != "pending":
            yield f"jump of {jump_s:g} s: a job expired by it"
        if made.state("later") != "pending":
            yield f"jump of {jump_s:g} s: a job started before its time"
        clock.jump_s = 0.0
        made.turn(0.3)
        if (found := {name: made.state(name) for name in ("expires", "later", "plain", "during")}) != {
            "expires": "pending",
            "later": "pending",
            "plain": "done",
            "during": "done",
        }:
            yield f"jump of {jump_s:g} s and back: {found}"


def order(future_s: float) -> Iterator[str]:
    """Files whose times lie in the future or far back: whoever comes while the spooler runs comes after them all the same."""
    clock = Clock()
    with desk(clock) as made:
        (made.spool.root / "PAUSE").touch()
        for number in range(6):
            made.submit(f"a{number}", owner="ann")
            at = time.time() + (future_s if number % 2 else 0.0)
            os.utime(made.spool.pending / f"a{number}.json", (at, at))
            made.turn(0.05)
        (made.spool.root / "PAUSE").unlink()
        made.turn_until(6)
        places = [made.spool.find(f"a{number}") for number in range(6)]
        started = [record.started for place in places if place and (record := made.spool.read_record(place))]
        if len(started) != 6 or started != sorted(started, key=str):
            yield f"files {future_s:g} s away: they ran in another order than they came in"


def attempts(jump_s: float) -> Iterator[str]:
    """A spooler that starts under another clock: attempts and drafts are counted and kept as before."""
    clock = Clock()
    with desk(clock) as made:
        draft = made.spool.tmp / "somebody-writes"
        draft.write_bytes(b"half")
        made.spool.reap_tmp(3600.0)
        if not draft.exists():
            yield f"jump of {jump_s:g} s: a draft was reaped while it is written"
        made.submit("cat")
        made.turn_until(1)
        clock.jump_s = jump_s
        removed = retention.Retention(made.spool, Settings(spool=made.spool.root, keep_days=1.0), first_pass_s=0.0)
        real, time.time = time.time, clock
        try:
            for _ in range(20):
                removed.turn(0.05)
        finally:
            time.time = real
        if made.state("cat") != "done":
            yield f"jump of {jump_s:g} s: retention removed a job that ended just now"


def prove(short: bool) -> list[Figure]:
    wrong: list[str] = []
    checked = 0
    for jump_s in JUMPS[1:3] if short else JUMPS:
        for scene in (conditions, order, attempts):
            wrong += scene(jump_s)
            checked += 1
    details = "; ".join(wrong[:5]) or f"{checked} scenes"
    return [report(NAME, "decisions that a jump of the clock made wrong", "0", len(wrong), not wrong, details)]


if __name__ == "__main__":
    sys.exit(main(prove))
