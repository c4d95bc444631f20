"""Thumbnails: made once, kept in this web host's own cache folder, a copy that can be thrown away.

A thumbnail's file is named by hashes of the job, and of the picture, its mtime and the size: so one that is there is right, and
those of a job that was removed are found. Making one
takes a processor for some 50 ms: so only so many are made at the same time, each once however many ask for it, and only so many
requests wait for that. Whoever would be one more is told that it is busy, and gets the picture itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from spooler import durable

log = logging.getLogger(__name__)

#: Sides in pixels that a thumbnail fits into; a page offers them as 1x and 2x.
SIZES = (256, 512)
#: Thumbnails that are made at the same time.
MAKERS = 2
#: Bytes that all of them may take; the oldest go first, until this part is left.
MAX_BYTES = 512 << 20
LEFT = 0.9
#: Pixels of the largest picture that a thumbnail is made of, for it is decoded whole: 200 MB in memory.
MAX_PIXELS = 64_000_000
#: Thumbnails that are made between two looks at how much there is.
COUNTED = 500
QUALITY = 82


class BrokenError(OSError):
    """A picture of which no thumbnail can be made: met by whoever asks for one."""


class BusyError(RuntimeError):
    """As many requests wait for thumbnails as may: met by one more of them."""


class Thumbnails:
    """The thumbnails of one spool's pictures. Safe for many threads; any number of processes may share the folder."""

    def __init__(self, folder: Path, waiters: int, max_bytes: int = MAX_BYTES):
        self.folder = folder
        self._max_bytes = max_bytes
        self._seats = threading.BoundedSemaphore(max(1, waiters))
        self._makers = threading.BoundedSemaphore(MAKERS)
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}
        self._made = COUNTED  # the first one looks at what earlier processes left

    def get(self, picture: Path, job_id: str, side: int) -> Path:
        """The file of the thumbnail, made if it is missing.

        Raises FileNotFoundError when the picture is gone, BrokenError when it is none, BusyError, OSError when the cache folder
        cannot be written to.
        """
        job, small = _hash(job_id), _hash(f"{picture.name}\n{picture.lstat().st_mtime_ns}\n{side}")
        name = f"{job}-{small}"
        target = self.folder / job[:2] / f"{name}.webp"
        if target.exists():
            return target
        if not self._seats.acquire(blocking=False):
            raise BusyError("As many thumbnails are being made as may.")
        try:
            with self._alone(name):
                if not target.exists():  # somebody else made it meanwhile
                    with self._makers:
                        make(picture, target, side)
                    self._count()
        finally:
            self._seats.release()
        return target

    def forget(self, ids: Iterable[str]) -> None:
        """Remove the thumbnails of jobs that are gone: who deletes a picture means the small one, too."""
        jobs = {_hash(each) for each in ids}
        for inner in {job[:2] for job in jobs}:
            with contextlib.suppress(OSError), os.scandir(self.folder / inner) as entries:
                for entry in entries:
                    if entry.name.partition("-")[0] in jobs:
                        Path(entry.path).unlink(missing_ok=True)

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Whoever makes that one is the only one of this process."""
        with self._lock:
            mine = self._making.setdefault(name, threading.Lock())
        try:
            with mine:
                yield
        finally:
            with self._lock:
                self._making.pop(name, None)

    def _count(self) -> None:
        """Every so often, remove the oldest beyond the bound."""
        with self._lock:
            self._made += 1
            if self._made < COUNTED:
                return
            self._made = 0
        prune(self.folder, self._max_bytes)


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def make(picture: Path, target: Path, side: int) -> None:
    """Write the thumbnail of a picture as WebP. Raises FileNotFoundError, BrokenError, or OSError of the target's disk."""
    try:
        with os.fdopen(durable.open_ordinary(picture), "rb") as file, Image.open(file, formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BrokenError(f"{picture.name} has {image.width} x {image.height} pixels, which is too many.")
            image.load()
            small = image.convert("RGB")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BrokenError(f"{picture.name} cannot be read: {error}") from error
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{durable.unique_name()}")
    try:
        small.save(draft, "WEBP", quality=QUALITY, method=4)
        draft.replace(target)  # not synced: what a power cut takes is made again
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def prune(folder: Path, max_bytes: int) -> int:
    """Remove the oldest thumbnails until they take LEFT of that many bytes, if they take more; how many were removed."""
    found: list[tuple[float, int, str]] = []
    with contextlib.suppress(OSError), os.scandir(folder) as folders:
        for inner in folders:
            if not inner.is_dir(follow_symlinks=False):
                continue
            with os.scandir(inner.path) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # RACE: another process prunes too
                        info = entry.stat(follow_symlinks=False)
                        found.append((info.st_mtime, info.st_size, entry.path))
    total = sum(size for _, size, _ in found)
    if total <= max_bytes:
        return 0
    removed, began = 0, time.monotonic()
    for _, size, path in sorted(found):
        if total <= max_bytes * LEFT:
            break
        Path(path).unlink(missing_ok=True)
        total -= size
        removed += 1
    log.info("%d old thumbnails removed in %.1f s", removed, time.monotonic() - began)
    return removed
