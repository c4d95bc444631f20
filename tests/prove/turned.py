"""A real spooler's service, turned by hand on a clock that is held, with the kernel's events read when the proof says so."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from spooler import inotify, messages
from spooler.child import Child
from spooler.denylist import DenyList
from spooler.life import Life
from spooler.record import Timings
from spooler.service import Service
from spooler.settings import Settings
from spooler.spool import Spool
from tests.prove.restart import FACTS, draw
from tests.prove.sleeper import CATALOGUE
from tests.prove.writing import SETTLE_S

Mode = Literal["events", "late", "polling"]
MODES: tuple[Mode, ...] = ("events", "late", "polling")


class HeldFD(inotify.InotifyFD):
    """watchdog's inotify without its thread: the events are read when the proof says so."""

    none_left = False
    made: HeldFD

    def __init__(self) -> None:
        if HeldFD.none_left:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        super().__init__()
        HeldFD.made = self

    def start(self) -> None:
        pass

    def is_alive(self) -> bool:
        return True

    def join(self, timeout: float | None = None) -> None:
        pass

    def pump(self) -> None:
        """Hand on every event that the kernel has."""
        assert self._poller
        while not self._closed and self._poller.poll(0):
            for event in self.read_events():
                self.handle_event(event)


@contextlib.contextmanager
def held_events() -> Iterator[None]:
    """inotify's events are read when the proof says so."""
    real = inotify.InotifyFD
    inotify.InotifyFD = HeldFD  # type: ignore[misc]
    try:
        yield
    finally:
        inotify.InotifyFD = real  # type: ignore[misc]


class Engine(Child):
    """In the place of the engine's process: it answers when it is told to, in the same thread."""

    def __init__(self, service: Service):
        self._service = service
        self.orders: deque[messages.Run] = deque()
        self.heard: dict[str, bytes] = {}  # id -> job.json, as it was when the engine heard of it
        service.inbox.put((self, messages.Ready(facts=FACTS)))

    @property
    def pid(self) -> int:
        return 0

    def send(self, message: messages.ToEngine) -> None:
        if isinstance(message, messages.Run):
            self.heard[message.id] = (Path(message.folder) / "job.json").read_bytes()
            self.orders.append(message)

    def kill(self) -> None:
        pass

    def wait(self, timeout_s: float) -> None:
        pass

    def answer(self) -> None:
        while self.orders:
            order = self.orders.popleft()
            for image in draw(Path(order.folder), 1, order.job.pictures):
                self._service.inbox.put((self, messages.ImageDone(id=order.id, image=image)))
            self._service.inbox.put((self, messages.Finished(id=order.id, timings=Timings(), facts=FACTS)))


@dataclass
class Desk:
    """One real service, turned by hand on a clock that stands still between."""

    root: Path
    mode: Mode
    rng: random.Random
    now: float = 1000.0
    looks: int = 0
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        self.spool = Spool(self.root)
        self.spool.create()
        self.life = Life.begin(self.spool, "s")
        settings = Settings(spool=self.root, spooler="s", floor_mib=0.0, drop_grace_s=SETTLE_S, max_attempts=3)
        HeldFD.none_left = self.mode == "polling"
        self.service = Service(settings, self.spool, CATALOGUE, DenyList(), self.life, self._start)
        self.turn()
        self.fd = None if self.mode == "polling" else HeldFD.made

    def _start(self, service: Service, settings: Settings) -> Child:
        self.engine = Engine(service)
        return self.engine

    def look(self) -> None:
        """One turn of the spooler, now."""
        if self.fd and (self.mode == "events" or self.rng.random() < 0.4):
            self.fd.pump()
        if self.rng.random() < 0.6:
            self.engine.answer()
        self.turn()

    def wait(self, seconds: float) -> None:
        """Let time pass: a spooler turns once a second at least."""
        while seconds > 0:
            step = min(seconds, self.rng.uniform(0.5, 1.0))
            self.now += step
            seconds -= step
            if seconds > 0:
                self.look()

    def turn(self) -> None:
        self.looks += 1
        self.service.turn(self.now)

    def settle(self) -> None:
        """Let the settle time pass, and everything run to its end."""
        for _ in range(30):
            self.now += 0.51
            if self.fd:
                self.fd.pump()
            self.engine.answer()
            self.turn()
        for _ in range(400):
            self.engine.answer()
            self.turn()
            if not (self.service.running or self.service.intake.pending.waiting or self.service.intake.busy):
                return
            self.now += 0.3

    def close(self) -> None:
        self.service.close()
        self.life.end()
