"""Every cell of the table of docs/engine.md: each kind of work with each family, through the real spooler and its engine."""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ldm
import numpy as np
import pytest
import tiny
import torch
from flask.testing import FlaskClient
from house import ROOT, Spooler, picture, spooler, wait_for, wait_state
from PIL import Image
from safetensors.torch import save_file

from spooler import families, samplers
from spooler.record import Record
from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import create_app

KINDS = ("txt2img", *families.KINDS, "upscale", "sweep")
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
#: The kinds that are asked for by no field of their own, so nothing is refused: a family that cannot do them draws without.
SILENT = ("embeddings", "weights", "preview")
#: The field that a refusal names, where it is not called like the kind.
FIELDS = {"img2img": "image", "inpaint": "mask", "variation": "variation_strength"}
INPUT_SIZE = (96, 64)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def _input(seed: int) -> Image.Image:
    """Patches of strong colours, 96x64 pixels."""
    colours = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(INPUT_SIZE, Image.Resampling.NEAREST)


def _mask() -> Image.Image:
    """White in the right half."""
    mask = Image.new("L", INPUT_SIZE, 0)
    mask.paste(255, (INPUT_SIZE[0] // 2, 0, *INPUT_SIZE))
    return mask


INPUTS = {"in.png": _png(_input(1)), "other.png": _png(_input(2)), "mask.png": _png(_mask())}


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


# -- what each kind promises -----------------------------------------------------------------------------------------------


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
        "preview": {"steps": 8},
        "upscale": {"upscale": {"scale": 2.0}},
        "sweep": {"steps": [2, 4], "guidance_scale": [4, 6]},
    }
    job = BASE | {"model": family} | fields.get(kind, {})
    return {name: value for name, value in job.items() if "image" not in job or name not in ("width", "height")}


def txt2img(desk: Desk, family: str) -> None:
    plain = desk.plainly(family)
    assert plain.shape == (SIDE, SIDE, 3) and plain.std() > 1
    engine = desk.plain[family].record.engine
    assert engine and (engine.model, engine.family, engine.device) == (family, family, "cpu")
    assert apart(desk.draw(**BASE, model=family).image, plain) == 0
    for other in ({"seed": 6}, {"prompt": "a small green ring"}, {"steps": 6}, {"guidance_scale": 9}):
        assert apart(desk.draw(**BASE | {"model": family} | other).image, plain) > 1, other
    assert desk.draw(**BASE | {"model": family, "width": 128}).size == (128, SIDE)


def img2img(desk: Desk, family: str) -> None:
    job = asked("img2img", family) | {"steps": 10}
    mean = {}
    for strength in (0.05, 0.95):
        one, other = (desk.draw(**job | {"strength": strength, "image": name}) for name in ("in.png", "other.png"))
        assert one.size == other.size == INPUT_SIZE
        mean[strength] = np.abs(one.image.astype(int) - other.image.astype(int)).mean()
    assert mean[0.05] > mean[0.95], "the less may change, the more two pictures stay two"
    assert np.array_equal(desk.draw(**job | {"strength": 0}).image, np.asarray(_input(1)))
    assert desk.draw(**job | {"strength": 0.001}).size == INPUT_SIZE, "less than a step is a step"


def inpaint(desk: Desk, family: str) -> None:
    source, white = np.asarray(_input(1)), np.asarray(_mask()) == 255
    for area in ("whole", "masked"):
        drawn = desk.draw(**asked("inpaint", family) | {"inpaint_area": area})
        assert drawn.size == INPUT_SIZE
        assert np.array_equal(drawn.image[~white], source[~white])
        assert apart(drawn.image[white], source[white]) > 20
    assert np.array_equal(desk.draw(**asked("inpaint", family) | {"strength": 0}).image, source)


def hires(desk: Desk, family: str) -> None:
    enlarged = np.asarray(Image.fromarray(desk.plainly(family)).resize((2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS))
    for upscaler in ("Lanczos", *(["Latent"] if family in UNETS else [])):
        drawn = desk.draw(**asked("hires", family) | {"hires": {"scale": 2.0, "upscaler": upscaler}})
        assert drawn.size == (2 * SIDE, 2 * SIDE)
        assert apart(drawn.image, enlarged) > 1


def refiner(desk: Desk, family: str) -> None:
    job = asked("refiner", family)
    drawn = desk.draw(**job)
    parameters, engine = drawn.record.parameters, drawn.record.engine
    assert parameters and parameters.refiner and parameters.refiner.model == "sdxl-refiner"
    assert engine and engine.model == family and drawn.size == (SIDE, SIDE)
    assert apart(drawn.image, desk.draw(**BASE | {"model": family, "steps": 8}).image) > 1
    assert apart(drawn.image, desk.draw(**job | {"refiner": {"model": "sdxl-refiner", "switch_at": 0.9}}).image) > 1


def loras(desk: Desk, family: str) -> None:
    plain = desk.plainly(family)
    with_it = desk.draw(**asked("loras", family)).image
    assert apart(with_it, plain) > 1
    tag = f"<lora:{family}-lora>"
    for written in ({"prompt": f"{BASE['prompt']} {tag}"}, {"negative_prompt": tag}):
        if "negative_prompt" in families.get(family).kinds or "prompt" in written:
            assert apart(desk.draw(**BASE | {"model": family} | written).image, with_it) <= 1, written
    assert apart(desk.draw(**BASE, model=family).image, plain) <= 1, "it was taken off again"


def embeddings(desk: Desk, family: str) -> None:
    assert apart(desk.draw(**asked("embeddings", family)).image, desk.plainly(family)) <= 1, "it means the word red"
    other = {"prompt": "a sd1-words circle on a blue background"}
    assert apart(desk.draw(**BASE | {"model": family} | other).image, desk.plainly(family)) > 1


def controls(desk: Desk, family: str) -> None:
    job = asked("controls", family)
    assert apart(desk.draw(**job).image, desk.plainly(family)) > 1
    [control] = job["controls"]
    assert apart(desk.draw(**job | {"controls": [control | {"weight": 0}]}).image, desk.plainly(family)) <= 1
    two = [control, control | {"image": "in.png", "end": 0.5}]
    assert apart(desk.draw(**job | {"controls": two}).image, desk.draw(**job).image) > 1
    for kind in ("img2img", "inpaint"):
        without = asked(kind, family)
        assert apart(desk.draw(**without, controls=[control]).image, desk.draw(**without).image) > 1


def variation(desk: Desk, family: str) -> None:
    assert apart(desk.draw(**asked("variation", family)).image, desk.plainly(family)) > 1
    whole = desk.draw(**asked("variation", family) | {"variation_strength": 1.0}).image
    assert apart(whole, desk.draw(**BASE | {"model": family, "seed": 9}).image) <= 1


def weights(desk: Desk, family: str) -> None:
    far = "and a small ring " * 25  # more than the 75 tokens of a text encoder
    for one, other in (
        ("a (red:3) circle on a blue background", "a (red:0.1) circle on a blue background"),
        ("a red circle BREAK on a blue background", "a red circle on a blue background"),
        (far + "red red red red", far + "circle circle circle circle"),
    ):
        job = asked("weights", family) | {"guidance_scale": 30}
        pair = [desk.draw(**job | {"prompt": prompt}).image for prompt in (one, other)]
        assert apart(*pair) > 1, (one, other)
    assert apart(desk.draw(**asked("weights", family)).image, desk.plainly(family)) > 1


def sampler(desk: Desk, family: str) -> None:
    drawn = desk.draw(**asked("sampler", family) | {"sampler": list(samplers.SAMPLER_NAMES)})
    assert len(drawn.images) == len(samplers.SAMPLER_NAMES)
    assert len({image.tobytes() for image in drawn.images}) > len(samplers.SAMPLER_NAMES) // 2
    assert apart(desk.draw(**asked("sampler", family)).image, desk.plainly(family)) > 1
    assert apart(desk.draw(**BASE, model=family, scheduler="Karras").image, desk.plainly(family)) > 1


def preview(desk: Desk, family: str) -> None:
    job_id = desk.drop(asked("preview", family) | {"steps": 150})

    def seen() -> bytes | None:
        place = desk.spool.find(job_id)
        assert place and place.state in ("pending", "claimed"), "it is over, and no preview was seen"
        path = place.path / "preview.jpg"
        return path.read_bytes() if path.exists() else None

    with Image.open(io.BytesIO(wait_for(seen, "the preview"))) as image:
        assert (image.format, image.size) == ("JPEG", (SIDE, SIDE))
    assert desk.spool.cancel(job_id)
    assert not (wait_state(desk.spool, job_id, "cancelled").path / "preview.jpg").exists()


def upscale(desk: Desk, family: str) -> None:
    wanted = Image.fromarray(desk.plainly(family)).resize((2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS)
    assert np.array_equal(desk.draw(**asked("upscale", family)).image, np.asarray(wanted))
    alone = desk.draw(model=family, image="in.png", upscale={"scale": 1.5})
    assert np.array_equal(alone.image, np.asarray(_input(1).resize((144, 96), Image.Resampling.LANCZOS)))


def sweep(desk: Desk, family: str) -> None:
    drawn = desk.draw(**asked("sweep", family))
    cells = {image.cell: pixels for image, pixels in zip(drawn.record.images, drawn.images, strict=True)}
    assert set(cells) == {(0, 0), (1, 0), (0, 1), (1, 1)}
    assert apart(cells[1, 0], desk.plainly(family)) <= 1, "the cell of the base job's own steps and guidance"
    assert all(apart(one, other) > 1 for one, other in itertools.combinations(cells.values(), 2))
    assert drawn.record.sheet == "sheet.png"
    sheet = picture(drawn.folder / "sheet.png")
    assert sheet.width > 2 * SIDE and sheet.height > 2 * SIDE


def guidance_cutoff(desk: Desk, family: str) -> None:
    """In every kind of work that a family can do. What is asked of the network is counted in tests/test_cutoff.py."""
    job = asked("guidance_cutoff", family)
    drawn, whole = desk.draw(**job), desk.draw(**job | {"guidance_cutoff": 1.0})
    assert apart(drawn.image, whole.image) > 1
    parameters = drawn.record.parameters
    assert parameters and parameters.guidance_cutoff == 0.25
    with Image.open(drawn.folder / "0.png") as image:
        assert "Guidance cutoff: 0.25" in image.info["parameters"]
    for kind in {"img2img", "inpaint", "hires", "controls", "refiner"} & families.get(family).kinds:
        controlled = {"controls": asked("controls", family)["controls"]} if family in UNETS and kind == "inpaint" else None
        for extra in ({}, controlled) if controlled else ({},):
            job = asked(kind, family) | extra | {"steps": 8, "guidance_scale": 20}
            one, other = (desk.draw(**job | {"guidance_cutoff": part}).image for part in (1.0, 0.2))
            assert one.shape == other.shape and apart(one, other) > 1, (kind, extra)


def differs(kind: str) -> Callable[[Desk, str], None]:
    """The check of a kind that promises no more than another picture."""

    def check(desk: Desk, family: str) -> None:
        drawn = desk.draw(**asked(kind, family))
        assert drawn.size == (SIDE, SIDE)
        assert apart(drawn.image, desk.plainly(family)) > 1

    return check


CHECKS: dict[str, Callable[[Desk, str], None]] = {
    "txt2img": txt2img,
    "img2img": img2img,
    "inpaint": inpaint,
    "hires": hires,
    "refiner": refiner,
    "loras": loras,
    "embeddings": embeddings,
    "controls": controls,
    "vae": differs("vae"),
    "clip_skip": differs("clip_skip"),
    "weights": weights,
    "variation": variation,
    "sampler": sampler,
    "negative_prompt": differs("negative_prompt"),
    "guidance_cutoff": guidance_cutoff,
    "preview": preview,
    "upscale": upscale,
    "sweep": sweep,
}


def is_refused(desk: Desk, kind: str, family: str) -> None:
    """A job of a kind that the family cannot do is set aside and answered with 400, and both times the reason is told."""
    job = asked(kind, family)
    title = families.get(family).title
    named, parts = FIELDS.get(kind, kind), [f"'{family}'", title]
    if family == "sdxl-refiner":
        named, parts = "model", [f"'{family}'", "refiner"]
    reason = desk.refused(**job)
    assert all(part in reason for part in (f"`{named}`", *parts)), reason
    answer = desk.posted(**job)
    assert answer.status_code == 400, answer.json
    assert answer.json["error"]["code"] == "invalid_job" and answer.json["error"]["fields"][named][0] in reason


@pytest.mark.parametrize(("family", "kind"), list(itertools.product(FAMILIES, KINDS)), ids=lambda name: name)
def test_a_cell(desk: Desk, family: str, kind: str) -> None:
    able = kind in families.get(family).kinds or kind not in families.KINDS
    if family == "sdxl-refiner" or not (able or kind in SILENT):
        is_refused(desk, kind, family)
    elif able:
        CHECKS[kind](desk, family)
    else:
        assert desk.draw(**asked(kind, family)).size == (SIDE, SIDE), "it is drawn, without what the family does not have"


def test_the_table_of_the_checks_is_whole() -> None:
    assert tuple(CHECKS) == KINDS


# -- beyond one cell -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", DRAWING)
def test_p8_count_equals_single_seeds(desk: Desk, family: str) -> None:
    together = desk.draw(**BASE | {"model": family, "seed": 11, "count": 3})
    assert [image.seed for image in together.record.images] == [11, 12, 13]
    for seed, image in zip((11, 12, 13), together.images, strict=True):
        assert apart(image, desk.draw(**BASE | {"model": family, "seed": seed}).image) <= 1
    assert apart(together.images[0], together.images[1]) > 1


def test_models_are_switched_and_counted(desk: Desk, shelf: Path, tmp_path: Path) -> None:
    dressed = {
        "loras": [{"name": "sd1-lora"}],
        "prompt": "a sd1-word circle on a blue background",
        "vae": "other",
        "controls": [{"model": "sd1-control", "image": "other.png"}],
    }
    jobs = [{"model": "sd1"} | dressed, {"model": "flux", "loras": [{"name": "flux-lora"}]}, asked("refiner", "sdxl")] * 2

    # 1. Room for one: the last one goes whenever another comes, whatever was laid over it.
    with spooler(open_spool(tmp_path), *options(shelf, tmp_path / "cache"), "--keep-gib", "0.00001") as running:
        narrow = Desk(running, desk.client)
        drawn = [narrow.draw(**BASE | job) for job in jobs]
        log = running.log
    swaps = [one.record.engine.swaps for one in drawn if one.record.engine]
    assert swaps[0] == 0 and all(before < after for before, after in itertools.pairwise(swaps)), swaps
    assert log.count(": loaded, ") == swaps[-1] + 1
    assert log.count("dropped, all its memory came back") == swaps[-1] and "still held" not in log

    # 2. Room for all: each is loaded once, and draws the same.
    for job, one in zip(jobs, drawn, strict=True):
        assert apart(desk.draw(**BASE | job).image, one.image) <= 1
    names = [line.split()[3] for line in desk.running.log.splitlines() if ": loaded, " in line]
    assert {"sd1:", "flux:", "sdxl:", "sdxl-refiner:"} <= set(names) and len(names) == len(set(names))
    assert "dropped" not in desk.running.log


def test_p9_a_pickle_in_models_is_refused_with_the_reason(desk: Desk, shelf: Path, tmp_path: Path) -> None:
    reason = "x.ckpt is a pickle, which runs whatever code is in it: only safetensors files are loaded."
    assert f"not taken: {reason}" in desk.running.log
    command = [sys.executable, "-m", "spooler.cli", "doctor", "--json", "--spool", str(tmp_path / "spool")]
    told = subprocess.run(
        [*command, *options(shelf, tmp_path / "cache")], capture_output=True, text=True, cwd=ROOT, check=False
    )
    findings = json.loads(told.stdout)
    assert [each["text"] for each in findings if each["subject"] == "not taken"] == [reason]
    assert {f"model {name}" for name in (*FAMILIES, "single")} <= {each["subject"] for each in findings}
    assert "must be one of" in desk.refused(**BASE, model="x")


def test_a_single_file_draws_what_its_folder_draws(desk: Desk) -> None:
    status = desk.running.status()
    card = status.catalogue.card("single") if status else None
    assert card and card.family == "sd1"
    drawn = desk.draw(**BASE, model="single")
    assert drawn.record.engine and drawn.record.engine.family == "sd1"
    assert apart(drawn.image, desk.plainly("sd1")) <= 1
