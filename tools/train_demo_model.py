"""Train the demo model, a real, tiny StableDiffusionPipeline that draws shapes: about an hour on two CPU cores.

    .venv/bin/python tools/train_demo_model.py --out /somewhere/demo_model
    .venv/bin/python tools/train_demo_model.py --out /somewhere/tiny --quick      (a minute, learns nothing, saves it all)

Three stages: an autoencoder on crops of the drawings (tools/drawings.py); a tokenizer over their words; then a UNet and a
text encoder together on the cached latents, with v-prediction. The schedule of betas ends at a signal-to-noise ratio of
2e-5: near enough to zero for the model to choose the background itself (Lin et al. 2023, arXiv 2305.08891), and not zero, so
that every sampler works from the plain config.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

sys.path.insert(0, str(Path(__file__).parent.parent))
from tools.drawings import SIDE, Drawing, many, vocabulary

SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.027,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": True,
}
DEFAULTS = {"family": "sd1", "width": SIDE, "height": SIDE, "steps": 20, "guidance_scale": 2.0, "sampler": "DPM++ 2M"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder to make; it must not exist")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drawings", type=int, default=14_000)
    parser.add_argument("--vae-steps", type=int, default=3_200)
    parser.add_argument("--steps", type=int, default=6_000, help="steps of the UNet and the text encoder, 32 drawings each")
    parser.add_argument("--quick", action="store_true", help="a few small steps of everything, to see that it works")
    options = parser.parse_args()
    if options.quick:
        options.drawings, options.vae_steps, options.steps = 32, 3, 3
    if options.out.exists():
        sys.exit(f"--out must not exist, but {options.out} does.")

    # 1. Draw.
    drawings, pictures = many(options.drawings, options.seed)
    # 2. Learn to compress: 128 x 128 pixels to latents of 16 x 16 x 4.
    vae = train_vae(pictures, options.vae_steps, options.seed)
    latents = encode(vae, pictures)
    # 3. Learn to draw from a sentence.
    tokenizer = make_tokenizer()
    text_encoder, unet = train_unet(drawings, latents, tokenizer, options.steps, options.seed)
    # 4. Save it as any other pipeline, in half precision: half the bytes, and on a CPU it is loaded as float32.
    save(options.out, vae, tokenizer, text_encoder, unet)
    print(f"saved {options.out}: {sum(p.stat().st_size for p in options.out.rglob('*') if p.is_file()) / 1e6:.1f} MB")


def train_vae(pictures: np.ndarray, steps: int, seed: int) -> AutoencoderTiny:
    """An autoencoder for the pictures (n, 128, 128, 3), learnt on crops of 48 pixels.

    A small penalty keeps each latent channel near mean 0 and deviation 1, so that the scaling factor is 1.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4,
        num_encoder_blocks=(1, 1, 1, 2),
        num_decoder_blocks=(2, 1, 1, 1),
        latent_channels=4,
        scaling_factor=1.0,
    ).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), weight_decay=1e-4)
    crop, batch, log = 48, 16, Log("autoencoder", steps)
    for step in range(steps):
        set_rate(optimizer, 2e-3, step, steps, warm_up=50)
        chosen = rng.integers(len(pictures), size=batch)
        corners = rng.integers(0, (SIDE - crop) // 8 + 1, size=(batch, 2)) * 8
        crops = [pictures[i][y : y + crop, x : x + crop] for i, (y, x) in zip(chosen, corners, strict=True)]
        real = as_tensor(np.stack(crops))
        latents = vae.encoder(real)  # (batch, 4, 6, 6)
        drawn = vae.decoder(latents + 0.05 * torch.randn_like(latents))
        error = drawn - real
        mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        loss = error.abs().mean() + error.square().mean() + 0.01 * (mean.square().mean() + (deviation - 1).square().mean())
        descend(optimizer, loss, list(vae.parameters()))
        log.step(step, error.abs().mean())
    return vae.eval()


@torch.inference_mode()
def encode(vae: AutoencoderTiny, pictures: np.ndarray) -> torch.Tensor:
    """The latents (n, 4, 16, 16) of the pictures."""
    return torch.cat([vae.encoder(as_tensor(pictures[i : i + 64])) for i in range(0, len(pictures), 64)]).clone()


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with a small vocabulary: each word of the drawings is one token, all else falls into bytes."""
    plain = CLIPTokenizer()
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = plain.backend_tokenizer.normalizer, plain.backend_tokenizer.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=4000, min_frequency=1, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator([" ".join(vocabulary())], trainer)
    learnt = json.loads(learner.to_str())["model"]
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    pieces += [*sorted(set(learnt["vocab"]) - set(pieces)), "<|startoftext|>", "<|endoftext|>"]
    merges = [tuple(merge) for merge in learnt["merges"]]
    tokenizer = CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges, model_max_length=77)
    split = [word for word in vocabulary() if len(tokenizer(word).input_ids) != 3 and word.isalpha()]
    assert not split, f"words of more than one token: {split}"
    return tokenizer


def train_unet(
    drawings: list[Drawing], latents: torch.Tensor, tokenizer: CLIPTokenizer, steps: int, seed: int
) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """A text encoder and a UNet for the latents (n, 4, 16, 16), learnt together; what is returned is their moving average."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=288,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            projection_dim=96,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96, 144),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=96,
        attention_head_dim=4,
        norm_num_groups=16,
    ).to(memory_format=torch.channels_last)
    weights = [*unet.parameters(), *text_encoder.parameters()]
    average = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, weight_decay=1e-3, betas=(0.9, 0.98))
    alphas = DDIMScheduler(**SCHEDULE).alphas_cumprod
    batch, log = 32, Log("UNet", steps)
    for step in range(steps):
        set_rate(optimizer, 1e-3, step, steps, warm_up=100)
        chosen = torch.randint(len(latents), (batch,))
        # A tenth without words: what guidance steers away from.
        words = ["" if rng.random() < 0.1 else drawings[i].sentence(rng) for i in chosen.tolist()]
        tokens = tokenizer(words, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        clean = latents[chosen]
        noise = torch.randn_like(clean)
        times = random_times(batch)
        alpha = alphas[times].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean  # Salimans & Ho 2022, arXiv 2202.00512
        told = text_encoder(tokens)[0]  # (batch, 77, 96)
        loss = F.mse_loss(unet(noisy, times, told, return_dict=False)[0], velocity)
        descend(optimizer, loss, weights)
        torch._foreach_lerp_(average, [weight.detach() for weight in weights], 1 - min(0.9985, (2 + step) / (11 + step)))
        log.step(step, loss)
    with torch.no_grad():
        for weight, mean in zip(weights, average, strict=True):
            weight.copy_(mean)
    return text_encoder.eval(), unet.eval()


def random_times(batch: int) -> torch.Tensor:
    """Timesteps to learn at: half of them uniform, half around the noise at which outlines are decided."""
    uniform = torch.rand(batch)
    middle = torch.sigmoid(torch.randn(batch) * 0.7 + 0.1)
    return (torch.where(torch.rand(batch) < 0.5, uniform, middle) * 1000).long().clamp(0, 999)


def save(
    folder: Path, vae: AutoencoderTiny, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, unet: UNet2DConditionModel
) -> None:
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    (folder / "sdspool.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n")


def as_tensor(pictures: np.ndarray) -> torch.Tensor:
    """Pictures (n, height, width, 3) in bytes as (n, 3, height, width) in -1..1."""
    tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    return tensor.contiguous(memory_format=torch.channels_last)


def set_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int, warm_up: int) -> None:
    """A short rise, then half a cosine down to nothing."""
    for group in optimizer.param_groups:
        group["lr"] = peak * min(1.0, (step + 1) / warm_up) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor, weights: list[torch.nn.Parameter]) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()


class Log:
    """A line every hundred steps: the mean loss since the last one, and how long it takes."""

    def __init__(self, name: str, steps: int):
        self._name, self._steps, self._since, self._losses = name, steps, time.monotonic(), []

    def step(self, step: int, loss: torch.Tensor) -> None:
        self._losses: list[float] = [*self._losses, loss.item()]
        if (step + 1) % 100 == 0 or step + 1 == self._steps:
            seconds = (time.monotonic() - self._since) / (step + 1)
            mean = sum(self._losses) / len(self._losses)
            print(f"{self._name}: step {step + 1} of {self._steps}, loss {mean:.4f}, {seconds:.2f} s a step", flush=True)
            self._losses = []


if __name__ == "__main__":
    main()
