"""Several actors at work on one spool, in turns: who goes on at each step is a seed's choice, the same each time.

They are threads, for one process is traced more easily than three; only one of them runs at a time, and they change over before
a call that opens, makes, moves, removes or syncs a file.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

CHANGES = frozenset({"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir"})


def in_turns(actors: Sequence[Callable[[], None]], seed: int) -> None:
    """Let all of them do their work to its end. Raises what the first one raised.

    For a process that ends soon: an audit hook stays for its life, and so does the os.fsync that waits for its turn.
    """
    _Turns(seed).run(actors)


class _Turns:
    def __init__(self, seed: int):
        self._rng = random.Random(seed)
        self._turn = threading.Condition()
        self._at_work: list[int] = []
        self._now = -1
        self._mine = threading.local()
        self._raised: list[BaseException] = []

    def run(self, actors: Sequence[Callable[[], None]]) -> None:
        self._at_work = list(range(len(actors)))
        threads = [threading.Thread(target=self._act, args=(number, act)) for number, act in enumerate(actors)]
        for thread in threads:
            thread.start()
        sync = os.fsync

        def in_turn(fd: int) -> None:
            self._pass()
            sync(fd)

        os.fsync = in_turn  # type: ignore[assignment]
        sys.addaudithook(self._hear)
        with self._turn:
            self._next()
        for thread in threads:
            thread.join()
        os.fsync = sync
        for error in self._raised:
            raise error

    def _act(self, number: int, act: Callable[[], None]) -> None:
        try:
            with self._turn:
                self._turn.wait_for(lambda: self._now == number)
            self._mine.number = number
            act()
        except BaseException as error:  # noqa: BLE001 - raised again by run()
            self._raised.append(error)
        finally:
            self._mine.number = None
            with self._turn:
                self._at_work.remove(number)
                self._next()

    def _hear(self, event: str, arguments: Any) -> None:
        if event in CHANGES:
            self._pass()

    def _pass(self) -> None:
        """Give somebody a turn, and wait for one's own."""
        number = getattr(self._mine, "number", None)
        if number is not None:
            with self._turn:
                self._next()
                self._turn.wait_for(lambda: self._now == number)

    def _next(self) -> None:
        self._now = self._rng.choice(self._at_work) if self._at_work else -1
        self._turn.notify_all()
