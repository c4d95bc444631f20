"""Listing a folder of finished jobs, which may have a million: when it is due, and what of it is a job."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from spooler.ids import ID

#: Seconds after which a folder is listed though its mtime did not change, and odd ones are tried again.
FULL_S = 600.0
#: A change in the same tick of the file system's clock as a listing leaves the same mtime. So a listing counts only when the
#: mtime had stood for so many seconds of our own clock: the coarsest tick, that of FAT.
TICK_S = 2.0


@dataclass(frozen=True)
class Listing:
    """When one state's folder was listed, and so when it is to be listed again. Times are seconds of a monotonic clock."""

    mtime_ns: int  # before it was listed
    seen_at: float  # when the folder was first seen with that mtime
    began: float
    ended: float
    rest_s: float  # in which it is not listed again, whatever happens

    def is_due(self, mtime_ns: int, now: float) -> bool:
        if now - self.ended < self.rest_s:
            return False
        in_doubt = self.began - self.seen_at < TICK_S <= now - self.seen_at
        return mtime_ns != self.mtime_ns or in_doubt or now - self.ended >= FULL_S


def modified(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, int]]:
    """The names that are still there with the mtimes of their folders in ns."""
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # RACE: gone since the listing
            yield name, (folder / name).lstat().st_mtime_ns


def exists(path: Path) -> bool:
    """Whether there is anything of that name. Raises OSError when that cannot be told."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def may_be_a_job(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and ID.fullmatch(entry.name) is not None
