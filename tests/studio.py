"""A shelf of models of every family, and a desk in front of the real spooler and its engine that draw with them."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ldm
import numpy as np
import pytest
import tiny
import torch
from flask.testing import FlaskClient
from house import Spooler, picture, spooler, wait_for
from PIL import Image
from safetensors.torch import save_file

from spooler import families
from spooler.record import Record
from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import create_app

FAMILIES = tuple(family.name for family in families.FAMILIES)
#: All but the one that goes on from another's latents.
DRAWING = tuple(name for name in FAMILIES if name != "sdxl-refiner")
UNETS = ("sd1", "sd2", "sdxl")
SIDE = 64
BASE = {
    "prompt": "a red circle on a blue background",
    "seed": 5,
    "steps": 4,
    "guidance_scale": 4,
    "width": SIDE,
    "height": SIDE,
}
INPUT_SIZE = (96, 64)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def patches(seed: int) -> Image.Image:
    """Patches of strong colours, 96x64 pixels."""
    colours = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(INPUT_SIZE, Image.Resampling.NEAREST)


def mask() -> Image.Image:
    """White in the right half."""
    made = Image.new("L", INPUT_SIZE, 0)
    made.paste(255, (INPUT_SIZE[0] // 2, 0, *INPUT_SIZE))
    return made


INPUTS = {"in.png": _png(patches(1)), "other.png": _png(patches(2)), "mask.png": _png(mask())}


@dataclass(frozen=True)
class Drawn:
    """A job that is done: its record, its pictures as (height, width, 3) of 0..255, its folder."""

    record: Record
    images: list[np.ndarray[Any, Any]]
    folder: Path

    @property
    def image(self) -> np.ndarray[Any, Any]:
        assert len(self.images) == 1
        return self.images[0]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.image.shape[1], self.image.shape[0]


@dataclass
class Desk:
    """A running spooler, and the web app in front of the same spool."""

    running: Spooler
    client: FlaskClient
    plain: dict[str, Drawn] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def spool(self) -> Spool:
        return self.running.spool

    def drop(self, job: dict[str, Any]) -> str:
        """Put a folder with the job and its pictures into pending/; the job's id."""
        job_id = f"job-{next(self.numbers)}"
        draft = self.spool.tmp / f"drop-{job_id}"
        draft.mkdir()
        (draft / "job.json").write_text(json.dumps(job))
        for name in _named(job):
            (draft / name).write_bytes(INPUTS[name])
        draft.rename(self.spool.pending / job_id)
        return job_id

    def draw(self, **job: Any) -> Drawn:
        """Drop the job and wait for its pictures; it must be drawn."""
        return self.drawn(self.drop(job))

    def drawn(self, job_id: str) -> Drawn:
        """Wait for the pictures of a dropped job; it must be drawn."""
        rejected = self.spool.rejected_folder / f"{job_id}.reason.txt"

        def ended() -> Any:
            place = self.spool.find(job_id)
            return rejected.exists() or (place and place.state in ("done", "failed", "cancelled") and place)

        place = wait_for(ended, f"the job {job_id} to end")
        assert place is not True, rejected.read_text()
        record = self.spool.read_record(place)
        assert record
        assert place.state == "done", f"{record.failure}\n{self.running.log[-4000:]}"
        return Drawn(record, [np.asarray(picture(place.path / image.file)) for image in record.images], place.path)

    def refused(self, **job: Any) -> str:
        """Drop the job and wait for the reason why it is set aside."""
        job_id = self.drop(job)
        reason = self.spool.rejected_folder / f"{job_id}.reason.txt"

        def ended() -> bool:
            place = self.spool.find(job_id)
            assert not (place and place.state in ("claimed", "done", "failed")), "the engine got it"
            return reason.exists() and (self.spool.rejected_folder / job_id / "job.json").exists()

        wait_for(ended, f"the job {job_id} to be set aside")
        return reason.read_text()

    def posted(self, **job: Any) -> Any:
        """The web app's answer to the job."""
        if not (names := _named(job)):
            return self.client.post("/api/v1/jobs", json=job)
        parts: dict[str, Any] = {name: (io.BytesIO(INPUTS[name]), name) for name in names}
        return self.client.post("/api/v1/jobs", data=parts | {"job": json.dumps(job)}, content_type="multipart/form-data")

    def plainly(self, family: str) -> np.ndarray[Any, Any]:
        """What the family draws of the base job; drawn once."""
        if family not in self.plain:
            self.plain[family] = self.draw(**BASE, model=family)
        return self.plain[family].image


def _named(job: dict[str, Any]) -> list[str]:
    return sorted({name for name in INPUTS if f'"{name}"' in json.dumps(job)})


def apart(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> int:
    """The largest difference of a pixel's colour, of 255."""
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: a tiny one of each family, named like it, what fits each, a single file, and a pickle."""
    folder = tmp_path_factory.mktemp("shelf") / "models"
    for kind in ("loras", "embeddings", "vaes", "controlnets"):
        (folder / kind).mkdir(parents=True)
    for family in families.FAMILIES:
        torch.manual_seed(0)
        pipe = tiny.FAMILIES[family.name]()
        if family.name == "qwen-image":  # by chance it says so little that eight bits of colour hardly show it
            torch.nn.init.normal_(pipe.transformer.proj_out.weight, std=5)
        pipe.save_pretrained(folder / family.name, safe_serialization=True)
        if "loras" in family.kinds:
            tiny.lora(pipe, folder / "loras" / f"{family.name}-lora.safetensors")
        if "controls" in family.kinds:
            tiny.controlnet(pipe, folder / "controlnets" / f"{family.name}-control")
        if family.name == "sdxl":
            vectors = [
                encoder.get_input_embeddings().weight.detach()[tokenizer("red", add_special_tokens=False).input_ids].clone()
                for tokenizer, encoder in ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2))
            ]
            save_file(dict(zip(("clip_l", "clip_g"), vectors, strict=True)), folder / "embeddings" / "sdxl-word.safetensors")
        elif "embeddings" in family.kinds:
            tiny.embedding(pipe, folder / "embeddings" / f"{family.name}-word.safetensors", f"{family.name}-word", "red")
        if family.name == "sd1":
            save_file(ldm.to_ldm(pipe), folder / "single.safetensors")
            pipe.save_pretrained(folder / "single.config")
            for weights in (folder / "single.config").glob("*/*.safetensors"):
                weights.unlink()
    torch.manual_seed(7)
    tiny._vae().save_pretrained(folder / "vaes" / "other", safe_serialization=True)
    (folder / "x.ckpt").write_bytes(b"\x80\x04.")
    return folder


def options(shelf: Path, cache: Path) -> tuple[str, ...]:
    named = {"models": shelf, "model": "sd1", "device": "cpu", "cache": cache, "preview-s": 0.0001, "rescan-s": 0.02}
    return tuple(text for name, value in named.items() for text in (f"--{name}", str(value)))


def open_spool(folder: Path) -> Spool:
    made = Spool(folder / "spool")
    made.create()
    return made


@pytest.fixture(scope="module")
def desk(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    with spooler(open_spool(folder), *options(shelf, folder / "cache")) as running:
        yield Desk(
            running, create_app(Settings(spool=running.spool.root, cache=running.spool.root.parent / "cache")).test_client()
        )


def asked(kind: str, family: str) -> dict[str, Any]:
    """The fields that make a job one of that kind. What a family has no add-on of its own for, it is given sd1's."""
    own = family if family in UNETS else "sd1"
    lora = family if family in DRAWING and family != "pixart" else "sd1"
    fields: dict[str, dict[str, Any]] = {
        "img2img": {"image": "in.png", "strength": 0.6},
        "inpaint": {"image": "in.png", "mask": "mask.png", "strength": 0.9},
        "hires": {"hires": {"scale": 2.0}},
        "refiner": {"refiner": {"model": "sdxl-refiner", "switch_at": 0.5}, "steps": 8},
        "loras": {"loras": [{"name": f"{lora}-lora"}]},
        "embeddings": {"prompt": f"a {own}-word circle on a blue background"},
        "controls": {"controls": [{"model": f"{own}-control", "image": "other.png"}]},
        "vae": {"vae": "other"},
        "clip_skip": {"clip_skip": 2},
        "weights": {"prompt": "a (red:1.6) circle BREAK on a [blue] background"},
        "variation": {"variation_strength": 0.5, "variation_seed": 9},
        "sampler": {"sampler": "Euler a"},
        "negative_prompt": {"negative_prompt": "a small green ring"},
        "guidance_cutoff": {"guidance_cutoff": 0.25, "guidance_scale": 20},
        "deepcache": {"deepcache_interval": 3, "guidance_scale": 20},
        "preview": {"steps": 8},
        "upscale": {"upscale": {"scale": 2.0}},
        "sweep": {"steps": [2, 4], "guidance_scale": [4, 6]},
    }
    job = BASE | {"model": family} | fields.get(kind, {})
    return {name: value for name, value in job.items() if "image" not in job or name not in ("width", "height")}
