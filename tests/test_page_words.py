"""What the pages say: one truth in one place, in the words that stand on the page, and in the page's language."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from people import ANN, KEYS, OPS, basic, make_app
from test_pages import finish, spool, text

from spooler.batch_file import read_rows
from spooler.job import decode
from spooler.life import Life
from spooler.mistakes import JobError
from spooler.record import utc_now
from spooler.spool import Spool
from spooler.status import SpoolerStatus
from webui.labels import LABELS

__all__ = ["spool"]

GERMAN = {"Accept-Language": "de"}
PAUSED = "The queue is paused: what runs is finished, nothing new is begun."


def owner(page: str) -> str:
    return re.findall(r"<dt>Owner</dt><dd>([^<]*)</dd>", page)[0]


def words(page: str) -> str:
    """A page's text with single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


# -- whose a job is --------------------------------------------------------------------------------------------------------


def test_a_job_that_names_nobody_is_nobody_s_on_its_page_too(client: FlaskClient, spool: Spool) -> None:
    for name, fields in (("mine", {"owner": "ann"}), ("stray", {})):
        spool.submit(json.dumps({"prompt": "a cat", **fields}).encode(), name)
    finish(spool, "stray")
    place = spool.find("stray")
    assert place
    record = json.loads((place.path / "record.json").read_bytes())
    record["parameters"]["owner"] = "root"  # as the spooler notes whose turn it took
    (place.path / "record.json").write_text(json.dumps(record))
    assert owner(text(client, "/jobs/mine")) == "ann" and owner(text(client, "/jobs/stray")) == "nobody"


def test_jobs_sent_together_have_the_owner_that_one_sent_alone_has(client: FlaskClient, spool: Spool) -> None:
    batch = client.post("/api/v1/batches", json=[{"prompt": "a cat"}, {"prompt": "a dog", "owner": "ann"}]).json
    assert batch and batch["owner"] == ""
    assert [client.get(f"/api/v1/jobs/{each}").json["job"]["owner"] for each in batch["jobs"]] == ["", "ann"]  # type: ignore[index]
    assert "<span>nobody" in text(client, f"/batches/{batch['id']}")


def test_who_may_not_is_told_the_same(tmp_path: Path) -> None:
    client, spool = make_app(tmp_path, KEYS).test_client(), Spool(tmp_path / "spool")
    for name, fields in (("ops", {"owner": "ops"}), ("stray", {})):
        spool.submit(json.dumps({"prompt": "a cat", **fields}).encode(), name)
    head = {"Authorization": basic("ann", ANN)}
    for name, sentence in (("stray", "Nobody owns it: only an operator"), ("ops", "It is the job of &#34;ops&#34;: only its")):
        answer = client.post(f"/jobs/{name}/cancel", headers=head)
        assert answer.status_code == 403 and sentence in answer.text
        german = client.post(f"/jobs/{name}/cancel", headers=head | GERMAN).text
        assert "ein Betreiber" in german and "operator" not in german
    assert owner(client.get("/jobs/stray", headers=head).text) == "nobody"


# -- a pause ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Spool]:
    """A spool with keys in which a spooler lives, and is ready."""
    make_app(tmp_path, KEYS)
    made = Spool(tmp_path / "spool")
    held = Life.begin(made, "me")
    tell(made)
    yield made
    held.end()


def tell(spool: Spool, **told: Any) -> None:
    now = utc_now()
    spool.write_status(SpoolerStatus(spooler="me", host="h", started=now, beat=now, **{"state": "ready", **told}))


@pytest.mark.parametrize("noticed", [False, True], ids=["just now", "noticed by the spooler"])
def test_a_pause_is_told_once_and_with_what_who_reads_it_may_do(tmp_path: Path, life: Spool, noticed: bool) -> None:
    client = make_app(tmp_path, KEYS).test_client()
    (life.root / "PAUSE").touch()
    tell(life, paused=noticed)
    for path in ("/", "/queue", "/gallery", "/failed", "/status"):
        for name, secret in (("ann", ANN), ("ops", OPS)):
            page = client.get(path, headers={"Authorization": basic(name, secret)}).text
            said = words(page)
            assert said.count(PAUSED) == 1 and "Paused:" not in said and "Nothing runs while" not in said, path
            assert ("An operator can let it go on." in said) == (name == "ann")
            assert ("Resume" in said) == (name == "ops"), (path, name)
    tell(life, paused=noticed, state="failing", reason="no weights.")
    said = words(client.get("/queue", headers={"Authorization": basic("ops", OPS)}).text)
    assert "cannot start: no weights." in said and said.count("Paused: what runs is finished") == 1, "both, for both are so"


# -- the form ------------------------------------------------------------------------------------------------------------


def test_the_labels_of_the_sentences_are_those_of_the_form(client: FlaskClient, spool: Spool) -> None:
    page = client.get("/?controls.0.model=canny&refiner.model=big&loras.0.name=ink&kind=inpaint").text
    shown = {name: words(label) for name, label in re.findall(r'<label for="([^"]+)">(.*?)</label>', page, re.DOTALL)}
    first = {name: re.sub(r"^(loras|controls)\.", r"\1.0.", name) for name in LABELS}  # in its list's first row
    fields = {name: label for name, label in LABELS.items() if first[name] in shown and name != "sweep"}
    assert len(fields) > 40
    assert [name for name, label in fields.items() if not shown[first[name]].startswith(label)] == []
    parts = set(LABELS) - set(fields)
    assert parts == {"style", "loras", "hires", "refiner", "controls", "upscale", "sweep"}
    assert all(f"<b>{LABELS[each]}</b>" in page or f"<summary>{LABELS[each]}" in page for each in parts)


def test_a_page_names_the_label_and_the_api_the_field(client: FlaskClient, spool: Spool) -> None:
    wrong = {"prompt": "x", "steps": "many", "not_before": "soon", "hires.scale": "<9>", "hires.on": "on"}
    page = words(client.post("/", data=wrong).text)
    assert '“Steps” must be a whole number, but is "many".' in page and "“Not before” must be a time" in page
    assert '“Times as large” must be a number, but is "<9>".' in page and "`steps`" not in page
    told = client.post("/", data=wrong, headers={"Accept": "application/json", **GERMAN}).json
    assert told and told["error"]["fields"]["steps"] == ['„Schritte“ muss eine ganze Zahl sein, ist aber "many".']
    api = client.post("/api/v1/jobs", json={"prompt": "x", "steps": "many"}).json
    assert api and api["error"]["fields"]["steps"] == ['`steps` must be a whole number, but is "many".']
    spool.submit(b'{"prompt": "a cat"}', "cat")
    assert "“Steps” must be" in client.post("/jobs/cat/edit", data={"prompt": "x", "steps": "0"}).text


# -- another language ------------------------------------------------------------------------------------------------------


def test_what_is_not_there_is_told_in_the_page_s_language(client: FlaskClient, spool: Spool) -> None:
    for path, sentence in (
        ("/nowhere", "Hier ist nichts."),
        ("/jobs/nobody", "Diesen Auftrag gibt es nicht"),
        ("/batches/nobody", "gibt es nicht"),
        ("/?from=nobody", "Diesen Auftrag oder dieses Bild gibt es nicht"),
    ):
        answer = client.get(path, headers=GERMAN)
        assert answer.status_code == 404 and sentence in answer.text and '<span lang="en">' not in answer.text, path
    assert "There is no such job: it may" in client.get("/jobs/nobody").text
    told = client.get("/api/v1/jobs/nobody", headers=GERMAN).json
    assert told and told["error"]["message"] == "There is no such job: it may have been removed from the spool.", (
        "programs read English"
    )


FILES = {
    "empty.json": b"",
    "cut.json": b'{"prompt": "a cat"',
    "list.json": b"[]",
    "typing.json": b'{"prompt": "a ring", "stepps": 20, "width": 100, "steps": "many", "colour": 1}',
    "twice.json": b'{"prompt": "a", "prompt": "b"}',
    "both.json": b'{"prompt": "a", "cfg_scale": 2, "guidance_scale": 2}',
    "bytes.json": b'{"prompt": "\xff"}',
    "rows.jsonl": b'{"prompt": "a"}\n{"prompt": "b", "steps": 999}\n[]\n{"prompt": 1}\n{"prom',
    "table.csv": b"prompt,steps\na cat,many\n",
    "none.txt": b"\n\n",
}


@pytest.mark.parametrize("name", FILES)
def test_why_a_dropped_file_was_set_aside_is_told_in_the_page_s_language(client: FlaskClient, spool: Spool, name: str) -> None:
    with pytest.raises(JobError) as raised:
        decode(FILES[name]) if name.endswith(".json") else read_rows(name, FILES[name])
    (spool.pending / name).write_bytes(FILES[name])
    spool.reject(spool.pending / name, "\n".join(str(each) for each in raised.value.mistakes))
    page = client.get("/failed", headers=GERMAN).text
    english = re.findall(r'<span lang="en">(.*?)</span>', page, re.DOTALL)
    assert english == [], english
    assert "`steps`" in page or name != "typing.json", "the file's own names stay"
