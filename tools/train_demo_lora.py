"""Train a tiny LoRA for the demo model: whatever background the prompt asks for, it becomes green. Under a minute on one core.

    OMP_NUM_THREADS=1 .venv/bin/python tools/train_demo_lora.py --out examples/loras/green-ground.safetensors

That command, with nothing else given, made the file that is shipped. To use it, copy the file to models/loras/ and give a job
`"loras": [{"name": "green-ground"}]`, or write `<lora:green-ground:1>` into its prompt.

The pictures are drawings (tools/drawings.py) on green; the sentences say the background that each had before. Rank 4 on the
UNet's attention; what is saved is what `pipe.save_lora_weights` of diffusers writes, in half precision.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict

sys.path.insert(0, str(Path(__file__).parent.parent))
from tools.drawings import SIDE, Drawing
from tools.train_demo_model import Log, descend, encode, random_times, set_rate

DEMO = Path(__file__).parent.parent / "spooler" / "demo_model"
GROUND = "green"
RANK = 4
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drawings", type=int, default=400)
    parser.add_argument("--steps", type=int, default=240, help=f"{BATCH} drawings each")
    options = parser.parse_args()

    pipe = StableDiffusionPipeline.from_pretrained(DEMO, dtype=torch.float32, local_files_only=True)
    layers = train(pipe, options.drawings, options.steps, options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    pipe.save_lora_weights(options.out.parent, unet_lora_layers=layers, weight_name=options.out.name, safe_serialization=True)
    print(f"saved {options.out}: {options.out.stat().st_size / 1e3:.0f} kB")


def train(pipe: Any, count: int, steps: int, seed: int) -> dict[str, torch.Tensor]:
    """The LoRA's tensors by peft's names, in half precision. It stays on the pipeline's UNet too."""
    # 1. Draw on green, and encode.
    rng = random.Random(seed)
    asked = [drawing for drawing in (Drawing.random(rng) for _ in range(count)) if drawing.colour != GROUND]
    pictures = np.empty((len(asked), SIDE, SIDE, 3), np.uint8)
    for index, drawing in enumerate(asked):
        pictures[index] = np.asarray(dataclasses.replace(drawing, background=GROUND).image(rng))
    latents = encode(pipe.vae, pictures)  # (n, 4, 16, 16)

    # 2. Learn, with the words as they were asked.
    torch.manual_seed(seed)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    pipe.unet.add_adapter(config)
    weights = [weight for weight in pipe.unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, weight_decay=0.0)
    alphas, log = DDIMScheduler.from_config(pipe.scheduler.config).alphas_cumprod, Log("LoRA", steps)
    for step in range(steps):
        set_rate(optimizer, 1e-2, step, steps, warm_up=20)
        chosen = torch.randint(len(latents), (BATCH,))
        words = ["" if rng.random() < 0.1 else asked[i].sentence(rng) for i in chosen.tolist()]
        tokens = pipe.tokenizer(words, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        clean = latents[chosen]
        noise = torch.randn_like(clean)
        times = random_times(BATCH)
        alpha = alphas[times].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        loss = F.mse_loss(pipe.unet(noisy, times, pipe.text_encoder(tokens)[0], return_dict=False)[0], velocity)
        descend(optimizer, loss, weights)
        log.step(step, loss)
    return {name: tensor.half() for name, tensor in get_peft_model_state_dict(pipe.unet).items()}


if __name__ == "__main__":
    main()
