"""The memory modes: each draws the same picture, and what cannot work is refused at the start."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from house import Spooler, picture
from ward import Patient, furthest, patient, pixels

from bench.direct import Direct
from bench.shape_checker import look
from spooler.engine import device as devices
from spooler.record import Record
from spooler.spool import Place, Spool

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


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[tuple[Place, Record]]]]:
    """A job in each mode, each in a spooler of its own, two at a time."""

    def draw(options: str) -> tuple[Place, Record]:
        with patient(tmp_path_factory.mktemp("mode"), *options.split()) as made:
            return made.run(count=2)

    with ThreadPoolExecutor(2) as pool:
        yield {options: pool.submit(draw, options) for options in MODES}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("options", MODES)
def test_every_memory_mode_draws_the_same_picture(
    ill: Patient, drawn: dict[str, Future[tuple[Place, Record]]], options: str
) -> None:
    memory, most, mean = MODES[options]
    expected, record = ill.draw(count=2)
    assert record.engine and record.engine.memory == "full, vae_slicing"
    place, record = drawn[options].result()
    assert place.state == "done" and record.engine and record.engine.memory == memory and record.engine.rung is None
    seen = look(picture(place.path / "0.png"))
    assert (seen.shape, seen.colour, seen.background) == ("circle", "red", "blue")
    assert furthest(pixels(place), expected) <= most
    assert np.mean([abs(one - other) for one, other in zip(pixels(place), expected, strict=True)]) <= mean


def test_an_attention_without_its_package_is_refused_at_the_start(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.create()
    refused = Spooler(spool, "--cache", str(tmp_path / "cache"), "--attention", "xformers")
    assert refused.ended() == 2
    assert "The model 'demo' cannot be run as configured: `attention` xformers does not work here:" in refused.log


def test_weights_that_cannot_be_moved_layer_by_layer_are_refused_at_the_start() -> None:
    with pytest.raises(devices.UnusableError, match="`weights` int8 does not work with `memory` sequential; fp8 does"):
        Direct(memory="sequential", weights="int8")
