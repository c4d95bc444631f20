"""The engine's pipeline with families other than the demo model's: tiny, random, from configs, saved and loaded for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from spooler import models
from spooler.engine.pipeline import NotFiniteError, Pipeline, UnusableError, choose_device
from spooler.job import Job
from spooler.models import resolve


def _text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
    )


def _unet(cross_attention_dim: int, **more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=4,
        norm_num_groups=8,
        **more,
    )


def build(family: str, folder: Path) -> Path:
    """A tiny random model of the family in the folder."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(models.DEMO / "tokenizer")
    text = _text_config(tokenizer)
    parts: dict[str, Any] = {
        "vae": _vae(),
        "tokenizer": tokenizer,
        "text_encoder": CLIPTextModel(text),
        "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False),
    }
    if family == "sdxl":
        unet = _unet(
            64, addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 32
        )
        second = {"tokenizer_2": tokenizer, "text_encoder_2": CLIPTextModelWithProjection(text)}
        pipe: Any = StableDiffusionXLPipeline(unet=unet, **parts, **second)
    else:
        pipe = StableDiffusionPipeline(
            unet=_unet(32), **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipe.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_model_of_the_family_draws_and_repeats_itself(family: str, tmp_path: Path) -> None:
    folder = build(family, tmp_path / "tiny")
    card = models.read_card(str(folder))
    assert (card.name, card.family, card.width, card.height) == ("tiny", family, 128, 128)
    pipeline = Pipeline.load(str(folder), "cpu")
    assert (pipeline.facts.device, pipeline.facts.precision) == ("cpu", "float32")
    steps: list[tuple[int, int]] = []
    job = resolve(Job(prompt="a ring", steps=3, width=96, height=64, sampler="Euler a"), card, random_seed=1)
    pictures = [
        pipeline.decode(pipeline.denoise(job, seed=9, on_step=lambda step, all_: steps.append((step, all_)))) for _ in range(2)
    ]
    assert pictures[0].size == (96, 64) and pictures[0].tobytes() == pictures[1].tobytes()
    assert steps == [(1, 3), (2, 3), (3, 3)] * 2


def test_what_is_not_finite_is_an_error_and_never_a_black_picture(tmp_path: Path) -> None:
    pipeline = Pipeline.load(str(build("sd1", tmp_path / "tiny")), "cpu")
    with pytest.raises(NotFiniteError, match="in float32 too"):
        pipeline.decode(torch.full((1, 4, 8, 8), float("nan")))
    unet = pipeline._pipe.unet
    torch.nn.init.constant_(unet.conv_out.weight, float("inf"))
    job = resolve(Job(prompt="x", steps=2), models.read_card("demo"), random_seed=1)
    with pytest.raises(NotFiniteError, match="latents are not finite"):
        pipeline.denoise(job, seed=1, on_step=lambda step, steps: None)


def test_without_a_gpu_only_the_demo_model_runs_unasked() -> None:
    assert choose_device("cpu", "any").type == "cpu"
    if not torch.cuda.is_available():
        assert choose_device("auto", "demo").type == "cpu"
        with pytest.raises(UnusableError, match="give --device cpu"):
            choose_device("auto", "/models/any")


def test_weights_that_do_not_fit_their_config_are_refused_with_a_sentence(tmp_path: Path) -> None:
    folder = build("sd1", tmp_path / "tiny")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(UnusableError, match="could not be loaded"):
        Pipeline.load(str(folder), "cpu")
