"""A worker elsewhere that is stopped while Redis or the store is away costs no job a try, and cancels none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import Reject

from spooler import messages
from spooler.catalogue import Catalogue, ModelCard
from spooler.job import from_fields
from spooler.record import Image
from spooler.remote.bench import Seat
from spooler.remote.broker import Broker
from spooler.remote.store import Store, StoreError
from spooler.remote.wire import File, Name, Task
from spooler.remote.worker import Held, Worker
from spooler.settings import Settings

NAME = Name.new("cat", 1)
CARD = ModelCard(name="demo", family="sd1", width=128, height=128, steps=20, guidance_scale=3)


class Away(Store):
    """A store that does not answer."""

    def put(self, folder: str, name: str, data: bytes) -> File:
        raise StoreError("the store is away")


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    # Nobody listens on port 1.
    settings = Settings(dispatch="redis://127.0.0.1:1/0", store=f"file://{tmp_path}", cache=tmp_path / "cache")
    return Worker(settings, Broker.of(settings), Away(settings.store), Catalogue(default="demo", models=(CARD,)))


@pytest.fixture
def task() -> Task:
    job = from_fields({"prompt": "a", "model": "demo"})
    return Task(spooler="s", run=messages.Run(id="cat", job=job, cells=(job,), attempt=1, folder=""))


def test_a_job_that_was_not_its_own_yet_goes_back_into_the_queue(worker: Worker, task: Task) -> None:
    worker._closed.set()
    with pytest.raises(Reject) as found:
        worker._draw(str(NAME), task.model_dump(mode="json"))
    assert found.value.requeue and not worker._held


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_job_whose_pictures_reach_no_store_is_lost_and_not_cancelled(
    worker: Worker, task: Task, cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = worker._make_scratch(NAME)
    (scratch.path / "0.png").write_bytes(b"a picture")
    seat = Seat(task.run.model_copy(update={"folder": str(scratch.path)}))
    seat.images.append(Image(file="0.png", index=0, seed=1, width=8, height=8))
    held = Held(task, str(NAME), seat, scratch)

    def drawn(_: Seat) -> Any:
        if cancelled:
            seat.unwanted = True
        else:
            worker._closed.set()
        return messages.Finished.model_construct(type="finished", id="cat", sheet=None)

    monkeypatch.setattr(worker._bench, "draw", drawn)
    end, files = worker._tried(held, NAME.folder("s"))
    scratch.remove()
    assert not files
    if cancelled:
        assert isinstance(end, messages.Failed) and end.code == "cancelled"
    else:
        assert isinstance(end, messages.Lost) and not end.blame
