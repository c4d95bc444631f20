"""Who is let in, and from where: every combination of what a request may say of itself, through the real guard.

The rules that the oracles below were written from are S1 to S5 and S12 of the threat model in docs/security.md.
"""

from __future__ import annotations

import http.client
import itertools
import json
import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from people import ANN, KEYS, OPS, PROMPT, app, basic, bearer, log_in, make_app
from test_api import Web

from spooler.spool import Spool
from webui.origins import Hosts, from_here
from webui.pace import Pace

__all__ = ["app"]

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


@pytest.mark.parametrize("path", ["/", "/api/v1/jobs", "/api/v1/tokens", "/v1/images/edits", "/queue/bulk", "/login"])
@pytest.mark.parametrize("part", ['name="x\\"', 'name="x\\"; filename="a.png"'])
def test_s7_a_part_of_a_form_without_a_name_is_a_mistake_of_the_client(client: FlaskClient, path: str, part: str) -> None:
    """Its quotation mark is escaped, so the name has no end."""
    body = f"--b\r\nContent-Disposition: form-data; {part}\r\n\r\n1\r\n--b\r\n"
    body += 'Content-Disposition: form-data; name="prompt"\r\n\r\nx\r\n--b--\r\n'
    headers = bearer(OPS) | {"Content-Type": "multipart/form-data; boundary=b", "Origin": "http://localhost"}
    assert client.post(path, data=body, headers=headers).status_code < 500
