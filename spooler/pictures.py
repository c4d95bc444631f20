"""Pictures that people send along: what is accepted, and reading them. Pillow only, no torch."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.Image import Image as Picture

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_FILE_BYTES = 20 << 20
#: A small file may unpack to many pixels: this many are looked at before any is decoded.
MAX_PIXELS = 32_000_000


class InputError(ValueError):
    """A picture beside a job that cannot be used: met by whoever sent it."""


def check(path: Path) -> tuple[int, int]:
    """The width and height of a picture that decodes whole. Raises InputError, or FileNotFoundError."""
    return read(path).size


def size(path: Path) -> tuple[int, int]:
    """The width and height that the file tells, turned as its camera says, without decoding it. Raises InputError."""
    with _opened(path) as image:
        width, height = image.size
        return (height, width) if image.getexif().get(0x0112, 1) >= 5 else (width, height)


def read(path: Path) -> Picture:
    """The picture in RGB, upright; what was transparent is white. Raises InputError, or FileNotFoundError."""
    with _opened(path) as image:
        try:
            upright = ImageOps.exif_transpose(image)
            if "A" in upright.getbands() or "transparency" in upright.info:
                clear = upright.convert("RGBA")
                white = Image.new("RGBA", clear.size, "white")
                return Image.alpha_composite(white, clear).convert("RGB")
            return upright.convert("RGB")
        except (OSError, SyntaxError, ValueError, MemoryError) as error:
            raise InputError(f"`{path.name}` must be a whole picture, but cannot be decoded: {error}.") from error


def _opened(path: Path) -> Picture:
    # Never through a link, never waiting for the writer of a FIFO.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"`{path.name}` must be an ordinary file: {error.strerror}.") from error
    file = os.fdopen(fd, "rb")
    try:
        length = os.fstat(fd).st_size
        if length > MAX_FILE_BYTES:
            raise InputError(f"`{path.name}` must have at most {MAX_FILE_BYTES >> 20} MiB, but has {length / (1 << 20):.1f}.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the pixels are counted right below
            image = Image.open(file, formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            limit = MAX_PIXELS // 1_000_000
            raise InputError(f"`{path.name}` must have at most {limit} million pixels, but has {image.width}x{image.height}.")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        file.close()
        if isinstance(error, InputError):
            raise
        raise InputError(f"`{path.name}` must be a PNG, JPEG or WebP picture, but is none that can be read.") from error
    return image
