"""The kinds of work: from a job (one cell, every field filled in) and its seeds to finished pictures.

    txt2img   noise -> denoise -> decode                     hires     txt2img -> enlarge -> img2img
    img2img   picture -> noise over it -> denoise -> decode  refiner   base to its latents -> refiner from there
    inpaint   img2img within a mask                          upscale   Lanczos or an ESRGAN, after any of these or alone

Each is the diffusers pipeline of that task, called with the job's parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image, ImageChops, ImageFilter, ImageOps
from PIL.Image import Image as Picture

from spooler.engine.cutoff import Cutoff
from spooler.engine.deepcache import kept_between
from spooler.engine.model import Model, Task, parameters
from spooler.engine.row import Desk, Row
from spooler.engine.upscale import Upscalers
from spooler.job import Job

#: Called at each step with the number of the step within its stage, all steps of the stage, and the latents.
OnStep = Callable[[int, int, Any, Model], None]


class Shelf(Protocol):
    """Where the models are."""

    def get(self, name: str) -> Model:
        """The model of that name, loaded."""


@dataclass(frozen=True)
class Studio:
    """What drawing needs besides the job."""

    models: Shelf
    upscalers: Upscalers
    inputs: dict[str, Picture]  # RGB, by the names that the job uses
    on_stage: Callable[[str, int], None]  # "denoise" or "upscale" begins, with its number of steps
    on_step: OnStep
    on_tile: Callable[[int, int], None]
    is_warm_up: bool = False


@torch.inference_mode()
def pictures(job: Job, seeds: list[int], studio: Studio) -> list[Picture]:
    """One RGB picture for each seed, all drawn in one batch. Every default of `job` is filled in.

    Raises NotFiniteError, torch.OutOfMemoryError, ValueError for what the model cannot do, and what `studio.on_step` raises.
    """
    if job.upscales_only:
        drawn = [studio.inputs[job.image or ""]] * len(seeds)
    elif job.mask:
        drawn = _inpaint(job, seeds, studio)
    elif job.image:
        drawn = _over(job, seeds, studio, [_fitted(job, studio.inputs)] * len(seeds), job.strength)
    elif job.refiner:
        drawn = _base_and_refiner(job, seeds, studio)
    else:
        drawn = _txt2img(job, seeds, studio)
    if job.hires and not job.image:
        drawn = _hires(job, seeds, drawn, studio)
    if job.upscale:
        drawn = [_upscale(picture, job.upscale.upscaler, job.upscale.scale, studio) for picture in drawn]
    return drawn


@torch.inference_mode()
def in_one_call(jobs: Sequence[Job], seeds: list[int], studio: Studio, output_type: str = "pil") -> Any:
    """A picture of each job with its seed, by one call of the pipeline; or their latents. The jobs have one key that says that
    their model is called whole (spooler/company.py), so they differ in prompts and seeds alone.

    Raises as `pictures` does.
    """
    return _call(jobs[0], seeds, studio, "txt2img", output_type, jobs)


def _txt2img(job: Job, seeds: list[int], studio: Studio) -> Any:
    # The first pass of a latent hires fix is not decoded.
    return _call(job, seeds, studio, "txt2img", output_type="latent" if _latent_hires(job) else "pil")


def _base_and_refiner(job: Job, seeds: list[int], studio: Studio) -> Any:
    """SDXL's ensemble of denoisers: the base hands its latents over, still noisy, and the refiner goes on from there."""
    assert job.refiner  # noqa: S101 - for the type checker
    first, second = _cut(job)
    base = job.model_copy(update=first)
    latents = _call(base, seeds, studio, "txt2img", denoising_end=job.refiner.switch_at, output_type="latent")
    refined = job.model_copy(update={"model": job.refiner.model, "loras": [], "refiner": None, "vae": ""} | second)
    part = {"image": latents, "denoising_start": job.refiner.switch_at}
    return _call(refined, seeds, studio, "img2img", **part, output_type="latent" if _latent_hires(job) else "pil")


def _cut(job: Job) -> tuple[dict[str, float], dict[str, float]]:
    """What the cut-off of guidance comes to for the base and for the refiner, of whose own steps each takes a part."""
    assert job.refiner  # noqa: S101 - for the type checker
    part, switch = job.guidance_cutoff, job.refiner.switch_at
    if part <= switch:
        return {"guidance_cutoff": part / switch}, {"guidance_scale": 1.0}
    return {"guidance_cutoff": 1.0}, {"guidance_cutoff": (part - switch) / (1 - switch) if switch < 1 else 1.0}


def _hires(job: Job, seeds: list[int], first: Any, studio: Studio) -> Any:
    """The second pass, over the first one's latents or pictures enlarged."""
    assert job.hires and job.width and job.height  # noqa: S101 - for the type checker
    multiple = 32 if job.width % 32 == 0 and job.height % 32 == 0 else 8
    width, height = (round(side * job.hires.scale / multiple) * multiple for side in (job.width, job.height))
    second = job.model_copy(update={"width": width, "height": height, "steps": job.hires.steps or job.steps, "refiner": None})
    if _latent_hires(job):
        model = studio.models.get(job.model)
        factor = first.shape[-1] / job.width
        size = (round(height * factor), round(width * factor))
        image: Any = torch.nn.functional.interpolate(first.float(), size=size, mode="bilinear").to(model.dtype)
    else:
        enlarged = (_upscale(picture, job.hires.upscaler, job.hires.scale, studio) for picture in first)
        image = [each.resize((width, height), Image.Resampling.LANCZOS) for each in enlarged]
    return _over(second, seeds, studio, image, job.hires.strength)


def _over(job: Job, seeds: list[int], studio: Studio, image: Any, strength: float) -> Any:
    """img2img over one picture for each seed, or over latents; of strength 0 the pictures as they are."""
    if strength == 0 and isinstance(image, list):
        return image
    return _call(job, seeds, studio, "img2img", image=image, strength=_strength(job, strength))


def _strength(job: Job, strength: float) -> float:
    """The strength, but of one step at least: the pipelines take `int(steps * strength)` steps, and fail with none.

    Not a hair more: others take `steps - int(steps - steps * strength)`, which would be two.
    """
    steps = job.steps or 1
    one = 1 / steps
    return max(strength, one if steps * one >= 1 else math.nextafter(one, 1))


def _latent_hires(job: Job) -> bool:
    return bool(job.hires and job.hires.upscaler == "Latent")


def _fitted(job: Job, inputs: Mapping[str, Picture]) -> Picture:
    """The picture that an img2img job starts from, at the job's size."""
    return ImageOps.fit(inputs[job.image or ""], _size(job), Image.Resampling.LANCZOS)


def _inpaint(job: Job, seeds: list[int], studio: Studio) -> list[Picture]:
    """Repaint where the mask is white; every other pixel is the input's own, to the bit."""
    window = Window.of(job, studio.inputs)
    if window is None:
        return [studio.inputs[job.image or ""].copy() for _ in seeds]
    count = len(seeds)
    inputs: dict[str, Any] = {"image": [window.start] * count, "mask_image": [window.area] * count}
    drawn = _call(job, seeds, studio, "inpaint", **inputs, strength=_strength(job, job.strength))
    return [window.laid_over(picture) for picture in drawn]


@dataclass(frozen=True)
class Window:
    """The part of a picture that an inpainting job draws anew."""

    start: Picture  # at the job's size
    area: Picture  # its mask: white is drawn
    _image: Picture
    _box: tuple[int, int, int, int]
    _soft: Picture

    @classmethod
    def of(cls, job: Job, inputs: Mapping[str, Picture]) -> Window | None:
        """The job's; None when there is nothing to draw."""
        image, mask = inputs[job.image or ""], inputs[job.mask or ""].convert("L")
        if mask.size != image.size:
            mask = mask.resize(image.size, Image.Resampling.NEAREST)
        mask = mask.point(lambda value: 255 if value >= 128 else 0)
        box = mask.getbbox()
        if box is None or job.strength == 0:
            return None
        whole = job.inpaint_area == "whole"
        box = (0, 0, *image.size) if whole else _window(box, job.inpaint_padding, image.size, _size(job))
        # Fading in inside the white: what the mask keeps black is not touched.
        soft = ImageChops.multiply(mask.filter(ImageFilter.GaussianBlur(job.mask_blur)), mask)
        return cls(
            start=image.crop(box).resize(_size(job), Image.Resampling.LANCZOS),
            area=mask.crop(box).resize(_size(job), Image.Resampling.NEAREST),
            _image=image,
            _box=box,
            _soft=soft.crop(box),
        )

    def laid_over(self, picture: Picture) -> Picture:
        """The whole picture, with what was drawn in its window."""
        left, top, right, bottom = self._box
        result = self._image.copy()
        result.paste(picture.resize((right - left, bottom - top), Image.Resampling.LANCZOS), (left, top), self._soft)
        return result


def _window(
    box: tuple[int, int, int, int], padding: int, size: tuple[int, int], drawn: tuple[int, int]
) -> tuple[int, int, int, int]:
    """The box with its padding, widened towards the shape that is drawn, within the picture."""
    left, top, right, bottom = box[0] - padding, box[1] - padding, box[2] + padding, box[3] + padding
    left, top, right, bottom = max(0, left), max(0, top), min(size[0], right), min(size[1], bottom)
    width, height = right - left, bottom - top
    want_width = min(size[0], max(width, round(height * drawn[0] / drawn[1])))
    want_height = min(size[1], max(height, round(width * drawn[1] / drawn[0])))
    left = min(max(0, left - (want_width - width) // 2), size[0] - want_width)
    top = min(max(0, top - (want_height - height) // 2), size[1] - want_height)
    return left, top, left + want_width, top + want_height


def _upscale(picture: Picture, upscaler: str, scale: float, studio: Studio) -> Picture:
    studio.on_stage("upscale", 1)
    return studio.upscalers.upscale(picture, upscaler, scale, studio.on_tile)


def _size(job: Job) -> tuple[int, int]:
    return job.width or 0, job.height or 0


def _call(
    job: Job,
    seeds: list[int],
    studio: Studio,
    task: Task,
    output_type: str = "pil",
    others: Sequence[Job] = (),
    **more: Any,
) -> Any:
    """Call the job's model for one stage: a list of pictures, or latents (len(seeds), channels, h, w).

    `others`: where the pictures are not all of one job, whose each of them is; only the prompts are taken from there.
    """
    model = studio.models.get(job.model)
    model.dress(job)
    pipe = model.pipeline(task, tuple(control.model for control in job.controls), job.vae)
    model.set_sampler(pipe, job)
    known = parameters(pipe)

    # 1. The prompt, how strongly it steers, and where chance comes from: picture i is that of its own seed.
    texts = [model.encode(pipe, each) for each in others] or [model.encode(pipe, job)]
    is_one_text = all(each == texts[0] for each in texts)
    arguments: dict[str, Any] = texts[0] if is_one_text else _side_by_side(texts)
    arguments = arguments | model.guidance(pipe, job) | more
    arguments |= {"num_inference_steps": job.steps, "num_images_per_prompt": len(seeds) if is_one_text else 1}
    arguments["output_type"] = output_type
    # On the CPU whatever the device is: the same seed draws the same noise everywhere.
    arguments["generator"] = generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    arguments |= {name: value for name, value in (("width", job.width), ("height", job.height)) if name in known}
    if task == "txt2img" and model.is_unet:
        noise = model.noise(job, seeds)
        for generator in generators:  # as far on as if the pipeline had drawn the noise itself
            torch.randn((1, *noise.shape[1:]), generator=generator)
        arguments["latents"] = noise.to(model.device)
    if job.controls:
        arguments |= _controls(job, studio, task)
    # PixArt and Sana would draw another size of a fixed list, and PixArt strip HTML with a package that is not needed.
    arguments |= {name: False for name in ("use_resolution_binning", "clean_caption") if name in known}

    # 2. A sign of life at each step, where the job can also be stopped.
    steps = _expected_steps(job.steps or 1, more)
    studio.on_stage("denoise", steps)
    cutoff = Cutoff(pipe, job.guidance_cutoff, len(seeds)) if job.guidance_cutoff < 1 else None

    def moved_on(index: int, all_steps: int, latents: Any) -> None:
        if cutoff:
            cutoff.ticked(index + 1, all_steps)
        studio.on_step(index + 1, all_steps, latents, model)

    if "callback_on_step_end" in known:

        def step_end(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            moved_on(index, getattr(pipe, "num_timesteps", None) or steps, tensors.get("latents"))
            return {}

        arguments["callback_on_step_end"] = step_end
    else:  # PixArt's older way

        def step(index: int, timestep: Any, latents: Any) -> None:
            moved_on(index, steps, latents)

        arguments |= {"callback": step, "callback_steps": 1}

    # 3. Draw.
    if model.compiled:
        model.compiled.paused = model.is_dressed or studio.is_warm_up
    # Where parts of the model come and go, all of it is asked at each step: who moves them stands where the way past them is.
    is_cut = job.deepcache_interval > 1 and model.tricks.offload == "none"
    with (
        cutoff.at_the_door() if cutoff else nullcontext(),
        kept_between(pipe, job.deepcache_interval) if is_cut else nullcontext(),
    ):
        return pipe(**arguments).images


def _side_by_side(texts: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The texts of several jobs as lists; who has no negative prompt has an empty one, which is the same."""
    return {name: [each.get(name, "") for each in texts] for name in dict.fromkeys(name for each in texts for name in each)}


@dataclass(frozen=True)
class Begun:
    """A picture that was begun to be drawn in company, and how it is finished; without a row there is nothing to be drawn."""

    row: Row | None
    finish: Callable[[Picture], Picture]
    picture: Picture | None = None


@torch.inference_mode()
def begin(job: Job, seed: int, name: str, model: Model, desk: Desk, inputs: Mapping[str, Picture]) -> Begun:
    """Make the row of one picture, as `pictures` would begin it. The job has a key (spooler/company.py).

    Raises what the model and the pipeline's parts raise.
    """
    model.dress(job)
    task: Task = "inpaint" if job.mask else "img2img" if job.image else "txt2img"
    window = Window.of(job, inputs) if job.mask else None
    if job.mask and window is None:
        return Begun(None, as_it_is, inputs[job.image or ""].copy())
    pipe = model.pipeline(task, (), job.vae)
    model.set_sampler(pipe, job)
    texts = model.texts(pipe, job)
    generator = torch.Generator("cpu").manual_seed(seed)
    common = (pipe, name, texts, job.guidance_scale or 0.0, job.steps or 1)
    finish = as_it_is
    if window:
        strength, finish = _strength(job, job.strength), window.laid_over
        row = desk.within_mask(*common, window.start, window.area, strength, generator)
    elif job.image:
        row = desk.over_picture(*common, _fitted(job, inputs), _strength(job, job.strength), generator)
    else:
        noise = model.noise(job, [seed])
        torch.randn(noise.shape, generator=generator)  # as far on as if the noise had been drawn from it
        row = desk.from_noise(*common, noise, generator)
    row.guidance_cutoff, row.deepcache_interval = job.guidance_cutoff, job.deepcache_interval
    return Begun(row, finish)


def as_it_is(picture: Picture) -> Picture:
    """A picture that needs no finish."""
    return picture


def _controls(job: Job, studio: Studio, task: Task) -> dict[str, Any]:
    """The arguments for the job's ControlNets: bare for one, lists for several."""
    images = [studio.inputs[control.image].resize(_size(job), Image.Resampling.LANCZOS) for control in job.controls]
    given: dict[str, list[Any]] = {
        "image" if task == "txt2img" else "control_image": images,
        "controlnet_conditioning_scale": [control.weight for control in job.controls],
        "control_guidance_start": [control.start for control in job.controls],
        "control_guidance_end": [control.end for control in job.controls],
    }
    return {name: values if len(values) > 1 else values[0] for name, values in given.items()}


def _expected_steps(steps: int, more: Mapping[str, Any]) -> int:
    """How many of the steps a stage will take, for the progress bar; the pipeline knows better once it runs."""
    if "strength" in more:
        return max(1, int(steps * float(more["strength"])))
    if "denoising_end" in more:
        return max(1, round(steps * float(more["denoising_end"])))
    return max(1, round(steps * (1 - float(more.get("denoising_start", 0.0)))))


def planned_steps(job: Job) -> int:
    """The denoising steps of all the job's stages."""
    if job.upscales_only:
        return 1
    steps = _expected_steps(job.steps or 1, {"strength": job.strength} if job.image else {})
    if job.hires and not job.image:
        steps += _expected_steps(job.hires.steps or job.steps or 1, {"strength": job.hires.strength})
    return steps
