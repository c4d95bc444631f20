"""What people note on a job without moving it: a priority, a star; and on the whole spool, that it is paused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from spooler import durable, states
from spooler.moves import Moves, forget
from spooler.place import Place
from spooler.reader import PRIORITY

#: Seconds between two looks at a clock that stands still, and how often it is looked at.
TICK_S, TICKS = 0.004, 25


class Marks(Moves):
    """Side files, which change no job and no state."""

    #: The time of the "top" that was given last, in nanoseconds.
    _last_top_ns = 0

    def set_priority(self, job_id: str, priority: int | Literal["top"] | None) -> Place | None:
        """Give a waiting job another priority than its own, or take that back (None). Returns where it is; None: no such job.

        It is a side file, pending/<id>.priority: the job itself never changes, and a person may write one with an editor.
        """
        place = self.find(job_id)
        if place and place.state in ("pending", "held"):
            side = self.pending / f"{job_id}{PRIORITY}"
            if priority is None:
                forget(side)
            else:
                self._draft_of(priority).replace(side)
            durable.sync_folder(self.pending)
        return place

    def _draft_of(self, priority: int | str) -> Path:
        """A draft of a side file. A later "top" is above an earlier one by their times, and a file system's clock stands still
        for milliseconds: it is written again until its time is another, or for so long that the clock must be a coarse one."""
        for attempt in range(TICKS):
            draft = self.tmp / durable.unique_name()
            durable.write_new(draft, f"{priority}\n".encode())
            at_ns = draft.stat().st_mtime_ns
            if priority != "top" or at_ns != self._last_top_ns or attempt == TICKS - 1:
                break
            forget(draft)
            time.sleep(TICK_S)
        if priority == "top":
            self._last_top_ns = at_ns
        return draft

    def star(self, job_id: str, starred: bool) -> Place | None:
        """Mark a finished job, which spares it from retention, or take the mark away. None: no such finished job."""
        place = self.find_by_name(job_id)
        if place is None or place.state not in states.ENDS:
            return None
        if starred:
            durable.write_new_if_missing(place.path / "starred", b"")
        else:
            (place.path / "starred").unlink(missing_ok=True)
            durable.sync_folder(place.path)
        return place

    def pause(self) -> None:
        (self.root / "PAUSE").touch()

    def resume(self) -> None:
        forget(self.root / "PAUSE")
