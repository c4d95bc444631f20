"""What a disk was told to write, in order, and the disks that a power cut may leave of it.

qemu's driver `blklogwrites` notes every write and every flush in the format of Linux' dm-log-writes. A disk with a write cache
has, after a cut, everything up to the last flush that it finished, and any of the later writes.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = 0x6A736677736872
SECTOR = 512  # bytes
FLUSH, FUA, DISCARD = 1, 2, 4
#: A block that is written beyond the file system, to tell where in the log something was acknowledged.
NOTE = b"sdspool note "


@dataclass(frozen=True)
class Write:
    """One entry of the log."""

    at: int  # byte of the disk
    length: int  # bytes
    place: int  # byte of the log where the data is
    flush: bool
    data: bool


class BlockLog:
    """The log of a disk, and images made of it."""

    def __init__(self, path: Path):
        self._file = path.open("rb")
        self.writes = list(self._read())

    def _read(self) -> Iterator[Write]:
        magic, _, entries, sector = struct.unpack("<QQQI", self._file.read(28))
        assert magic == MAGIC, hex(magic)
        assert sector == SECTOR, sector
        place = SECTOR
        end = self._file.seek(0, 2)
        del entries  # it is brought up to date at a flush; what lies behind the last entry is zeros
        while place + 32 <= end:
            self._file.seek(place)
            first, sectors, flags, _ = struct.unpack("<QQQQ", self._file.read(32))
            if not (sectors or flags):
                return
            place += SECTOR
            data = not flags & DISCARD
            yield Write(first * SECTOR, sectors * SECTOR, place, bool(flags & (FLUSH | FUA)), data and sectors > 0)
            place += sectors * SECTOR if data else 0

    def data(self, write: Write) -> bytes:
        self._file.seek(write.place)
        return self._file.read(write.length)

    def notes(self, from_: int) -> dict[int, str]:
        """The notes that were written beyond that byte of the disk: position in the log, and the text."""
        found = {}
        for number, write in enumerate(self.writes):
            if write.data and write.at >= from_ and (data := self.data(write)).startswith(NOTE):
                found[number] = data[len(NOTE) : data.index(b"\n")].decode()
        return found


class Image:
    """An image that follows the log, from flush to flush."""

    def __init__(self, path: Path, size: int, log: BlockLog):
        self._log = log
        self.done = 0  #: all writes before this number are in the image
        self.path = path
        with path.open("wb") as file:
            file.truncate(size)

    def forward(self, to: int) -> None:
        """Bring the image to where all writes before number `to` are done."""
        self._write(self.path, range(self.done, to))
        self.done = max(self.done, to)

    def _write(self, path: Path, numbers: range | list[int]) -> None:
        with path.open("r+b") as file:
            for number in numbers:
                write = self._log.writes[number]
                if write.data:
                    file.seek(write.at)
                    file.write(self._log.data(write))

    def last_flush(self, before: int) -> int:
        """The number after the last flush before that number."""
        return next((number + 1 for number in range(before - 1, -1, -1) if self._log.writes[number].flush), 0)

    def found(self, copy: Path, at: int, kept: str, rng: random.Random) -> list[int]:
        """Make of `copy`, which is as the image at the last flush, what may be found when the power goes before number `at`:
        of the later writes "none", "all", or "some". Returns the numbers of those that are there."""
        later = list(range(self.done, at))
        if kept == "none":
            later = []
        elif kept == "some":
            later = [number for number in later if rng.random() < 0.5]
        self._write(copy, later)
        return later
