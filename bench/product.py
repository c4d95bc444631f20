"""No benchmark: a real spooler over a spool of its own, and waiting for what becomes of files in it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT)]

from spooler.spool import Spool
from spooler.status import SpoolerStatus

#: What takes longer is a product that stands still, seconds.
DEADLINE_S = 600.0
#: Between two looks, seconds: who looks more often takes a core's hundredths from what is measured.
POLL_S = 0.02


class Product:
    """The spooler's process, from its start to `stop`."""

    def __init__(self, folder: Path, *options: str, env: Mapping[str, str] | None = None):
        """Starts it with the demo model on the CPU, and waits until it is warm. All that it writes is below the folder."""
        folder.mkdir(exist_ok=True)
        self.spool = Spool(folder / "spool")
        self.spool.create()
        where = ["--spool", str(self.spool.root), "--cache", str(folder / "cache"), "--models", str(folder / "models")]
        command = [sys.executable, "-m", "spooler", *where, "--spooler", "bench", "--device", "cpu", *options]
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdout=self._log, stderr=self._log, env={**os.environ, **(env or {})}
        )
        self.wait(lambda: (told := self.status) and told.state == "ready", "the engine to be warm")

    @property
    def status(self) -> SpoolerStatus | None:
        """What the spooler last told of itself; None before it did."""
        return next((status for status, alive in self.spool.spoolers() if alive), None)

    def drop(self, name: str, job: Mapping[str, Any]) -> float:
        """Rename a job into pending/; the moment before, monotonic seconds."""
        draft = self.spool.tmp / f"draft-{name}"
        draft.write_text(json.dumps(job))
        begun = time.monotonic()
        draft.rename(self.spool.pending / f"{name}.json")
        return begun

    def done(self, name: str) -> Path:
        """Where that job is when it is done."""
        return self.spool.root / "done" / name

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Raises RuntimeError when it does not come true, or the spooler ends."""
        end = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > end or self._process.poll() is not None:
                log = Path(self._log.name).read_text(errors="replace")[-2000:]
                raise RuntimeError(f"waited in vain for {what}; the spooler's last words:\n{log}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        self._log.close()


@contextlib.contextmanager
def product(folder: Path, *options: str, env: Mapping[str, str] | None = None) -> Iterator[Product]:
    made = Product(folder, *options, env=env)
    try:
        yield made
    finally:
        made.stop()
