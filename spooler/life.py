"""A spooler's life: the lock that it holds while it lives, and the epoch by which it notices that it was taken for dead."""

from __future__ import annotations

import errno
import logging

from filelock import FileLock

from spooler import durable
from spooler.spool import Spool
from spooler.states import FOLDERS

log = logging.getLogger(__name__)

LOCK_WAIT_S = 5.0


class Life:
    """One life of the spooler of that name. The lock is the kernel's: it is free the moment that the process ends.

    A lock on a network file system can be lost without a word (N8). So it is a hint, and the rename is the fence; the epoch
    only makes a spooler that lost its lock stop at its next commit instead of working for nothing.
    """

    def __init__(self, spool: Spool, spooler: str, lock: FileLock, epoch: int):
        self._spool = spool
        self._spooler = spooler
        self._lock = lock
        self._epoch = epoch

    @classmethod
    def begin(cls, spool: Spool, spooler: str, wait_s: float = LOCK_WAIT_S) -> Life:
        """Take the life lock and begin an epoch. Raises filelock.Timeout when a spooler of that name lives."""
        durable.make_folder(spool.claimed / spooler, exist_ok=True)
        lock = spool.life_lock(spooler)
        lock.acquire(timeout=wait_s)
        try:
            return cls(spool, spooler, lock, spool.raise_epoch(spooler))
        except BaseException:
            lock.release()
            raise

    def goes_on(self) -> bool:
        """Whether nobody took over since: asked before each commit. Raises OSError when the spool cannot be read or is away."""
        if self._spool.epoch(self._spooler) == self._epoch:
            return True
        if not any(durable.exists(self._spool.root / name) for name in FOLDERS):
            # Renamed, or not mounted: when it is back, it tells.
            raise FileNotFoundError(errno.ENOENT, "The spool is not there", str(self._spool.root))
        return False

    def end(self) -> None:
        self._lock.release()
