"""A folder on the worker's own disk for each task, locked for as long as its worker lives.

The lock is `flock` on the folder itself. By it systemd-tmpfiles leaves it alone (tmpfiles.d(5)), which else clears /tmp of what
is old; and a worker that starts knows by it what one that was killed has left behind: pictures that are nobody's any more.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

#: With the host's name: no other host is told of the lock, on NFS neither, so each sweeps what is its own.
PREFIX = "sdspool-worker-" + "".join(c if c.isalnum() else "-" for c in socket.gethostname()) + "."
#: Seconds for which a folder that nobody has locked is left alone: it may have been made just now.
YOUNG_S = 60.0


class Scratch:
    """A task's folder."""

    def __init__(self) -> None:
        """Make it. Raises OSError."""
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        try:
            self._fd: int | None = _locked(self.path)
        except OSError:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def sweep() -> None:
    """Remove what workers that are no more have left of their tasks."""
    with suppress(OSError):  # there is no such folder: a task will tell
        for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            with suppress(OSError):  # another user's, or gone
                _remove_if_left(path)


def _remove_if_left(path: Path) -> None:
    """Raises OSError: BlockingIOError where a worker has it."""
    found = path.lstat()
    if found.st_uid != os.geteuid() or time.time() - found.st_ctime < YOUNG_S:
        return
    fd = _locked(path)
    try:
        shutil.rmtree(path)
    finally:
        os.close(fd)
    log.info("removed %s, which a worker left behind", path)


def _locked(folder: Path) -> int:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd
