"""The JSON API over a real spool, and the real `python -m webui`. No engine: what is tested ends at pending/."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from flask import Flask
from flask.testing import FlaskClient
from house import ROOT, drop, listing, offer, wait_for

from spooler.batches import Batches
from spooler.record import Image, Record, Timings, utc_now
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.status import Progress
from webui import openapi
from webui.app import create_app

PROMPT = {"prompt": "a red circle"}


def finish(spool: Spool, name: str, state: Any = "done", images: int = 1) -> None:
    """Bring a waiting job to its end with the spool's own verbs."""
    place = spool.claim(f"{name}.json", "me")
    assert place
    record = Record(id=name, queued=utc_now())
    spool.prepare(place, record)
    for number in range(images):
        (place.path / f"{number}.png").write_bytes(b"\x89PNG picture")
    (place.path / "secret.txt").write_text("not a picture")
    pictures = tuple(Image(file=f"{number}.png", seed=number, width=8, height=8) for number in range(images))
    record = record.finish(pictures, Timings()) if state == "done" else record.fail("engine_error", "It broke.")
    assert spool.publish(place, record, state)


def test_201_names_the_job_and_the_job_is_in_pending(client: FlaskClient, spool: Spool) -> None:
    answer = client.post("/api/v1/jobs", json=PROMPT | {"cfg_scale": 3})
    assert answer.status_code == 201 and answer.json
    job_id = answer.json["id"]
    assert answer.headers["Location"] == f"/api/v1/jobs/{job_id}"
    assert answer.json["status"] == "waiting" and answer.json["position"] == 1
    assert json.loads((spool.pending / f"{job_id}.json").read_bytes()) == {"prompt": "a red circle", "guidance_scale": 3.0}
    assert client.get(answer.headers["Location"]).json == answer.json


@pytest.mark.parametrize(
    ("raw", "field", "part"),
    [
        (b"nonsense", None, "must be JSON"),
        (b'{"prompt": "a', None, "must be JSON"),
        (b"", None, "this is empty"),
        (b"[1]", None, "this is an array"),
        (b'{"prompt": 3}', "prompt", "must be text, but is 3"),
        (b'{"prompt": "x", "guidance_scale": NaN}', None, "finite numbers"),
        (b'{"prompt": "x", "steps": 0}', "steps", "but is 0"),
        (b'{"prompt": "x", "width": 100}', "width", "multiple of 8, but is 100"),
        (b"{}", "prompt", "is required, but is missing"),
        (b'{"prompt": "' + b"x" * 1_000_000 + b'"}', "prompt", "at most 10000 characters, but has 1000000"),
        (b'{"prompt": "x", "model": "dmo"}', "model", "did you mean demo?"),
        (b'{"prompt": "x", "promt": "y"}', "promt", "did you mean prompt?"),
        (b'{"prompt": "x", "id": "../x"}', "id", 'but is "../x"'),
        (b'{"prompt": "x", "id": 7}', "id", "but is 7"),
        (b'{"prompt": "\xff"}', None, "must be UTF-8"),
        (b'{"a":' * 50_000, None, "nests too deep"),
    ],
)
def test_a_bad_job_is_answered_with_its_reason_and_disturbs_nothing(
    client: FlaskClient, spool: Spool, raw: bytes, field: str | None, part: str
) -> None:
    offer(spool)
    client.post("/api/v1/jobs", json=PROMPT)
    before = listing(spool.root)
    answer = client.post("/api/v1/jobs", data=raw, content_type="application/json")
    assert answer.status_code == 400 and answer.json
    error = answer.json["error"]
    assert error["code"] == "invalid_job" and part in error["message"]
    assert field is None or part in error["fields"][field][0]
    assert listing(spool.root) == before


def test_every_mistake_is_told_in_its_field(client: FlaskClient, spool: Spool) -> None:
    error = client.post("/api/v1/jobs", json={"steps": 0, "width": 1, "seed": 1.5}).json["error"]  # type: ignore[index]
    assert set(error["fields"]) == {"prompt", "steps", "width", "seed"}


def test_an_id_of_one_s_own_and_its_second_use(client: FlaskClient, spool: Spool) -> None:
    assert client.post("/api/v1/jobs", json=PROMPT | {"id": "cat"}).status_code == 201
    for _ in range(2):
        again = client.post("/api/v1/jobs", json=PROMPT | {"id": "cat"})
        assert again.status_code == 409 and again.json["error"]["code"] == "duplicate_id"  # type: ignore[index]
        if spool.find("cat").state == "pending":  # type: ignore[union-attr]
            finish(spool, "cat")


def test_one_idempotency_key_makes_one_job_even_at_once(app: Flask, spool: Spool) -> None:
    barrier, ids = threading.Barrier(8), []

    def post() -> None:
        barrier.wait()
        answer = app.test_client().post("/api/v1/jobs", json=PROMPT, headers={"Idempotency-Key": "once"})
        ids.append((answer.status_code, answer.json["id"]))  # type: ignore[index]

    threads = [threading.Thread(target=post) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len({job_id for _, job_id in ids}) == 1
    assert sorted(status for status, _ in ids) == [200] * 7 + [201]
    finish(spool, ids[0][1])
    both = app.test_client().post("/api/v1/jobs", json=PROMPT | {"id": "cat"}, headers={"Idempotency-Key": "once"})
    assert both.status_code == 400 and "id" in both.json["error"]["fields"], "one of the two would be lost"  # type: ignore[index]
    later = app.test_client().post("/api/v1/jobs", json=PROMPT, headers={"Idempotency-Key": "once"})
    assert later.status_code == 200 and later.json["status"] == "done"  # type: ignore[index]


def test_one_idempotency_key_makes_one_batch_even_at_once(app: Flask, spool: Spool) -> None:
    barrier, answers = threading.Barrier(6), []

    def post() -> None:
        barrier.wait()
        sent = {"data": b"one\ntwo\n", "content_type": "text/plain", "headers": {"Idempotency-Key": "once"}}
        answers.append(app.test_client().post("/api/v1/batches", **sent))  # type: ignore[arg-type]

    threads = [threading.Thread(target=post) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert {answer.status_code for answer in answers} <= {200, 201}
    (batch_id,) = {answer.json["id"] for answer in answers}  # type: ignore[index]
    assert {path.name for path in spool.pending.iterdir()} == {f"{batch_id}.0001.json", f"{batch_id}.0002.json"}
    shutil.rmtree(spool.batches / batch_id)  # by hand, and its jobs are still there
    again = app.test_client().post(
        "/api/v1/batches", data=b"one\ntwo\n", content_type="text/plain", headers={"Idempotency-Key": "once"}
    )
    assert again.status_code == 409 and len(list(spool.pending.iterdir())) == 2


def test_what_is_not_json_and_what_is_too_large(client: FlaskClient) -> None:
    assert client.post("/api/v1/jobs", data=b"prompt=x", content_type="text/plain").json["error"]["code"] == "not_json"  # type: ignore[index]
    huge = client.post("/api/v1/jobs", data=b"x" * (5 << 20), content_type="application/json")
    assert huge.status_code == 413 and huge.json["error"]["code"] == "too_large"  # type: ignore[index]


def test_errors_of_the_api_are_json(client: FlaskClient) -> None:
    for method, path, status in (("get", "/api/v1/jobs/none", 404), ("put", "/api/v1/jobs", 405), ("get", "/api/v2", 404)):
        answer = getattr(client, method)(path)
        assert answer.status_code == status and answer.json["error"]["message"].endswith(".")
    assert client.get("/nowhere").mimetype == "text/html"


def test_the_list_has_pages_and_refuses_bad_parameters(client: FlaskClient, spool: Spool) -> None:
    for number in range(5):
        spool.submit(b'{"prompt": "x"}', f"job{number}")
    finish(spool, "job0")
    page = client.get("/api/v1/jobs?limit=2&offset=3").json
    assert page and page["total"] == 5 and [job["id"] for job in page["jobs"]] == ["job4", "job0"]
    waiting = client.get("/api/v1/jobs?status=waiting").json
    assert waiting and [(job["id"], job["position"]) for job in waiting["jobs"]] == [(f"job{n}", n) for n in range(1, 5)]
    for query, field in (("status=lost", "status"), ("limit=0", "limit"), ("limit=201", "limit"), ("offset=-1", "offset")):
        answer = client.get(f"/api/v1/jobs?{query}")
        assert answer.status_code == 400 and field in answer.json["error"]["fields"]  # type: ignore[index]


def test_an_unchanged_job_is_304(client: FlaskClient, spool: Spool) -> None:
    spool.submit(b'{"prompt": "x"}', "cat")
    first = client.get("/api/v1/jobs/cat")
    assert client.get("/api/v1/jobs/cat", headers={"If-None-Match": first.headers["ETag"]}).status_code == 304
    spool.cancel("cat")
    changed = client.get("/api/v1/jobs/cat", headers={"If-None-Match": first.headers["ETag"]})
    assert changed.status_code == 200 and changed.json["status"] == "cancelled"  # type: ignore[index]


def test_a_running_job_tells_its_progress_and_its_pictures_so_far(client: FlaskClient, spool: Spool) -> None:
    spool.submit(b'{"prompt": "x", "count": 2}', "cat")
    place = spool.claim("cat.json", "me")
    assert place
    (place.path / "0.png").write_bytes(b"\x89PNG first")
    picture = Image(file="0.png", seed=1, width=8, height=8)
    spool.write_progress(place, Progress(phase="denoise", image=1, count=2, step=10, steps=20, images=(picture,)))
    told = client.get("/api/v1/jobs/cat").json
    assert told and told["status"] == "running" and told["progress"]["fraction_done"] == pytest.approx(0.7375)
    with client.get(told["images"][0]["url"]) as answer:
        assert answer.data == b"\x89PNG first"


def test_cancel_and_retry(client: FlaskClient, spool: Spool) -> None:
    for name in ("wait", "run", "fail"):
        spool.submit(b'{"prompt": "x"}', name)
    finish(spool, "fail", "failed")
    spool.claim("run.json", "me")
    assert client.delete("/api/v1/jobs/wait").json["status"] == "cancelled"  # type: ignore[index]
    assert client.delete("/api/v1/jobs/run").status_code == 202
    assert client.delete("/api/v1/jobs/none").status_code == 404
    assert client.delete("/api/v1/jobs/fail").json["error"]["code"] == "too_late"  # type: ignore[index]
    assert client.post("/api/v1/jobs/run/retry").status_code == 409
    assert client.post("/api/v1/jobs/none/retry").status_code == 404
    back = client.post("/api/v1/jobs/fail/retry").json
    assert back and back["status"] == "waiting" and back["retried"] and (spool.pending / "fail" / "job.json").exists()


def test_a_picture_that_was_told_of_is_given_while_its_job_ends(
    client: FlaskClient, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the removal of its progress and its record's last writing: the request waits for the end."""
    spool.submit(json.dumps(PROMPT).encode(), "cat")
    place = spool.claim("cat.json", "me")
    assert place
    record = Record(id="cat", queued=utc_now())
    spool.prepare(place, record)
    (place.path / "0.png").write_bytes(b"\x89PNG picture")
    sleep = time.sleep

    def end(seconds: float) -> None:
        monkeypatch.setattr("time.sleep", sleep)
        assert spool.publish(place, record.finish((Image(file="0.png", seed=1, width=8, height=8),), Timings()), "done")

    assert client.get("/api/v1/jobs/cat/images/1.png").status_code == 404
    monkeypatch.setattr("time.sleep", end)
    with client.get("/api/v1/jobs/cat/images/0.png") as answer:
        assert answer.status_code == 200 and answer.data == b"\x89PNG picture"


def test_p9_only_a_job_s_own_pictures_are_served(client: FlaskClient, spool: Spool) -> None:
    spool.submit(b'{"prompt": "x"}', "cat")
    finish(spool, "cat")
    with client.get("/api/v1/jobs/cat/images/0.png") as answer:
        assert answer.mimetype == "image/png" and answer.data.startswith(b"\x89PNG")
        assert answer.headers["X-Content-Type-Options"] == "nosniff" and "immutable" in answer.headers["Cache-Control"]
    with client.get("/api/v1/jobs/cat/images/0.png?download") as answer:
        assert "cat-0.png" in answer.headers["Content-Disposition"]
    for name in ("secret.txt", "job.json", "1.png", "..%2Fcat%2F0.png", "%2e%2e/record.json", "/etc/passwd"):
        assert client.get(f"/api/v1/jobs/cat/images/{name}").status_code == 404, name


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [(errno.ENOSPC, 507, "no_space"), (errno.EACCES, 503, "spool_closed"), (errno.EIO, 503, "spool_unavailable")],
)
def test_a_disk_that_does_not_take_a_job_is_told_and_no_job_is_half_there(
    client: FlaskClient, spool: Spool, monkeypatch: pytest.MonkeyPatch, number: int, status: int, code: str
) -> None:
    def full(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    before = listing(spool.root)
    monkeypatch.setattr(os, "fsync", full)
    answer = client.post("/api/v1/jobs", json=PROMPT)
    assert answer.status_code == status and answer.json["error"]["code"] == code  # type: ignore[index]
    assert listing(spool.root) == before


def test_readyz_says_why_not(client: FlaskClient, spool: Spool) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 503 and "No spooler is running" in answer.json["reason"]  # type: ignore[index]
    offer(spool)
    assert client.get("/readyz").status_code == 503, "what a dead spooler told does not count"
    with spool.life_lock("me"):
        told = client.get("/readyz")
        assert told.status_code == 200 and told.json["spoolers"][0]["state"] == "ready"  # type: ignore[index]
        (spool.root / "PAUSE").touch()
    assert client.get("/healthz").json == {"status": "ok"}


def test_hold_release_top_priority_star_and_pause(client: FlaskClient, spool: Spool) -> None:
    for job_id in ("one", "two"):
        spool.submit(b'{"prompt": "x", "owner": "ann"}', job_id)
    assert client.post("/api/v1/jobs/two/top").status_code == 200
    wait_for(lambda: client.get("/api/v1/jobs/two").json["position"] == 1, "the job to be the first")  # type: ignore[index]
    assert client.post("/api/v1/jobs/one/hold").json["status"] == "held"  # type: ignore[index]
    assert client.post("/api/v1/jobs/one/release").json["status"] == "waiting"  # type: ignore[index]
    assert client.post("/api/v1/jobs/one/priority", json={"priority": 5}).status_code == 200
    assert (spool.pending / "one.priority").read_text() == "5\n"
    for bad in ({"priority": 101}, {"priority": True}, {"priority": "5"}, {}, {"priority": 1, "what": 2}):
        answer = client.post("/api/v1/jobs/one/priority", json=bad)
        assert answer.status_code == 400 and answer.json["error"]["fields"], bad  # type: ignore[index]
    finish(spool, "one")
    assert client.post("/api/v1/jobs/one/hold").status_code == 409 and client.post("/api/v1/jobs/none/hold").status_code == 404
    assert client.post("/api/v1/jobs/one/star").json["starred"] is True  # type: ignore[index]
    assert client.post("/api/v1/jobs/one/unstar").json["starred"] is False  # type: ignore[index]
    assert client.post("/api/v1/jobs/two/star").status_code == 409
    assert client.post("/api/v1/queue/pause").json == {"paused": True, "waiting": 1, "running": 0}
    assert client.post("/api/v1/queue/resume").json == client.get("/api/v1/queue").json
    assert not spool.paused


def test_a_full_queue_is_429_with_the_time_to_wait_and_a_full_disk_507(spool: Spool) -> None:
    def client_of(**changes: Any) -> FlaskClient:
        cache = spool.root.parent / "cache"
        return create_app(Settings(spool=spool.root, cache=cache, **changes)).test_client()

    spool.submit(b'{"prompt": "x", "owner": "ann"}', "one")
    full = client_of(max_waiting=1)
    answer = full.post("/api/v1/jobs", json={"prompt": "x"})
    assert answer.status_code == 429 and 1 <= int(answer.headers["Retry-After"]) <= 600
    assert "At most 1 jobs may wait, and 1 do" in answer.json["error"]["message"]  # type: ignore[index]
    one_each = client_of(owner_waiting=1)
    assert one_each.post("/api/v1/jobs", json={"prompt": "x", "owner": "ann"}).status_code == 429
    assert one_each.post("/api/v1/jobs", json={"prompt": "x", "owner": "bob"}).status_code == 201
    no_room = client_of(floor_mib=1e9)
    answer = no_room.post("/api/v1/jobs", json={"prompt": "x"})
    assert answer.status_code == 507 and "MiB free" in answer.json["error"]["message"]  # type: ignore[index]
    assert len(list(spool.pending.glob("*.json"))) == 2, "nothing of what was refused is there"


def test_what_comes_to_wait_again_is_bound_by_the_same_numbers(spool: Spool) -> None:
    """A job that is held is not one that waits, and one that ended neither: else each bound had two ways around it."""

    def client_of(**changes: Any) -> FlaskClient:
        cache = spool.root.parent / "cache"
        return create_app(Settings(spool=spool.root, cache=cache, **changes)).test_client()

    for name in ("waits", "held", "ended"):
        spool.submit(b'{"prompt": "x", "owner": "ann"}', name)
    spool.hold("held")
    spool.cancel("ended")
    verb = {"ids": ["held"], "verb": "release"}
    for full, rule in ((client_of(max_waiting=1), "At most 1 jobs"), (client_of(owner_waiting=1), "of one owner")):
        for path in ("held/release", "ended/retry"):
            answer = full.post(f"/api/v1/jobs/{path}")
            assert answer.status_code == 429 and int(answer.headers["Retry-After"]) >= 1
            assert rule in answer.json["error"]["message"] and full.post(f"/jobs/{path}").status_code == 429  # type: ignore[index]
        assert full.post("/api/v1/actions", json=verb).json["results"][0]["code"] == "queue_full"  # type: ignore[index]
        sent = {"ids": "held", "do": "release"}
        assert full.post("/queue/bulk", data=sent, headers={"Origin": "http://localhost"}).status_code == 303
    no_room = client_of(floor_mib=1e9)
    assert no_room.post("/api/v1/jobs/ended/retry").status_code == 507
    assert [spool.find(name).state for name in ("held", "ended")] == ["held", "cancelled"]  # type: ignore[union-attr]
    assert no_room.post("/api/v1/jobs/held/release").status_code == 200, "a rename needs no room"
    assert client_of(max_waiting=3).post("/api/v1/jobs/ended/retry").status_code == 200


def test_a_batch_tells_how_far_it_is(client: FlaskClient, spool: Spool) -> None:
    drop(spool, "two.txt", b"a circle\na square")
    batches = Batches(spool)
    batch = batches.take("two.txt", 2, "ann")
    assert batch and batches.submit_some(batch, batches.rows(batch), 0) is None
    finish(spool, "two.0001")
    told = client.get("/api/v1/batches/two").json
    assert told["waiting"] == told["done"] == 1 and told["jobs"] == ["two.0001", "two.0002"]  # type: ignore[index]
    assert client.get("/api/v1/batches/none").status_code == 404


def test_the_document_describes_every_route_and_every_answer_fits_it(app: Flask, client: FlaskClient, spool: Spool) -> None:
    document = openapi.document()
    assert json.loads((ROOT / "docs" / "openapi.json").read_text()) == document == client.get("/api/v1/openapi.json").json
    served = {
        (rule.rule.replace("<", "{").replace(">", "}"), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith(("/api/", "/healthz", "/readyz", "/generate", "/result"))
    }
    assert served == {(path, method) for path, methods in document["paths"].items() for method in methods}

    spool.submit(b'{"prompt": "x"}', "cat")
    finish(spool, "cat")
    offer(spool)
    for path, method, name in (
        ("/api/v1/jobs", "get", "JobList"),
        ("/api/v1/jobs/cat", "get", "JobReport"),
        ("/api/v1/jobs/none", "get", "Error"),
        ("/api/v1/rejected", "get", "RejectedList"),
        ("/readyz", "get", "ReadyReport"),
        ("/api/v1/live", "get", "LiveReport"),
        ("/api/v1/live?job=cat", "get", "LiveReport"),
        ("/api/v1/status", "get", "StatusReport"),
        ("/healthz", "get", "Health"),
    ):
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema.validate(getattr(client, method)(path).json, schema)


# -- the real process ------------------------------------------------------------------------------------------------------


class Web:
    """A real `python -m webui` on a free port."""

    def __init__(self, spool: Spool, *options: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "webui", "--spool", str(spool.root), "--port", str(self.port), *options]
        command += ["--cache", str(spool.root.parent / "cache")]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr
        self.first_line = self.process.stderr.readline()
        self.lines = [self.first_line]  # of its log; one that nobody reads would block it when the pipe is full
        self._reader = threading.Thread(target=self.lines.extend, args=(self.process.stderr,), daemon=True)
        self._reader.start()

    def request(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        try:
            return self.process.wait(120)
        finally:
            self._reader.join(120)
            assert self.process.stderr
            self.process.stderr.close()


@pytest.mark.parametrize("text", [r'{"prompt": "\ud800"}', '{"prompt": ' + "[" * 600 + "]" * 600 + "}"], ids=["half", "deep"])
def test_settings_that_no_answer_can_tell_are_a_mistake_of_the_file(client: FlaskClient, text: str) -> None:
    answer = client.post("/api/v1/metadata", data={"file": (io.BytesIO(text.encode()), "a.json")})
    assert answer.status_code == 400 and "half a character" in answer.get_data(as_text=True)


@pytest.fixture
def web(spool: Spool) -> Iterator[Web]:
    started = Web(spool)
    yield started
    if started.process.poll() is None:
        started.stop()


def test_the_web_app_says_where_it_is_and_stops_cleanly(web: Web) -> None:
    assert web.first_line == f"sdspool web: http://127.0.0.1:{web.port}\n"
    assert web.request("/healthz") == (200, {"status": "ok"})
    assert web.stop(signal.SIGINT) == 0


def test_two_web_apps_share_one_spool(web: Web, spool: Spool) -> None:
    other = Web(spool)
    try:
        ids = [each.request("/api/v1/jobs", PROMPT)[1]["id"] for each in (web, other, web, other)]
        for each in (web, other):
            assert [job["id"] for job in each.request("/api/v1/jobs")[1]["jobs"]] == sorted(ids)
        other.request(f"/api/v1/jobs/{ids[0]}")
    finally:
        assert other.stop() == 0


def test_a_taken_port_ends_it_with_a_sentence(web: Web, spool: Spool) -> None:
    command = [sys.executable, "-m", "webui", "--spool", str(spool.root), "--port", str(web.port)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (
        ended.returncode == 2 and f"cannot listen on 127.0.0.1:{web.port}" in ended.stderr and "Traceback" not in ended.stderr
    )


def test_p6_the_web_app_needs_no_spooler_and_no_torch(web: Web) -> None:
    wait_for(lambda: web.request("/api/v1/jobs", PROMPT)[0] == 201, "a job to be accepted")
    maps = Path(f"/proc/{web.process.pid}/maps").read_text()
    assert "/torch/" not in maps and "/diffusers/" not in maps
