"""The form without a browser: what it sends, and what was wrong."""

from __future__ import annotations

import html
import json
import time
import tracemalloc
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from formpage import Fields, png, spool, submitted, upload
from house import listing

from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import create_app

__all__ = ["spool"]

# -- what is sent ----------------------------------------------------------------------------------------------------------


def test_the_form_makes_a_job_of_what_is_filled_in_and_leads_to_its_page(client: FlaskClient, spool: Spool) -> None:
    form = {
        "prompt": "a ring\r\non blue",
        "negative_prompt": "",
        "steps": " 7 ",
        "guidance_scale": "2.5",
        "seed": "",
        "model": "demo",
    }
    answer = client.post("/", data=form)
    path = answer.headers["Location"]
    raw = (spool.pending / f"{path.rsplit('/')[-1]}.json").read_bytes()
    assert json.loads(raw) == {"prompt": "a ring\non blue", "steps": 7, "guidance_scale": 2.5, "model": "demo"}
    page = client.get(path).get_data(as_text=True)
    assert "Next in line" in page and '<meta http-equiv="refresh"' in page


def test_every_field_of_a_job_can_be_sent(client: FlaskClient, spool: Spool) -> None:
    form = {
        "form": "1", "kind": "txt2img", "prompt": "a ring", "negative_prompt": "blue", "model": "big", "sampler": "Euler",
        "scheduler": "Karras", "steps": "5", "guidance_scale": "2", "width": "512", "height": "640", "seed": "9", "count": "2",
        "vae": "soft", "clip_skip": "2", "priority": "-3", "owner": "ann", "loras.0.name": "ink", "loras.0.weight": "0.5",
        "guidance_cutoff": "0.4", "deepcache_interval": "3",
        "loras.2.name": "chalk", "hires.on": "on", "hires.scale": "1.5", "hires.upscaler": "Latent", "hires.steps": "4",
        "variation.on": "on", "variation_seed": "3", "variation_strength": "0.2", "upscale.on": "on", "upscale.scale": "3",
        "refiner.on": "on", "refiner.model": "big", "refiner.switch_at": "0.7", "sweep.on": "on", "sweep": "steps: 5, 6\r\n",
        "not_before": "2100-01-02T03:04", "expires_at": "2100-01-03T03:04", "zone": "-60", "after": "one, two",
    }  # fmt: skip
    job, _ = submitted(spool, client.post("/", data=form))
    assert json.loads(job.model_dump_json(exclude_unset=True)) == {
        "prompt": "a ring", "negative_prompt": "blue", "model": "big", "sampler": "Euler", "scheduler": "Karras", "steps": 5,
        "guidance_scale": 2, "guidance_cutoff": 0.4, "deepcache_interval": 3, "width": 512, "height": 640, "seed": 9,
        "count": 2, "vae": "soft", "clip_skip": 2, "priority": -3,
        "owner": "ann", "loras": [{"name": "ink", "weight": 0.5}, {"name": "chalk"}],
        "hires": {"scale": 1.5, "upscaler": "Latent", "steps": 4}, "variation_seed": 3, "variation_strength": 0.2,
        "upscale": {"scale": 3}, "refiner": {"model": "big", "switch_at": 0.7}, "sweep": {"steps": [5, 6]},
        "not_before": "2100-01-02T03:04:00+01:00", "expires_at": "2100-01-03T03:04:00+01:00", "after": ["one", "two"],
    }  # fmt: skip


def test_what_is_switched_off_or_of_another_kind_does_not_count(client: FlaskClient, spool: Spool) -> None:
    hidden = {"hires.scale": "3", "variation_strength": "0.4", "sweep": "nonsense", "refiner.model": "no", "strength": "0.1"}
    hidden |= {"upscale.scale": "900", "controls.0.model": "canny", "mask_blur": "9", "inpaint_area": "whole"}
    job, _ = submitted(spool, client.post("/", data={"form": "1", "kind": "txt2img", "prompt": "x", **hidden}))
    assert job.model_fields_set == {"prompt"}


def test_a_part_that_is_switched_on_and_left_empty_has_its_defaults(client: FlaskClient, spool: Spool) -> None:
    job, _ = submitted(spool, client.post("/", data={"form": "1", "prompt": "x", "hires.on": "on", "upscale.on": "on"}))
    assert job.hires and job.hires.scale == 2 and job.upscale and job.upscale.scale == 2


def test_pictures_of_every_place_go_along_under_names_of_ours(client: FlaskClient, spool: Spool) -> None:
    data = {
        "form": "1", "kind": "inpaint", "prompt": "x", "strength": "0.6", "mask_blur": "2", "inpaint_area": "masked",
        "image": upload(png()), "mask": upload(png(color="white"), "../../etc/passwd.png"), "controls.on": "on",
        "controls.1.model": "canny", "controls.1.weight": "0.5", "controls.1.image": upload(png(), "x.PNG"),
        "controls.3.weight": "1",
    }  # fmt: skip
    job, path = submitted(spool, client.post("/", data=data))
    assert (job.image, job.mask, job.strength, job.mask_blur, job.inpaint_area) == ("image.png", "mask.png", 0.6, 2, "masked")
    assert [control.model_dump() for control in job.controls] == [
        {"model": "canny", "image": "controls-1-image.png", "weight": 0.5, "start": 0.0, "end": 1.0}
    ]
    assert {each.name for each in (path / "inputs").iterdir()} == set(job.inputs)


def test_enlarging_takes_the_picture_alone(client: FlaskClient, spool: Spool) -> None:
    data = {"form": "1", "kind": "upscale", "prompt": "kept for later", "steps": "900", "image": upload(png())}
    assert client.put("/api/v1/styles/ink", json={"prompt": "ink"}).status_code == 200
    job, _ = submitted(spool, client.post("/", data=data | {"style": "ink"}))
    assert job.kind == "upscale" and job.upscales_only and not job.prompt and job.steps is None


def test_a_held_job_waits_among_those_held(client: FlaskClient, spool: Spool) -> None:
    _, path = submitted(spool, client.post("/", data={"form": "1", "prompt": "x", "held": "1"}))
    assert path.parent == spool.root / "held"


def test_the_script_hears_the_id_and_the_page_as_json(client: FlaskClient, spool: Spool) -> None:
    told = client.post("/", data={"prompt": "x"}, headers={"Accept": "application/json"})
    assert told.status_code == 201 and told.json == {"id": told.json["id"], "page": f"/jobs/{told.json['id']}"}
    wrong = client.post("/", data={"prompt": "x", "hires.scale": "9"}, headers={"Accept": "application/json"})
    assert wrong.status_code == 422
    assert list(wrong.json["error"]["fields"]) == ["hires.scale"]


# -- what was wrong --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("zone", "moment"), [("EST5", "0001-01-01T00:00:00+00:00"), ("UTC-14", "9999-12-31T23:59:00+00:00")])
def test_a_moment_that_this_server_s_zone_has_not_is_shown_as_it_came(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, zone: str, moment: str
) -> None:
    with monkeypatch.context() as there:
        there.setenv("TZ", zone)
        time.tzset()
        answer = client.get("/", query_string={"not_before": moment, "expires_at": moment})
    time.tzset()
    assert answer.status_code == 200 and moment in html.unescape(answer.text)


def test_a_style_of_many_places_fills_no_memory(client: FlaskClient, spool: Spool) -> None:
    assert client.put("/api/v1/styles/bomb", json={"prompt": "{prompt}" * 1250}).status_code == 200
    assert client.put("/api/v1/styles/two", json={"prompt": "{prompt}, {prompt}"}).status_code == 200
    for prompt in ("x" * 9, "x" * 3_000_000):
        tracemalloc.start()
        answer = client.post("/", data={"prompt": prompt, "style": ["bomb"] * 3}, headers={"Accept": "application/json"})
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert answer.status_code == 422 and "10000 characters" in answer.text
        assert peak < 100 << 20
    job, _ = submitted(spool, client.post("/", data={"prompt": "a ring", "style": ["two", "two"]}))
    assert job.prompt == "a ring, a ring", "each style once"


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("prompt", "  ", "“Prompt” must not be empty: write one first."),
        ("prompt", "x" * 1_000_000, "must have at most 10000 characters, but has 1000000."),
        ("prompt", "a <lora:nobody:1>", "must be one of ink, chalk"),
        ("steps", "many", '“Steps” must be a whole number, but is "many".'),
        ("steps", "2.5", "“Steps” must be a whole number, but is 2.5."),
        ("width", "100", "“Width” must be a multiple of 8, but is 100."),
        ("guidance_scale", "nan", "“Guidance scale” must be a finite number"),
        ("guidance_scale", "99", "“Guidance scale” must be less than or equal to 30, but is 99."),
        ("seed", "-2", "“Seed” must be greater than or equal to -1, but is -2."),
        ("sampler", "Eulr", "did you mean Euler?"),
        ("model", "dmo", "did you mean demo?"),
        ("vae", "sofd", "did you mean soft?"),
        ("priority", "1e9", "“Priority” must be"),
        ("clip_skip", "99", "“Clip skip” must be"),
        ("hires.scale", "9", "must be less than or equal to 4"),
        ("hires.upscaler", "x", "“Upscaler” must be one of Latent, Lanczos"),
        ("upscale.scale", "no", "must be a number"),
        ("refiner.switch_at", "2", "must be less than 1"),
        ("loras.0.weight", "9", "must be less than or equal to 5"),
        ("variation_strength", "3", "must be less than or equal to 1"),
        ("sweep", "stepps: 1, 2", "did you mean steps?"),
        ("sweep", "steps", "must be `field: value, value`"),
        ("sweep", "steps: [1,", "must be JSON"),
        ("sweep", "steps: 1\nsteps: 2", "must name each field once"),
        ("not_before", "soon", "must be a time with its zone"),
        ("after", "../x", "must be a job's id"),
        ("controls.0.weight", "7", "must be less than or equal to 2"),
    ],
)
def test_a_mistake_is_shown_beside_its_field_and_what_was_typed_is_kept(
    client: FlaskClient, spool: Spool, field: str, value: str, sentence: str
) -> None:
    before = listing(spool.root)
    rows = {"loras.0.name": "ink"} if field.startswith("loras") else {}
    if field.startswith("controls"):
        rows = {"controls.0.model": "canny", "controls.on": "on"}
    on = {f"{switch}.on": "on" for switch in ("hires", "upscale", "refiner", "sweep") if field.startswith(switch)}
    on |= {"variation.on": "on"} if field.startswith("variation") else {}
    answer = client.post("/", data={"form": "1", "prompt": "kept", "owner": "ann", **rows, **on, field: value})
    assert answer.status_code == 422
    page = Fields(answer.get_data(as_text=True))
    assert sentence in page.sentences[page.invalid[field]]
    assert page.values["owner"] == "ann" and page.values[field] == value.replace("\r\n", "\n")
    assert all(page.values[name] == "on" for name in on)
    assert listing(spool.root) == before


@pytest.mark.parametrize(
    ("form", "field", "sentence"),
    [
        ({"kind": "img2img", "prompt": "x"}, "image", "“Picture” is required here"),
        ({"kind": "upscale"}, "image", "“Picture” is required here"),
        ({"prompt": "x", "controls.on": "on", "controls.0.model": "canny"}, "controls.0.image", "is required, but is missing"),
        ({"prompt": "x", "style": "none"}, "", "There is no style"),
        ({"prompt": "x", "image.from": "nobody:0", "kind": "img2img"}, "image", "is none any more"),
        ({"prompt": "x", "image.from": "../../etc:0", "kind": "img2img"}, "image", "is none any more"),
        ({"prompt": "x", "model": "flux", "negative_prompt": "y"}, "negative_prompt", "does not work with the model"),
    ],
)
def test_what_is_missing_is_said_beside_its_place(
    client: FlaskClient, spool: Spool, form: dict[str, str], field: str, sentence: str
) -> None:
    answer = client.post("/", data={"form": "1", **form})
    page = Fields(answer.get_data(as_text=True))
    assert answer.status_code == 422 and any(sentence in each for each in page.sentences.values())
    assert not field or sentence in page.sentences[page.invalid[field]]


def test_inpainting_needs_a_mask(client: FlaskClient, spool: Spool) -> None:
    answer = client.post("/", data={"form": "1", "kind": "inpaint", "prompt": "x", "image": upload(png())})
    page = Fields(answer.get_data(as_text=True))
    assert "paint over what is to change" in page.sentences[page.invalid["mask"]]
    assert "choose the picture again" in page.sentences[page.invalid["image"]]


def test_all_mistakes_are_told_at_once(client: FlaskClient, spool: Spool) -> None:
    answer = client.post("/", data={"form": "1", "kind": "img2img", "prompt": "x", "steps": "0", "width": "1"})
    assert list(Fields(answer.get_data(as_text=True)).invalid) == ["image", "steps", "width"]


def test_a_full_queue_takes_nothing_of_what_was_typed(tmp_path: Path) -> None:
    client = create_app(Settings(spool=tmp_path / "spool", cache=tmp_path / "cache", max_waiting=1)).test_client()
    assert client.post("/", data={"prompt": "one"}).status_code == 303
    answer = client.post("/", data={"prompt": "two"})
    page = Fields(answer.get_data(as_text=True))
    assert (
        answer.status_code == 429 and page.values["prompt"] == "two" and "At most 1 jobs may wait" in page.sentences["-mistake"]
    )
