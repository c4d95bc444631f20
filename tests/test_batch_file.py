"""A dropped file of several jobs: what each kind says, and every mistake of it at once, with its place."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from house import ROOT
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from spooler import batch_file
from spooler.batch_file import complete, read_rows
from spooler.infotext import infotext
from spooler.job import from_fields
from spooler.mistakes import IncompleteError, JobError


def said(name: str, data: bytes, overrides: bytes | None = None) -> list[tuple[int | None, dict[str, Any]]]:
    return [(row.line, row.job.model_dump(exclude_unset=True)) for row in read_rows(name, data, overrides)]


def mistakes(name: str, data: bytes, overrides: bytes | None = None, incomplete: bool = False) -> list[str]:
    with pytest.raises(JobError) as caught:
        read_rows(name, data, overrides)
    assert isinstance(caught.value, IncompleteError) is incomplete
    assert all(mistake.message.isprintable() for mistake in caught.value.mistakes)
    return [mistake.message for mistake in caught.value.mistakes]


def picture(text: str | None, keyword: str = "parameters") -> bytes:
    info = PngInfo()
    if text is not None:
        info.add_text(keyword, text)
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG", pnginfo=info)
    return file.getvalue()


def test_jsonl_has_a_job_a_line() -> None:
    data = b'\xef\xbb\xbf{"prompt": "a"}\r\n\n  \n{"prompt": "b", "cfg_scale": 3, "steps": [4, 5]}'
    assert said("x.jsonl", data) == [
        (1, {"prompt": "a"}),
        (4, {"prompt": "b", "guidance_scale": 3.0, "steps": 4, "sweep": {"steps": [4, 5]}}),
    ]


def test_every_mistake_of_jsonl_is_named_with_its_line() -> None:
    data = b"""{"prompt": "a", "steps": 0, "stepz": 1}
[1]
{"prompt": "b"}
{"prompt": "c", "prompt": "d"}
{"prompt": "e" "seed": 3}
{"prompt": "\xff"}
{"steps": NaN}
{"prompt": "f", "image": "a.png"}
"""
    assert mistakes("x.JSONL", data) == [
        "line 1: `steps` must be greater than or equal to 1, but is 0.",
        "line 1: `stepz` is not a field of a job (did you mean steps?).",
        "line 2: it must be a JSON object, {...}, but this is an array.",
        "line 4: `prompt` must be given once, but is given twice.",
        "line 5: it must be JSON, but at column 16: Expecting ',' delimiter.",
        "line 6: it must be UTF-8 text, but byte 12 is 0xff.",
        "line 7: A job must have finite numbers, but this has NaN.",
        'line 8: must name no picture, but names "a.png"; a file of jobs brings no pictures along: drop a folder with job.json '
        "and the pictures in it.",
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_as_spreadsheets_write_it(separator: str, encoding: str, end: str) -> None:
    comma = "," if separator == ";" else "."
    rows = [
        ["prompt", "steps", "cfg_scale", "hires.scale", "loras", ""],
        [f'"a ""café""{separator} on{end}two lines"', "20", f"7{comma}5", "", "", ""],
        ["", "", "", "", "", ""],
        ["[red] b", '"[4, 5]"', "3", "2", '"[{""name"": ""ink""}]"', ""],
    ]
    text = end.join(separator.join(row) for row in rows) + end
    assert said("x.csv", text.encode(encoding)) == [
        (2, {"prompt": f'a "café"{separator} on{end}two lines', "steps": 20, "guidance_scale": 7.5}),
        (
            5,
            {
                "prompt": "[red] b",
                "steps": 4,
                "sweep": {"steps": [4, 5]},
                "guidance_scale": 3,
                "hires": {"scale": 2},
                "loras": [{"name": "ink"}],
            },
        ),
    ]


def test_csv_cells_become_what_the_field_takes() -> None:
    data = b"""sep=;
prompt;seed;owner;sampler;scheduler;hires;batch_size;sampler_name;after;not_before
a;-1;007;;;"{""scale"": 1.5}";2;DPM++ 2M Karras;"[""x"", ""y""]";2027-01-01T00:00:00Z
"[""a"", ""b""]";1;[1];Euler;;;;;;
[NaN];1;;;;;;;;
"""
    first, second, third = (fields for _, fields in said("x.csv", data))
    assert (first["seed"], first["owner"], first["hires"], first["count"]) == (-1, "007", {"scale": 1.5}, 2)
    assert (first["sampler"], first["scheduler"], first["after"]) == ("DPM++ 2M", "Karras", ["x", "y"])
    assert (second["sweep"], second["owner"]) == ({"prompt": ["a", "b"]}, "[1]")
    assert third["prompt"] == "[NaN]"


def test_every_mistake_of_csv_is_named_with_its_line() -> None:
    data = b"""prompt,stepz,steps,hires,hires.scale,hires.scal,steps
"a

cat",,many,,,,
b,,1,,
c,,1.5,,,,,
d,,1e1,"{""scale"":2}",2,,
e,,"{""a"":1,""a"":2}",7,,,
"""
    assert mistakes("x.csv", data) == [
        "line 1: the column `stepz` is not a field of a job (did you mean steps?).",
        "line 1: the column `hires.scal` is not a field of a job (did you mean scale?).",
        "line 1: the column `steps` must be given once, but is given twice.",
        'line 2: `steps` must be a whole number, but is "many".',
        "line 5: must have 7 cells, as the header has, but has 5.",
        'line 6: must have 7 cells, as the header has, but has 8: a text with "," in it must stand between quotation marks.',
        "line 7: `hires` must be given as one cell or as its parts, not as both.",
        "line 7: `steps` must be a whole number, but is 10.0.",
        "line 8: in `steps`, `a` must be given once, but is given twice.",
        'line 8: `hires` must be an object, {...}, but is "7".',
    ]


def test_csv_that_breaks_the_rules_of_quotation_is_named_and_ends_there() -> None:
    assert mistakes("x.csv", b'prompt,steps\na,0\n"b"c,1\n') == [
        "line 2: `steps` must be greater than or equal to 1, but is 0.",
        "line 3: cannot be read as CSV: ',' expected after '\"'.",
    ]
    assert "at most 200 columns, but this has 300" in mistakes("x.csv", b"," * 299 + b"a\n1\n")[0]


def test_txt_has_a_prompt_a_line() -> None:
    data = "\ufeff# my prompts\r\n\r\n  a café \n#b\n(c:1.2) # d\n\n".encode()
    assert said("x.txt", data) == [(3, {"prompt": "a café"}), (5, {"prompt": "(c:1.2) # d"})]
    assert mistakes("x.txt", b"a\n(b:99)\n\x07\nc") == [
        "line 2: `prompt` cannot be read: The weight of `b` must be from -10 to 10 but is 99.",
        "line 3: `prompt` must not have control characters, but is a text.",
    ]


def test_text_in_another_encoding_is_named_line_by_line() -> None:
    for name, first in (("x.txt", b"a"), ("x.csv", b"prompt")):
        assert mistakes(name, first + b"\ncaf\xe9 x\nb\n\xe4\n") == [
            'line 2: must be UTF-8 text (in Excel: save as "CSV UTF-8"), but has the byte 0xe9 after "caf".',
            'line 4: must be UTF-8 text (in Excel: save as "CSV UTF-8"), but has the byte 0xe4 after "".',
        ]
    assert mistakes("x.txt", b"\xff\xfe\x00\xdc\x00\xdca\x00")[0].startswith("The file must be whole UTF-16 text")


def test_a_picture_is_run_again_as_its_text_says() -> None:
    job = from_fields({"prompt": "a cat", "steps": 5, "guidance_scale": 3, "width": 64, "height": 128, "hires": {"scale": 2}})
    data = picture(infotext(job, 7, "demo", "0" * 10))
    hires = {"scale": 2.0, "strength": 0.5, "upscaler": "Lanczos"}
    fields = {"prompt": "a cat", "steps": 5, "guidance_scale": 3.0, "width": 64, "height": 128, "model": "demo", "hires": hires}
    assert said("x.png", data) == [(None, fields | {"seed": 7})]
    overrides = b'{"seed": -1, "cfg_scale": 4, "hires": {"strength": 0.25}, "model": null, "width": [64, 128]}'
    again = fields | {"seed": -1, "guidance_scale": 4.0, "hires": hires | {"strength": 0.25}, "sweep": {"width": [64, 128]}}
    del again["model"]
    assert said("x.png", data, overrides) == [(None, again)]


def test_a_picture_that_cannot_be_run_again_says_why() -> None:
    assert mistakes("x.png", picture("{}", "workflow")) == [
        "The picture must have the text 'parameters', in which A1111 and sdspool tell how a picture was made, but has only "
        '"workflow".'
    ]
    assert mistakes("x.png", picture(None))[0].endswith("but has none.")
    assert "must be A1111's text, but is a JSON object" in mistakes("x.png", picture('{"sui_image_params": {}}'))[0]
    assert mistakes("x.png", picture("a\nSteps: 0, Sampler: DPM fast, Size: 65x64, Seed: 1")) == [
        "parameters: `steps` must be greater than or equal to 1, but is 0.",
        "parameters: `width` must be a multiple of 8, but is 65.",
        *[each for each in mistakes("x.png", picture("a\nSteps: 1, Sampler: DPM fast, Size: 64x64")) if "`sampler`" in each],
    ]
    assert mistakes("x.png", picture("Steps: 1, Seed: 2, Size: 64x64"))[0].startswith("parameters: `prompt` is required")


def test_overrides_are_laid_over_every_row_and_blamed_for_their_own_mistakes_once() -> None:
    data = b"""{"prompt": "a", "cfg_scale": 3, "sweep": {"steps": [1, 2], "seed": [1, 2]}}
{"prompt": "b", "sampler": "DPM++ 2M Karras"}"""
    assert said("x.jsonl", data, b'{"guidance_scale": 5, "steps": 9, "sampler": "DDIM"}') == [
        (1, {"prompt": "a", "guidance_scale": 5.0, "steps": 9, "seed": 1, "sweep": {"seed": [1, 2]}, "sampler": "DDIM"}),
        (2, {"prompt": "b", "guidance_scale": 5.0, "steps": 9, "sampler": "DDIM"}),
    ]
    found = mistakes("x.txt", b"a\n(b:99)\nc\n", b'{"steps": 0, "xyzzy": "red"}')
    assert sorted(found) == [
        "line 2: `prompt` cannot be read: The weight of `b` must be from -10 to 10 but is 99.",
        "overrides: `steps` must be greater than or equal to 1, but is 0.",
        "overrides: `xyzzy` is not a field of a job.",
    ]
    assert mistakes("x.txt", b"a\n", b'{"steps": 1', incomplete=True)[0].startswith("overrides: It must be JSON, but at line 1")
    assert mistakes("x.txt", b"a\n", b"[]") == ["overrides: It must be a JSON object, {...}, but this is an array."]
    assert mistakes("x.txt", b"a\n", b'{"cfg_scale": 1, "guidance_scale": 2}')[0].startswith(
        "overrides: `cfg_scale` is another"
    )


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.jsonl", b""),
        ("x.jsonl", b"\n \n"),
        ("x.jsonl", b'{"prompt": "a"}\n{"prom'),
        ("x.jsonl", b'{"prompt": "a", "steps": 0}\n{"prompt": "caf\xc3'),
        ("x.jsonl", b'{"prompt": "a"}\n' + bytes(100)),
        ("x.csv", b""),
        ("x.csv", b"prompt"),
        ("x.csv", b"prom"),
        ("x.csv", b"prompt,steps\n"),
        ("x.csv", b"prompt,steps\na"),
        ("x.csv", b'prompt,steps\n"a, b'),
        ("x.csv", b"prompt,sampler\na,Eu"),
        ("x.csv", b"prompt,steps\ncaf\xc3"),
        ("x.csv", b"\xff\xfep\0r"[:-1]),
        ("x.csv", b"prompt,steps\na,1\n" + bytes(100)),
        ("x.txt", b"# nothing\n"),
        ("x.txt", b"a\n(b:1"[:-1] + b"1.2.3)"),
        ("x.txt", b"a\ncaf\xc3"),
        ("x.txt", b"a\n" + bytes(100)),
        ("x.png", b""),
        ("x.png", picture("a")[:-1]),
        ("x.png", picture("a")[:40] + bytes(100)),
    ],
)
def test_what_may_still_be_arriving_is_told_from_what_is_wrong(name: str, data: bytes) -> None:
    assert mistakes(name, data, incomplete=True)


def test_completeness_is_proved_by_an_object_and_a_picture_never_by_lines() -> None:
    whole = b'{"prompt": "a"}'
    for name in ("x.json", "x.overrides.json", "X.JSON"):
        assert complete(name, whole)
        assert not any(complete(name, whole[:end]) for end in range(len(whole)))
    data = picture("a\nSteps: 3")
    assert complete("x.png", data)
    assert not any(complete("x.png", data[:end]) for end in range(len(data)))
    for name, text in (("x.jsonl", whole + b"\n"), ("x.csv", b"prompt\na\n"), ("x.txt", b"a\n"), ("x.zip", whole)):
        assert not complete(name, text)


def test_the_bounds_are_named() -> None:
    assert mistakes("x.txt", b"a" * (5 << 20)) == ["The file must have at most 4 MiB, but has 5.0."]
    assert mistakes("x.txt", b"a\n" * 10_001) == ["The file must have at most 10000 jobs, but has more: see line 10001."]
    assert len(read_rows("x.txt", b"a\n" * 10_000)) == 10_000
    many = json.dumps({"prompt": "a", "count": 64}).encode() + b"\n"
    assert mistakes("x.jsonl", many * 782) == ["The file must ask for at most 50000 pictures, but asks for more: see line 782."]
    found = mistakes("x.jsonl", b"{}\n" * 9_000)
    assert len(found) == batch_file.MAX_MISTAKES + 1
    assert found[-1] == "The file was read no further than line 1000: these are 1000 mistakes."
    unknown = json.dumps({"prompt": "a"} | {f"a{number}": 1 for number in range(5_000)}).encode()
    assert mistakes("x.jsonl", unknown)[-1] == "line 1: There are 4900 more mistakes, not told."
    assert mistakes("x.txt", b"\n" * 200_001) == ["The file must have at most 200000 lines, but has 200001."]
    assert mistakes("x.txt", b"(" * 400_001) == ["The file must have at most 400000 brackets and backslashes, but has 400001."]
    assert mistakes("x.zip", b"")[0] == 'The file must be called .jsonl, .csv, .txt or .png, but is "x.zip".'


def test_the_manual_s_examples_are_read() -> None:
    page = (ROOT / "docs" / "batch-files.md").read_text()
    examples = [
        "\n".join(line.strip() for line in block.splitlines()) for block in page.split("\n\n") if block.startswith("    ")
    ]
    (table,) = (each for each in examples if each.startswith("prompt,"))
    (overrides,) = (each for each in examples if each.startswith("{"))
    assert [row.job.pictures for row in read_rows("x.csv", table.encode())] == [1, 3]
    assert [row.job.pictures for row in read_rows("x.csv", table.encode(), overrides.encode())] == [2, 2]
    for bound in (
        batch_file.MAX_ROWS,
        batch_file.MAX_PICTURES,
        batch_file.MAX_LINES,
        batch_file.MAX_MARKS,
        batch_file.MAX_MISTAKES,
    ):
        assert f"{bound:,}" in page
