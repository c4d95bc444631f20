"""The A1111 API over the real web app, the real spooler and the demo model, with clients from the registries as they are."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import npm
import pytest
import requests
import sd_parsers
import webuiapi
from flask import Flask, g
from flask.testing import FlaskClient
from house import ROOT, Spooler, listing, wait_for, wait_running
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bench.shape_checker import look
from spooler.pictures import MAX_FILE_BYTES
from spooler.record import Record, utc_now
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.states import End
from webui.app import create_app
from webui.people import Person
from webui.sdapi import description, info
from webui.sdapi.requests import ExtraSingle, Img2Img, Txt2Img

RED = "a large red circle on a blue background"
SMALL = {"prompt": RED, "width": 128, "height": 128, "steps": 15, "cfg_scale": 3, "sampler_name": "DPM++ 2M", "seed": 5}
LONG = SMALL | {"steps": 80, "n_iter": 9, "prompt": "a large green square on a white background"}
INFO = """
    prompt all_prompts negative_prompt all_negative_prompts seed all_seeds subseed all_subseeds subseed_strength width height
    sampler_name cfg_scale steps batch_size restore_faces face_restoration_model sd_model_name sd_model_hash sd_vae_name
    sd_vae_hash seed_resize_from_w seed_resize_from_h denoising_strength extra_generation_params index_of_first_image infotexts
    styles job_timestamp clip_skip is_using_inpainting_conditioning version
"""
STATE = "skipped interrupted stopping_generation job job_count job_timestamp job_no sampling_step sampling_steps"


class Web:
    """The real `python -m webui` on a port of its own."""

    def __init__(self, spool: Spool, *options: str):
        self.spool = spool
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        cache = spool.root.parent / f"cache-{self.port}"
        command = [sys.executable, "-m", "webui", f"--spool={spool.root}", f"--port={self.port}", f"--cache={cache}", *options]
        self.process = subprocess.Popen(command, cwd=ROOT)
        wait_for(self._answers, "the web app")

    def _answers(self) -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{self.address}/internal/ping", timeout=60).json() == {}
        return False

    def get(self, path: str) -> Any:
        answer = requests.get(f"{self.address}{path}", timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, json: Any = None) -> requests.Response:
        return requests.post(f"{self.address}{path}", json=json, timeout=300)

    def txt2img(self, **given: Any) -> Any:
        answer = self.post("/sdapi/v1/txt2img", SMALL | given)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@contextlib.contextmanager
def web(spool: Spool, *options: str) -> Iterator[Web]:
    made = Web(spool, *options)
    try:
        yield made
    finally:
        made.stop()


class House:
    """A spooler that draws one picture after the other, and a web app."""

    def __init__(self, spool: Spool, served: Web):
        self.spool = spool
        self.served = served
        self.start()

    def start(self) -> None:
        self.spooler = Spooler(self.spool, "--batch=1", "--preview-s=0.05")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    spool = Spool(tmp_path_factory.mktemp("sdapi") / "spool")
    spool.create()
    with web(spool) as served:
        made = House(spool, served)
        try:
            made.spooler.ready()
            yield made
        finally:
            made.spooler.stop()


@pytest.fixture(scope="module")
def served(house: House) -> Web:
    return house.served


@pytest.fixture(scope="module")
def api(served: Web) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(port=served.port, sampler="DPM++ 2M", steps=15)


@contextlib.contextmanager
def beside(call: Callable[[], Any]) -> Iterator[Future[Any]]:
    """The call at work in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call)


def png(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def opened(encoded: str) -> Image.Image:
    assert not encoded.startswith("data:")
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


# -- webuiapi, unmodified ----------------------------------------------------------------------------------------------------


def test_webuiapi_draws_what_the_prompt_says(api: webuiapi.WebUIApi, tmp_path: Path) -> None:
    result = api.txt2img(
        prompt=RED, negative_prompt="blurred", seed=5, width=128, height=128, cfg_scale=3, n_iter=2, batch_size=1, styles=[]
    )
    assert len(result.images) == 2 and list(result.info) == INFO.split()
    seen = look(result.image)
    assert (seen.colour, seen.shape, seen.background) == ("red", "circle", "blue")
    assert result.info["all_seeds"] == [5, 6] and result.info["seed"] == 5
    assert result.info["infotexts"][1] == result.images[1].info["parameters"]
    assert (result.info["sd_model_name"], result.info["restore_faces"], result.info["styles"]) == ("demo", False, [])
    assert result.parameters["prompt"] == RED and result.parameters["hr_scale"] == 2.0
    file = tmp_path / "drawn.png"
    file.write_bytes(base64.b64decode(result.json["images"][0]))
    read = sd_parsers.ParserManager().parse(file)
    assert read and read.generator.name == "AUTOMATIC1111"
    assert (read.full_prompt, read.full_negative_prompt) == (RED, "blurred")
    assert read.samplers[0].name == "DPM++ 2M" and str(read.samplers[0].parameters["seed"]) == "5"
    told = api.png_info(result.image)
    assert told.info.startswith(RED) and told.parameters["Sampler"] == "DPM++ 2M" and told.parameters["Size-1"] == "128"


def test_webuiapi_draws_without_a_prompt(api: webuiapi.WebUIApi) -> None:
    """As A1111 does: an empty prompt steers nothing."""
    blank = api.txt2img(prompt="", seed=5, steps=4, width=64, height=64)
    assert blank.image.size == (64, 64) and blank.info["prompt"] == "" and blank.parameters["prompt"] == ""
    again = api.img2img(images=[blank.image], prompt="", seed=5, steps=4, width=64, height=64)
    assert again.image.size == (64, 64)


def test_webuiapi_img2img_and_inpaint(api: webuiapi.WebUIApi) -> None:
    start = Image.new("RGB", (128, 128), "blue")
    same = {"images": [start], "prompt": RED, "seed": 5, "width": 128, "height": 128, "cfg_scale": 3, "steps": 10}
    result = api.img2img(**same, denoising_strength=0.9)
    assert result.image.size == (128, 128) and "Denoising strength: 0.9" in result.info["infotexts"][0]
    assert result.parameters["init_images"] is None and result.parameters["mask"] is None
    mask = Image.new("L", (128, 128), 0)
    mask.paste(255, (0, 0, 64, 128))
    painted = api.img2img(**same, denoising_strength=1.0, mask_image=mask, inpainting_fill=1, inpaint_full_res=False)
    kept = painted.image.crop((64, 0, 128, 128)).convert("RGB")
    assert kept.tobytes() == start.crop((64, 0, 128, 128)).tobytes(), "what is black in the mask is kept to the bit"
    assert painted.image.convert("RGB").crop((0, 0, 64, 128)).getcolors(1) is None, "what is white is repainted"


def test_webuiapi_enlarges(api: webuiapi.WebUIApi) -> None:
    start = Image.new("RGB", (40, 20), "red")
    result = api.extra_single_image(start, upscaler_1="Lanczos", upscaling_resize=3)
    assert result.image.size == (120, 60) and "Lanczos" in result.info
    assert api.extra_single_image(start).image.size == (40, 20), "without an upscaler it stays as it is"
    both = api.extra_batch_images(
        [start, start.rotate(90, expand=True)],
        upscaler_1="Lanczos",
        resize_mode=1,
        upscaling_resize_w=80,
        upscaling_resize_h=80,
    )
    assert [each.size for each in both.images] == [(80, 80)] * 2
    with pytest.raises(RuntimeError, match="gfpgan_visibility"):
        api.extra_single_image(start, upscaler_1="Lanczos", gfpgan_visibility=1)


def test_webuiapi_asks_for_what_there_is(api: webuiapi.WebUIApi) -> None:
    (model,) = api.util_get_model_names()
    assert api.util_get_current_model() == model and model.startswith("demo")
    api.util_set_model("demo")
    assert "Euler a" in api.util_get_sampler_names() and "karras" in api.util_get_scheduler_names()
    options = api.get_options()
    assert api.set_options(options) is None, "the whole of it echoed, as Open WebUI does"
    assert api.get_options() == options
    assert api.interrupt() == {} and api.skip() is None and api.refresh_checkpoints() is None
    assert api.get_cmd_flags()["api"] is True and set(api.get_memory()) == {"ram", "cuda"}
    api.util_wait_for_ready()


def test_node_sd_webui_from_npm_works_unmodified(served: Web) -> None:
    folder = npm.package("node-sd-webui", "0.0.8")
    script = """
        import sdwebui from 'node-sd-webui'
        const client = sdwebui({ apiUrl: process.argv[2] })
        const size = { width: 128, height: 128, steps: 8, cfgScale: 3, seed: 5, samplingMethod: 'DPM++ 2M Karras' }
        const drawn = await client.txt2img({ prompt: process.argv[3], batchCount: 2, ...size })
        const again = await client.img2img({ prompt: process.argv[3], imageData: [drawn.images[0]], ...size })
        const told = await client.pngInfo({ imageData: drawn.images[0] })
        let error = ''
        try { await client.txt2img({ prompt: 'a', samplingMethod: 'nonsense' }) } catch (e) { error = e.message }
        console.log(JSON.stringify({ drawn: drawn.images.length, seeds: JSON.parse(drawn.info).all_seeds,
                                     again: again.images.length, prompt: told.prompt, error }))
    """
    told = json.loads(npm.run(folder, script, served.address, RED))
    assert told == {"drawn": 2, "seeds": [5, 6], "again": 1, "prompt": RED, "error": "BAD REQUEST"}


# -- what else a drawing takes -----------------------------------------------------------------------------------------------


def test_a_grid_comes_first_where_the_pictures_are_saved_and_images_may_stay_away(served: Web) -> None:
    told = served.txt2img(batch_size=2, save_images=True, steps=2, include="unknown")
    info = json.loads(told["info"])
    assert [opened(each).size for each in told["images"]] == [(256, 128), (128, 128), (128, 128)]
    assert info["index_of_first_image"] == 1 and len(info["infotexts"]) == 3 and info["infotexts"][0] == info["infotexts"][1]
    told = served.txt2img(send_images=False, steps=2, seed=-1, restore_faces=True)
    info = json.loads(told["info"])
    assert told["images"] == [] and list(info) == INFO.split() and info["seed"] == info["all_seeds"][0] >= 0
    assert f"Seed: {info['seed']}," in info["infotexts"][0]
    assert info["extra_generation_params"] == {"Ignored": "restore_faces: True"}
    echo = told["parameters"]
    assert (echo["styles"], echo["sampler_index"], echo["n_iter"], echo["hr_upscaler"]) == (None, "Euler", 1, None)


def test_hires_fix_and_a_variation_are_drawn(served: Web) -> None:
    told = served.txt2img(enable_hr=True, hr_scale=2, hr_upscaler="None", denoising_strength=0.4, steps=4)
    assert opened(told["images"][0]).size == (256, 256) and json.loads(told["info"])["width"] == 128
    told = served.txt2img(subseed=9, subseed_strength=0.3, batch_size=2, steps=2)
    info = json.loads(told["info"])
    assert len(set(told["images"])) == 2 and (info["all_seeds"], info["all_subseeds"]) == ([5, 5], [9, 10])
    assert "Variation seed: 10" in info["infotexts"][1]


# -- lists, with exactly the keys that strict clients take ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("samplers", {"name", "aliases", "options"}),
        ("schedulers", {"name", "label", "aliases", "default_rho", "need_inner_model"}),
        ("sd-models", {"title", "model_name", "hash", "sha256", "filename", "config"}),
        ("upscalers", {"name", "model_name", "model_path", "model_url", "scale"}),
        ("latent-upscale-modes", {"name"}),
        ("loras", {"name", "alias", "path", "metadata"}),
        ("sd-vae", {"model_name", "filename"}),
        ("hypernetworks", set()),
        ("face-restorers", set()),
        ("realesrgan-models", set()),
        ("prompt-styles", set()),
        ("extensions", set()),
        ("script-info", set()),
    ],
)
def test_a_list_has_a1111_s_list(served: Web, path: str, keys: set[str]) -> None:
    found = served.get(f"/sdapi/v1/{path}")
    assert isinstance(found, list) and all(set(each) == keys for each in found)
    if path == "upscalers":
        assert [each["name"] for each in found[:2]] == ["None", "Lanczos"]


def test_the_other_questions(served: Web) -> None:
    assert served.get("/sdapi/v1/scripts") == {"txt2img": [], "img2img": []}
    assert served.get("/sdapi/v1/embeddings") == {"loaded": {}, "skipped": {}}
    assert served.get("/controlnet/model_list") == {"model_list": []}
    for path in ("refresh-checkpoints", "refresh-vae", "refresh-loras", "refresh-embeddings", "skip"):
        assert served.post(f"/sdapi/v1/{path}").json() is None
    for path in ("unload-checkpoint", "reload-checkpoint", "interrupt"):
        assert served.post(f"/sdapi/v1/{path}").json() == {}


def test_the_document_is_true_of_what_is_answered(served: Web) -> None:
    document = served.get("/sdapi/v1/openapi.json")
    for path in description.GETS:
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(served.get(path), schema)
    error = document["components"]["schemas"]["Error"]
    for path, asked in (("/sdapi/v1/txt2img", {"steps": "x"}), ("/sdapi/v1/img2img", {}), ("/sdapi/v1/nothing", {})):
        jsonschema.validate(served.post(path, asked).json(), error)
    schemas = document["components"]["schemas"]
    answer = document["paths"]["/sdapi/v1/txt2img"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(served.txt2img(steps=1), answer)
    jsonschema.validate(SMALL | {"scheduler": None}, schemas["Txt2Img"])
    described = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    app = create_app(Settings(spool=served.spool.root, cache=served.spool.root.parent / "cache-x"))
    there = {
        (path, method)
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("sdapi_") and "openapi" not in rule.rule
        for path in spelled(rule.rule)
        for method in rule.methods & {"GET", "POST"}
    }
    assert described == there


def spelled(rule: str) -> list[str]:
    """The paths of a rule of Flask's whose only variable is a choice of words."""
    head, choice, rest = rule.partition("<any(")
    return [head + word.strip(" '") for word in rest.partition(")")[0].split(",")] if choice else [rule]


def test_options_are_kept_and_what_cannot_be_is_told(served: Web) -> None:
    assert served.post("/sdapi/v1/options", {"CLIP_stop_at_last_layers": 2, "show_progress_every_n_steps": 3}).json() is None
    assert served.get("/sdapi/v1/options")["CLIP_stop_at_last_layers"] == 2
    assert json.loads(served.txt2img(steps=1)["info"])["clip_skip"] == 2
    override = {"CLIP_stop_at_last_layers": 1, "sd_model_checkpoint": "demo.safetensors"}
    told = served.txt2img(steps=1, override_settings=override, override_settings_restore_afterwards=False)
    assert json.loads(told["info"])["clip_skip"] == 1 and served.get("/sdapi/v1/options")["CLIP_stop_at_last_layers"] == 1
    answer = served.post("/sdapi/v1/options", {"sd_model_checkpoint": "nope"})
    assert answer.status_code == 500 and answer.json()["error"] == "RuntimeError"
    assert answer.json()["errors"] == 'model "nope" not found'
    assert served.post("/sdapi/v1/options", {"randn_source": "GPU"}).status_code == 500


# -- errors, always JSON -------------------------------------------------------------------------------------------------------

HTTP = {"error": "HTTPException", "body": ""}


@pytest.mark.parametrize(
    ("method", "path", "given", "status", "part"),
    [
        ("GET", "/sdapi/v1/nothing", None, 404, {"detail": "Not Found"}),
        ("POST", "/sdapi/v1/interrogate", {"image": "x"}, 404, {"detail": "Not Found"}),
        ("POST", "/sdapi/v1/server-kill", None, 404, {"detail": "Not Found"}),
        ("GET", "/sdapi/v1/txt2img", None, 405, {"detail": "Method Not Allowed"}),
        ("DELETE", "/internal/ping", None, 405, {"detail": "Method Not Allowed"}),
        ("POST", "/sdapi/v1/img2img", {"prompt": "a"}, 404, HTTP | {"detail": "Init image not found"}),
        ("POST", "/sdapi/v1/txt2img", {"prompt": "a", "sampler_name": "x"}, 400, HTTP | {"detail": "Sampler not found"}),
        ("POST", "/sdapi/v1/png-info", {"image": "x"}, 500, HTTP | {"detail": "Invalid encoded image"}),
        ("POST", "/sdapi/v1/png-info", {"image": "http://a/b"}, 500, HTTP | {"detail": "Requests not allowed"}),
    ],
)
def test_an_error_has_a1111_s_shape(served: Web, method: str, path: str, given: Any, status: int, part: dict[str, str]) -> None:
    answer = requests.request(method, served.address + path, json=given, timeout=60)
    assert answer.status_code == status and answer.headers["Content-Type"] == "application/json"
    assert part.items() <= answer.json().items() and float(answer.headers["X-Process-Time"]) >= 0


@pytest.mark.parametrize(
    ("given", "place", "message", "kind"),
    [
        (b'{"width": "wide"}', ["body", "width"], "value is not a valid integer", "type_error.integer"),
        (b'{"styles": "anime"}', ["body", "styles"], "value is not a valid list", "type_error.list"),
        (b'{"enable_hr": "maybe"}', ["body", "enable_hr"], "value could not be parsed to a boolean", "type_error.bool"),
        (b'{"prompt": []}', ["body", "prompt"], "str type expected", "type_error.str"),
        (b'{"n_iter": 0}', ["body", "n_iter"], "ensure this value is greater than or equal to 1", "value_error.number.not_ge"),
        (b"", ["body"], "field required", "value_error.missing"),
        (b"nonsense", ["body"], "Expecting value: line 1 column 1 (char 0)", "value_error.jsondecode"),
        (b"[]", ["body"], "value is not a valid dict", "type_error.dict"),
        (b'{"a":' * 30_000, ["body"], None, "value_error.jsondecode"),
        (
            b'{"prompt": "a", "steps": 500}',
            ["body", "steps"],
            "`steps` must be less than or equal to 150, but is 500.",
            "value_error",
        ),
        (
            b'{"prompt": "a", "cfg_scale": 99}',
            ["body", "cfg_scale"],
            "`cfg_scale` must be less than or equal to 30, but is 99.0.",
            "value_error",
        ),
    ],
)
def test_a_mistake_is_told_as_fastapi_does_by_the_client_s_names(
    served: Web, given: bytes, place: list[str], message: str | None, kind: str
) -> None:
    answer = requests.post(f"{served.address}/sdapi/v1/txt2img", data=given, timeout=60)
    (told,) = answer.json()["detail"]
    assert answer.status_code == 422 and (told["loc"], told["type"]) == (place, kind)
    assert message in (None, told["msg"])


@pytest.mark.parametrize(
    ("path", "mib"), [("/sdapi/v1/txt2img", 65), ("/sdapi/v1/options", 5)], ids=["by waitress", "by the app"]
)
def test_s5_a_request_that_is_too_large_is_told_in_json(served: Web, path: str, mib: int) -> None:
    with socket.create_connection(("127.0.0.1", served.port), 60) as sent:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {mib << 20}\r\n\r\n"
        sent.sendall(head.encode())
        if mib < 64:
            sent.sendall(b" " * (mib << 20))
        told = b"".join(iter(lambda: sent.recv(65536), b""))
    head, _, body = told.partition(b"\r\n\r\n")
    assert b" 413 " in head.splitlines()[0] and json.loads(body)["error"] == "HTTPException"


# -- while it runs -------------------------------------------------------------------------------------------------------------


def test_progress_then_interrupt_answers_200_with_what_is_finished(house: House) -> None:
    spool, served = house.spool, house.served
    idle = served.get("/sdapi/v1/progress")
    assert list(idle["state"]) == STATE.split() and (idle["progress"], idle["state"]["job_count"]) == (0, 0)
    with beside(lambda: served.txt2img(**LONG, force_task_id="task(abc)")) as answer:
        wait_running(spool, "task-abc")
        shown = wait_for(
            lambda: told if (told := served.get("/sdapi/v1/progress"))["state"]["job_no"] and told["current_image"] else None,
            "the second picture's preview",
        )
        assert list(shown) == ["progress", "eta_relative", "state", "current_image", "textinfo"]
        state = shown["state"]
        within = state["sampling_step"] / state["sampling_steps"]
        assert list(state) == STATE.split() and state["job_count"] == 9 and state["sampling_steps"] == 80
        assert shown["progress"] == pytest.approx(0.01 + state["job_no"] / 9 + within / 9, abs=1e-3)
        assert opened(shown["current_image"]).width > 0 and shown["eta_relative"] > 0
        assert served.get("/sdapi/v1/progress?skip_current_image=true")["current_image"] is None
        task = served.post("/internal/progress", {"id_task": "task(abc)", "id_live_preview": -1}).json()
        assert (task["active"], task["queued"], task["completed"]) == (True, False, False) and 0 < task["progress"] < 1
        assert task["live_preview"].startswith("data:image/jpeg;base64,") and task["id_live_preview"] > 0
        assert served.post("/sdapi/v1/skip").json()["detail"] == "Cannot skip", "one of several is not left out"
        assert served.post("/sdapi/v1/interrupt").json() == {}
        told = answer.result()
    info = json.loads(told["info"])
    assert 1 <= len(told["images"]) < 9 and list(info) == INFO.split() and len(info["all_seeds"]) == 9
    assert [opened(each).info["parameters"] for each in told["images"]] == info["infotexts"]
    assert served.post("/internal/progress", {"id_task": "task(abc)"}).json()["completed"] is True
    assert wait_for(lambda: served.get("/sdapi/v1/progress")["state"]["job_count"] == 0, "it to be idle")


def test_interrupt_leaves_what_waits_alone_and_a_task_sees_its_place_in_the_queue(house: House) -> None:
    spool, served = house.spool, house.served
    with beside(lambda: served.txt2img(**LONG, force_task_id="first")) as first:
        wait_running(spool, "first")
        with beside(lambda: served.txt2img(steps=2, force_task_id="second")) as second:
            wait_for(lambda: served.get("/internal/pending-tasks") == {"size": 1, "tasks": ["second"]}, "the second to wait")
            task = served.post("/internal/progress", {"id_task": "second"}).json()
            assert task["queued"] and task["textinfo"] == "In queue: 1/1" and task["progress"] is None
            served.post("/sdapi/v1/interrupt")
            assert len(second.result()["images"]) == 1
        assert list(json.loads(first.result()["info"])) == INFO.split()
    nobody = served.post("/internal/progress", {"id_task": "nobody"}).json()
    assert (nobody["active"], nobody["queued"], nobody["completed"]) == (False, False, False)
    # A1111's clients use a task's id again: the job is another, and the task is the last of them.
    served.txt2img(steps=1, force_task_id="second")
    assert spool.find("second-2") and served.post("/internal/progress", {"id_task": "second"}).json()["completed"]


def test_s12_two_that_wait_and_twenty_that_poll_do_not_block_each_other_and_a_third_has_no_seat(
    house: House,
) -> None:
    spool = house.spool
    with web(spool, "--web-threads=4") as narrow, ThreadPoolExecutor(22) as pool:
        waiting = [pool.submit(narrow.txt2img, **LONG, force_task_id=f"wait{number}") for number in range(2)]
        wait_for(lambda: spool.find("wait0") and spool.find("wait1"), "both jobs")
        polls = [pool.submit(narrow.get, "/sdapi/v1/progress") for _ in range(20)]
        assert all(list(each.result()["state"]) == STATE.split() for each in polls)
        assert not any(each.done() for each in waiting)
        refused = narrow.post("/sdapi/v1/txt2img", SMALL)
        assert refused.status_code == 503 and refused.headers["Retry-After"] and "As many" in refused.json()["detail"]
        for number in range(2):
            spool.cancel(f"wait{number}")
        assert all(list(json.loads(each.result()["info"])) == INFO.split() for each in waiting)


def hang_up(served: Web, given: dict[str, Any]) -> socket.socket:
    """A client that sends a txt2img; close it to hang up."""
    data = json.dumps(given).encode()
    sent = socket.create_connection(("127.0.0.1", served.port), 60)
    sent.sendall(f"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    return sent


def test_a_job_is_cancelled_when_its_caller_hangs_up_if_so_set(house: House) -> None:
    spool, served = house.spool, house.served
    with web(spool, "--cancel-abandoned=on", "--web-threads=2") as strict:
        sent = hang_up(strict, LONG | {"force_task_id": "gone"})
        wait_running(spool, "gone")
        sent.close()
        wait_for(lambda: (place := spool.find("gone")) and place.state == "cancelled", "it to be cancelled")
        # Its seat, the only one, is free again.
        wait_for(lambda: strict.post("/sdapi/v1/txt2img", SMALL | {"steps": 1}).status_code == 200, "the seat")
    sent = hang_up(served, SMALL | {"force_task_id": "stays"})
    wait_for(lambda: spool.find("stays"), "the job")
    sent.close()
    wait_for(lambda: (place := spool.find("stays")) and place.state == "done", "it to be done all the same")


def test_p6_a_spooler_that_is_killed_and_restarted_in_mid_wait_is_waited_for(house: House) -> None:
    spool, served = house.spool, house.served
    with beside(lambda: served.txt2img(**SMALL | {"steps": 60, "n_iter": 2}, force_task_id="survives")) as answer:
        wait_running(spool, "survives")
        house.spooler.kill()
        house.start()
        told = answer.result()
    assert len(told["images"]) == 2 and json.loads(told["info"])["all_seeds"] == [5, 6]


# -- ends that are no pictures, by the spool's own verbs: no engine ------------------------------------------------------------


@pytest.fixture
def app(spool: Spool) -> Flask:
    return create_app(Settings(spool=spool.root, cache=spool.root.parent / "cache", floor_mib=0.0))


def end(spool: Spool, state: End, code: str = "", reason: str = "") -> None:
    place = spool.claim("end.json", "me")
    assert place
    record = Record(id="end", queued=utc_now())
    spool.prepare(place, record)
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
