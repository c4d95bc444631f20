"""Whose a job is, and who may change it."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from people import ANN, BOB, KEYS, OPS, PROMPT, app, bearer, log_in, make_app
from test_api import finish

from spooler.spool import Spool
from webui.rules import Rule, rule_of

__all__ = ["app"]


def test_who_edits_a_job_edits_no_other_of_the_same_id(app: Flask, tmp_path: Path) -> None:
    """A dropped file's name may come to an id that another job has, until one of them is claimed."""
    spool, client = Spool(tmp_path / "spool"), app.test_client()
    (spool.pending / "my cat.json").write_text(json.dumps({"prompt": "hers", "owner": "ann"}))
    assert client.post("/api/v1/jobs", json={"prompt": "his", "id": "my-cat"}, headers=bearer(BOB)).status_code == 201
    assert client.patch("/api/v1/jobs/my-cat", json={"prompt": "new"}, headers=bearer(BOB)).status_code == 200
    log_in(client, "bob", BOB)
    form = {"prompt": "newer", "count": "1"}
    assert client.post("/jobs/my-cat/edit", data=form, headers={"Origin": "http://localhost"}).status_code == 303
    assert {spool.read_job(place).prompt for place in spool.walk("pending")} == {"hers", "newer"}


def test_no_style_is_saved_over_another_s_whatever_its_name(app: Flask, tmp_path: Path) -> None:
    client = app.test_client()
    assert client.put("/api/v1/styles/my%20style", json={"prompt": "ink"}, headers=bearer(ANN)).status_code == 200
    (file,) = (tmp_path / "spool" / "styles").glob("*.json")
    taken = client.put(f"/api/v1/styles/{file.stem}", json={"prompt": "mine"}, headers=bearer(BOB))
    assert taken.status_code == 409 and '"my style"' in taken.json["error"]["message"]  # type: ignore[index]
    (style,) = client.get("/api/v1/styles", headers=bearer(BOB)).json["styles"]  # type: ignore[index]
    assert (style["name"], style["owner"]) == ("my style", "ann")


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
