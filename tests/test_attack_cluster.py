"""What somebody may try who holds Redis' password, or a worker: it costs the jobs that were sent there, and nothing else (S14).

A real Redis, and the spooler's own side of it; no worker is there but the one that a test makes up.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster import Redis
from house import wait_for
from stage import Stage, finished

from spooler import messages
from spooler.reader import MAX_RECORD_BYTES
from spooler.record import EngineFacts, Record
from spooler.remote.broker import WORKERS, beat_key, channel, result_key
from spooler.remote.crew import MAX_WORKERS
from spooler.status import Progress
from tests.prove.restart import FACTS


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    made = Redis(tmp_path_factory.mktemp("hostile") / "redis")
    yield made
    made.kill()


@pytest.fixture
def stage(tmp_path: Path, redis: Redis) -> Iterator[Stage]:
    made = Stage(tmp_path, redis)
    yield made
    made.dispatch.kill()
    made.dispatch.wait(10)


def test_what_is_no_text_ends_nothing(stage: Stage) -> None:
    client = stage.redis.client
    client.sadd(WORKERS, b"\xff\xfe")
    client.set(beat_key("v"), b"\xff{")
    client.sadd(WORKERS, "v")
    client.publish(channel("me"), b"\xff\xff")
    task = stage.send()
    client.set(result_key(task), b"\xff")
    stage.say(task, ended=True)
    wait_for(lambda: stage.ends, "the job to be given up")
    stage.goes_on()


@pytest.mark.parametrize(
    "raw",
    ["[" * 100_000, '{"task": ' * 5000, "null", "1e999", '{"task": 5}', '{"task": "x", "progress": {"step": -1}}', "\\ud800"],
)
def test_nonsense_is_passed_over(stage: Stage, raw: str) -> None:
    stage.redis.client.set(beat_key("v"), raw)
    stage.redis.client.sadd(WORKERS, "v")
    stage.redis.client.publish(channel("me"), raw)
    assert isinstance(stage.answer(stage.send(), raw), messages.Lost)
    stage.goes_on()


@pytest.mark.parametrize(
    "progress",
    [
        {"step": 10**400, "steps": 5},
        {"step": -(10**400), "steps": 5},
        {"step": 1, "steps": 10**30},
        {"step": 1, "steps": 2, "batch": 10**30},
        {"step": 1, "steps": 2, "image": -5},
    ],
)
def test_no_progress_is_told_that_cannot_be_reckoned_with(stage: Stage, progress: dict[str, int]) -> None:
    task = stage.send()
    plain = {"type": "progress", "id": "cat", "phase": "denoise", "image": 0, "batch": 1}
    stage.say(task, progress=plain | progress)
    stage.say(task, progress=plain | {"step": 3, "steps": 9, "id": "another"})
    heard = wait_for(lambda: stage.told(messages.Progress), "its progress")
    assert [(each.id, each.step) for each in heard] == [("cat", 3)]
    known = {"phase", "image", "batch", "step", "steps"}
    Progress.model_validate_json(Progress().model_copy(update=heard[0].model_dump(include=known)).model_dump_json())


def test_a_preview_is_small_and_is_written_to_the_job_s_folder_alone(stage: Stage, tmp_path: Path) -> None:
    task = stage.send()
    stage.say(task, preview=base64.b64encode(b"x" * (8 << 20)).decode())
    stage.say(task, preview="no base64 \x00")
    stage.say("cat.1.000000000000", preview=base64.b64encode(b"not ours").decode())
    stage.say(task, preview=base64.b64encode(b"\xff\xd8 small").decode())
    written = stage.folder / "job" / "preview.jpg"
    wait_for(lambda: written.exists(), "the preview")
    assert written.read_bytes() == b"\xff\xd8 small"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job", "spool"]


@pytest.mark.parametrize(
    "changes",
    [
        {"images": [{"file": "../job.json", "seed": 1, "width": 8, "height": 8}]},
        {"images": [{"file": "job.json", "seed": 1, "width": 8, "height": 8}]},
        {"files": [{"name": "../0.png", "size": 1, "sha256": "0" * 64}]},
        {"files": [{"name": "0.png", "size": 1 << 40, "sha256": "0" * 64}]},
        {"files": [{"name": "0.png", "size": 3, "sha256": "0" * 64}] * 5000},
        {"images": [], "files": []},
        {"images": [{"file": "", "seed": 1, "width": 8, "height": 8, "index": index} for index in (0, 1)], "files": []},
        {"images": [{"file": "", "seed": 1, "width": 8, "height": 8, "index": 1}], "files": []},
        {"images": [{"file": "", "seed": 1, "width": 8, "height": 8, "cell": [3]}], "files": []},
        {"images": [{"file": "0.png", "seed": 1, "width": 8, "height": 8}] * 5000},
        {"images": [{"file": "0.png", "seed": 10**30, "width": 8, "height": 8}]},
        {"images": [{"file": "0.png", "seed": 1, "width": 8, "height": -8}]},
        {"images": [{"file": "0.png", "seed": 1, "width": 8, "height": 8, "cell": [0] * 10_000}]},
        {"end": {"type": "finished", "id": "cat", "timings": {"load": -1e999}, "facts": FACTS.model_dump()}},
        {"end": {"type": "finished", "id": "cat", "timings": {"denoise": float("nan")}, "facts": FACTS.model_dump()}},
        {"end": {"type": "finished", "id": "cat", "timings": {}, "facts": FACTS.model_dump() | {"model": "x" * 10**6}}},
        {
            "end": {
                "type": "finished",
                "id": "cat",
                "timings": {},
                "facts": FACTS.model_dump() | {"versions": {"v": "1" * 10**6}},
            }
        },
        {"end": {"type": "finished", "id": "cat", "timings": {}, "facts": FACTS.model_dump(), "sheet": "/etc/passwd"}},
        {"end": {"type": "finished", "id": "dog", "timings": {}, "facts": FACTS.model_dump()}},
        {"end": {"type": "refused", "reason": "stop"}},
    ],
)
def test_a_result_that_is_none_costs_its_job_a_try(stage: Stage, changes: dict[str, Any]) -> None:
    task = stage.send()
    end = stage.answer(task, finished(stage.put(task, 0), **changes))
    assert isinstance(end, messages.Lost), end
    assert not list((stage.folder / "job").iterdir())
    stage.goes_on()


def test_what_a_worker_says_of_a_failure_is_cut_to_what_a_record_and_a_label_hold(stage: Stage) -> None:
    reason = "\x1b]0;title\x07" + "x" * 10**6
    failed = {"type": "failed", "id": "cat", "code": "y" * 10**6, "reason": reason, "details": "z" * 10**7, "fatal": True}
    end = stage.answer(stage.send(), finished(end=failed))
    assert isinstance(end, messages.Failed) and not end.fatal
    record = Record(id="cat").fail(end.code, end.reason)
    assert len(record.encode()) < 10_000 and len(end.code) <= 40 and len(end.details) <= 100_000
    assert record.failure and "\x1b" not in record.failure.reason


def test_a_heartbeat_is_held_to_bounds(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for changes in (
        {"slots": 1 << 40},
        {"worker": "w\x1b[2J" * 10},
        {"worker": "x" * 10**6},
        {"tasks": ["x"] * 100_000},
        {"trouble": "y" * 10**6},
        {"facts": FACTS.model_dump() | {"device_name": "z" * 10**6}},
        {"facts": FACTS.model_dump() | {"load_seconds": 1e308}},
    ):
        caplog.clear()
        stage.beat(**changes)
        wait_for(lambda: "a heartbeat that is none" in caplog.text, f"{str(changes)[:60]} to be refused")
        assert all(len(each.getMessage()) < 1000 for each in caplog.records)
    assert max(each.jobs for each in stage.told(messages.Room)) < 10_000
    stage.goes_on()
    assert isinstance(stage.told(messages.Ready)[0].facts, EngineFacts)


def test_the_workers_that_are_told_of_have_a_bound(stage: Stage) -> None:
    crowd = [f"w{number}" for number in range(2 * MAX_WORKERS)]
    facts = {name: "\N{SNOWMAN}" * 300 if isinstance(value, str) else value for name, value in FACTS.model_dump().items()}
    with stage.redis.client.pipeline() as pipe:
        for name in crowd:
            beat = {"worker": name, "number": 1, "host": "h", "slots": 1, "facts": facts, "trouble": "\N{SNOWMAN}" * 300}
            pipe.set(beat_key(name), json.dumps(beat), ex=60)
        pipe.sadd(WORKERS, *crowd)
        pipe.execute()
    told = wait_for(lambda: [each for each in stage.told(messages.Crew) if len(each.workers) > 1], "the crowd to be told of")
    assert len(told[-1].workers) == MAX_WORKERS
    assert len(told[-1].model_dump_json().encode()) < MAX_RECORD_BYTES


def test_what_is_longer_than_anything_that_sdspool_writes_is_not_even_read(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    client = stage.redis.client
    client.sadd(WORKERS, "giant", "hash")
    client.setrange(beat_key("giant"), 200 << 20, "x")
    client.hset(beat_key("hash"), "a", "b")
    wait_for(lambda: "giant" in caplog.text and "hash" in caplog.text, "both to be told of")
    lines = [each for each in caplog.records if "giant" in each.getMessage()]
    stage.goes_on()
    assert [each for each in caplog.records if "giant" in each.getMessage()] == lines, "once, and not each second"
    before = psutil.Process().memory_info().rss
    sent = stage.send()
    client.setrange(result_key(sent), 200 << 20, "x")
    end = wait_for(lambda: stage.ends[-1:], "the job to be given up")[0]
    assert isinstance(end, messages.Lost) and end.how == "its worker sent back what is no result"
    assert psutil.Process().memory_info().rss - before < 50 << 20
