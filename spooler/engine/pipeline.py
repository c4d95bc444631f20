"""A warm diffusers pipeline: load once, call many."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
import transformers
from PIL.Image import Image as Picture

from spooler import models, samplers
from spooler.job import Job
from spooler.record import EngineFacts

#: A CUDA context that met one of these is lost: every later call in the process fails.
FATAL = ("illegal memory access", "device-side assert", "misaligned address", "launch failure", "CUDA error", "cuDNN error")
WARM_UP = Job(prompt="warm-up", width=64, height=64, steps=1, guidance_scale=2.0, sampler="Euler", scheduler="Automatic")

for library in (diffusers, transformers):
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()


class UnusableError(RuntimeError):
    """The engine cannot work here as configured, and trying again would not help: met by the operator at the start."""


class NotFiniteError(ArithmeticError):
    """NaN or infinity where a picture should be: met by whoever would otherwise have got a black one."""


class Pipeline:
    """One model on one device."""

    def __init__(self, pipe: Any, facts: EngineFacts):
        self.facts = facts
        self._pipe = pipe
        # The pipeline's constructor rewrites parts of the scheduler's config (steps_offset, clip_sample): take it from there.
        self._scheduler_config = dict(pipe.scheduler.config)

    @classmethod
    def load(cls, model: str, device_setting: str) -> Pipeline:
        """The model of the setting `model` on the device of the setting `device`, warm.

        Raises UnusableError or ModelError, whose sentence says what to change.
        """
        begun = time.perf_counter()

        # 1. Confirm the device before anything is read.
        device = choose_device(device_setting, model)
        precision = torch.float32 if device.type == "cpu" else torch.float16

        # 2. Load the weights, and hash them meanwhile (hashing leaves Python's lock alone).
        card = models.read_card(model)
        folder = models.find(model)
        with ThreadPoolExecutor(1) as pool:
            digest = pool.submit(hash_weights, folder)
            pipe = _load(folder, precision, device)
            hash_ = digest.result()

        # 3. Warm up: the first kernels are slow, and a model that cannot draw should say so now.
        facts = EngineFacts(
            model=card.name,
            hash=hash_,
            family=card.family,
            device=str(device),
            device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine() + " CPU",
            precision=str(precision).removeprefix("torch."),
            versions={
                "torch": torch.__version__,
                "diffusers": importlib.metadata.version("diffusers"),
                "transformers": importlib.metadata.version("transformers"),
            },
            load_seconds=0.0,
        )
        pipeline = cls(pipe, facts)
        pipeline.decode(pipeline.denoise(WARM_UP, seed=0, on_step=lambda step, steps: None))
        pipeline.facts = facts.model_copy(update={"load_seconds": round(time.perf_counter() - begun, 3)})
        return pipeline

    @torch.inference_mode()
    def denoise(self, job: Job, seed: int, on_step: Callable[[int, int], None]) -> torch.Tensor:
        """The latents of one picture, (1, channels, height/8, width/8), from pure noise.

        `on_step(step, steps)` is called after each call of the UNet, from 1 to steps; what it raises ends the denoising.
        Every field of `job` is filled in. Raises NotFiniteError.
        """
        sampler = samplers.find(job.sampler or "")
        assert sampler and job.scheduler  # noqa: S101 - the spooler fills every field in
        scheduler_class = getattr(diffusers, sampler.scheduler_class)
        self._pipe.scheduler = scheduler_class.from_config(self._scheduler_config, **sampler.config(job.scheduler))

        def step_end(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            on_step(index + 1, pipe.num_timesteps)
            return {}

        latents = self._pipe(
            prompt=job.prompt,
            negative_prompt=job.negative_prompt or None,
            width=job.width,
            height=job.height,
            num_inference_steps=job.steps,
            guidance_scale=job.guidance_scale,
            # On the CPU whatever the device is: the same seed draws the same noise everywhere.
            generator=torch.Generator("cpu").manual_seed(seed),
            callback_on_step_end=step_end,
            output_type="latent",
        ).images
        if not torch.isfinite(latents).all():
            raise NotFiniteError("The denoised latents are not finite; try another sampler or a lower guidance_scale.")
        return cast(torch.Tensor, latents)

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> Picture:
        """The picture of latents (1, channels, h, w): 8h by 8w pixels. Raises NotFiniteError rather than give a black one."""
        vae = self._pipe.vae
        image = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]  # (1, 3, height, width) in -1..1
        if not torch.isfinite(image).all():
            # Half precision overflows in some VAEs (SDXL's): once more in float32.
            dtype = vae.dtype
            vae.to(torch.float32)
            try:
                image = vae.decode(latents.float() / vae.config.scaling_factor, return_dict=False)[0]
            finally:
                vae.to(dtype)
            if not torch.isfinite(image).all():
                raise NotFiniteError("The decoded picture is not finite, in float32 too.")
        pictures = self._pipe.image_processor.postprocess(image.float(), output_type="pil")
        return cast(Picture, pictures[0])

    @staticmethod
    def code_of(error: Exception) -> str:
        """The failure's code for programs."""
        if isinstance(error, torch.OutOfMemoryError):
            return "out_of_memory"
        return "not_finite" if isinstance(error, NotFiniteError) else "engine_error"

    @staticmethod
    def is_fatal(error: Exception) -> bool:
        """Whether the process is of no more use after this error."""
        return not isinstance(error, torch.OutOfMemoryError) and any(text in str(error) for text in FATAL)


def choose_device(setting: str, model: str) -> torch.device:
    """The device of the setting. Raises UnusableError when it is not there."""
    if setting == "auto":
        if torch.cuda.is_available():
            setting = "cuda"
        elif model == "demo":
            setting = "cpu"
        else:
            raise UnusableError("`device` is auto, but no GPU was found: give --device cpu to draw on the CPU, slowly.")
    try:
        device = torch.device(setting)
        torch.ones(2, device=device).sum().item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UnusableError(f"`device` must be one that torch can use here, but {setting!r} is not: {reason}") from error
    return device


def hash_weights(folder: Path) -> str:
    """SHA-256 over the names and bytes of the folder's safetensors files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*/*.safetensors")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _load(folder: Path, precision: torch.dtype, device: torch.device) -> Any:
    """The pipeline of the folder, on the device. Only safetensors, only local files, no code from the folder."""
    try:
        pipe = diffusers.AutoPipelineForText2Image.from_pretrained(
            folder,
            dtype=precision,
            variant=_variant(folder, precision),
            use_safetensors=True,
            local_files_only=True,
            safety_checker=None,
            requires_safety_checker=False,
        )
        pipe = pipe.to(device)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise UnusableError(f"The model in {folder} could not be loaded: {error}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _variant(folder: Path, precision: torch.dtype) -> str | None:
    """The half-precision variant of the weights where there is one: half the bytes to read."""
    return "fp16" if precision == torch.float16 and any(folder.glob("*/*.fp16.safetensors")) else None
