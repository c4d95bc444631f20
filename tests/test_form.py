"""The form without a browser: what it sends, what a link says, what a job begins with, and what was wrong."""

from __future__ import annotations

import gzip
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from flask.testing import FlaskClient
from house import listing, offer
from hypothesis import given as having
from hypothesis import strategies as st
from PIL import Image as Pillow
from werkzeug.test import TestResponse

from spooler.catalogue import Catalogue, ModelCard
from spooler.job import Job, decode, from_fields
from spooler.mistakes import JobError
from spooler.record import EngineFacts, Image, Record, Timings, utc_now
from spooler.settings import Settings
from spooler.spool import Spool
from webui import flat
from webui.app import create_app

LIGHT_BYTES = 100_000
CATALOGUE = Catalogue(
    models=(
        ModelCard(name="demo", family="sd1", width=128, height=128, steps=20, guidance_scale=3, vocabulary="demo"),
        ModelCard(name="big", family="sdxl", width=1024, height=768, steps=30, guidance_scale=5.5, vocabulary="clip"),
        ModelCard(name="flux", family="flux", width=1024, height=1024, steps=28, guidance_scale=3.5),
    ),
    default="demo",
    loras=("ink", "chalk"),
    vaes=("soft",),
    controlnets=("canny", "depth"),
    upscalers=("Lanczos", "ESRGAN"),
)


@pytest.fixture
def spool(spool: Spool) -> Spool:
    """The spool, in which a spooler told what it offers."""
    offer(spool, CATALOGUE)
    return spool


def png(size: tuple[int, int] = (64, 64), color: str = "red") -> bytes:
    out = io.BytesIO()
    Pillow.new("RGB", size, color).save(out, "PNG")
    return out.getvalue()


def upload(data: bytes, name: str = "my cat's picture.png") -> tuple[io.BytesIO, str]:
    return io.BytesIO(data), name


def finish(spool: Spool, name: str, fields: dict[str, Any], inputs: dict[str, bytes] | None = None) -> None:
    """A job that is done, with its pictures, as a spooler leaves it."""
    spool.submit(json.dumps(fields).encode(), name, inputs)
    place = spool.claim(f"{name}.json" if not inputs else name, "me")
    assert place
    facts = dict.fromkeys(("device", "device_name", "precision"), "cpu")
    engine = EngineFacts(model="demo", hash="ab" * 32, family="sd1", versions={}, load_seconds=1, **facts)
    job = spool.read_job(place).model_copy(update={"seed": 4, "steps": 20, "width": 128, "height": 128, "guidance_scale": 3.0})
    record = Record(id=name, queued=utc_now()).begin_attempt(job, engine)
    spool.prepare(place, record)
    pictures = []
    cells = [(at,) for at in range(len(next(iter(job.sweep.values()))))] if job.sweep else [()] * job.count
    for index, cell in enumerate(cells):
        (place.path / f"{index}.png").write_bytes(png(color="blue"))
        seed = 4 if job.sweep else 4 + index
        pictures.append(Image(file=f"{index}.png", index=index, seed=seed, width=64, height=64, cell=cell))
    assert spool.publish(place, record.finish(tuple(pictures), Timings(denoise=1.5)), "done")


class Fields(HTMLParser):
    """What the form on a page has in it: the value of each field as a browser would send it, and the page's sentences by id."""

    def __init__(self, page: str):
        super().__init__()
        self.values: dict[str, str] = {}
        self.invalid: dict[str, str] = {}
        self.sentences: dict[str, str] = {}
        self.pictures: list[str] = []
        self._select = self._textarea = self._id = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attrs}
        name = has.get("name", "")
        if "aria-invalid" in has:
            self.invalid[name] = has["aria-describedby"].split()[0]
        if tag == "input" and has.get("type") in ("radio", "checkbox"):
            if "checked" in has:
                self.values[name] = has.get("value", "on")
        elif tag == "input" and name:
            self.values[name] = has.get("value", "")
        elif tag == "select":
            self._select = name
        elif tag == "option" and self._select and ("selected" in has or self._select not in self.values):
            self.values[self._select] = has.get("value", "\0")
        elif tag == "textarea":
            self._textarea, self.values[name] = name, ""
        elif tag == "p" and has.get("class") == "mistake":
            self._id = has["id"]
        elif tag == "img" and "src" in has:
            self.pictures.append(has["src"])

    def handle_data(self, data: str) -> None:
        if self._textarea:
            self.values[self._textarea] += data
        elif self._select and self.values.get(self._select) == "\0":
            self.values[self._select] = data
        elif self._id:
            self.sentences[self._id] = data

    def handle_endtag(self, tag: str) -> None:
        self._textarea = "" if tag == "textarea" else self._textarea
        self._select = "" if tag == "select" else self._select
        self._id = "" if tag == "p" else self._id


def seen(client: FlaskClient, path: str) -> Fields:
    answer = client.get(path)
    assert answer.status_code == 200
    return Fields(answer.get_data(as_text=True))


def filled(fields: Fields) -> dict[str, str]:
    """The values without those of an empty form."""
    return {
        name: value
        for name, value in fields.values.items()
        if value and name not in ("form", "inpaint_area", "model", "kind", "back")
    }


def submitted(spool: Spool, answer: TestResponse) -> tuple[Job, Path]:
    assert answer.status_code == 303, answer.get_data(as_text=True)
    place = spool.find(answer.headers["Location"].rsplit("/")[-1])
    assert place
    return spool.read_job(place), place.path


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
        "loras.2.name": "chalk", "hires.on": "on", "hires.scale": "1.5", "hires.upscaler": "Latent", "hires.steps": "4",
        "variation.on": "on", "variation_seed": "3", "variation_strength": "0.2", "upscale.on": "on", "upscale.scale": "3",
        "refiner.on": "on", "refiner.model": "big", "refiner.switch_at": "0.7", "sweep.on": "on", "sweep": "steps: 5, 6\r\n",
        "not_before": "2100-01-02T03:04", "expires_at": "2100-01-03T03:04", "zone": "-60", "after": "one, two",
    }  # fmt: skip
    job, _ = submitted(spool, client.post("/", data=form))
    assert json.loads(job.model_dump_json(exclude_unset=True)) == {
        "prompt": "a ring", "negative_prompt": "blue", "model": "big", "sampler": "Euler", "scheduler": "Karras", "steps": 5,
        "guidance_scale": 2, "width": 512, "height": 640, "seed": 9, "count": 2, "vae": "soft", "clip_skip": 2, "priority": -3,
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


# -- links -----------------------------------------------------------------------------------------------------------------


def test_a_link_fills_the_form_in(client: FlaskClient) -> None:
    page = seen(client, "/?prompt=a+%22star%22&seed=7&sampler=Euler&width=256&loras.0.name=ink&hires.scale=3&sweep=steps:+1,+2")
    assert filled(page) == {
        "prompt": 'a "star"', "seed": "7", "sampler": "Euler", "width": "256", "loras.0.name": "ink", "hires.on": "on",
        "hires.scale": "3", "sweep.on": "on", "sweep": "steps: 1, 2",
    }  # fmt: skip


JOBS: list[dict[str, Any]] = [
    {
        "prompt": "a\nb, (c:1.2)",
        "negative_prompt": "d",
        "steps": 3,
        "guidance_scale": 2.25,
        "width": 64,
        "height": 128,
        "seed": 5,
    },
    {
        "prompt": "x",
        "model": "big",
        "hires": {"scale": 1.5, "upscaler": "Latent"},
        "refiner": {"model": "big"},
        "upscale": {"scale": 3.0},
    },
    {
        "prompt": "x",
        "loras": [{"name": "ink", "weight": -0.5}, {"name": "chalk"}],
        "variation_seed": 4,
        "variation_strength": 0.3,
    },
    {
        "prompt": "x",
        "sweep": {"prompt": ["a, b", "c"], "steps": [3, 4], "guidance_scale": [1.5, 2]},
        "clip_skip": 2,
        "vae": "soft",
    },
    {"prompt": "x", "sweep": {"loras": [[{"name": "ink"}], []]}, "count": 2, "scheduler": "Karras", "sampler": "DPM++ 2M"},
    {"prompt": "x", "after": ["a", "b"], "priority": -4, "owner": "ann", "not_before": "2100-01-01T00:00:00+00:00"},
]


@pytest.mark.parametrize("fields", JOBS, ids=range(len(JOBS)))
def test_a_link_carries_a_whole_job_and_the_form_sends_it_again(
    client: FlaskClient, spool: Spool, fields: dict[str, Any]
) -> None:
    job = decode(json.dumps(fields).encode())
    page = seen(client, "/?" + urlencode(flat.given(job)))
    again, _ = submitted(spool, client.post("/", data=page.values))
    assert again.model_dump(exclude={"model"}) == job.model_dump(exclude={"model"}) | {
        name: getattr(again, name) for name in ("not_before", "expires_at")
    }
    assert not job.not_before or again.not_before


@having(st.dictionaries(st.sampled_from(sorted(flat.NAMES | {"loras.0.name", "controls.9.image.from"})), st.text(max_size=40)))
def test_no_text_in_a_field_is_more_than_a_mistake(given: dict[str, str]) -> None:
    try:
        job = from_fields(flat.fields(flat.compact(flat.shown(given))))
    except JobError:
        return
    assert flat.fields(flat.compact(flat.given(job)))["prompt"] == job.prompt


# -- a job to begin from ---------------------------------------------------------------------------------------------------


def test_the_same_again_has_everything_but_whose_and_when(client: FlaskClient, spool: Spool) -> None:
    fields = {
        "prompt": "a ring",
        "owner": "ann",
        "priority": 7,
        "loras": [{"name": "ink"}],
        "hires": {"scale": 3.0},
        "count": 2,
    }
    finish(spool, "ring", fields)
    page = filled(seen(client, "/?from=ring&as=same"))
    assert page["seed"] == "4" and page["hires.scale"] == "3" and page["loras.0.name"] == "ink" and page["count"] == "2"
    assert not page.keys() & {"owner", "priority"}
    assert filled(seen(client, "/?from=ring&image=1&as=same"))["count"] == "2"


def test_again_with_the_seed_of_one_picture(client: FlaskClient, spool: Spool) -> None:
    finish(spool, "ring", {"prompt": "a ring", "count": 3, "variation_seed": 7, "variation_strength": 0.5})
    page = filled(seen(client, "/?from=ring&image=2&as=seed"))
    assert (page["seed"], page.get("count"), page["variation_seed"]) == ("6", "1", "9")


def test_one_picture_of_a_sweep_is_its_own_job(client: FlaskClient, spool: Spool) -> None:
    finish(spool, "swept", {"prompt": "a ring", "sweep": {"guidance_scale": [2, 5]}})
    assert filled(seen(client, "/?from=swept"))["sweep"] == "guidance_scale: 2, 5"
    page = filled(seen(client, "/?from=swept&image=1&as=same"))
    assert page["guidance_scale"] == "5" and "sweep" not in page


def test_a_variation_has_the_picture_s_seed_and_another_beside_it(client: FlaskClient, spool: Spool) -> None:
    finish(spool, "ring", {"prompt": "a ring", "count": 2})
    page = seen(client, "/?from=ring&image=1&as=vary")
    job, _ = submitted(spool, client.post("/", data=page.values))
    assert job.seed == 5 and job.count == 1 and job.variation_strength == 0.25 and job.variation_seed != 0


@pytest.mark.parametrize("way", ["img2img", "inpaint", "upscale"])
def test_a_picture_to_begin_with_is_taken_from_the_spool(client: FlaskClient, spool: Spool, way: str) -> None:
    finish(spool, "ring", {"prompt": "a ring", "hires": {"scale": 2.0}, "loras": [{"name": "ink"}]})
    page = seen(client, f"/?from=ring&image=0&as={way}")
    assert page.values["kind"] == way and page.values["image.from"] == "ring:0" and "/source/ring:0" in page.pictures
    assert client.get("/source/ring:0").data == png(color="blue")
    mask = {"mask": upload(png(color="white"))} if way == "inpaint" else {}
    job, path = submitted(spool, client.post("/", data=page.values | mask))
    assert job.kind == way and (path / "inputs" / "image.png").read_bytes() == png(color="blue")
    assert job.hires is None and job.seed == -1 and (way == "upscale" or (job.prompt == "a ring" and job.loras))


def test_a_job_that_began_with_pictures_brings_them_along(client: FlaskClient, spool: Spool) -> None:
    fields = {
        "prompt": "x",
        "image": "a.png",
        "mask": "m.png",
        "controls": [{"model": "canny", "image": "c.png"}],
        "strength": 0.3,
    }
    inputs = {"a.png": png(color="green"), "m.png": png(color="white"), "c.png": png(color="black")}
    spool.submit(json.dumps(fields).encode(), "waits", inputs)
    finish(spool, "done", fields, inputs)
    for name in ("waits", "done"):
        page = seen(client, f"/?from={name}")
        assert [f"/source/{name}:{what}" for what in ("image", "mask", "controls.0")] == page.pictures[:3]
        job, path = submitted(spool, client.post("/", data=page.values))
        assert job.kind == "inpaint" and job.strength == 0.3
        assert (path / "inputs" / job.controls[0].image).read_bytes() == inputs["c.png"]
        assert (path / "inputs" / str(job.image)).read_bytes() == inputs["a.png"]


@pytest.mark.parametrize(
    "path",
    [
        "/?from=none",
        "/?from=ring&image=9&as=img2img",
        "/?from=ring&as=img2img",
        "/source/ring:1",
        "/source/ring:image",
        "/source/ring",
        "/source/..%2f..%2fetc:0",
        "/source/ring:job.json",
        "/source/ring:controls.0",
    ],
)
def test_what_is_not_there_is_not_found(client: FlaskClient, spool: Spool, path: str) -> None:
    finish(spool, "ring", {"prompt": "a ring"})
    assert client.get(path).status_code == 404


def test_a_link_instead_of_a_picture_is_not_followed(client: FlaskClient, spool: Spool, tmp_path: Path) -> None:
    finish(spool, "ring", {"prompt": "a ring"})
    (tmp_path / "secret.png").write_bytes(png())
    (spool.root / "done" / "ring" / "0.png").unlink()
    (spool.root / "done" / "ring" / "0.png").symlink_to(tmp_path / "secret.png")
    assert client.get("/source/ring:0").status_code == 404


# -- defaults of the model's family ----------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_chosen_model_without_a_script(client: FlaskClient) -> None:
    page = client.get("/?model=big").get_data(as_text=True)
    for name, value in (("width", "1024"), ("height", "768"), ("steps", "30"), ("guidance_scale", "5.5")):
        assert re.search(rf'name="{name}"[^>]*placeholder="{value}"', page), name
    assert 'data-width="888" data-height="888"' in page, "its own area as a square, in steps of 8 pixels"
    assert 'placeholder="20"' in client.get("/").get_data(as_text=True)


# -- styles ----------------------------------------------------------------------------------------------------------------


def test_styles_are_kept_in_the_spool_and_laid_over_prompts(client: FlaskClient, spool: Spool) -> None:
    save = {"prompt": "oil painting of {prompt}", "negative_prompt": "photo"}
    assert client.put("/api/v1/styles/Öl", json=save).status_code == 200
    assert client.put("/api/v1/styles/bright", json={"prompt": "bright"}).status_code == 200
    again = create_app(Settings(spool=spool.root, cache=spool.root.parent / "other")).test_client()
    assert [style["name"] for style in again.get("/api/v1/styles").json["styles"]] == ["bright", "Öl"]
    answer = again.post("/", data={"form": "1", "prompt": "a ring,", "negative_prompt": "blur", "style": ["bright", "Öl"]})
    job, _ = submitted(spool, answer)
    assert job.prompt == "oil painting of a ring, bright" and job.negative_prompt == "blur, photo"
    assert client.delete("/api/v1/styles/bright").status_code == 204
    assert client.delete("/api/v1/styles/bright").status_code == 404


def test_styles_without_a_script(client: FlaskClient, spool: Spool) -> None:
    form = {"form": "1", "prompt": "ink on paper", "owner": "ann", "do": "save-style", "style-name": "ink"}
    page = client.post("/", data=form).get_data(as_text=True)
    assert 'name="style" value="ink"' in page and Fields(page).values["owner"] == "ann"
    assert not list(spool.pending.glob("*.json"))
    wrong = client.post("/", data=form | {"style-name": " "})
    assert wrong.status_code == 422 and "`name`" in wrong.get_data(as_text=True)
    page = client.post("/", data={"form": "1", "prompt": "x", "do": "remove-style", "style": "ink"}).get_data(as_text=True)
    assert 'name="style"' not in page


@pytest.mark.parametrize("name", ["../../x", "a/b", "\x00", "x" * 200, ".", "con.json", "{{7*7}}", "<script>alert(1)"])
def test_a_style_s_name_is_no_path(client: FlaskClient, spool: Spool, name: str) -> None:
    page = client.post("/", data={"prompt": "x", "do": "save-style", "style-name": name}).get_data(as_text=True)
    assert "<script>alert" not in page and 'value="49"' not in page
    kept = list((spool.root / "styles").glob("*")) if (spool.root / "styles").exists() else []
    assert all(each.suffix == ".json" and each.parent == spool.root / "styles" for each in kept)
    assert len(kept) == (name not in ("\x00", "x" * 200))


def test_a_file_that_is_no_style_is_not_shown(client: FlaskClient, spool: Spool) -> None:
    (spool.root / "styles").mkdir()
    for number, raw in enumerate((b"{", b"[]", b'{"name": 3}', b'{"name": "ok", "prompt": "x"}', b"\xff")):
        (spool.root / "styles" / f"{number}.json").write_bytes(raw)
    (spool.root / "styles" / "link.json").symlink_to("/etc/passwd")
    assert [style["name"] for style in client.get("/api/v1/styles").json["styles"]] == ["ok"]


# -- tokens ----------------------------------------------------------------------------------------------------------------


def test_tokens_are_counted_by_the_model_s_vocabulary(client: FlaskClient) -> None:
    count = {"prompt": "a large red circle on a blue background", "negative_prompt": "ugly " * 80}
    told = client.post("/api/v1/tokens", json=count | {"model": "big"}).json
    assert told == {"prompt": {"tokens": 8, "room": 75}, "negative_prompt": {"tokens": 80, "room": 150}}
    assert client.post("/api/v1/tokens", json=count).json["negative_prompt"]["tokens"] > 80, "the demo model spells it"
    assert client.post("/api/v1/tokens", json={"model": "flux"}).json == {"prompt": None, "negative_prompt": None}
    assert client.post("/api/v1/tokens", json={"prompt": "<lora:"}).json["prompt"] is None
    assert client.post("/api/v1/tokens", json={"prompt": 3}).status_code == 400
    assert "8/75" in client.get("/?prompt=a+large+red+circle+on+a+blue+background").get_data(as_text=True)


# -- the page --------------------------------------------------------------------------------------------------------------


def test_the_first_load_is_light(client: FlaskClient) -> None:
    """HTML, styles and scripts of the form, whatever they import, as they go over the line to a browser."""
    todo, seen_paths, weight = ["/"], set(), 0
    while todo:
        path = todo.pop()
        if path in seen_paths:
            continue
        seen_paths.add(path)
        with client.get(path, headers={"Accept-Encoding": "gzip, br"}) as answer:
            assert answer.status_code == 200, path
            packed = answer.headers.get("Content-Encoding") == "gzip"
            text = (gzip.decompress(answer.data) if packed else answer.data).decode()
            weight += len(answer.data)
        todo += re.findall(r'<(?:script src|link rel="(?:stylesheet|icon)" href)="([^"]+)"', text)
        todo += [f"/static/{name}" for name in re.findall(r"^import .*?'\./([\w-]+\.js)';", text, re.MULTILINE)]
    assert len(seen_paths) > 5 and weight < LIGHT_BYTES, f"{weight} bytes"


def test_a_static_text_is_packed_once_and_still_not_sent_twice(client: FlaskClient) -> None:
    with client.get("/static/form.css", headers={"Accept-Encoding": "gzip"}) as first, client.get("/static/form.css") as plain:
        assert gzip.decompress(first.data) == plain.data and first.headers["Vary"] == "Accept-Encoding"
        assert plain.headers.get("Content-Encoding") is None
        etag = first.headers["ETag"]
    headers = {"Accept-Encoding": "gzip", "If-None-Match": etag}
    with client.get("/static/form.css", headers=headers) as again:
        assert again.status_code == 304 and not again.data


def test_the_form_has_no_script_of_its_own_in_the_page(client: FlaskClient) -> None:
    assert not re.search(r"<script(?! src)|style=|onclick=", client.get("/?prompt=x&kind=inpaint").get_data(as_text=True))


def test_every_field_has_a_label(client: FlaskClient) -> None:
    page = client.get("/?controls.0.model=canny&refiner.model=big").get_data(as_text=True)
    ids = re.findall(r'<(?:input|select|textarea) id="([^"]+)"', page)
    assert len(ids) > 30 and len(set(ids)) == len(ids)
    assert [each for each in ids if f'for="{each}"' not in page] == []
