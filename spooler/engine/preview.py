"""Previews of the picture at work: latents to colours by one small matrix, fitted to the model's VAE at its loading."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

#: Pixels of the side of the picture that the map is fitted on: 8x8 of its pixels make one latent.
SIDE = 256
LONG_SIDE = 512


class LatentMap:
    """Linear map from latents to RGB."""

    def __init__(self, matrix: torch.Tensor):
        self._matrix = matrix  # (channels + 1, 3): the last row is what no latent adds

    @classmethod
    @torch.inference_mode()
    def fitted(cls, vae: Any) -> LatentMap | None:
        """The map that is best, in least squares, on a picture of many colours; None for a VAE that is not of this kind."""
        side = SIDE
        colours = torch.rand((1, 3, 16, 16), generator=torch.Generator("cpu").manual_seed(0)) * 2 - 1
        picture = torch.nn.functional.interpolate(colours, size=(side, side), mode="bilinear", align_corners=False)
        weight = next(vae.parameters())
        encoded = vae.encode(picture.to(weight.device, weight.dtype))
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
        bytes_ = ((colours.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
        small = Image.fromarray(np.ascontiguousarray(bytes_.reshape(*latents.shape[-2:], 3)))
        factor = min(8.0, LONG_SIDE / max(small.size))
        return small.resize((round(small.width * factor), round(small.height * factor)), Image.Resampling.BICUBIC)


class Previews:
    """Writes preview.jpg into a job's folder, at most every `every_s` seconds; 0 writes none."""

    def __init__(self, every_s: float):
        self._every_s = every_s
        self._next = 0.0

    def show(self, latents: Any, latent_map: LatentMap | None, folder: Path) -> None:
        """Write the preview of the first picture of the batch `latents`, if it is time for one."""
        now = time.monotonic()
        if not self._every_s or latent_map is None or now < self._next or getattr(latents, "ndim", 0) != 4:
            return
        self._next = now + self._every_s
        draft = folder / ".preview.jpg"
        latent_map.picture(latents[0]).save(draft, format="JPEG", quality=80)
        draft.replace(folder / "preview.jpg")
