"""The A1111 API over the real web app, the real spooler and the demo model, with clients from the registries as they are."""

from __future__ import annotations

import base64
import json
import socket
from pathlib import Path
from typing import Any

import jsonschema
import npm
import pytest
import requests
import sd_parsers
import webuiapi
from a1111 import INFO, RED, SMALL, Web, api, house, opened, served
from PIL import Image

from bench.shape_checker import look
from spooler.settings import Settings
from webui.app import create_app
from webui.sdapi import description

__all__ = ["api", "house", "served"]

HTTP = {"error": "HTTPException", "body": ""}

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
        (
            b'{"override_settings": {"a": NaN}}',
            ["body"],
            "A job must have finite numbers, but this has NaN.",
            "value_error.jsondecode",
        ),
        (b'{"a": -1e400}', ["body"], "A job must have finite numbers, but this has -1e400.", "value_error.jsondecode"),
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
        (
            b'{"prompt": "a", "enable_hr": true, "hr_resize_y": 1' + 400 * b"0" + b"}",
            ["body", "hr_resize_y"],
            None,
            "value_error.number.not_le",
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
