"""The smallest reader of pending/: a process that writes down when it first knew of each name, by hint or by listing.

It keeps the rules of the spooler's index: a hinted name is known; a hint without a name, or a folder whose time has changed at
the second's tick, is listed; while the watch polls, each tick lists. `python -m tests.prove.listener SPOOL LOG`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from queue import Empty, SimpleQueue

from spooler.watch import Hint, Watch

TICK_S = 1.0


def listen(root: Path, log_path: Path) -> None:
    inbox: SimpleQueue[Hint] = SimpleQueue()
    watch = Watch(root, "me", inbox.put)
    known: set[str] = set()
    mode, tick, listed, look = "", 0.0, (0, 0), False
    with log_path.open("w", buffering=1 << 16) as log:

        def know(name: str) -> None:
            if name not in known:
                known.add(name)
                log.write(f"name {time.monotonic():.6f} {name}\n")

        while True:
            with contextlib.suppress(Empty):
                hint = inbox.get(timeout=max(0.0, tick - time.monotonic()))
                while True:
                    if hint.name is None:
                        look = True
                    else:
                        know(hint.name)
                    hint = inbox.get_nowait()
            if time.monotonic() >= tick or look:
                watch.keep()
                if time.monotonic() >= tick:
                    tick = time.monotonic() + TICK_S
                with contextlib.suppress(OSError):
                    info = (root / "pending").stat()
                    if look or watch.polling or listed != (info.st_ino, info.st_mtime_ns):
                        listed, look = (info.st_ino, info.st_mtime_ns), False
                        for name in os.listdir(root / "pending"):  # noqa: PTH208 - names are all that is wanted
                            know(name)
            if watch.mode != mode:
                mode = watch.mode
                log.write(f"mode {time.monotonic():.6f} {mode}\n")
            log.flush()


if __name__ == "__main__":
    listen(Path(sys.argv[1]), Path(sys.argv[2]))
