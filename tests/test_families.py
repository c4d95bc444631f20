"""The library's pipelines of every family, driven as the engine drives them: what each can do is pinned here."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from PIL import Image
from safetensors.torch import load_file

from spooler import families
from spooler.distilled import LCM_PIPELINE
from spooler.engine import loading

SIDE = 64
PROMPT = "a red circle on a blue background"


class Facts(NamedTuple):
    """What the library's pipelines of a family can do."""

    scheduler: str
    img2img: bool = True
    inpaint: bool = True
    #: The parameter that makes the negative prompt count.
    guidance: str = "guidance_scale"
    #: "" where only the old `callback` is there.
    callback: str = "callback_on_step_end"
    #: Of the latents that the callback sees.
    dimensions: int = 4
    lora: bool = True


FLOW = "FlowMatchEulerDiscreteScheduler"
FACTS = {
    "sd1": Facts("DDIMScheduler"),
    "sd2": Facts("DDIMScheduler"),
    "sdxl": Facts("EulerDiscreteScheduler"),
    "sdxl-refiner": Facts("EulerDiscreteScheduler"),
    "sd3": Facts(FLOW),
    "flux": Facts(FLOW, guidance="true_cfg_scale", dimensions=3),
    "pixart": Facts("DPMSolverMultistepScheduler", img2img=False, inpaint=False, callback="", lora=False),
    "sana": Facts("DPMSolverMultistepScheduler", img2img=False, inpaint=False),
    "z-image": Facts(FLOW),
    "qwen-image": Facts(FLOW, guidance="true_cfg_scale", dimensions=3),
}


def load(folder: Path, family: str) -> Any:
    loader: Any = StableDiffusionXLImg2ImgPipeline if family == "sdxl-refiner" else AutoPipelineForText2Image
    pipe = loader.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise_image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def mask_image() -> Image.Image:
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (0, 0, SIDE // 2, SIDE))
    return mask


def parameters(pipe: Any) -> set[str]:
    return set(inspect.signature(pipe.__call__).parameters)


def draw(pipe: Any, seeds: list[int], **more: Any) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """The pictures, one for each seed, and the shapes of the latents that the callback saw."""
    shapes: list[tuple[int, ...]] = []

    def on_step_end(_pipe: Any, _step: int, _timestep: Any, seen: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        shapes.append(tuple(seen["latents"].shape))
        return seen

    def on_step(_step: int, _timestep: Any, latents: torch.Tensor) -> None:
        shapes.append(tuple(latents.shape))

    known = parameters(pipe)
    guidance = {"true_cfg_scale": 3.0} if "true_cfg_scale" in known else {"guidance_scale": 3.0}
    arguments: dict[str, Any] = {
        "prompt": PROMPT,
        "negative_prompt": "a large square",
        "num_inference_steps": 2,
        "num_images_per_prompt": len(seeds),
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
        "output_type": "np",
        **guidance,
    }
    if "width" in known:
        arguments |= {"width": SIDE, "height": SIDE}
    if "use_resolution_binning" in known:
        # Its tables begin at 256 pixels; and without bs4 and ftfy the caption is not cleaned, with a warning.
        arguments |= {"use_resolution_binning": False, "clean_caption": False}
    # Once for each generator: with one image, a picture would depend on what else is in its batch, and SD 3 fails.
    arguments |= {name: [more.pop(name)] * len(seeds) for name in ("image", "mask_image") if name in more}
    arguments |= {"callback_on_step_end": on_step_end} if "callback_on_step_end" in known else {"callback": on_step}
    images = pipe(**arguments | more).images
    assert images.shape == (len(seeds), SIDE, SIDE, 3)
    assert np.isfinite(images).all() and images.std() > 0.001
    return images, shapes


@pytest.mark.parametrize("family", [family for family in tiny.FAMILIES if family != "sdxl-refiner"])
def test_text_is_drawn_by_the_pipeline_that_the_library_would_choose(family: str, tmp_path: Path) -> None:
    """Whichever of the family's pipelines the model was saved as; for LCM's own see test_distilled.py."""
    index = tiny.build(family, tmp_path / family) / "model_index.json"
    saved = json.loads(index.read_bytes())
    for name in {saved["_class_name"], *families.get(family).pipelines} - {LCM_PIPELINE, "PixArtAlphaPipeline"}:
        index.write_text(json.dumps(saved | {"_class_name": name}))
        assert loading._text_to_image(name) is type(load(index.parent, family)), name


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_family_draws_and_can_do_what_is_pinned(family: str, tmp_path: Path) -> None:
    facts = FACTS[family]
    pipe = load(tiny.build(family, tmp_path / family), family)
    source: dict[str, Any] = {"image": noise_image(), "strength": 0.6}
    own = source if family == "sdxl-refiner" else {}
    images, shapes = draw(pipe, [1, 2], **own)
    assert len(shapes) == (1 if own else 2)
    assert not np.array_equal(images[0], images[1]), "a generator for each picture"
    assert np.allclose(images[1:], draw(pipe, [2], **own)[0], atol=1e-4), "the same again, alone"
    assert not np.array_equal(images, draw(pipe, [1, 2], **own | {"prompt": "a small green ring"})[0]), "the prompt counts"
    negative = draw(pipe, [1, 2], **own | {"negative_prompt": "a small green ring"})[0]
    assert not np.array_equal(images, negative), "the negative prompt counts"

    works = {}
    for name, auto, extra in (
        ("img2img", AutoPipelineForImage2Image, {}),
        ("inpaint", AutoPipelineForInpainting, {"mask_image": mask_image()}),
    ):
        try:
            other = auto.from_pipe(pipe)
        except ValueError as error:
            assert "can't find a pipeline" in str(error)
            works[name] = False
            continue
        other.set_progress_bar_config(disable=True)
        pictures = draw(other, [1, 2], **source | extra)[0]
        assert np.allclose(pictures[1:], draw(other, [2], **source | extra)[0], atol=1e-4), f"the same {name} alone"
        works[name] = True

    known = parameters(pipe)
    seen = Facts(
        scheduler=type(pipe.scheduler).__name__,
        **works,
        guidance="true_cfg_scale" if "true_cfg_scale" in known else "guidance_scale",
        callback="callback_on_step_end" if "callback_on_step_end" in known else "",
        dimensions=len(shapes[0]),
        lora=hasattr(pipe, "load_lora_weights"),
    )
    print(family, type(pipe).__name__, seen, shapes[0])
    assert "negative_prompt" in known and seen == facts


@pytest.mark.parametrize(
    ("family", "with_control"), [("sd1", StableDiffusionControlNetPipeline), ("sdxl", StableDiffusionXLControlNetPipeline)]
)
def test_a_tiny_controlnet_has_an_effect(family: str, with_control: Any, tmp_path: Path) -> None:
    pipe = load(tiny.build(family, tmp_path / family), family)
    model = ControlNetModel.from_pretrained(
        tiny.controlnet(pipe, tmp_path / "control"), local_files_only=True, use_safetensors=True
    )
    controlled = with_control.from_pipe(pipe, controlnet=model)
    controlled.set_progress_bar_config(disable=True)
    with_it, without = (
        draw(controlled, [1], image=noise_image(), controlnet_conditioning_scale=scale)[0] for scale in (1.0, 0.0)
    )
    plain = draw(pipe, [1])[0]
    assert not np.allclose(with_it, plain, atol=0.01)
    assert np.allclose(without, plain, atol=1e-5)


@pytest.mark.parametrize("family", [family for family, facts in FACTS.items() if facts.lora])
def test_a_tiny_lora_has_an_effect_and_can_be_taken_off(family: str, tmp_path: Path) -> None:
    pipe = load(tiny.build(family, tmp_path / family), family)
    own: dict[str, Any] = {"image": noise_image(), "strength": 0.6} if family == "sdxl-refiner" else {}
    before = draw(pipe, [1], **own)[0]
    file = tiny.lora(pipe, tmp_path / "style.safetensors")
    assert np.allclose(draw(pipe, [1], **own)[0], before, atol=1e-5), "making it leaves the pipeline as it was"
    pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name="style", local_files_only=True)
    assert not np.allclose(draw(pipe, [1], **own)[0], before, atol=1e-4)
    pipe.unload_lora_weights()
    assert np.allclose(draw(pipe, [1], **own)[0], before, atol=1e-5)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_a_tiny_embedding_means_its_word(family: str, tmp_path: Path) -> None:
    pipe = load(tiny.build(family, tmp_path / family), family)
    file = tiny.embedding(pipe, tmp_path / "mything.safetensors", "mything", "red")
    assert list(load_file(file)) == ["emb_params"]
    word = draw(pipe, [1], prompt="a red circle")[0]
    pipe.load_textual_inversion(file.parent, weight_name=file.name, token="mything", local_files_only=True)  # noqa: S106
    assert np.allclose(draw(pipe, [1], prompt="a mything circle")[0], word, atol=1e-5)
    assert not np.allclose(draw(pipe, [1], prompt="a blue circle")[0], word, atol=1e-5)
