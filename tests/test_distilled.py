"""Models that need few steps: told by their files and names, with fitting defaults, drawn as their own pipeline draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import test_continuous as continuous
import tiny
import torch
from test_models import diffusers_folder, safetensors

from bench.direct import Direct
from spooler import distilled, messages, samplers
from spooler.catalogue import ModelCard, resolve
from spooler.distilled import Marks
from spooler.engine.loading import load
from spooler.job import from_fields
from spooler.library import ModelError, scan
from spooler.library import read as read_entry

#: What LCM's own scheduler config is told by the constructor of our pipeline; its sampler does not look at it.
pytestmark = pytest.mark.filterwarnings(r"ignore:[\s\S]*steps_offset:FutureWarning")
LCM_TOLD = Marks(pipeline="LatentConsistencyModelPipeline", tells_guidance=True)


@pytest.mark.parametrize(
    ("name", "family", "found", "kind"),
    [
        ("sd_xl_turbo_1.0_fp16", "sdxl", Marks(), "Turbo"),
        ("sdxl_lightning_4step", "sdxl", Marks(), "Lightning"),
        ("DreamShaperXL_Lightning-SFW", "sdxl", Marks(), "Lightning"),
        ("Hyper-SDXL-8steps-lora-fused", "sdxl", Marks(), "Hyper"),
        ("dreamshaper-lcm", "sd1", Marks(), "LCM"),
        ("photonLCM_v10", "sd1", Marks(), "LCM"),
        ("calcmania", "sd1", Marks(), None),
        ("sunset", "sd1", Marks(scheduler="LCMScheduler"), "LCM"),
        ("sunset", "sdxl", Marks(scheduler="TCDScheduler"), "TCD"),
        ("sunset", "sdxl", Marks(tells_guidance=True), "LCM"),
        ("lcm-turbo", "sd1", LCM_TOLD, "LCM"),
        ("sunset", "flux", Marks(tells_guidance=False), "Schnell"),
        ("FLUX.1-schnell", "flux", Marks(), "Schnell"),
        ("FLUX.1-dev", "flux", Marks(tells_guidance=True), None),
        ("stable-diffusion-3.5-large-turbo", "sd3", Marks(), "Turbo"),
        ("stable-diffusion-v1-5", "sd1", Marks(pipeline="StableDiffusionPipeline", tells_guidance=False), None),
        ("hyperrealism", "sd1", Marks(), None),
    ],
)
def test_a_distilled_model_is_told_by_its_files_and_then_by_its_name(
    name: str, family: str, found: Marks, kind: str | None
) -> None:
    assert distilled.recognised(name, family, found) == kind


@pytest.mark.parametrize(
    ("name", "family", "found", "expected"),
    [
        ("sdxl_lightning_8step", "sdxl", Marks(), (8, 1.0, "Euler", "SGM Uniform")),
        ("sdxl_lightning", "sdxl", Marks(), (4, 1.0, "Euler", "SGM Uniform")),
        ("turbo", "sdxl", Marks(scheduler="EulerAncestralDiscreteScheduler"), (4, 1.0, "Euler a", "SGM Uniform")),
        ("lcm", "sd1", LCM_TOLD, (4, 8.0, "LCM", "Automatic")),
        ("lcm", "sd1", Marks(), (4, 1.5, "LCM", "Automatic")),
        ("tcd_16steps", "sdxl", Marks(), (16, 1.0, "TCD", "Automatic")),
        ("z-image-turbo", "z-image", Marks(), (9, 0.0, "Euler", "SGM Uniform")),
    ],
)
def test_its_defaults_suit_it(name: str, family: str, found: Marks, expected: tuple[int, float, str, str]) -> None:
    kind = distilled.recognised(name, family, found)
    assert kind
    made = distilled.defaults(kind, name, family, found, is_file=True)
    assert (made["steps"], made["guidance_scale"], made["sampler"], made["scheduler"]) == expected
    ModelCard.model_validate({"name": name, "family": family, "width": 512, "height": 512} | made)
    sampler = samplers.find(expected[2])
    assert sampler and expected[3] in sampler.schedules


SD2 = {"model__diffusion_model__input_blocks__0__0__weight": (4, 4, 3, 3), "cond_stage_model__model__x": (4, 4)}


def test_the_folder_of_models_tells_them_and_the_operator_has_the_last_word(tmp_path: Path) -> None:
    diffusers_folder(tmp_path / "sunset", "LatentConsistencyModelPipeline")
    (tmp_path / "sunset" / "unet" / "config.json").write_text(json.dumps({"sample_size": 96, "time_cond_proj_dim": 256}))
    diffusers_folder(tmp_path / "sd-turbo-2step")
    diffusers_folder(tmp_path / "not-turbo", distilled=None, steps=30)
    diffusers_folder(tmp_path / "plain", distilled="Lightning", steps=6)
    diffusers_folder(tmp_path / "wrong", distilled="Thunder")
    safetensors(tmp_path / "sd_turbo.safetensors", **SD2)
    library = scan(tmp_path, "demo")
    cards = {name: entry.card for name, entry in library.models.items()}
    assert any("`distilled`" in reason and "Thunder" in reason for reason in library.refused), library.refused

    lcm, turbo, small = cards["sunset"], cards["sd-turbo-2step"], cards["sd_turbo"]
    assert (lcm.family, lcm.distilled, lcm.width, lcm.sampler, lcm.steps, lcm.guidance_scale) == (
        "sd1",
        "LCM",
        768,
        "LCM",
        4,
        8,
    )
    assert (turbo.distilled, turbo.steps, turbo.scheduler) == ("Turbo", 2, "SGM Uniform")
    assert (small.family, small.width, small.prediction_type, small.distilled) == ("sd2", 512, "epsilon", "Turbo")
    assert (cards["not-turbo"].distilled, cards["not-turbo"].steps, cards["not-turbo"].guidance_scale) == (None, 30, 7.0)
    assert (cards["plain"].distilled, cards["plain"].steps, cards["plain"].sampler) == ("Lightning", 6, "Euler")
    assert cards["demo"].distilled is None and cards["demo"].steps == 20

    job = resolve(from_fields({"prompt": "x"}), turbo, 1)
    assert (job.steps, job.guidance_scale, job.sampler, job.scheduler) == (2, 1.0, "Euler", "SGM Uniform")
    many = resolve(from_fields({"prompt": "x", "steps": 50, "sampler": "DDIM"}), turbo, 1)
    assert (many.steps, many.sampler, many.scheduler) == (50, "DDIM", "Automatic"), "people may"
    with pytest.raises(ModelError):
        read_entry(tmp_path / "wrong", "wrong")


def told_the_guidance(family: str) -> Any:
    """A tiny pipeline whose UNet is told the guidance, as LCM's is."""
    torch.manual_seed(0)
    base = tiny.FAMILIES[family]()
    config = {name: value for name, value in base.unet.config.items() if name[0] != "_"} | {"time_cond_proj_dim": 32}
    unet = diffusers.UNet2DConditionModel.from_config(config)
    torch.nn.init.normal_(unet.time_embedding.cond_proj.weight, std=1.0)  # a random one would hardly hear it
    parts = {name: part for name, part in base.components.items() if name not in ("unet", "scheduler")}
    more = {"requires_safety_checker": False} if family == "sd1" else {}
    scheduler = diffusers.LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return type(base)(**parts, unet=unet, scheduler=scheduler, **more)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_p8_a_row_in_company_is_told_its_own_guidance(family: str) -> None:
    made = continuous.Studio(told_the_guidance(family))
    lcm, euler = (samplers.find(name) for name in ("LCM", "Euler"))
    assert lcm and euler
    jobs = [
        continuous.Asked(lcm if number % 2 else euler, "Automatic", steps=3 + number, guidance=guidance, seed=number)
        for number, guidance in enumerate((1.0, 8.0, 1.5, 4.0, 12.0, 2.0))
    ]
    drawn = made.in_company(jobs)
    continuous.assert_as_alone(made, jobs, drawn)
    alone = made.alone(jobs[1])
    other = made.alone(continuous.replace(jobs[1], guidance=2.0))
    assert continuous.difference(other, alone) > 1e-3, "the model hears it"


def test_lcm_s_own_pipeline_and_ours_draw_the_same_in_company_with_one_row_a_picture(tmp_path: Path) -> None:
    """A folder as it is published: by its own pipeline's class, with its sampler."""
    pipe = told_the_guidance("sd1")
    folder = tmp_path / "models" / "dreamy-lcm"
    parts = {name: part for name, part in pipe.components.items() if name not in ("safety_checker", "feature_extractor")}
    own = diffusers.LatentConsistencyModelPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    own.save_pretrained(folder, safe_serialization=True)
    own = diffusers.LatentConsistencyModelPipeline.from_pretrained(
        folder, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    own.set_progress_bar_config(disable=True)
    direct = Direct(tmp_path, model="dreamy-lcm")
    entry = direct.library.models["dreamy-lcm"]
    assert entry.card.distilled == "LCM" and type(load(entry, torch.float32)) is diffusers.StableDiffusionPipeline

    network = direct.engine._residents.get("dreamy-lcm").backbone
    forward, rows = network.forward, list[int]()

    def counting(sample: torch.Tensor, *args: Any, **more: Any) -> Any:
        rows.append(len(sample))
        return forward(sample, *args, **more)

    network.forward = counting
    jobs = [{"prompt": "a red circle", "seed": seed, "width": 64, "height": 64} for seed in range(3)]
    jobs[2] |= {"guidance_scale": 2.0, "steps": 6}
    folders = direct.run_all([(fields, {}) for fields in jobs])
    ended = [each for each in direct.ended_all if isinstance(each, messages.Finished)]
    assert [each.facts.shared for each in ended][:2] == [2, 2], "the two rows of a call, which would be one guided picture's"
    assert sum(rows) == 4 + 4 + 6, "one row a picture and step, whatever the guidance"
    for fields, made in zip(jobs, folders, strict=True):
        [expected] = own(
            "a red circle",
            width=64,
            height=64,
            num_inference_steps=int(fields.get("steps", 4)),
            guidance_scale=float(fields.get("guidance_scale", 8.0)),
            generator=torch.Generator().manual_seed(int(fields["seed"])),
        ).images
        ours = np.asarray(continuous.Image.open(made / "0.png").convert("RGB"), dtype=int)
        assert abs(ours - np.asarray(expected, dtype=int)).max() <= 1, fields
    direct.close()
