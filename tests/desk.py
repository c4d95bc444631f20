"""A spooler's service without a process, an engine or a clock of its own: a test turns it, and speaks for the engine."""

from __future__ import annotations

from pathlib import Path

from spooler import messages
from spooler.catalogue import Catalogue
from spooler.child import Child, Gone
from spooler.denylist import DenyList
from spooler.life import Life
from spooler.service import Service
from spooler.settings import Settings
from spooler.spool import Spool
from tests.prove.restart import FACTS
from tests.prove.sleeper import CATALOGUE


class Engine(Child):
    """In the place of an engine's process: it hears everything, and says what the test has it say."""

    def __init__(self) -> None:
        self.heard: list[messages.ToEngine] = []

    @property
    def pid(self) -> int:
        return 0

    def send(self, message: messages.ToEngine) -> None:
        self.heard.append(message)

    def kill(self) -> None: ...

    def wait(self, timeout_s: float) -> None: ...


class Desk:
    """A service that is turned by hand; each turn is a while after the one before, so that everything is due."""

    def __init__(self, root: Path, deny_list: DenyList | None = None, devices: str = "", catalogue: Catalogue = CATALOGUE):
        """`devices`: one engine for each; none: one engine."""
        self.spool = Spool(root)
        self.spool.create()
        self.life = Life.begin(self.spool, "me")
        settings = Settings(spool=root, spooler="me", floor_mib=0.0, stall_s=1e9, devices=devices)
        self.engines = {each.device: Engine() for each in settings.of_lanes()}
        self.engine = next(iter(self.engines.values()))
        self.service = Service(
            settings, self.spool, catalogue, deny_list or DenyList(), self.life, lambda _, each: self.engines[each.device]
        )
        self._now = 0.0
        self.turn()
        for engine in self.engines.values():
            self.turn(messages.Ready(facts=FACTS), engine)

    def die(self) -> None:
        """The engine's process ends, and another one is ready."""
        self.turn(Gone("killed by SIGSEGV"))
        self.turn()
        self.turn(messages.Ready(facts=FACTS))

    def turn(
        self, said: messages.FromEngine | Gone | None = None, engine: Engine | None = None, after_s: float = 100.0
    ) -> None:
        if said:
            self.service.inbox.put((engine or self.engine, said))
        self._now += after_s
        self.service.turn(self._now)

    @property
    def clock(self) -> float:
        """Of the last turn."""
        return self._now

    def state(self) -> str | None:
        place = self.spool.find("cat")
        return place.state if place else None

    def runs(self) -> int:
        """How often the engine was given a job."""
        return sum(isinstance(each, messages.Run) for each in self.engine.heard)

    def close(self) -> None:
        self.service.close()
        self.life.end()
