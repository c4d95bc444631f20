"""A spooler whose engine only sleeps: everything but the drawing is the real one (spooler/service.py, its watch, its index).

python -m tests.prove.sleeper --spool FOLDER --spooler NAME [settings ...] [--sleep-s 0.0]
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue

from filelock import Timeout

from spooler import messages
from spooler.catalogue import Catalogue, ModelCard
from spooler.child import Child, Gone
from spooler.denylist import DenyList
from spooler.life import Life
from spooler.record import EngineFacts, Timings
from spooler.service import Service
from spooler.settings import Settings
from spooler.spool import Spool
from tests.prove.restart import FACTS, draw

CATALOGUE = Catalogue(
    default="none",
    models=(ModelCard(name="none", family="sd1", hash="0" * 64, width=64, height=64, steps=1, guidance_scale=1.0),),
)


class Sleeper(Child):
    """In the place of an engine's process: a thread that sleeps, and writes pictures of one colour, which tells the attempt.

    `sleep_s` is for each job: of one with several pictures a part before each.
    """

    def __init__(self, hear: Callable[[Child, messages.FromEngine | Gone], None], sleep_s: float, facts: EngineFacts = FACTS):
        self._hear = hear
        self._sleep_s = sleep_s
        self._facts = facts
        self._orders: SimpleQueue[messages.ToEngine] = SimpleQueue()
        threading.Thread(target=self._work, name="sleeper", daemon=True).start()

    @property
    def pid(self) -> int:
        return 0

    def send(self, message: messages.ToEngine) -> None:
        self._orders.put(message)

    def kill(self) -> None:
        self._orders.put(messages.Stop())

    def wait(self, timeout_s: float) -> None:
        self._orders.put(messages.Stop())

    def _tell(self, message: messages.FromEngine | Gone) -> None:
        self._hear(self, message)

    def _work(self) -> None:
        self._tell(messages.Ready(facts=self._facts))
        while not isinstance(order := self._orders.get(), messages.Stop):
            if isinstance(order, messages.Run):
                self._tell(self._run(order))
        self._tell(Gone("it was told to stop"))

    def _run(self, order: messages.Run) -> messages.FromEngine:
        drawn = draw(Path(order.folder), order.attempt, order.job.pictures)
        try:
            for _ in range(order.job.pictures):
                time.sleep(self._sleep_s / order.job.pictures)
                self._tell(messages.ImageDone(id=order.id, image=next(drawn)))
        except FileNotFoundError as error:  # adopted meanwhile
            return messages.Failed(id=order.id, code="lost", reason=str(error))
        except OSError as error:
            return messages.Failed(id=order.id, code="no_space", reason=str(error), errno=error.errno)
        return messages.Finished(id=order.id, timings=Timings(), facts=self._facts)


def of(service: Service, sleep_s: float) -> Sleeper:
    """The engine of that service."""
    return Sleeper(lambda child, said: service.inbox.put((child, said)), sleep_s)


def serve(settings: Settings, sleep_s: float) -> int:
    """As `serve.serve`, until SIGTERM."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    spool = Spool(settings.spool)
    spool.create()
    deny_list = DenyList.read(Path(settings.deny_list)) if settings.deny_list else DenyList()
    while True:
        try:
            life = Life.begin(spool, settings.spooler)
        except Timeout:
            return 2
        service = Service(settings, spool, CATALOGUE, deny_list, life, lambda made, _: of(made, sleep_s))
        signal.signal(signal.SIGTERM, lambda *_, service=service: service.stop())  # type: ignore[misc]
        try:
            service.run()
        finally:
            life.end()
        if not service.fenced:
            return 0


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.prove.sleeper")
    parser.add_argument("--sleep-s", type=float, default=0.0)
    Settings.add_options(parser)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="sdspool spooler: %(message)s", stream=sys.stderr)
    return serve(Settings.from_options(options), options.sleep_s)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
