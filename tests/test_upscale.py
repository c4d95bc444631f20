"""The upscalers, with ESRGAN networks that are small or whose weights are set by hand."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from house import ROOT, missing
from PIL import Image
from safetensors.torch import save_file

from spooler.engine.device import NotFiniteError
from spooler.engine.upscale import LANCZOS, UpscalerError, Upscalers

CPU = torch.device("cpu")
FILTERS, GROWTH = 4, 32  # spandrel reads the first from the weights and takes the second for granted


@pytest.fixture(scope="module")
def spandrel() -> Iterator[Any]:
    """spandrel, imported with the stand-in of torchvision where there is no torchvision; none of it is left behind."""
    if importlib.util.find_spec("spandrel") is None:
        missing("the Python package spandrel")
    stand_in = importlib.util.find_spec("torchvision") is None
    with pytest.MonkeyPatch.context() as patch:
        if stand_in:
            patch.syspath_prepend(str(ROOT / "tests" / "stand_ins"))
        module = importlib.import_module("spandrel")
        if stand_in:
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
    yield module


def shapes(channels: int, doublings: int) -> dict[str, tuple[int, int]]:
    """Each convolution of an ESRGAN of one block, in the key layout of the first ESRGAN: (channels out, channels in)."""
    found = {"model.0": (FILTERS, channels), "model.1.sub.1": (FILTERS, FILTERS)}
    for block in (1, 2, 3):
        for conv in (1, 2, 3, 4, 5):
            out = FILTERS if conv == 5 else GROWTH
            found[f"model.1.sub.0.RDB{block}.conv{conv}.0"] = out, FILTERS + (conv - 1) * GROWTH
    for doubling in range(1, doublings + 1):
        found[f"model.{3 * doubling}"] = FILTERS, FILTERS
    found[f"model.{3 * doublings + 2}"] = FILTERS, FILTERS
    found[f"model.{3 * doublings + 4}"] = 3, FILTERS
    return found


def random_weights(channels: int = 3, doublings: int = 2) -> dict[str, torch.Tensor]:
    """Weights under which every pixel depends on all those that the network can see, and about grey comes out."""
    generator = torch.Generator().manual_seed(1)
    weights = {}
    for name, (out, into) in shapes(channels, doublings).items():
        weights[f"{name}.weight"] = torch.randn(out, into, 3, 3, generator=generator) * (1.2 / (9 * into)) ** 0.5
        weights[f"{name}.bias"] = torch.randn(out, generator=generator) * 0.1
    last = f"model.{3 * doublings + 4}"
    weights[f"{last}.weight"] *= 0.4
    weights[f"{last}.bias"] = torch.full((3,), 0.5)
    return weights


def nearest_weights(doublings: int = 2) -> dict[str, torch.Tensor]:
    """Weights that make the network repeat each pixel: the dense blocks give 0, every other layer hands its input on."""
    weights = {}
    for name, (out, into) in shapes(3, doublings).items():
        weights[f"{name}.weight"] = torch.zeros(out, into, 3, 3)
        weights[f"{name}.bias"] = torch.zeros(out)
        if ".sub." not in name:
            for channel in range(3):
                weights[f"{name}.weight"][channel, channel, 1, 1] = 1
    return weights


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8))


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of a byte."""
    assert one.size == other.size
    return int(np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max())


def test_lanczos_needs_no_folder(tmp_path: Path) -> None:
    upscalers = Upscalers(tmp_path / "none", CPU)
    assert upscalers.names() == [LANCZOS]
    assert upscalers.upscale(noise(33, 21), LANCZOS, 1.5).size == (round(49.5), round(31.5))
    assert upscalers.upscale(noise(8, 8).convert("P"), LANCZOS, 2).mode == "RGB"
    for scale in (0.0, -1.0, 0.01, float("nan")):
        with pytest.raises(ValueError, match="`scale` has to leave at least one pixel of 8x8, but is "):
            upscalers.upscale(noise(8, 8), LANCZOS, scale)


def test_a_tile_has_room_for_its_overlap() -> None:
    with pytest.raises(ValueError, match="at least 4 times `overlap`, but they are 60 and 16"):
        Upscalers(Path(), CPU, tile=60)


@pytest.mark.parametrize("name", ["nobody", "../x4", "x4.safetensors", "", "/etc/passwd"])
def test_p9_a_name_that_is_not_in_the_folder(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "upscalers"
    inside.mkdir()
    for folder in (tmp_path, inside):
        (folder / "x4.safetensors").touch()
    with pytest.raises(UpscalerError, match=r"is not there; there are: Lanczos, x4\."):
        Upscalers(inside, CPU).upscale(noise(8, 8), name, 2)


def test_without_spandrel_a_sentence_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "x4.safetensors").touch()
    script = """
import sys
from pathlib import Path
import torch
from PIL import Image
from spooler.engine.device import NotFiniteError
from spooler.engine.upscale import UpscalerError, Upscalers
upscalers = Upscalers(Path(sys.argv[1]), torch.device("cpu"))
picture = Image.new("RGB", (8, 8))
for package in ("torchvision", "spandrel"):
    sys.modules[package] = None
    try:
        upscalers.upscale(picture, "x4", 2)
    except UpscalerError as error:
        print(error)
print(upscalers.upscale(picture, "Lanczos", 2).size)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    needs = "The upscaler 'x4' needs the Python package "
    if importlib.util.find_spec("spandrel"):
        assert said[0].startswith(needs + "torchvision, which cannot be imported here (")
    assert said[1].startswith(needs + "spandrel, which cannot be imported here (")
    assert said[1].endswith("Lanczos works without it.")
    assert said[2] == "(16, 16)"


def test_a_file_that_is_no_upscaler(tmp_path: Path, spandrel: Any) -> None:
    (tmp_path / "rubbish.safetensors").write_bytes(b"rubbish")
    save_file({"a.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    short = nearest_weights()
    del short["model.8.bias"]
    save_file(short, tmp_path / "short.safetensors")
    for name in ("rubbish", "other", "short"):
        with pytest.raises(UpscalerError, match=rf"{name}.safetensors could not be loaded as an upscaler: \S+"):
            Upscalers(tmp_path, CPU).upscale(noise(8, 8), name, 2)


def test_the_picture_is_the_network_s_and_of_the_wanted_size(tmp_path: Path, spandrel: Any) -> None:
    save_file(nearest_weights(), tmp_path / "x4.safetensors")
    save_file(nearest_weights(doublings=1), tmp_path / "x2.safetensors")
    upscalers = Upscalers(tmp_path, CPU)
    assert upscalers.names() == [LANCZOS, "x2", "x4"]
    picture = noise(19, 14)

    nearest = picture.resize((76, 56), Image.Resampling.NEAREST)
    assert difference(upscalers.upscale(picture, "x4", 4), nearest) == 0
    assert difference(upscalers.upscale(picture, "x4", 1.7), nearest.resize((32, 24), Image.Resampling.LANCZOS)) == 0

    # Twice, where once is too small; and no third time.
    assert difference(upscalers.upscale(picture, "x2", 4), nearest) == 0
    assert difference(upscalers.upscale(picture, "x2", 5), nearest.resize((95, 70), Image.Resampling.LANCZOS)) == 0
    begun = picture.resize((38, 28), Image.Resampling.NEAREST).resize((29, 21), Image.Resampling.LANCZOS)
    wanted = begun.resize((58, 42), Image.Resampling.NEAREST).resize((57, 42), Image.Resampling.LANCZOS)
    assert difference(upscalers.upscale(picture, "x2", 3), wanted) == 0


@pytest.mark.parametrize(
    ("channels", "tile", "overlap", "size"),
    [(3, 80, 20, (170, 93)), (12, 160, 40, (171, 190))],  # a block sees 19 pixels; one that folds 2x2 pixels, 38
    ids=["x4", "x2-folded"],
)
def test_tiles_make_the_picture_that_the_whole_would(
    tmp_path: Path, spandrel: Any, channels: int, tile: int, overlap: int, size: tuple[int, int]
) -> None:
    weights = random_weights(channels)
    save_file(weights, tmp_path / "random.safetensors")
    scale = 4 if channels == 3 else 2
    picture, tiles = noise(*size), []
    whole = Upscalers(tmp_path, CPU, tile=1024).upscale(picture, "random", scale)
    tiled = Upscalers(tmp_path, CPU, tile, overlap).upscale(picture, "random", scale, lambda done, of: tiles.append((done, of)))
    assert whole.size == tiled.size == (size[0] * scale, size[1] * scale)
    assert np.asarray(whole).std() > 10, "a picture that says something"
    assert difference(whole, tiled) <= 1, "but for rounding"
    assert tiles == [(done, len(tiles)) for done in range(1, len(tiles) + 1)]
    assert len(tiles) >= 4

    # That the seams are where it would show: without context they do.
    careless = Upscalers(tmp_path, CPU, tile, 0).upscale(picture, "random", scale)
    assert difference(whole, careless) > 10


def test_tiles_that_are_too_large_for_the_device_are_halved(
    tmp_path: Path, spandrel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(nearest_weights(doublings=1), tmp_path / "x2.safetensors")
    network = importlib.import_module("spandrel.architectures.ESRGAN").ESRGAN
    forward = network.forward
    most, sides = 100, []

    def small_device(self: Any, x: torch.Tensor) -> torch.Tensor:
        sides.append(max(x.shape[2:]))
        if sides[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, x)

    monkeypatch.setattr(network, "forward", small_device)
    picture = noise(300, 70)
    upscalers = Upscalers(tmp_path, CPU)
    enlarged = upscalers.upscale(picture, "x2", 2)
    assert difference(enlarged, picture.resize((600, 140), Image.Resampling.NEAREST)) == 0
    assert sides[:2] == [300, 150]
    assert set(sides[2:]) == {75}

    most = 63
    with pytest.raises(torch.OutOfMemoryError):
        upscalers.upscale(picture, "x2", 2)
    assert sides[-1] == 64


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_an_error(tmp_path: Path, spandrel: Any, value: float) -> None:
    weights = nearest_weights(doublings=1)
    weights["model.7.bias"] += value
    save_file(weights, tmp_path / "broken.safetensors")
    with pytest.raises(NotFiniteError, match="The upscaled picture is not finite"):
        Upscalers(tmp_path, CPU).upscale(noise(8, 8), "broken", 2)


def test_one_model_is_kept(tmp_path: Path, spandrel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        save_file(nearest_weights(doublings=1), tmp_path / f"{name}.safetensors")
    load = spandrel.ModelLoader.load_from_file
    loaded: list[str] = []

    def counted(self: Any, path: Path) -> Any:
        loaded.append(path.stem)
        return load(self, path)

    monkeypatch.setattr(spandrel.ModelLoader, "load_from_file", counted)
    upscalers = Upscalers(tmp_path, CPU)
    for name in ("one", "one", LANCZOS, "one", "two", "one"):
        upscalers.upscale(noise(8, 8), name, 2)
    assert loaded == ["one", "two", "one"]
