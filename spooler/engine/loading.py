"""From a folder or file to a diffusers pipeline in memory. Only safetensors, only local files, no foreign code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError

from spooler import families
from spooler.distilled import LCM_PIPELINE
from spooler.engine import single_file
from spooler.engine.device import UnusableError
from spooler.engine.notes import Notes
from spooler.library import Entry

for library in (diffusers, transformers):
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    library.utils.logging.disable_default_handler()  # what it has to say goes the way of our own lines
    library.utils.logging.enable_propagation()

#: Of the pipelines that families.py has, those that do not draw from text alone, and which does it with their parts.
DRAWN_BY = {
    "StableDiffusionInpaintPipeline": "StableDiffusionPipeline",
    LCM_PIPELINE: "StableDiffusionPipeline",
    "StableDiffusionXLInpaintPipeline": "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline": "StableDiffusionXLPipeline",
}
#: What the libraries raise for weights that do not fit their config, are cut short, or are missing.
LOADING_ERRORS = (
    *(OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError),
    *(SafetensorError, SingleFileComponentError),
)


def load(entry: Entry, dtype: torch.dtype) -> Any:
    """The entry's pipeline on the CPU. Raises UnusableError; MemoryError and the like go through."""
    try:
        if entry.is_file:
            card = entry.card
            pipe = single_file.load(entry.path, card.family, dtype, entry.config, card.prediction_type)
        else:
            pipe = _load_folder(entry, dtype)
    except torch.OutOfMemoryError:
        raise
    except LOADING_ERRORS as error:
        raise UnusableError(f"The model {entry.card.name!r} could not be loaded: {error}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _load_folder(entry: Entry, dtype: torch.dtype) -> Any:
    options: dict[str, Any] = {
        "dtype": dtype,
        # The half-precision files where there are any: half the bytes to read.
        "variant": "fp16" if any(".fp16." in path.name for path in entry.weight_files()) else None,
        "use_safetensors": True,
        "local_files_only": True,
    }
    index = json.loads((entry.path / "model_index.json").read_bytes())
    if "safety_checker" in index:
        # The checker is a layer of its own (safety.py): its weights are read only when it is switched on.
        options |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if entry.card.family == "sdxl-refiner":
        return diffusers.StableDiffusionXLImg2ImgPipeline.from_pretrained(entry.path, **options)
    return _text_to_image(str(index.get("_class_name"))).from_pretrained(entry.path, **options)


def _text_to_image(saved_as: str) -> Any:
    """The pipeline that draws from text alone with a model whose index names that one."""
    if families.of_pipeline(saved_as) is families.OTHER:
        return diffusers.AutoPipelineForText2Image  # which knows ours too, but imports every pipeline that there is
    return getattr(diffusers, DRAWN_BY.get(saved_as, saved_as))


def load_vae(path: Path, family: str, dtype: torch.dtype) -> Any:
    """A VAE by itself: a diffusers folder, or a single file in the layout of the original. Raises UnusableError."""
    try:
        if path.is_dir():
            named = json.loads((path / "config.json").read_bytes()).get("_class_name")
            kind: Any = diffusers.AutoencoderTiny if named == "AutoencoderTiny" else diffusers.AutoencoderKL
            return kind.from_pretrained(path, dtype=dtype, use_safetensors=True, local_files_only=True)
        config = single_file.CONFIGS / family / "vae"
        return diffusers.AutoencoderKL.from_single_file(
            str(path), config=str(config), dtype=dtype, local_files_only=True, disable_mmap=False
        )
    except LOADING_ERRORS as error:
        raise UnusableError(f"The VAE {path.stem!r} could not be loaded: {error}") from error


def load_controlnet(path: Path, dtype: torch.dtype) -> Any:
    """A ControlNet from its diffusers folder. Raises UnusableError."""
    try:
        return diffusers.ControlNetModel.from_pretrained(path, dtype=dtype, use_safetensors=True, local_files_only=True)
    except LOADING_ERRORS as error:
        raise UnusableError(f"The ControlNet {path.name!r} could not be loaded: {error}") from error


class Hashes:
    """SHA-256 of models' weights, kept in a file so that gigabytes are read for it only once."""

    def __init__(self, path: Path):
        self._notes = Notes(path)

    def of(self, entry: Entry) -> str:
        """SHA-256 over the names and bytes of the weight files that are read for the entry."""
        files = entry.weight_files()
        key = json.dumps([[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files])
        if isinstance(known := self._notes.found.get(key), str):
            return known
        digest = hashlib.sha256()
        for path in files:
            digest.update(str(path.relative_to(entry.path.parent)).encode() + b"\0")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        self._notes.found[key] = digest.hexdigest()
        self._notes.write()
        return digest.hexdigest()
