"""The chunks of a PNG: the text in it, and whether all of it is there."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from spooler import png
from spooler.mistakes import IncompleteError, JobError


def picture(text: str = "a cat", packed: bool = False, keyword: str = "parameters", size: int = 8) -> bytes:
    info = PngInfo()
    info.add_text(keyword, text, zip=packed)
    file = io.BytesIO()
    Image.new("RGB", (size, size), "red").save(file, "PNG", pnginfo=info)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


HEAD = png.SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
END = chunk(b"IEND", b"")


@pytest.mark.parametrize("text", ["a cat", "a café", "猫 🐈\nsecond line", "x" * 100_000])
@pytest.mark.parametrize("packed", [False, True])
def test_a_text_that_pillow_wrote_is_read(text: str, packed: bool) -> None:
    assert png.read_text(picture(text, packed), "parameters") == (text, ["parameters"])
    assert png.read_text(picture(text, packed, "prompt"), "parameters") == (None, ["prompt"])


def test_a_text_behind_the_pixels_is_read_and_the_last_of_two_counts() -> None:
    whole = HEAD + chunk(b"tEXt", b"parameters\0one") + chunk(b"IDAT", b"") + chunk(b"tEXt", b"parameters\0two") + END
    assert png.read_text(whole + b"what some tools append", "parameters") == ("two", ["parameters", "parameters"])


def test_no_strict_prefix_is_whole_and_no_byte_can_be_wrong() -> None:
    """A file that is copied, or whose room was set aside before, is not taken for whole."""
    whole = picture("a cat\nSteps: 3")
    assert png.is_whole(whole)
    for end in range(len(whole)):
        assert not png.is_whole(whole[:end])
        assert not png.is_whole(whole[:end] + bytes(len(whole) - end)) or end >= len(whole) - whole[::-1].index(b"\x82")
        changed = bytearray(whole)
        changed[end] ^= 1 << end % 8
        assert not png.is_whole(bytes(changed))
        with pytest.raises(IncompleteError):
            png.read_text(whole[:end], "parameters")


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (HEAD + chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(1 << 26))) + END, "must have at most 1048576 bytes"),
        (HEAD + chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"x" * 99)[:-5]) + END, "its packed form breaks off"),
        (HEAD + chunk(b"zTXt", b"parameters\0\0not packed") + END, "cannot be read"),
        (HEAD + chunk(b"tEXt", b"parameters\0" + b"x" * (1 << 21)) + END, "must have at most 1048576 bytes"),
        (HEAD + chunk(b"iTXt", b"parameters\0\0\0\0\0\xff") + END, "cannot be read"),
        (HEAD + END[:0] + chunk(b"tEXt", b"") * 50_001 + END, "at most 50000 chunks"),
        (png.SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)) + END, "at most 32 million pixels"),
        (png.SIGNATURE + END, "must begin with IHDR"),
        (HEAD + bytes(21 << 20), "at most 20 MiB, but this has 21.0"),
    ],
    ids=["bomb", "cut-inside", "not-packed", "long", "no-utf8", "many-chunks", "pixels", "no-head", "large"],
)
def test_what_is_whole_and_wrong_is_refused_for_good(data: bytes, part: str) -> None:
    with pytest.raises(JobError) as caught:
        png.read_text(data, "parameters")
    assert part in str(caught.value)
    assert not isinstance(caught.value, IncompleteError)


@pytest.mark.parametrize("body", [b"", b"parameters", b"parameters\0", b"parameters\0\1", b"parameters\0\0\0", b"\0\0\0\0"])
@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt"])
def test_a_text_without_its_parts_does_no_harm(kind: bytes, body: bytes) -> None:
    try:
        text, keywords = png.read_text(HEAD + chunk(kind, body) + END, "parameters")
    except JobError as error:
        assert "'parameters' in a picture" in str(error)
    else:
        assert len(text or "") <= 2 and len(keywords) == 1


def test_pillow_has_the_same_bound_for_a_text() -> None:
    """Were Pillow ever to read these files, a bomb would meet it too."""
    bomb = HEAD + chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(1 << 26))) + chunk(b"IDAT", b"") + END
    with pytest.raises(ValueError, match="MAX_TEXT_CHUNK"):
        Image.open(io.BytesIO(bomb), formats=["PNG"])
