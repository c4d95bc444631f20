"""Pictures that people send along: what is accepted, and reading them. Pillow only, no torch."""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.Image import Image as Picture
from PIL.Image import Transpose

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_FILE_BYTES = 20 << 20
#: A small file may unpack to many pixels: this many are looked at before any is decoded.
MAX_PIXELS = 32_000_000
#: Encoders make ten or so; a thumbnail inside the file has some too.
MAX_SCANS = 60
#: A PNG's last chunk: its kind and its checksum.
PNG_END = b"IEND\xaeB`\x82"
#: What Pillow raises for a file that is damaged: which of them depends on the byte.
DAMAGED = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, struct.error, zlib.error)
#: How a picture is turned upright, by the number in its EXIF that says how the camera was held.
ORIENTATION = 0x0112
UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

#: Pictures that one process unpacks at the same time to see whether they are whole.
_UNPACKING = threading.BoundedSemaphore(2)


class InputError(ValueError):
    """A picture beside a job that cannot be used: met by whoever sent it."""


def check(path: Path) -> tuple[int, int]:
    """The width and height of a picture that decodes whole. Raises InputError, or FileNotFoundError."""
    return read(path).size


def check_bytes(data: bytes, name: str) -> tuple[int, int]:
    """The width and height of a picture, not yet a file, that decodes whole. Raises InputError, which calls it `name`.

    A file of 34 bytes may unpack to the most pixels that are allowed, so only so many are unpacked at a time, however many
    people send one, and nothing is made of the pixels: half a GB each at the most (WebP).
    """
    with _UNPACKING, _begun(io.BytesIO(data), len(data), name) as image, _decoding(name):
        image.load()
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


def read_bytes(data: bytes, name: str, ground: str | None = "white") -> Picture:
    """A picture, not yet a file, upright; in RGB on the colour `ground`, or in RGBA without one. Raises InputError."""
    return _whole(_begun(io.BytesIO(data), len(data), name), name, ground)


def size(path: Path) -> tuple[int, int]:
    """The width and height that the file tells, turned as its camera says. Raises InputError, or FileNotFoundError."""
    with _opened(path) as image:
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


def read(path: Path, ground: str = "white") -> Picture:
    """The picture in RGB, upright; what was transparent is of the colour `ground`. Raises InputError, or FileNotFoundError."""
    with _opened(path) as image:
        return _whole(image, path.name, ground)


def _whole(image: Picture, name: str, ground: str | None) -> Picture:
    """All pixels decoded and upright, in RGB; without a ground in RGBA. Raises InputError."""
    with _decoding(name):
        image.load()
        turn = UPRIGHT.get(_orientation(image))
        upright = image.copy() if turn is None else image.transpose(turn)
        if upright.mode.startswith("I;16"):  # Pillow's own way to eight bits makes white of all but the darkest
            upright = upright.point(lambda value: value / 257).convert("L")
        if ground is None:
            return upright.convert("RGBA")
        if "A" in upright.getbands() or "transparency" in upright.info:
            clear = upright.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", clear.size, ground), clear).convert("RGB")
        return upright.convert("RGB")


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Make an InputError, which calls the picture `name`, of whatever its decoder does not like."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what Pillow can read all the same
        try:
            yield
        except (*DAMAGED, MemoryError) as error:
            raise InputError(f"`{name}` must be a whole picture, but cannot be decoded: {error}.") from error


def comment(data: bytes) -> str | None:
    """The text in the EXIF UserComment of a JPEG or WebP, where A1111 leaves its settings; None without one.

    Nothing is decoded but the EXIF. Raises InputError for what is no such picture, or too large.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG", "WEBP")) as image:
                raw = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
        except (UnidentifiedImageError, *DAMAGED, Image.DecompressionBombError, MemoryError) as error:
            raise InputError(f"The picture must be a whole PNG, JPEG or WebP, but cannot be read: {error}.") from error
    if isinstance(raw, str):
        return raw
    if not isinstance(raw, bytes) or len(raw) < 8:
        return None
    kind, text = raw[:8], raw[8:]
    if kind.startswith(b"UNICODE"):
        # EXIF does not say in which order; the zero of a Latin letter does.
        return text.decode("utf-16-be" if text[:1] == b"\0" else "utf-16-le" if text[1:2] == b"\0" else "utf-16", "replace")
    return text.decode("utf-8", "replace") if kind.startswith(b"ASCII") or kind == bytes(8) else None


def _orientation(image: Picture) -> int:
    """The number in the picture's EXIF, 1 for upright. EXIF that is damaged spoils no picture: it says nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = image.getexif().get(ORIENTATION)
        except DAMAGED:
            return 1
    return value if value in UPRIGHT else 1


@contextmanager
def _opened(path: Path) -> Iterator[Picture]:
    """The picture of the file, as `_begun` has it. Raises InputError, or FileNotFoundError."""
    # Never through a link, never waiting for the writer of a FIFO.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EACCES):
            raise  # gone, or an error of the disk's that may pass: nothing is wrong with the picture
        raise InputError(f"`{path.name}` must be an ordinary file: {error.strerror}.") from error
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        raise InputError(f"`{path.name}` must be an ordinary file, but is a folder, FIFO or device.")
    with os.fdopen(fd, "rb") as file:  # Pillow closes only what it has opened itself
        yield _begun(file, info.st_size, path.name)


def _begun(file: IO[bytes], length: int, name: str) -> Picture:
    """The picture in a file of that many bytes, its pixels counted and none of them decoded yet. Raises InputError."""
    if length > MAX_FILE_BYTES:
        raise InputError(f"`{name}` must have at most {MAX_FILE_BYTES >> 20} MiB, but has {length / (1 << 20):.1f}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the pixels are counted right below
            image = Image.open(file, formats=FORMATS)
    except (UnidentifiedImageError, *DAMAGED, Image.DecompressionBombError) as error:
        raise InputError(f"`{name}` must be a PNG, JPEG or WebP picture, but is none that can be read.") from error
    if image.format == "JPEG":
        # Each scan of a progressive JPEG may go over all pixels again in a few bytes: a small file can take hours.
        file.seek(0)
        if (scans := file.read().count(b"\xff\xda")) > MAX_SCANS:
            raise InputError(f"`{name}` must be a JPEG of at most {MAX_SCANS} scans, but has {scans}.")
        file.seek(0)
    if image.format == "PNG":
        # Pillow reads the pixels without it: the last bytes may be on their way still.
        file.seek(0)
        if PNG_END not in file.read():
            raise InputError(f"`{name}` must be a whole picture, but cannot be decoded: its end, the chunk IEND, is missing.")
        file.seek(0)
    if image.width * image.height > MAX_PIXELS:
        limit = MAX_PIXELS // 1_000_000
        raise InputError(f"`{name}` must have at most {limit} million pixels, but has {image.width}x{image.height}.")
    return image
