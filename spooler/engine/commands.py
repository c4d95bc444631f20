"""What the spooler says, heard while the engine is at work. No torch here: it listens while torch is still being imported."""

from __future__ import annotations

import os
import threading
from queue import Empty, SimpleQueue
from typing import IO

from spooler import messages


class Commands:
    """The spooler's messages, read by a thread of their own so that a cancel is heard in mid-job."""

    def __init__(self, stdin: IO[bytes]):
        self.runs: SimpleQueue[messages.Run | None] = SimpleQueue()
        self.stopped = False
        self._cancelled: set[str] = set()
        threading.Thread(target=self._listen, args=(stdin,), name="spooler listener", daemon=True).start()

    def next_run(self, wait: bool) -> messages.Run | None:
        """The next job; None when there is none, or the engine is told to stop. `wait` until there is."""
        try:
            return self.runs.get(block=wait)
        except Empty:
            return None

    def unwanted(self, job_id: str) -> bool:
        """Whether the job should end at its next step."""
        return self.stopped or job_id in self._cancelled

    def _listen(self, stdin: IO[bytes]) -> None:
        for line in stdin:
            match messages.to_engine.validate_json(line):
                case messages.Run() as run:
                    self._cancelled.discard(run.id)
                    self.runs.put(run)
                case messages.Cancel(id=job_id):
                    self._cancelled.add(job_id)
                case messages.Stop():
                    self.stopped = True
                    self.runs.put(None)
                    return
        # The spooler is dead. Whatever runs here now would be published by nobody, and its GPU is wanted by the next.
        os._exit(0)
