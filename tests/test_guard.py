"""Who is let in, from where, and to do what: the guard of the web app, through real requests.

The rules that the oracles below were written from are S1 to S5 and S12 of the threat model in docs/security.md.
"""

from __future__ import annotations

import base64
import html
import http.client
import io
import itertools
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from house import ROOT, listing
from PIL import Image
from test_api import Web, finish, with_demo_model
from werkzeug.test import TestResponse

from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import create_app
from webui.guard import door
from webui.login import after
from webui.origins import Hosts, from_here
from webui.pace import Pace
from webui.rules import Rule, rule_of

ANN, BOB, OPS = "ann-secret-0123456789", "bob-secret-0123456789", "ops-secret-0123456789"
KEYS = f"ann owner {ANN}\nbob owner {BOB}\nops operator {OPS}\n"
PROMPT = {"prompt": "a ring"}


def basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def make_app(tmp_path: Path, keys: str = "", **settings: Any) -> Flask:
    if keys:
        (tmp_path / "keys").write_text(keys)
        (tmp_path / "keys").chmod(0o600)
    # Some of these requests wait for a job, and no spooler runs here.
    made = {"spool": tmp_path / "spool", "cache": tmp_path / "cache", "keys": tmp_path / "keys", "wait_s": 0.05, **settings}
    return create_app(Settings(**made))


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    return make_app(tmp_path, KEYS)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def spool(app: Flask, tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    (made.claimed / "me").mkdir()
    return made


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    return file.getvalue()


def log_in(client: FlaskClient, name: str, secret: str, **form: str) -> TestResponse:
    return client.post("/login", data={"name": name, "key": secret, **form}, headers={"Origin": "http://localhost"})


# -- the matrix: Host x Origin x Sec-Fetch-Site x Content-Type x method x credentials ---------------------------------------

#: Each with whether it is this server's, in the words of the rules.
HOSTS = {
    "localhost": True,
    "LOCALHOST:7860": True,
    "localhost.": True,
    "127.0.0.1:7860": True,
    "[::1]:7860": True,
    "spool.example:8443": True,  # of --allowed-hosts
    "attacker.example": False,
    "localhost.attacker.example": False,
    "attacker@localhost": False,
    "192.168.1.5": False,  # no address of loopback
    "localhost:99999": False,
    "": False,
}
#: "own": the page's own, as a browser would write it for that Host.
ORIGINS = (None, "own", "null", "http://attacker.example", "own other port", "http://localhost.attacker.example")
SITES = (None, "same-origin", "none", "same-site", "cross-site")
BODIES = ("application/json", "text/plain", "application/x-www-form-urlencoded", None)
METHODS = ("GET", "POST")
#: Credentials, and who they are.
WHO = {"no key": None, "bearer": "ann", "basic": "ann", "wrong bearer": None, "cookie": "ann", "empty": None}


def own_origin(host: str) -> str:
    """What a browser sends as Origin from a page that it reached by this Host: small letters."""
    return "http://" + host.lower()


def other_port(host: str) -> str:
    """The same name and another port, which is another origin."""
    return "http://" + re.sub(r":\d+$", "", host.lower()) + ":81"


def oracle(host: str, origin: str | None, site: str | None, body: str | None, method: str, who: str) -> int:
    """The status that the rules call for, in their order. Nothing of the product is asked."""
    if not HOSTS[host]:
        return 421
    if method == "GET":
        if site in ("same-site", "cross-site"):
            return 403  # the request of another site's page, and no link that was followed
    elif site in ("same-site", "cross-site") or origin not in (None, "own"):
        return 403
    known = WHO[who] is not None
    if who == "cookie" and method == "POST" and origin is None and site != "same-origin":
        known = False  # the browser does not say that the page is ours
    if not known:
        return 401
    if method == "GET":
        return 200
    # A path of the own API that takes JSON and nothing else.
    return 201 if body == "application/json" else 415


@pytest.mark.parametrize("keyed", [True, False], ids=["with keys", "without keys"])
def test_s2_s3_s4_the_matrix(tmp_path: Path, keyed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """0 wrongly allowed and 0 wrongly refused, of every combination; through real requests to the real app."""
    app = make_app(tmp_path, KEYS if keyed else "", allowed_hosts="other.example, spool.example", floor_mib=0.0)
    app.extensions["door"].wrong = Pace(1.0, 1e9)  # the wrong keys of the matrix are slowed down by another test
    pending = tmp_path / "spool" / "pending"
    session = ""
    if keyed:
        logged_in = log_in(app.test_client(), "ann", ANN)
        session = logged_in.headers["Set-Cookie"].partition(";")[0]
    credentials = {
        "no key": {},
        "bearer": bearer(ANN),
        "basic": {"Authorization": basic("ann", ANN)},
        "wrong bearer": bearer("wrong"),
        "cookie": {"Cookie": session},
        "empty": {"Authorization": ""},
    }
    wrong: list[str] = []
    counted = allowed = 0
    client = app.test_client(use_cookies=False)
    for host, origin, site, body, method, who in itertools.product(HOSTS, ORIGINS, SITES, BODIES, METHODS, WHO):
        if method == "GET" and body is not None:
            continue
        if origin and origin.startswith("own") and not HOSTS[host]:
            continue  # no such page
        expected = oracle(host, origin, site, body, method, who)
        if not keyed and expected == 401:
            expected = oracle(host, origin, site, body, method, "bearer")
        headers = dict(credentials[who], Host=host)
        if origin:
            headers["Origin"] = {"own": own_origin(host), "own other port": other_port(host)}.get(origin, origin)
        if site:
            headers |= {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "cors"}
        if body:
            headers["Content-Type"] = body
        data = json.dumps(PROMPT).encode() if method == "POST" else None
        with client.open("/api/v1/jobs", method=method, headers=headers, data=data) as answer:
            counted += 1
            status = answer.status_code
            assert "Access-Control-Allow-Origin" not in answer.headers
        made = list(pending.iterdir())
        for file in made:
            file.unlink()
        allowed += status < 300
        if status != expected or len(made) != (expected == 201):
            wrong.append(f"{status} and not {expected}: {method} {headers}")
    with capsys.disabled():
        print(f"\n{counted} combinations {'with' if keyed else 'without'} keys, {allowed} allowed, {len(wrong)} wrong")
    assert counted >= 1000 and allowed >= 100
    assert wrong == []


def test_the_same_through_a_socket(tmp_path: Path) -> None:
    """What the test client of Flask could not send: raw heads, through the real waitress."""
    (tmp_path / "keys").write_text(KEYS)
    (tmp_path / "keys").chmod(0o600)
    web = Web(Spool(tmp_path / "spool"), "--keys", str(tmp_path / "keys"))
    try:

        def status(*lines: str, path: str = "/api/v1/jobs", method: str = "GET", body: bytes = b"") -> int:
            connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for line in (*lines, f"Content-Length: {len(body)}"):
                name, _, value = line.partition(": ")
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            answer.read()
            connection.close()
            return answer.status

        host, key = f"Host: 127.0.0.1:{web.port}", f"Authorization: Bearer {ANN}"
        assert status(host, key) == 200
        assert status(host) == status(host, "Authorization: Bearer wrong") == 401
        assert status(key) == 421, "no Host at all"
        assert status(host, "Host: attacker.example", key) in (400, 421)
        assert status("Host: attacker.example", key) == 421
        assert status(host, key, "Authorization: Bearer wrong") in (400, 401)
        kind, body = "Content-Type: application/json", json.dumps(PROMPT).encode()
        assert status(host, key, kind, method="POST", body=body) == 201
        assert status(host, key, kind, "Origin: null", method="POST", body=body) == 403
        own = f"Origin: http://127.0.0.1:{web.port}"
        assert status(host, key, kind, own, method="POST", body=body) == 201
        assert status(host, key, kind, own, "Origin: http://attacker.example", method="POST", body=body) in (400, 403)
        assert status(host, path="/healthz") == 200
        # A name that the client says of itself, and what a proxy would say, change nothing.
        assert status(host, "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: attacker.example") == 401
        assert status(host, "Remote-User: ops", "X-Remote-User: ops") == 401
    finally:
        assert web.stop() == 0


@pytest.mark.parametrize(
    ("header", "listening_on", "allowed"),
    [
        ("localhost:7860", "127.0.0.1", True),
        ("LOCALHOST.", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.8.7.6", "127.0.0.1", True),
        ("[::1]:7860", "127.0.0.1", True),
        ("[0:0:0:0:0:0:0:1]", "127.0.0.1", True),
        ("localhost", "::1", True),
        ("attacker.example", "127.0.0.1", False),
        ("localhost.attacker.example", "127.0.0.1", False),
        ("192.168.1.5:7860", "127.0.0.1", False),
        ("0.0.0.0:7860", "127.0.0.1", False),
        ("gpu-box", "127.0.0.1", False),
        ("127.1", "127.0.0.1", False),
        ("2130706433", "127.0.0.1", False),
        ("0x7f.0.0.1", "127.0.0.1", False),
        ("", "127.0.0.1", False),
        ("[::1", "127.0.0.1", False),
        ("::1", "127.0.0.1", False),
        ("[::1]x", "127.0.0.1", False),
        ("[::1%25lo]", "127.0.0.1", False),
        ("localhost..", "127.0.0.1", False),
        (".localhost", "127.0.0.1", False),
        ("localhost:", "127.0.0.1", False),
        ("localhost:0", "127.0.0.1", False),
        ("localhost:65536", "127.0.0.1", False),
        ("localhost:78x", "127.0.0.1", False),
        ("localhost:\u0667", "127.0.0.1", False),
        ("user@localhost", "127.0.0.1", False),
        ("user:pw@localhost:80", "127.0.0.1", False),
        ("localhost/attacker.example", "127.0.0.1", False),
        ("localhost, attacker.example", "127.0.0.1", False),
        ("localhost attacker.example", "127.0.0.1", False),
        (" localhost", "127.0.0.1", False),
        ("localhost\x00", "127.0.0.1", False),
        ("localhost\n", "127.0.0.1", False),
        ("loc\u212alhost", "127.0.0.1", False),
        ("192.168.1.5:7860", "0.0.0.0", True),
        ("[fe80::1]:7860", "::", True),
        ("0.0.0.0", "0.0.0.0", True),  # it says at its start that it listens there
        ("[::]", "0.0.0.0", False),
        ("224.0.0.1", "0.0.0.0", False),
        ("attacker.example", "0.0.0.0", False),
        ("GPU-BOX:5000", "0.0.0.0", True),
        ("gpu-box.lan.", "0.0.0.0", True),
        ("gpu-box.local", "0.0.0.0", True),
        ("gpu-box.attacker.example", "0.0.0.0", False),
        ("gpu-box.lan.attacker.example", "0.0.0.0", False),
        ("gpu.lan", "gpu.lan", True),
        ("spool.example", "127.0.0.1", True),
        ("SPOOL.example.:8443", "127.0.0.1", True),
        ("x.spool.example", "127.0.0.1", False),
    ],
)
def test_s2_only_this_server_s_names_are_answered_to(header: str, listening_on: str, allowed: bool) -> None:
    assert Hosts(listening_on, "gpu-box.attacker-knows-it", ("", "spool.example")).allow(header) is allowed


@pytest.mark.parametrize(
    ("origin", "host", "scheme", "own"),
    [
        ("http://localhost:7860", "localhost:7860", "http", True),
        ("http://LOCALHOST:7860", "localhost.:7860", "http", True),
        ("http://localhost", "localhost:80", "http", True),
        ("https://spool.example", "spool.example", "http", True),  # TLS ends at a proxy
        ("https://spool.example", "spool.example:443", "https", True),
        ("http://[::1]:7860", "[0::1]:7860", "http", True),
        ("http://spool.example", "spool.example", "https", False),
        ("http://localhost:7861", "localhost:7860", "http", False),
        ("http://localhost", "localhost:7860", "http", False),
        ("http://127.0.0.1:7860", "localhost:7860", "http", False),
        ("null", "localhost", "http", False),
        ("", "localhost", "http", False),
        ("file://", "localhost", "http", False),
        ("http://", "localhost", "http", False),
        ("http://localhost/", "localhost", "http", False),
        ("http://localhost@attacker.example", "localhost", "http", False),
        ("http://attacker.example#localhost", "localhost", "http", False),
        ("http://localhost, http://localhost", "localhost", "http", False),
        ("chrome-extension://localhost", "localhost", "http", False),
        ("//localhost", "localhost", "http", False),
    ],
)
def test_s3_an_origin_is_this_page_s_own_or_not(origin: str, host: str, scheme: str, own: bool) -> None:
    assert from_here(origin, host, scheme) is own


def test_a_link_on_another_site_leads_here_and_nothing_else_of_it_does(client: FlaskClient) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/login", headers=link).status_code == 200
    assert client.get("/login", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200
    assert client.get("/login", headers=embedded).status_code == 403
    assert client.post("/login", headers=link).status_code == 403


def test_s7_no_name_in_a_path_leads_out_of_the_spool_or_to_a_fault(client: FlaskClient, tmp_path: Path) -> None:
    (tmp_path / "batch.json").write_text("{}")
    (tmp_path / "spool" / "batch.json").write_text("{}")
    for name in ("a%00b", "%2e%2e", "..%2f..", "x" * 300, "%0a", "%ff%fe", ".", "-", "a%5cb", "%E2%80%AE"):
        for path in ("/api/v1/jobs/{}", "/api/v1/batches/{}", "/jobs/{}", "/api/v1/jobs/{}/images/0.png", "/static/{}"):
            assert client.get(path.format(name), headers=bearer(OPS)).status_code in (308, 404), path.format(name)
        for verb in ("hold", "retry", "star", "top"):
            assert client.post(f"/api/v1/jobs/{name}/{verb}", headers=bearer(ANN)).status_code in (404, 409), (name, verb)


# -- what ASVS asks for besides --------------------------------------------------------------------------------------------


def routes(app: Flask, *methods: str) -> list[str]:
    """The paths of the routes that have one of the methods, filled in with a job that is there."""
    found = [
        rule for rule in app.url_map.iter_rules() if rule.methods and rule.methods & set(methods) and rule.endpoint != "static"
    ]
    fill = {"job_id": "hers", "verb": "hold", "name": "0.png", "batch_id": "none"}
    return [re.sub(r"<(?:[^:<>]*:)?([a-z_]+)>", lambda part: fill.get(part[1], "x"), rule.rule) for rule in found]


def test_asvs_3_5_3_reading_changes_nothing(app: Flask, client: FlaskClient, spool: Spool) -> None:
    spool.submit(b'{"prompt": "x", "owner": "ann"}', "hers")
    before = {path: content for path, content in listing(spool.root).items() if "status" not in path}
    for path in routes(app, "GET"):
        client.get(path, headers=bearer(OPS)).close()
        client.head(path, headers=bearer(OPS)).close()
        client.options(path, headers=bearer(OPS)).close()
    assert {path: content for path, content in listing(spool.root).items() if "status" not in path} == before


def test_s8_every_answer_has_its_type_and_its_headers(app: Flask, client: FlaskClient, spool: Spool) -> None:
    """Also those that are refused, and those that went wrong."""
    spool.submit(b'{"prompt": "x", "owner": "ann"}', "hers")
    for path in (*routes(app, "GET"), "/none", "/api/none", "/sdapi/none", "/v1/none"):
        for headers in (bearer(OPS), {}, {"Host": "attacker.example"}):
            with client.get(path, headers=headers) as answer:
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
                assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
                assert answer.headers["Referrer-Policy"] == "same-origin"
                # A stream of events ends with its job, and is not waited for.
                if answer.mimetype == "text/event-stream" or answer.data:
                    assert re.fullmatch(
                        r"application/(\S*json|zip)|text/(html|event-stream); charset=utf-8|image/(png|jpeg|webp)"
                        r"|text/plain; .*charset=utf-8.*",
                        answer.headers["Content-Type"],
                    ), path


def test_asvs_4_1_4_other_methods_are_refused(app: Flask, client: FlaskClient) -> None:
    for method in ("TRACE", "CONNECT", "PROPFIND", "PATCH", "PUT", "GETX"):
        for path in ("/", "/api/v1/queue", "/login"):
            assert client.open(path, method=method, headers=bearer(OPS)).status_code == 405
    # A method in a header or a field is none.
    told = client.post(
        "/api/v1/jobs/none", headers=bearer(OPS) | {"X-HTTP-Method-Override": "DELETE"}, data={"_method": "DELETE"}
    )
    assert told.status_code in (405, 415)


def test_s7_asvs_1_3_6_no_address_in_a_job_is_fetched(client: FlaskClient, spool: Spool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as heard:
        address = f"http://127.0.0.1:{heard.getsockname()[1]}/a.png"
        for field in ("image", "mask", "model", "vae", "prompt", "owner", "webhook", "url"):
            client.post("/api/v1/jobs", json=PROMPT | {field: address}, headers=bearer(OPS))
        client.get("/login", query_string={"next": address})
        heard.settimeout(0.5)
        with pytest.raises(TimeoutError):
            heard.accept()


def test_s4_no_secret_is_ever_told(app: Flask, client: FlaskClient, spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    """Not in an answer, a job, a log line or an address."""
    caplog.set_level("DEBUG")
    spool.submit(b'{"prompt": "x", "owner": "ann"}', "hers")
    told = []
    for path in routes(app, "GET"):
        with client.get(path, headers=bearer(OPS)) as answer:
            told.append(answer.get_data(as_text=True) + str(answer.headers))
    client.post("/api/v1/jobs", json=PROMPT, headers=bearer(ANN))
    for secret in (OPS, OPS + "wrong"):
        answer = log_in(client, "ops", secret)
        told.append(answer.get_data(as_text=True) + str(answer.headers))
    told += [repr(app.config), caplog.text, str(listing(spool.root))]
    assert not any(secret in text for text in told for secret in (ANN, BOB, OPS))
    address = f"/api/v1/jobs?key={OPS}&token={OPS}&access_token={OPS}"
    assert app.test_client().get(address).status_code == 401, "none is taken from an address"


def test_s11_there_is_no_debugger(app: Flask, client: FlaskClient) -> None:
    assert not app.debug and not app.testing
    for path in ("/console", "/?__debugger__=yes&cmd=resource&f=style.css"):
        assert "werkzeug" not in client.get(path, headers=bearer(OPS)).get_data(as_text=True).lower()


def test_asvs_16_5_4_what_goes_wrong_inside_is_told_to_the_log_alone(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    @app.get("/api/v1/broken")
    @app.get("/broken")
    @app.get("/v1/broken")
    @app.get("/sdapi/v1/broken")
    def broken() -> Response:
        raise ZeroDivisionError("inside")

    for path in ("/api/v1/broken", "/broken", "/v1/broken", "/sdapi/v1/broken"):
        answer = app.test_client().get(path, headers=bearer(ANN))
        assert answer.status_code == 500 and "inside" not in answer.get_data(as_text=True)
        assert (answer.mimetype == "application/json") == (path != "/broken")
    assert "inside" in caplog.text


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
    ["Basic", "Basic ", "Bearer", "Bearer ", " ", "Basic !!!", "Basic YW5u", "Digest x", "Bearer a b", "x" * 9000, "é"],
)
def test_a_strange_authorization_is_no_key_and_no_fault(client: FlaskClient, header: str) -> None:
    assert client.get("/api/v1/jobs", headers={"Authorization": header}).status_code == 401


def test_basic_needs_the_name_that_goes_with_the_secret(client: FlaskClient) -> None:
    for given, status in ((basic("ann", ANN), 200), (basic("bob", ANN), 401), (basic("", ANN), 401), (basic("ann", ""), 401)):
        assert client.get("/api/v1/jobs", headers={"Authorization": given}).status_code == status


def test_readyz_tells_strangers_whether_and_why_and_no_more(client: FlaskClient, spool: Spool) -> None:
    with_demo_model(spool)
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


# -- whose it is --------------------------------------------------------------------------------------------------------------


def test_a_job_s_owner_is_who_sent_it(client: FlaskClient, spool: Spool) -> None:
    def owner(secret: str, **job: Any) -> str | int:
        answer = client.post("/api/v1/jobs", json=PROMPT | job, headers=bearer(secret))
        return str(answer.json["job"]["owner"]) if answer.status_code == 201 and answer.json else answer.status_code

    assert owner(ANN) == "ann" and owner(ANN, owner="ann") == "ann"
    assert owner(OPS) == "ops" and owner(OPS, owner="carol") == "carol"
    assert owner(ANN, owner="bob") == 403
    refused = client.post("/api/v1/jobs", json=PROMPT | {"owner": "bob"}, headers=bearer(ANN))
    assert refused.json and "`owner` must be your own name" in refused.json["error"]["message"]
    page = client.post("/", data=PROMPT | {"owner": "bob"}, headers=bearer(ANN))
    assert page.status_code == 403 and len(list(spool.pending.iterdir())) == 4


def test_two_people_s_same_idempotency_keys_are_two_jobs(client: FlaskClient) -> None:
    ids = []
    for secret in (ANN, ANN, BOB):
        answer = client.post("/api/v1/jobs", json=PROMPT, headers=bearer(secret) | {"Idempotency-Key": "1"})
        ids.append(answer.json["id"] if answer.json else "")
    assert ids[0] == ids[1] != ids[2]


#: What changes a job, each as an API call and as the page's form: path, body.
CHANGES = (
    ("DELETE", "/api/v1/jobs/{id}", None),
    ("POST", "/api/v1/jobs/{id}/hold", None),
    ("POST", "/api/v1/jobs/{id}/release", None),
    ("POST", "/api/v1/jobs/{id}/top", None),
    ("POST", "/api/v1/jobs/{id}/star", None),
    ("POST", "/api/v1/jobs/{id}/unstar", None),
    ("POST", "/api/v1/jobs/{id}/retry", None),
    ("POST", "/api/v1/jobs/{id}/priority", {"priority": 5}),
    ("POST", "/jobs/{id}/cancel", None),
    ("POST", "/jobs/{id}/hold", None),
    ("POST", "/jobs/{id}/top", None),
    ("POST", "/jobs/{id}/star", None),
    ("POST", "/jobs/{id}/retry", None),
    ("POST", "/jobs/{id}/priority", None),
)


@pytest.mark.parametrize(("method", "path", "body"), CHANGES, ids=lambda value: str(value))
def test_only_a_job_s_owner_and_operators_change_it(
    client: FlaskClient, spool: Spool, method: str, path: str, body: dict[str, Any] | None
) -> None:
    spool.submit(b'{"prompt": "x", "owner": "ann"}', "hers")
    spool.submit(b'{"prompt": "x"}', "nobody-s")
    spool.submit(b'{"prompt": "x", "owner": "ann"}', "failed")
    finish(spool, "failed", "failed")

    def status(secret: str, job_id: str) -> int:
        return client.open(path.format(id=job_id), method=method, json=body, headers=bearer(secret)).status_code

    for job_id in ("hers", "failed", "nobody-s"):
        before = sorted(str(each) for each in spool.root.rglob("*"))
        assert status(BOB, job_id) == 403
        assert sorted(str(each) for each in spool.root.rglob("*")) == before
    assert status(ANN, "nobody-s") == 403
    assert status(ANN, "hers") != 403 and status(ANN, "failed") != 403 and status(OPS, "nobody-s") != 403
    assert status(ANN, "none") in (404, 409), "of a job that is not there the view tells"


def test_the_queue_is_the_operators_to_pause(client: FlaskClient, spool: Spool) -> None:
    for path in ("/api/v1/queue/pause", "/api/v1/queue/resume", "/queue/pause"):
        before = spool.paused
        assert client.post(path, headers=bearer(ANN)).status_code == 403 and spool.paused == before
        assert client.post(path, headers=bearer(OPS)).status_code in (200, 303)
    assert spool.paused


def test_everybody_who_is_let_in_sees_everything(client: FlaskClient, spool: Spool) -> None:
    spool.submit(b'{"prompt": "x", "owner": "ann"}', "hers")
    for path in ("/api/v1/jobs/hers", "/jobs/hers", "/queue", "/api/v1/jobs"):
        assert client.get(path, headers=bearer(BOB)).status_code == 200


def test_every_route_that_changes_something_says_who_may(app: Flask) -> None:
    """Declare it below the route, `@needs(Rule.…)` of webui/rules.py; until then only operators may use it."""
    undeclared, wrong = [], []
    for route in app.url_map.iter_rules():
        if not (route.methods or set()) - {"GET", "HEAD", "OPTIONS"} or route.endpoint == "static":
            continue
        rule = rule_of(app.view_functions[route.endpoint])
        if rule is None:
            undeclared.append(f"{route.rule} ({route.endpoint})")
        if rule is Rule.OWNER and "job_id" not in route.arguments:
            wrong.append(f"{route.rule} ({route.endpoint}): Rule.OWNER is for routes with <job_id>; Rule.EACH for others")
        if rule is Rule.ANYONE and route.rule not in ("/login",):
            wrong.append(f"{route.rule} ({route.endpoint}): without a key only the login may change something")
    sentence = "declare @needs(Rule.SUBMIT, LET_IN, OWNER, EACH or OPERATOR) of webui/rules.py for: "
    assert not undeclared, sentence + ", ".join(undeclared)
    assert not wrong, "; ".join(wrong)


def test_a_route_that_was_forgotten_is_shut(app: Flask) -> None:
    @app.post("/api/v1/forgotten")
    def forgotten() -> Response:
        return Response("done")

    client = app.test_client()
    assert client.post("/api/v1/forgotten").status_code == 401
    assert client.post("/api/v1/forgotten", headers=bearer(ANN)).status_code == 403
    assert client.post("/api/v1/forgotten", headers=bearer(OPS)).status_code == 200


def test_no_page_offers_anybody_what_they_may_not_do(tmp_path: Path) -> None:
    """Every form that a page shows to somebody who is no operator is answered with something else than 403."""
    app = make_app(tmp_path, KEYS)
    client, spool = app.test_client(), app.extensions["office"].spool
    (spool.claimed / "me").mkdir()
    pages = ["/", "/queue", "/queue?of=mine", "/gallery", "/failed", "/status", "/login"]
    for owner in ("ann", "bob"):
        for state in ("waiting", "held", "running", "done", "failed", "cancelled"):
            job_id = f"{owner}-{state}"
            spool.submit(json.dumps({**PROMPT, "owner": owner}).encode(), job_id)
            if state == "held":
                spool.hold(job_id)
            elif state == "cancelled":
                spool.cancel(job_id)
            elif state == "running":
                assert spool.claim(f"{job_id}.json", "me")
            elif state != "waiting":
                finish(spool, job_id, state)
            pages.append(f"/jobs/{job_id}")
        batch = client.post("/api/v1/batches", json=[PROMPT, PROMPT], headers=bearer(ANN if owner == "ann" else BOB)).json
        assert batch
        spool.cancel(batch["jobs"][0])
        pages += [f"/batches/{batch['id']}", f"/jobs/{batch['jobs'][1]}/edit"]
    pages += ["/compare?a=ann-done/0&b=bob-done/0"]
    log_in(client, "bob", BOB)
    shown = {page: client.get(page) for page in pages}
    assert {answer.status_code for page, answer in shown.items() if not page.endswith("/edit") and page != "/login"} == {200}
    forms: dict[str, str] = {}
    for page, answer in shown.items():
        for form in re.findall(r"<form\b[^>]*>.*?</form>", answer.text, re.DOTALL):
            found = re.search(r'method="post".* action="([^"]*)"', form)
            if found and "/login" not in found[1] and "/logout" not in found[1]:
                forms.setdefault(html.unescape(found[1]), page)
    assert any("bob-waiting/cancel" in action for action in forms) and len(forms) > 20
    assert not [action for action in forms if "/ann-" in action]
    for action, page in forms.items():
        answer = client.post(action, headers={"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"})
        assert answer.status_code != 403, (page, action, answer.text)
    assert all(spool.find(f"ann-{state}").state == state for state in ("done", "failed", "cancelled"))


# -- how much ------------------------------------------------------------------------------------------------------------------


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


# -- bodies --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text/plain", "TEXT/PLAIN; charset=utf-8", "application/x-www-form-urlencoded"])
def test_s3_what_a_page_may_send_anywhere_is_no_json(client: FlaskClient, spool: Spool, kind: str) -> None:
    spool.submit(b'{"prompt": "x", "owner": "ann"}', "hers")
    raw = json.dumps({"priority": 3})
    for path in ("/api/v1/jobs", "/api/v1/jobs/hers/priority"):
        answer = client.post(path, data=raw, content_type=kind, headers=bearer(ANN))
        assert answer.status_code == 415
    nothing = client.post("/api/v1/jobs/hers/hold", content_type=kind, headers=bearer(ANN))
    assert nothing.status_code == 200, "no body, no kind that could be wrong"


def test_the_table_in_the_docs_names_tests_that_there_are() -> None:
    table = (ROOT / "docs" / "security.md").read_text().partition("## What holds it")[2]
    file, named = "", 0
    for given, name in re.findall(r"`(test_[a-z]+\.py)?(?:::)?(test_\w+)?`", table):
        file = given or file
        assert (ROOT / "tests" / file).is_file()
        assert not name or f"def {name}(" in (ROOT / "tests" / file).read_text(), name
        named += bool(name)
    assert named > 20
