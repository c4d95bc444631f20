"""What is found in the folder of models, what is refused, and what a job may ask of it: no torch needed."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from spooler import families
from spooler.catalogue import Catalogue, ModelCard, merged, resolve, resolve_all
from spooler.job import JobError, from_fields
from spooler.library import ModelError, scan


def safetensors(path: Path, **shapes: tuple[int, ...]) -> Path:
    """A safetensors file of half-precision zeros with those names and shapes; `__` in a name stands for a dot."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        header[name.replace("__", ".")] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(end))
    return path


def diffusers_folder(path: Path, pipeline: str = "StableDiffusionPipeline", **own: Any) -> Path:
    (path / "unet").mkdir(parents=True)
    (path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    (path / "unet" / "config.json").write_text(json.dumps({"sample_size": 64, "in_channels": 4}))
    safetensors(path / "unet" / "diffusion_pytorch_model.safetensors", a=(4, 4))
    if own:
        (path / "sdspool.json").write_text(json.dumps(own))
    return path


def mistakes(catalogue: Catalogue, **fields: Any) -> dict[str, str]:
    with pytest.raises(JobError) as caught:
        catalogue.check(from_fields({"prompt": "x"} | fields))
    return {mistake.field: mistake.message for mistake in caught.value.mistakes}


def test_the_folder_is_scanned_and_what_cannot_be_used_is_told(tmp_path: Path) -> None:
    diffusers_folder(tmp_path / "first", steps=30)
    diffusers_folder(tmp_path / "wrong", sampler="Nonsense")
    safetensors(tmp_path / "flat.safetensors", model__diffusion_model__x=(2, 2), cond_stage_model__transformer__y=(3,))
    (tmp_path / "flat.json").write_text('{"width": 640}')
    safetensors(tmp_path / "style.safetensors", lora_unet_x__lora_down__weight=(4, 8), lora_unet_x__lora_up__weight=(8, 4))
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x04.")
    (tmp_path / "page.safetensors").write_bytes(b"<!DOCTYPE html><html>not a model</html>")
    (tmp_path / "hub.json").write_text('{"far": "someone/far-model", "off": "far away"}')
    safetensors(tmp_path / "loras" / "ink.safetensors", x__attn2__to_k__lora_A__weight=(4, 768))
    (tmp_path / "loras" / "bad.pt").write_bytes(b"\x80")
    safetensors(tmp_path / "vaes" / "v.safetensors", x__attn2__to_k__lora_A__weight=(4, 768))
    for kind, name, said in (
        ("vaes", "soft", "AutoencoderTiny"),
        ("vaes", "odd", "Odd"),
        ("controlnets", "union", "ControlNetUnionModel"),
    ):
        safetensors(tmp_path / kind / name / "x.safetensors", x=(1,))
        (tmp_path / kind / name / "config.json").write_text(json.dumps({"_class_name": said}))
    diffusers_folder(tmp_path / "typing", stepps=3)
    diffusers_folder(tmp_path / "many", steps=900)
    library = scan(tmp_path, "first")
    assert list(library.models) == ["first", "flat"] and library.default == "first"
    assert library.models["first"].card.steps == 30 and library.models["flat"].card.width == 640
    assert library.models["flat"].card.family == "sd1"
    assert library.models["flat"].card.weight_bytes == 2 * (4 + 3)
    refused = "\n".join(library.refused)
    for part in (
        "old.ckpt is a pickle",
        "page.safetensors",
        "looks like a lora",
        '"Nonsense"',
        "bad.pt is a pickle",
        "hf download",
        "looks like: lora",
        '"far away"',
        'vaes/odd must be of the class AutoencoderKL or AutoencoderTiny, but its config.json says "Odd"',
        'controlnets/union must be of the class ControlNetModel, but its config.json says "ControlNetUnionModel"',
        "did you mean steps?",
        "less than or equal to 150, but is 900",
    ):
        assert part in refused, part
    catalogue = library.catalogue()
    assert catalogue.vaes == ("soft",) and catalogue.controlnets == ()
    assert catalogue.loras == ("ink",) and catalogue.made_for == {"loras/ink": 768} and catalogue.upscalers == ("Lanczos",)
    assert str(tmp_path) not in catalogue.model_dump_json(), "paths are nobody else's business"


def test_a_hub_model_is_found_in_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--someone--far-model"
    diffusers_folder(repository / "snapshots" / "abc123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "hub.json").write_text('{"far": "someone/far-model"}')
    library = scan(tmp_path / "models", "far")
    assert library.models["far"].path == repository / "snapshots" / "abc123" and library.refused == ()


def test_a_name_that_cannot_be_shown_is_refused_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--someone--far-model"
    diffusers_folder(repository / "snapshots" / "abc123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    folder = tmp_path / "models"
    diffusers_folder(folder / "first")
    (folder / "hub.json").write_text(
        r'{"far": "someone/far-model", "\ud800": "someone/far-model", "a\nb": "someone/far-model"}'
    )
    odd = os.fsdecode(b"caf\xe9")
    diffusers_folder(folder / odd)
    (folder / f"{odd}.ckpt").touch()
    lora = safetensors(tmp_path / "one.safetensors", x__attn2__to_k__lora_A__weight=(4, 768))
    (folder / "loras").mkdir()
    lora.rename(folder / "loras" / f"{odd}.safetensors")
    library = scan(folder, "first")
    assert list(library.models) == ["first", "far"] and library.add_ons["loras"] == {} == library.made_for
    assert sum("must have a name of printable characters in UTF-8" in reason for reason in library.refused) == 5
    for text in (*library.refused, library.catalogue().model_dump_json()):
        assert text.isprintable() and text.encode()
    with pytest.raises(ModelError, match="printable characters"):
        scan(tmp_path / "none", str(folder / odd))


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("/nowhere", "but '/nowhere' is none"),
        ("old.ckpt", "is a pickle"),
        ("empty", "has no readable model_index.json"),
    ],
)
def test_a_default_that_cannot_be_used_is_an_error(tmp_path: Path, model: str, part: str) -> None:
    (tmp_path / "old.ckpt").write_bytes(b"\x80")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=part):
        scan(tmp_path / "none", model if model.startswith("/") else str(tmp_path / model))


CATALOGUE = Catalogue(
    models=(
        ModelCard(name="one", family="sd1", width=512, height=512, clip_skip=2, text_width=768),
        ModelCard(name="two", family="sdxl", width=1024, height=1024, sampler="Euler a", text_width=2048),
        ModelCard(name="fine", family="sdxl-refiner", width=1024, height=1024),
        ModelCard(name="dit", family="flux", width=1024, height=1024),
        ModelCard(name="holes", family="sd1", width=512, height=512, inpainting=True),
        ModelCard(name="odd", family="LuminaPipeline", width=1024, height=1024),
    ),
    loras=("ink", "xl"),
    embeddings=("calm",),
    controlnets=("edges",),
    made_for={"loras/ink": 768, "loras/xl": 2048, "embeddings/calm": 768, "controlnets/edges": 768},
    default="one",
)


@pytest.mark.parametrize(
    ("fields", "field", "part"),
    [
        ({"model": "onne"}, "model", "did you mean one?"),
        ({"model": "fine"}, "model", "'fine' is a refiner"),
        ({"model": "holes"}, "mask", "a model for repainting"),
        ({"model": "two", "scheduler": "Karras"}, "scheduler", "with the model's sampler Euler a"),
        ({"model": "dit", "sampler": "Euler"}, "sampler", "of the family Flux.1"),
        ({"model": "dit", "scheduler": "Karras"}, "scheduler", "has its own"),
        ({"model": "dit", "negative_prompt": "y"}, "negative_prompt", "'dit'"),
        ({"model": "dit", "width": 72, "height": 64}, "width", "multiple of 16"),
        ({"model": "dit", "hires": {"upscaler": "Latent"}}, "hires.upscaler", "give Lanczos"),
        ({"model": "odd", "image": "a.png"}, "image", "any other text-to-image pipeline"),
        ({"clip_skip": 3}, "clip_skip", "at most 2"),
        ({"vae": "none"}, "vae", "it has none"),
        ({"loras": [{"name": "inc"}]}, "loras.name", "did you mean ink?"),
        ({"prompt": "x <lora:inc:1>"}, "prompt", "The LoRA in `prompt` must be one of ink, xl (did you mean ink?)"),
        ({"prompt": "x <lora:xl:1>"}, "loras", "'xl' was made for Stable Diffusion XL"),
        ({"model": "two", "prompt": "calm sea"}, "prompt", "'calm' was made for Stable Diffusion 1.x"),
        ({"model": "two", "controls": [{"model": "edges", "image": "a.png"}]}, "controls", "'edges' was made for"),
        ({"controls": [{"model": "edge", "image": "a.png"}]}, "controls.model", "did you mean edges?"),
        ({"refiner": {"model": "fine"}}, "refiner", "does not work with the model 'one'"),
        ({"model": "two", "refiner": {"model": "one"}}, "refiner.model", "must be an SDXL model"),
        ({"upscale": {"upscaler": "4x"}}, "upscale.upscaler", "must be one of Lanczos"),
        ({"width": 2048, "hires": {"scale": 3}}, "hires.scale", "at most 4096"),
        ({"model": ["one", "tow"]}, "model", "did you mean two?"),
        ({"steps": [5, 10], "model": ["one", "dit"], "sampler": "DDIM"}, "sampler", "'dit'"),
    ],
)
def test_what_cannot_work_is_refused_at_submission(fields: dict[str, Any], field: str, part: str) -> None:
    assert part in mistakes(CATALOGUE, **fields)[field]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model": "two", "refiner": {"model": "fine"}},
        {"prompt": "calm <lora:ink:0.5>", "clip_skip": 2},
        {"prompt": "becalmed", "model": "two"},
        {"model": "dit", "image": "a.png"},
        {"model": "holes", "image": "a.png", "mask": "m.png"},
        {"prompt": "", "image": "a.png", "upscale": {}, "model": "odd"},
    ],
)
def test_what_can_work_is_taken(fields: dict[str, Any]) -> None:
    CATALOGUE.check(from_fields({"prompt": "x"} | fields))


@pytest.mark.parametrize(
    ("fields", "model", "size", "fits"),
    [
        ({"image": "a.png", "upscale": {"scale": 4}, "prompt": ""}, "one", (2121, 2121), True),
        ({"image": "a.png", "upscale": {"scale": 4}, "prompt": ""}, "one", (2122, 2122), False),
        ({"image": "a.png", "upscale": {"scale": 8}}, "one", (1048, 1072), True),
        # Sides of multiples of 16: 1056 x 1072.
        ({"image": "a.png", "upscale": {"scale": 8}}, "dit", (1048, 1072), False),
        ({"image": "a.png", "upscale": {"scale": 8}, "width": 512, "height": 512}, "one", (4000, 4000), True),
        ({"image": ["small.png", "a.png"], "upscale": {"scale": 8}}, "one", (1600, 1600), False),
    ],
)
def test_what_becomes_of_a_picture_is_judged_by_its_size_and_the_model_s(
    fields: dict[str, Any], model: str, size: tuple[int, int], fits: bool
) -> None:
    job = from_fields({"prompt": "x", "model": model} | fields)
    CATALOGUE.check(job)
    CATALOGUE.check(job, {"small.png": (64, 64)})
    sizes = {"small.png": (64, 64), "a.png": size}
    if fits:
        CATALOGUE.check(job, sizes)
    else:
        with pytest.raises(JobError, match="at most 72 million pixels"):
            CATALOGUE.check(job, sizes)


def test_each_cell_of_a_sweep_over_pictures_takes_the_size_of_its_own() -> None:
    job = from_fields({"prompt": "x", "image": ["wide.png", "high.png"], "model": ["one", "dit"]})
    whole, cells = resolve_all(job, CATALOGUE, 7, {"wide.png": (640, 400), "high.png": (300, 5000)})
    assert (whole.width, whole.height, whole.seed) == (640, 400, 7)
    assert [(cell.image, cell.model, cell.width, cell.height, cell.seed) for cell in cells] == [
        ("wide.png", "one", 640, 400, 7),
        ("high.png", "one", 120, 2048, 7),
        ("wide.png", "dit", 640, 400, 7),
        ("high.png", "dit", 128, 2048, 7),
    ]


def test_every_field_is_filled_in_from_the_model_the_job_comes_to() -> None:
    job = resolve(from_fields({"prompt": "x"}), CATALOGUE.models[1], random_seed=7)
    assert (job.model, job.width, job.sampler, job.scheduler, job.seed) == ("two", 1024, "Euler a", "Automatic", 7)
    flux = resolve(from_fields({"prompt": "x"}), CATALOGUE.models[3], random_seed=7)
    assert (flux.sampler, flux.scheduler) == (None, "Automatic")
    start = resolve(from_fields({"prompt": "x", "image": "a.png"}), CATALOGUE.models[0], 7, input_size=(301, 5000))
    assert (start.width, start.height) == (120, 2048), "the picture's shape, within what can be drawn"


def test_several_spoolers_offer_together_what_each_has() -> None:
    other = Catalogue(models=(ModelCard(name="one", family="sdxl", width=8, height=8),), loras=("new",), default="one")
    both = merged([CATALOGUE, other])
    assert both.default == "one" and both.loras == ("ink", "xl", "new")
    assert next(card.family for card in both.models if card.name == "one") == "sd1", "the first's counts"


def test_every_family_of_the_table_is_known_by_its_pipeline() -> None:
    for family in families.FAMILIES:
        assert families.get(family.name) is family
        assert all(families.of_pipeline(pipeline) is family for pipeline in family.pipelines)
    assert families.of_pipeline("SomethingElsePipeline") is families.OTHER
