"""The text in each picture from which other tools read how it was made: A1111's format.

Source of the format: `create_infotext` of AUTOMATIC1111/stable-diffusion-webui 1.10.1; the PNG text key is `parameters`.
"""

from __future__ import annotations

import json

from spooler import __version__
from spooler.job import Job
from spooler.record import EngineFacts


def infotext(job: Job, seed: int, size: tuple[int, int], engine: EngineFacts) -> str:
    """The prompt, the negative prompt and one line of settings of one picture. `size` is width and height in pixels."""
    settings = {
        "Steps": job.steps,
        "Sampler": job.sampler,
        "Schedule type": job.scheduler,
        "CFG scale": f"{job.guidance_scale:g}",
        "Seed": seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model hash": engine.hash[:10],
        "Model": engine.model,
        "RNG": "CPU",
        "Version": f"sdspool {__version__}",
    }
    lines = [job.prompt]
    if job.negative_prompt:
        lines.append(f"Negative prompt: {job.negative_prompt}")
    lines.append(", ".join(f"{key}: {_quoted(str(value))}" for key, value in settings.items()))
    return "\n".join(lines).strip()


def _quoted(value: str) -> str:
    """A value that would read as several is written as a JSON string."""
    return json.dumps(value, ensure_ascii=False) if any(c in value for c in ",:\n") else value
