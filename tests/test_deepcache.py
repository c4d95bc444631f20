"""A UNet whose deep blocks are asked at every so many ticks: which rows they see, alone and in company. With tiny models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counted import JOB, STEPS, UNETS, Counted, Engines, rows_of, shelf
from PIL import Image

from spooler import infotext, messages
from spooler.engine import company, deepcache
from spooler.engine.batch import Batch
from spooler.engine.cutoff import guided_ticks
from spooler.engine.knee import Knee
from spooler.job import from_fields
from spooler.mistakes import JobError

__all__ = ["shelf"]


class Watched(Counted):
    """The same of its UNet's innermost and of its outermost block."""

    def __init__(self, model: Path, scratch: Path, together: int):
        super().__init__(model, scratch, together)
        self.deep, self.outer = rows_of(self.network.mid_block), rows_of(self.network.up_blocks[-1])

    def picture(self, inputs: dict[str, Image.Image] | None = None, **fields: Any) -> np.ndarray[Any, Any]:
        """The job's first picture, 0..255."""
        self.deep.clear()
        self.outer.clear()
        return self.draw(inputs, **fields)[0]


@pytest.fixture
def counted(shelf: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engines[Watched]]:
    monkeypatch.setattr(Knee, "rows", 16)  # whatever a busy machine would measure
    yield from Engines(Watched, shelf, tmp_path).lent()


def due_ticks(ticks: int, interval: int) -> list[int]:
    return [tick for tick in range(ticks) if deepcache.is_due(tick, interval)]


def test_the_first_tick_is_due_and_each_so_many_after_it() -> None:
    assert due_ticks(10, 3) == [0, 3, 6, 9] and due_ticks(4, 1) == [0, 1, 2, 3] and due_ticks(3, 10) == [0]


@pytest.mark.parametrize("family", UNETS)
def test_alone_the_deep_blocks_are_asked_at_every_so_many_ticks(counted: Engines[Watched], family: str) -> None:
    """With several pictures at once, too; and an interval of 1 is the picture without one, to the bit."""
    engine = counted(family)
    whole = engine.picture(count=2)
    assert engine.deep == engine.outer == [4] * STEPS
    assert np.array_equal(engine.picture(count=2, deepcache_interval=1), whole)
    cached = engine.picture(count=2, deepcache_interval=3)
    assert (engine.deep, engine.outer) == ([4] * 4, [4] * STEPS) and (cached != whole).any()
    engine.picture(count=2, deepcache_interval=4, guidance_cutoff=0.5)
    assert (engine.deep, engine.outer) == ([4, 4, 2], [4] * 5 + [2] * 5), "due at ticks 0, 4 and 8, guided up to tick 4"
    assert np.array_equal(engine.picture(count=2), whole) and engine.deep == [4] * STEPS, "the next job has all of it"


@pytest.mark.parametrize("family", UNETS)
def test_p8_in_company_the_picture_is_that_alone(counted: Engines[Watched], family: str) -> None:
    alone, engine = counted(family), counted(family, 8)
    image = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    mask = Image.new("RGB", (64, 64), "black")
    mask.paste("white", (16, 8, 48, 40))
    inputs = {"in.png": image, "mask.png": mask}
    for fields in ({}, {"sampler": "Heun"}, {"image": "in.png", "strength": 0.6}, {"image": "in.png", "mask": "mask.png"}):
        given = inputs if "image" in fields else None
        stock = alone.picture(given, **fields, deepcache_interval=3)
        deep, ticks = [*alone.deep], len(alone.outer)
        ours = engine.picture(given, **fields, deepcache_interval=3)
        assert engine.deep == deep == [2] * len(due_ticks(ticks, 3)) and len(engine.outer) == ticks < 2 * STEPS, fields
        assert abs(ours - stock).max() <= 1, fields
        assert (ours != alone.picture(given, **fields)).any(), "it is another picture than with all of the UNet"


MIXED = [
    JOB | {"seed": 1, "deepcache_interval": 3},
    JOB | {"seed": 2},
    JOB | {"seed": 3, "deepcache_interval": 2, "guidance_cutoff": 0.5, "steps": 7},
    JOB | {"seed": 4, "deepcache_interval": 4, "guidance_scale": 1, "steps": 5},
    JOB | {"seed": 5, "deepcache_interval": 10, "sampler": "DPM++ 2M", "prompt": "a star " * 60},
]


def rows(fields: dict[str, Any], ticks: list[int]) -> int:
    """What the job asks for at those ticks."""
    steps, part = int(fields["steps"]), float(fields.get("guidance_cutoff", 1))
    guided = guided_ticks(steps, part) if fields["guidance_scale"] > 1 else 0
    return len(ticks) + sum(tick < guided for tick in ticks)


@pytest.mark.parametrize("most", [None, 3])
def test_p8_those_that_are_due_share_calls_with_those_that_are_not(
    counted: Engines[Watched], most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When memory is short, too, and calls are smaller than the batch."""
    monkeypatch.setattr(company, "Batch", partial(Batch, most=most))
    alone, engine = counted("sd1"), counted("sd1", 8)
    folders = engine.direct.run_all([(fields, {}) for fields in MIXED])
    shared = [each.facts.shared for each in engine.direct.ended_all if isinstance(each, messages.Finished)]
    assert len(shared) == len(MIXED) and min(shared) > 1, shared
    every = [(fields, range(int(fields["steps"]))) for fields in MIXED]
    assert sum(engine.outer) == sum(rows(fields, [*ticks]) for fields, ticks in every)
    due = [(fields, due_ticks(len(ticks), int(fields.get("deepcache_interval", 1)))) for fields, ticks in every]
    assert sum(engine.deep) == sum(rows(fields, ticks) for fields, ticks in due) < sum(engine.outer)
    for fields, folder in zip(MIXED, folders, strict=True):
        with Image.open(folder / "0.png") as picture:
            ours = np.asarray(picture.convert("RGB"), dtype=int)
        assert abs(ours - alone.picture(**fields)).max() <= 1, fields


def test_only_calls_that_leave_nothing_out_tell_how_long_a_call_takes(counted: Engines[Watched]) -> None:
    engine = counted("sd1", 8)

    def measured() -> int:
        return sum(each._calls for each in engine.direct.engine._knees._kept.values())

    engine.picture(deepcache_interval=4, steps=21)
    assert measured() == 5, "ticks 4, 8, 12, 16 and 20: before the first one the rows were laid out"
    engine.picture(steps=21)
    assert measured() == 5 + 20


def test_an_interval_is_in_the_picture_s_text_and_read_from_it() -> None:
    job = from_fields(JOB | {"deepcache_interval": 3, "sampler": "Euler"})
    text = infotext.infotext(job, 5, "sd1", "0" * 64)
    assert "DeepCache interval: 3" in text and infotext.parse(text)["deepcache_interval"] == 3
    assert "Cache" not in infotext.infotext(from_fields(JOB | {"sampler": "Euler"}), 5, "sd1", "0" * 64)


@pytest.mark.parametrize("value", [0, 11, 1.5, "x"])
def test_an_interval_is_a_whole_number_from_1_to_10(value: Any) -> None:
    with pytest.raises(JobError, match="`deepcache_interval` must be"):
        from_fields(JOB | {"deepcache_interval": value})
