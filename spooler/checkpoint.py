"""What a `.safetensors` file holds, told by its header alone: no torch, no weights, a few milliseconds for any size.

The layout of the file is 8 bytes of length (little endian), a JSON object of that length in bytes, then the numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 100_000_000  # as the safetensors library itself has it

#: How files begin that people save under the wrong name, and what each of them is.
LOOKALIKES = {
    b"version https://git-lfs": "a Git LFS pointer: run `git lfs pull` for the file itself",
    b"PK\x03\x04": "a zip file, most likely a pickle (.ckpt, .pt), and pickles are not loaded",
    b"\x80": "a pickle (.ckpt, .pt), and pickles are not loaded",
    b"<": "a web page or XML: download the file itself",
    b"GGUF": "a GGUF file, which is another format",
}

#: What the names of a LoRA's weights contain: kohya's, PEFT's and the older diffusers' spelling.
LORA_PARTS = ("lora_down", "lora_up", "lora_A", "lora_B", "_lora.down.", "_lora.up.", "lora_linear_layer.")
#: How the names of a ControlNet's weights begin: inside a whole checkpoint, on its own, and in diffusers' layout.
CONTROLNET_STARTS = ("control_model.", "input_hint_block.", "controlnet_cond_embedding.", "controlnet_down_blocks.")


#: Width of the text embeddings that a family's UNet reads.
WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}


class CheckpointError(ValueError):
    """A file that is no readable safetensors file: met by whoever named it as a model, the sentence says what it is."""


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor in the file, in the header's order. Only the header is read.

    Raises CheckpointError for anything else than a whole safetensors file, and for a file that cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            start = file.read(64)
            length = int.from_bytes(start[:8], "little")
            if (kind := _lookalike(start)) and not start[8:].startswith(b"{"):
                raise CheckpointError(f"{path} must be a safetensors file, but is {kind}.")
            if size < 8 or not 2 <= length <= MAX_HEADER_BYTES:
                raise CheckpointError(f"{path} must be a safetensors file, but does not begin with a header's length.")
            if 8 + length > size:
                raise CheckpointError(f"{path} is cut off: its header has {length} bytes, the whole file only {size}.")
            file.seek(8)
            header = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(f"{path} could not be read: {error.strerror}.") from error
    except CheckpointError:
        raise  # it is a ValueError too
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} must be a safetensors file, but its header is no JSON.") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} must be a safetensors file, but its header is no JSON object.")
    shapes: dict[str, tuple[int, ...]] = {}
    end = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            shapes[name], last = _entry(path, name, tensor)
            end = max(end, last)
    if 8 + length + end > size:
        raise CheckpointError(f"{path} is cut off: it must have {8 + length + end} bytes, but has {size}.")
    return shapes


def kind_of(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """What a file with these tensors is, or None for what this project has no use for.

    A whole model of a family: `sd1`, `sd2`, `sdxl`, `sdxl-refiner`. A part: `lora`, `embedding`, `vae`, `controlnet`,
    `upscaler`. The names decide and not the widths, so that a tiny model of a family is of the family.
    """
    # 1. What may lie in one file with the names of a whole model: first.
    if any(part in name for name in shapes for part in LORA_PARTS):
        return "lora"
    if any(name.startswith(CONTROLNET_STARTS) for name in shapes):
        return "controlnet"

    # 2. Whole models: the text encoder tells the family.
    def has(start: str) -> bool:
        return any(name.startswith(start) for name in shapes)

    if has("model.diffusion_model."):
        if has("conditioner.embedders.1.model.") and has("conditioner.embedders.0.transformer."):
            return "sdxl"
        if has("conditioner.embedders.0.model.") and not has("conditioner.embedders.1.model."):
            return "sdxl-refiner"
        if has("cond_stage_model.model."):
            return "sd2"
        return "sd1" if has("cond_stage_model.transformer.") else None

    # 3. Parts. The VAEs of later families (SD 3, Flux) have no post_quant_conv and do not fit.
    if any(f"{start}decoder.conv_in.weight" in shapes and f"{start}post_quant_conv.weight" in shapes for start in _VAE_STARTS):
        return "vae"
    rrdb = any(".rdb1." in name.lower() for name in shapes)
    if ("conv_first.weight" in shapes and rrdb) or ("model.0.weight" in shapes and has("model.1.sub.")):
        return "upscaler"
    if "emb_params" in shapes or (shapes and set(shapes) <= {"clip_l", "clip_g"}):
        return "embedding"
    # diffusers saves an embedding under the token's own name: any name will do, so the last question.
    return "embedding" if 1 <= len(shapes) <= 2 and all(len(shape) in (1, 2) for shape in shapes.values()) else None


_VAE_STARTS = ("", "first_stage_model.", "vae.")


def _lookalike(start: bytes) -> str | None:
    start = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    return next((kind for magic, kind in LOOKALIKES.items() if start.startswith(magic)), None)


def _entry(path: Path, name: str, tensor: Any) -> tuple[tuple[int, ...], int]:
    """The shape of a header's entry, and where its numbers end: bytes after the header. Raises CheckpointError."""
    fields: dict[str, Any] = tensor if isinstance(tensor, dict) else {}
    shape, offsets = fields.get("shape", ()), fields.get("data_offsets", ())
    if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2 and isinstance(fields.get("dtype"), str)):
        raise CheckpointError(f"{path} must be a safetensors file, but its header is wrong at {name[:80]!r}.")
    return tuple(shape), offsets[1]


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)


def width_of_lora(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Width of the text that the cross-attention of a LoRA's model reads; None when the LoRA does not reach that."""
    for name, shape in shapes.items():
        if re.search(r"attn2[._]to_[kv]", name) and re.search(r"lora_(down|A)|lora\.down", name) and len(shape) >= 2:
            return shape[1]
    return None


def width_of_embedding(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Width of the text embeddings of a textual inversion's model; None when it does not tell."""
    if "clip_g" in shapes and "clip_l" in shapes:
        return shapes["clip_g"][-1] + shapes["clip_l"][-1]
    widths = {shape[-1] for shape in shapes.values() if shape}
    return widths.pop() if len(widths) == 1 else None
