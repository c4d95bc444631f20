"""The warden of the engine: starts it, kills it when it takes too long, buries it, and waits before the next start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from spooler import messages
from spooler.child import Child, Gone
from spooler.record import EngineFacts
from spooler.settings import Settings
from spooler.status import LaneStatus

log = logging.getLogger(__name__)

STOP_WAIT_S = 10.0
#: Starts of the engine that may fail in a row before only one a minute is tried.
FAILED_STARTS = 3
FAILED_START_WAIT_S = 60.0
#: Usual steps without a sign of life that an engine at work is given, when that is longer than the setting.
STALL_STEPS = 20


class Warden:
    """One engine process at a time. It is expendable: whatever happens to it, there will be another."""

    def __init__(self, settings: Settings, start: Callable[[], Child]):
        self._settings = settings
        self._start = start
        self.child: Child | None = None
        self.facts: EngineFacts | None = None  # of the model that ran last; set while the engine is warm
        self.refused: str | None = None  # the engine's reason why it can never work here
        self.trouble: str | None = None  # why it draws nothing though it is there, as it says
        self.workers: tuple[LaneStatus, ...] = ()  # who draws, when it is not the engine itself
        self.load_seconds = 0.0  # of a start that no job has been charged with yet
        self._child_since = 0.0
        self._next_start = 0.0
        self._failed_starts = 0
        self._last_failure: str | None = None
        self._killed_for: str | None = None
        self._ever_ready = False
        self._recycling = False
        self._given = 0  # jobs, since this engine started
        self._room = messages.Room(heard=0, jobs=0)

    def room(self, busy: bool) -> int:
        """How many jobs it may be given now, as far as the engine goes: one that is not busy always one, else as it said.

        What it said may be late: jobs that it had not heard of by then have taken of the room.
        """
        if self.facts is None or self._recycling or self._killed_for:
            return 0
        said = self._room.jobs - (self._given - self._room.heard)
        return max(0 if busy else 1, said)

    @property
    def is_ending(self) -> bool:
        """Whether all that it has is nearly over, so that it may be given one more job, whatever it is like."""
        has_heard_all = self._given == self._room.heard
        return self._room.ending and has_heard_all and bool(self.facts) and not (self._recycling or self._killed_for)

    @property
    def failing(self) -> bool:
        return self._failed_starts >= FAILED_STARTS and self.facts is None

    @property
    def reason(self) -> str | None:
        """Why there is no warm engine, or one that cannot draw, as far as known."""
        return self.trouble or (None if self.facts else self._last_failure)

    def mind(self, now: float, busy: bool) -> None:
        """Start the engine when there is none; kill one that loads too long; end one that is to be recycled and is not busy."""
        if self.child is None:
            if now >= self._next_start and not self.refused:
                self.child, self._child_since = self._start(), now
                self._given, self._room = 0, messages.Room(heard=0, jobs=0)
                log.info("engine %d: starting", self.child.pid)
        elif self.facts is None and not self.child.is_remote and now - self._child_since > self._settings.load_s:
            self.kill(f"it did not load within {self._settings.load_s:g} s")
        elif self._recycling and not busy:
            self.stop()

    def send(self, message: messages.Run | messages.Cancel) -> None:
        self._given += isinstance(message, messages.Run)
        if self.child:
            self.child.send(message)

    def hear(self, message: messages.OfItself) -> None:
        """What the engine tells of itself."""
        match message:
            case messages.Ready():
                self._ready(message.facts)
            case messages.Refused():
                self._refuse(message.reason)
            case messages.Room():
                self._room = message
            case messages.Trouble():
                self.trouble = message.reason
            case messages.Crew():
                self.workers = message.workers

    def kill_if_silent(self, now: float, last_sign: float, is_loading: bool, step_s: Iterable[float]) -> None:
        """Kill an engine at work that gave no sign of life for too long, since the moment `last_sign`, of whichever job."""
        patience_s = self.patience_s(is_loading, step_s)
        if now - last_sign > patience_s:
            self.kill(f"it gave no sign of life for {patience_s:g} s")

    def patience_s(self, is_loading: bool, step_s: Iterable[float]) -> float:
        """For how long it may give no sign of life at work, seconds.

        To load a model it has that time; else many of its usual steps (`step_s`: seconds, of each job), with a floor.
        """
        settings = self._settings
        return settings.load_s if is_loading else max([settings.stall_s, *(STALL_STEPS * each for each in step_s)])

    def kill(self, why: str) -> None:
        if self.child and not self._killed_for:
            log.error("engine %d: killed, %s", self.child.pid, why)
            self._killed_for = why
            self.child.kill()

    def recycle_if_grown(self, grown_bytes: int) -> None:
        """Have it start anew before the next job when its resident memory has grown too far."""
        if grown_bytes > self._settings.recycle_bytes:
            self._recycling = True

    def _ready(self, facts: EngineFacts) -> None:
        self.facts = facts
        self.load_seconds = facts.load_seconds
        self._failed_starts, self._last_failure, self._ever_ready = 0, None, True
        log.info("engine %d: ready, %s on %s", self.child.pid if self.child else 0, facts.model, facts.device_name)

    def _refuse(self, reason: str) -> None:
        """It says that it cannot work: for good when it never could."""
        self._last_failure = reason
        if not self._ever_ready:
            self.refused = reason

    def gone(self, gone: Gone, now: float, busy: bool, stopping: bool) -> str:
        """Bury it; returns how it ended, in words."""
        how = f"{gone.how}: {self._killed_for}" if self._killed_for else gone.how
        was_ready = self.facts is not None
        pid = self.child.pid if self.child else 0
        recycled, self._recycling = self._recycling, False
        self.child, self.facts, self.trouble, self._killed_for, self.workers = None, None, None, None, ()
        if stopping:
            return how
        if recycled and not busy:
            log.info("engine %d: ended between two jobs, to give its memory back", pid)
            return how
        log.error("engine %d: gone, %s", pid, how)
        if not was_ready:
            self._failed_starts += 1
            self._last_failure = self._last_failure or f"it ended while it loaded ({how})"
            if self._failed_starts >= FAILED_STARTS:
                self._next_start = now + FAILED_START_WAIT_S
        return how

    def stop(self) -> None:
        """Have the engine end at its next step."""
        if self.child:
            self.child.send(messages.Stop())

    def close(self) -> None:
        """See the engine that was told to stop to its end."""
        if self.child:
            self.child.wait(STOP_WAIT_S if self.facts else 0)  # one that still loads has nothing to finish
        self.child, self.facts = None, None
