"""The text in each picture from which other tools read how it was made: A1111's format, written and read.

Source of the format: `create_infotext` and `parse_generation_parameters` of AUTOMATIC1111/stable-diffusion-webui 1.10.1; the
PNG text key is `parameters`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from spooler import __version__, samplers
from spooler.job import Job

#: Under which a picture has the text.
KEYWORD = "parameters"


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
        "Guidance cutoff": f"{job.guidance_cutoff:g}" if job.guidance_cutoff < 1 else None,
        "DeepCache interval": job.deepcache_interval if job.deepcache_interval > 1 else None,
        "Seed": seed,
        # The size that is drawn first, as A1111 has it: a reader multiplies it by "Hires upscale" again.
        "Size": f"{job.width}x{job.height}",
        "Model hash": model_hash[:10],
        "Model": model,
        "VAE": job.vae or None,
        "Clip skip": job.clip_skip if job.clip_skip > 1 else None,
        "Variation seed": job.variation_seed_of(seed) if job.variation_strength else None,
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


#: Settings of A1111 that are job fields by another name: (key, field, its kind).
_FIELDS: tuple[tuple[str, str, type], ...] = (
    ("Steps", "steps", int),
    ("CFG scale", "guidance_scale", float),
    ("Guidance cutoff", "guidance_cutoff", float),
    ("DeepCache interval", "deepcache_interval", int),
    ("Seed", "seed", int),
    ("Clip skip", "clip_skip", int),
    ("Variation seed", "variation_seed", int),
    ("Variation seed strength", "variation_strength", float),
    ("Mask blur", "mask_blur", int),
    ("Masked area padding", "inpaint_padding", int),
)
#: Keys of the line of settings that `parse` reads, or that change no picture.
KEYS = frozenset(
    {key for key, _, _ in _FIELDS}
    | {"Size", "Sampler", "Schedule type", "Model", "Model hash", "VAE", "VAE hash", "Inpaint area", "Denoising strength"}
    | {"Hires upscale", "Hires resize", "Hires steps", "Hires upscaler", "First pass size", "Refiner", "Refiner switch at"}
    | {"Postprocess upscale by", "Postprocess upscaler", "RNG", "Version", "Lora hashes", "TI hashes"}
)
#: Ends of file names that A1111 and its heirs leave on a model's or VAE's name.
_WEIGHTS = (".safetensors", ".ckpt", ".vae.pt", ".pt", ".bin", ".sft", ".gguf")
_SIZE = re.compile(r"(\d{1,9})x(\d{1,9})")
_KEY = re.compile(r"\w[\w \-/]+")
_QUOTED = re.compile(r'"(?:\\.|[^\\"])++"(?=,|$)')
_HASH = re.compile(r" ?\[[0-9a-f]{6,64}\]$")
_NEGATIVE = "Negative prompt:"


def parse(text: str) -> dict[str, Any]:
    """The fields of a job that the text tells, unknown settings left out; the way back of `infotext`. Nothing is judged here.

    It reads what A1111, Forge and sdspool write: a prompt and a negative prompt of any number of lines, then one line of at
    least three settings, without which all is prompt. Old forms are understood: the schedule behind the sampler's name, `First
    pass size`. What is not in a text stays away: the pictures of img2img, inpainting and ControlNet. A prompt of sdspool's own
    that has a line beginning with "Negative prompt:" cannot be told from a negative prompt.
    """
    prompt, negative, settings = split(text)
    fields: dict[str, Any] = {"prompt": prompt} if prompt else {}
    if negative:
        fields["negative_prompt"] = negative
    ours = settings.get("Version", "").startswith("sdspool ")
    for key, name, kind in _FIELDS:
        if key in settings:
            fields[name] = _number(settings[key], kind)
    if size := _size(settings.get("Size")):
        fields["width"], fields["height"] = size
    if sampler := settings.get("Sampler"):
        fields["sampler"], schedule = samplers.split(sampler)
        if schedule := settings.get("Schedule type", schedule):
            fields["scheduler"] = schedule
    if model := settings.get("Model"):
        fields["model"] = model if ours else stem(model)
    if (vae := settings.get("VAE")) and (ours or vae not in ("None", "Automatic")):
        fields["vae"] = vae if ours else stem(vae)
    if "Inpaint area" in settings:
        fields["inpaint_area"] = "masked" if settings["Inpaint area"] == "Only masked" else "whole"
    if hires := _hires(settings, fields):
        fields["hires"] = hires
    elif "Denoising strength" in settings:
        fields["strength"] = _number(settings["Denoising strength"], float)
    if refiner := settings.get("Refiner"):
        fields["refiner"] = {"model": refiner if ours else stem(refiner)}
        if "Refiner switch at" in settings:
            fields["refiner"]["switch_at"] = _number(settings["Refiner switch at"], float)
    if "Postprocess upscale by" in settings:
        fields["upscale"] = {"scale": _number(settings["Postprocess upscale by"], float)}
        if upscaler := settings.get("Postprocess upscaler"):
            fields["upscale"]["upscaler"] = upscaler
    return fields


def split(text: str) -> tuple[str, str, dict[str, str]]:
    """The prompt, the negative prompt and the settings of a text, as they stand there."""
    lines = text.strip().split("\n")
    settings: dict[str, str] = {}
    # Some extensions put lines of their own behind the settings, which begin with the steps.
    steps_at = max((at for at, line in enumerate(lines) if line.startswith("Steps: ")), default=len(lines) - 1)
    for at in dict.fromkeys((steps_at, len(lines) - 1)):
        settings = dict(_settings(lines[at]))
        if len(settings) >= 3:
            lines = lines[:at]
            break
    else:
        settings = {}
    return *_prompts(lines), settings


def _prompts(lines: list[str]) -> tuple[str, str]:
    """Prompt and negative prompt, the lines joined as they were."""
    parts: tuple[list[str], list[str]] = ([], [])
    negative = False
    for line in lines:
        if line.lstrip().startswith(_NEGATIVE):
            negative, line = True, line.lstrip().removeprefix(_NEGATIVE)
        parts[negative].append(line.removesuffix("\r"))
    return "\n".join(parts[0]).strip(), "\n".join(parts[1]).strip()


def _settings(line: str) -> Iterator[tuple[str, str]]:
    """The pairs of a line `key: value, key: "quoted, value"`, as A1111 reads it but in one pass, however the line is made."""
    at = 0
    while at < len(line):
        comma = line.find(",", at)
        end = len(line) if comma < 0 else comma
        colon = line.find(":", at, end)
        key = line[at:colon].strip() if colon >= 0 else ""
        if colon >= 0:
            value_at = colon + 1
            while value_at < len(line) and line[value_at].isspace():
                value_at += 1
            if quoted := _QUOTED.match(line, value_at):
                end = quoted.end()
            if _KEY.fullmatch(key):
                yield key, _unquoted(line[value_at:end].strip())
        at = end + 1


def _unquoted(value: str) -> str:
    if value.startswith('"') and value.endswith('"') and len(value) > 1:
        try:
            return str(json.loads(value))
        except ValueError:  # A1111 leaves such a value as it is
            return value
    return value


def _hires(settings: dict[str, str], fields: dict[str, Any]) -> dict[str, Any]:
    """The second pass; empty when there was none. The size in `fields` becomes the first pass's where an old text has both."""
    hires: dict[str, Any] = {}
    first, resized = _size(settings.get("First pass size")), _size(settings.get("Hires resize"))
    drawn = (fields["width"], fields["height"]) if "width" in fields else None
    if "Hires upscale" in settings:
        hires["scale"] = _number(settings["Hires upscale"], float)
    elif resized and drawn and any(resized):
        hires["scale"] = _scale(drawn, resized)
    elif first and drawn and all(first):  # until 2023: the size that is drawn first beside that of the result
        fields["width"], fields["height"] = first
        hires["scale"] = _scale(first, drawn)
    else:
        return {}
    if "Denoising strength" in settings:
        hires["strength"] = _number(settings["Denoising strength"], float)
    if settings.get("Hires steps", "0") != "0":
        hires["steps"] = _number(settings["Hires steps"], int)
    if settings.get("Hires upscaler", "None") != "None":
        hires["upscaler"] = settings["Hires upscaler"]
    return hires


def _scale(drawn: tuple[int, int], wanted: tuple[int, int]) -> float:
    """How many times as large: A1111 fills the wanted size, of which a side may be 0 for "whatever it gives"."""
    return round(max(to / (of or 1) for of, to in zip(drawn, wanted, strict=True)), 4)


def _size(value: str | None) -> tuple[int, int] | None:
    match = _SIZE.fullmatch(value or "")
    return (int(match[1]), int(match[2])) if match else None


def _number(value: str, kind: type) -> int | float | str:
    """The number; a text that is none is left for the rules of a job to name."""
    if re.fullmatch(r"-?\d{1,20}", value, re.ASCII):
        return int(value)
    if kind is float and re.fullmatch(r"-?\d{0,20}\.?\d{1,40}(e[+-]?\d{1,3})?", value, re.ASCII):
        return float(value)
    return value


def stem(value: str) -> str:
    """A model's name without its hash, its folders and its file's ending: so a server names it."""
    name = re.split(r"[\\/]", _HASH.sub("", value))[-1]
    for ending in _WEIGHTS:
        if len(name) > len(ending) and name.lower().endswith(ending):
            return name[: -len(ending)]
    return name
