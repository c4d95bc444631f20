"""The models that a job may name, and each one's defaults. Read from a model folder's own JSON files: no torch, no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from spooler.job import Job, JobError, Mistake, did_you_mean, show

DEMO = Path(__file__).parent / "demo_model"

#: Pipeline classes of the families that the engine knows by name; others go through the library's own call.
FAMILIES = {"StableDiffusionPipeline": "sd1", "StableDiffusionXLPipeline": "sdxl"}


class ModelError(ValueError):
    """A model that cannot be used: met by the operator who configured it, the sentence says what is missing."""


class ModelCard(BaseModel):
    """What a form, a job and a person need to know of a model. Sides are pixels."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    family: str
    width: int
    height: int
    steps: int = 25
    guidance_scale: float = 7.0
    sampler: str = "DPM++ 2M"
    scheduler: str = "Automatic"


def find(model: str) -> Path:
    """The folder of the setting `model`."""
    return DEMO if model == "demo" else Path(model).expanduser()


def read_card(model: str) -> ModelCard:
    """The card of the setting `model`, from its folder. Raises ModelError for a folder that the engine could not load.

    A file sdspool.json in the folder may set any field of the card.
    """
    folder = find(model)
    index = _read_json(folder / "model_index.json", f"`model` must be `demo` or a diffusers folder, but {model!r}")
    if not any(folder.glob("*/*.safetensors")):
        raise ModelError(
            f"`model` must have its weights as safetensors files, but {model!r} has none (pickles are not loaded)."
        )
    pipeline = str(index.get("_class_name"))
    family = FAMILIES.get(pipeline, pipeline)
    side = 512
    if (unet_file := folder / "unet" / "config.json").exists():
        unet = _read_json(unet_file, f"The model {model!r}")
        if family == "sd1" and unet.get("cross_attention_dim") == 1024:
            family = "sd2"
        if isinstance(unet.get("sample_size"), int):
            side = unet["sample_size"] * 8
    fields: dict[str, Any] = {
        "name": "demo" if folder == DEMO else folder.name,
        "family": family,
        "width": side,
        "height": side,
    }
    if (own := folder / "sdspool.json").exists():
        fields |= _read_json(own, f"The model {model!r}")
    try:
        return ModelCard.model_validate(fields)
    except ValidationError as error:
        raise ModelError(f"The file sdspool.json of the model {model!r} is wrong: {error}") from error


def check(job: Job, names: list[str]) -> None:
    """Raise JobError when the job names a model that is not among the configured ones."""
    if job.model and job.model not in names:
        known = ", ".join(names)
        rule = f"`model` must be one of {known}{did_you_mean(job.model, names)}, but is {show(job.model)}."
        raise JobError(Mistake("model", rule))


def resolve(job: Job, card: ModelCard, random_seed: int) -> Job:
    """The job with every default of the model and the seed filled in: all that the engine has to know."""
    defaults = {name: getattr(card, name) for name in ("width", "height", "steps", "guidance_scale", "sampler", "scheduler")}
    given = {name: value for name, value in job.model_dump().items() if value is not None}
    filled = defaults | given | {"model": card.name}
    if job.seed == -1:
        filled["seed"] = random_seed
    if job.sampler is not None and job.scheduler is None:
        filled["scheduler"] = "Automatic"  # the model's default schedule belongs to the model's default sampler
    return Job.model_validate(filled)


def _read_json(path: Path, who: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{who} has no readable {path.name}: {error}.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{who} has a {path.name} that is no JSON object.")
    return value
