"""The job file: what is let in, and what each mistake is answered with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from spooler.job import Job, decode, encode, from_fields
from spooler.job_schema import json_schema
from spooler.mistakes import IncompleteError, JobError
from spooler.samplers import SAMPLERS

ROOT = Path(__file__).parent.parent


def mistakes(raw: bytes) -> dict[str, str]:
    with pytest.raises(JobError) as caught:
        decode(raw)
    return {mistake.field: mistake.message for mistake in caught.value.mistakes}


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_a_prompt_may_be_empty_but_not_left_out(text: str) -> None:
    job = from_fields({"prompt": text})
    assert decode(encode(job)) == job and job.prompt == text and not job.upscales_only
    assert from_fields({"prompt": ["", "a dog"]}).pictures == 2
    for forgotten in ({}, {"steps": 3}, {"image": "a.png"}):
        with pytest.raises(JobError, match="`prompt` is required"):
            from_fields(forgotten)


def test_a_job_comes_back_as_it_went() -> None:
    given = Job(prompt="a ring", steps=7, guidance_scale=2.5, sampler="Euler", seed=4)
    assert decode(encode(given)) == given
    assert json.loads(encode(given)) == {"prompt": "a ring", "steps": 7, "guidance_scale": 2.5, "sampler": "Euler", "seed": 4}


def test_every_mistake_is_named_at_once_with_field_rule_and_value() -> None:
    raw = b'{"prompt": "x", "steps": 0, "width": 65, "height": 4096, "seed": true, "gidance_scale": 3}'
    assert mistakes(raw) == {
        "steps": "`steps` must be greater than or equal to 1, but is 0.",
        "width": "`width` must be a multiple of 8, but is 65.",
        "height": "`height` must be less than or equal to 2048, but is 4096.",
        "seed": "`seed` must be a whole number, but is true.",
        "gidance_scale": "`gidance_scale` is not a field of a job (did you mean guidance_scale?).",
    }


@pytest.mark.parametrize(
    ("raw", "field", "part"),
    [
        (b"[1, 2]", "", "must be a JSON object, {...}, but this is an array"),
        (b'"x"', "", "but this is a text"),
        (b"null", "", "but this is null"),
        (b'{"prompt": "x", "guidance_scale": NaN}', "", "finite numbers, but this has NaN"),
        (b'{"prompt": "x", "guidance_scale": -Infinity}', "", "finite numbers, but this has -Infinity"),
        (b'{"prompt": "x", "guidance_scale": 1e999}', "", "finite numbers, but this has 1e999"),
        (b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}", "", "numbers of ordinary size"),
        (b'{"prompt": "x", "prompt": "y"}', "prompt", "must be given once"),
        (b'{"a":' * 50_000, "", "nests too deep"),
        (b"{}", "prompt", "is required, but is missing"),
        (b'{"prompt": 7}', "prompt", "must be text, but is 7"),
        (b'{"prompt": "' + b"x" * 10_001 + b'"}', "prompt", "at most 10000 characters, but has 10001"),
        (b'{"prompt": "' + b"x" * 1_100_000 + b'"}', "", "at most 1048576 bytes"),
        (b'{"prompt": "a\\u0000b"}', "prompt", "control characters"),
        (b'{"prompt": "a\\ud800"}', "prompt", "UTF-8"),
        (b'{"prompt": "x", "steps": "20"}', "steps", 'must be a whole number, but is "20"'),
        (b'{"prompt": "x", "steps": 2.5}', "steps", "must be a whole number, but is 2.5"),
        (b'{"prompt": "x", "guidance_scale": "7"}', "guidance_scale", "must be a number"),
        (b'{"prompt": "x", "seed": 4294967296}', "seed", "less than or equal to 4294967295"),
        (b'{"prompt": "x", "count": 0}', "count", "greater than or equal to 1"),
        (b'{"prompt": "x", "sampler": "Eulr"}', "sampler", "did you mean Euler?"),
        (b'{"prompt": "x", "sampler": "DDIM", "scheduler": "Karras"}', "scheduler", "must be one of Automatic"),
        (b'{"prompt": "x <lora:ink:7>"}', "prompt", "a weight from -5 to 5"),
        (b'{"prompt": "x <lora:' + b"n" * 200 + b':1>"}', "prompt", "at most 128 characters"),
        (b'{"prompt": "x <lora:ink:much>"}', "prompt", "cannot be read"),
        (b'{"prompt": "x", "id": "cat"}', "id", "a job's id is its file's name"),
        (b'{"prompt": "x", "cfg_scale": 3, "guidance_scale": 4}', "cfg_scale", "another spelling"),
        (b'{"prompt": "x", "batch_size": 2, "count": 4}', "count", "only one"),
        (b'{"prompt": "x", "batch_size": 65}', "batch_size", "from 1 to 64"),
        (b'{"prompt": "x", "batch_size": 60, "n_iter": 60}', "count", "less than or equal to 64"),
        (b'{"prompt": "x", "\\u001b[31mred": 1}', "\x1b[31mred", "is not a field"),
    ],
)
def test_a_bad_job_is_refused_with_its_reason(raw: bytes, field: str, part: str) -> None:
    found = mistakes(raw)
    assert part in found[field]
    assert found[field].isprintable()


@pytest.mark.parametrize("raw", [b"", b"  ", b'{"prompt": "x"', b"{", b"\xff\xfe{", b'{"prompt": "x"} trailing'])
def test_what_does_not_parse_may_still_be_arriving(raw: bytes) -> None:
    with pytest.raises(IncompleteError):
        decode(raw)


def test_no_strict_prefix_of_a_job_is_a_job() -> None:
    whole = '{"prompt": "a ü ring {}[]", "steps": 12, "sampler": "Euler a", "negative_prompt": "x\\"}"}'.encode()
    decode(whole)
    for end in range(len(whole)):
        with pytest.raises(IncompleteError):
            decode(whole[:end])


def test_a1111_spellings_are_understood() -> None:
    given = decode(b'{"prompt": "x", "cfg_scale": 3, "sampler_name": "DPM++ 2M Karras", "batch_size": 2, "n_iter": 3}')
    assert (given.guidance_scale, given.sampler, given.scheduler, given.count) == (3.0, "DPM++ 2M", "Karras", 6)
    assert decode(b'{"prompt": "x", "sampler": "k_euler_a"}').sampler == "Euler a"


def test_a_byte_order_mark_is_let_pass() -> None:
    assert decode(b'\xef\xbb\xbf{"prompt": "x"}').prompt == "x"


def test_the_published_schema_is_the_code_s_and_agrees_with_it() -> None:
    schema = json_schema()
    assert json.loads((ROOT / "docs" / "job.schema.json").read_text()) == schema
    jsonschema.Draft202012Validator.check_schema(schema)
    for raw in (b'{"prompt": "x"}', b'{"prompt": "x", "steps": null, "sampler": "DDIM", "seed": -1, "guidance_scale": 1.5}'):
        decode(raw)
        jsonschema.validate(json.loads(raw), schema)
    for raw in (b'{"prompt": "x", "steps": 0}', b'{"prompt": "x", "width": 65}', b'{"prompt": "x", "a": 1}', b"{}"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(raw), schema)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ["a", "b"]},
        {"prompt": "x", "steps": [None, 20]},
        {"prompt": "x", "upscale": [None, None]},
        {"prompt": "x", "upscale": [{"scale": 2}, None]},
        {"prompt": "x", "hires": [None, {"steps": 3}], "refiner": [None]},
        {"prompt": "x", "loras": [[], [{"name": "ink"}]]},
        {"prompt": "x", "sampler": ["Euler", None], "scheduler": [None, "Karras"]},
        {"image": ["a.png", "b.png"], "upscale": {}},
        {"sweep": {"prompt": ["a", "b"]}},
        {"sweep": {"image": ["a.png"], "upscale": [{}, {"scale": 3}]}},
        {"prompt": "x", "steps": 15, "sweep": {"steps": [15, 20]}},
    ],
)
def test_the_schema_takes_every_sweep_that_a_job_file_may_have(fields: dict[str, Any]) -> None:
    given = from_fields(fields)
    for written in (fields, json.loads(encode(given))):
        jsonschema.validate(written, json_schema())
        assert from_fields(written) == given


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"prompt": "x", "count": [1, 2]}, "`count` must be"),
        ({"prompt": "x", "upscale": []}, "`upscale` must have at least one value"),
        ({"prompt": "x", "steps": [15, "many"]}, "`steps` must be"),
        ({"prompt": "x", "controls": [[{"model": "c"}]]}, "`controls.0.image` is required"),
        ({"prompt": "x", "hires": {"steps": [1, 2]}}, "`hires.steps` must be"),
        ({"prompt": "x", "steps": "many", "sweep": {"steps": [15, 20]}}, '`steps` must be a whole number, but is "many"'),
        ({"sweep": {"steps": [15, 20]}}, "`prompt` is required"),
        ({"sweep": {"image": ["a.png"]}, "steps": 3}, "`prompt` is required"),
    ],
)
def test_what_no_sweep_may_be_the_schema_refuses_too(fields: dict[str, Any], part: str) -> None:
    with pytest.raises(JobError) as caught:
        from_fields(fields)
    assert part in str(caught.value.mistakes[0]), caught.value.mistakes
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(fields, json_schema())


def test_a_field_is_swept_in_one_way() -> None:
    with pytest.raises(JobError, match="`steps` is a list and in `sweep` too: only one of them may be given"):
        from_fields({"prompt": "x", "steps": [15, 20], "sweep": {"steps": [30]}})


def test_names_that_others_read_have_no_comma_or_colon() -> None:
    for sampler in SAMPLERS:
        assert not set(",:") & set(sampler.name)


@pytest.mark.parametrize(
    ("raw", "field", "part"),
    [
        (
            b'"not_before": "tomorrow"',
            "not_before",
            'must be a time with its zone, as in 2027-03-01T22:00:00+01:00, but is "tom',
        ),
        (b'"expires_at": "2027-03-01T22:00:00"', "expires_at", "a time with its zone"),
        (b'"expires_at": "9999-12-31T23:59:59-14:00"', "expires_at", "a time with its zone"),
        (b'"not_before": 7', "not_before", "must be text, but is 7"),
        (b'"not_before": ["2027-03-01T22:00:00Z"]', "not_before", "must be text"),
        (
            b'"not_before": "2027-03-01T22:00:00Z", "expires_at": "2027-03-01T22:30:00+01:00"',
            "expires_at",
            'must be later than `not_before`, but is "2027-03-01T22:30:00+01:00" and `not_before` "2027-03-01T22:00:00Z".',
        ),
        (b'"after": "cat"', "after", 'must be a list of ids, but is "cat"'),
        (b'"after": [3]', "after.0", "must be text, but is 3"),
        (
            b'"after": ["a", "../b"]',
            "after.1",
            "must be a job's id: letters, digits, dots, dashes and underscores, at most 128",
        ),
        (b'"after": ["a\\n"]', "after.0", "must be a job's id"),
        (b'"after": ["a", "b", "a"]', "after", 'must name each job once, but is ["a", "b", "a"]'),
        (b'"after": ' + json.dumps([str(n) for n in range(65)]).encode(), "after", "must have at most 64 items, but has 65."),
        (b'"batch": "a/b"', "batch", "must be a job's id"),
        (b'"sweep": {"after": [["a"], ["b"]]}', "sweep", "must name fields that may be swept"),
    ],
)
def test_when_a_job_may_begin_is_told_without_doubt(raw: bytes, field: str, part: str) -> None:
    found = mistakes(b'{"prompt": "x", ' + raw + b"}")
    assert part in found[field]
    assert list(found) == [field]


def test_a_job_that_waits_for_times_and_others_comes_back_as_it_went() -> None:
    raw = b"""{"prompt": "x", "not_before": "2027-03-01T22:00:00+01:00", "expires_at": "2027-03-01T22:00:00Z",
               "after": ["a", "b.2_c-"], "batch": ""}"""
    given = decode(raw)
    assert (given.not_before, given.after, given.batch) == ("2027-03-01T22:00:00+01:00", ["a", "b.2_c-"], "")
    assert decode(encode(given)) == given
    jsonschema.validate(json.loads(raw), json_schema())
