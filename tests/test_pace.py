"""How much one person or address may do."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import Response, send_file
from people import ANN, BOB, KEYS, PROMPT, app, bearer, make_app, picture
from werkzeug.test import TestResponse

from webui.guard import door
from webui.rules import Rule, rule_of

__all__ = ["app"]


def test_s5_who_submits_faster_than_may_is_429_and_the_others_are_not(tmp_path: Path) -> None:
    client = make_app(tmp_path, KEYS, client_submits=5).test_client()
    statuses = [client.post("/api/v1/jobs", json=PROMPT, headers=bearer(ANN)).status_code for _ in range(6)]
    assert statuses == [201] * 5 + [429]
    refused = client.post("/api/v1/jobs", json=PROMPT, headers=bearer(ANN))
    assert 1 <= int(refused.headers["Retry-After"]) <= 12
    assert client.post("/api/v1/jobs", json=PROMPT, headers=bearer(BOB)).status_code == 201
    assert client.get("/api/v1/jobs", headers=bearer(ANN)).status_code == 200


def test_s5_every_way_in_for_a_job_counts_its_jobs(tmp_path: Path) -> None:
    """Each route whose rule is SUBMIT, for whoever has used up what one may submit."""
    app = make_app(tmp_path, KEYS, client_submits=5)
    client, spool = app.test_client(), app.extensions["office"].spool
    (spool.claimed / "me").mkdir()
    spool.submit(json.dumps({**PROMPT, "owner": "ann"}).encode(), "old")
    spool.cancel("old")
    texts, job = "\n".join("abcdef"), {**PROMPT, "force_task_id": "x"}
    batch = {"data": texts, "content_type": "text/plain"}
    assert client.post("/api/v1/batches", **batch, headers=bearer(BOB)).status_code == 201, "a full bucket is enough"
    for who, first in ((ANN, 201), (BOB, 429)):
        small = client.post("/api/v1/batches", data="a\nb\nc", content_type="text/plain", headers=bearer(who))
        assert small.status_code == first
    assert client.post("/api/v1/batches", data="a\nb\nc", content_type="text/plain", headers=bearer(ANN)).status_code == 429
    [client.post("/api/v1/jobs", json=PROMPT, headers=bearer(ANN)) for _ in range(2)]
    raw = picture()
    png = base64.b64encode(raw).decode()
    ways: dict[str, dict[str, Any]] = {
        "/": {"data": {"form": "1", "kind": "txt2img", "prompt": "a"}},
        "/api/v1/jobs": {"json": PROMPT},
        "/api/v1/batches": batch,
        "/api/v1/jobs/old/again": {"json": {}},
        "/generate": {"json": PROMPT},
        "/v1/images/generations": {"json": PROMPT},
        "/v1/images/edits": {"data": {**PROMPT, "image": (io.BytesIO(raw), "a.png")}},
        "/sdapi/v1/txt2img": {"json": job},
        "/sdapi/v1/img2img": {"json": {**job, "init_images": [png]}},
        "/sdapi/v1/extra-single-image": {"json": {"image": png, "upscaler_1": "Lanczos"}},
        "/sdapi/v1/extra-batch-images": {"json": {"imageList": [{"data": png, "name": "a"}], "upscaler_1": "Lanczos"}},
    }
    there = {
        str(rule).replace("<job_id>", "old")
        for rule in app.url_map.iter_rules()
        if rule_of(app.view_functions[rule.endpoint]) is Rule.SUBMIT
    }
    assert there == set(ways)
    for path, sent in ways.items():
        refused = client.post(path, **sent, headers=bearer(ANN))
        assert refused.status_code == 429, (path, refused.status_code, refused.text)
        assert path == "/" or int(refused.headers["Retry-After"]) > 0


def test_s5_a_retry_is_one_more_job(tmp_path: Path) -> None:
    app = make_app(tmp_path, KEYS, client_submits=5)
    client, spool = app.test_client(), app.extensions["office"].spool
    (spool.claimed / "me").mkdir()
    for name in "abcdefg":
        spool.submit(json.dumps({**PROMPT, "owner": "ann"}).encode(), name)
        spool.cancel(name)
    statuses = [client.post(f"/api/v1/jobs/{name}/retry", headers=bearer(ANN)).status_code for name in "abcdef"]
    assert statuses == [200] * 5 + [429]
    assert client.post("/jobs/f/retry", headers=bearer(ANN)).status_code == 429
    verb = {"ids": ["f", "g"], "verb": "retry"}
    told = client.post("/api/v1/actions", json=verb, headers=bearer(ANN)).json["results"]  # type: ignore[index]
    assert [each["code"] for each in told] == ["queue_full"] * 2 and "faster than one may" in told[0]["message"]
    assert spool.find("f").state == spool.find("g").state == "cancelled"  # type: ignore[union-attr]


def test_s5_a_task_whose_id_is_taken_costs_one_try(tmp_path: Path) -> None:
    app = make_app(tmp_path, KEYS, client_submits=2, wait_s=0.1)
    client, spool = app.test_client(), app.extensions["office"].spool
    for name in ("x", "x-2", "x-3"):
        spool.submit(b'{"prompt": "a cat"}', name)
    told = [client.post("/sdapi/v1/txt2img", json={**PROMPT, "force_task_id": "x"}, headers=bearer(ANN)) for _ in range(3)]
    assert [each.status_code for each in told] == [504, 504, 429], "two waited for their ends"
    assert {place.id for place in spool.walk("pending")} == {"x", *(f"x-{number}" for number in (2, 3, 4, 5))}


def test_where_nobody_needs_a_key_it_is_the_address_that_counts_and_this_machine_s_may(tmp_path: Path) -> None:
    client = make_app(tmp_path, host="0.0.0.0", open="on", client_submits=2).test_client()

    def status(address: str) -> int:
        return client.post("/api/v1/jobs", json=PROMPT, environ_base={"REMOTE_ADDR": address}).status_code

    assert [status("192.168.1.9") for _ in range(3)] == [201, 201, 429] and status("192.168.1.10") == 201
    assert [status(own) for own in ("127.0.0.1", "::1") for _ in range(4)] == [201] * 8


def test_s12_requests_of_one_person_at_the_same_time_are_bounded(tmp_path: Path) -> None:
    """As long as an answer is being sent it counts, too."""
    app = make_app(tmp_path, KEYS, client_requests=2)

    @app.get("/api/v1/slow")
    def slow() -> Response:
        def pieces() -> Iterator[str]:
            yield "a"
            yield "b"

        return Response(pieces())

    client = app.test_client()
    first, second = (client.get("/api/v1/slow", headers=bearer(ANN)) for _ in range(2))
    refused = client.get("/api/v1/jobs", headers=bearer(ANN))
    assert refused.status_code == 429 and refused.headers["Retry-After"] == "1"
    assert client.get("/api/v1/jobs", headers=bearer(BOB)).status_code == 200
    first.close()
    second.close()
    for _ in range(5):
        assert client.get("/api/v1/jobs", headers=bearer(ANN)).status_code == 200
        assert client.get("/api/v1/jobs/none", headers=bearer(ANN)).status_code == 404
    with app.test_request_context():
        assert not door().crowd._there  # type: ignore[union-attr]


def test_s12_a_part_of_a_file_gives_its_place_back_like_the_whole(tmp_path: Path) -> None:
    """Of a part werkzeug never closes the response, only what it sends."""
    app = make_app(tmp_path, KEYS, client_requests=2)
    (tmp_path / "file.png").write_bytes(picture())

    @app.get("/api/v1/file")
    def file() -> Response:
        return send_file(tmp_path / "file.png", conditional=True)

    for method in ("GET", "HEAD"):
        for part in ({"Range": "bytes=5-10"}, {"Range": "bytes=9999999-"}, {}):
            for _ in range(3):
                with app.test_client().open("/api/v1/file", method=method, headers=bearer(ANN) | part) as answer:
                    assert answer.status_code in (200, 206, 416)
    with app.test_client().get("/api/v1/file", headers=bearer(ANN) | {"Range": "bytes=5-10"}) as answer:
        assert (answer.status_code, answer.data) == (206, picture()[5:11])
    with app.test_request_context():
        assert not door().crowd._there  # type: ignore[union-attr]


def test_s12_one_person_never_has_the_last_quarter_of_the_seats(tmp_path: Path) -> None:
    app = make_app(tmp_path, KEYS, web_threads=16)  # 8 seats
    client = app.test_client()
    client.post("/api/v1/jobs", json={"prompt": "x", "id": "one"}, headers=bearer(ANN))

    def stream(secret: str) -> TestResponse:
        return client.get("/api/v1/jobs/one/events", headers=bearer(secret))

    hers = [stream(ANN) for _ in range(6)]
    refused = stream(ANN)
    assert {each.status_code for each in hers} == {200} and refused.status_code == 503 and refused.json
    assert "your requests" in refused.json["error"]["message"] and refused.headers["Retry-After"]
    assert client.get("/api/v1/jobs/one", headers=bearer(ANN)).status_code == 200, "who asks without waiting is answered"
    his = [stream(BOB) for _ in range(2)]
    assert {each.status_code for each in his} == {200}
    refused = stream(BOB)
    assert refused.status_code == 503 and "As many requests wait" in refused.json["error"]["message"]  # type: ignore[index]
    for each in (*hers, *his):
        each.close()
    again = [stream(BOB) for _ in range(6)]
    assert {each.status_code for each in again} == {200}
    for each in again:
        each.close()
