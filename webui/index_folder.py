"""Where the indexes lie in this host's cache folder, and how those go that nobody uses any more."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import time
from pathlib import Path

#: Seconds after which an index that nobody used is removed.
FORGOTTEN_S = 90 * 86_400.0


def folder_of(root: Path, cache: Path) -> Path:
    """Where the index of the spool at `root` lies. Another host, or another folder of the same path, has another."""
    resolved = root.resolve()
    told = f"{socket.gethostname()}\n{resolved}\n{resolved.stat().st_ino}"
    mark = hashlib.blake2b(os.fsencode(told), digest_size=8).hexdigest()
    return cache.expanduser().absolute() / "index" / f"{resolved.name}-{mark}"


def forget_old(mine: Path) -> None:
    """Remove the indexes that nobody has used for long: they can be made again."""
    with contextlib.suppress(OSError):
        for folder in mine.parent.iterdir():
            used = max((each.stat().st_mtime for each in folder.iterdir()), default=0.0)
            if folder != mine and time.time() - used > FORGOTTEN_S:
                shutil.rmtree(folder, ignore_errors=True)
