"""Which jobs may be drawn together: those that have one key.

There are two ways. Those of a family whose UNet we call ourselves share each call of it: the key tells what they must have in
common (model with LoRAs, VAE, size); whatever else they ask for (sampler, schedule, steps, guidance, seed, prompts, from noise,
over a picture, within a mask) is each one's own, and one may join at any step. Those of a family that is called whole share one
call of its pipeline from its first step to its last: steps and guidance are in their key too, their own are prompts and seeds.
A job that has no key is drawn alone, by the pipeline of its kind.
"""

from __future__ import annotations

from collections.abc import Sequence

from spooler.catalogue import ModelCard, loras_of, size_of
from spooler.job import Job

#: Families whose network is the UNet that engine/batch.py calls.
FAMILIES = frozenset({"sd1", "sd2", "sdxl"})
#: Families whose pipeline is called once for several prompts and seeds.
CALLED_WHOLE = frozenset({"sd3", "flux", "pixart", "sana", "z-image", "qwen-image"})
#: No job has it: nothing is like a job that is drawn alone.
ALONE = ""


def key(job: Job, card: ModelCard | None, input_size: tuple[int, int] | None = None) -> str:
    """The key of one cell, with or without its defaults filled in; ALONE when it has none, or its size is not known.

    A job over a picture takes the picture's size, `input_size`, unless it names one.
    """
    if card is None or card.family not in FAMILIES | CALLED_WHOLE or _is_apart(job):
        return ALONE
    is_whole = card.family in CALLED_WHOLE
    if is_whole and job.image:
        return ALONE
    if job.image and not (input_size or (job.width and job.height)):
        return ALONE
    width, height = size_of(job, card, input_size)
    loras = ",".join(sorted(f"{lora.name}:{lora.weight:g}" for lora in loras_of(job) if lora.weight))
    shared = [card.name, f"{width}x{height}", f"vae={job.vae}", f"loras={loras}"]
    if is_whole:
        guidance = card.guidance_scale if job.guidance_scale is None else job.guidance_scale
        shared += [f"steps={job.steps or card.steps}", f"guidance={guidance:g}", f"cutoff={job.guidance_cutoff:g}"]
    return " ".join(shared)


def key_of_all(cells: Sequence[Job], card: ModelCard | None) -> str:
    """The key of a whole job: of one whose cells differ in what they would have to share, ALONE."""
    keys = {key(cell, card) if card and cell.model in ("", card.name) else ALONE for cell in cells}
    return keys.pop() if len(keys) == 1 else ALONE


def _is_apart(job: Job) -> bool:
    """Whether it is of a kind that is drawn in several stages, or by another network than the UNet alone."""
    several = bool(job.hires and not job.image) or job.refiner or job.upscale or job.sweep
    nothing = job.image and job.strength == 0  # to be drawn: the picture stays as it is
    return bool(several or nothing or job.controls or job.upscales_only)
