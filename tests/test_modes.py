"""The memory modes: each draws the same picture, and what cannot work is refused at the start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from house import Spooler
from PIL import Image
from ward import CIRCLE, furthest

from bench.direct import Direct
from bench.shape_checker import look
from spooler import messages
from spooler.engine import device as devices
from spooler.record import EngineFacts
from spooler.spool import Spool

#: Options; what the record says of them; the most that a channel of a pixel may differ from --memory full, and the mean of all,
#: of 255. Measured: at most 1 where the arithmetic only changes its order, 4 and 0.05 with int8, 54 and 0.39 with fp8: at the
#: circle's edge, for a float of three bits' mantissa moves it by a part of a pixel.
MODES: dict[str, tuple[str, int, float]] = {
    "--memory tiled --attention sliced": ("full, vae_tiling, vae_slicing, sliced", 2, 0.01),
    "--memory offload --channels-last on": ("offload, vae_tiling, vae_slicing, channels_last", 2, 0.01),
    "--memory group --vae-slicing off": ("group, vae_tiling", 2, 0.01),
    "--memory sequential": ("sequential, vae_tiling, vae_slicing", 2, 0.01),
    "--weights fp8": ("full, vae_slicing, fp8", 90, 0.8),
    "--weights int8": ("full, vae_slicing, int8", 10, 0.1),
}


def drawn(**settings: str) -> tuple[list[np.ndarray], EngineFacts]:
    """Two pictures of an engine with these settings, and what it says of itself."""
    engine = Direct(**settings)
    pictures = engine.draw(**CIRCLE, count=2)
    assert isinstance(engine.ended, messages.Finished)
    engine.close()
    return [np.asarray(each, dtype=int) for each in pictures], engine.ended.facts


@pytest.fixture(scope="module")
def expected() -> list[np.ndarray]:
    pictures, facts = drawn(memory="full")
    assert facts.memory == "full, vae_slicing"
    return pictures


@pytest.mark.parametrize("options", MODES)
def test_every_memory_mode_draws_the_same_picture(expected: list[np.ndarray], options: str) -> None:
    memory, most, mean = MODES[options]
    words = [word.removeprefix("--").replace("-", "_") if word.startswith("--") else word for word in options.split()]
    pictures, facts = drawn(**dict(zip(words[::2], words[1::2], strict=True)))
    assert facts.memory == memory and facts.rung is None
    seen = look(Image.fromarray(pictures[0].astype(np.uint8)))
    assert (seen.shape, seen.colour, seen.background) == ("circle", "red", "blue")
    assert furthest(pictures, expected) <= most
    assert np.mean([abs(one - other) for one, other in zip(pictures, expected, strict=True)]) <= mean


def test_an_attention_without_its_package_is_refused_at_the_start(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.create()
    refused = Spooler(spool, "--cache", str(tmp_path / "cache"), "--attention", "xformers")
    assert refused.ended() == 2
    assert "The model 'demo' cannot be run as configured: `attention` xformers does not work here:" in refused.log


def test_weights_that_cannot_be_moved_layer_by_layer_are_refused_at_the_start() -> None:
    with pytest.raises(devices.UnusableError, match="`weights` int8 does not work with `memory` sequential; fp8 does"):
        Direct(memory="sequential", weights="int8")


def test_a_device_that_is_none_is_refused() -> None:
    with pytest.raises(devices.UnusableError, match="'toaster' is not"):
        Direct(device="toaster")
