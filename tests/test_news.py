"""The events of the whole queue: what changed between two looks, and the stream that tells it. No engine is needed."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from house import DEADLINE_S, wait_for
from test_api import Web, finish

from spooler.changes import Changes, Seen
from spooler.client import ProgressView
from spooler.spool import Spool
from spooler.states import Status

JOB = b'{"prompt": "a red circle"}'


class Queue:
    """A queue that a test moves by hand; `where` is the disk, which is never old."""

    def __init__(self, **jobs: Status):
        self.jobs: dict[str, Status] = dict(jobs)
        self.asked = 0
        self.changes = Changes(self.seen(), self.where)

    def where(self, job_id: str) -> Status | None:
        self.asked += 1
        return self.jobs.get(job_id)

    def seen(self, step: int = 0) -> Seen:
        waiting, held = (frozenset(each for each, now in self.jobs.items() if now == state) for state in ("waiting", "held"))
        return Seen(waiting, held, {each: ProgressView(step=step) for each, now in self.jobs.items() if now == "running"})

    def told(self, seen: Seen | None = None, *hints: str, most: int = 100) -> list[tuple[str, Status | None, Status | None]]:
        changes = self.changes.look(seen or self.seen(), hints, most)
        assert changes is not None
        return [(each.id, each.was, each.status) for each in changes]


def test_each_step_of_a_job_s_way_is_told_once() -> None:
    queue = Queue(old="waiting", kept="held")
    assert queue.told() == []
    way: tuple[tuple[Status | None, Status | None], ...] = (
        (None, "waiting"),
        ("waiting", "held"),
        ("held", "waiting"),
        ("waiting", "running"),
        ("running", "failed"),
        (None, "waiting"),  # retried
        ("waiting", "cancelled"),
        (None, None),
    )
    for was, now in way:
        if now is None:
            del queue.jobs["cat"]
            assert queue.told() == []
            break
        queue.jobs["cat"] = now
        assert queue.told() == [("cat", was, now)] and queue.told() == []
    del queue.jobs["old"]
    assert queue.told() == [("old", "waiting", None)], "removed by hand"


def test_progress_is_told_when_it_is_another() -> None:
    queue = Queue(cat="running")
    assert queue.told(queue.seen(1)) == [("cat", "running", "running")]
    assert queue.told(queue.seen(1)) == [] and queue.told(queue.seen(2)) == [("cat", "running", "running")]


def test_a_line_that_is_old_makes_no_job_wait_that_ran() -> None:
    queue = Queue(cat="waiting")
    line = queue.seen().waiting
    for status in ("running", "done"):
        queue.jobs["cat"] = status  # type: ignore[assignment]
        seen = queue.seen()
        assert queue.told(Seen(line, seen.held, seen.running))[0][2] == status
    assert queue.told(Seen(line)) == [] and queue.told() == []
    queue.jobs["cat"] = "waiting"  # sent back to the queue
    assert queue.told() == [("cat", None, "waiting")]


def test_who_came_and_ended_between_two_looks_is_told_when_hinted_at() -> None:
    queue = Queue()
    queue.jobs["cat"] = "done"
    assert queue.told() == [] and queue.told(None, "cat") == [("cat", None, "done")] and queue.told() == []
    queue.jobs["dog"] = "waiting"
    assert queue.told(Seen(), "dog") == [("dog", None, "waiting")] and queue.told(Seen()) == []
    assert queue.told() == [], "the line has it at last"


def test_too_many_changes_are_told_as_one_and_cost_no_look_at_the_disk() -> None:
    queue = Queue()
    queue.jobs |= {f"job-{number}": "waiting" for number in range(101)}
    assert queue.changes.look(queue.seen(), most=100) is None and queue.asked == 0
    assert queue.told() == []


# -- the stream ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Web, Spool]]:
    spool = Spool(tmp_path_factory.mktemp("news") / "spool")
    spool.create()
    (spool.claimed / "me").mkdir()
    web = Web(spool, "--web-threads", "4", "--max-waiting", "0")
    yield web, spool
    web.stop()


class Stream:
    """An open stream of events."""

    def __init__(self, web: Web, last_id: str = ""):
        self.connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)
        self.connection.request("GET", "/api/v1/events", headers={"Last-Event-ID": last_id} if last_id else {})
        self.answer = self.connection.getresponse()
        self.last_id = ""

    def next(self, kind: str) -> dict[str, Any]:
        """The data of the next event of that kind."""
        event: dict[str, str] = {}
        end = time.monotonic() + DEADLINE_S
        for raw in self.answer:  # which has a comment now and then, so that it is never silent for long
            assert time.monotonic() < end, f"waited in vain for an event {kind}"
            name, _, value = raw.decode().rstrip("\n").partition(": ")
            if name:
                event[name] = value
            elif event:
                self.last_id = event.get("id", self.last_id)
                if event.get("event") == kind:
                    told: dict[str, Any] = json.loads(event["data"])
                    return told
                event = {}
        raise AssertionError("the stream ended")

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


def opened(web: Web, last_id: str = "") -> Stream:
    """A stream that has a seat: that of the one before is free a moment after it hung up."""

    def one() -> Stream | None:
        stream = Stream(web, last_id)
        if stream.answer.status == 200:
            return stream
        stream.close()
        return None

    return wait_for(one, "a seat")


def test_a_stream_begins_tells_and_is_taken_up_again(house: tuple[Web, Spool]) -> None:
    web, spool = house
    stream = opened(web)
    assert stream.answer.status == 200 and stream.answer.headers["Content-Type"].startswith("text/event-stream")
    assert stream.next("begin") == {"resumed": False}
    spool.submit(JOB, "cat")
    assert stream.next("job") == {"id": "cat", "status": "waiting", "was": None, "progress": None}
    assert stream.next("queue")["waiting"] == 1
    stream.close()
    finish(spool, "cat")
    again = opened(web, stream.last_id)
    assert again.next("begin") == {"resumed": True}
    seen = again.next("job")
    while seen["status"] == "running":
        seen = again.next("job")
    assert (seen["id"], seen["status"]) == ("cat", "done")
    again.close()
    for unknown in ("elsewhere-1", f"{stream.last_id}0000", "-", "é"):
        other = opened(web, unknown)
        assert other.next("begin") == {"resumed": False}
        other.close()


def test_a_job_that_is_sent_here_is_told_of_however_soon_it_ends(house: tuple[Web, Spool]) -> None:
    web, spool = house
    stream = opened(web)
    stream.next("begin")
    assert web.request("/api/v1/jobs", {"prompt": "a", "id": "mouse"})[0] == 201
    finish(spool, "mouse")
    while (seen := stream.next("job"))["status"] != "done":
        assert seen["id"] == "mouse"
    stream.close()


def test_who_hangs_up_gives_the_seat_back_and_a_burst_is_one_event(house: tuple[Web, Spool]) -> None:
    web, spool = house
    streams = [opened(web), opened(web)]  # both seats
    full = Stream(web)
    assert full.answer.status == 503 and full.answer.headers["Retry-After"]
    full.close()
    for stream in streams:
        stream.next("begin")
    drafts = spool.root / "drafts"
    drafts.mkdir()
    for number in range(1000):
        (drafts / f"many-{number}.json").write_bytes(JOB)
    for name in os.listdir(drafts):  # noqa: PTH208 - names are wanted
        os.link(drafts / name, spool.pending / name)
    assert streams[0].next("begin") == {"resumed": False}
    shutil.rmtree(drafts)
    for stream in streams:
        stream.close()
    opened(web).close()
    for path in Path(spool.pending).glob("many-*"):
        path.unlink()
