"""One picture on its way through the running batch: what it was asked for, its sampler's table, and how far it is.

A row is made from a diffusers pipeline that is ready to be called (its scheduler set for the job), by the pipeline's own parts
and in its own order, so that the seed draws what it draws there: from noise, over a picture, within a mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image as Picture

from spooler.engine import deepcache
from spooler.engine import device as devices
from spooler.engine.cutoff import guided_ticks
from spooler.engine.table import Table, Tables


@dataclass(frozen=True)
class Texts:
    """A prompt as the UNet sees it, and the negative one, None where nothing is steered away from."""

    prompt: torch.Tensor  # (1, n * 77, dim)
    negative: torch.Tensor | None
    pooled: torch.Tensor | None = None  # (1, dim) with SDXL
    negative_pooled: torch.Tensor | None = None

    @classmethod
    def of(cls, embeddings: Mapping[str, Any]) -> Texts:
        """From tensors by the names that the pipelines have for them."""
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        prompt, *others = (embeddings.get(name) for name in names)
        if prompt is None:
            raise ValueError(f"`prompt_embeds` must be among the embeddings but they are {', '.join(embeddings)}.")
        return cls(prompt, *others)

    @property
    def prompt_side(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The prompt and what it comes to in all."""
        return self.prompt, self.pooled

    @property
    def negative_side(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The same of the negative prompt, of a job with guidance."""
        if self.negative is None:
            raise ValueError("A job with guidance needs a negative prompt, if an empty one.")
        return self.negative, self.negative_pooled


@dataclass(frozen=True)
class Area:
    """What an inpainting job keeps: the picture's latents where the mask is 0, as noisy at each tick as the rest is."""

    mask: torch.Tensor  # (1, h, w), 1 where it is drawn anew
    image: torch.Tensor  # (channels, h, w)
    noise: torch.Tensor  # (channels, h, w)


@dataclass
class Row:
    """A picture that is being drawn. The batch moves it on."""

    name: str
    table: Table
    #: The latents and what the sampler keeps besides: (1 + slots, channels, h, w), float32. Behind while it is in a batch.
    state: torch.Tensor
    texts: Texts
    guidance_scale: float
    generator: torch.Generator
    #: SDXL is told the size: (6,).
    time_ids: torch.Tensor | None = None
    #: An inpainting checkpoint's UNet sees the mask and what is left of the picture: (5, h, w).
    beside: torch.Tensor | None = None
    area: Area | None = None
    #: A distilled model is told the guidance: (dim,).
    told_guidance: torch.Tensor | None = None
    #: Takes the steps of a sampler that is not linear.
    scheduler: Any = None
    #: The part of the ticks after which guidance ends; 1 for never.
    guidance_cutoff: float = 1.0
    #: At every so many ticks the UNet's deep blocks are asked.
    deepcache_interval: int = 1
    #: What they said last, (UNet rows, channels, h, w), where it is more than 1. Behind while the row is in a batch.
    kept: torch.Tensor | None = None
    #: The ticks that are over.
    tick: int = 0

    @property
    def latents(self) -> torch.Tensor:
        """(channels, h, w), float32; up to date when the row is in no batch."""
        return self.state[0]

    @property
    def is_done(self) -> bool:
        return self.tick >= self.table.ticks

    @property
    def is_guided(self) -> bool:
        """Whether the UNet is asked twice at this tick, with the prompt and with the negative one."""
        asks_twice = self.guidance_scale > 1 and self.told_guidance is None
        return asks_twice and (self.guidance_cutoff >= 1 or self.tick < guided_ticks(self.table.ticks, self.guidance_cutoff))

    @property
    def is_due(self) -> bool:
        """Whether the UNet's deep blocks are asked at this tick."""
        return deepcache.is_due(self.tick, self.deepcache_interval)


class Desk:
    """Makes the rows of one model."""

    def __init__(self, tables: Tables | None = None) -> None:
        self._tables = tables or Tables()

    def from_noise(
        self,
        pipe: Any,
        name: str,
        texts: Texts,
        guidance_scale: float,
        steps: int,
        noise: torch.Tensor,
        generator: torch.Generator,
    ) -> Row:
        """A row of txt2img. `noise` is (1, channels, h, w), drawn from the generator already or from elsewhere."""
        table = self._tables.get(pipe.scheduler, steps)
        return self._row(pipe, name, texts, guidance_scale, steps, generator, table, noise * table.start)

    @torch.inference_mode()
    def over_picture(
        self,
        pipe: Any,
        name: str,
        texts: Texts,
        guidance_scale: float,
        steps: int,
        image: Picture | torch.Tensor,
        strength: float,
        generator: torch.Generator,
    ) -> Row:
        """A row of img2img, of the picture or of latents (1, channels, h, w). The pipeline is one of img2img."""
        table, begin, timestep = self._begun(pipe, steps, strength)
        given = pipe.image_processor.preprocess(image)
        dtype, device = texts.prompt.dtype, _device(pipe)
        latents = pipe.prepare_latents(given, timestep, 1, 1, dtype, device, [generator])
        return self._row(pipe, name, texts, guidance_scale, steps, generator, table, latents, begin)

    @torch.inference_mode()
    def within_mask(
        self,
        pipe: Any,
        name: str,
        texts: Texts,
        guidance_scale: float,
        steps: int,
        image: Picture,
        mask: Picture,
        strength: float,
        generator: torch.Generator,
    ) -> Row:
        """A row of inpainting where the mask is white. The pipeline is one of inpainting."""
        table, begin, timestep = self._begun(pipe, steps, strength)
        size = {"height": image.height, "width": image.width}
        dtype, device = texts.prompt.dtype, _device(pipe)
        sees_mask = pipe.unet.config.in_channels == 9
        given = pipe.image_processor.preprocess(image, **size).to(dtype=torch.float32)
        white = pipe.mask_processor.preprocess(mask, **size)
        # In this order: each of the three draws from the generator.
        latents, noise, *kept = pipe.prepare_latents(
            1,
            pipe.vae.config.latent_channels,
            image.height,
            image.width,
            dtype,
            device,
            [generator],
            image=given,
            timestep=timestep,
            is_strength_max=strength == 1.0,
            return_noise=True,
            return_image_latents=not sees_mask,
        )
        seen, left = pipe.prepare_mask_latents(
            white, given * (white < 0.5), 1, image.height, image.width, dtype, device, [generator], False
        )
        row = self._row(pipe, name, texts, guidance_scale, steps, generator, table, latents, begin)
        if sees_mask:
            row.beside = torch.cat([seen, left], dim=1)[0]
        else:
            row.area = Area(seen[0].float(), kept[0][0].float(), noise[0].float())
        return row

    def _begun(self, pipe: Any, steps: int, strength: float) -> tuple[Table, int, torch.Tensor]:
        """The table of a job of that strength, the tick at which it begins, and that tick's time step.

        The table comes first: some schedulers move a part of themselves to the device as soon as they make a picture noisy.
        """
        scheduler = pipe.scheduler
        scheduler.set_timesteps(steps)
        timesteps, _ = pipe.get_timesteps(steps, strength, "cpu")
        if not len(timesteps):
            raise ValueError(f"`strength` must leave one of {steps} steps at least but is {strength}.")
        begin = len(scheduler.timesteps) - len(timesteps)
        return self._tables.get(scheduler, steps, begin), begin, timesteps[:1]

    def _row(
        self,
        pipe: Any,
        name: str,
        texts: Texts,
        guidance_scale: float,
        steps: int,
        generator: torch.Generator,
        table: Table,
        latents: torch.Tensor,
        begin: int | None = None,
    ) -> Row:
        device = _device(pipe)
        latents = devices.there(latents, device, torch.float32)
        state = torch.zeros(1 + table.slots, *latents.shape[1:], device=device)
        state[0] = latents[0]
        row = Row(name, table, state, texts, guidance_scale, generator)
        if texts.pooled is not None:
            if getattr(pipe.config, "requires_aesthetics_score", False):
                raise ValueError("A refiner is told other things than SDXL's base: it does not join a batch.")
            height, width = (side * pipe.vae_scale_factor for side in latents.shape[-2:])
            row.time_ids = torch.tensor([height, width, 0, 0, height, width], dtype=texts.prompt.dtype)
        if dim := pipe.unet.config.time_cond_proj_dim:
            told = torch.tensor(guidance_scale - 1).repeat(1)
            row.told_guidance = pipe.get_guidance_scale_embedding(told, embedding_dim=dim)[0].to(texts.prompt.dtype)
        if not table.is_linear:
            row.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
            row.scheduler.set_timesteps(steps)
            if begin is not None and hasattr(row.scheduler, "set_begin_index"):
                row.scheduler.set_begin_index(begin)
        return row


def _device(pipe: Any) -> torch.device:
    """Where a pipeline computes of which nothing is offloaded. Its own answer walks all modules, some milliseconds."""
    device: torch.device = next(pipe.unet.parameters()).device
    return device
