"""Memory: named modes for each size of card, single tricks, and the ladder that a job climbs down when memory runs out.

    rung            what it costs
    as configured
    vae_tiling      faint differences at the tiles' borders in pictures larger than a tile
    batch n         fewer pictures at once: the time that batching saved
    offload         one part of the model on the device at a time
    sequential      one layer at a time: slowest, and the least that can be

A rung that fitted is remembered for the model, the size and the number of pictures, and is where the next such job starts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import accelerate
import torch

from spooler.engine.notes import Notes
from spooler.settings import Settings

Offload = Literal["none", "model", "group", "sequential"]
#: From the fastest to the thriftiest.
OFFLOADS: tuple[Offload, ...] = ("none", "group", "model", "sequential")
#: The named modes: what a card of some size wants.
MODES: dict[str, dict[str, Any]] = {
    "full": {"offload": "none", "vae_tiling": False},
    "tiled": {"offload": "none", "vae_tiling": True},
    "offload": {"offload": "model", "vae_tiling": True},
    "group": {"offload": "group", "vae_tiling": True},
    "sequential": {"offload": "sequential", "vae_tiling": True},
}
GIB = 1 << 30


@dataclass(frozen=True)
class Tricks:
    """What is done to need less memory, or less time."""

    offload: Offload = "none"
    vae_tiling: bool = False
    vae_slicing: bool = True
    attention: str = "sdpa"
    weights: str = "full"
    channels_last: bool = False

    def __str__(self) -> str:
        """As the record tells it."""
        offload = {"none": "full", "model": "offload"}.get(self.offload, self.offload)
        extras = [name for name in ("vae_tiling", "vae_slicing", "channels_last") if getattr(self, name)]
        extras += [self.attention] if self.attention != "sdpa" else []
        extras += [self.weights] if self.weights != "full" else []
        return ", ".join([offload, *extras])


@dataclass(frozen=True)
class Rung:
    """How a job is drawn: with which tricks, and how many pictures at once at most."""

    tricks: Tricks
    batch: int
    name: str | None = None  # None for the topmost

    def lower(self) -> Rung | None:
        """The next rung down; None under the last."""
        if not self.tricks.vae_tiling:
            return replace(self, tricks=replace(self.tricks, vae_tiling=True, vae_slicing=True), name="vae_tiling")
        if self.batch > 1:
            return replace(self, batch=self.batch // 2, name=f"batch {self.batch // 2}")
        if self.tricks.offload in ("none", "group"):
            return replace(self, tricks=replace(self.tricks, offload="model"), name="offload")
        if self.tricks.offload == "model" and self.tricks.weights != "int8":
            return replace(self, tricks=replace(self.tricks, offload="sequential"), name="sequential")
        return None


def choose_mode(weights: int, largest_part: int, working: int, free: int) -> str:
    """The mode for a model of `weights` bytes whose largest part has `largest_part`, on a card with `free` bytes.

    `working` is what drawing one picture needs besides the weights, in bytes (see `working_bytes`).
    """
    if weights + 2 * working < free:
        return "full"
    if weights + working < free:
        return "tiled"
    if largest_part + working < free:
        return "offload"
    return "sequential"


def working_bytes(width: int, height: int) -> int:
    """An estimate of what one picture needs besides the weights, at half precision, with its VAE not tiled.

    From published peaks: SD 1.5 at 512x512 needs 0.6 GiB over its weights, SDXL at 1024x1024 about 2 GiB.
    """
    return int(0.2 * GIB + 1.8 * GIB * width * height / 1024**2)


def choose_tricks(settings: Settings, weights: int, largest_part: int, working: int, free: int, gpu: bool) -> Tricks:
    """The tricks for a model on a device, from the settings; `auto` looks at the free memory. Sizes are bytes."""
    mode = settings.memory
    if mode == "auto":
        # A CPU's memory is the model's home anyway: there is nowhere to offload to.
        mode = choose_mode(weights, largest_part, working, free) if gpu else "full"
        if mode == "sequential" and settings.weights == "int8":
            mode = "offload"  # accelerate cannot move torchao's weights layer by layer
    named = MODES[mode]

    def switch(setting: str, auto: bool) -> bool:
        return auto if setting == "auto" else setting == "on"

    return Tricks(
        offload=named["offload"],
        vae_tiling=switch(settings.vae_tiling, named["vae_tiling"]),
        vae_slicing=switch(settings.vae_slicing, True),
        attention=settings.attention,
        weights=settings.weights,
        channels_last=switch(settings.channels_last, gpu),
    )


def prepare(pipe: Any, tricks: Tricks, dtype: torch.dtype) -> None:
    """Put those tricks on a freshly loaded pipeline that stay on it as long as it lives. Raises ValueError for one it lacks."""
    backbone = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    if backbone is None:
        raise ValueError("the pipeline has neither a UNet nor a transformer")
    if tricks.channels_last:
        for part in (backbone, pipe.vae):
            part.to(memory_format=torch.channels_last)
    if tricks.weights == "fp8":
        if not hasattr(backbone, "enable_layerwise_casting"):
            raise ValueError("`weights` fp8 does not work with this family")
        backbone.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
    elif tricks.weights == "int8":
        if tricks.offload == "sequential":
            raise ValueError("`weights` int8 does not work with `memory` sequential; fp8 does")
        try:
            from torchao.quantization import Int8WeightOnlyConfig, quantize_
        except ImportError as error:
            raise ValueError(f"`weights` int8 needs the package torchao ({error}): pip install 'sdspool[quant]'") from error
        quantize_(backbone, Int8WeightOnlyConfig())
    tile(pipe, tricks)
    if tricks.attention == "sliced":
        pipe.enable_attention_slicing()
    elif tricks.attention == "xformers":
        try:
            pipe.enable_xformers_memory_efficient_attention()
        except (ImportError, ValueError, RuntimeError) as error:
            raise ValueError(f"`attention` xformers does not work here: {error}") from error


def tile(pipe: Any, tricks: Tricks) -> None:
    """Switch the tricks of the VAE, which can change under a loaded pipeline."""
    for trick in ("tiling", "slicing"):
        switch = f"{'enable' if getattr(tricks, f'vae_{trick}') else 'disable'}_{trick}"
        if hasattr(pipe.vae, switch):
            getattr(pipe.vae, switch)()


def place(pipe: Any, offload: Offload, device: torch.device) -> None:
    """Bring the pipeline's parts to where they are computed, or hang the hooks on them that will."""
    if offload == "none":
        pipe.to(device)
    elif offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential" and device.type == "cpu":
        # diffusers makes "cpu:0" of the device, which torch takes for another one than "cpu", and accelerate stumbles over it.
        pipe.remove_all_hooks()
        for part in (part for part in pipe.components.values() if isinstance(part, torch.nn.Module)):
            accelerate.cpu_offload(part, device, offload_buffers=len(part._parameters) > 0)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.enable_group_offload(onload_device=device, offload_device=torch.device("cpu"), offload_type="leaf_level")


class Fits:
    """The rungs that fitted, kept in a file. Losing it costs a few tries."""

    def __init__(self, path: Path):
        self._notes = Notes(path)

    @staticmethod
    def key(device: str, model_hash: str, width: int, height: int, count: int, top: Rung) -> str:
        """What a rung was found for; the tricks of the topmost rung are part of it, for they are the operator's choice."""
        return f"{device} | {model_hash[:10]} | {width}x{height} | {count} | {top.tricks}, batch {top.batch}"

    def start(self, key: str, top: Rung) -> Rung:
        """Where to start: the rung that fitted the last time, else the topmost."""
        known = self._notes.found.get(key)
        try:
            return Rung(Tricks(**known["tricks"]), int(known["batch"]), known["name"]) if known else top
        except (KeyError, TypeError, ValueError):
            return top

    def remember(self, key: str, rung: Rung) -> None:
        """Note the rung on which a job ended well, if that was not the topmost."""
        if rung.name is None or self._notes.found.get(key) == asdict(rung):
            return
        self._notes.found[key] = asdict(rung)
        self._notes.write()

    def largest(self, device: str, model_hash: str, below: int) -> str | None:
        """The largest size, "WxH", of less than `below` pixels that is known to have fitted with the model."""
        sizes = [key.split(" | ")[2] for key in self._notes.found if key.startswith(f"{device} | {model_hash[:10]} | ")]
        pixels = {size: int(size.split("x")[0]) * int(size.split("x")[1]) for size in sizes}
        return max((size for size in sizes if pixels[size] < below), key=lambda size: pixels[size], default=None)
