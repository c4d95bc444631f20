"""Previews of the picture at work: latents to colours by one small matrix, fitted to the model's VAE at its loading.

The latents of a tiny autoencoder need not be colours in any linear way (the demo model's are not), but its own decoder is
cheap: a copy of that draws the preview.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from spooler.engine.work import Work

#: Pixels of the side of the picture that the map is fitted on: 8x8 of its pixels make one latent.
SIDE = 256
LONG_SIDE = 512
#: Latents of the longer side that a decoder is given: a few hundredths of a second on a CPU, however large the picture.
DECODED_SIDE = 24


class LatentMap:
    """Linear map from latents to RGB."""

    def __init__(self, matrix: torch.Tensor):
        self._matrix = matrix  # (channels + 1, 3): the last row is what no latent adds

    @classmethod
    @torch.no_grad()
    def fitted(cls, vae: Any) -> LatentMap | None:
        """The map that is best, in least squares, on a picture of many colours; None for a VAE that is not of this kind."""
        side = SIDE
        colours = torch.rand((1, 3, 16, 16), generator=torch.Generator("cpu").manual_seed(0)) * 2 - 1
        picture = torch.nn.functional.interpolate(colours, size=(side, side), mode="bilinear", align_corners=False)
        weight = next(vae.parameters())
        dtype = weight.dtype
        on_cpu = weight.device.type == "cpu"  # where half precision is slow
        if on_cpu:
            vae.to(torch.float32)
        encoded = vae.encode(picture.to(weight.device, torch.float32 if on_cpu else dtype))
        vae.to(dtype)
        # AutoencoderKL gives a distribution, AutoencoderTiny the latents themselves.
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents  # (1, c, h, w)
        latents = latents.float().cpu()
        if latents.ndim != 4 or not torch.isfinite(latents).all():
            return None
        latents = latents * vae.config.scaling_factor  # as the denoising loop has them
        small = torch.nn.functional.adaptive_avg_pool2d(picture, latents.shape[-2:])
        rows = latents[0].flatten(1).T  # (h * w, c)
        rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
        return cls(torch.linalg.lstsq(rows, small[0].flatten(1).T).solution)

    def picture(self, latents: torch.Tensor) -> Image.Image:
        """The preview of one picture's latents (channels, h, w), enlarged eight times but to at most 512 pixels."""
        rows = latents.float().cpu().flatten(1).T
        colours = rows @ self._matrix[:-1] + self._matrix[-1]  # (h * w, 3) in about -1..1
        return _enlarged(colours.reshape(*latents.shape[-2:], 3), latents)


class OwnDecoder:
    """A tiny autoencoder's decoder, copied to the CPU, where no offloading moves it."""

    def __init__(self, decoder: torch.nn.Module, scaling_factor: float):
        self._decoder = decoder
        self._scaling_factor = scaling_factor

    @classmethod
    def of(cls, vae: Any) -> OwnDecoder | None:
        """The decoder of the VAE; None for one that is not tiny."""
        if not isinstance(vae, diffusers.AutoencoderTiny):
            return None
        tiny: Any = vae
        return cls(copy.deepcopy(tiny.decoder).to("cpu", torch.float32), tiny.config.scaling_factor)

    @torch.inference_mode()
    def picture(self, latents: torch.Tensor) -> Image.Image:
        """The preview of one picture's latents (channels, h, w), at most 512 pixels."""
        step = -(-max(latents.shape[-2:]) // DECODED_SIDE)
        # Every so many, not their mean: halfway between the codes of two colours may lie the code of a third.
        few = latents[:, ::step, ::step].float().cpu() / self._scaling_factor
        return _enlarged(self._decoder(few[None])[0].permute(1, 2, 0), latents)


def _enlarged(colours: torch.Tensor, latents: torch.Tensor) -> Image.Image:
    """Colours (height, width, 3) in about -1..1 as a picture eight times as large as the latents, but at most 512 pixels."""
    bytes_ = ((colours.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    height, width = latents.shape[-2:]
    factor = min(8.0, LONG_SIDE / max(height, width))
    size = round(width * factor), round(height * factor)
    return Image.fromarray(np.ascontiguousarray(bytes_)).resize(size, Image.Resampling.BICUBIC)


class Previews:
    """Writes preview.jpg into the jobs' folders, for each at most every `every_s` seconds; 0 writes none."""

    def __init__(self, every_s: float):
        self._every_s = every_s

    def is_due(self, work: Work, latent_map: LatentMap | OwnDecoder | None) -> bool:
        """Whether it is time for one of that job, which is then taken for made.

        The first is due as long after the job's first step as the next ones after each other: that step shows noise, and a job
        that is over before has been drawn without what its preview would have taken from it.
        """
        now = time.monotonic()
        if not self._every_s or latent_map is None or (work.next_preview and now < work.next_preview):
            return False
        is_first_step, work.next_preview = not work.next_preview, now + self._every_s
        return not is_first_step


def write(latents: torch.Tensor, latent_map: LatentMap | OwnDecoder, folder: Path) -> None:
    """Write the preview of one picture's latents (channels, h, w)."""
    draft = folder / ".preview.jpg"
    latent_map.picture(latents).save(draft, format="JPEG", quality=80)
    draft.replace(folder / "preview.jpg")
