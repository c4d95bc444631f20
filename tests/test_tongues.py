"""The pages' other languages: every text has its translation, and a page in German says none of them in English."""

from __future__ import annotations

import html
import importlib.util
import re
from types import ModuleType

import pytest
from flask import Flask
from flask.testing import FlaskClient
from house import ROOT
from test_pages import finish, spool, text

from spooler import gate, png, strict_json
from spooler.mistakes import JobError
from spooler.pending import Pending
from spooler.schedule import Waiting
from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import create_app
from webui.sentences import said, title_of
from webui.tongues import TONGUES

__all__ = ["spool"]


@pytest.fixture(scope="module")
def translate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("translate", ROOT / "tools" / "translate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_text_has_a_translation_in_every_language(translate: ModuleType) -> None:
    template = translate.gathered()
    assert len(template) > 200, "the texts were found"
    paths = list(translate.languages())
    assert {path.parent.parent.name for path in paths} == set(TONGUES) - {"en"}
    for path in paths:
        assert translate.missing(template, translate.read(path)) == [], "run tools/translate.py, then fill them in"


def test_catalogues_are_compiled_and_say_nothing_that_nobody_asks(translate: ModuleType) -> None:
    template = translate.gathered()
    for path in translate.languages():
        catalog = translate.read(path)
        assert path.with_suffix(".mo").read_bytes() == translate.compiled(catalog), "run tools/translate.py"
        assert [message.id for message in catalog if message.id and message.id not in template] == []


def test_placeholders_are_the_same_in_every_language(translate: ModuleType) -> None:
    for path in translate.languages():
        for message in translate.read(path):
            ids = message.id if isinstance(message.id, tuple) else (message.id,)
            strings = message.string if isinstance(message.string, tuple) else (message.string,)
            wanted = {frozenset(re.findall(r"%\(\w+\)s|%%", each)) for each in ids}
            assert {frozenset(re.findall(r"%\(\w+\)s|%%", each)) for each in strings} <= wanted or not message.id, message.id


def test_a_german_page_has_no_english_in_what_is_translated(
    app: Flask, client: FlaskClient, spool: Spool, translate: ModuleType
) -> None:
    spool.submit(b'{"prompt": "katze"}', "katze")
    finish(spool, "katze")
    spool.submit(b'{"prompt": "hund"}', "hund")
    (catalog,) = [translate.read(path) for path in translate.languages() if path.parent.parent.name == "de"]
    ours = {
        name: message.string[0] if isinstance(message.string, tuple) else message.string
        for message in catalog
        if message.id
        for name in [message.id[0] if isinstance(message.id, tuple) else message.id]
    }
    same = {german for english, german in ours.items() if english == german}
    english = {
        each for each in ours if each not in same and ours[each] not in ours and "%(" not in each and each not in ours.values()
    }
    client.set_cookie("tongue", "de")
    for path in (
        "/queue",
        "/gallery",
        "/failed",
        "/status",
        "/jobs/katze",
        "/jobs/hund",
        "/jobs/hund/edit",
        "/compare?a=katze/0&b=katze/0",
    ):
        page = text(client, path)
        assert '<html lang="de"' in page, path
        body = re.sub(r"<pre.*?</pre>", "", page, flags=re.DOTALL)
        said = {html.unescape(each).strip() for each in re.findall(r">([^<>]+)<", body)}
        said |= {html.unescape(each) for each in re.findall(r'(?:aria-label|title|placeholder|alt)="([^"]*)"', body)}
        assert not said & english, path


def test_a_browser_that_asks_for_german_gets_it_and_the_choice_goes_before(client: FlaskClient, spool: Spool) -> None:
    head = {"Accept-Language": "de-AT,de;q=0.9,en;q=0.5"}
    assert "Galerie" in client.get("/gallery", headers=head).get_data(as_text=True)
    client.post("/tongue", data={"tongue": "en", "back": "/gallery"})
    assert "Galerie" not in client.get("/gallery", headers=head).get_data(as_text=True)
    client.post("/tongue", data={"tongue": "xx"})
    assert "Galerie" in client.get("/gallery", headers=head).get_data(as_text=True)


def test_sentences_that_are_said_often_are_translated_and_the_others_are_marked_as_english(app: Flask) -> None:
    with app.test_request_context(headers={"Accept-Language": "de"}):
        assert str(said('`steps` must be a whole number, but is "many".')).startswith("`steps` muss eine ganze Zahl sein")
        near = '`model` must be one of <b>, ink (did you mean demo?), but is "dmo".'
        assert "meintest du demo?" in str(said(near)) and "&lt;b&gt;" in str(said(near))
        assert str(said("Something <new> failed.")) == '<span lang="en">Something &lt;new&gt; failed.</span>'
        assert said("`" * 100_000) and title_of("out_of_memory") == "Zu wenig Speicher" and title_of("brand_new") == "brand new"
    with app.test_request_context(headers={"Accept-Language": "en"}):
        assert (
            str(said("Something <new> failed.")) == "Something &lt;new&gt; failed." and title_of("lost") == "Its folder is gone"
        )


def test_the_sentences_of_a_page_are_those_that_are_said(app: Flask) -> None:
    """What is really answered and told is found among those that are known, so that neither changes alone."""
    german = {"Accept-Language": "de"}
    client = app.test_client()
    for typed, words in (
        ({"prompt": ""}, "Schreibe erst einen"),
        ({"prompt": "x", "steps": "many"}, "muss eine ganze Zahl sein"),
        ({"prompt": "x", "steps": "999"}, "darf höchstens 150 sein"),
        ({"prompt": "x", "steps": "0"}, "muss mindestens 1 sein"),
        ({"prompt": "x", "width": "100"}, "muss ein Vielfaches von 8 sein"),
        ({"prompt": "x" * 10_001}, "darf höchstens 10000 Zeichen haben"),
        ({"prompt": "x", "sampler": "Eulr"}, "meintest du Euler?"),
        ({"prompt": "x", "kind": "img2img"}, "Wähle ein Bild"),
    ):
        assert words in client.post("/", data=typed, headers=german).text, typed
        told = client.post("/", data=typed, headers={**german, "Accept": "application/json"}).json
        assert told and words in str(told["error"]["fields"])
    client.post("/api/v1/jobs", json={"prompt": "x", "id": "later", "after": ["none"]})
    client.post("/api/v1/jobs", json={"prompt": "x", "id": "next", "after": ["later"]})
    queue = client.get("/queue", headers=german).text
    assert "Es läuft kein Spooler" in queue
    assert "diesen Auftrag gibt es noch nicht" in queue and "bis &#39;later&#39; fertig ist" in queue
    client.delete("/api/v1/jobs/later")
    assert "Abgebrochen, während er wartete." in client.get("/jobs/later", headers=german).text


@pytest.mark.parametrize(
    "text",
    ['{"a":', "{a", '{"a" 1}', '{"a": 1 "b"}', "{} x", '{"abc', '{"a": "\n"}', '{"a": "\\q"}', '{"a": "\\u12"}', '{"a": 1,}'],
)
def test_what_json_finds_wrong_is_told_in_the_reader_s_language(app: Flask, text: str) -> None:
    with pytest.raises(JobError) as caught:
        strict_json.parse_object(text.encode())
    with app.test_request_context(headers={"Accept-Language": "de"}):
        told = str(said(str(caught.value)))
    why = told.partition(", Spalte ")[2]
    assert why and not re.search("Expecting|Extra|Unterminated|Invalid|Illegal", told), told


def test_a_full_queue_is_told_in_the_reader_s_language(spool: Spool) -> None:
    german = {"Accept-Language": "de"}
    spool.submit(b'{"prompt": "x", "owner": "ann"}', "one")
    for options, words in (
        ({"max_waiting": 1}, "Höchstens 1 Aufträge dürfen warten"),
        ({"owner_waiting": 1}, "Aufträge eines Besitzers"),
        ({"floor_mib": 1e9}, "MiB frei sein"),
    ):
        settings = Settings(spool=spool.root, cache=spool.root.parent / "cache", **options)  # type: ignore[arg-type]
        told = create_app(settings).test_client().post("/", data={"prompt": "x", "owner": "ann"}, headers=german)
        assert words in told.text, told.status_code


def test_why_a_job_could_not_run_or_a_file_was_set_aside_is_told_in_the_reader_s_language(app: Flask, spool: Spool) -> None:
    """What gate.py, pending.py and png.py say is found among the sentences that are known."""
    waiting = Waiting(name="b.json", is_folder=False, arrival=1, after=("a",))
    reasons = [gate.judge(waiting, 0, lambda name, state=state: state).why for state in ("failed", "cancelled")]
    (spool.pending / "folder").mkdir()
    index = Pending(spool)
    index.refresh(0)
    reasons += [each.reason for each in index.suspects]
    with pytest.raises(JobError) as caught:
        png.read_text(b"PK00 no PNG", "parameters")
    reasons += [str(each) for each in caught.value.mistakes]
    assert len(reasons) == 4
    with app.test_request_context(headers={"Accept-Language": "de"}):
        assert [reason for reason in reasons if 'lang="en"' in str(said(reason))] == []
