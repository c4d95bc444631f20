"""OpenAI's images API: the unmodified SDKs (PyPI and npm) against the real web app, a real spooler and the demo model."""

from __future__ import annotations

import base64
import io
import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import npm
import openai
import pytest
from flask.testing import FlaskClient
from house import offer, spooler, wait_for
from PIL import Image
from test_api import Web, finish

from bench.shape_checker import look
from spooler.catalogue import Catalogue, ModelCard
from spooler.infotext import parse
from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import create_app
from webui.openai_api import asked, forms, told
from webui.openai_api.mishaps import RefusedError
from webui.recoded import RecodeError, recoded

RED = "a large red circle on a blue background"
CATALOGUE = Catalogue(models=(ModelCard(name="demo", family="sd1", width=128, height=128, steps=20),), default="demo")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """The web app and a spooler that tells of previews often; all tests share the pair."""
    spool = Spool(tmp_path_factory.mktemp("openai") / "spool")
    spool.create()
    with spooler(spool, "--preview-s", "0.05"):
        web = Web(spool, "--max-waiting", "20")
        web.spool = spool  # type: ignore[attr-defined]
        yield web
        web.stop()


@pytest.fixture
def sdk(served: Web) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/v1", api_key="none", timeout=120)


def decoded(text: str | None) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(text or "")))
    image.load()
    return image


def jobs(served: Web) -> int:
    return int(served.request("/api/v1/jobs?limit=1")[1]["total"])


def test_a_prompt_becomes_pictures_of_it_in_both_forms(sdk: openai.OpenAI) -> None:
    told = sdk.images.generate(prompt=RED, n=2, extra_body={"seed": 5})
    assert told.created > 1_600_000_000 and told.data and len(told.data) == 2 and told.output_format == "png"
    for each in told.data:
        image = decoded(each.b64_json)
        seen = look(image.convert("RGB"))
        assert (seen.colour, seen.shape, seen.background) == ("red", "circle", "blue") and image.size == (128, 128)
        assert each.url and each.url.startswith(str(sdk.base_url).removesuffix("v1/"))
        with urllib.request.urlopen(each.url) as answer:
            assert answer.read() == base64.b64decode(each.b64_json or "")


def test_each_response_format_gives_its_key_alone(sdk: openai.OpenAI) -> None:
    for wanted, other in (("b64_json", "url"), ("url", "b64_json")):
        told = sdk.images.generate(prompt=RED, model="dall-e-3", response_format=wanted, extra_body={"steps": 2})  # type: ignore[call-overload]
        assert getattr(told.data[0], wanted) and getattr(told.data[0], other) is None
    told = sdk.images.generate(prompt=RED, model="gpt-image-1", quality="low")
    assert told.data and told.data[0].b64_json and told.data[0].url is None and told.quality == "low"


def test_size_quality_and_the_job_s_own_fields_are_honoured(sdk: openai.OpenAI, served: Web) -> None:
    raw = sdk.images.with_raw_response.generate(
        prompt=RED, size="192x64", quality="high", style="vivid", user="ann", extra_body={"seed": 7, "sampler": "Euler"}
    )
    assert raw.headers["x-request-id"].startswith("req_") and raw.headers["x-sdspool-without-effect"] == "style"
    told = raw.parse()
    assert told.size is None and told.data and decoded(told.data[0].b64_json).size == (192, 64)
    job = served.request(f"/api/v1/jobs/{raw.headers['x-sdspool-job']}")[1]
    used = job["parameters"]
    default = served.request("/api/v1/models")[1]["models"][0]["steps"]
    assert (used["steps"], used["seed"], used["sampler"], used["owner"]) == (round(1.5 * default), 7, "Euler", "ann")


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (
            [("prompt", "2024"), ("negative_prompt", "null"), ("seed", "5"), ("n", "2"), ("stream", "true"), ("steps", "four")],
            {"prompt": "2024", "negative_prompt": "null", "seed": 5, "n": 2, "stream": True, "steps": "four"},
        ),
        (
            [("hires[scale]", "1.5"), ("hires[upscaler]", "2"), ("hires[sharp]", "1")],
            {"hires": {"scale": 1.5, "upscaler": "2", "sharp": "1"}},
        ),
        (
            [("loras[][name]", "7"), ("loras[][weight]", "0.5"), ("loras[][name]", "ink"), ("loras[0][x]", "y")],
            {"loras": [{"name": "7", "weight": 0.5, "x": "y"}, {"name": "ink"}]},
        ),
        ([("loras", '[{"name": "ink"}]'), ("prompt[x]", "1")], {"loras": [{"name": "ink"}], "prompt[x]": "1"}),
    ],
)
def test_a_form_is_read_as_the_body_that_json_would_have(sent: list[tuple[str, str]], body: dict[str, Any]) -> None:
    assert forms.body(sent) == body


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ([("seed", "1"), ("seed", "1")], "`seed` must be sent once"),
        ([("hires[scale]", "2"), ("hires[scale]", "2")], "`hires[scale]` must be sent once"),
        ([("hires", '{"scale": 2}'), ("hires[scale]", "2")], "`hires[scale]` must be sent once"),
        ([("loras", "ink"), ("loras[][name]", "ink")], "`loras[][name]` must be sent once"),
        ([("loras[0][name]", "a"), ("loras[2][name]", "b")], "`loras` must be numbered from 0"),
    ],
)
def test_a_form_that_says_a_thing_twice_is_refused_by_name(sent: list[tuple[str, str]], sentence: str) -> None:
    with pytest.raises(RefusedError) as refused:
        forms.body(sent)
    assert str(refused.value).startswith(sentence) and refused.value.param


def test_nested_values_and_numbers_for_texts_come_from_the_sdks_form(sdk: openai.OpenAI) -> None:
    start = ("start.png", png(Image.new("RGB", (128, 128), "blue")))
    told = sdk.images.edit(image=start, prompt="2024", extra_body={"negative_prompt": "1", "steps": 2})
    assert told.data
    with pytest.raises(openai.BadRequestError, match=r"`loras\.name` must be one that") as refused:
        sdk.images.edit(image=start, prompt=RED, extra_body={"loras": [{"name": "nobody's", "weight": 0.5}]})
    assert refused.value.code == "invalid_value"


@pytest.mark.parametrize("kind", ["webp", "jpeg"])
def test_other_formats_carry_the_text_too(sdk: openai.OpenAI, kind: Any) -> None:
    told = sdk.images.generate(prompt=RED, output_format=kind, output_compression=60, extra_body={"steps": 2, "seed": 3})
    assert told.data and told.output_format == kind
    with urllib.request.urlopen(told.data[0].url or "") as answer:
        assert answer.headers["Content-Type"] == f"image/{kind}"
        assert answer.read() == base64.b64decode(told.data[0].b64_json or "")
    image = decoded(told.data[0].b64_json)
    comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert image.format == kind.upper() and comment.startswith(b"UNICODE\0")
    assert parse(comment[8:].decode("utf-16-be"))["seed"] == 3


def test_an_edit_repaints_what_is_transparent_and_nothing_else(sdk: openai.OpenAI) -> None:
    picture = png(Image.new("RGB", (128, 128), "white"))
    mask = Image.new("RGBA", (128, 128), "black")
    mask.paste((0, 0, 0, 0), (0, 0, 64, 128))
    told = sdk.images.edit(image=("start.png", picture), mask=("mask.png", png(mask)), prompt=RED, extra_body={"seed": "5"})
    assert told.data
    made = decoded(told.data[0].b64_json).convert("RGB")
    assert made.crop((64, 0, 128, 128)).getcolors() == [(64 * 128, (255, 255, 255))], "what is kept is kept exactly"
    assert len(made.crop((0, 0, 60, 128)).getcolors(1 << 16) or []) > 1


def test_an_edit_without_a_mask_starts_from_the_picture(sdk: openai.OpenAI) -> None:
    start = ("start.png", png(Image.new("RGB", (160, 128), "blue")))
    raw = sdk.images.with_raw_response.edit(image=[start], prompt=RED, model="gpt-image-1", input_fidelity="high")
    told = raw.parse()
    assert told.data and told.data[0].url is None and decoded(told.data[0].b64_json).size == (160, 128)
    clear = Image.new("RGBA", (128, 128), "blue")
    clear.paste((0, 0, 0, 0), (0, 0, 128, 64))
    told = sdk.images.edit(image=("start.png", png(clear)), prompt=RED, size="256x256")
    assert told.data
    made = decoded(told.data[0].b64_json).convert("RGB")
    assert made.size == (256, 256) and made.crop((0, 140, 256, 256)).getcolors() == [(256 * 116, (0, 0, 255))]


def test_partial_pictures_come_before_the_whole_one(sdk: openai.OpenAI) -> None:
    events: list[Any] = list(
        sdk.images.generate(prompt=RED, stream=True, partial_images=2, extra_body={"steps": 120, "seed": 1})
    )
    partial, last = events[:-1], events[-1]
    assert [each.partial_image_index for each in partial] == list(range(len(partial))) and 1 <= len(partial) <= 2
    assert {each.type for each in partial} == {"image_generation.partial_image"} and last.type == "image_generation.completed"
    assert all(decoded(each.b64_json).format == "PNG" for each in events) and last.usage.total_tokens == 0
    assert look(decoded(last.b64_json).convert("RGB")).shape == "circle"


def test_an_edit_streams_too(sdk: openai.OpenAI) -> None:
    start = ("start.png", png(Image.new("RGB", (128, 128), "blue")))
    stream: Any = sdk.images.edit(image=start, prompt=RED, stream=True, partial_images=0, n=2, extra_body={"steps": "4"})
    assert [each.type for each in stream] == ["image_edit.completed"] * 2


def test_models_are_listed_and_found_by_their_other_names(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["demo"]
    assert sdk.models.retrieve("demo").owned_by == "sdspool"
    assert sdk.models.retrieve("dall-e-3").id == "dall-e-3"
    with pytest.raises(openai.NotFoundError) as error:
        sdk.models.retrieve("no-such")
    assert error.value.code == "model_not_found" and error.value.type == "invalid_request_error" and error.value.request_id


def test_a_mistake_is_told_with_its_parameter_and_makes_no_job(sdk: openai.OpenAI, served: Web) -> None:
    before = jobs(served)
    for given, error, param, code in (
        ({"n": 11}, openai.BadRequestError, "n", "invalid_value"),
        ({"size": "100x100"}, openai.BadRequestError, "size", "invalid_value"),
        ({"size": "large"}, openai.BadRequestError, "size", "invalid_value"),
        ({"background": "transparent"}, openai.BadRequestError, "background", "invalid_value"),
        ({"model": "midjourney"}, openai.NotFoundError, "model", "model_not_found"),
        ({"extra_body": {"promt": "x"}}, openai.BadRequestError, "promt", "unknown_parameter"),
        ({"extra_body": {"steps": [1, 2]}}, openai.BadRequestError, "steps", "invalid_value"),
        ({"extra_body": {"sampler": "Eulr"}}, openai.BadRequestError, "sampler", "invalid_value"),
        ({"prompt": " "}, openai.BadRequestError, "prompt", "missing_required_parameter"),
    ):
        with pytest.raises(error) as told:
            sdk.images.generate(**{"prompt": RED, **given})  # type: ignore[arg-type]
        assert (told.value.param, told.value.code) == (param, code), given
    with pytest.raises(openai.BadRequestError) as told:
        sdk.images.edit(image=("x.png", b"no picture"), prompt=RED)
    assert (told.value.param, told.value.code) == ("image", "invalid_image_file")
    assert jobs(served) == before


def test_a_job_that_fails_is_not_sent_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.create()
    (spool.claimed / "me").mkdir()
    web = Web(spool)

    def fail() -> None:
        name = wait_for(lambda: next((path.stem for path in spool.pending.glob("*.json")), None), "a job to fail")
        finish(spool, name, "failed", 0)

    failing = threading.Thread(target=fail)
    failing.start()
    try:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{web.port}/v1", api_key="none", max_retries=2)
        with pytest.raises(openai.InternalServerError) as error:
            client.images.generate(prompt=RED)
    finally:
        failing.join()
        web.stop()
    assert error.value.code == "engine_error" and error.value.response.headers["x-should-retry"] == "false"
    assert [place.id for place in spool.walk("failed")] and not list(spool.pending.iterdir())


def test_a_cancelled_job_is_not_sent_again(sdk: openai.OpenAI, served: Web) -> None:
    before = jobs(served)
    cancel_soon(served)
    with pytest.raises(openai.ConflictError) as error:
        sdk.with_options(max_retries=2).images.generate(prompt=RED, extra_body={"steps": 150})
    assert error.value.code == "job_cancelled" and jobs(served) == before + 1


def test_an_error_in_the_middle_of_a_stream_is_raised(sdk: openai.OpenAI, served: Web) -> None:
    cancel_soon(served)
    with pytest.raises(openai.APIError, match="was cancelled"):
        list(sdk.images.generate(prompt=RED, stream=True, extra_body={"steps": 150}))  # type: ignore[arg-type]


def test_one_idempotency_key_makes_one_job(sdk: openai.OpenAI, served: Web) -> None:
    before = jobs(served)
    told = [
        sdk.images.generate(prompt=RED, extra_headers={"Idempotency-Key": "once"}, extra_body={"steps": 2}) for _ in range(2)
    ]
    assert told[0].data and told[1].data and told[0].data[0].b64_json == told[1].data[0].b64_json
    assert jobs(served) == before + 1


SCRIPT = """
import OpenAI, { toFile } from "openai";
const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none" });
const told = {};
const made = await client.images.generate({ prompt: process.argv[3], seed: 5, response_format: "b64_json" });
told.picture = made.data[0].b64_json;
const stream = await client.images.generate({ prompt: process.argv[3], steps: 100, stream: true, partial_images: 1 });
told.events = [];
for await (const event of stream) told.events.push(event.type);
const start = await toFile(Buffer.from(told.picture, "base64"), "start.png", { type: "image/png" });
told.edited = (await client.images.edit({ image: start, prompt: process.argv[3], n: 2 })).data.length;
told.models = [];
for await (const model of client.models.list()) told.models.push(model.id);
try { await client.images.generate({ prompt: "x", model: "no-such" }); }
catch (error) { told.error = [error.status, error.code, error.param, error.constructor.name, Boolean(error.requestID)]; }
console.log(JSON.stringify(told));
"""


def test_the_npm_sdk_works_unmodified(served: Web) -> None:
    told = json.loads(npm.run(npm.package("openai", "7.57.0"), SCRIPT, f"http://127.0.0.1:{served.port}/v1", RED))
    assert look(decoded(told["picture"]).convert("RGB")).shape == "circle"
    assert told["events"][-1] == "image_generation.completed" and told["edited"] == 2 and told["models"] == ["demo"]
    assert told["error"] == [404, "model_not_found", "model", "NotFoundError", True]


# -- without a spooler -------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(tmp_path: Path) -> FlaskClient:
    app = create_app(Settings(spool=tmp_path / "spool", cache=tmp_path / "cache", wait_s=0.2, max_waiting=2, web_threads=2))
    spool = Spool(tmp_path / "spool")
    (spool.claimed / "me").mkdir()
    offer(spool)
    return app.test_client()


def post(client: FlaskClient, **given: Any) -> Any:
    return client.post("/v1/images/generations", json={"prompt": RED, **given})


def test_a_stream_that_ends_for_want_of_time_says_so(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "ALIVE_S", 0.05)  # nothing is new when it ends
    text = post(client, stream=True).get_data(as_text=True)
    assert ": alive" in text and "job_timeout" in text and "job_gone" not in text


def test_only_what_may_succeed_later_is_to_be_sent_again(client: FlaskClient, tmp_path: Path) -> None:
    late = post(client)
    assert late.status_code == 504 and late.json["error"]["code"] == "job_timeout" and "Retry-After" not in late.headers
    assert late.headers["x-should-retry"] == "false" and late.headers["x-sdspool-job"] in late.json["error"]["message"]
    post(client)
    full = post(client)
    assert full.status_code == 429 and int(full.headers["Retry-After"]) > 0 and "x-should-retry" not in full.headers
    assert full.json["error"]["type"] == "rate_limit_error" and full.json["error"]["code"] == "queue_full"
    office = client.application.extensions["office"]
    with office.patience.seat():
        busy = post(client)
    assert busy.status_code == 503 and busy.headers["Retry-After"] == "2" and "x-should-retry" not in busy.headers
    assert len(list(Spool(tmp_path / "spool").pending.iterdir())) == 2, "nothing of what was refused is there"


def test_a_failed_job_and_a_withheld_picture_are_told(client: FlaskClient, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    for key, state, images, status, code in (
        ("failed", "failed", 0, 500, "engine_error"),
        ("withheld", "done", 0, 400, "content_policy_violation"),
    ):
        headers = {"Idempotency-Key": key}
        job_id = client.post("/v1/images/generations", json={"prompt": RED}, headers=headers).headers["x-sdspool-job"]
        finish(spool, job_id, state, images)
        told = client.post("/v1/images/generations", json={"prompt": RED}, headers=headers)
        assert (told.status_code, told.json["error"]["code"]) == (status, code)  # type: ignore[index]
        assert ("x-should-retry" in told.headers) == (status == 500)


def test_every_error_under_v1_has_openai_s_shape(client: FlaskClient) -> None:
    for method, path, status in (
        ("get", "/v1", 404),
        ("get", "/v1/chat/completions", 404),
        ("post", "/v1/models", 405),
        ("get", "/v1/images/generations", 405),
        ("post", "/v1/images/generations", 415),
        ("post", "/v1/images/edits", 415),
    ):
        told = client.open(path, method=method)
        assert told.status_code == status and set(told.json["error"]) == {"message", "type", "param", "code"}  # type: ignore[index]
        assert told.headers["x-request-id"].startswith("req_")
    for raw in (b"", b"[]", b'{"prompt": NaN}', b"\xff", b'{"prompt": "\\ud800"}'):
        told = client.post("/v1/images/generations", data=raw, content_type="application/json")
        assert told.status_code == 400 and told.json["error"]["type"] == "invalid_request_error", raw  # type: ignore[index]
    far = client.get("/v1/models", headers={"Host": "evil.example"})
    assert far.status_code == 421 and far.json["error"]["code"] == "wrong_host"  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("", ""),
        ("dall-e-2", ""),
        ("gpt-image-1.5", ""),
        ("chatgpt-image-latest", ""),
        ("demo", "demo"),
        ("Demo", "demo"),
        ("demo.safetensors", "demo"),
        ("demo [0123456789]", "demo"),
    ],
)
def test_the_names_of_a_model(name: str, own: str) -> None:
    assert asked.model_of(name, CATALOGUE) == own


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"n": True}, "n"),
        ({"n": "2"}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"partial_images": 4}, "partial_images"),
        ({"output_compression": 50}, "output_compression"),
        ({"output_format": "svg"}, "output_format"),
        ({"response_format": "url", "stream": True}, "response_format"),
        ({"quality": "best"}, "quality"),
        ({"moderation": "off"}, "moderation"),
        ({"frame_count": 3}, "frame_count"),
        ({"image": "x.png"}, "image"),
        ({"user": 3}, "user"),
    ],
)
def test_what_is_refused_is_named(given: dict[str, Any], param: str) -> None:
    with pytest.raises(RefusedError) as error:
        asked.generation({"prompt": RED, **given}, CATALOGUE)
    assert error.value.param == param


def test_a_mask_must_go_with_its_picture_and_have_something_to_paint() -> None:
    picture, clear = png(Image.new("RGB", (64, 64), "red")), Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    for mask in (png(Image.new("RGB", (64, 64))), png(Image.new("RGBA", (64, 64), (0, 0, 0, 1))), png(clear.resize((32, 64)))):
        with pytest.raises(RefusedError) as error:
            asked.editing({"prompt": RED}, [picture], mask, CATALOGUE)
        assert (error.value.param, error.value.code) == ("mask", "invalid_image_file")
    for images, param in (([], "image"), ([picture] * 2, "image"), ([b""], "image")):
        with pytest.raises(RefusedError) as error:
            asked.editing({"prompt": RED}, images, None, CATALOGUE)
        assert error.value.param == param
    made = asked.editing({"prompt": RED, "size": "128x64", "n": 2}, [picture], png(clear), CATALOGUE)
    assert (made.job.kind, made.job.count, made.job.width) == ("inpaint", 2, 128)
    assert {Image.open(io.BytesIO(data)).size for data in made.inputs.values()} == {(128, 64)}
    assert asked.editing({"prompt": RED, "model": "gpt-image-1"}, [png(clear)], None, CATALOGUE).job.kind == "img2img"


def test_what_is_not_opaque_is_laid_on_white_with_every_size() -> None:
    half = png(Image.new("RGBA", (64, 64), (255, 0, 0, 128)))
    mask = png(Image.new("RGBA", (64, 64), (0, 0, 0, 0)))
    made = asked.editing({"prompt": RED, "size": "128x64"}, [half], mask, CATALOGUE)
    with Image.open(io.BytesIO(made.inputs[str(made.job.image)])) as picture:
        assert picture.mode == "RGB" and picture.getpixel((64, 32)) == (255, 127, 127)


def test_a_picture_that_a_format_cannot_hold_is_told() -> None:
    wide = png(Image.new("RGB", (16_384, 1)))
    assert recoded(wide, "png", 0) == wide and recoded(wide, "jpeg", 50).startswith(b"\xff\xd8")
    with pytest.raises(RecodeError, match="at most 16383 pixels"):
        recoded(wide, "webp", 50)


def test_who_asks_is_the_owner_whatever_user_says() -> None:
    assert asked.generation({"prompt": RED, "user": "bob"}, CATALOGUE).job.owner == "bob"
    assert asked.generation({"prompt": RED, "user": "bob"}, CATALOGUE, "ann").job.owner == "ann"


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def cancel_soon(served: Web) -> None:
    """Cancel the next job that comes, as somebody at the page would."""

    known = {job["id"] for job in served.request("/api/v1/jobs?limit=200")[1]["jobs"]}

    def cancel() -> None:
        def newcomer() -> str | None:
            listed = served.request("/api/v1/jobs?limit=200")[1]["jobs"]
            return next((job["id"] for job in listed if job["id"] not in known), None)

        job_id = wait_for(newcomer, "a job to cancel")
        request = urllib.request.Request(f"http://127.0.0.1:{served.port}/api/v1/jobs/{job_id}", method="DELETE")
        urllib.request.urlopen(request).close()

    threading.Thread(target=cancel, daemon=True).start()
