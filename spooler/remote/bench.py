"""A worker's one engine, and those who have a job at it: each waits in a thread of its own for the end of it.

The same warden, the same deadlines and the same messages as a spooler has for its own engine; only there is no spool.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from statistics import median

from spooler import messages
from spooler.child import Child, Gone
from spooler.record import EngineFacts, Image
from spooler.settings import Settings
from spooler.warden import Warden

log = logging.getLogger(__name__)

TURN_S = 0.5

#: Starts an engine: its settings, and who hears of it.
Start = Callable[[Settings, Callable[[Child, messages.FromEngine | Gone], None]], Child]
End = messages.Finished | messages.Failed | messages.Lost


@dataclass
class Seat:
    """One job at the engine. Whoever sits there sets `unwanted`; all else is set by the engine's words."""

    run: messages.Run
    unwanted: bool = False
    given: bool = False  # whether the engine has it
    progress: messages.Progress | None = None
    last_sign: float = 0.0  # monotonic seconds
    images: list[Image] = field(default_factory=list)
    step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    end: End | None = None

    def hear(self, message: messages.FromEngine, now: float) -> None:
        silent_s, self.last_sign = now - self.last_sign, now
        match message:
            case messages.Progress():
                before, self.progress = self.progress, message
                if before and before.phase == message.phase == "denoise" and message.step > before.step:
                    self.step_seconds.append(silent_s / (message.step - before.step))
            case messages.ImageDone():
                self.images.append(message.image)
            case messages.Finished() | messages.Failed() | messages.Lost():
                self.end = message


class Bench:
    """One engine process at a time, and the seats at it. Every method may be called from any thread."""

    def __init__(self, settings: Settings, start: Start = Child):
        self._inbox: SimpleQueue[tuple[Child, messages.FromEngine | Gone]] = SimpleQueue()
        self._changed = threading.Condition()  # holds everything below
        self._warden = Warden(settings, lambda: start(settings, lambda child, said: self._inbox.put((child, said))))
        self._seats: dict[str, Seat] = {}  # by the jobs' ids
        self._waiting_alone = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="bench", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the engine; whoever still has a job there is told that it is lost."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._warden.close()

    @property
    def facts(self) -> EngineFacts | None:
        """Of the model that ran last; None while there is no warm engine."""
        return self._warden.facts

    @property
    def over(self) -> str | None:
        """Why there will be no engine here, when that is so."""
        if self._warden.refused:
            return self._warden.refused
        return f"The engine does not start: {self._warden.reason}" if self._warden.failing else None

    @property
    def refused(self) -> bool:
        return bool(self._warden.refused)

    def draw(self, seat: Seat) -> End:
        """Have the engine draw it; returns when it has ended, however it did."""
        with self._changed:
            self._sit(seat)
            if seat.end is None:
                seat.given, seat.last_sign = True, time.monotonic()
                self._warden.send(seat.run)
                self._changed.wait_for(lambda: seat.end)
            self._rise(seat)
            assert seat.end  # noqa: S101 - waited for
            return seat.end

    def cancel(self, seat: Seat) -> None:
        """Have it end at its next step, or before its first."""
        with self._changed:
            if not seat.unwanted:
                seat.unwanted = True
                if seat.given and not seat.end:
                    self._warden.send(messages.Cancel(id=seat.run.id))
                self._changed.notify_all()

    def _sit(self, seat: Seat) -> None:
        """Wait for a place: a job that may be what ends the process shares it with nobody, and an id is there once."""
        alone = seat.run.alone
        self._waiting_alone += alone

        def is_free() -> bool:
            if any(other.run.alone for other in self._seats.values()) or (alone and self._seats):
                return False
            if not alone and self._waiting_alone:  # or it would wait as long as others come
                return False
            return seat.run.id not in self._seats and bool(self._warden.room(busy=False))

        self._changed.wait_for(lambda: seat.unwanted or self._closed or self.over or is_free())
        self._waiting_alone -= alone
        if seat.unwanted:
            seat.end = messages.Failed(id=seat.run.id, code="cancelled", reason="Cancelled before it started.")
        elif self._closed or self.over:
            how = self.over or "the worker was stopped"
            seat.end = messages.Lost(id=seat.run.id, how=how, blame=False)
        else:
            self._seats[seat.run.id] = seat
        self._changed.notify_all()

    def _rise(self, seat: Seat) -> None:
        if self._seats.get(seat.run.id) is seat:
            del self._seats[seat.run.id]
        self._changed.notify_all()

    # -- the engine ----------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closed:
            heard: tuple[Child, messages.FromEngine | Gone] | None = None
            with contextlib.suppress(Empty):
                heard = self._inbox.get(timeout=TURN_S)
            now = time.monotonic()
            with self._changed:
                if heard:
                    self._receive(*heard, now)
                self._warden.mind(now, busy=bool(self._seats))
                if at_work := self._at_work:
                    is_loading = any(seat.progress and seat.progress.phase == "load" for seat in at_work)
                    step_s = [median(seat.step_seconds) for seat in at_work if seat.step_seconds]
                    self._warden.kill_if_silent(now, max(seat.last_sign for seat in at_work), is_loading, step_s)
                if heard or self.over:
                    self._changed.notify_all()
        with self._changed:
            self._lose(self._at_work, "the worker was stopped", blame=False)
            self._changed.notify_all()

    @property
    def _at_work(self) -> list[Seat]:
        return [seat for seat in self._seats.values() if seat.given and not seat.end]

    def _receive(self, child: Child, message: messages.FromEngine | Gone, now: float) -> None:
        if child is not self._warden.child:
            return  # of an engine that was given up
        match message:
            case Gone():
                how = self._warden.gone(message, now, bool(self._seats), stopping=False)
                self._lose(self._at_work, how, blame=True)
            case messages.OfItself():
                self._warden.hear(message)
            case _:
                if (seat := self._seats.get(message.id)) and not seat.end:
                    self._hear_of_job(seat, message, now)

    def _hear_of_job(self, seat: Seat, message: messages.FromEngine, now: float) -> None:
        seat.hear(message, now)
        match message:
            case messages.Finished():
                self._warden.facts = message.facts
                self._warden.recycle_if_grown(message.grown_bytes)
            case messages.Failed():
                self._warden.recycle_if_grown(message.grown_bytes)
                if message.fatal:
                    self._warden.kill("it met an error that no later job would survive")

    def _lose(self, seats: list[Seat], how: str, blame: bool) -> None:
        for seat in seats:
            seat.end = messages.Lost(id=seat.run.id, how=how, alone=len(seats) == 1, blame=blame)
