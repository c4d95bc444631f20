"""Keys and sessions through real requests: how a missing or wrong one is told, and how long one lasts."""

from __future__ import annotations

import re
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from house import offer
from people import ANN, BOB, KEYS, OPS, PROMPT, app, basic, bearer, log_in, make_app
from test_api import finish

from spooler.spool import Spool
from webui import sessions
from webui.login import after

__all__ = ["app"]

# -- how a missing or wrong key is told ---------------------------------------------------------------------------------------


def test_each_api_is_told_401_in_its_own_words(app: Flask) -> None:
    """Also where there is no such route: who is not let in does not hear what there is."""
    client = app.test_client()
    own = client.get("/api/v1/jobs")
    assert own.status_code == 401 and own.json and own.json["error"]["code"] == "unauthorized"
    assert [each.partition(" ")[0] for each in own.headers.getlist("WWW-Authenticate")] == ["Bearer", "Basic"]
    for path in ("/sdapi/v1/txt2img", "/internal/ping", "/sdapi/v1/none"):
        missing = client.post(path, json={}, headers={"Authorization": ""})
        assert missing.status_code == 401 and missing.json == {"detail": "Not authenticated"}
        assert missing.headers["WWW-Authenticate"].startswith("Basic ")
        wrong = client.post(path, json={}, headers={"Authorization": basic("ann", BOB)})
        assert wrong.status_code == 401 and wrong.json == {"detail": "Incorrect username or password"}
    openai = client.post("/v1/images/generations", json={}, headers=bearer("wrong"))
    assert openai.status_code == 401 and openai.json
    assert openai.json["error"]["code"] == "invalid_api_key" and openai.json["error"]["type"] == "invalid_request_error"
    page = client.get("/gallery?q=a+b")
    assert page.status_code == 303 and page.headers["Location"] == "/login?next=%2Fgallery%3Fq%3Da%2Bb"
    assert client.get("/gallery", headers=bearer("wrong")).status_code == 401


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic ",
        "Bearer",
        "Bearer ",
        " ",
        "Basic !!!",
        "Basic YW5u",
        "Digest x",
        "Bearer a b",
        "x" * 9000,
        "é",
        "Basic ÿþ",
        "Bearer é",
    ],
)
def test_a_strange_authorization_is_no_key_and_no_fault(client: FlaskClient, header: str) -> None:
    assert client.get("/api/v1/jobs", headers={"Authorization": header}).status_code == 401


def test_basic_needs_the_name_that_goes_with_the_secret(client: FlaskClient) -> None:
    for given, status in ((basic("ann", ANN), 200), (basic("bob", ANN), 401), (basic("", ANN), 401), (basic("ann", ""), 401)):
        assert client.get("/api/v1/jobs", headers={"Authorization": given}).status_code == status


def test_readyz_tells_strangers_whether_and_why_and_no_more(client: FlaskClient, spool: Spool) -> None:
    offer(spool)
    for lives in (False, True):
        with spool.life_lock("me") if lives else nullcontext():
            told, wrong, all_of_it = (client.get("/readyz", headers=headers) for headers in ({}, bearer("x" * 20), bearer(ANN)))
        assert told.json and wrong.json and all_of_it.json
        assert told.status_code == wrong.status_code == all_of_it.status_code == (200 if lives else 503)
        assert told.json == wrong.json and told.json["ready"] is lives and (told.json["reason"] is None) is lives
        assert not told.json["spoolers"] and not told.json["catalogue"]["models"]
        assert bool(all_of_it.json["spoolers"]) is lives and all_of_it.json["catalogue"]["models"]
        assert all_of_it.headers["Cache-Control"] == "no-store"


def test_what_needs_no_key_is_little(client: FlaskClient) -> None:
    for path in ("/healthz", "/readyz", "/static/style.css", "/login"):
        with client.get(path) as answer:
            assert answer.status_code in (200, 503), path
    for path in ("/", "/queue", "/gallery", "/jobs/x", "/nowhere"):
        assert client.get(path).status_code == 303, path
    assert client.options("/api/v1/jobs").status_code == 401


@pytest.mark.parametrize("path", ["/api/v1/events", "/api/v1/jobs/one/events"])
@pytest.mark.parametrize("how", ["log out", "key away", "secret changed", "file broken"])
def test_a_stream_ends_with_the_session_and_with_the_key(tmp_path: Path, path: str, how: str) -> None:
    app = make_app(tmp_path, f"ann owner {ANN}\nops operator {OPS}\n", wait_s=60)
    app.extensions["office"].spool.submit(b'{"prompt": "x"}', "one")
    client = app.test_client()
    if how == "log out":
        log_in(client, "ann", ANN)
    answer = client.get(path, headers={} if how == "log out" else bearer(ANN))
    events = iter(answer.response)
    assert answer.status_code == 200 and next(events)
    keys, begun = tmp_path / "keys", time.monotonic()
    if how == "log out":
        client.post("/logout", headers={"Origin": "http://localhost"})
    elif how == "file broken":
        keys.write_text("ann")
    else:
        keys.write_text(f"ops operator {OPS}\n" + (f"ann owner {ANN}x\n" if how == "secret changed" else ""))
    for _ in events:
        pass
    assert time.monotonic() - begun < 9  # and not after the next sign of life
    answer.close()


def test_a_key_that_is_gone_is_out_at_once_and_a_broken_file_lets_nobody_in(client: FlaskClient, tmp_path: Path) -> None:
    """Fail shut: whatever becomes of the file, nobody gets in who has no key in it."""
    keys = tmp_path / "keys"
    assert client.get("/api/v1/jobs", headers=bearer(ANN)).status_code == 200
    keys.write_text(KEYS.replace(ANN, "another-secret-0123456789"))
    assert client.get("/api/v1/jobs", headers=bearer(ANN)).status_code == 401
    keys.write_text("nonsense")
    broken = client.get("/api/v1/jobs", headers=bearer(OPS))
    assert broken.status_code == 503 and "nonsense" not in broken.get_data(as_text=True)
    assert client.get("/", headers=bearer(OPS)).status_code == 503
    keys.unlink()
    assert client.get("/api/v1/jobs").status_code == client.get("/api/v1/jobs", headers=bearer(ANN)).status_code == 401


def test_s1_on_the_lan_nobody_gets_in_before_there_is_a_key_unless_it_is_open(tmp_path: Path) -> None:
    shut = make_app(tmp_path, host="0.0.0.0").test_client()
    assert shut.get("/api/v1/jobs").status_code == 401
    opened = make_app(tmp_path, host="0.0.0.0", open="on").test_client()
    assert opened.get("/api/v1/jobs").status_code == 200
    keyed = make_app(tmp_path, KEYS, host="0.0.0.0", open="on").test_client()
    assert keyed.get("/api/v1/jobs").status_code == 401 and keyed.get("/api/v1/jobs", headers=bearer(ANN)).status_code == 200


def test_too_many_wrong_keys_of_an_address_are_429_and_the_others_of_it_stay_in(client: FlaskClient) -> None:
    assert client.get("/api/v1/jobs", headers=bearer(ANN)).status_code == 200
    statuses = [client.get("/api/v1/jobs", headers=bearer(f"wrong{number}")).status_code for number in range(30)]
    assert statuses[:10] == [401] * 10 and 429 in statuses and set(statuses) == {401, 429}
    last = client.get("/api/v1/jobs", headers=bearer("wrong"))
    assert last.status_code == 429 and int(last.headers["Retry-After"]) >= 1
    assert log_in(client, "ann", "wrong").status_code == 429
    assert client.get("/api/v1/jobs", headers=bearer(BOB)).status_code == 429, "it is not looked at whether it is right"
    assert client.get("/api/v1/jobs", headers=bearer(ANN)).status_code == 200, "who had the right one before is known"
    elsewhere = client.get("/api/v1/jobs", headers=bearer(BOB), environ_base={"REMOTE_ADDR": "10.0.0.7"})
    assert elsewhere.status_code == 200


# -- the session --------------------------------------------------------------------------------------------------------------


def test_log_in_go_on_and_log_out(app: Flask, client: FlaskClient) -> None:
    here = {"Origin": "http://localhost"}
    assert "Log in" in client.get("/login?next=/queue").get_data(as_text=True)
    wrong = log_in(client, "ann", BOB, next="/queue")
    assert wrong.status_code == 403 and 'value="/queue"' in wrong.get_data(as_text=True) and "Set-Cookie" not in wrong.headers
    right = log_in(client, "ann", ANN, next="/queue")
    assert right.status_code == 303 and right.headers["Location"] == "/queue"
    cookie = right.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Path=/" in cookie and "Max-Age=604800" in cookie
    assert "Secure" not in cookie and ANN not in cookie
    page = client.get("/queue")
    assert page.status_code == 200 and "Log out" in page.get_data(as_text=True)
    assert page.headers["Cache-Control"] == "no-store"
    copy = cookie.partition(";")[0]
    assert client.post("/logout").status_code == 303 and client.get("/queue").status_code == 200, "not from nowhere"
    assert client.post("/logout", headers=here).headers["Location"] == "/login"
    assert client.get("/queue").status_code == 303
    assert app.test_client(use_cookies=False).get("/queue", headers={"Cookie": copy}).status_code == 303, "nor for a copy"


def test_a_session_that_was_ended_stays_so_however_many_end_after_it(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that began since, and other people's, go on."""
    door = app.extensions["door"]
    clock = [1_800_000_000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    monkeypatch.setattr(sessions, "MOST_ENDED", 3)

    def begin(name: str) -> str:
        clock[0] += 10
        return str(door.sessions.begin(door.keys.named(name)))

    bobs, stolen = begin("bob"), begin("ann")
    clock[0] += 10
    door.sessions.end(stolen)
    kept = begin("ann")
    for _ in range(8):
        door.sessions.end(begin("ann"))
        assert door.sessions.holder(stolen) is None
    assert door.sessions.holder(bobs).name == "bob" and door.sessions.holder(begin("ann")).name == "ann"
    assert door.sessions.holder(kept) is None, "that it was not ended cannot be told any more"


def test_s5_who_has_not_been_let_in_sends_little(client: FlaskClient) -> None:
    big = {"name": "ann", "key": "x" * 70_000}
    assert client.post("/login", data=big, headers={"Origin": "http://localhost"}).status_code == 413


def test_behind_tls_the_cookie_is_secure(app: Flask) -> None:
    client = app.test_client()
    answer = client.post("/login", data={"name": "ann", "key": ANN}, base_url="https://localhost")
    assert "Secure" in answer.headers["Set-Cookie"]


def test_the_cookie_changes_things_for_this_server_s_pages_only(client: FlaskClient, spool: Spool) -> None:
    log_in(client, "ann", ANN)
    refused: list[dict[str, str]] = [{}, {"Sec-Fetch-Site": "none"}]
    for headers in refused:
        assert client.post("/", data=PROMPT, headers=headers).headers["Location"].startswith("/login")
        assert client.post("/api/v1/jobs", json=PROMPT, headers=headers).status_code == 401
    forbidden = ({"Origin": "null"}, {"Origin": "http://localhost:81"}, {"Sec-Fetch-Site": "same-site"})
    for headers in forbidden:
        assert client.post("/", data=PROMPT, headers=headers).status_code == 403
    assert not list(spool.pending.iterdir())
    assert client.post("/", data=PROMPT, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 303
    assert client.post("/api/v1/jobs", json=PROMPT, headers={"Origin": "http://localhost"}).status_code == 201


@pytest.mark.parametrize(
    ("wanted", "place"),
    [
        ("/queue", "/queue"),
        ("/gallery?q=a%20b&page=2", "/gallery?q=a%20b&page=2"),
        ("", "/"),
        ("queue", "/"),
        ("//attacker.example", "/"),
        ("/\\attacker.example", "/"),
        ("\\\\attacker.example", "/"),
        ("/\t/attacker.example", "/"),
        ("http://attacker.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/x\r\nSet-Cookie: a=b", "/"),
        ("/login?next=/login", "/"),
        ("/..//attacker.example", "/"),
        ("/x/%2e%2E//attacker.example", "/"),
        ("/./queue", "/"),
        ("/queue?of=../mine", "/queue?of=../mine"),
    ],
)
def test_the_login_leads_to_no_other_site(app: Flask, wanted: str, place: str) -> None:
    with app.test_request_context("/login"):
        assert after(wanted) == place
    answer = log_in(app.test_client(), "ann", ANN, next=wanted)
    assert answer.headers["Location"] == place


def test_what_somebody_got_with_a_key_is_for_no_shared_cache(client: FlaskClient, spool: Spool) -> None:
    spool.submit(b'{"prompt": "x"}', "cat")
    finish(spool, "cat")
    for path in ("/", "/queue", "/jobs/cat", "/api/v1/jobs", "/api/v1/jobs/cat", "/api/v1/jobs/cat/images/0.png"):
        with client.get(path, headers=bearer(ANN)) as answer:
            assert answer.status_code == 200
            assert re.search(r"no-store|private", answer.headers["Cache-Control"]), path
            assert "public" not in answer.headers["Cache-Control"]
    with client.get("/static/style.css") as answer:
        assert "private" not in answer.headers.get("Cache-Control", "")
