"""What happens in the whole queue, for everybody who listens: one thread looks, however many streams there are.

It looks while somebody listens and a while longer, so that a stream that broke goes on where it was. Each event has a number;
the last KEPT are kept, and a listener who is further behind is told to list the jobs anew. So nothing grows with a slow one.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, Field

from spooler.changes import Changes, Seen
from spooler.client import ChangeView
from spooler.states import Status

log = logging.getLogger(__name__)

#: Seconds between two looks.
LOOK_S = 0.25
#: Events that are kept, and changes of one look that are told one by one.
KEPT, MOST = 2000, 500
#: Seconds after which it is seen that a listener has gone.
HANGS_UP_S = 1.0
#: Seconds that the thread goes on when nobody listens; ids of submitted jobs that wait for its next look.
LINGER_S, MOST_HINTS = 30.0, 1000


class Begin(BaseModel):
    """The first event of a stream, and another when some were missed."""

    resumed: bool = Field(description="False: list the jobs now, for what follows is told from this moment on.")


class QueueNews(BaseModel):
    """The queue as a whole."""

    ready: bool
    paused: bool
    waiting: int
    held: int
    running: int


@dataclass(frozen=True)
class Sight:
    """What one look at the queue saw."""

    seen: Seen
    queue: QueueNews


Body = Begin | QueueNews | ChangeView
Kind = Literal["begin", "queue", "job"]


class News:
    """The events of one spool. Safe for many threads."""

    def __init__(self, where: Callable[[str], Status | None]):
        self._where = where
        self._era = secrets.token_hex(4)  # numbers are of this process
        self._told = threading.Condition()
        self._events: deque[tuple[int, Kind, Body]] = deque(maxlen=KEPT)
        self._last = 0  # number of the newest event
        self._ready = False  # whether there was a first look, from which on changes are told
        self._hints: set[str] = set()
        self._listeners = 0
        self._thread: threading.Thread | None = None
        self._quiet_since = 0.0

    def hint(self, job_id: str) -> None:
        """A job came just now: it is told of, however soon it ends."""
        with self._told:
            if self._thread and len(self._hints) < MOST_HINTS:
                self._hints.add(job_id)

    @contextmanager
    def listening(self, look: Callable[[], Sight]) -> Iterator[None]:
        """Have the queue looked at meanwhile."""
        with self._told:
            self._listeners += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, args=(look,), name="news", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._told:
                self._listeners -= 1
                self._quiet_since = time.monotonic()

    def events(self, last_id: str, wait_s: float, alive_s: float, gone: Callable[[], bool]) -> Iterator[bytes]:
        """Server-sent events after the one of that id, for `wait_s` seconds; a comment when there is none for `alive_s`.

        While `listening`.
        """
        spoke = time.monotonic()
        end = spoke + wait_s
        at = self._number(last_id)
        if at is not None:
            yield self._frame(at, "begin", Begin(resumed=True))
        while (now := time.monotonic()) < end and not gone():
            found: list[tuple[int, Kind, Body]] = []
            with self._told:
                if not self._ready or self._last == at:
                    self._told.wait(min(HANGS_UP_S, end - now))
                if self._ready and (at is None or self._last - at > len(self._events)):
                    at, found = self._last, [(self._last, "begin", Begin(resumed=False))]
                elif at is not None:
                    found = [event for event in self._events if event[0] > at]
                    at = self._last
            if found or time.monotonic() - spoke >= alive_s:
                yield b"".join(self._frame(*event) for event in found) or b": alive\n\n"
                spoke = time.monotonic()

    def _number(self, event_id: str) -> int | None:
        """The number in an event's id; None for one that says nothing now."""
        era, _, number = event_id.partition("-")
        if era != self._era or not (number.isascii() and number.isdecimal() and len(number) < 16):
            return None
        with self._told:
            return int(number) if int(number) <= self._last else None

    def _frame(self, number: int, kind: str, body: BaseModel) -> bytes:
        return f"id: {self._era}-{number}\nevent: {kind}\ndata: {body.model_dump_json()}\n\n".encode()

    # -- the thread ----------------------------------------------------------------------------------------------------------

    def _run(self, look: Callable[[], Sight]) -> None:
        changes: Changes | None = None
        queue: QueueNews | None = None
        while True:
            with self._told:
                if not self._listeners and time.monotonic() - self._quiet_since > LINGER_S:
                    self._thread = None
                    self._hints.clear()
                    self._era, self._last = (
                        secrets.token_hex(4),
                        0,
                    )  # nobody looks until somebody listens: nothing can be resumed
                    self._events.clear()
                    self._ready = False
                    return
                hints, self._hints = self._hints, set()
            sight: Sight | None = None
            try:
                sight = look()
                told = changes.look(sight.seen, hints, MOST) if changes else []
            except OSError as error:  # of the spool's disk: it may be better at the next look
                log.warning("the queue cannot be looked at: %s", error)
                told = []
            except Exception:  # else whoever listens would hear of nothing any more, and not know it
                log.exception("the queue cannot be looked at")
                told = []
            else:
                changes = changes or Changes(sight.seen, self._where)
            bodies: list[tuple[Kind, Body]] = [("begin", Begin(resumed=False))]
            if told is not None:
                bodies = [("job", change) for change in told]
            if sight and sight.queue != queue:
                queue = sight.queue
                bodies.append(("queue", queue))
            self._tell(bodies)
            time.sleep(LOOK_S)

    def _tell(self, bodies: list[tuple[Kind, Body]]) -> None:
        if not bodies:
            return
        with self._told:
            for kind, body in bodies:
                self._last += 1
                self._events.append((self._last, kind, body))
            self._ready = True
            self._told.notify_all()
