"""The job that an engine is given while the one before is nearly over: when, what is begun then, and who is blamed (P4)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from desk import Desk
from house import drop

from bench.direct import Direct
from spooler import messages
from spooler.engine import alone
from spooler.record import Record, Timings
from tests.prove.restart import FACTS

CIRCLE = {"prompt": "a large red circle on a blue background", "seed": 5, "steps": 8}
#: Of no key: drawn in two stages, by stock pipelines.
APART = {"prompt": "a cat", "hires": {"scale": 2}}


# -- the spooler's part, without an engine -------------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "spool")
    yield made
    made.close()


def put(desk: Desk, **jobs: dict[str, Any]) -> None:
    for name, job in jobs.items():
        drop(desk.spool, f"{name}.json", job)
    desk.turn()


def given(desk: Desk) -> list[str]:
    return [each.id for each in desk.engine.heard if isinstance(each, messages.Run)]


def record(desk: Desk, job_id: str) -> Record:
    place = desk.spool.find(job_id)
    assert place
    found = desk.spool.read_record(place)
    assert found
    return found


def outcomes(desk: Desk, job_id: str) -> list[str | None]:
    return [each.outcome for each in record(desk, job_id).attempts]


def ending(heard: int) -> messages.Room:
    return messages.Room(heard=heard, jobs=0, ending=True)


def test_one_job_of_any_kind_is_given_when_those_at_work_are_nearly_over(desk: Desk) -> None:
    put(desk, a=APART, b=APART, c={"prompt": "a cat"}, d=APART)
    assert given(desk) == ["a"]
    desk.turn(ending(1))
    assert given(desk) == ["a", "b"]
    desk.turn(ending(1))  # said before it heard of b
    assert given(desk) == ["a", "b"]
    desk.turn(messages.Finished(id="a", timings=Timings(), facts=FACTS))
    assert given(desk) == ["a", "b"], "b is at work now"
    desk.turn(ending(2))
    assert given(desk) == ["a", "b", "c"]


def test_what_joins_those_at_work_comes_before_what_is_begun_after_them(desk: Desk) -> None:
    put(desk, a={"prompt": "a cat"}, b={"prompt": "a cat"}, c=APART)
    desk.turn(messages.Room(heard=1, jobs=1, ending=True))
    assert given(desk) == ["a", "b"]


def test_p4_a_suspect_waits_until_nothing_else_is_there_and_nothing_is_given_beside_it(desk: Desk) -> None:
    put(desk, a=APART, b=APART, c=APART)
    desk.turn(ending(1))
    desk.turn(messages.Lost(id="a", how="its worker is gone"))
    desk.turn(ending(2))
    assert given(desk) == ["a", "b"]
    desk.turn(messages.Finished(id="b", timings=Timings(), facts=FACTS))
    desk.turn(ending(3))
    assert given(desk) == ["a", "b", "a"]
    desk.turn(messages.Finished(id="a", timings=Timings(), facts=FACTS))
    assert given(desk) == ["a", "b", "a", "c"]


def test_p4_of_the_one_at_work_and_the_next_none_is_blamed_when_the_engine_dies(desk: Desk) -> None:
    put(desk, a=APART, b=APART)
    desk.turn(ending(1))
    desk.die()
    assert given(desk) == ["a", "b", "a"]
    desk.turn(ending(1))
    assert given(desk) == ["a", "b", "a"], "each by itself, from now on"
    for job_id in "ab":
        desk.turn(messages.Finished(id=job_id, timings=Timings(), facts=FACTS))
        assert [each.counts for each in record(desk, job_id).attempts] == [False, True]


def test_p4_a_job_that_ends_the_engine_by_its_error_costs_the_next_no_try(desk: Desk) -> None:
    put(desk, a=APART, b=APART)
    desk.turn(ending(1))
    desk.turn(messages.Failed(id="a", code="device", reason="The device is lost.", fatal=True))
    desk.die()
    assert given(desk) == ["a", "b", "b"]
    desk.turn(messages.Finished(id="b", timings=Timings(), facts=FACTS))
    assert outcomes(desk, "a") == ["device"]
    assert outcomes(desk, "b") == ["undelivered: the engine ended with the job before", "done"]
    assert record(desk, "b").attempts_used == 1


# -- the engine by itself ------------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Direct]:
    """One that draws each job alone, and takes no step for slow."""
    monkeypatch.setattr(alone, "QUICK_STEP_S", 1e9)
    monkeypatch.setattr(alone, "SOON_S", 1e9)
    made = Direct(tmp_path, together=1)
    yield made
    made.close()


def told(engine: Direct) -> list[str]:
    """What the engine said of the job and of room, in order: no more than matters here."""
    found = []
    for each in engine.said:
        if isinstance(each, messages.Room) and each.ending:
            found.append("ending")
        elif isinstance(each, messages.Progress) and each.phase == "denoise" and each.step == each.steps:
            found.append("drawn")
        elif isinstance(each, messages.Finished):
            found.append("finished")
    return found


@pytest.mark.parametrize(
    ("job", "early"),
    [(CIRCLE, True), (CIRCLE | {"count": 3}, True), (CIRCLE | {"upscale": {"scale": 2}}, False)],
    ids=["one", "three", "upscaled"],
)
def test_the_end_is_told_before_the_last_picture_is_drawn(job: dict[str, Any], early: bool, engine: Direct) -> None:
    engine.run(job)
    assert told(engine)[:2] == ["ending", "drawn"] if early else told(engine)[0] == "drawn"


def test_of_a_job_with_slow_steps_it_is_not_told(engine: Direct, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "QUICK_STEP_S", 0.0)
    engine.run(CIRCLE)
    assert told(engine)[0] == "drawn"


def test_what_has_ended_is_told_before_another_model_is_loaded(engine: Direct) -> None:
    """While a model is loaded nobody is told an end, so those that have ended come first; and then the next is begun."""
    residents, files, over = engine.engine._residents, engine.engine._files, threading.Event()
    told_by_then = []

    def on_turn(turn: int) -> None:
        if turn == 0:  # what is drawn waits for its file, less when the model is loaded too early
            for _ in range(2):
                files.submit(over.wait, 1)
        if turn == 1:
            residents.drop("demo")

    def on_load(name: str) -> None:
        over.set()
        engine._hear()
        told_by_then.extend(each.id for each in engine.said if isinstance(each, messages.Finished))

    residents.on_load = on_load
    engine.run_all([(CIRCLE, {})] * 2, on_turn)
    assert told_by_then == ["direct0"]
