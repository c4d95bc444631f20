"""Calls of A1111's API whose job ends without pictures, by the spool's own verbs: no engine runs here."""

from __future__ import annotations

import base64
import errno
import io
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from a1111 import INFO, SMALL, beside, png
from flask import Flask, g
from flask.testing import FlaskClient
from house import listing, wait_for
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from spooler import durable
from spooler.pictures import MAX_FILE_BYTES
from spooler.record import Record, utc_now
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.states import End, State
from webui.app import create_app
from webui.patience import Patience
from webui.people import Person
from webui.reports import JobReport
from webui.sdapi import info, starts
from webui.sdapi.requests import ExtraSingle, Img2Img, Txt2Img


@pytest.fixture
def app(spool: Spool) -> Flask:
    return create_app(Settings(spool=spool.root, cache=spool.root.parent / "cache", floor_mib=0.0))


def end(spool: Spool, state: End, code: str = "", reason: str = "", name: str = "end.json", picture: str = "") -> None:
    place = spool.claim(name, "me")
    assert place
    record = Record(id=name.removesuffix(".json"), queued=utc_now())
    spool.prepare(place, record)
    if picture:
        (place.path / "0.png").write_bytes(base64.b64decode(picture))
    assert spool.publish(place, record.fail(code, reason), state)


@pytest.mark.parametrize(
    ("code", "name"), [("engine_error", "RuntimeError"), ("out_of_memory", "OutOfMemoryError"), ("worker-died", "RuntimeError")]
)
def test_a_job_that_fails_is_500_with_its_reason(app: Flask, spool: Spool, code: str, name: str) -> None:
    with beside(lambda: app.test_client().post("/sdapi/v1/txt2img", json=SMALL | {"force_task_id": "end"})) as answer:
        wait_for(lambda: spool.find("end"), "the job")
        end(spool, "failed", code, "It broke.")
        told = answer.result()
    assert told.status_code == 500
    assert told.json == {"error": name, "detail": "It broke.", "body": "", "errors": "It broke."}


def test_a_job_that_is_cancelled_while_it_waits_is_200_without_pictures(app: Flask, spool: Spool) -> None:
    with beside(lambda: app.test_client().post("/sdapi/v1/txt2img", json=SMALL | {"force_task_id": "end"})) as answer:
        wait_for(lambda: spool.find("end"), "the job")
        spool.cancel("end")
        told = answer.result()
    assert told.status_code == 200 and told.json["images"] == [] and list(json.loads(told.json["info"])) == INFO.split()


def test_p5_a_job_that_is_set_aside_is_500_with_the_reason(app: Flask, spool: Spool) -> None:
    with beside(lambda: app.test_client().post("/sdapi/v1/txt2img", json=SMALL | {"force_task_id": "end"})) as answer:
        wait_for(lambda: spool.find("end"), "the job")
        spool.reject(spool.pending / "end.json", "`model` must be one that is here.")
        told = answer.result()
    assert told.status_code == 500 and "`model` must be one" in told.json["errors"]


def test_a_full_queue_is_429_with_retry_after_and_a_bad_request_disturbs_nothing(tmp_path: Path) -> None:
    narrow = Settings(spool=tmp_path / "spool", cache=tmp_path / "cache", floor_mib=0.0, max_waiting=1)
    client = create_app(narrow).test_client()
    spool = Spool(tmp_path / "spool")
    assert client.post("/api/v1/jobs", json={"prompt": "a"}).status_code == 201
    before = listing(spool.root)
    told = client.post("/sdapi/v1/txt2img", json=SMALL)
    assert told.status_code == 429 and int(told.headers["Retry-After"]) > 0 and told.json
    assert told.json["error"] == "HTTPException" and "At most 1 jobs" in told.json["detail"]
    assert client.post("/sdapi/v1/txt2img", json=SMALL | {"steps": 0}).status_code == 422
    assert listing(spool.root) == before


def test_another_site_is_refused_in_the_same_shape(app: Flask) -> None:
    told = app.test_client().post("/sdapi/v1/interrupt", headers={"Origin": "https://evil.example"})
    assert told.status_code == 403 and told.json and told.json["error"] == "HTTPException"


def test_png_info_reads_other_texts_and_formats(app: Flask) -> None:
    client = app.test_client()
    text = "a cat, héllo\nNegative prompt: dull\nSteps: 9, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x80"
    file = io.BytesIO()
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode("utf-16-be")
    Image.new("RGB", (8, 8)).save(file, "JPEG", exif=exif)
    told = client.post("/sdapi/v1/png-info", json={"image": base64.b64encode(file.getvalue()).decode()}).json
    assert told and told["info"] == text and told["parameters"]["Size-2"] == "80" and told["parameters"]["Clip skip"] == "1"
    assert told["parameters"]["Negative prompt"] == "dull" and told["items"] == {}
    told = client.post("/sdapi/v1/png-info", json={"image": png(Image.new("RGB", (8, 8)))}).json
    assert told == {"info": "", "items": {}, "parameters": {}}
    assert client.post("/sdapi/v1/png-info", json={}).status_code == 422


def test_the_answers_of_a_web_app_without_a_spooler(app: Flask) -> None:
    client = app.test_client()
    for path in ("options", "samplers", "sd-models", "upscalers", "progress", "memory", "loras", "embeddings", "cmd-flags"):
        assert client.get(f"/sdapi/v1/{path}").status_code == 200


def test_of_several_pictures_all_are_taken_or_none(tmp_path: Path) -> None:
    narrow = Settings(spool=tmp_path / "spool", cache=tmp_path / "cache", floor_mib=0.0, max_waiting=1)
    client = create_app(narrow).test_client()
    given = [{"data": png(Image.new("RGB", (8, 8))), "name": name} for name in "ab"]
    told = client.post("/sdapi/v1/extra-batch-images", json={"imageList": given, "upscaler_1": "Lanczos"})
    spool = Spool(tmp_path / "spool")
    assert told.status_code == 429 and not any(spool.walk("pending")) and len(list(spool.walk("cancelled"))) == 1


SEVERAL = {"imageList": [{"data": png(Image.new("RGB", (8, 8))), "name": name} for name in "abc"], "upscaler_1": "Lanczos"}


def test_s5_of_several_pictures_one_is_unpacked_at_a_time(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 100 KB may be a picture of 100 MB."""
    unpacked: list[weakref.ref[Image.Image]] = []
    at_once: list[int] = []
    decoded = starts.decoded

    def noted(data: bytes) -> Image.Image:
        picture = decoded(data)
        unpacked.append(weakref.ref(picture))
        at_once.append(sum(each() is not None for each in unpacked))
        return picture

    monkeypatch.setattr(starts, "decoded", noted)
    told = app.test_client().post("/sdapi/v1/extra-batch-images", json=SEVERAL | {"upscaler_1": "None"})
    assert told.status_code == 200 and at_once == [1, 1, 1]


def named(spool: Spool, state: State) -> list[str]:
    return [place.id for place in spool.walk(state)]


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """The jobs whose ends were waited for, and for how long at most."""
    asked: list[tuple[str, float]] = []
    end_of = Patience.end_of

    def noted(self: Patience, job_id: str, wait_s: float, gone: Callable[[], bool] = lambda: False) -> JobReport | None:
        asked.append((job_id, wait_s))
        return end_of(self, job_id, wait_s, gone)

    monkeypatch.setattr(Patience, "end_of", noted)
    return asked


def test_of_several_pictures_none_is_made_after_one_that_cannot_be(
    app: Flask, spool: Spool, waited: list[tuple[str, float]]
) -> None:
    with beside(lambda: app.test_client().post("/sdapi/v1/extra-batch-images", json=SEVERAL)) as answer:
        [(first, _)] = wait_for(lambda: waited, "the first to be waited for")
        others = {*named(spool, "pending")} - {first}
        end(spool, "failed", "engine_error", "It broke.", first)
        told = answer.result()
    assert told.status_code == 500 and told.json["errors"] == "It broke."
    assert len(others) == 2 and {*named(spool, "cancelled")} == others and not named(spool, "pending")


@pytest.mark.parametrize(
    ("setting", "has_gone", "status", "left"),
    [("off", False, 504, "pending"), ("off", True, 499, "pending"), ("on", True, 499, "cancelled")],
)
def test_several_pictures_have_one_wait_and_go_on_where_one_would(
    spool: Spool, setting: str, has_gone: bool, status: int, left: State
) -> None:
    given = Settings(spool=spool.root, cache=spool.root.parent / "cache", floor_mib=0.0, wait_s=0.05, cancel_abandoned=setting)
    client = create_app(given).test_client()
    gone = {"waitress.client_disconnected": lambda: has_gone}
    told = client.post("/sdapi/v1/extra-batch-images", json=SEVERAL, environ_overrides=gone)
    assert told.status_code == status and len(named(spool, left)) == 3


def test_what_the_first_picture_waited_the_second_does_not(app: Flask, spool: Spool, waited: list[tuple[str, float]]) -> None:
    with beside(lambda: app.test_client().post("/sdapi/v1/extra-batch-images", json=SEVERAL)) as answer:
        for number in range(1, 4):
            job_id, _ = wait_for(lambda number=number: waited[number - 1] if len(waited) == number else None, "the next")
            end(spool, "cancelled", "cancelled", "Not wanted.", job_id, png(Image.new("RGB", (16, 16))))
        assert len(answer.result().json["images"]) == 3
    first, second, third = (most_s for _, most_s in waited)
    assert first > second > third > 0


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    """An app that takes no job, for the disk is too full: what is right ends with 507."""
    root = tmp_path_factory.mktemp("refusing")
    app = create_app(Settings(spool=root / "spool", cache=root / "cache", floor_mib=1e8))
    app.config["PROPAGATE_EXCEPTIONS"] = False
    return app.test_client()


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["Karras", "Euler", "1", "nan"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
ROUTES: dict[str, type[Any]] = {"txt2img": Txt2Img, "img2img": Img2Img, "extra-single-image": ExtraSingle}


@settings(max_examples=300)
@given(st.data())
def test_whatever_json_comes_the_answer_is_json_and_nothing_crashes(refusing: FlaskClient, data: st.DataObject) -> None:
    route = data.draw(st.sampled_from([*ROUTES, "extra-batch-images", "png-info", "options"]))
    fields = list(ROUTES[route].model_fields) if route in ROUTES else ["image", "imageList", "sd_model_checkpoint", "sd_vae"]
    usual: dict[str, Any] = {"prompt": "a cat"} if data.draw(st.booleans()) else {}
    if data.draw(st.booleans()):
        usual |= {"init_images": [png(Image.new("RGB", (8, 8)))], "image": png(Image.new("RGB", (8, 8)))}
    asked = usual | data.draw(st.dictionaries(st.sampled_from(fields), ANY, max_size=3))
    told = refusing.post(f"/sdapi/v1/{route}", data=json.dumps(asked), content_type="application/json")
    assert told.is_json and told.status_code in (200, 400, 404, 422, 500, 507)
    if told.status_code == 500:
        assert told.json["error"] in ("HTTPException", "RuntimeError") and "its log says what" not in told.json["errors"]


def test_a_job_that_takes_longer_than_one_may_wait_is_504_and_goes_on(tmp_path: Path) -> None:
    app = create_app(Settings(spool=tmp_path / "spool", cache=tmp_path / "cache", floor_mib=0.0, wait_s=0.05))
    told = app.test_client().post("/sdapi/v1/txt2img", json=SMALL | {"force_task_id": "end"})
    assert told.status_code == 504 and told.json and told.json["error"] == "TimeoutError"
    place = Spool(tmp_path / "spool").find("end")
    assert place and place.state == "pending"


def test_somebody_else_s_job_is_not_interrupted_and_one_s_own_is(app: Flask, spool: Spool) -> None:
    for name, owner in (("theirs", "ann"), ("mine", "bob")):
        spool.submit(json.dumps({"prompt": "a", "owner": owner}).encode(), name)
        assert spool.claim(f"{name}.json", "me")
    app.before_request_funcs.setdefault(None, []).append(lambda: setattr(g, "person", Person(who)))
    client = app.test_client()
    who = "eve"
    assert client.post("/sdapi/v1/interrupt").status_code == 403
    who = "bob"
    assert client.post("/sdapi/v1/interrupt").json == {}
    assert sorted(path.parent.name for path in spool.claimed.glob("me/*/cancel")) == ["mine"]


def test_pictures_that_are_larger_than_any_that_is_taken_in_are_told_of_and_laid_into_a_grid() -> None:
    noise = Image.effect_noise((3000, 3000), 90)
    text = PngInfo()
    text.add_text("parameters", "a cat")
    file = io.BytesIO()
    Image.merge("RGB", (noise, noise.rotate(90), noise.rotate(180))).save(file, "PNG", pnginfo=text, compress_level=1)
    data = file.getvalue()
    assert len(data) > MAX_FILE_BYTES and info.text_of(data) == "a cat" and info.text_of(data[:30]) == ""
    laid = info.grid([data] * 9)
    assert laid.width == laid.height and laid.width % 3 == 0 and laid.width * laid.height <= info.MOST_GRID_PIXELS


def test_a_preview_that_cannot_be_read_just_now_is_none(app: Flask, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over NFS another host's new one leaves a stale handle of the one before."""
    spool.submit(b'{"prompt": "a cat"}', "cat")
    assert spool.claim("cat.json", "me")
    read = durable.read_small

    def stale(path: Path, max_bytes: int) -> bytes:
        if path.name in ("preview.jpg", "progress.json"):
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(path, max_bytes)

    monkeypatch.setattr(durable, "read_small", stale)
    client = app.test_client()
    told = client.get("/sdapi/v1/progress")
    assert told.status_code == 200 and told.json and told.json["state"]["job_count"] == 1 and told.json["current_image"] is None
    assert client.post("/internal/progress", json={"id_task": "cat", "id_live_preview": -1}).status_code == 200
    assert client.get("/api/v1/jobs/cat/preview").status_code == 204 and client.get("/jobs/cat").status_code == 200
