"""One change of state: a rename that the table allows, under the claim lock where the table says so."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from pathlib import Path

from filelock import FileLock

from spooler import durable, states
from spooler.durable import StrPath
from spooler.reader import Reader
from spooler.removal import remove

log = logging.getLogger(__name__)

CLAIM_LOCK, CLAIM_LOCK_WAIT_S = ".claim.lock", 30.0


class Moves(Reader):
    """What every verb of the spool is made of."""

    def move(self, verb: str, source: StrPath, target: StrPath, synced: bool = True) -> None:
        """One change of state. `target` is a name that only the caller can own; raises FileNotFoundError for a lost race."""
        states.check(verb, self.root, source, target)
        try:
            durable.rename(source, target, synced)
        except FileNotFoundError:
            parent = Path(target).parent
            if not durable.exists(source) or durable.exists(parent):
                raise
            # No lost race: whoever took it for one would try for ever.
            self.restore(parent)
            durable.rename(source, target, synced)

    def restore(self, folder: Path) -> None:
        """Make one of the spool's own folders that somebody removed under us. Raises OSError where that is not ours to do.

        Not pending/: who replaces it moves another to its name. The caller knows that the rest of the spool is there.
        """
        if durable.exists(folder):
            return
        if folder.parent != self.root or folder == self.pending:
            # Not FileNotFoundError, which is a lost race to whoever moves a job; it may be back soon.
            raise OSError(errno.ESTALE, "The folder is gone", str(folder))
        log.warning("%s was gone: it is made again", folder)
        durable.make_folder(folder, exist_ok=True)

    def claim_lock(self) -> FileLock:
        """What is held while a job is claimed, or moved backward."""
        # A new object each time: one object may be acquired twice, even from two threads.
        path = self.root / CLAIM_LOCK
        return FileLock(path, timeout=CLAIM_LOCK_WAIT_S, mode=self._lock_mode, fallback_to_soft=False)

    def _discard(self, entry: Path) -> None:
        """Remove a stranger's file or folder, by way of tmp/: where it cannot be removed it is at least out of the way."""
        if entry.name.startswith(".nfs"):
            return  # an NFS client's: it cannot be moved, and goes when whoever still reads it closes it (N9)
        aside = self.tmp / durable.unique_name()
        try:
            entry.rename(aside)
        except FileNotFoundError:
            if not entry.parent.is_dir():
                raise
            return
        with contextlib.suppress(OSError, RecursionError):
            remove(aside)


def forget(path: StrPath) -> None:
    """Remove a file that matters no more; where that fails it is only in the way, and fsck or the reaper will find it."""
    try:
        os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("cannot remove %s: %s", path, error)
