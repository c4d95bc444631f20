"""The form as a browser would send it: what the tests of it share."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from house import offer
from PIL import Image as Pillow
from werkzeug.test import TestResponse

from spooler.catalogue import Catalogue, ModelCard
from spooler.job import Job
from spooler.record import EngineFacts, Image, Record, Timings, utc_now
from spooler.spool import Spool

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
