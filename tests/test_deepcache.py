"""A UNet whose deep blocks are asked at every so many ticks: which rows they see, alone and in company. With tiny models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

from bench.direct import Direct
from spooler import infotext, messages
from spooler.engine import company, deepcache
from spooler.engine.batch import Batch
from spooler.engine.cutoff import guided_ticks
from spooler.engine.knee import Knee
from spooler.job import from_fields
from spooler.mistakes import JobError

STEPS = 10
JOB = {"prompt": "a red circle", "seed": 5, "steps": STEPS, "guidance_scale": 20, "width": 64, "height": 64}
UNETS = ("sd1", "sdxl")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny model."""
    return tiny.shelf(tmp_path_factory.mktemp("models"))


class Counted:
    """An engine with a tiny model, and the rows that each call of its UNet's innermost and of its outermost block sees."""

    def __init__(self, model: Path, scratch: Path, together: int):
        self.direct = Direct(scratch, model=model, together=together)
        [name] = self.direct.engine._residents.names
        unet = self.direct.engine._residents.get(name).backbone
        self.deep, self.outer = self._counted(unet.mid_block), self._counted(unet.up_blocks[-1])

    def _counted(self, block: Any) -> list[int]:
        rows: list[int] = []
        forward = block.forward

        def counting(*args: Any, **more: Any) -> Any:
            rows.append(len(next(iter((*args, *more.values())))))
            return forward(*args, **more)

        block.forward = counting
        return rows

    def draw(self, inputs: dict[str, Image.Image] | None = None, **fields: Any) -> np.ndarray[Any, Any]:
        """The job's first picture, 0..255."""
        self.deep.clear()
        self.outer.clear()
        [first, *_] = self.direct.draw(inputs, **JOB | fields)
        return np.asarray(first, dtype=int)


@pytest.fixture
def counted(shelf: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Counted]]:
    monkeypatch.setattr(Knee, "rows", 16)  # whatever a busy machine would measure
    made: list[Counted] = []

    def get(family: str, together: int = 1) -> Counted:
        made.append(Counted(shelf(family), tmp_path / f"{family}{together}", together))
        return made[-1]

    yield get
    for each in made:
        each.direct.close()


def due_ticks(ticks: int, interval: int) -> list[int]:
    return [tick for tick in range(ticks) if deepcache.is_due(tick, interval)]


def test_the_first_tick_is_due_and_each_so_many_after_it() -> None:
    assert due_ticks(10, 3) == [0, 3, 6, 9] and due_ticks(4, 1) == [0, 1, 2, 3] and due_ticks(3, 10) == [0]


@pytest.mark.parametrize("family", UNETS)
def test_alone_the_deep_blocks_are_asked_at_every_so_many_ticks(counted: Callable[..., Counted], family: str) -> None:
    """With several pictures at once, too; and an interval of 1 is the picture without one, to the bit."""
    engine = counted(family)
    whole = engine.draw(count=2)
    assert engine.deep == engine.outer == [4] * STEPS
    assert np.array_equal(engine.draw(count=2, deepcache_interval=1), whole)
    cached = engine.draw(count=2, deepcache_interval=3)
    assert (engine.deep, engine.outer) == ([4] * 4, [4] * STEPS) and (cached != whole).any()
    engine.draw(count=2, deepcache_interval=4, guidance_cutoff=0.5)
    assert (engine.deep, engine.outer) == ([4, 4, 2], [4] * 5 + [2] * 5), "due at ticks 0, 4 and 8, guided up to tick 4"
    assert np.array_equal(engine.draw(count=2), whole) and engine.deep == [4] * STEPS, "the next job has all of it"


@pytest.mark.parametrize("family", UNETS)
def test_p8_in_company_the_picture_is_that_alone(counted: Callable[..., Counted], family: str) -> None:
    alone, engine = counted(family), counted(family, 8)
    image = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    mask = Image.new("RGB", (64, 64), "black")
    mask.paste("white", (16, 8, 48, 40))
    inputs = {"in.png": image, "mask.png": mask}
    for fields in ({}, {"sampler": "Heun"}, {"image": "in.png", "strength": 0.6}, {"image": "in.png", "mask": "mask.png"}):
        given = inputs if "image" in fields else None
        stock = alone.draw(given, **fields, deepcache_interval=3)
        deep, ticks = [*alone.deep], len(alone.outer)
        ours = engine.draw(given, **fields, deepcache_interval=3)
        assert engine.deep == deep == [2] * len(due_ticks(ticks, 3)) and len(engine.outer) == ticks < 2 * STEPS, fields
        assert abs(ours - stock).max() <= 1, fields
        assert (ours != alone.draw(given, **fields)).any(), "it is another picture than with all of the UNet"


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
    counted: Callable[..., Counted], most: int | None, monkeypatch: pytest.MonkeyPatch
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
        assert abs(ours - alone.draw(**fields)).max() <= 1, fields


def test_only_calls_that_leave_nothing_out_tell_how_long_a_call_takes(counted: Callable[..., Counted]) -> None:
    engine = counted("sd1", 8)

    def measured() -> int:
        return sum(each._calls for each in engine.direct.engine._knees._kept.values())

    engine.draw(deepcache_interval=4, steps=21)
    assert measured() == 5, "ticks 4, 8, 12, 16 and 20: before the first one the rows were laid out"
    engine.draw(steps=21)
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
