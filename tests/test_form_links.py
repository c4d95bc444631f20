"""Links to the form, and a job that it begins from: what it then has in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from flask.testing import FlaskClient
from formpage import filled, finish, png, seen, spool, submitted, upload
from hypothesis import given as having
from hypothesis import strategies as st

from spooler.job import decode, from_fields
from spooler.mistakes import JobError
from spooler.record import Record
from spooler.spool import Spool
from webui import flat

__all__ = ["spool"]

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


@pytest.mark.parametrize("cell", [(7,), (0, 0), ()])
def test_a_record_whose_pictures_have_no_place_in_the_sweep_is_no_fault(
    client: FlaskClient, spool: Spool, cell: tuple[int, ...]
) -> None:
    finish(spool, "swept", {"prompt": "a ring", "sweep": {"guidance_scale": [2, 5]}})
    path = spool.root / "done" / "swept" / "record.json"
    record = Record.decode(path.read_bytes())
    images = [image.model_copy(update={"cell": cell}) for image in record.images]
    path.write_bytes(record.model_copy(update={"images": tuple(images)}).encode())
    assert filled(seen(client, "/?from=swept&image=1&as=same"))["sweep"] == "guidance_scale: 2, 5"
    assert client.get("/jobs/swept").status_code == 200


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
