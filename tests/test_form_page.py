"""What is on the form before anything is typed: defaults, styles, tokens, and how heavy the page is."""

from __future__ import annotations

import gzip
import re

import pytest
from flask.testing import FlaskClient
from formpage import Fields, spool, submitted

from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import create_app

__all__ = ["spool"]

LIGHT_BYTES = 100_000


# -- defaults of the model's family ----------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_chosen_model_without_a_script(client: FlaskClient) -> None:
    page = client.get("/?model=big").get_data(as_text=True)
    for name, value in (("width", "1024"), ("height", "768"), ("steps", "30"), ("guidance_scale", "5.5")):
        assert re.search(rf'name="{name}"[^>]*placeholder="{value}"', page), name
    assert 'data-width="888" data-height="888"' in page, "its own area as a square, in steps of 8 pixels"
    assert 'placeholder="20"' in client.get("/").get_data(as_text=True)


# -- styles ----------------------------------------------------------------------------------------------------------------


def test_styles_are_kept_in_the_spool_and_laid_over_prompts(client: FlaskClient, spool: Spool) -> None:
    save = {"prompt": "oil painting of {prompt}", "negative_prompt": "photo"}
    assert client.put("/api/v1/styles/Öl", json=save).status_code == 200
    assert client.put("/api/v1/styles/bright", json={"prompt": "bright"}).status_code == 200
    again = create_app(Settings(spool=spool.root, cache=spool.root.parent / "other")).test_client()
    assert [style["name"] for style in again.get("/api/v1/styles").json["styles"]] == ["bright", "Öl"]
    answer = again.post("/", data={"form": "1", "prompt": "a ring,", "negative_prompt": "blur", "style": ["bright", "Öl"]})
    job, _ = submitted(spool, answer)
    assert job.prompt == "oil painting of a ring, bright" and job.negative_prompt == "blur, photo"
    assert client.delete("/api/v1/styles/bright").status_code == 204
    assert client.delete("/api/v1/styles/bright").status_code == 404


def test_styles_without_a_script(client: FlaskClient, spool: Spool) -> None:
    form = {"form": "1", "prompt": "ink on paper", "owner": "ann", "do": "save-style", "style-name": "ink"}
    page = client.post("/", data=form).get_data(as_text=True)
    assert 'name="style" value="ink"' in page and Fields(page).values["owner"] == "ann"
    assert not list(spool.pending.glob("*.json"))
    wrong = client.post("/", data=form | {"style-name": " "})
    assert wrong.status_code == 422 and "`name`" in wrong.get_data(as_text=True)
    page = client.post("/", data={"form": "1", "prompt": "x", "do": "remove-style", "style": "ink"}).get_data(as_text=True)
    assert 'name="style"' not in page


@pytest.mark.parametrize("name", ["../../x", "a/b", "\x00", "x" * 200, ".", "con.json", "{{7*7}}", "<script>alert(1)"])
def test_a_style_s_name_is_no_path(client: FlaskClient, spool: Spool, name: str) -> None:
    page = client.post("/", data={"prompt": "x", "do": "save-style", "style-name": name}).get_data(as_text=True)
    assert "<script>alert" not in page and 'value="49"' not in page
    kept = list((spool.root / "styles").glob("*")) if (spool.root / "styles").exists() else []
    assert all(each.suffix == ".json" and each.parent == spool.root / "styles" for each in kept)
    assert len(kept) == (name not in ("\x00", "x" * 200))


def test_a_file_that_is_no_style_is_not_shown(client: FlaskClient, spool: Spool) -> None:
    (spool.root / "styles").mkdir()
    for number, raw in enumerate((b"{", b"[]", b'{"name": 3}', b'{"name": "ok", "prompt": "x"}', b"\xff")):
        (spool.root / "styles" / f"{number}.json").write_bytes(raw)
    (spool.root / "styles" / "link.json").symlink_to("/etc/passwd")
    assert [style["name"] for style in client.get("/api/v1/styles").json["styles"]] == ["ok"]


# -- tokens ----------------------------------------------------------------------------------------------------------------


def test_tokens_are_counted_by_the_model_s_vocabulary(client: FlaskClient) -> None:
    count = {"prompt": "a large red circle on a blue background", "negative_prompt": "ugly " * 80}
    told = client.post("/api/v1/tokens", json=count | {"model": "big"}).json
    assert told == {"prompt": {"tokens": 8, "room": 75}, "negative_prompt": {"tokens": 80, "room": 150}}
    assert client.post("/api/v1/tokens", json=count).json["negative_prompt"]["tokens"] > 80, "the demo model spells it"
    assert client.post("/api/v1/tokens", json={"model": "flux"}).json == {"prompt": None, "negative_prompt": None}
    assert client.post("/api/v1/tokens", json={"prompt": "<lora:"}).json["prompt"] is None
    assert client.post("/api/v1/tokens", json={"prompt": 3}).status_code == 400
    assert "8/75" in client.get("/?prompt=a+large+red+circle+on+a+blue+background").get_data(as_text=True)


# -- the page --------------------------------------------------------------------------------------------------------------


def test_the_first_load_is_light(client: FlaskClient) -> None:
    """HTML, styles and scripts of the form, whatever they import, as they go over the line to a browser."""
    todo, seen_paths, weight = ["/"], set(), 0
    while todo:
        path = todo.pop()
        if path in seen_paths:
            continue
        seen_paths.add(path)
        with client.get(path, headers={"Accept-Encoding": "gzip, br"}) as answer:
            assert answer.status_code == 200, path
            packed = answer.headers.get("Content-Encoding") == "gzip"
            text = (gzip.decompress(answer.data) if packed else answer.data).decode()
            weight += len(answer.data)
        todo += re.findall(r'<(?:script src|link rel="(?:stylesheet|icon)" href)="([^"]+)"', text)
        todo += [f"/static/{name}" for name in re.findall(r"^import .*?'\./([\w-]+\.js)';", text, re.MULTILINE)]
    assert len(seen_paths) > 5 and weight < LIGHT_BYTES, f"{weight} bytes"


def test_a_static_text_is_packed_once_and_still_not_sent_twice(client: FlaskClient) -> None:
    with client.get("/static/form.css", headers={"Accept-Encoding": "gzip"}) as first, client.get("/static/form.css") as plain:
        assert gzip.decompress(first.data) == plain.data and first.headers["Vary"] == "Accept-Encoding"
        assert plain.headers.get("Content-Encoding") is None
        etag = first.headers["ETag"]
    headers = {"Accept-Encoding": "gzip", "If-None-Match": etag}
    with client.get("/static/form.css", headers=headers) as again:
        assert again.status_code == 304 and not again.data


def test_the_form_has_no_script_of_its_own_in_the_page(client: FlaskClient) -> None:
    assert not re.search(r"<script(?! src)|style=|onclick=", client.get("/?prompt=x&kind=inpaint").get_data(as_text=True))


def test_every_field_has_a_label(client: FlaskClient) -> None:
    page = client.get("/?controls.0.model=canny&refiner.model=big").get_data(as_text=True)
    ids = re.findall(r'<(?:input|select|textarea) id="([^"]+)"', page)
    assert len(ids) > 30 and len(set(ids)) == len(ids)
    assert [each for each in ids if f'for="{each}"' not in page] == []
