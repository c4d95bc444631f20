"""Finished jobs as one zip file, made while it is sent: memory holds a piece of one file, the disk nothing."""

from __future__ import annotations

import io
import stat
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from spooler.place import Place
from spooler.reader import RESULT

PIECE_BYTES = 256 << 10
#: Of a job's folder, beside its pictures.
NOTES = ("job.json", "record.json")
#: A zip knows the years 1980 to 2107, of whatever zone. The file of a job that was dropped has any time that its maker liked.
EARLIEST, LATEST = 315_619_200, 4_354_646_400


class _Drain(io.RawIOBase):
    """Where zipfile writes: what came is taken out again. It cannot seek, which zipfile knows how to live with."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(data)  # type: ignore[call-overload]
        self._parts.append(part)
        return len(part)

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def archive(places: Iterable[Place]) -> Iterator[bytes]:
    """The bytes of a zip with a folder for each job: its pictures, job.json and record.json. What is gone is left out."""
    drain = _Drain()
    with zipfile.ZipFile(drain, "w", zipfile.ZIP_STORED) as made:  # pictures are compressed already
        for place in places:
            for file in _files(place):
                try:
                    source = file.open("rb")
                except FileNotFoundError:  # RACE: removed meanwhile
                    continue
                with source:
                    modified = time.localtime(min(max(EARLIEST, file.stat().st_mtime), LATEST))
                    info = zipfile.ZipInfo(f"{place.id}/{file.name}", modified[:6])
                    info.external_attr = (stat.S_IFREG | 0o644) << 16
                    with made.open(info, "w", force_zip64=True) as target:
                        while piece := source.read(PIECE_BYTES):
                            target.write(piece)
                            yield drain.take()
                yield drain.take()
    yield drain.take()


def _files(place: Place) -> list[Path]:
    """Ordinary files only: a stranger may have put a link there."""
    try:
        names = sorted(entry.name for entry in place.path.iterdir() if entry.name in NOTES or RESULT.fullmatch(entry.name))
        return [place.path / name for name in names if stat.S_ISREG((place.path / name).lstat().st_mode)]
    except FileNotFoundError:
        return []
