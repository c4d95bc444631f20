"""The rest of the own API: waiting, following, filters, batches, changes, many at once, zips. No engine is needed."""

from __future__ import annotations

import html
import io
import json
import os
import socket
import threading
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from flask import Flask, g
from flask.testing import FlaskClient
from house import drop, offer, wait_for
from PIL import Image
from test_api import PROMPT, Web, finish

from spooler.batches import Batches
from spooler.pending import Pending
from spooler.settings import Settings
from spooler.spool import Spool
from webui import openapi
from webui.app import create_app
from webui.people import Person


def make(spool: Spool, *ids: str, **fields: Any) -> None:
    for job_id in ids:
        spool.submit(json.dumps(PROMPT | fields).encode(), job_id)


# -- waiting and following ---------------------------------------------------------------------------------------------------


def test_a_waiting_request_is_answered_when_its_job_ends(client: FlaskClient, spool: Spool) -> None:
    make(spool, "cat")
    threading.Timer(0.2, finish, (spool, "cat")).start()
    told = client.get("/api/v1/jobs/cat?wait=60").json
    assert told and told["status"] == "done" and told["images"]
    make(spool, "dog")
    assert client.get("/api/v1/jobs/dog?wait=1").json["status"] == "waiting"  # type: ignore[index]
    for bad in ("61", "-1", "x", "1.5"):
        assert client.get(f"/api/v1/jobs/dog?wait={bad}").status_code == 400


def test_only_half_of_the_threads_may_wait_and_the_others_answer(tmp_path: Path) -> None:
    client = create_app(Settings(spool=tmp_path / "spool", cache=tmp_path / "cache", web_threads=2)).test_client()
    client.post("/api/v1/jobs", json=PROMPT | {"id": "cat"})
    with client.application.extensions["office"].patience.seat():
        for path in ("/api/v1/jobs/cat?wait=9", "/api/v1/jobs/cat/events"):
            busy = client.get(path)
            assert busy.status_code == 503 and busy.headers["Retry-After"] and busy.json["error"]["code"] == "busy"  # type: ignore[index]
        assert client.get("/api/v1/jobs/cat").status_code == 200
    stream = client.get("/api/v1/jobs/cat/events", buffered=False)
    assert client.get("/api/v1/jobs/cat?wait=1").status_code == 503, "an open stream has the seat"
    stream.close()
    assert client.head("/api/v1/jobs/cat/events").status_code == 200
    assert client.get("/api/v1/jobs/cat?wait=1").status_code == 200


def test_events_tell_each_change_up_to_the_end(client: FlaskClient, spool: Spool) -> None:
    make(spool, "cat")
    threading.Timer(0.3, finish, (spool, "cat")).start()
    told = client.get("/api/v1/jobs/cat/events")
    assert told.mimetype == "text/event-stream"
    events = [event.split("\n") for event in told.text.strip().split("\n\n")]
    assert {event[0] for event in events} == {"event: job"}
    states = [json.loads(event[1].removeprefix("data: "))["status"] for event in events]
    assert states[0] == "waiting" and states[-1] == "done" and client.get("/api/v1/jobs/none/events").status_code == 404


def test_a_report_tells_the_priority_that_counts(client: FlaskClient, spool: Spool) -> None:
    make(spool, "cat", priority=3)

    def told() -> tuple[Any, Any, Any]:
        report = client.get("/api/v1/jobs/cat").json
        assert report and report["job"]["priority"] == 3
        return report["priority"], report["top"], report["note"]

    assert told() == (3, False, None)
    client.post("/api/v1/jobs/cat/priority", json={"priority": -7})
    assert told() == (-7, False, None)
    client.post("/api/v1/jobs/cat/top")
    assert told() == (3, True, None)
    side = spool.pending / "cat.priority"
    side.write_text("soon \x1b[31m")
    value, top, note = told()
    assert (value, top) == (3, False) and "must have a whole number from -100 to 100, or `top`, but has" in note
    assert "\x1b" not in note and note in html.unescape(client.get("/jobs/cat").text) + html.unescape(client.get("/queue").text)
    side.unlink()
    side.mkdir()
    assert told()[2].startswith("Its .priority file has no effect")
    side.rmdir()
    client.post("/api/v1/jobs/cat/hold")
    assert told() == (3, False, None)
    client.post("/api/v1/jobs/cat/release")
    finish(spool, "cat")
    assert told() == (None, False, None)


def test_a_priority_file_of_nonsense_is_logged_once(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    make(spool, "cat")
    pending = Pending(spool, decode=False)
    (spool.pending / "cat.priority").write_text("soon")
    for now in range(5):
        pending.distrust()
        pending.refresh(float(now), 1.0, 0.0)
    assert [record.getMessage() for record in caplog.records if "priority" in record.getMessage()] == [
        'job cat: Its .priority file has no effect: it must have a whole number from -100 to 100, or `top`, but has "soon".'
    ]
    assert (waiting := pending.get("cat")) and waiting.priority == 0 and not waiting.top


# -- the list ------------------------------------------------------------------------------------------------------------------


def test_the_list_is_filtered_by_time_star_size_and_what_waits_too(client: FlaskClient, spool: Spool) -> None:
    make(spool, "one", "two", owner="ann")
    finish(spool, "one")
    finish(spool, "two")
    client.post("/api/v1/jobs/two/star")

    def ids(query: str) -> list[str]:
        answer = client.get(f"/api/v1/jobs?{query}").json
        assert answer and answer.get("jobs") is not None, answer
        return sorted(job["id"] for job in answer["jobs"])

    wait_for(lambda: ids("status=done&starred=true") == ["two"], "the star to be seen")
    assert ids("status=done&starred=false") == ["one"]
    assert ids("since=2020-01-01T00:00:00Z") == ["one", "two"] and ids("until=2020-01-01T00:00:00Z") == []
    assert ids("min_pixels=64") == ["one", "two"] and ids("min_pixels=65") == []
    make(spool, "wait", owner="ann", prompt="a blue square")
    make(spool, "other", owner="bob", width=512, height=512)
    assert ids("status=waiting&owner=ann") == ["wait"] and ids("status=waiting&q=squ") == ["wait"]
    assert ids("status=waiting&min_pixels=1000") == ["other"] and ids("status=waiting&since=2020-01-01T00:00:00%2B01:00") != []
    for query, field in (
        ("since=yesterday", "since"),
        ("until=2020-01-01", "until"),
        ("starred=yes", "starred"),
        ("status=waiting&starred=true", "starred"),
        ("status=held&cursor=older-1", "cursor"),
        ("min_pixels=x", "min_pixels"),
    ):
        refused = client.get(f"/api/v1/jobs?{query}")
        assert refused.status_code == 400 and field in refused.json["error"]["fields"]  # type: ignore[index]


# -- batches -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'[{"prompt": "a"}, {"prompt": "b", "owner": "ann"}]'),
        ("application/json", b'{"jobs": [{"prompt": "a"}, {"prompt": "b"}]}'),
        ("application/x-ndjson", b'{"prompt": "a"}\n{"prompt": "b"}\n'),
        ("text/csv", b"prompt,seed\na,1\nb,2\n"),
        ("text/plain; charset=utf-8", b"a\nb\n"),
    ],
)
def test_p1_a_batch_is_accepted_as_a_whole(client: FlaskClient, spool: Spool, kind: str, body: bytes) -> None:
    answer = client.post("/api/v1/batches", data=body, content_type=kind)
    assert answer.status_code == 201 and answer.json
    assert client.get(answer.headers["Location"]).json == answer.json and answer.json["waiting"] == 2
    found = [client.get(f"/api/v1/jobs/{job_id}").json for job_id in answer.json["jobs"]]
    assert [job["job"]["prompt"] for job in found if job] == ["a", "b"]
    assert all(job and job["job"]["batch"] == answer.json["id"] for job in found)


def test_a_batch_with_a_mistake_is_refused_as_a_whole_and_each_is_told_by_its_row(client: FlaskClient, spool: Spool) -> None:
    offer(spool)
    body = b'[{"prompt": "a"}, {"prompt": "b", "steps": 0, "width": 7}, {"prompt": "c", "model": "dmo"}]'
    answer = client.post("/api/v1/batches", data=body, content_type="application/json")
    assert answer.status_code == 400 and answer.json
    told = [(each["line"], each["field"]) for each in answer.json["error"]["mistakes"]]
    assert told == [(2, "steps"), (2, "width")], "the rows that are no jobs come first"
    answer = client.post("/api/v1/batches", json=[{"prompt": "a"}, {"prompt": "c", "model": "dmo"}])
    assert [(each["line"], each["field"]) for each in answer.json["error"]["mistakes"]] == [(2, "model")]  # type: ignore[index]
    for bad in (b"[]", b"{}", b'{"job": []}', b"[1]", b"nonsense", b"", b'[{"prompt": "x", "image": "a.png"}]'):
        assert client.post("/api/v1/batches", data=bad, content_type="application/json").status_code == 400, bad
    assert client.post("/api/v1/batches", data=b"<x/>", content_type="text/xml").status_code == 415
    assert not [path for path in spool.pending.iterdir() if path.name != ".gitignore"] and not Batches(spool).ids()


def test_a_row_is_swept_as_any_job_is_and_the_document_says_so(client: FlaskClient, spool: Spool) -> None:
    row = {"prompt": "x", "upscale": [None, None]}
    document = openapi.document()
    described = document["paths"]["/api/v1/batches"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    for body in ([row], {"jobs": [row]}):
        told = client.post("/api/v1/batches", json=body)
        assert told.status_code == 201 and len(told.json["jobs"]) == 1  # type: ignore[index]
        jsonschema.validate(body, described | {"components": document["components"]})
    for body in ([], {"jobs": [row], "more": 1}, [row | {"count": [1]}], [row | {"id": "cat"}]):
        assert client.post("/api/v1/batches", json=body).status_code == 400
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(body, described | {"components": document["components"]})


def test_a_batch_beyond_the_bounds_is_refused_as_a_whole(tmp_path: Path) -> None:
    client = create_app(Settings(spool=tmp_path / "spool", cache=tmp_path / "cache", max_waiting=3)).test_client()
    client.post("/api/v1/jobs", json=PROMPT)
    full = client.post("/api/v1/batches", json=[PROMPT] * 3)
    assert full.status_code == 429 and full.headers["Retry-After"]
    assert client.post("/api/v1/batches", json=[PROMPT] * 2).status_code == 201


def test_one_idempotency_key_makes_one_batch(client: FlaskClient, spool: Spool) -> None:
    answers = [client.post("/api/v1/batches", json=[PROMPT] * 2, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].json["jobs"] == answers[1].json["jobs"]  # type: ignore[index]
    assert client.post("/api/v1/batches", json=[{}], headers={"Idempotency-Key": "k"}).status_code == 400
    assert client.get("/api/v1/queue").json["waiting"] == 2  # type: ignore[index]


def test_p2_a_batch_whose_taker_was_killed_is_taken_up_again(
    client: FlaskClient, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException): ...

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "_take", killed)
        with pytest.raises(Killed):
            client.post("/api/v1/batches", json=[PROMPT] * 2, headers={"Idempotency-Key": "k"})
    assert [path.suffix for path in spool.pending.iterdir()] == [".jsonl"], "whole and durable: a spooler would take it"
    with monkeypatch.context() as patch:
        patch.setattr(Batches, "submit_some", killed)
        with pytest.raises(Killed):
            client.post("/api/v1/batches", json=[PROMPT] * 2, headers={"Idempotency-Key": "k"})
    (unfinished,) = Batches(spool).unfinished()
    assert len(unfinished.jobs) == 2, "a spooler goes on with it"


# -- changing ------------------------------------------------------------------------------------------------------------------


def test_a_waiting_job_is_changed_in_its_place(client: FlaskClient, spool: Spool) -> None:
    offer(spool)
    make(spool, "one", "two", steps=9, guidance_scale=3.0)
    assert client.get("/api/v1/jobs/one").json["position"] == 1  # type: ignore[index]
    changed = client.patch("/api/v1/jobs/one", json={"steps": None, "cfg_scale": 5, "prompt": "a dog"})
    assert changed.status_code == 200 and changed.json and changed.json["position"] == 1
    assert changed.json["job"]["steps"] is None and changed.json["job"]["guidance_scale"] == 5.0
    assert json.loads((spool.pending / "one" / "submitted.json").read_bytes())["steps"] == 9
    mistakes: tuple[dict[str, Any], ...] = ({"steps": 0}, {"model": "dmo"}, {"image": "x.png"}, {"id": "x"}, {"foo": None})
    for bad in mistakes:
        refused = client.patch("/api/v1/jobs/one", json=bad)
        assert refused.status_code == 400 and [*bad] == [*refused.json["error"]["fields"]], bad  # type: ignore[index]
    client.post("/api/v1/jobs/two/hold")
    assert client.patch("/api/v1/jobs/two", json={"seed": 3}).json["status"] == "held"  # type: ignore[index]
    assert client.patch("/api/v1/jobs/none", json={}).status_code == 404
    make(spool, "three")
    finish(spool, "three")
    assert client.patch("/api/v1/jobs/three", json={"seed": 1}).status_code == 409


def test_an_ended_job_is_sent_again_with_changes_and_its_pictures(client: FlaskClient, spool: Spool) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "PNG")
    job = PROMPT | {"image": "a.png", "id": "cat", "batch": "b"}
    sent = client.post("/api/v1/jobs", data={"job": json.dumps(job), "file": (io.BytesIO(picture.getvalue()), "a.png")})
    assert sent.status_code == 201
    assert client.post("/api/v1/jobs/cat/again", json={"seed": 7}).status_code == 409
    client.delete("/api/v1/jobs/cat")
    headers = {"Idempotency-Key": "again"}
    again = client.post("/api/v1/jobs/cat/again", json={"seed": 7}, headers=headers)
    assert again.status_code == 201 and again.json and again.json["job"]["seed"] == 7 and not again.json["job"]["batch"]
    new = spool.find(again.json["id"])
    assert new and (new.path / "inputs" / "a.png").read_bytes() == picture.getvalue()
    assert client.get("/api/v1/jobs/cat").json["status"] == "cancelled", "the old one stays"  # type: ignore[index]
    assert client.post("/api/v1/jobs/cat/again", json={"seed": 7}, headers=headers).status_code == 200
    assert client.post("/api/v1/jobs/cat/again", json={"steps": 0}).status_code == 400


def test_an_ended_job_is_deleted_for_good_unless_it_has_a_star(client: FlaskClient, spool: Spool) -> None:
    make(spool, "one", "two", "three")
    finish(spool, "one")
    finish(spool, "two")
    client.post("/api/v1/jobs/two/star")
    assert client.post("/api/v1/jobs/one/delete").json == {"id": "one", "deleted": True}
    assert client.get("/api/v1/jobs/one").status_code == 404 and spool.find("one") is None
    codes = [client.post(f"/api/v1/jobs/{each}/delete") for each in ("one", "two", "three")]
    assert [(each.status_code, each.json["error"]["code"]) for each in codes] == [  # type: ignore[index]
        (404, "not_found"),
        (409, "starred"),
        (409, "wrong_state"),
    ]


def test_many_at_once_each_by_itself(client: FlaskClient, spool: Spool) -> None:
    make(spool, "a", "b", "c", "d")
    finish(spool, "d")
    told = client.post("/api/v1/actions", json={"ids": ["c", "none", "b", "d"], "verb": "top"}).json
    assert [(each["id"], each["ok"], each["code"]) for each in told["results"]] == [  # type: ignore[index]
        ("c", True, None),
        ("none", False, "not_found"),
        ("b", True, None),
        ("d", False, "wrong_state"),
    ]
    line = client.get("/api/v1/jobs?status=waiting").json
    assert line and [job["id"] for job in line["jobs"]] == ["c", "b", "a"]
    for verb, status in (("hold", "held"), ("release", "waiting"), ("cancel", "cancelled"), ("retry", "waiting")):
        told = client.post("/api/v1/actions", json={"ids": ["a", "b"], "verb": verb}).json
        assert [(each["ok"], each["status"]) for each in told["results"]] == [(True, status)] * 2, verb  # type: ignore[index]
    for bad in ({}, {"ids": [], "verb": "hold"}, {"ids": ["a"], "verb": "run"}, {"ids": ["../x"], "verb": "hold"}, {"ids": 3}):
        refused = client.post("/api/v1/actions", json=bad)
        assert refused.status_code == 400 and refused.json["error"]["fields"], bad  # type: ignore[index]


def test_a_zip_has_the_pictures_and_the_record_of_each(client: FlaskClient, spool: Spool) -> None:
    make(spool, "one", "two", "three")
    finish(spool, "one", images=2)
    finish(spool, "two")
    answer = client.get("/api/v1/jobs/one/archive.zip")
    assert answer.mimetype == "application/zip" and "one.zip" in answer.headers["Content-Disposition"]
    files = ["one/0.png", "one/1.png", "one/job.json", "one/record.json"]
    assert zipfile.ZipFile(io.BytesIO(answer.data)).namelist() == files
    both = client.get("/api/v1/archive.zip?ids=one,gone,two")
    names = zipfile.ZipFile(io.BytesIO(both.data)).namelist()
    assert len(names) == 7 and not any("secret" in name for name in names)
    assert client.get("/api/v1/jobs/three/archive.zip").status_code == 409
    assert client.get("/api/v1/archive.zip?ids=three").status_code == 404
    for bad in ("", "ids=", "ids=../x", "ids=" + ",".join(f"j{n}" for n in range(201))):
        assert client.get(f"/api/v1/archive.zip?{bad}").status_code == 400, bad


@pytest.mark.parametrize("moment", [-1.0, 0.0, 7.3e9, 1e10])
def test_a_zip_has_files_of_every_age(client: FlaskClient, spool: Spool, moment: float) -> None:
    make(spool, "cat")
    os.utime(spool.pending / "cat.json", (moment, moment))  # who drops a file may give it any time
    finish(spool, "cat")
    with zipfile.ZipFile(io.BytesIO(client.get("/api/v1/jobs/cat/archive.zip").data)) as made:
        assert "cat/job.json" in made.namelist() and made.testzip() is None


def test_a_picture_in_another_format(client: FlaskClient, spool: Spool) -> None:
    make(spool, "cat")
    finish(spool, "cat")
    Image.new("RGB", (8, 8), "red").save(spool.root / "done" / "cat" / "0.png")
    answer = client.get("/api/v1/jobs/cat/images/0.png?format=webp&quality=50&download")
    assert answer.mimetype == "image/webp" and "cat-0.webp" in answer.headers["Content-Disposition"]
    assert Image.open(io.BytesIO(answer.data)).format == "WEBP"
    assert client.get("/api/v1/jobs/cat/images/0.png?format=svg").status_code == 400


def test_the_two_routes_of_the_tutorials(client: FlaskClient, spool: Spool) -> None:
    told = client.post("/generate", json=PROMPT)
    assert told.status_code == 202 and told.json and set(told.json) == {"job_id", "status"}
    job_id = told.json["job_id"]
    assert client.get(f"/result/{job_id}").json == {"status": "waiting", "image_url": None}
    finish(spool, job_id)
    result = client.get(f"/result/{job_id}").json
    assert result and result["status"] == "done"
    with client.get(result["image_url"]) as answer:
        assert answer.data.startswith(b"\x89PNG")
    assert client.post("/generate", json={"steps": 1}).json["error"]["fields"]["prompt"]  # type: ignore[index]
    assert client.get("/result/none").json["error"]["code"] == "not_found"  # type: ignore[index]


# -- whose job it is -----------------------------------------------------------------------------------------------------------


def as_person(app: Flask, name: str) -> None:
    """From now on each request is that person's: what the guard finds out from a key."""

    def who() -> None:
        g.person = Person(name)

    app.before_request_funcs.setdefault(None, []).append(who)


def test_s4_nobody_changes_a_job_that_is_somebody_else_s(app: Flask, client: FlaskClient, spool: Spool) -> None:
    make(spool, "hers", owner="ann")
    make(spool, "ended", owner="ann")
    finish(spool, "ended")
    as_person(app, "bob")
    make(spool, "his", owner="bob")
    for answer in (
        client.patch("/api/v1/jobs/hers", json={"steps": 3}),
        client.post("/api/v1/jobs/ended/delete"),
    ):
        assert answer.status_code == 403 and answer.json["error"]["code"] == "not_yours"  # type: ignore[index]
    told = client.post("/api/v1/actions", json={"ids": ["hers", "his"], "verb": "cancel"}).json
    assert [(each["ok"], each["code"]) for each in told["results"]] == [(False, "not_yours"), (True, None)]  # type: ignore[index]
    refused = client.post("/api/v1/batches", json=[PROMPT, PROMPT | {"owner": "ann"}])
    assert [each["line"] for each in refused.json["error"]["mistakes"]] == [2]  # type: ignore[index]
    batch = client.post("/api/v1/batches", json=[PROMPT]).json
    assert client.get(f"/api/v1/jobs/{batch['jobs'][0]}").json["job"]["owner"] == "bob"  # type: ignore[index]
    again = client.post("/api/v1/jobs/ended/again", json={"seed": 1})
    assert again.status_code == 201 and again.json["job"]["owner"] == "bob", "a copy is whose who made it"  # type: ignore[index]
    assert spool.find("hers").state == "pending" and spool.find("ended").state == "done"  # type: ignore[union-attr]


def test_s4_one_person_s_idempotency_key_is_nobody_else_s(app: Flask, client: FlaskClient, spool: Spool) -> None:
    headers = {"Idempotency-Key": "1"}
    hers = client.post("/api/v1/jobs", json=PROMPT, headers=headers).json
    as_person(app, "bob")
    his = client.post("/api/v1/jobs", json=PROMPT | {"owner": "bob"}, headers=headers)
    assert his.status_code == 201 and his.json["id"] != hers["id"]  # type: ignore[index]


# -- the real process ------------------------------------------------------------------------------------------------------


def test_a_stream_and_a_waiting_request_end_with_their_job_and_give_their_seats_back(tmp_path: Path) -> None:
    made = Spool(tmp_path / "spool")
    made.create()
    (made.claimed / "me").mkdir()
    web = Web(made, "--web-threads", "4")
    told: list[Any] = []
    try:
        for number in range(3):  # more often than there are seats
            name = f"job{number}"
            web.request("/api/v1/jobs", PROMPT | {"id": name})
            waiting = threading.Thread(target=lambda name=name: told.append(web.request(f"/api/v1/jobs/{name}?wait=60")))
            waiting.start()
            finish(made, name)
            waiting.join()
        assert [(status, job["status"]) for status, job in told] == [(200, "done")] * 3
    finally:
        assert web.stop() == 0


def test_who_hangs_up_gives_the_seat_back_and_the_job_goes_on(tmp_path: Path) -> None:
    made = Spool(tmp_path / "spool")
    made.create()
    web = Web(made, "--web-threads", "2")  # one seat
    try:
        for number in range(2):
            with socket.create_connection(("127.0.0.1", web.port)) as caller:
                body = b'{"prompt": "a red circle"}'
                head = f"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
                caller.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
                wait_for(
                    lambda wanted=number + 1: len(list(made.pending.glob("*.json"))) == wanted, "the job to be in the queue"
                )
                name = next(made.pending.glob("*.json")).stem
                assert web.request(f"/api/v1/jobs/{name}?wait=1")[0] == 503, "the seat is taken"
            wait_for(lambda name=name: web.request(f"/api/v1/jobs/{name}?wait=1")[0] == 200, "the seat to be free again")
            with socket.create_connection(("127.0.0.1", web.port)) as caller:
                caller.sendall(f"GET /api/v1/jobs/{name}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                assert b"text/event-stream" in caller.recv(1 << 16)
            wait_for(lambda name=name: web.request(f"/api/v1/jobs/{name}?wait=1")[0] == 200, "that of the stream, too")
    finally:
        assert web.stop() == 0
    assert len(list(made.pending.glob("*.json"))) == 2


def test_a_dropped_file_and_a_batch_of_the_api_are_alike(client: FlaskClient, app: Flask, spool: Spool) -> None:
    drop(spool, "two.jsonl", b'{"prompt": "a"}\n{"prompt": "b"}\n')
    batches = Batches(spool)
    dropped = batches.take("two.jsonl", 2, "ann")
    assert dropped and batches.submit_some(dropped, batches.rows(dropped), 0) is None
    sent = client.post("/api/v1/batches", json=[{"prompt": "a"}, {"prompt": "b"}]).json
    assert sent and set(sent) == set(client.get("/api/v1/batches/two").json or {})
    assert (spool.batches / sent["id"] / "queued").exists()
