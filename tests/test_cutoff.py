"""Guidance that ends before the last step: what is asked of the network then, alone and in company. With tiny models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counted import JOB, STEPS, UNETS, Counted, Engines, shelf
from PIL import Image

from spooler import families, infotext
from spooler.engine.cutoff import guided_ticks
from spooler.job import from_fields
from spooler.mistakes import JobError

__all__ = ["shelf"]

ABLE = [family.name for family in families.FAMILIES if "guidance_cutoff" in family.kinds]


@pytest.fixture
def counted(shelf: Callable[[str], Path], tmp_path: Path) -> Iterator[Engines[Counted]]:
    yield from Engines(Counted, shelf, tmp_path).lent()


@pytest.mark.parametrize(
    ("ticks", "part", "guided"), [(10, 0.4, 4), (10, 1.0, 10), (10, 0.01, 1), (7, 0.5, 4), (1, 0.9, 1), (20, 0.999, 20)]
)
def test_the_first_part_of_the_ticks_is_guided_one_at_least(ticks: int, part: float, guided: int) -> None:
    assert guided_ticks(ticks, part) == guided


@pytest.mark.parametrize("family", ABLE)
def test_alone_the_network_is_asked_half_as_much_from_then_on(counted: Engines[Counted], family: str) -> None:
    """With several pictures at once, too; and a cut-off of 1 is the picture without one, to the bit."""
    engine = counted(family)
    whole, rows = engine.draw(count=2)
    assert rows == [4] * STEPS
    never, rows = engine.draw(count=2, guidance_cutoff=1.0)
    assert rows == [4] * STEPS and np.array_equal(never, whole)
    early, rows = engine.draw(count=2, guidance_cutoff=0.4)
    assert rows == [4] * 4 + [2] * 6 and (early != whole).any()
    unguided, rows = engine.draw(guidance_scale=0, guidance_cutoff=0.4)
    assert rows == [1] * STEPS and np.array_equal(unguided, engine.draw(guidance_scale=0)[0]), "there is nothing to end"
    again, rows = engine.draw(count=2)
    assert rows == [4] * STEPS and np.array_equal(again, whole), "and the next job has its guidance"


@pytest.mark.parametrize("family", UNETS)
def test_p8_in_company_a_row_leaves_and_the_picture_is_that_alone(counted: Engines[Counted], family: str) -> None:
    alone, engine = counted(family), counted(family, 8)
    image = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    mask = Image.new("RGB", (64, 64), "black")
    mask.paste("white", (16, 8, 48, 40))
    inputs = {"in.png": image, "mask.png": mask}
    for fields in ({}, {"sampler": "Heun"}, {"image": "in.png", "strength": 0.6}, {"image": "in.png", "mask": "mask.png"}):
        given = inputs if "image" in fields else None
        stock, _ = alone.draw(given, **fields, guidance_cutoff=0.5)
        ours, rows = engine.draw(given, **fields, guidance_cutoff=0.5)
        ticks = {"Heun": 2 * STEPS - 1}.get(str(fields.get("sampler")), len(rows))
        assert rows == [2] * guided_ticks(ticks, 0.5) + [1] * (ticks - guided_ticks(ticks, 0.5)), fields
        assert abs(ours - stock).max() <= 1, fields
        assert (ours != alone.draw(given, **fields)[0]).any(), "it is another picture than with guidance to the end"


def test_p8_those_whose_guidance_ended_share_calls_with_those_whose_did_not(counted: Engines[Counted]) -> None:
    alone, engine = counted("sd1"), counted("sd1", 8)
    jobs = [JOB | {"seed": seed, "guidance_cutoff": part} for seed, part in enumerate((1.0, 0.3, 0.6, 0.1))]
    engine.rows.clear()
    folders = engine.direct.run_all([(fields, {}) for fields in jobs])
    assert sum(engine.rows) == sum(STEPS + guided_ticks(STEPS, float(fields["guidance_cutoff"])) for fields in jobs)
    for fields, folder in zip(jobs, folders, strict=True):
        with Image.open(folder / "0.png") as picture:
            ours = np.asarray(picture.convert("RGB"), dtype=int)
        assert abs(ours - alone.draw(**fields)[0]).max() <= 1, fields


def test_a_cutoff_is_in_the_picture_s_text_and_read_from_it() -> None:
    job = from_fields(JOB | {"guidance_cutoff": 0.4, "sampler": "Euler"})
    text = infotext.infotext(job, 5, "sd1", "0" * 64)
    assert "Guidance cutoff: 0.4" in text and infotext.parse(text)["guidance_cutoff"] == 0.4
    plain = infotext.infotext(from_fields(JOB | {"sampler": "Euler"}), 5, "sd1", "0" * 64)
    assert "utoff" not in plain


@pytest.mark.parametrize("value", [0, -0.1, 1.01, "x"])
def test_a_part_is_above_0_and_up_to_1(value: Any) -> None:
    with pytest.raises(JobError, match="`guidance_cutoff` must be"):
        from_fields(JOB | {"guidance_cutoff": value})
