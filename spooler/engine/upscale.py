"""Pictures made larger: by Lanczos, or by a model of the ESRGAN family, tile by tile."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.Image import Image as Picture
from PIL.Image import Resampling
from safetensors import SafetensorError

from spooler.engine.device import NotFiniteError

LANCZOS = "Lanczos"
#: Pixels. Where even this is too much for the device, less would not help: the weights are what fills it.
SMALLEST_TILE = 64


class UpscalerError(RuntimeError):
    """The upscaler cannot be had: met by whoever names one that is not there, or that needs what is not installed."""


class Upscalers:
    """Lanczos and the .safetensors files of a folder; the model that was used last is kept on the device.

    `tile` and `overlap` are in pixels of the picture that is enlarged. Of each tile, `overlap` pixels along a seam are
    only context and thrown away, so the result is that of the whole picture at once where the model looks no further.
    """

    def __init__(self, folder: Path, device: torch.device, tile: int = 512, overlap: int = 16):
        if overlap < 0 or tile < max(1, 4 * overlap):
            raise ValueError(f"`tile` has to be at least 4 times `overlap`, but they are {tile} and {overlap}.")
        self._folder = folder
        self._device = device
        self._tile = tile
        self._overlap = overlap
        self._loaded: tuple[str, Any] | None = None

    def names(self) -> list[str]:
        """What upscale() takes as a name now."""
        found = {path.stem for path in self._folder.glob("*.safetensors")} if self._folder.is_dir() else set()
        return [LANCZOS, *sorted(found - {LANCZOS})]

    def upscale(
        self, picture: Picture, name: str, scale: float, on_tile: Callable[[int, int], None] = lambda tile, tiles: None
    ) -> Picture:
        """The picture in RGB, round(width * scale) by round(height * scale) pixels.

        `on_tile(tile, tiles)` is called after each tile of a model's pass, from 1 to tiles; what it raises ends the work.
        Raises UpscalerError, ValueError for a scale that leaves no pixel, NotFiniteError when the model gives NaN or
        infinity, and torch.OutOfMemoryError when tiles of 64 pixels are still too large.
        """
        if not math.isfinite(scale) or min(round(picture.width * scale), round(picture.height * scale)) < 1:
            raise ValueError(f"`scale` has to leave at least one pixel of {picture.width}x{picture.height}, but is {scale}.")
        size = round(picture.width * scale), round(picture.height * scale)
        picture = picture.convert("RGB")  # Lanczos cannot average the colour numbers of a palette
        if name == LANCZOS:
            return picture.resize(size, Resampling.LANCZOS)
        model = self._model(name)

        # 1. Once by the model's own factor.
        enlarged = self._pass(model, picture, on_tile)

        # 2. Once more where that is too small. What the second pass would make too large is taken off before it: at 4x
        # and a wanted 5x that is a tenth of the pixels, and of the time and memory.
        if 1 < model.scale < scale:
            start = [min(have, math.ceil(want / model.scale)) for have, want in zip(enlarged.size, size, strict=True)]
            enlarged = self._pass(model, enlarged.resize((start[0], start[1]), Resampling.LANCZOS), on_tile)

        # 3. The rest by Lanczos.
        return enlarged if enlarged.size == size else enlarged.resize(size, Resampling.LANCZOS)

    def _model(self, name: str) -> Any:
        """The spandrel descriptor of the name, on the device. Raises UpscalerError."""
        if self._loaded and self._loaded[0] == name:
            return self._loaded[1]
        # A name comes from a job: it is looked up among the files that are there, never made into a path.
        if name not in self.names():
            raise UpscalerError(f"The upscaler {name!r} is not there; there are: {', '.join(self.names())}.")
        try:
            spandrel = importlib.import_module("spandrel")  # optional, and slow: only when it is wanted
        except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
            missing = (getattr(error, "name", None) or "spandrel").partition(".")[0]
            raise UpscalerError(
                f"The upscaler {name!r} needs the Python package {missing}, which cannot be imported here"
                f" ({error}); {LANCZOS} works without it."
            ) from error
        self._loaded = None  # the last one goes before the next comes: the device holds one at a time
        try:
            model = spandrel.ModelLoader(self._device).load_from_file(self._folder / f"{name}.safetensors")
        except torch.OutOfMemoryError:
            raise
        except (spandrel.UnsupportedModelError, SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error) or type(error).__name__
            raise UpscalerError(f"{name}.safetensors could not be loaded as an upscaler: {reason}") from error
        if model.purpose not in ("SR", "Restoration") or (model.input_channels, model.output_channels) != (3, 3):
            raise UpscalerError(f"{name}.safetensors is not an upscaler of colour pictures but a {model.architecture.name}.")
        model.eval()
        # On the network itself: the descriptor clamps what comes out, and would turn infinity into white.
        model.model.register_forward_hook(_refuse_not_finite)
        self._loaded = name, model
        return model

    def _pass(self, model: Any, picture: Picture, on_tile: Callable[[int, int], None]) -> Picture:
        """The picture, larger by the model's factor, in tiles as large as the device holds."""
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div_(255)  # (3, height, width) in 0..1
        side = min(self._tile, max(picture.size))
        while True:
            try:
                return self._tiled(model, image, side, on_tile)
            except torch.OutOfMemoryError:
                if side <= SMALLEST_TILE:
                    raise
            # Outside the except block, whose traceback would keep the tensors of the failed attempt on the device.
            side = max(SMALLEST_TILE, side // 2)

    @torch.inference_mode()
    def _tiled(self, model: Any, image: torch.Tensor, side: int, on_tile: Callable[[int, int], None]) -> Picture:
        """`image` (3, height, width) in 0..1 through the model, in tiles of `side` pixels (a little more where it must)."""
        factor = model.scale
        step = model.size_requirements.multiple_of
        height, width = image.shape[1:]

        # 1. Make the picture, and each tile's place and size, a multiple of what the model asks for: padding within a
        # tile would show at its seam, and a network that folds pixels into channels has to fold the same ones together.
        right, below = model.size_requirements.get_padding(width, height)
        if right or below:
            image = torch.nn.functional.pad(image[None], (0, right, 0, below), "replicate")[0]
        side = math.ceil(max(side, model.size_requirements.minimum) / step) * step

        # 2. Add up the tiles, each faded out towards its seams.
        columns = _windows(image.shape[2], side, self._overlap, step, factor)
        rows = _windows(image.shape[1], side, self._overlap, step, factor)
        canvas = torch.zeros(3, image.shape[1] * factor, image.shape[2] * factor)  # on the CPU: it may be very large
        tiles = len(rows) * len(columns)
        for done, (top, left) in enumerate(((y, x) for y in range(len(rows)) for x in range(len(columns))), 1):
            (y, down), (x, across) = rows[top], columns[left]
            out = model(image[None, :, y : y + side, x : x + side].to(self._device))[0].float().cpu()
            place = canvas[:, y * factor :, x * factor :][:, : out.shape[1], : out.shape[2]]
            place += out * down[:, None] * across
            on_tile(done, tiles)

        # 3. Back to bytes, without the padding.
        canvas = canvas[:, : height * factor, : width * factor]
        return Image.fromarray(canvas.mul_(255).round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())


def _refuse_not_finite(module: torch.nn.Module, arguments: Any, output: Any) -> None:
    if isinstance(output, torch.Tensor) and not torch.isfinite(output).all():
        raise NotFiniteError("The upscaled picture is not finite; try another upscaler.")


def _windows(length: int, side: int, overlap: int, step: int, factor: int) -> list[tuple[int, torch.Tensor]]:
    """Where the tiles lie along one axis of `length` pixels: (first pixel, weights of the tile's enlarged pixels).

    At every enlarged pixel the weights of all tiles add up to 1. Nearer than `overlap` to a seam a weight is 0; from there
    it rises over half as many pixels, so that two tiles which do not agree pass into each other without an edge.
    """
    if length <= side:
        return [(0, torch.ones(length * factor))]
    overlap = min(overlap, side // 4)  # of a tile that was halved for want of memory, the most that leaves it useful
    ramp = overlap // 2
    stride = max(step, (side - 2 * overlap - ramp) // step * step)
    starts = [*range(0, length - side, stride), length - side]
    rise = (torch.arange(side * factor) + 0.5 - overlap * factor).div_(max(1, ramp * factor)).clamp_(0, 1)
    total = torch.zeros(length * factor)
    weights = []
    for start in starts:
        weight = torch.ones(side * factor)
        if start > 0:
            weight *= rise
        if start < length - side:
            weight *= rise.flip(0)
        total[start * factor : (start + side) * factor] += weight
        weights.append(weight)
    return [(s, weight / total[s * factor : (s + side) * factor]) for s, weight in zip(starts, weights, strict=True)]
