"""Flower, which watches Celery's workers, sees ours: a real one, a real Redis, a real spooler and a worker that only sleeps.

One of each is shared by the tests, in their order. What Flower tells is asked of it by HTTP.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from cluster import PASSWORD, Cluster, Worker, cluster, free_port
from house import Spooler, drop, missing, wait_for, wait_state

from spooler.remote.broker import TASK
from spooler.spool import Spool

FLOWER_PASSWORD = "flowers-own"  # noqa: S105
SLEEP_S = 0.1
JOB = {"prompt": "a prompt that nobody may see", "steps": 1}


class Flower:
    """`celery flower`, as docs/scale.md says to start it."""

    def __init__(self, made: Cluster):
        self.port, self.log_path = free_port(), made.folder / "flower.log"
        broker = made.redis.url.replace("//", f"//:{quote(PASSWORD, safe='')}@")
        env = {**os.environ, "CELERY_BROKER_URL": broker, "FLOWER_BASIC_AUTH": f"me:{FLOWER_PASSWORD}"}
        command = [sys.executable, "-m", "celery", "flower", "--address=127.0.0.1", f"--port={self.port}", "--read-only"]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=made.folder)

    def answer(self, path: str, method: str = "GET", password: str = FLOWER_PASSWORD) -> tuple[int, str]:
        """Its status and text; 0 while it does not answer."""
        headers = {"Authorization": "Basic " + b64encode(f"me:{password}".encode()).decode()}
        try:
            with urlopen(Request(f"http://127.0.0.1:{self.port}{path}", headers=headers, method=method), timeout=30) as told:
                return told.status, told.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()
        except (URLError, ConnectionError):
            return 0, ""

    def tells(self, path: str) -> Any:
        status, text = self.answer(path)
        assert status == 200, f"{path}: {status} {text}"
        return json.loads(text)

    def task_of(self, job: str) -> dict[str, Any]:
        """What it has of the job's last try; nothing when it has not heard of one."""
        tasks: dict[str, dict[str, Any]] = self.tells("/api/tasks")
        return next((task for name, task in tasks.items() if name.startswith(f"{job}.")), {})


class House:
    """The cluster, its spooler, its worker and Flower."""

    def __init__(self, made: Cluster, spool: Spool):
        self.cluster, self.spool = made, spool
        self.worker: Worker = made.add_sleeper(SLEEP_S)
        self.spooler = Spooler(spool, *made.options)
        self.flower = Flower(made)

    def ready(self) -> None:
        wait_for(lambda: self.flower.answer("/healthcheck")[0] == 200, "Flower to answer")
        self.spooler.ready()
        self.cluster.ready(self.worker)
        self.node = f"sdspool@{self.worker.name}"
        wait_for(lambda: "Events of group {task} enabled by remote" in self.worker.log, "Flower to ask for events")

    def drop(self, name: str) -> None:
        drop(self.spool, f"{name}.json", JOB)

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """The job, at work for as long as this lasts: its pictures find no store."""
        store = self.spool.root.parent / "store"
        if store.exists():
            store.rename(store.with_name(f"before-{name}"))
        store.touch()
        try:
            self.drop(name)
            wait_for(lambda: self.flower.task_of(name).get("state") == "STARTED", f"{name} to be shown at work")
            wait_for(lambda: f"job {name}: waits: the object store" in self.worker.log, f"{name} to be held")
            yield
        finally:
            store.unlink()

    def active(self) -> list[dict[str, Any]]:
        """What the worker has at work, as Flower has just asked it; nothing when it did not answer at once."""
        found: list[dict[str, Any]] = self.asked(f"&workername={self.node}").get("active", [])
        return found

    def asked(self, more: str = "") -> dict[str, Any]:
        status, text = self.flower.answer(f"/api/workers?refresh=1{more}")
        return dict(json.loads(text).get(self.node, {})) if status == 200 else {}

    def close(self) -> None:
        self.flower.process.terminate()
        self.flower.process.wait()
        self.spooler.stop()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    if not importlib.util.find_spec("flower"):
        missing("the Python package flower")
    folder = tmp_path_factory.mktemp("flower")
    spool = Spool(folder / "spool")
    spool.create()
    with cluster(folder / "cluster", f"file://{folder}/store") as made:
        house = House(made, spool)
        try:
            house.ready()
            yield house
        finally:
            house.close()


def test_it_shows_the_worker_and_each_job_by_its_name_and_state(house: House) -> None:
    flower = house.flower
    wait_for(lambda: flower.tells("/api/workers?status=1") == {house.node: True}, "the worker to be online")
    with house.held("shown"):
        task = flower.task_of("shown")
        assert (task["name"], task["args"], task["worker"]) == (TASK, "shown", house.node)
        wait_for(lambda: [each["args"] for each in house.active()] == ["shown"], "the worker to tell of it")
    wait_state(house.spool, "shown", "done", "failed")
    task = wait_for(lambda: (now := flower.task_of("shown")) and now["state"] == "SUCCESS" and now, "its end to be shown")
    assert task["runtime"] >= SLEEP_S and "'type': 'finished'" in task["result"]
    stats = wait_for(lambda: house.asked().get("stats"), "the worker to tell of itself")
    assert stats["total"] == {TASK: 1} and stats["pool"]["max-concurrency"] >= 1
    metrics = flower.answer("/metrics")[1]
    assert f'flower_events_total{{task="{TASK}",type="task-succeeded",worker="{house.node}"}} 1.0' in metrics
    assert f'flower_worker_online{{worker="{house.node}"}} 1.0' in metrics


def test_it_shows_no_prompt_and_no_password_and_nothing_to_whoever_has_not_its_own(house: House) -> None:
    with house.held("secret"):
        at_work = wait_for(house.active, "the worker to tell of it")
    assert [each["args"] for each in at_work] == ["secret"]
    wait_state(house.spool, "secret", "done", "failed")
    wait_for(lambda: house.flower.task_of("secret")["state"] == "SUCCESS", "its end to be shown")
    name = house.flower.task_of("secret")["uuid"]
    pages = ["/workers", "/tasks", "/broker", f"/worker/{house.node}", f"/task/{name}"]
    api = ["/api/workers", "/api/tasks", f"/api/task/info/{name}", "/metrics"]
    for path in [*pages, *api]:
        status, text = house.flower.answer(path)
        assert status == 200 and text, path
        for secret in (JOB["prompt"], PASSWORD, quote(PASSWORD, safe="")):
            assert str(secret) not in text + str(at_work), path
        # What Prometheus reads, Flower tells everybody: names of workers, and numbers.
        assert house.flower.answer(path, password="another")[0] == (200 if path == "/metrics" else 401), path  # noqa: S106
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.exists()]
    assert not [line for line in lines if PASSWORD.encode() in line or quote(PASSWORD, safe="").encode() in line]
    assert PASSWORD not in house.flower.log_path.read_text()


def test_read_only_it_stops_no_worker_and_revokes_no_job(house: House) -> None:
    for path in (f"/api/worker/shutdown/{house.node}", "/api/task/revoke/secret.1.000000000000?terminate=true"):
        status, text = house.flower.answer(path, method="POST")
        assert status == 403, text
    house.drop("after")
    wait_state(house.spool, "after", "done")
    assert house.worker.process.poll() is None


def test_redis_that_is_started_again_while_flower_watches_costs_no_job(house: House) -> None:
    """The worker has events to send then, which it cannot."""
    with house.held("kept"):
        house.cluster.redis.kill()
    wait_for(lambda: "job kept: finished" in house.worker.log, "the worker to be done with it meanwhile")
    house.cluster.redis.start()
    record = house.spool.read_record(wait_state(house.spool, "kept", "done", "failed"))
    assert record and [attempt.outcome for attempt in record.attempts] == ["done"]
    numbers = itertools.count()

    def is_told_of_another() -> bool:
        # What was said before Flower listened again is lost to it.
        house.drop(name := f"next{next(numbers)}")
        wait_state(house.spool, name, "done")
        return house.flower.task_of(name).get("state") in ("STARTED", "SUCCESS")

    wait_for(is_told_of_another, "Flower to be told again")
    assert house.worker.process.poll() is None


def test_a_worker_that_ends_is_shown_to_be_offline(house: House) -> None:
    assert house.worker.stop() == 0
    wait_for(lambda: house.flower.tells("/api/workers?status=1") == {house.node: False}, "Flower to be told")
