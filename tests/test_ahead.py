"""Pictures that come from a worker while others of their job are being drawn: shown at once, and no part of a result before the
job's end says that they are. A real Redis, and the spooler's own side of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Redis
from house import wait_for
from stage import JOB, Stage, finished

from spooler import messages
from spooler.remote.wire import Made, Name

TWO = JOB.model_copy(update={"count": 2})


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    made = Redis(tmp_path_factory.mktemp("ahead") / "redis")
    yield made
    made.kill()


@pytest.fixture
def stage(tmp_path: Path, redis: Redis) -> Iterator[Stage]:
    made = Stage(tmp_path, redis)
    yield made
    made.dispatch.kill()
    made.dispatch.wait(10)


def tell(stage: Stage, task: str, *made: Made) -> None:
    stage.say(task, made=[each.model_dump(mode="json") for each in made])


def come(stage: Stage, number: int = 1) -> list[messages.ImageDone]:
    """What was told of pictures, once so many were told of."""
    return wait_for(lambda: len(told := stage.told(messages.ImageDone)) >= number and told, f"{number} pictures")


def folder(stage: Stage) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (stage.folder / "job").iterdir()}


def test_a_picture_is_shown_before_its_job_ends_and_is_fetched_once(stage: Stage) -> None:
    task = stage.send(TWO)
    first = stage.put(task, 0, b"first")
    tell(stage, task, first)
    told = come(stage)[0].image
    assert folder(stage) == {"0.png": b"first"} and not stage.ends
    assert told == first.image.model_copy(update={"stored": f"{stage.store.url}/{Name.parse(task).folder('me')}/0.png"})
    stage.store.remove(Name.parse(task).folder("me"))  # whoever fetched it anew would find nothing
    end = stage.answer(task, finished(first, stage.put(task, 1, b"second")))
    assert isinstance(end, messages.Finished)
    assert folder(stage) == {"0.png": b"first", "1.png": b"second"}
    assert [each.image.index for each in stage.told(messages.ImageDone)] == [0, 0, 1], "the end tells of all"
    assert not list((stage.folder / "spool" / "tmp").iterdir())


def test_the_end_of_the_job_says_which_pictures_it_has(stage: Stage) -> None:
    task = stage.send(TWO)
    told = stage.put(task, 0, b"early"), stage.put(task, 1, b"withheld")
    tell(stage, task, *told)
    come(stage, 2)
    withheld = Made(image=told[1].image.model_copy(update={"file": ""}))
    assert isinstance(stage.answer(task, finished(stage.put(task, 0, b"final"), withheld)), messages.Finished)
    assert folder(stage) == {"0.png": b"final"}


@pytest.mark.parametrize("spoil", ["changed", "gone"])
def test_one_that_is_damaged_on_its_way_comes_with_the_others(stage: Stage, spoil: str) -> None:
    task = stage.send(TWO)
    first, second = stage.put(task, 0, b"first"), stage.put(task, 1, b"second")
    path = stage.folder / "store" / Name.parse(task).folder("me") / "0.png"
    path.unlink() if spoil == "gone" else path.write_bytes(b"firsT")
    tell(stage, task, first, second)
    come(stage)
    assert folder(stage) == {"1.png": b"second"}
    stage.put(task, 0, b"first")
    assert isinstance(stage.answer(task, finished(first, second)), messages.Finished)
    assert folder(stage) == {"0.png": b"first", "1.png": b"second"}


def test_what_a_worker_withholds_is_told_of(stage: Stage) -> None:
    """It lies nowhere, whatever the worker says."""
    task = stage.send(TWO)
    elsewhere = {"file": "", "stored": "https://elsewhere.example/0.png"}
    withheld = Made(image=stage.put(task, 0).image.model_copy(update=elsewhere))
    tell(stage, task, withheld)
    assert come(stage)[0].image.stored is None and not folder(stage)
    stage.answer(task, finished(withheld, stage.put(task, 1)))
    assert [each.image.stored is None for each in stage.told(messages.ImageDone)] == [True, True, False]


def test_p2_an_earlier_try_s_pictures_never_get_among_a_later_one_s(stage: Stage) -> None:
    first = stage.send(TWO)
    early = stage.put(first, 0, b"early")
    stage.answer(first, finished(end={"type": "lost", "id": "cat", "how": "its worker is gone"}))
    second = stage.send(TWO, attempt=2)
    tell(stage, first, early)
    tell(stage, second, stage.put(second, 1, b"later"))
    come(stage)
    assert folder(stage) == {"1.png": b"later"}


@pytest.mark.parametrize("how", ["lost", "finished", "cancelled", "adopted"])
def test_p2_one_that_is_on_its_way_when_the_try_ends_is_not_shown(
    stage: Stage, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = stage.send(TWO)
    made = stage.put(task, 0, b"late"), stage.put(task, 1)
    fetch, begun, go_on = stage.dispatch._freight.fetch_ahead, threading.Event(), threading.Event()

    def slow(*given: Any) -> Path | None:
        begun.set()
        found = fetch(*given)
        go_on.wait()
        return found

    monkeypatch.setattr(stage.dispatch._freight, "fetch_ahead", slow)
    tell(stage, task, made[0])
    begun.wait()
    if how == "finished":
        stage.answer(task, finished(*made))
    elif how == "cancelled":
        stage.dispatch.send(messages.Cancel(id="cat"))
        wait_for(lambda: stage.ends, "the job to be cancelled")
    elif how == "lost":
        stage.answer(task, finished(end={"type": "lost", "id": "cat", "how": "its worker is gone"}))
    else:
        (stage.folder / "job").rename(stage.folder / "another spooler's")
    told = stage.told(messages.ImageDone)
    place = stage.folder / ("another spooler's" if how == "adopted" else "job")
    for path in place.iterdir():  # as it is shown, or made ready for the next try
        path.unlink()
    go_on.set()
    drafts = stage.folder / "spool" / "tmp"
    stage.dispatch._early.shutdown()
    assert stage.told(messages.ImageDone) == told and not list(place.iterdir()) and not list(drafts.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"image": {"index": 2, "file": "2.png"}, "file": {"name": "2.png"}},
        {"image": {"file": "job.json"}, "file": {"name": "job.json"}},
        {"image": {"file": "../0.png"}, "file": {"name": "0.png"}},
        {"image": {"file": "1.png"}, "file": {"name": "1.png"}},
        {"file": {"name": "1.png"}},
        {"image": {"file": ""}},
        {"image": {"cell": [0]}},
        {"file": {"size": 1 << 40}},
        {"image": {"width": -1}},
    ],
)
def test_what_cannot_be_a_picture_of_the_job_is_not_fetched(stage: Stage, changes: dict[str, dict[str, Any]]) -> None:
    task = stage.send(TWO)
    good = stage.put(task, 0).model_dump(mode="json")
    stage.say(task, made=[{part: good[part] | changes.get(part, {}) for part in good}])
    stage.say(task, made=[good] * 1000)
    tell(stage, task, stage.put(task, 1, b"second"))
    come(stage)
    assert folder(stage) == {"1.png": b"second"} and not stage.ends
