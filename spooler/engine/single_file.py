"""A pipeline from one `.safetensors` file in the LDM layout, the one that checkpoints are shared in, without a network.

Such a file has the weights and says nothing of the widths, the scheduler and the tokenizer. Those are in configs/ beside
this module; tools/make_pipeline_configs.py writes them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.loaders.single_file_utils import SingleFileComponentError

from spooler import checkpoint

CONFIGS = Path(__file__).parent / "configs"
CLIP = CONFIGS / "clip"
PIPELINES = {
    "sd1": diffusers.StableDiffusionPipeline,
    "sd2": diffusers.StableDiffusionPipeline,
    "sdxl": diffusers.StableDiffusionXLPipeline,
    "sdxl-refiner": diffusers.StableDiffusionXLImg2ImgPipeline,
}
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def load(path: Path, family: str, dtype: torch.dtype, config: Path | None = None, prediction_type: str | None = None) -> Any:
    """The diffusers pipeline of the checkpoint, on the CPU, every weight in `dtype`.

    `family` is what `checkpoint.kind_of` says of the file, one of PIPELINES. `config` is a diffusers folder without weights
    that is used in place of the family's own. `prediction_type` is what the UNet was trained to predict, where it is not
    what the config says: the file does not tell (but for a tensor named v_pred, a custom of some SDXL models).

    Raises ValueError (CheckpointError is one), whose sentence names the file.
    """
    # 1. Read the header: the library would try a file that is no safetensors file as a pickle.
    shapes = checkpoint.read_shapes(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"A checkpoint's name must end in .safetensors, but is {path}.")
    kind = checkpoint.kind_of(shapes)
    if family not in PIPELINES:
        raise ValueError(f"The family of {path} must be one of {', '.join(PIPELINES)}, but is {family!r}.")
    if kind != family:
        raise ValueError(f"{path} must be a whole model of the family {family}, but is {kind or 'something else'}.")
    if prediction_type is None and "v_pred" in shapes:
        prediction_type = "v_prediction"

    # 2. Load it by a config folder of its own, which is whole: what is missing there would be looked for on the network.
    optional = {"safety_checker": None} if PIPELINES[family] is diffusers.StableDiffusionPipeline else {}
    with tempfile.TemporaryDirectory(prefix="sdspool-config-") as temporary:
        folder = Path(temporary)
        try:
            write_config(folder, family, config, prediction_type)
            _set_entrance(folder, shapes)
            pipe = PIPELINES[family].from_single_file(
                str(path), config=str(folder), local_files_only=True, dtype=dtype, **optional
            )
        except (NotImplementedError, KeyError) as error:
            # NotImplementedError is torch's answer when a tensor without numbers ("meta") is moved: the file had none for it.
            lost = f", such as {error.args[0]}" if isinstance(error, KeyError) else ""
            raise ValueError(f"{path} lacks some of the weights of the family {family}{lost}.") from error
        except (SingleFileComponentError, OSError, RuntimeError, TypeError, ValueError) as error:
            # Of the library's advice the first sentence: the rest is on its own parameters, which nobody here can set.
            reason = str(error).partition("\n")[0].partition(". If you want")[0].removeprefix("Cannot load  because ")
            raise ValueError(f"{path} could not be loaded as family {family}: {reason.rstrip('.')}.") from error

    # 3. The library passes over a text encoder's missing weights in silence.
    for part, module in pipe.components.items():
        missing = [name for name, weight in module.named_parameters() if weight.is_meta] if _is_module(module) else []
        if missing:
            raise ValueError(f"{path} lacks {len(missing)} of the weights of its {part}, the first is {missing[0]}.")
    return pipe


def write_config(folder: Path, family: str, config: Path | None = None, prediction_type: str | None = None) -> None:
    """Fill the folder with all that diffusers needs besides the weights: the config's files and the tokenizers'.

    Raises ValueError for a prediction type that there is not and for a config that is no diffusers folder.
    """
    source = config or CONFIGS / family
    if not (source / "model_index.json").is_file():
        raise ValueError(f"`config` must be a diffusers folder with a model_index.json, but is {source}.")
    # Only what is read as data: no weights, which would stand in for missing ones, and no code.
    for file in [*source.glob("*.json"), *source.glob("*/*.json"), *source.glob("*/*.txt")]:
        target = folder / file.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
    for tokenizer in folder.glob("tokenizer*/"):
        if not any((tokenizer / name).exists() for name in ("tokenizer.json", "vocab.json")):
            for name in ("merges.txt", "vocab.json"):
                shutil.copyfile(CLIP / name, tokenizer / name)
    if prediction_type is not None:
        if prediction_type not in PREDICTION_TYPES:
            raise ValueError(f"`prediction_type` must be one of {', '.join(PREDICTION_TYPES)}, but is {prediction_type!r}.")
        scheduler = folder / "scheduler" / "scheduler_config.json"
        scheduler.write_text(json.dumps(json.loads(scheduler.read_bytes()) | {"prediction_type": prediction_type}))


def _set_entrance(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Let the config's UNet take as many channels as the file's does: nine in a checkpoint for inpainting."""
    entrance = shapes.get("model.diffusion_model.input_blocks.0.0.weight", ())
    path = folder / "unet" / "config.json"
    unet = json.loads(path.read_bytes())
    if len(entrance) == 4 and entrance[1] == 9 != unet.get("in_channels"):
        path.write_text(json.dumps(unet | {"in_channels": 9}))


def _is_module(part: Any) -> bool:
    return isinstance(part, torch.nn.Module)
