"""The models that a job may name, and what else it may lay over them. Read from folders and file headers: no torch, no weights.

The folder of the setting `models` is looked through once, at the start:

    models/<name>/                a diffusers folder (model_index.json), safetensors weights
    models/<name>.safetensors     a single-file checkpoint: SD 1.x, 2.x, SDXL, SDXL refiner
    models/<name>.json            sets fields of the card of <name>; so does sdspool.json inside a folder
    models/<name>.config/         for an odd single file: the pipeline config to use instead of the shipped one
    models/hub.json               {"<name>": "<hub id>"}: models of the local Hugging Face cache; nothing is downloaded
    models/loras/  embeddings/  vaes/  controlnets/  upscalers/      what a job may add, each by its file's or folder's name

Pickles (.ckpt, .pt, .pth, .bin) are refused: loading one runs whatever code is in it.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spooler import checkpoint, families, samplers
from spooler.job import Job, Lora
from spooler.mistakes import JobError, Mistake, did_you_mean, show
from spooler.prompt import extract_loras

DEMO = Path(__file__).parent / "demo_model"
PICKLES = (".ckpt", ".pt", ".pth", ".bin")

AddOn = Literal["loras", "embeddings", "vaes", "controlnets", "upscalers"]
ADD_ONS: tuple[AddOn, ...] = get_args(AddOn)
#: Of a finished picture: 8192 x 8192 and a little.
MAX_PIXELS = 72_000_000
#: The fields of a card that fill in what a job leaves out.
DEFAULTS = ("width", "height", "steps", "guidance_scale", "sampler", "scheduler")
#: Those that a model's own JSON file may set.
OWN = frozenset({*DEFAULTS, "family", "prediction_type", "inpainting"})
#: What the file of an add-on looks like inside.
LOOKS: dict[AddOn, str] = {"loras": "lora", "embeddings": "embedding", "vaes": "vae", "upscalers": "upscaler"}
#: Width and height in pixels of the pictures that a job names, upright, by their names.
Sizes = Mapping[str, tuple[int, int]]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
#: Upscalers that need no file.
BUILT_IN_UPSCALERS = ("Lanczos",)


class ModelError(ValueError):
    """A model that cannot be used: met by the operator who configured it, the sentence says what is missing."""


class ModelCard(BaseModel):
    """What a form, a job and a person need to know of a model. Sides are pixels."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    name: str
    family: str
    width: int
    height: int
    steps: int = 25
    guidance_scale: float = 7.0
    sampler: str = "DPM++ 2M"
    scheduler: str = "Automatic"
    hash: str | None = Field(None, description="SHA-256 over its weight files, once they were read.")
    weight_bytes: int = Field(0, description="Bytes of its weights at half precision, as an estimate of the memory they need.")
    clip_skip: int = Field(12, description="The largest clip_skip that its text encoders have a layer for.")
    text_width: int | None = Field(None, description="Width of the text embeddings that its UNet reads.")
    inpainting: bool = Field(False, description="Whether it was trained to repaint: its UNet sees the mask.")
    prediction_type: str | None = Field(None, description="For a single file that does not say: epsilon or v_prediction.")


class Catalogue(BaseModel):
    """What a spooler offers: the models and what may be added to them, by name."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    models: tuple[ModelCard, ...] = ()
    loras: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
    vaes: tuple[str, ...] = ()
    controlnets: tuple[str, ...] = ()
    upscalers: tuple[str, ...] = BUILT_IN_UPSCALERS
    default: str = ""
    made_for: dict[str, int] = Field(
        {}, description="Text width of the models that an add-on was made for, where its file tells: by `loras/name`."
    )

    def card(self, name: str) -> ModelCard | None:
        """The card of that name, the default's for no name."""
        wanted = name or self.default
        return next((card for card in self.models if card.name == wanted), None)

    def check(self, job: Job, sizes: Sizes | None = None) -> None:
        """Raise JobError with all that the job names and is not there, or asks for and its model cannot do.

        `sizes` are those of the job's pictures as far as they are known: a small one may be enlarged too far.
        """
        known = sizes or {}
        found = dict.fromkeys(
            mistake for cell in job.cells() for mistake in self._mistakes(cell, known.get(cell.image) if cell.image else None)
        )
        if found:
            raise JobError(*found)

    def _mistakes(self, job: Job, start: tuple[int, int] | None) -> Iterator[Mistake]:
        names = [card.name for card in self.models]
        card = self.card(job.model)
        if card is None:
            yield _unknown("model", job.model, names)
        else:
            yield from families.mistakes(job, card.name, families.get(card.family))
            if "clip_skip" in families.get(card.family).kinds and job.clip_skip > card.clip_skip:
                yield Mistake(
                    "clip_skip", f"`clip_skip` must be at most {card.clip_skip} with {card.name!r}, but is {job.clip_skip}."
                )
            if card.inpainting and not (job.mask or job.upscales_only):
                yield Mistake("mask", f"`mask` is required: {card.name!r} is a model for repainting, it draws nothing else.")
            if job.scheduler and not job.sampler and "sampler" in families.get(card.family).kinds:
                sampler = samplers.find(card.sampler)
                if sampler and job.scheduler not in sampler.schedules:
                    known = ", ".join(sampler.schedules)
                    rule = f"`scheduler` must be one of {known} with the model's sampler {sampler.name}"
                    yield Mistake("scheduler", f"{rule}, but is {show(job.scheduler)}: name a `sampler` that has it.")
        if job.refiner:
            refiner = self.card(job.refiner.model)
            if refiner is None:
                yield _unknown("refiner.model", job.refiner.model, names)
            elif not refiner.family.startswith("sdxl"):
                yield Mistake("refiner.model", f"`refiner.model` must be an SDXL model, but {refiner.name!r} is none.")
        if card:
            used = {f"loras/{lora.name}": "loras" for lora in loras_of(job)}
            used |= {f"controlnets/{control.model}": "controls" for control in job.controls}
            words = job.prompt + "\n" + job.negative_prompt
            used |= {f"embeddings/{name}": "prompt" for name in self.embeddings if written(name, words)}
            for key, field_name in used.items():
                width = self.made_for.get(key)
                if width and card.text_width and width != card.text_width:
                    name = key.partition("/")[2]
                    made_for, own = _of_width(width), _of_width(card.text_width)
                    yield Mistake(
                        field_name, f"`{field_name}`: {name!r} was made for {made_for}, but {card.name!r} is one of {own}."
                    )
        if job.vae and job.vae not in self.vaes:
            yield _unknown("vae", job.vae, self.vaes)
        for control in job.controls:
            if control.model not in self.controlnets:
                yield _unknown("controls.model", control.model, self.controlnets)
        for lora in loras_of(job):
            if lora.name not in self.loras:
                yield _unknown("loras.name" if lora in job.loras else "prompt", lora.name, self.loras, "The LoRA ")
        if job.upscale and job.upscale.upscaler not in self.upscalers:
            yield _unknown("upscale.upscaler", job.upscale.upscaler, self.upscalers)
        if job.hires and job.hires.upscaler not in ("Latent", *self.upscalers):
            yield _unknown("hires.upscaler", job.hires.upscaler, ("Latent", *self.upscalers))
        if card and (mistake := too_large(job, card, start)):
            yield mistake
        if job.hires and card:
            sides = [round((job.width or card.width) * job.hires.scale), round((job.height or card.height) * job.hires.scale)]
            if max(sides) > 4096:
                yield Mistake("hires.scale", f"`hires` must make at most 4096 pixels a side, but makes {sides[0]}x{sides[1]}.")


def merged(catalogues: Sequence[Catalogue]) -> Catalogue:
    """What several spoolers offer together; of one name the first's counts, and so does its default."""
    cards: dict[str, ModelCard] = {}
    for catalogue in catalogues:
        cards = {card.name: card for card in catalogue.models} | cards
    together: dict[str, Any] = {
        kind: tuple(dict.fromkeys(name for catalogue in catalogues for name in getattr(catalogue, kind))) for kind in ADD_ONS
    }
    together["upscalers"] = together["upscalers"] or BUILT_IN_UPSCALERS
    default = next((catalogue.default for catalogue in catalogues if catalogue.default), "")
    for catalogue in reversed(catalogues):
        together["made_for"] = together.get("made_for", {}) | catalogue.made_for
    return Catalogue(models=tuple(cards.values()), default=default, **together)


@dataclass(frozen=True)
class Entry:
    """A model on this machine: its card, and its folder or file."""

    card: ModelCard
    path: Path

    @property
    def is_file(self) -> bool:
        return self.path.is_file()

    @property
    def config(self) -> Path | None:
        """The pipeline config that an odd single file brings along."""
        folder = self.path.with_suffix(".config")
        return folder if self.is_file and folder.is_dir() else None

    def weight_files(self) -> list[Path]:
        """The safetensors files that are read when the model is loaded at half precision, sorted."""
        if self.is_file:
            return [self.path]
        files = sorted(self.path.glob("*/*.safetensors"))
        half = {path.name.replace(".fp16.safetensors", ".safetensors") for path in files if ".fp16." in path.name}
        kept = [path for path in files if path.name not in half]
        return [path for path in kept if path.parent.name != "safety_checker"]


@dataclass(frozen=True)
class Library:
    """What the folder of the setting `models` holds, with the paths, which are nobody else's business."""

    models: dict[str, Entry]
    default: str
    add_ons: dict[AddOn, dict[str, Path]] = field(default_factory=lambda: {kind: {} for kind in ADD_ONS})
    refused: tuple[str, ...] = ()  # a sentence for each thing that was not taken

    def catalogue(self) -> Catalogue:
        named: dict[str, Any] = {kind: tuple(sorted(found)) for kind, found in self.add_ons.items()}
        named["upscalers"] = (*BUILT_IN_UPSCALERS, *named["upscalers"])
        named["made_for"] = _made_for(self.add_ons)
        return Catalogue(models=tuple(entry.card for entry in self.models.values()), default=self.default, **named)


def scan(folder: Path, model: str) -> Library:
    """Look through the setting `models`, and add the setting `model` as the default.

    `model` is `demo`, a name in the folder, or the path of a diffusers folder or single file. Raises ModelError when that one
    cannot be used; any other that cannot is left out, with its reason in `refused`.
    """
    found: dict[str, Entry] = {}
    refused: list[str] = []
    for name, path in _candidates(folder, refused):
        try:
            found[name] = read(path, name)
        except ModelError as error:
            refused.append(str(error))
    if model in found:
        default = found[model]
    elif model == "demo":
        default = read(DEMO, "demo")
    else:
        path = Path(model).expanduser()
        if not path.exists():
            known = f" (in {folder}: {', '.join(sorted(found))})" if found else ""
            raise ModelError(
                f"`model` must be `demo`, a name in the folder of models, or the path of a model, but {model!r} is none{known}."
            )
        default = read(path, path.stem if path.is_file() else path.name)
    ordered = {default.card.name: default} | {name: found[name] for name in sorted(found)}
    return Library(ordered, default.card.name, _add_ons(folder, refused), tuple(refused))


def read(path: Path, name: str) -> Entry:
    """The model in that folder or file. Raises ModelError for one that the engine could not load."""
    fields = _of_file(path) if path.is_file() else _of_folder(path)
    beside = path.with_suffix(".json") if path.is_file() else path.with_name(f"{path.name}.json")
    for own in (path / "sdspool.json", beside):
        if own.is_file():
            fields |= _own_fields(own, name)
    try:
        card = ModelCard.model_validate({"name": name} | fields)
        defaults = {field: getattr(card, field) for field in DEFAULTS}
        Job.model_validate({"prompt": "x"} | defaults)  # what a job comes to that leaves them out must be a job
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        what = f"`{'.'.join(map(str, detail['loc']))}`: {detail['msg']}, but is {show(detail['input'])}"
        raise ModelError(f"The defaults of the model {name!r} are wrong: {what if detail['loc'] else detail['msg']}") from error
    return Entry(card, path)


def _own_fields(path: Path, name: str) -> dict[str, Any]:
    """The fields of a card that the operator wrote down. Raises ModelError for one that a card does not have."""
    fields = _read_json(path, f"The model {name!r}")
    known = sorted(OWN)
    for field_name in fields:
        if field_name not in OWN:
            near = did_you_mean(field_name, known)
            raise ModelError(f"{path.name} of the model {name!r} has {show(field_name)}, which is none of its fields{near}.")
    return fields


def resolve_all(job: Job, catalogue: Catalogue, random_seed: int, sizes: Sizes) -> tuple[Job, tuple[Job, ...]]:
    """The job and each of its cells as they are run, every field filled in: see `resolve`.

    `sizes` must have every picture that is started from; each cell takes that of its own. The catalogue has checked the job.
    """

    def resolved(each: Job) -> Job:
        card = catalogue.card(each.model)
        assert card, each.model  # noqa: S101 - it was checked
        return resolve(each, card, random_seed, sizes[each.image] if each.image else None)

    return resolved(job), tuple(resolved(cell) for cell in job.cells())


def resolve(job: Job, card: ModelCard, random_seed: int, input_size: tuple[int, int] | None = None) -> Job:
    """The job (a sweep's base, or a cell of it) with every default of the model and the seed filled in.

    `input_size` is the width and height in pixels of the picture to start from: without a size, the job takes its.
    """
    given = job.model_dump(exclude_none=True, exclude_unset=True)
    fixed = {name: getattr(card, name) for name in DEFAULTS}
    if input_size:
        fixed |= dict(zip(("width", "height"), fitting(input_size, families.get(card.family).multiple), strict=True))
    if "sampler" not in families.get(card.family).kinds:
        fixed.pop("sampler")
        fixed["scheduler"] = "Automatic"
    elif job.sampler is not None and job.scheduler is None:
        fixed["scheduler"] = "Automatic"  # the model's default schedule belongs to the model's default sampler
    filled = fixed | given | {"model": card.name}
    if job.seed == -1:
        filled["seed"] = random_seed
    return Job.model_validate(filled)


def too_large(job: Job, card: ModelCard, input_size: tuple[int, int] | None = None) -> Mistake | None:
    """What is wrong with a job (or a cell) whose finished picture would have too many pixels; None when it is small enough.

    `input_size` is that of the picture to start from, when it is known.
    """
    if job.upscales_only or job.mask:
        if input_size is None:
            return None
        width, height = input_size
    else:
        own = fitting(input_size, families.get(card.family).multiple) if input_size else (card.width, card.height)
        width, height = job.width or own[0], job.height or own[1]
    factor = (job.hires.scale if job.hires and not job.image else 1.0) * (job.upscale.scale if job.upscale else 1.0)
    pixels = int(width * factor) * int(height * factor)
    if pixels <= MAX_PIXELS:
        return None
    made = f"{int(width * factor)}x{int(height * factor)}"
    rule = f"A finished picture must have at most {MAX_PIXELS // 10**6} million pixels, but would have {made}."
    return Mistake("upscale.scale" if job.upscale else "hires.scale", rule)


def fitting(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The size to draw at for a picture of that size: its shape, sides that are multiples of `multiple` from 64 to 2048."""
    factor = min(1.0, 2048 / max(size))
    width, height = (min(2048, max(64, round(side * factor / multiple) * multiple)) for side in size)
    return width, height


def loras_of(job: Job) -> list[Lora]:
    """All LoRAs of a job: those of its field and those written into its prompts. Of one name the last weight counts."""
    written = [found for text in (job.prompt, job.negative_prompt) for found in extract_loras(text)[1]]
    named = {lora.name: lora for lora in (*job.loras, *(Lora(name=name, weight=weight) for name, weight in written))}
    return list(named.values())


def _of_width(width: int) -> str:
    """Models that read text of that width, in words."""
    family = checkpoint.WIDTHS.get(width)
    return f"{families.get(family).title} models" if family else f"models that read text {width} wide"


def _unknown(name: str, value: str, known: tuple[str, ...] | list[str], what: str = "") -> Mistake:
    subject = f"{what}in `{name}`" if what and name == "prompt" else f"`{name}`"
    if not known:
        return Mistake(name, f"{subject} must be one that the server has, but it has none, and this is {show(value)}.")
    shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return Mistake(name, f"{subject} must be one of {shown}{did_you_mean(value, known)}, but is {show(value)}.")


def _candidates(folder: Path, refused: list[str]) -> Iterator[tuple[str, Path]]:
    """Names and paths of what may be a model in the folder."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in ADD_ONS:
            continue
        if not path.name.isprintable() or path.name != path.name.encode(errors="replace").decode():
            refused.append(f"{path.name!a} must have a name that UTF-8 can hold.")
            continue
        if path.suffix == ".config" and path.with_suffix(".safetensors").exists():
            continue  # of that single file
        if path.suffix.lower() in PICKLES:
            refused.append(f"{path.name} is a pickle, which runs whatever code is in it: only safetensors files are loaded.")
        elif (path.suffix == ".safetensors" and path.is_file()) or (path / "model_index.json").exists():
            yield path.stem if path.is_file() else path.name, path
        elif path.name == "hub.json":
            yield from _of_hub(path, refused)


def _of_hub(path: Path, refused: list[str]) -> Iterator[tuple[str, Path]]:
    """The hub models that the operator lists, where the local cache of the hub has them."""
    try:
        listed = _read_json(path, "The folder of models")
    except ModelError as error:
        refused.append(str(error))
        return
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    for name, hub_id in listed.items():
        if not isinstance(hub_id, str) or not HUB_ID.fullmatch(hub_id):
            refused.append(f"hub.json must name models as organisation/repository, but {name!r} is {show(hub_id)}.")
            continue
        repository = cache / f"models--{hub_id.replace('/', '--')}"
        try:
            snapshot = repository / "snapshots" / (repository / "refs" / "main").read_text().strip()
        except OSError:
            refused.append(f"The hub model {hub_id!r} is not in the local cache: fetch it once with `hf download {hub_id}`.")
            continue
        yield name, snapshot


def _add_ons(folder: Path, refused: list[str]) -> dict[AddOn, dict[str, Path]]:
    found: dict[AddOn, dict[str, Path]] = {kind: {} for kind in ADD_ONS}
    for kind in ADD_ONS:
        for path in sorted((folder / kind).iterdir()) if (folder / kind).is_dir() else ():
            if not path.name.isprintable() or path.name != path.name.encode(errors="replace").decode():
                refused.append(f"{kind}/{path.name!a} must have a name that UTF-8 can hold.")
                continue
            if path.suffix.lower() in PICKLES:
                refused.append(
                    f"{kind}/{path.name} is a pickle, which runs whatever code is in it: only safetensors are loaded."
                )
            elif path.suffix == ".safetensors" and kind != "controlnets":
                if problem := _add_on_problem(kind, path):
                    refused.append(f"{kind}/{path.name} {problem}")
                else:
                    found[kind][path.stem] = path
            elif kind in ("vaes", "controlnets") and (path / "config.json").exists():
                if any(path.glob("*.safetensors")):
                    found[kind][path.name] = path
                else:
                    refused.append(f"{kind}/{path.name} has no safetensors weights.")
    return found


def _add_on_problem(kind: AddOn, path: Path) -> str | None:
    """Why the file cannot be what its folder says; None when it may."""
    try:
        if not path.is_file():
            return "must be an ordinary file."
        looks = checkpoint.kind_of(checkpoint.read_shapes(path))
    except (checkpoint.CheckpointError, OSError) as error:
        return f"cannot be read: {error}"
    if looks and looks != LOOKS[kind]:
        return f"must be of the kind {LOOKS[kind]}, but looks like: {looks}."
    if kind == "upscalers":
        missing = [name for name in ("spandrel", "torchvision") if not importlib.util.find_spec(name)]
        if missing:
            return f"needs the Python package {missing[0]}: pip install 'sdspool[upscale]'"
    return None


def _made_for(add_ons: dict[AddOn, dict[str, Path]]) -> dict[str, int]:
    """The width of the text that each add-on's model reads, where its file tells it."""
    found: dict[str, Any] = {}
    for kind, width_of in (("loras", checkpoint.width_of_lora), ("embeddings", checkpoint.width_of_embedding)):
        for name, path in add_ons[cast(AddOn, kind)].items():
            try:
                found[f"{kind}/{name}"] = width_of(checkpoint.read_shapes(path))
            except checkpoint.CheckpointError:
                continue  # the job that names it will hear why
    for name, path in add_ons["controlnets"].items():
        try:
            found[f"controlnets/{name}"] = _read_json(path / "config.json", "It").get("cross_attention_dim")
        except ModelError:
            continue
    return {key: width for key, width in found.items() if isinstance(width, int)}


def written(name: str, text: str) -> bool:
    """Whether the text has the name of an embedding as a word of its own."""
    return _word(name).search(text) is not None


def spelled(text: str, name: str, token: str) -> str:
    """The text with the name of an embedding replaced by its token."""
    return _word(name).sub(lambda match: token, text)


@functools.cache
def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")


def _of_file(path: Path) -> dict[str, Any]:
    """The fields of a single file's card, from the names and shapes in its header."""
    if path.suffix.lower() in PICKLES:
        raise ModelError(f"{path.name} is a pickle, which runs whatever code is in it: only safetensors files are loaded.")
    try:
        shapes = checkpoint.read_shapes(path)
    except (checkpoint.CheckpointError, OSError) as error:
        raise ModelError(f"{path.name} cannot be read: {error}") from error
    kind = checkpoint.kind_of(shapes)
    if kind not in ("sd1", "sd2", "sdxl", "sdxl-refiner"):
        what = f"looks like a {kind}" if kind else "is of a kind that is not known"
        raise ModelError(f"{path.name} must be an SD 1.x, 2.x or SDXL checkpoint, but it {what}.")
    family = families.get(kind)
    entrance = shapes.get("model.diffusion_model.input_blocks.0.0.weight", (0, 4))
    return {
        "family": kind,
        "width": family.side,
        "height": family.side,
        "steps": family.steps,
        "guidance_scale": family.guidance_scale,
        "weight_bytes": 2 * sum(_product(shape) for shape in shapes.values()),
        "inpainting": entrance[1] == 9,
        "text_width": next((width for width, name in checkpoint.WIDTHS.items() if name == kind), None),
        "clip_skip": 11 if kind == "sdxl" else 12,
    }


def _of_folder(path: Path) -> dict[str, Any]:
    """The fields of a diffusers folder's card."""
    name = path.name
    index = _read_json(path / "model_index.json", f"`model` must be `demo` or a diffusers folder, but {str(path)!r}")
    if not any(path.glob("*/*.safetensors")):
        raise ModelError(f"The model {name!r} must have its weights as safetensors, but it has none (pickles are not loaded).")
    pipeline = str(index.get("_class_name"))
    family = families.of_pipeline(pipeline)
    side, channels, text_width = family.side, 4, None
    if (unet_file := path / "unet" / "config.json").exists():
        unet = _read_json(unet_file, f"The model {name!r}")
        if family.name == "sd1" and unet.get("cross_attention_dim") == 1024:
            family = families.get("sd2")
        if isinstance(unet.get("sample_size"), int):
            side = unet["sample_size"] * 8
        channels = unet.get("in_channels", 4)
        text_width = unet.get("cross_attention_dim")
    fields: dict[str, Any] = {
        "family": family.name if family is not families.OTHER else pipeline,
        "width": side,
        "height": side,
        "steps": family.steps,
        "guidance_scale": family.guidance_scale,
        "inpainting": channels == 9,
        "text_width": text_width if isinstance(text_width, int) else None,
    }
    layers = [
        _read_json(file, f"The model {name!r}").get("num_hidden_layers") for file in path.glob("text_encoder*/config.json")
    ]
    if known := [each for each in layers if isinstance(each, int)]:
        fields["clip_skip"] = min(12, max(1, min(known) - (family.name == "sdxl")))  # SDXL's first is the last but one
    try:
        files = Entry(ModelCard(name=name, family="", width=side, height=side), path).weight_files()
        fields["weight_bytes"] = sum(2 * _product(shape) for file in files for shape in checkpoint.read_shapes(file).values())
    except (checkpoint.CheckpointError, OSError) as error:
        raise ModelError(f"The weights of the model {name!r} cannot be read: {error}") from error
    return fields


def _product(shape: tuple[int, ...]) -> int:
    number = 1
    for side in shape:
        number *= side
    return number


def _read_json(path: Path, who: str) -> dict[str, Any]:
    try:
        if not path.is_file():  # a FIFO would be waited for
            raise FileNotFoundError(f"there is no file {path.name}")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{who} has no readable {path.name}: {error}.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{who} has a {path.name} that is no JSON object.")
    return value
