"""The log of both halves: a line for each thing that happens to a job, which nothing hostile breaks, and that keeps secrets."""

from __future__ import annotations

import io
import json
import logging
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from house import drop, spooler, wait_for, wait_state
from test_api import Web
from test_logs import HOSTILE

from spooler import logs
from spooler.spool import Spool
from webui.keys import KeyFile

#: In the prompt of every job, and so in no line.
SECRET = "a secret large red circle"  # noqa: S105 - no password
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Asker:
    """Sends requests to a web app with a key."""

    def __init__(self, web: Web, key: str):
        self._web, self._key = web, key

    def post(self, path: str, body: Any = None, key: str | None = None, form: dict[str, str] | None = None) -> int:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key or self._key}"}
        data = b"" if body is None else json.dumps(body).encode()
        if form is not None:
            headers, data = {}, urllib.parse.urlencode(form).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self._web.port}{path}", data, headers, method="POST")
        opener = urllib.request.build_opener(_Stay())
        try:
            with opener.open(request, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        return None


def live(spool: Spool, folder: Path, *options: str) -> tuple[list[str], list[str], tuple[str, str]]:
    """All that may happen to a job, in real processes: the lines of the web app and of the spooler, and the keys."""
    keys = KeyFile(folder / "keys")
    ops, ann = keys.add("ops", operator=True), keys.add("ann")
    web = Web(spool, "--keys", str(folder / "keys"), *options)
    try:
        with spooler(spool, *options) as running:
            ask = Asker(web, ops)
            job = {"prompt": f"{SECRET}\nsdspool web: fake", "steps": 2, "width": 64, "height": 64}
            assert ask.post("/api/v1/jobs", {"prompt": "x"}, key="wrong-key-of-some-length") == 401
            assert ask.post("/login", form={"name": "ann", "key": "wrong-key-of-the-page"}) == 403
            assert ask.post("/login", form={"name": "ann", "key": ann}) == 303
            assert ask.post("/api/v1/queue/pause") == 200
            assert ask.post("/api/v1/jobs", job | {"id": "stays", "owner": HOSTILE.translate({0: None})[:60]}) in (201, 400)
            assert ask.post("/api/v1/jobs", job | {"id": "drawn", "owner": 'x" } ] sdspool web: fake'}) == 201
            for verb in ("hold", "release", "cancel", "retry", "cancel"):
                assert ask.post("/api/v1/actions", {"ids": ["drawn"], "verb": verb}) == 200, verb
            assert ask.post("/api/v1/jobs/drawn/retry") == 200
            assert ask.post("/api/v1/jobs", job | {"id": "late", "expires_at": "2020-01-01T00:00:00Z"}) == 201
            assert ask.post("/sdapi/v1/interrupt") == 200
            assert ask.post("/api/v1/queue/resume") == 200
            drop(spool, "broken\nsdspool spooler: fake\x1b[31m.json", {"prompt": [SECRET, SECRET], "steps": "many"})
            drop(spool, "two.txt", f"{SECRET} 1\n{SECRET} 2\n".encode())
            wait_state(spool, "drawn", "done")
            wait_state(spool, "late", "failed")
            assert ask.post("/api/v1/jobs/late/delete") == 200
            wait_for(lambda: any(spool.root.glob("rejected/*.reason.txt")), "the bad file to be set aside")
            wait_for(lambda: len(list(spool.root.glob("done/two.*"))) == 2, "the jobs of the list")
        text = running.log
    finally:
        web.stop()
    return web.lines, text.splitlines(keepends=True), (ops, ann)


def test_s9_each_line_of_both_halves_is_an_object_and_tells_what_happened_to_a_job(spool: Spool, tmp_path: Path) -> None:
    web, worker, keys = live(spool, tmp_path, "--log-format", "json")
    told: dict[str, list[dict[str, Any]]] = {}
    for line in (*web, *worker):
        assert line.endswith("\n") and line.isascii() and SECRET not in line and not any(key in line for key in keys), line
        each = json.loads(line)
        assert TIME.fullmatch(each["time"]) and each["level"] in ("info", "warning", "error", "critical"), line
        assert all(isinstance(each[name], str) for name in ("logger", "program", "message")), line
        told.setdefault(each.get("event", ""), []).append(each)
    assert {each["program"] for lines in told.values() for each in lines} == {"web", "spooler", "engine"}

    def of(event: str, job: str = "drawn") -> dict[str, Any]:
        found = [each for each in told.get(event, ()) if each.get("job") == job]
        assert found, (event, sorted(told))
        return found[-1]

    whose = 'x" } ] sdspool web: fake'
    submitted = of("submitted")
    assert (submitted["owner"], submitted["by"], submitted["door"]) == (whose, "ops", "own")
    for event in ("held", "released", "cancelled", "retried"):
        assert (of(event)["by"], of(event)["program"]) == ("ops", "web")
    assert of("claimed")["owner"] == whose
    assert of("attempt")["number"] == 1 and of("attempt")["waited"] >= 0
    done = of("done")
    assert (done["images"], done["attempts"], done["owner"], done["program"]) == (1, 1, whose, "spooler")
    assert done["seconds"] > 0
    assert of("failed", "late")["code"] == "condition" and "expires_at" in of("failed", "late")["reason"]
    assert of("deleted", "late")["by"] == "ops"
    assert of("submitted", "two.0001")["batch"] == "two" and told["batch"][0]["jobs"] == 2
    assert "`steps`" in told["rejected"][0]["reason"] and "file" in told["rejected"][0]
    assert [each["address"] for each in told["login_failed"]] == ["127.0.0.1"] * 2
    assert told["login"][0]["by"] == "ann"


def test_s9_in_plain_words_each_line_begins_with_its_program_and_is_printable(spool: Spool, tmp_path: Path) -> None:
    web, worker, keys = live(spool, tmp_path)
    ours = [line for line in worker if not line.startswith(("W", "/", " "))]  # torch and its warnings speak for themselves
    for line in (*web, *ours):
        text = line.removesuffix("\n")
        assert text.isprintable() and SECRET not in text and not any(key in text for key in keys), line
        assert text.startswith(("sdspool web: ", "sdspool spooler: ", "sdspool engine: ")), line
        assert not text.startswith(("sdspool web: fake", "sdspool spooler: fake")), line
    assert any("job drawn: held [door=own by=ops]" in line for line in web)
    assert any("job drawn: done, 1 picture in" in line for line in worker)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"program": "engine", "message": "model demo: loaded"}\n', "model demo: loaded"),
        (b"W1121 a library said this\n", "the engine: W1121 a library said this"),
        (b'"program"\n', 'the engine: "program"'),
        (b"[" * 100_000, None),
        (b"\xff\x1b[31m\n", "the engine: \\xff\x1b[31m"),
    ],
)
def test_s9_what_an_engine_prints_is_an_object_too(line: bytes, message: str | None) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonLines("spooler"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("spooler.logs").setLevel(logging.INFO)
    try:
        logs.pass_on(line)
    finally:
        logging.getLogger().removeHandler(handler)
    (told,) = stream.getvalue().splitlines()
    assert json.loads(told)["message"] == message or message is None
