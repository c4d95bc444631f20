"""Bytes for the parser's proof: whole files of each kind, what they become when they are damaged, and giants made by hand."""

from __future__ import annotations

import csv
import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from spooler import png
from spooler.infotext import infotext
from spooler.job import ALIASES, Job, from_fields
from spooler.samplers import SAMPLER_NAMES, SCHEDULE_NAMES

TEXTS = ("a cat", "(a:1.2) [b] BREAK <lora:ink:0.5>", "café 猫 🐈", 'says "hm", then\nnext', "a\tb \\( c", "-1", "[1]", "# no")
HEAD = png.SIGNATURE
FIELDS = (*Job.model_fields, *ALIASES, "batch_size", "n_iter", "id", "steps2")
#: What a mutation puts in: the grammar's own marks, and what readers have tripped over.
TOKENS = tuple(
    part.encode("utf-8", "surrogatepass")
    for part in (
        *('"', "\\", "{", "}", "[", "]", ",", ":", ";", "\n", "\r", "\t", "\0", "\ufeff", "\u2028", "\ud800", "'", "#", " "),
        *("null", "true", "NaN", "-Infinity", "1e999", "1e-400", "-0", "0x1", "1" * 400, "2027-01-01T00:00:00Z", "9999-12-31"),
        *(
            '"\\ud800"',
            '"\\u0000"',
            "[" * 50,
            "(" * 40,
            ":9)",
            "<lora:",
            "BREAK",
            "sep=;\n",
            '""',
            '","',
            '"prompt":',
            '"sweep":',
        ),
        *("Steps: 5, ", "Negative prompt:", "Size: 8x8", 'Model: "a, b", ', "Hires upscale: 2", "IEND", "zTXt", "parameters"),
    )
)
BYTES = (b"\xff", b"\xfe", b"\x80", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80")


def job_fields(rng: random.Random) -> dict[str, Any]:
    """The fields of a valid job."""
    made: dict[str, Any] = {"prompt": rng.choice(TEXTS)}
    choices: dict[str, Callable[[], Any]] = {
        "negative_prompt": lambda: rng.choice(TEXTS),
        "steps": lambda: rng.choice((1, 150, [1, 2, 3])),
        "guidance_scale": lambda: rng.choice((0, 7.5, 1e1, [1, 2.5])),
        "width": lambda: rng.choice((64, 2048)),
        "seed": lambda: rng.choice((-1, 0, 2**32 - 1)),
        "sampler": lambda: rng.choice(("Euler", "DPM++ 2M", "k_dpmpp_2m", "DPM++ 2M Karras")),
        "count": lambda: rng.randint(1, 9),
        "model": lambda: rng.choice(("", "demo", "a b")),
        "loras": lambda: [{"name": "ink", "weight": rng.uniform(-5, 5)}],
        "hires": lambda: {"scale": 1.5, "steps": rng.choice((None, 3))},
        "upscale": lambda: {"scale": 2, "upscaler": "Lanczos"},
        "priority": lambda: rng.randint(-100, 100),
        "owner": lambda: rng.choice(("ann", "007", "é")),
        "not_before": lambda: "2027-03-01T22:00:00+01:00",
        "after": lambda: ["cat", "cat-2"],
    }
    for name in rng.sample(list(choices), rng.randint(0, 6)):
        made[name] = choices[name]()
    return made


def json_object(rng: random.Random) -> bytes:
    """A valid job as one of the many ways to write it."""
    text = json.dumps(
        job_fields(rng),
        ensure_ascii=rng.random() < 0.5,
        indent=rng.choice((None, None, 1, "\t")),
        separators=rng.choice((None, (",", ":"), (" , ", " : "))),
    )
    return rng.choice((b"", b"\xef\xbb\xbf", b" \n")) + text.encode()


def lines_of_json(rng: random.Random) -> bytes:
    rows = [json.dumps(job_fields(rng), ensure_ascii=rng.random() < 0.5) for _ in range(rng.randint(1, 4))]
    return rng.choice((b"", b"\xef\xbb\xbf")) + _ended(rng, [each for row in rows for each in (row, *[""] * rng.randint(0, 1))])


def table(rng: random.Random) -> bytes:
    """A table of valid jobs, separated and encoded as some spreadsheet does it."""
    names = ["prompt", *rng.sample(("steps", "cfg_scale", "hires.scale", "owner", "loras", "sampler"), rng.randint(0, 4))]
    cells: dict[str, tuple[str, ...]] = {
        "prompt": TEXTS,
        "steps": ("", "20", "[1, 2]"),
        "cfg_scale": ("", "7.5", "3"),
        "hires.scale": ("", "2"),
        "owner": ("", "ann", "[x]"),
        "loras": ("", '[{"name": "ink"}]'),
        "sampler": ("", "Euler", "DPM++ 2M Karras", '["Euler", "DDIM"]'),
    }
    file = io.StringIO(newline="")
    separator = rng.choice(",;\t")
    ends, quoting = rng.choice(("\n", "\r\n")), rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    writer = csv.writer(file, delimiter=separator, lineterminator=ends, quoting=quoting)
    writer.writerow(names)
    writer.writerows([rng.choice(cells[name]) for name in names] for _ in range(rng.randint(1, 4)))
    said = f"sep={separator}\r\n" if rng.random() < 0.2 else ""
    return (said + file.getvalue()).encode(rng.choice(("utf-8", "utf-8-sig", "utf-16")))


def prompts(rng: random.Random) -> bytes:
    lines = [rng.choice(TEXTS).replace("\n", " ") for _ in range(rng.randint(1, 5))]
    return rng.choice((b"", b"\xef\xbb\xbf")) + _ended(rng, ["a", *lines])


def picture(rng: random.Random) -> bytes:
    """A picture of a valid job, its text in any of the three chunks."""
    plain = {"prompt": rng.choice(TEXTS), "steps": 5, "guidance_scale": 3, "width": 64, "height": 64}
    job = from_fields(plain | rng.choice(({}, {"sampler": "Euler"}, {"hires": {"scale": 2}}, {"upscale": {}})))
    return png_of(rng, infotext(job, rng.randrange(2**32), "demo", "0" * 10).encode())


def png_of(rng: random.Random, text: bytes) -> bytes:
    """A PNG with right checksums around any text, so that what reads the text is reached."""
    kind = rng.choice((b"iTXt", b"zTXt", b"tEXt", b"iTXt"))
    body = {
        b"iTXt": b"parameters\0\0\0\0\0" + text,
        b"zTXt": b"parameters\0\0" + zlib.compress(text, 1),
        b"tEXt": b"parameters\0" + text.decode("utf-8", "replace").encode("latin-1", "replace"),
    }[kind]
    chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)), chunk(kind, body), chunk(b"IDAT", b"x")]
    return HEAD + b"".join(chunks) + chunk(b"IEND", b"")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


#: Whole and valid files of each kind, by what reads them.
WHOLE: dict[str, Callable[[random.Random], bytes]] = {
    "job": json_object,
    ".jsonl": lines_of_json,
    ".csv": table,
    ".txt": prompts,
    ".png": picture,
}


def damaged(rng: random.Random, data: bytes) -> bytes:
    """The bytes after one to six accidents: flips, cuts, repeats, and tokens where they do not belong."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, len(made))
        end = min(len(made), at + rng.choice((1, 1, 4, 40)))
        match rng.randrange(7):
            case 0:
                made[at:at] = rng.choice(TOKENS)
            case 1:
                made[at:end] = rng.choice(TOKENS)
            case 2:
                made[at:end] = b""
            case 3:
                made[at:at] = made[at:end] * rng.choice((1, 2, 20))
            case 4 if at < len(made):
                made[at] ^= 1 << rng.randrange(8)
            case 5:
                made[at:at] = rng.choice(BYTES)
            case _:
                del made[at:]
    return bytes(made)


def hostile(rng: random.Random, target: str) -> bytes:
    """Bytes for what reads the target: damaged, or in a picture with the text damaged and the checksums right."""
    if target == ".png" and rng.random() < 0.7:
        text = b"a cat\nNegative prompt: dog\nSteps: 5, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64, Model: demo"
        return png_of(rng, damaged(rng, text))
    return damaged(rng, WHOLE[target](rng))


#: Values as JSON has them, of any kind and in any place.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from((*SAMPLER_NAMES, *SCHEDULE_NAMES)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from(FIELDS) | st.text(), VALUES, max_size=8)
JSON = OBJECTS.map(lambda made: json.dumps(made).encode())
TEXT = st.text().map(lambda made: made.encode("utf-8", "surrogatepass"))
ROWS = st.lists(st.lists(st.text(max_size=8) | VALUES.map(json.dumps), min_size=1, max_size=5), min_size=1, max_size=5)


def _csv_of(rows: list[list[str]]) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["prompt", "steps", "hires.scale", "sweep", "loras"][: len(rows[0])], *rows])
    return file.getvalue().encode("utf-8", "surrogatepass")


STRATEGIES: dict[str, st.SearchStrategy[bytes]] = {
    "job": JSON | st.binary(),
    ".jsonl": st.lists(JSON | st.binary(), max_size=4).map(b"\n".join),
    ".csv": ROWS.map(_csv_of) | st.binary() | TEXT,
    ".txt": TEXT | st.binary(),
    ".png": st.tuples(st.randoms(use_true_random=False), TEXT | st.binary()).map(lambda both: png_of(*both)) | st.binary(),
}


def giants() -> dict[str, list[bytes]]:
    """The largest and dearest files of each kind that could be thought of, near the bound of bytes."""
    mib, many = 1 << 20, {f"a{number}": 1 for number in range(70_000)}
    sweep = json.dumps({"prompt": "x", "steps": list(range(1, 65))}).encode()
    objects = [
        b'{"a":' * 200_000,
        b"[" * mib,
        b'{"prompt":"' + b"x" * (mib - 20) + b'"}',
        b'{"prompt":"x","seed":' + b"9" * 1_000_000 + b"}",
        b'{"prompt":"x","seed":0.' + b"9" * 1_000_000 + b"}",
        b'{"prompt":"' + b"\\u0041" * 170_000 + b'"}',
        b'{"prompt":"x",' + b'"a":1,' * 170_000 + b'"b":1}',
        *(json.dumps(each).encode() for each in ({"prompt": "x"} | many, {"hires": many}, {"sweep": many}, {"prompt": many})),
        json.dumps({"prompt": "x", "after": ["a"] * 200_000}).encode(),
        json.dumps({"prompt": "x", "loras": [{"name": "x"}] * 60_000}).encode(),
        json.dumps({"prompt": [f"(a:1.{number})" * 1_000 for number in range(64)]}).encode(),
        json.dumps({"prompt": "x", "sweep": {"loras": [[{"name": "a"}] * 16] * 64}}).encode(),
        json.dumps({"prompt": "x", "sweep": {"steps": [1] * 150_000}}).encode(),
        *(json.dumps({"prompt": each * 10_000}).encode() for each in ("(", "[", "\\", ":", "(a:", "<")),
        json.dumps({"prompt": "<lora:a:1>" * 1_000}).encode(),
        json.dumps({"prompt": "BREAK " * 1_600}).encode(),
        b" " * mib,
    ]
    text = 4 * mib
    return {
        "job": objects,
        ".jsonl": [
            *objects,
            b"\n" * text,
            b"{}\n" * (text // 3),
            b'{"prompt":"x"}\n' * 10_000,
            (sweep + b"\n") * 781,
            (sweep + b"\n") * 10_000,
            (sweep.replace(b" 64]", b" 0]") + b"\n") * 10_000,
            (sweep + b"\n") * 10_000 + b"\x7f",  # with the overrides, which take the sweep away
            b"[" * text,
            b'{"a":1,"b":1,"c":1}\n' * 200_000,
            b"\xff\n" * (text // 2),
            json.dumps({"prompt": "x"} | {f"a{number}": 1 for number in range(9)}).encode() + b"\n" * 9,
        ],
        ".csv": [
            b"prompt,steps\n" + b"a,1\n" * 10_000,
            b"prompt\n" + b'"' + b"a" * (text - 10),
            b"," * text,
            b"a," * (text // 2),
            b"prompt\n" + b"," * (text - 8),
            b"\n" * text,
            b'""\n' * (text // 3),
            b"prompt,steps\n" + b"a,b\n" * (text // 4 - 4),
            b"prompt\n" + b'"[' + b"[" * 100_000 + b'"\n',
            b"prompt,sweep\n" + b'a,"{""steps"": [' + b"1," * 60_000 + b'1]}"\n',
            ("prompt\n" + "a\n" * 400_000).encode("utf-16"),
            b"prompt\n" + b"\xff\n" * (text // 2 - 4),
            b"prompt;guidance_scale\n" + b"a;1,5\n" * 10_000,
        ],
        ".txt": [
            b"a\n" * (text // 2),
            b"#\n" * (text // 2),
            b"x" * text,
            b"(\n" * (text // 2),
            b"\xff\n" * (text // 2),
            b"\r" * text,
            *(_dear_prompts(unit) for unit in (b"(a)b", b"(a:1.5)", b"((a))[b]", b"\\(", b"a:", b"<lora:a:1>", b"a (b) ")),
        ],
        ".png": [
            HEAD + chunk(b"tEXt", b"") * 40_000,
            HEAD + bytes(19 * mib),
            HEAD + chunk(b"IHDR", bytes(8) + bytes(5)) + chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(1 << 28))),
            *(png_of(random.Random(seed), (line * mib)[:1_000_000]) for seed in (1, 2, 3) for line in _DEAR_LINES),
        ],
    }


#: Lines over which a careless pattern would go again and again.
_DEAR_LINES = (
    b'a: "\\", ',
    b"word ",
    b"a: ",
    b'"',
    b"Steps: 1, ",
    b"Steps: ",
    b"Negative prompt:\n",
    b"\n",
    b"a:\\",
    b"(a:1.1)",
)


def _dear_prompts(unit: bytes) -> bytes:
    """Ten thousand prompts of that unit, each another, up to the bounds of a file."""
    marks = sum(map(unit.count, (b"(", b")", b"[", b"]", b"\\")))
    times = min(400 // len(unit), 39 // marks if marks else 400)
    return b"\n".join(unit * times + b"%d" % number for number in range(10_000))


def _ended(rng: random.Random, lines: list[str]) -> bytes:
    end = rng.choice(("\n", "\r\n"))
    return (end.join(lines) + rng.choice(("", end))).encode()
