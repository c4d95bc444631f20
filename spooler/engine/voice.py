"""What the engine says to the spooler, from whichever thread: messages, each whole, signs of life not too often, room once."""

from __future__ import annotations

import os
import threading
import time
from typing import IO

from spooler import messages
from spooler.engine.work import Work
from spooler.messages import FromEngine
from spooler.status import Phase

#: Between signs of life while a job runs: as often again as the spooler shows them.
SIGN_S = 0.1


class Voice:
    """The pipe to the spooler. When nobody hears any more, the process ends."""

    def __init__(self, out: IO[bytes]):
        self._out = out
        self._lock = threading.Lock()
        self._told_room = messages.Room(heard=0, jobs=0)

    def send(self, message: FromEngine) -> None:
        try:
            with self._lock:
                self._out.write(message.line())
        except BrokenPipeError:  # the spooler is dead
            os._exit(0)

    def sign(self, work: Work, phase: Phase, step: int, at_work: int, always: bool = False) -> None:
        """Tell how far a job is; the more are at work, the less often each, unless `always`."""
        now = time.monotonic()
        if always or now - work.last_sign >= SIGN_S * at_work:
            work.last_sign = now
            progress = {"image": work.image, "batch": work.batch, "step": step, "steps": work.planned}
            self.send(messages.Progress(id=work.id, phase=phase, **progress))

    def tell_room(self, room: messages.Room) -> None:
        """Tell how many more jobs may be given, when it is anything else than was told."""
        if room != self._told_room:
            self._told_room = room
            self.send(room)
