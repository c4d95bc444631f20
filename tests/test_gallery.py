"""The gallery and a job's page without a browser: filters, thumbnails, selections, moves, edits, live answers."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import threading
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, g
from flask.testing import FlaskClient
from house import drop
from PIL import Image
from test_pages import finish, spool, text

from spooler import edit, fsck
from spooler.job import Job
from spooler.place import Place
from spooler.spool import Spool
from webui import live, pages
from webui.frame import inside
from webui.gallery import asked
from webui.people import Person

__all__ = ["spool"]


def done(spool: Spool, name: str, picture: bool = True, **fields: Any) -> None:
    """A finished job with a picture that can be opened."""
    spool.submit(json.dumps({"prompt": f"a {name}", **fields}).encode(), name)
    finish(spool, name)
    if picture:
        Image.new("RGB", (128, 128), "red").save(spool.root / "done" / name / "0.png")


def somebody(app: Flask, name: str, operator: bool = False) -> None:
    """From now on every request is of that person, as the guard would have found out."""
    app.before_request_funcs.setdefault(None, []).append(lambda: setattr(g, "person", Person(name, operator)))


# -- what is asked ---------------------------------------------------------------------------------------------------------


def test_a_query_is_a_search_and_days_are_whole(app: Flask) -> None:
    with app.test_request_context():
        found = asked({"q": "cat", "from": "2027-03-01", "to": "2027-03-02", "size": "512", "starred": "1", "x": "y"}, UTC)
    assert found.search.since == datetime(2027, 3, 1, tzinfo=UTC) and found.search.until == datetime(2027, 3, 3, tzinfo=UTC)
    assert found.search.min_pixels == 512 * 512 and found.search.starred and found.search.query == "cat"
    assert found.without("q").keys() == {"from", "to", "size", "starred"} and not found.mistakes


@pytest.mark.parametrize(
    ("name", "value"),
    [("from", "yesterday"), ("to", "9999-12-31"), ("from", "0001-01-01"), ("size", "-1"), ("size", "²"), ("size", "9" * 50)],
)
def test_a_value_that_is_none_is_told_and_left_out(client: FlaskClient, spool: Spool, name: str, value: str) -> None:
    answer = client.get("/gallery", query_string={name: value})
    page = answer.get_data(as_text=True)
    assert answer.status_code == 200 and ('role="alert"' in page or value == "0001-01-01")


def test_filters_find_what_they_say(client: FlaskClient, spool: Spool) -> None:
    done(spool, "cat", owner="ann")
    done(spool, "dog", owner="bert")
    client.post("/jobs/dog/star")

    def names(query: str) -> list[str]:
        page = text(client, f"/gallery?{query}")
        return [name for name in ("cat", "dog") if f'href="/jobs/{name}"' in page]

    assert names("") == ["cat", "dog"] and names("owner=ann") == ["cat"] and names("starred=1") == ["dog"]
    assert names("q=dog") == ["dog"] and names("from=2199-01-01") == [] and names("to=2001-01-01") == []
    assert names("size=512") == [] and names("size=100") == ["cat", "dog"]
    page = text(client, "/gallery?owner=ann")
    assert "<option>bert</option>" in page and "<option selected>ann</option>" in page


def test_pictures_have_their_place_before_they_come(client: FlaskClient, spool: Spool) -> None:
    done(spool, "cat")
    page = text(client, "/gallery")
    assert 'width="128" height="128"' in page and "/jobs/cat/thumbnails/256/0.png?of=2" in page and "Z 256w" in page


# -- thumbnails ------------------------------------------------------------------------------------------------------------


def test_a_thumbnail_is_small_and_kept(client: FlaskClient, spool: Spool) -> None:
    done(spool, "cat")
    with client.get("/jobs/cat/thumbnails/256/0.png") as answer:
        assert answer.mimetype == "image/webp" and "immutable" in answer.headers["Cache-Control"]
        assert Image.open(io.BytesIO(answer.data)).size == (128, 128)


@pytest.mark.parametrize(
    "path", ["cat/thumbnails/300/0", "cat/thumbnails/256/job", "none/thumbnails/256/0", "cat/thumbnails/256/7"]
)
def test_only_results_have_thumbnails(client: FlaskClient, spool: Spool, path: str) -> None:
    done(spool, "cat")
    assert client.get(f"/jobs/{path}.png").status_code == 404


def test_a_broken_picture_has_a_placeholder_and_a_link_to_outside_is_not_followed(
    client: FlaskClient, spool: Spool, tmp_path: Path
) -> None:
    done(spool, "cat", picture=False)
    answer = client.get("/jobs/cat/thumbnails/256/0.png")
    assert (
        answer.status_code == 200 and answer.mimetype == "image/svg+xml" and "immutable" not in answer.headers["Cache-Control"]
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (spool.root / "done" / "cat" / "0.png").unlink()
    (spool.root / "done" / "cat" / "0.png").symlink_to(tmp_path / "secret.png")
    assert client.get("/jobs/cat/thumbnails/256/0.png").status_code == 404


def test_the_thumbnails_of_a_job_that_is_deleted_go_with_it(client: FlaskClient, app: Flask, spool: Spool) -> None:
    cache = app.extensions["thumbnails"].folder
    for name in ("cat", "dog", "bear"):
        done(spool, name)
        client.get("/gallery")
        with client.get(f"/jobs/{name}/thumbnails/256/0.png"), client.get(f"/jobs/{name}/thumbnails/512/0.png"):
            pass
    assert len(list(cache.glob("*/*.webp"))) == 6
    assert client.post("/api/v1/jobs/cat/delete").status_code == 200
    shutil.rmtree(spool.root / "done" / "bear")  # as a person may, or retention
    client.get("/gallery")
    left = {path: path.stat().st_mtime_ns for path in cache.glob("*/*.webp")}
    assert len(left) == 2
    with client.get("/jobs/dog/thumbnails/256/0.png") as answer:
        assert answer.status_code == 200
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*/*.webp")} == left, "those of the dog, as they were"


# -- the selection ---------------------------------------------------------------------------------------------------------


def test_the_selection_stars_zips_and_compares(client: FlaskClient, spool: Spool) -> None:
    for name in ("cat", "dog"):
        done(spool, name)
    jobs = {"job": ["cat", "dog", "none", "../etc"], "back": "/gallery?q=a"}
    answer = client.post("/gallery/bulk", data=jobs | {"do": "star"})
    assert answer.headers["Location"] == "/gallery?q=a&left=1" and (spool.root / "done" / "cat" / "starred").exists()
    assert "1 job was left as it is" in text(client, answer.headers["Location"])
    zipped = client.post("/gallery/bulk", data=jobs | {"do": "zip"})
    with zipfile.ZipFile(io.BytesIO(zipped.data)) as found:
        assert found.testzip() is None
        assert sorted(found.namelist()) == [
            f"{name}/{file}" for name in ("cat", "dog") for file in ("0.png", "job.json", "record.json")
        ]
        assert found.read("cat/0.png") == (spool.root / "done" / "cat" / "0.png").read_bytes()
    compared = client.post("/gallery/bulk", data={"job": ["cat", "dog"], "do": "compare"})
    assert compared.headers["Location"] == "/compare?a=cat%2F0&b=dog%2F0"
    page = text(client, compared.headers["Location"])
    assert "/api/v1/jobs/cat/images/0.png" in page and "/api/v1/jobs/dog/images/0.png" in page
    assert client.get("/compare?a=cat/9&b=dog/0").status_code == client.get("/compare").status_code == 404


def test_deleting_asks_first_spares_the_starred_and_is_for_good(client: FlaskClient, spool: Spool) -> None:
    for name in ("cat", "dog"):
        done(spool, name)
    client.post("/jobs/dog/star")
    data = {"job": ["cat", "dog"], "do": "delete"}
    page = client.post("/gallery/bulk", data=data).get_data(as_text=True)
    assert "Delete 2 jobs for good?" in page and "1 of them has a star" in page and (spool.root / "done" / "cat").exists()
    answer = client.post("/gallery/bulk", data=data | {"sure": "1"})
    assert answer.headers["Location"] == "/gallery?left=1"
    assert not (spool.root / "done" / "cat").exists() and (spool.root / "done" / "dog").exists()
    assert client.post("/jobs/dog/delete").status_code == 409
    client.post("/jobs/dog/unstar")
    assert client.post("/jobs/dog/delete").status_code == 303 and spool.find("dog") is None
    assert client.post("/jobs/dog/delete").status_code == 404
    spool.submit(b'{"prompt": "x"}', "new")
    assert client.post("/jobs/new/delete").status_code == 409


def test_nobody_changes_somebody_else_s_job(app: Flask, client: FlaskClient, spool: Spool) -> None:
    done(spool, "cat", owner="bert")
    for name in ("mine", "theirs"):
        spool.submit(json.dumps({"prompt": name, "owner": "ann" if name == "mine" else "bert"}).encode(), name)
    somebody(app, "ann")
    assert client.post("/jobs/cat/delete").status_code == client.post("/jobs/theirs/move").status_code == 403
    assert client.post("/jobs/theirs/edit", data={"prompt": "x"}).status_code == 403
    client.post("/gallery/bulk", data={"job": ["cat"], "do": "delete", "sure": "1"})
    client.post("/queue/bulk", data={"job": ["mine", "theirs"], "do": "cancel"})
    assert (spool.root / "done" / "cat").exists() and (spool.pending / "theirs.json").exists()
    assert not (spool.pending / "mine.json").exists()
    page = text(client, "/queue")
    assert 'action="/jobs/theirs/cancel"' not in page and 'action="/queue/pause"' not in page
    assert "/jobs/cat/delete" not in text(client, "/jobs/cat")


# -- the queue -------------------------------------------------------------------------------------------------------------


def order(client: FlaskClient, names: str) -> str:
    page = text(client, "/queue")
    return "".join(sorted(names, key=lambda name: page.index(f'href="/jobs/{name}"')))


def test_a_job_is_moved_before_another_and_the_page_shows_what_the_schedule_says(client: FlaskClient, spool: Spool) -> None:
    for name in "abcd":
        spool.submit(b'{"prompt": "x"}', name)
    assert order(client, "abcd") == "abcd"
    answer = client.post("/jobs/d/move", data={"before": "a", "back": "/queue?of=mine"})
    assert answer.status_code == 303 and answer.headers["Location"] == "/queue?of=mine" and order(client, "abcd") == "dabc"
    client.post("/jobs/c/move", data={"before": "b"})
    assert order(client, "abcd") == "dacb"
    client.post("/jobs/d/move", data={"before": ""})
    assert order(client, "abcd") == "acbd"
    assert client.post("/jobs/none/move").status_code == 404


def test_many_are_held_released_raised_and_cancelled_at_once(client: FlaskClient, spool: Spool) -> None:
    for name in "abc":
        spool.submit(b'{"prompt": "x"}', name)
    client.post("/queue/bulk", data={"job": ["b", "c"], "do": "top"})
    assert order(client, "abc") == "bca"
    client.post("/queue/bulk", data={"job": ["a", "b"], "do": "hold"})
    assert {path.name for path in spool.held.glob("*.json")} == {"a.json", "b.json"}
    client.post("/queue/bulk", data={"job": ["a", "b"], "do": "release"})
    answer = client.post("/queue/bulk", data={"job": ["a", "b", "c", "zz"], "do": "cancel"})
    assert "left=1" in answer.headers["Location"] and not list(spool.pending.glob("*.json"))
    assert client.post("/queue/bulk", data={"job": ["a"], "do": "burn"}).status_code == 400


def test_mine_are_those_of_the_name_that_the_browser_remembers(client: FlaskClient, spool: Spool) -> None:
    spool.submit(b'{"prompt": "hers", "owner": "Zo\xc3\xab"}', "a")
    spool.submit(b'{"prompt": "his", "owner": "bert"}', "b")
    assert "Mine" not in text(client, "/queue")
    assert client.post("/owner", data={"owner": "Zoë", "back": "/queue"}).headers["Location"] == "/queue"
    page = text(client, "/queue?of=mine")
    assert "hers" in page and "his" not in page and ">hers<" in text(client, "/queue")


def test_mine_are_found_behind_any_number_of_others(client: FlaskClient, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "SHOWN", 2)
    for name in "abcz":
        owner = "ann" if name == "z" else "bert"
        spool.submit(json.dumps({"prompt": name, "owner": owner, "priority": -1 if name == "z" else 0}).encode(), name)
    client.set_cookie("owner", "ann")
    assert 'href="/jobs/z"' in text(client, "/queue?of=mine") and 'href="/jobs/z"' not in text(client, "/queue")


def test_a_waiting_job_is_edited_in_its_place(client: FlaskClient, spool: Spool) -> None:
    for name in "ab":
        spool.submit(b'{"prompt": "an old ring", "steps": 9, "guidance_scale": 2.5}', name)
    page = text(client, "/jobs/a/edit")
    assert "an old ring</textarea>" in page and 'value="9"' in page and 'value="2.5"' in page
    wrong = client.post("/jobs/a/edit", data={"prompt": "x", "steps": "0"})
    assert wrong.status_code == 422 and "greater than or equal to 1, but is 0." in wrong.get_data(as_text=True)
    answer = client.post("/jobs/a/edit", data={"prompt": "a new ring", "steps": "", "guidance_scale": "3.5", "count": "2"})
    assert answer.status_code == 303
    place = spool.find("a")
    assert place and json.loads(place.job_file.read_bytes()) == {"prompt": "a new ring", "guidance_scale": 3.5, "count": 2}
    assert (place.path / "submitted.json").exists() and order(client, "ab") == "ab"
    finish_it = spool.claim("b.json", "me")
    assert finish_it and client.get("/jobs/b/edit").status_code == 303 and client.get("/jobs/none/edit").status_code == 404


def test_the_form_of_a_waiting_job_refuses_what_the_api_refuses(client: FlaskClient, spool: Spool) -> None:
    drop(spool, "a.json", {"prompt": "a ring"})
    refused = client.post("/jobs/a/edit", data={"prompt": "a ring <lora:none:1>", "count": "1"})
    assert (
        refused.status_code == client.patch("/api/v1/jobs/a", json={"prompt": "a ring <lora:none:1>"}).status_code + 22 == 422
    )
    assert spool.read_job(spool.find("a")).prompt == "a ring"  # type: ignore[arg-type]


def test_a_job_that_is_claimed_while_it_is_saved_leads_to_its_page(
    client: FlaskClient, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(spool, "a.json", {"prompt": "a ring"})
    (spool.claimed / "me").mkdir(exist_ok=True)
    real = Spool.read_job

    def read_job(self: Spool, place: Place) -> Job:
        if place.state == "pending":
            assert self.claim("a.json", "me")
        return real(self, place)

    monkeypatch.setattr(Spool, "read_job", read_job)
    assert client.post("/jobs/a/edit", data={"prompt": "x", "count": "1"}).status_code == 303


def test_while_a_job_is_edited_it_waits_and_others_wait_for_it(client: FlaskClient, spool: Spool) -> None:
    """To edit one is to claim it for a moment: it runs for nobody, and is neither interrupted nor out of reach."""
    drop(spool, "a.json", {"prompt": "a ring"})
    spool.hold("a")
    found: dict[str, Any] = {}

    def ask(what: str, **how: Any) -> None:
        found[what] = client.application.test_client().open(**how).status_code

    how = {"path": "/api/v1/jobs/a", "method": "PATCH", "json": {"steps": 7}}
    later = threading.Thread(target=ask, args=("patch",), kwargs=how)

    def change(before: Job) -> Job:
        if "a" in {place.id for place in spool.walk("claimed")}:
            found["interrupt"] = client.post("/sdapi/v1/interrupt").status_code
            found["status"] = client.get("/api/v1/jobs/a").json["status"]  # type: ignore[index]
            found["running"] = client.get("/api/v1/jobs?status=running").json["jobs"]  # type: ignore[index]
            later.start()
            time.sleep(0.1)
        return before.model_copy(update={"seed": 5})

    assert edit.apply(spool, change)
    later.join()
    job = spool.read_job(spool.find("a"))  # type: ignore[arg-type]
    assert (job.seed, job.steps) == (5, 7) and spool.find("a").state == "held"  # type: ignore[union-attr]
    assert found == {"interrupt": 200, "status": "waiting", "running": [], "patch": 200}
    assert not (spool.held / "a" / "cancel").exists()


def test_who_cancels_a_job_that_is_edited_cancels_it_then(spool: Spool) -> None:
    drop(spool, "b.json", {"prompt": "a ring"})
    cancel = threading.Thread(target=spool.cancel, args=("b",))

    def change(before: Job) -> Job:
        if any(spool.walk("claimed")):
            cancel.start()
            time.sleep(0.1)
        return before.model_copy(update={"seed": 5})

    assert edit.apply(spool, change)
    cancel.join()
    assert spool.find("b").state == "cancelled"  # type: ignore[union-attr]
    assert not list(fsck.examine(spool))


@pytest.mark.parametrize("guidance", [7.1234567, 0.00001, 2.5, 3.0])
def test_an_edit_changes_no_number_that_nobody_touched(client: FlaskClient, spool: Spool, guidance: float) -> None:
    spool.submit(json.dumps({"prompt": "an old ring", "guidance_scale": guidance}).encode(), "a")
    shown = re.search(r'name="guidance_scale"[^>]*value="([^"]*)"', text(client, "/jobs/a/edit"))
    assert shown
    assert client.post("/jobs/a/edit", data={"prompt": "a new ring", "guidance_scale": shown[1]}).status_code == 303
    place = spool.find("a")
    assert place and json.loads(place.job_file.read_bytes()) == {"prompt": "a new ring", "guidance_scale": guidance}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "\nan old\nring"),
        ("prompt", "an\rold\r\nring"),
        ("negative_prompt", "  "),
        ("guidance_scale", 0.012345678901234567),
    ],
)
def test_what_comes_back_as_it_was_shown_is_what_it_was(client: FlaskClient, spool: Spool, field: str, value: object) -> None:
    """As a browser sends it: it drops a newline at a text's begin, and sends each as carriage return and newline."""
    job = {"prompt": "an old ring", field: value}
    spool.submit(json.dumps(job).encode(), "a")
    page = text(client, "/jobs/a/edit")
    areas = re.findall(r'<textarea[^>]*name="(\w+)"[^>]*>\n?(.*?)</textarea>', page, re.DOTALL)
    inputs = re.findall(r'<input[^>]*name="(\w+)"[^>]*value="([^"]*)"', page)
    sent = {name: re.sub(r"\r\n?|\n", "\r\n", html.unescape(given)) for name, given in [*areas, *inputs]}
    assert client.post("/jobs/a/edit", data=sent | {"count": "2"}).status_code == 303
    place = spool.find("a")
    assert place and json.loads(place.job_file.read_bytes()) == job | {"count": 2}


# -- what moves ------------------------------------------------------------------------------------------------------------


def test_the_open_pages_question_has_an_etag_and_a_pace(
    client: FlaskClient, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LOOK_S", 0.0)
    first = client.get("/api/v1/live?job=cat")
    assert first.json and first.json["job"] is None and int(first.headers["Poll-After-Ms"]) >= 500
    again = client.get("/api/v1/live?job=cat", headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304 and not again.data and "Poll-After-Ms" in again.headers
    spool.submit(b'{"prompt": "x"}', "cat")
    second = client.get("/api/v1/live?job=cat").json
    assert (
        second
        and second["job"] == {"status": "waiting", "version": "waiting", "position": 1}
        and second["queue"] != first.json["queue"]
    )
    spool.hold("cat")
    held = client.get("/api/v1/live?job=cat").json
    assert held and held["job"]["status"] == "held" and held["held"] == 1
    spool.release("cat")
    finish(spool, "cat")
    ended = client.get("/api/v1/live?job=cat").json
    assert ended and ended["job"]["status"] == "done"


def test_however_many_ask_they_are_told_to_ask_so_often_together() -> None:
    pace, now = live.Pace(), 1000.0
    for _ in range(30):  # 200 pages, each asking as it is told
        step = pace.wait_s / 200
        for _ in range(max(1, int(1.1 / step))):
            now += step
            pace.next(now)
    assert 200 / pace.wait_s <= live.MOST_A_SECOND * 1.2
    now += 3600
    for _ in range(3):
        now += 2
        pace.next(now)
    assert pace.wait_s == live.LEAST_S


# -- the frame -------------------------------------------------------------------------------------------------------------


def test_theme_is_in_the_page_from_the_first_byte(client: FlaskClient) -> None:
    assert "data-theme" not in text(client, "/queue").partition("<body")[0]
    client.post("/theme", data={"theme": "dark", "back": "/queue"})
    head = text(client, "/queue").partition("<body")[0]
    assert '<html lang="en" dir="ltr" data-theme="dark">' in head and 'content="dark"' in head
    client.post("/theme", data={"theme": "<b>"})
    assert "data-theme" not in text(client, "/queue").partition("<body")[0]


@pytest.mark.parametrize("path", ["//evil.example", "https://evil.example", "/\\evil.example", "", "evil", "/a\nb"])
def test_nobody_is_sent_to_another_site(path: str) -> None:
    assert inside(path) == "/" and inside("/queue?of=mine") == "/queue?of=mine"


def test_what_a_job_began_with_is_shown(client: FlaskClient, spool: Spool) -> None:
    png = io.BytesIO()
    Image.new("RGB", (64, 64), "blue").save(png, "PNG")
    spool.submit(b'{"prompt": "x", "image": "a.png"}', "cat", {"a.png": png.getvalue()})
    assert "/jobs/cat/inputs/a.png" in text(client, "/jobs/cat")
    with client.get("/jobs/cat/inputs/a.png") as answer:
        assert answer.mimetype == "image/png" and answer.data == png.getvalue()
    assert client.get("/jobs/cat/inputs/job.json").status_code == client.get("/jobs/cat/inputs/b.png").status_code == 404


def test_a_job_s_page_leads_to_its_neighbours(client: FlaskClient, spool: Spool) -> None:
    for name in ("old", "new"):
        done(spool, name)
    text(client, "/gallery")
    older, newer = text(client, "/jobs/new"), text(client, "/jobs/old")
    assert ('rel="next"' in older and 'rel="prev"' in newer) or ('rel="prev"' in older and 'rel="next"' in newer)
