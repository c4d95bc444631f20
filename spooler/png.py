"""The texts in a PNG, and whether its bytes are all there. No pixel is decoded: this reads chunks, which carry their length
and their checksum.

Source of the format: the PNG specification, third edition, sections 5 (chunks) and 11.3.3 (tEXt, zTXt, iTXt).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from spooler.mistakes import IncompleteError, JobError, Mistake
from spooler.pictures import MAX_FILE_BYTES, MAX_PIXELS

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Of one text, unpacked: a few bytes of zTXt may unpack to gigabytes. Pillow's own limit is the same.
MAX_TEXT_BYTES = 1 << 20
#: Encoders write data in chunks of 4 KiB and up: 5,000 in the largest file.
MAX_CHUNKS = 50_000


def is_whole(data: bytes) -> bool:
    """Whether the bytes are a PNG up to its end: each chunk with its right checksum, the last of them IEND.

    A strict prefix of a PNG never is, and neither is a file whose room was set aside before it was filled.
    """
    try:
        for _ in _chunks(data):
            pass
    except JobError:
        return False
    return True


def read_text(data: bytes, keyword: str) -> tuple[str | None, list[str]]:
    """The text under the keyword, None when there is none, and the keywords of all texts.

    Of two texts under one keyword the last counts, as Pillow has it. Raises IncompleteError for bytes that are no whole PNG
    (yet), JobError for a picture or a text that is too large, and for a text that cannot be unpacked.
    """
    found, keywords = None, []
    for kind, body in _chunks(data):
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            continue
        name, _, rest = body.partition(b"\0")
        keywords.append(name[:79].decode("latin-1"))
        if keywords[-1] == keyword:
            found = kind, rest
    return (_text(*found, keyword) if found else None), keywords


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk up to IEND."""
    if len(data) > MAX_FILE_BYTES:
        rule = f"A picture must have at most {MAX_FILE_BYTES >> 20} MiB"
        raise JobError(Mistake("", f"{rule}, but this has {len(data) / (1 << 20):.1f}."))
    if not data.startswith(SIGNATURE):
        begin = f"begins with the bytes {data[:8].hex(' ')}" if data else "is empty"
        raise IncompleteError(Mistake("", f"A picture must be a whole PNG, but this {begin}."))
    at, number = len(SIGNATURE), 0
    while number < MAX_CHUNKS:
        if at + 12 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            break
        body = data[at + 8 : at + 8 + length]
        if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(data[at + 8 + length : at + 12 + length]):
            rule = "A picture must be a whole PNG"
            raise IncompleteError(Mistake("", f"{rule}, but the checksum of its chunk {kind!r} at byte {at} is wrong."))
        if number == 0:
            _check_size(kind, body)
        yield kind, body
        if kind == b"IEND":
            return
        at += 12 + length
        number += 1
    else:
        raise JobError(Mistake("", f"A picture must have at most {MAX_CHUNKS} chunks, but this has more."))
    raise IncompleteError(Mistake("", f"A picture must be a whole PNG, but this ends after {len(data)} bytes without IEND."))


def _check_size(kind: bytes, body: bytes) -> None:
    if kind != b"IHDR" or len(body) != 13:
        raise JobError(Mistake("", f"A PNG must begin with IHDR, but this begins with {kind!r}."))
    width, height = struct.unpack_from(">II", body)
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 1_000_000
        raise JobError(Mistake("", f"A picture must have at most {limit} million pixels, but this has {width}x{height}."))


def _text(kind: bytes, rest: bytes, keyword: str) -> str:
    """The text of a chunk from behind its keyword."""
    packed, encoding = kind == b"zTXt", "latin-1"
    if kind == b"zTXt":
        rest = rest[1:]  # the method of packing: there is only one
    elif kind == b"iTXt":
        packed, encoding = rest[:1] == b"\1", "utf-8"
        rest = rest[2:].split(b"\0", 2)[-1]  # behind the language and the translated keyword
    try:
        if packed:
            unpacker = zlib.decompressobj()
            rest = unpacker.decompress(rest, MAX_TEXT_BYTES + 1)
            if not unpacker.eof and len(rest) <= MAX_TEXT_BYTES:
                raise JobError(Mistake("", f"The text {keyword!r} in a picture must be whole, but its packed form breaks off."))
        if len(rest) > MAX_TEXT_BYTES:
            raise JobError(Mistake("", f"The text {keyword!r} in a picture must have at most {MAX_TEXT_BYTES} bytes."))
        return rest.decode(encoding)
    except (zlib.error, UnicodeDecodeError) as error:
        raise JobError(Mistake("", f"The text {keyword!r} in a picture cannot be read: {error}.")) from error
