"""Both ends of the running batch, in small batches of their own: texts to embeddings before, latents to pictures after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image as Picture

from spooler.engine.row import Texts


@torch.inference_mode()
def read(pipe: Any, asked: Sequence[tuple[str, str | None]]) -> list[Texts]:
    """Pairs of a prompt and a negative one (None: no guidance), all encoded in one call of each text encoder.

    For plain prompts that fit the encoder, as the pipeline itself encodes them; others are `prompts.encode`'s.
    """
    texts = list(dict.fromkeys(text for pair in asked for text in pair if text is not None))
    found = pipe.encode_prompt(
        prompt=texts, device=pipe._execution_device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    embeds = dict(zip(texts, found[0].split(1), strict=True))
    is_xl = len(found) > 2
    pooled = dict(zip(texts, found[2].split(1), strict=True)) if is_xl else {}
    results = []
    for prompt, negative in asked:
        if negative is None:
            results.append(Texts(embeds[prompt], None, pooled.get(prompt)))
            continue
        pair = embeds[negative], pooled.get(negative)
        if is_xl and not negative and pipe.config.force_zeros_for_empty_prompt:
            # As the pipeline does it: SDXL's base model was trained with zeros for no prompt.
            pair = torch.zeros_like(embeds[negative]), torch.zeros_like(pooled[negative])
        results.append(Texts(embeds[prompt], pair[0], pooled.get(prompt), pair[1]))
    return results


@torch.inference_mode()
def decoded(pipe: Any, latents: Sequence[torch.Tensor], most: int = 4) -> list[Picture]:
    """The pictures of latents (channels, h, w) of one size, so many at a time."""
    vae = pipe.vae
    dtype, config = vae.dtype, vae.config
    pictures: list[Picture] = []
    is_raised = dtype == torch.float16 and config.force_upcast and hasattr(pipe, "upcast_vae")
    if is_raised:  # SDXL's overflows
        vae.to(torch.float32)
    try:
        for first in range(0, len(latents), most):
            some = torch.stack(list(latents[first : first + most])).to(vae.dtype) / config.scaling_factor
            mean, spread = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
            if mean is not None and spread is not None:
                mean, spread = (torch.tensor(each).view(1, -1, 1, 1).to(some) for each in (mean, spread))
                some = some * spread + mean
            pictures += pipe.image_processor.postprocess(vae.decode(some, return_dict=False)[0], output_type="pil")
    finally:
        if is_raised:
            vae.to(dtype)
    return pictures
