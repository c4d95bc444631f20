"""The text in each picture from which other tools read how it was made: A1111's format.

Source of the format: `create_infotext` of AUTOMATIC1111/stable-diffusion-webui 1.10.1; the PNG text key is `parameters`.
"""

from __future__ import annotations

import json

from spooler import __version__
from spooler.job import Job


def infotext(job: Job, seed: int, model: str, model_hash: str) -> str:
    """The prompt, the negative prompt and one line of settings of one picture."""
    if job.upscales_only and job.upscale:
        done = f"Postprocess upscale by: {job.upscale.scale:g}, Postprocess upscaler: {job.upscale.upscaler}"
        return f"{done}, Version: sdspool {__version__}"
    settings: dict[str, object] = {
        "Steps": job.steps,
        "Sampler": job.sampler,
        "Schedule type": job.scheduler if job.sampler else None,
        "CFG scale": f"{job.guidance_scale:g}",
        "Seed": seed,
        # The size that is drawn first, as A1111 has it: a reader multiplies it by "Hires upscale" again.
        "Size": f"{job.width}x{job.height}",
        "Model hash": model_hash[:10],
        "Model": model,
        "VAE": job.vae or None,
        "Clip skip": job.clip_skip if job.clip_skip > 1 else None,
        "Variation seed": job.variation_seed if job.variation_strength else None,
        "Variation seed strength": f"{job.variation_strength:g}" if job.variation_strength else None,
    }
    if job.image and not job.upscales_only:
        settings["Denoising strength"] = f"{job.strength:g}"
    if job.mask:
        settings |= {
            "Mask blur": job.mask_blur,
            "Inpaint area": "Only masked" if job.inpaint_area == "masked" else "Whole picture",
        }
    if job.hires:
        settings |= {
            "Denoising strength": f"{job.hires.strength:g}",
            "Hires upscale": f"{job.hires.scale:g}",
            "Hires upscaler": job.hires.upscaler,
            "Hires steps": job.hires.steps,
        }
    if job.refiner:
        settings |= {"Refiner": job.refiner.model, "Refiner switch at": f"{job.refiner.switch_at:g}"}
    for number, control in enumerate(job.controls):
        settings[f"ControlNet {number}"] = f"Model: {control.model}, Weight: {control.weight:g}"
    if job.upscale:
        settings |= {"Postprocess upscale by": f"{job.upscale.scale:g}", "Postprocess upscaler": job.upscale.upscaler}
    settings |= {
        "RNG": "CPU",
        "Version": f"sdspool {__version__}",
    }
    # A LoRA of the field is written as A1111 writes one, into the prompt.
    lines = [" ".join([job.prompt, *(f"<lora:{lora.name}:{lora.weight:g}>" for lora in job.loras)])]
    if job.negative_prompt:
        lines.append(f"Negative prompt: {job.negative_prompt}")
    lines.append(", ".join(f"{key}: {_quoted(str(value))}" for key, value in settings.items() if value is not None))
    return "\n".join(lines).strip()


def _quoted(value: str) -> str:
    """A value that would read as several is written as a JSON string."""
    return json.dumps(value, ensure_ascii=False) if any(c in value for c in ",:\n") else value
