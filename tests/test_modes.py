"""The memory modes: each draws the same picture, and what cannot work is refused at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from house import Spooler
from PIL import Image
from studio import BASE, apart, asked, shelf
from ward import CIRCLE, furthest

from bench.direct import Direct
from bench.shape_checker import look
from spooler import messages
from spooler.engine import device as devices
from spooler.record import EngineFacts
from spooler.spool import Spool

__all__ = ["shelf"]

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


@pytest.mark.parametrize("memory", ["offload", "group", "sequential"])
def test_a_lora_comes_and_goes_in_a_mode_that_moves_the_parts(memory: str, shelf: Path) -> None:
    """The library hangs its hooks anew when it loads one: on the first GPU, and on a CPU not at all."""
    job, with_it = BASE | {"model": "sd1"}, {"loras": [{"name": "sd1-lora"}]}
    drawn = []
    for mode in ("full", memory):
        engine = Direct(models=shelf, model="sd1", memory=mode, vae_tiling="off")
        drawn.append([np.asarray(engine.draw(**job, **more)[0]) for more in ({}, with_it, {})])
        engine.close()
    (plain, dressed, bare), ours = drawn
    assert apart(plain, dressed) > 1 and apart(plain, bare) <= 1
    assert max(apart(one, other) for one, other in zip(ours, drawn[0], strict=True)) <= 2


def test_an_embedding_that_fails_halfway_is_learnt_the_next_time(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when memory runs out: what it left in the tokenizer is in nobody's way."""
    engine = Direct(models=shelf, model="sd1")
    base: Any = engine.engine._residents.get("sd1")._base
    load = base.load_textual_inversion

    def fails_after(*args: Any, **kwargs: Any) -> None:
        load(*args, **kwargs)
        monkeypatch.undo()
        raise torch.OutOfMemoryError("for once")

    monkeypatch.setattr(base, "load_textual_inversion", fails_after)
    job = BASE | {"model": "sd1"}
    learnt = np.asarray(engine.draw(**job | asked("embeddings", "sd1"))[0])
    assert base.load_textual_inversion == load, "it was tried twice"
    assert apart(learnt, np.asarray(engine.draw(**job)[0])) <= 1, "it means the word red"
    engine.close()
