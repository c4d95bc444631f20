"""The models on this machine, and what else a job may lay over them. Read from folders and file headers: no torch, no weights.

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

import importlib.util
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from spooler import checkpoint, distilled, families
from spooler.catalogue import ADD_ONS, BUILT_IN_UPSCALERS, DEFAULTS, AddOn, Catalogue, ModelCard
from spooler.job import Job
from spooler.mistakes import did_you_mean, show

DEMO = Path(__file__).parent / "demo_model"
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
#: The fields of a card that a model's own JSON file may set.
OWN = frozenset({*DEFAULTS, "family", "prediction_type", "inpainting", "distilled"})
#: What the file of an add-on looks like inside.
#: What a folder of an add-on may say that it is.
CLASSES: dict[AddOn, tuple[str, ...]] = {"vaes": ("AutoencoderKL", "AutoencoderTiny"), "controlnets": ("ControlNetModel",)}
LOOKS: dict[AddOn, str] = {"loras": "lora", "embeddings": "embedding", "vaes": "vae", "upscalers": "upscaler"}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class ModelError(ValueError):
    """A model that cannot be used: met by the operator who configured it, the sentence says what is missing."""


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
    made_for: dict[str, int] = field(default_factory=dict)  # as in the catalogue
    refused: tuple[str, ...] = ()  # a sentence for each thing that was not taken

    def catalogue(self) -> Catalogue:
        named: dict[str, Any] = {kind: tuple(sorted(found)) for kind, found in self.add_ons.items()}
        named["upscalers"] = (*BUILT_IN_UPSCALERS, *named["upscalers"])
        cards = tuple(entry.card for entry in self.models.values())
        return Catalogue(models=cards, default=self.default, made_for=self.made_for, **named)


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
    add_ons, made_for = _add_ons(folder, refused)
    return Library(ordered, default.card.name, add_ons, made_for, tuple(refused))


def read(path: Path, name: str) -> Entry:
    """The model in that folder or file. Raises ModelError for one that the engine could not load."""
    _check_name(name)
    fields = _of_file(path) if path.is_file() else _of_folder(path)
    own_fields: dict[str, Any] = {}
    beside = path.with_suffix(".json") if path.is_file() else path.with_name(f"{path.name}.json")
    for own in (path / "sdspool.json", beside):
        if own.is_file():
            own_fields |= _own_fields(own, name)
    fields |= _of_distilled(path, name, str(own_fields.get("family", fields["family"])), own_fields) | own_fields
    try:
        card = ModelCard.model_validate({"name": name} | fields)
        defaults = {field: getattr(card, field) for field in DEFAULTS}
        Job.model_validate({"prompt": "x"} | defaults)  # what a job comes to that leaves them out must be a job
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        what = f"`{'.'.join(map(str, detail['loc']))}`: {detail['msg']}, but is {show(detail['input'])}"
        raise ModelError(f"The defaults of the model {name!r} are wrong: {what if detail['loc'] else detail['msg']}") from error
    return Entry(card, path)


def _of_distilled(path: Path, name: str, family: str, own_fields: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of a model that needs few steps, by what the operator says of it (null: it is none) or by its looks."""
    found = distilled.Marks()
    if path.is_dir():
        parts = [path / part for part in ("model_index.json", "unet/config.json", "transformer/config.json")]
        found = distilled.marks(*(_read_json(part, f"The model {name!r}") if part.exists() else {} for part in parts))
    kind = own_fields["distilled"] if "distilled" in own_fields else distilled.recognised(name, family, found)
    if kind not in distilled.KINDS:  # none; or none that there is, which its card will tell
        return {}
    return distilled.defaults(kind, name, family, found, path.is_file())


def _check_name(name: str) -> None:
    """Raise ModelError for a name that cannot be written into a page, a log or a job: of a file, a folder, or in hub.json."""
    if not name.isprintable():  # the lone surrogates of a name that is no UTF-8 are not either
        raise ModelError(f"{name!a} must have a name of printable characters in UTF-8.")


def _refuse_pickle(path: Path, what: str) -> None:
    if path.suffix.lower() in PICKLES:
        raise ModelError(f"{what} is a pickle, which runs whatever code is in it: only safetensors files are loaded.")


def _own_fields(path: Path, name: str) -> dict[str, Any]:
    """The fields of a card that the operator wrote down. Raises ModelError for one that a card does not have."""
    fields = _read_json(path, f"The model {name!r}")
    known = sorted(OWN)
    for field_name in fields:
        if field_name not in OWN:
            near = did_you_mean(field_name, known)
            raise ModelError(f"{path.name} of the model {name!r} has {show(field_name)}, which is none of its fields{near}.")
    return fields


def _candidates(folder: Path, refused: list[str]) -> Iterator[tuple[str, Path]]:
    """Names and paths of what may be a model in the folder, and of pickles, so that they are told of."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in ADD_ONS:
            continue
        if path.suffix == ".config" and path.with_suffix(".safetensors").exists():
            continue  # of that single file
        if path.is_file() and (path.suffix == ".safetensors" or path.suffix.lower() in PICKLES):
            yield path.stem, path
        elif (path / "model_index.json").exists():
            yield path.name, path
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


def _add_ons(folder: Path, refused: list[str]) -> tuple[dict[AddOn, dict[str, Path]], dict[str, int]]:
    """What a job may add, by kind and name, and the width of the text that each one's model reads, where its file tells."""
    found: dict[AddOn, dict[str, Path]] = {kind: {} for kind in ADD_ONS}
    made_for: dict[str, int] = {}
    for kind in ADD_ONS:
        for path in sorted((folder / kind).iterdir()) if (folder / kind).is_dir() else ():
            if not _may_be(kind, path):
                continue
            try:
                width = _width_for(kind, path)
            except ModelError as error:
                refused.append(str(error))
                continue
            name = path.stem if path.is_file() else path.name
            found[kind][name] = path
            if width is not None:
                made_for[f"{kind}/{name}"] = width
    return found, made_for


def _may_be(kind: AddOn, path: Path) -> bool:
    """Whether somebody has put it there as an add-on, a pickle included: the others are readme files and such."""
    if path.suffix.lower() in PICKLES or (path.suffix == ".safetensors" and kind != "controlnets"):
        return True
    return kind in ("vaes", "controlnets") and (path / "config.json").exists()


def _width_for(kind: AddOn, path: Path) -> int | None:
    """The width of the text that an add-on's model reads, if it tells. Raises ModelError for what is no add-on of the kind."""
    what = f"{kind}/{path.name}"
    _check_name(what)
    _refuse_pickle(path, what)
    if path.suffix == ".safetensors" and kind != "controlnets":
        return _width_for_file(kind, path, what)
    if not any(path.glob("*.safetensors")):
        raise ModelError(f"{what} has no safetensors weights.")
    try:
        config = _read_json(path / "config.json", what)
    except ModelError:
        return None  # the job that names it will hear why
    known, named = CLASSES[kind], config.get("_class_name")
    if named not in (*known, None):
        raise ModelError(f"{what} must be of the class {' or '.join(known)}, but its config.json says {show(named)}.")
    width = config.get("cross_attention_dim")
    return width if kind == "controlnets" and isinstance(width, int) else None


def _width_for_file(kind: AddOn, path: Path, what: str) -> int | None:
    """As `_width_for`, from the header of a single file."""
    if not path.is_file():
        raise ModelError(f"{what} must be an ordinary file.")
    try:
        shapes = checkpoint.read_shapes(path)
    except (checkpoint.CheckpointError, OSError) as error:
        raise ModelError(f"{what} cannot be read: {error}") from error
    looks = checkpoint.kind_of(shapes)
    if looks and looks != LOOKS[kind]:
        raise ModelError(f"{what} must be of the kind {LOOKS[kind]}, but looks like: {looks}.")
    if kind == "upscalers":
        missing = [name for name in ("spandrel", "torchvision") if not importlib.util.find_spec(name)]
        if missing:
            raise ModelError(f"{what} needs the Python package {missing[0]}: pip install 'sdspool[upscale]'")
    if kind == "loras":
        return checkpoint.width_of_lora(shapes)
    return checkpoint.width_of_embedding(shapes) if kind == "embeddings" else None


def _of_file(path: Path) -> dict[str, Any]:
    """The fields of a single file's card, from the names and shapes in its header."""
    _refuse_pickle(path, path.name)
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
        "weight_bytes": 2 * sum(math.prod(shape) for shape in shapes.values()),
        "inpainting": entrance[1] == 9,
        "text_width": next((width for width, name in checkpoint.WIDTHS.items() if name == kind), None),
        "clip_skip": 11 if kind == "sdxl" else 12,
        "vocabulary": "clip",
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
        "vocabulary": _vocabulary(path) if family.name in ("sd1", "sd2", "sdxl") else None,
    }
    layers = [
        _read_json(file, f"The model {name!r}").get("num_hidden_layers") for file in path.glob("text_encoder*/config.json")
    ]
    if known := [each for each in layers if isinstance(each, int)]:
        fields["clip_skip"] = min(12, max(1, min(known) - (family.name == "sdxl")))  # SDXL's first is the last but one
    try:
        files = Entry(ModelCard(name=name, family="", width=side, height=side), path).weight_files()
        fields["weight_bytes"] = sum(2 * math.prod(shape) for file in files for shape in checkpoint.read_shapes(file).values())
    except (checkpoint.CheckpointError, OSError) as error:
        raise ModelError(f"The weights of the model {name!r} cannot be read: {error}") from error
    return fields


def _vocabulary(path: Path) -> str | None:
    """By which the prompts of a folder's model are counted: CLIP's own has a size that no other has."""
    if path.resolve() == DEMO.resolve():
        return "demo"
    sizes = {_read_json(file, "The text encoder").get("vocab_size") for file in path.glob("text_encoder*/config.json")}
    return "clip" if sizes == {49408} else None


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
