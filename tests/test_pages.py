"""The pages without a browser and without JavaScript: forms, redirects, and what a stranger may write into them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from flask.testing import FlaskClient
from house import offer

from spooler.record import EngineFacts, Image, Record, Timings, utc_now
from spooler.spool import Spool
from spooler.status import SpoolerStatus

HOSTILE = '"><script>alert(1)</script>\x1b[31m{{7*7}}'.replace("\x1b", "")


@pytest.fixture
def spool(spool: Spool) -> Spool:
    """The spool, in which a spooler told what it offers."""
    offer(spool)
    return spool


def finish(spool: Spool, name: str, state: Any = "done", model_hash: str = "ab" * 32) -> None:
    place = spool.claim(f"{name}.json", "me")
    assert place
    facts = EngineFacts(
        model="demo",
        hash=model_hash,
        family="sd1",
        device="cpu",
        device_name="CPU",
        precision="float32",
        versions={},
        load_seconds=1,
    )
    job = spool.read_job(place).model_copy(update={"seed": 4, "steps": 20, "width": 128, "height": 128, "guidance_scale": 3.0})
    record = Record(id=name, queued=utc_now()).begin_attempt(job, facts)
    spool.prepare(place, record)
    (place.path / "0.png").write_bytes(b"\x89PNG")
    picture = Image(file="0.png", seed=4, width=128, height=128)
    record = record.finish((picture,), Timings(denoise=1.5)) if state == "done" else record.fail("engine_error", "It broke.")
    assert spool.publish(place, record, state)


def text(client: FlaskClient, path: str) -> str:
    return client.get(path).get_data(as_text=True)


def test_jobs_that_are_drawn_together_stand_in_the_order_in_which_they_began(client: FlaskClient, spool: Spool) -> None:
    """However often each of their folders was written to."""
    for number, name in enumerate(("second", "first", "third")):
        spool.submit(json.dumps({"prompt": f"a ring, {name}"}).encode(), name)
        place = spool.claim(f"{name}.json", "me")
        assert place
        record = Record(id=name, queued=utc_now(), started=f"2026-01-01T00:00:0{(1, 0, 2)[number]}.000Z")
        spool.prepare(place, record)
    (spool.claimed / "me" / "first" / "preview.jpg").write_bytes(b"x")
    for path in ("/queue", "/"):
        page = text(client, path)
        assert [page.index(f"a ring, {name}") for name in ("first", "second", "third")] == sorted(
            page.index(f"a ring, {name}") for name in ("first", "second", "third")
        )


def test_done_job_s_page_shows_picture_record_and_the_way_to_do_it_again(client: FlaskClient, spool: Spool) -> None:
    spool.submit(b'{"prompt": "a ring"}', "ring")
    finish(spool, "ring")
    page = text(client, "/jobs/ring")
    assert 'src="/api/v1/jobs/ring/images/0.png"' in page and "?download" in page and "http-equiv" not in page
    assert "demo [ababababab]" in page and "Seed" in page
    again = re.findall(r'href="(/\?[^"]+)"', page)
    first, fresh = (text(client, f"/?from=ring&as=same{more}") for more in ("", "&seed=-1"))
    assert 'name="seed" inputmode="numeric" autocomplete="off" value="4"' in first and 'value="20"' in first
    assert 'name="seed" inputmode="numeric" autocomplete="off" value=""' in fresh and 'value="20"' in fresh
    ways = ("seed", "same", "vary", "img2img", "inpaint", "upscale")
    assert all(f"/?from=ring&amp;image=0&amp;as={way}" in again for way in ways)
    assert 'href="/api/v1/jobs/ring/archive.zip"' in page


def test_a_model_whose_hash_is_not_known_yet_is_shown_without_one(client: FlaskClient, spool: Spool) -> None:
    spool.submit(b'{"prompt": "a ring"}', "ring")
    finish(spool, "ring", model_hash="")
    page = text(client, "/jobs/ring")
    assert "<dt>Model</dt><dd>demo</dd>" in page


def test_queue_cancel_and_retry_without_a_script(client: FlaskClient, spool: Spool) -> None:
    for name, priority in (("low", -1), ("first", 0), ("second", 0)):
        spool.submit(json.dumps({"prompt": f"job {name}", "priority": priority}).encode(), name)
    page = text(client, "/queue")
    assert page.index("job first") < page.index("job second") < page.index("job low")
    answer = client.post("/jobs/first/cancel")
    assert answer.status_code == 303 and "Cancelled while it waited." in text(client, answer.headers["Location"])
    finish(spool, "second", "failed")
    failed = text(client, "/failed")
    assert "It broke." in failed and 'action="/jobs/second/retry"' in failed and "job first" in failed
    assert client.post("/jobs/second/retry").status_code == 303
    assert "waiting" in text(client, "/jobs/second")
    assert client.post("/jobs/none/cancel").status_code == client.post("/jobs/none/retry").status_code == 404


def test_a_job_s_page_has_the_verbs_that_its_state_allows(client: FlaskClient, spool: Spool) -> None:
    spool.submit(b'{"prompt": "a cat"}', "cat")
    spool.submit(b'{"prompt": "later", "not_before": "2100-01-01T00:00:00Z"}', "later")
    assert "It waits for its “Not before”, 2100-01-01 00:00:00 UTC." in text(client, "/jobs/later")
    page = text(client, "/jobs/cat")
    assert all(f'action="/jobs/cat/{verb}"' in page for verb in ("cancel", "top", "hold", "priority"))
    assert client.post("/jobs/cat/priority", data={"priority": "-7"}).status_code == 303
    assert (spool.pending / "cat.priority").read_text().strip() == "-7"
    wrong = client.post("/jobs/cat/priority", data={"priority": "700"})
    assert wrong.status_code == 400 and "from -100 to 100" in wrong.get_data(as_text=True)
    assert client.post("/jobs/cat/priority", data={"priority": ""}).status_code == 303
    assert not (spool.pending / "cat.priority").exists()
    assert client.post("/jobs/nobody/priority", data={"priority": "1"}).status_code == 404
    finish(spool, "cat")
    assert 'action="/jobs/cat/star"' in text(client, "/jobs/cat")
    assert client.post("/jobs/cat/star").status_code == 303 and 'action="/jobs/cat/unstar"' in text(client, "/jobs/cat")


def test_rejected_files_are_shown_with_their_reason(client: FlaskClient, spool: Spool) -> None:
    (spool.pending / "bad.json").write_bytes(b"[]")
    spool.reject(spool.pending / "bad.json", "A job must be <an object>.")
    page = text(client, "/failed")
    assert "bad.json" in page and "A job must be &lt;an object&gt;." in page


def test_files_that_nobody_will_take_are_told_of_where_one_looks_for_them(client: FlaskClient, spool: Spool) -> None:
    now = utc_now()
    told = SpoolerStatus(spooler="me", host="h", started=now, beat=now, state="ready", lying=("<b>.zip",))
    spool.write_status(told)
    assert "Nothing has failed" in client.get("/failed").text, "whoever told of it has ended"
    with spool.life_lock("me"):
        for page in ("/failed", "/status"):
            text = client.get(page).text
            assert "files that nobody will take" in text and "&lt;b&gt;.zip" in text and "Nothing has failed" not in text


def test_the_gallery_has_pages(client: FlaskClient, spool: Spool) -> None:
    assert "No pictures yet." in text(client, "/gallery")
    for number in range(25):
        spool.submit(b'{"prompt": "x"}', f"job{number}")
        finish(spool, f"job{number}")
    first, second = text(client, "/gallery"), text(client, "/gallery?page=1")
    assert first.count("<img") == 24 and second.count("<img") == 1
    assert 'rel="next"' in first and 'rel="prev"' in second and 'rel="next"' not in second
    assert "no such page" in text(client, "/gallery?page=99") and text(client, "/gallery?page=x").count("<img") == 24


def test_what_a_stranger_writes_is_only_text(client: FlaskClient, spool: Spool) -> None:
    spool.submit(json.dumps({"prompt": HOSTILE, "owner": HOSTILE, "negative_prompt": HOSTILE}).encode(), "bad")
    pages = [text(client, path) for path in ("/jobs/bad", "/queue", "/")]
    finish(spool, "bad")
    pages += [text(client, path) for path in ("/jobs/bad", "/gallery", "/")]
    spool.submit(json.dumps({"prompt": HOSTILE}).encode(), "worse")
    finish(spool, "worse", "failed")
    pages += [text(client, path) for path in ("/failed", "/jobs/worse", "/jobs/%3Cscript%3Ealert(1)")]
    for page in pages:
        assert "<script>alert" not in page and "49\n" not in page


def test_pages_that_are_not_there(client: FlaskClient) -> None:
    for path, status in (("/jobs/none", 404), ("/nowhere", 404)):
        answer = client.get(path)
        assert answer.status_code == status and "Back to the start" in answer.get_data(as_text=True)
    assert client.delete("/queue").status_code == 405


def test_every_answer_forbids_what_a_page_of_ours_never_does(client: FlaskClient) -> None:
    for path in ("/", "/nowhere", "/api/v1/jobs", "/static/style.css"):
        with client.get(path) as answer:
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "Access-Control-Allow-Origin" not in answer.headers
    assert not re.search(r"<script(?! src)|style=|onclick=", text(client, "/"))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 303),
        ({"Origin": "http://localhost"}, 303),
        ({"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}, 303),
        ({"Sec-Fetch-Site": "none"}, 303),
        ({"Origin": "http://localhost:81"}, 403),
        ({"Origin": "http://attacker.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Host": "attacker.example"}, 421),
    ],
)
def test_no_other_site_changes_anything(client: FlaskClient, spool: Spool, headers: dict[str, str], status: int) -> None:
    assert client.post("/", data={"prompt": "x"}, headers=headers).status_code == status
    assert len(list(spool.pending.glob("*.json"))) == (status == 303)


# -- a batch -------------------------------------------------------------------------------------------------------------------


def test_a_batch_has_a_page_which_its_jobs_lead_to(client: FlaskClient, spool: Spool) -> None:
    told = client.post("/api/v1/batches", json=[{"prompt": f"ring {number}"} for number in range(60)]).json
    assert told
    page = f"/batches/{told['id']}"
    finish(spool, told["jobs"][0])
    finish(spool, told["jobs"][1], "failed")
    shown = client.get(page).text
    assert "2 of 60 jobs have ended" in shown and "58 waiting" in shown and "1 failed" in shown and "Page 1 of 2" in shown
    assert "ring 47" in shown and "ring 48" not in shown and "ring 59" in client.get(f"{page}?page=1").text
    for leading in (f"/jobs/{told['jobs'][0]}", "/queue", "/failed"):
        assert f'href="{page}"' in client.get(leading).text, leading
    assert client.post(f"{page}/cancel").headers["Location"] == page
    assert "60 of 60 jobs have ended" in client.get(page).text
    client.post(f"{page}/retry")
    assert "59 waiting" in client.get(page).text and spool.find(told["jobs"][0]).state == "done"  # type: ignore[union-attr]
    for wrong in ("none", "..", "x" * 200):
        assert client.get(f"/batches/{wrong}").status_code == 404
    assert client.get(f"{page}?page=99").status_code == 200


def test_a_request_that_changes_a_batch_is_bounded_and_tells_what_is_left(
    client: FlaskClient, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webui.batch_page.MOST", 3)
    told = client.post("/api/v1/batches", json=[{"prompt": "a"}] * 5).json
    assert told
    after = client.post(f"/batches/{told['id']}/cancel")
    assert after.headers["Location"].endswith("?left=2") and "2 are left" in client.get(after.headers["Location"]).text
