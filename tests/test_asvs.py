"""What OWASP's ASVS and the threat model ask of every route besides; the table in docs/security.md names the tests."""

from __future__ import annotations

import re
import socket

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from house import ROOT, listing
from people import ANN, BOB, OPS, PROMPT, app, bearer, log_in

from spooler.spool import Spool

__all__ = ["app"]


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


def test_the_table_in_the_docs_names_tests_that_there_are() -> None:
    table = (ROOT / "docs" / "security.md").read_text().partition("## What holds it")[2]
    file, named = "", 0
    for given, name in re.findall(r"`(test_[a-z_]+\.py)?(?:::)?(test_\w+)?`", table):
        file = given or file
        assert (ROOT / "tests" / file).is_file()
        assert not name or f"def {name}(" in (ROOT / "tests" / file).read_text(), name
        named += bool(name)
    assert named > 20
