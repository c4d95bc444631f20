"""Both ends of the running batch, in small batches of their own: texts to embeddings before, latents to pictures after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from PIL.Image import Image as Picture

from spooler.engine import device as devices
from spooler.engine.moment import Moment
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


class Decoding:
    """Pictures that the VAE was asked for, on their way from the device, which goes on meanwhile.

    Nothing here waits for the device, and an error of its memory is raised at once. What comes of latents that are not finite
    is not finite either: that is known when it has come.
    """

    @torch.inference_mode()
    def __init__(self, pipe: Any, latents: Sequence[torch.Tensor], most: int = 4):
        """Ask for the pictures of latents (channels, h, w) of one size, so many at a time."""
        begun = Moment(latents[0].device)
        vae, parts, finite = pipe.vae, [], []
        with _raised(pipe):
            decode = getattr(vae.decode, "unguarded", vae.decode)  # which would wait for the device to say what it found
            for some in _scaled(vae, latents, most):
                image = decode(some, return_dict=False)[0]
                finite.append(torch.isfinite(image).all())
                shown = pipe.image_processor.postprocess(image, output_type="pt").float()  # (n, 3, height, width) in 0..1
                parts.append((shown * 255).round().to(torch.uint8).permute(0, 2, 3, 1))
        # To ordinary memory a copy would wait; torch takes memory of the kind that it need not for one that is not to.
        self._bytes = torch.cat(parts).to("cpu", non_blocking=True)
        self._finite = torch.stack(finite).to("cpu", non_blocking=True)
        self._begun, self._ended = begun, Moment(latents[0].device)

    @property
    def is_there(self) -> bool:
        """Whether the pictures have come."""
        return self._ended.has_come

    def wait(self) -> None:
        """Wait until they have."""
        self._ended.wait()

    @property
    def seconds(self) -> float:
        """What it took, of those that have come."""
        return self._begun.until(self._ended)

    def pictures(self) -> list[Picture] | None:
        """Those that have come; None where they are not finite."""
        return [Image.fromarray(each) for each in self._bytes.numpy()] if self._finite.all() else None


@torch.inference_mode()
def decoded(pipe: Any, latents: Sequence[torch.Tensor], most: int = 4, again: bool = False) -> list[Picture]:
    """The pictures of latents (channels, h, w) of one size, so many at a time, as the VAE's guard lets them pass; `again`: what
    came to nothing finite is decoded in float32."""
    decode = getattr(pipe.vae.decode, "in_float32", pipe.vae.decode) if again else pipe.vae.decode
    with _raised(pipe):
        pictures: list[Picture] = []
        for some in _scaled(pipe.vae, latents, most):
            pictures += pipe.image_processor.postprocess(decode(some, return_dict=False)[0], output_type="pil")
    return pictures


@contextmanager
def _raised(pipe: Any) -> Iterator[None]:
    """The VAE in float32 where it has to be: SDXL's overflows in half precision."""
    vae = pipe.vae
    dtype = vae.dtype
    is_raised = dtype == torch.float16 and vae.config.force_upcast and hasattr(pipe, "upcast_vae")
    if is_raised:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if is_raised:
            vae.to(dtype)


def _scaled(vae: Any, latents: Sequence[torch.Tensor], most: int) -> Iterator[torch.Tensor]:
    """The latents as the VAE takes them, so many at a time."""
    config = vae.config
    for first in range(0, len(latents), most):
        some = torch.stack(list(latents[first : first + most])).to(vae.dtype) / config.scaling_factor
        mean, spread = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
        if mean is not None and spread is not None:
            mean, spread = (
                devices.there(torch.tensor(each).view(1, -1, 1, 1), some.device, some.dtype) for each in (mean, spread)
            )
            some = some * spread + mean
        yield some
