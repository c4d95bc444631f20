"""What the writers write: small jobs of each format, and files that are whole and wrong for good."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

from PIL import Image

from tests.prove.writing import Whole


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(text: str = "a red circle\nSteps: 4, Sampler: Euler, CFG scale: 2, Seed: 7, Size: 64x64") -> bytes:
    """A picture of one pixel with A1111's text."""
    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"tEXt", b"parameters\0" + text.encode()), (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*each) for each in chunks)


def picture(kind: str) -> bytes:
    """A picture as an input of a job, of the kind PNG, JPEG or WEBP."""
    file = BytesIO()
    Image.linear_gradient("L").resize((8, 8)).convert("RGB").save(file, kind)
    return file.getvalue()


#: Suffix -> small jobs of that format.
SAMPLES: dict[str, tuple[bytes, ...]] = {
    ".json": (
        b'{"prompt": "a red circle"}',
        b'{"prompt": "a red circle", "steps": 4, "seed": 7}\n',
        b'\xef\xbb\xbf{\r\n  "prompt": "a red circle {[\\"\xc3\xa9\\u00e9", "sweep": {"steps": [3, 4]}\r\n}\r\n\r\n',
    ),
    ".jsonl": (
        b'{"prompt": "a red circle"}\n{"prompt": "two", "seed": 1}\n',
        b'{"prompt": "a red circle"}\r\n\r\n{"prompt": "two"}',
    ),
    ".csv": (
        b'prompt,steps\n"a red circle, small",4\ntwo,5\n',
        b'prompt;seed\r\n"a red circle ""x""";1\r\ntwo;2',
    ),
    ".txt": (b"a red circle\n# a remark\ntwo (words:1.2)\n", "a red circle\ntwo é".encode()),
    ".png": (png(),),
}
OVERRIDES = b'{"seed": 3, "steps": 5}'
FOLDERS: tuple[Whole, ...] = tuple(
    {
        "job.json": f'{{"prompt": "a red circle", "image": "a.{kind.lower()}", "strength": 0.5}}'.encode(),
        f"inputs/a.{kind.lower()}": picture(kind),
    }
    for kind in ("PNG", "JPEG", "WEBP")
)
#: Whole, and wrong for good: they are set aside with their reason.
WRONG: dict[str, tuple[bytes, ...]] = {
    ".json": (b'{"prompt": "a red circle", "stepz": 4}', b"[1, 2]", b'{"prompt": "a red circle"', b"", b'{"prompt": "x"}\0\0'),
    ".jsonl": (b'{"prompt": "a red circle"}\n{"prompt": 7}\n', b'{"prompt": "a red circle"}\n{"prom', b"\n"),
    ".csv": (b"prompt,steps\na red circle,many\n", b"prompt\n", b'prompt\n"a'),
    ".txt": (b"# nothing\n", b"a red circle\n\xff\n", b""),
    ".png": (png()[:-1], b"\x89PNG\r\n\x1a\n", png("no settings at all")[:40], b""),
}
