"""The free space below which no job is begun: what waits stays, and all goes on by itself when there is room (F5)."""

from __future__ import annotations

import logging

from spooler.reader import Reader

log = logging.getLogger(__name__)

#: Seconds between two looks at the free space.
LOOK_S = 1.0
#: Seconds for which a disk is believed to be full after a write met that, whatever is said to be free: a quota is not told.
FULL_S = 10.0


class Floor:
    def __init__(self, spool: Reader, floor_mib: float):
        self.reason: str | None = None  # why nothing is begun
        self.next_look = 0.0
        self._spool = spool
        self._mib = floor_mib

    def has_room(self, now: float) -> bool:
        """Whether a job may be begun. `now` is monotonic seconds. Raises OSError when the spool cannot be asked."""
        if now < self.next_look:
            return self.reason is None
        self.next_look = now + LOOK_S
        free, before = self._spool.free_bytes(), self.reason
        self.reason = None
        if free < self._mib * (1 << 20):
            self.reason = f"The disk has {free >> 20} MiB free, less than the floor of {self._mib:g} MiB."
            if not before:
                log.error("%s No job is begun until there is room.", self.reason)
        elif before:
            log.info("there is room again")
        return self.reason is None

    def met_full_disk(self, now: float) -> None:
        self.reason, self.next_look = "The disk was full.", now + FULL_S
