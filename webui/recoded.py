"""A finished picture in another format, with the text that tells how it was made where other tools look for it."""

from __future__ import annotations

import io
import threading

from PIL import Image

from spooler import infotext

#: The formats, each with its type for HTTP.
TYPES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}
#: Pixels a side that the formats can count to.
MOST_SIDE = {"webp": 16_383, "jpeg": 65_535}
#: Of EXIF: where the photo's own tags are, and the one that A1111 writes its text into.
_PHOTO_TAGS, _USER_COMMENT = 0x8769, 0x9286
#: Pictures of one process that are unpacked at the same time, of up to 72 million pixels each.
_UNPACKED = threading.BoundedSemaphore(2)


class RecodeError(ValueError):
    """A picture that the wanted format cannot hold: met by whoever asked for it."""


def recoded(png: bytes, name: str, quality: int) -> bytes:
    """The bytes of one of our PNGs as `name`, a key of TYPES; `quality` 0 to 100, where the format loses something.

    Raises RecodeError for a picture that it cannot hold.
    """
    if name == "png":
        return png
    with _UNPACKED, Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        if max(image.size) > MOST_SIDE[name]:
            raise RecodeError(
                f"A {name} must have at most {MOST_SIDE[name]} pixels a side: {max(image.size)} are only in the PNG."
            )
        image.load()
        text = image.info.get(infotext.KEYWORD)
        exif = Image.Exif()
        if isinstance(text, str):
            # "unicode" of EXIF is UTF-16, and big-endian, as A1111's piexif writes it.
            exif.get_ifd(_PHOTO_TAGS)[_USER_COMMENT] = b"UNICODE\0" + text.encode("utf-16-be", "replace")
        file = io.BytesIO()
        image.convert("RGB").save(file, name.upper(), quality=quality, exif=exif)
    return file.getvalue()


def as_png(picture: bytes) -> bytes:
    """A preview of ours, whatever it is, as a PNG."""
    with Image.open(io.BytesIO(picture), formats=["JPEG", "PNG"]) as image:
        file = io.BytesIO()
        image.save(file, "PNG")
    return file.getvalue()
