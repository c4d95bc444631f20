"""This API as OpenAPI 3.1: the requests from their rows, the answers with exactly A1111's keys."""

from __future__ import annotations

import functools
from typing import Any

from flask import Blueprint, Response, jsonify
from pydantic import BaseModel

from spooler import __version__
from webui.proxies import at_prefix
from webui.sdapi import requests

blueprint = Blueprint("sdapi_description", __name__)

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}
TRUTH: Schema = {"type": "boolean"}
NULL: Schema = {"type": "null"}
TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
NUMBER_OR_NULL: Schema = {"type": ["number", "null"]}
TEXTS: Schema = {"type": "array", "items": TEXT}
ANY: Schema = {"type": "object"}
NOTHING: Schema = {"type": "object", "maxProperties": 0}


def _exactly(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _list_of(**properties: Schema) -> Schema:
    return {"type": "array", "items": _exactly(**properties)}


STATE = _exactly(
    skipped=TRUTH,
    interrupted=TRUTH,
    stopping_generation=TRUTH,
    job=TEXT,
    job_count=WHOLE,
    job_timestamp=TEXT,
    job_no=WHOLE,
    sampling_step=WHOLE,
    sampling_steps=WHOLE,
)
PROGRESS = _exactly(
    progress=NUMBER | {"minimum": 0, "maximum": 1},
    eta_relative=NUMBER,
    state=STATE,
    current_image=TEXT_OR_NULL,
    textinfo=TEXT_OR_NULL,
)
TASK = _exactly(
    active=TRUTH,
    queued=TRUTH,
    completed=TRUTH,
    progress=NUMBER_OR_NULL,
    eta=NUMBER_OR_NULL,
    live_preview=TEXT_OR_NULL,
    id_live_preview=WHOLE,
    textinfo=TEXT_OR_NULL,
)
DRAWN = _exactly(images=TEXTS, parameters=ANY, info=TEXT)
#: Route -> what it answers with 200.
GETS: dict[str, Schema] = {
    "/sdapi/v1/progress": PROGRESS,
    "/sdapi/v1/options": ANY,
    "/sdapi/v1/cmd-flags": ANY,
    "/sdapi/v1/samplers": _list_of(name=TEXT, aliases=TEXTS, options=ANY),
    "/sdapi/v1/schedulers": _list_of(
        name=TEXT,
        label=TEXT,
        aliases={"anyOf": [TEXTS, NULL]},
        default_rho=NUMBER,
        need_inner_model=TRUTH,
    ),
    "/sdapi/v1/upscalers": _list_of(
        name=TEXT, model_name=TEXT_OR_NULL, model_path=TEXT_OR_NULL, model_url=TEXT_OR_NULL, scale=NUMBER_OR_NULL
    ),
    "/sdapi/v1/latent-upscale-modes": _list_of(name=TEXT),
    "/sdapi/v1/sd-models": _list_of(
        title=TEXT, model_name=TEXT, hash=TEXT_OR_NULL, sha256=TEXT_OR_NULL, filename=TEXT, config=TEXT_OR_NULL
    ),
    "/sdapi/v1/sd-vae": _list_of(model_name=TEXT, filename=TEXT),
    "/sdapi/v1/loras": _list_of(name=TEXT, alias=TEXT, path=TEXT, metadata=ANY),
    "/sdapi/v1/hypernetworks": _list_of(name=TEXT, path=TEXT_OR_NULL),
    "/sdapi/v1/face-restorers": _list_of(name=TEXT, cmd_dir=TEXT_OR_NULL),
    "/sdapi/v1/realesrgan-models": _list_of(name=TEXT, path=TEXT_OR_NULL, scale=NUMBER),
    "/sdapi/v1/prompt-styles": _list_of(name=TEXT, prompt=TEXT_OR_NULL, negative_prompt=TEXT_OR_NULL),
    "/sdapi/v1/extensions": {"type": "array"},
    "/sdapi/v1/embeddings": _exactly(loaded=ANY, skipped=ANY),
    "/sdapi/v1/scripts": _exactly(txt2img=TEXTS, img2img=TEXTS),
    "/sdapi/v1/script-info": _list_of(name=TEXT, is_alwayson=TRUTH, is_img2img=TRUTH, args={"type": "array"}),
    "/sdapi/v1/memory": _exactly(ram=ANY, cuda=ANY),
    "/internal/ping": NOTHING,
    "/internal/pending-tasks": _exactly(size=WHOLE, tasks=TEXTS),
    "/controlnet/model_list": _exactly(model_list=TEXTS),
    "/controlnet/module_list": _exactly(module_list=TEXTS, module_detail=ANY),
}
#: Route -> its body and what it answers with 200.
POSTS: dict[str, tuple[type[BaseModel] | Schema | None, Schema]] = {
    "/sdapi/v1/txt2img": (requests.Txt2Img, DRAWN),
    "/sdapi/v1/img2img": (requests.Img2Img, DRAWN),
    "/sdapi/v1/extra-single-image": (requests.ExtraSingle, _exactly(html_info=TEXT, image=TEXT)),
    "/sdapi/v1/extra-batch-images": (requests.ExtraBatch, _exactly(html_info=TEXT, images=TEXTS)),
    "/sdapi/v1/png-info": (requests.PngInfo, _exactly(info=TEXT, items=ANY, parameters=ANY)),
    "/sdapi/v1/options": (ANY, NULL),
    "/internal/progress": (requests.TaskProgress, TASK),
    "/sdapi/v1/interrupt": (None, NOTHING),
    "/sdapi/v1/skip": (None, NULL),
    "/sdapi/v1/refresh-checkpoints": (None, NULL),
    "/sdapi/v1/refresh-vae": (None, NULL),
    "/sdapi/v1/refresh-embeddings": (None, NULL),
    "/sdapi/v1/refresh-loras": (None, NULL),
    "/sdapi/v1/unload-checkpoint": (None, NOTHING),
    "/sdapi/v1/reload-checkpoint": (None, NOTHING),
}
#: Answers to those that wait for a job, and to those that have a body.
WAITING = {
    429: "As many jobs wait as may: again after Retry-After.",
    503: "As many requests wait as may, or the spool cannot be used: again after Retry-After.",
    504: "The job did not end in time, and goes on.",
    507: "The disk is full: the job was not accepted.",
}
BODIED = {
    400: "Sampler not found, or Scheduler not found.",
    413: "The request is too large.",
    500: "The job failed, a picture is none, or what an option names is not there.",
}
ERROR = {
    "anyOf": [
        _exactly(error=TEXT, detail=TEXT, body=TEXT, errors=TEXT),
        _exactly(detail=TEXT),
        _exactly(detail=_list_of(loc={"type": "array"}, msg=TEXT, type=TEXT)),
    ]
}


@blueprint.get("/sdapi/v1/openapi.json")
def openapi() -> Response:
    return jsonify(at_prefix(document()))


@functools.cache
def document() -> Schema:
    """The description as a JSON object."""
    paths: dict[str, Schema] = {path: {"get": _operation("get", path, answer)} for path, answer in GETS.items()}
    skip = {"name": "skip_current_image", "in": "query", "schema": TEXT}
    paths["/sdapi/v1/progress"]["get"]["parameters"] = [skip]
    schemas: Schema = {"Error": ERROR}
    for path, (body, answer) in POSTS.items():
        operation = _operation("post", path, answer)
        if body is not None:
            schema: Schema = body if isinstance(body, dict) else {"$ref": f"#/components/schemas/{body.__name__}"}
            if not isinstance(body, dict):
                schemas |= _schemas(body)
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
            operation["responses"] |= _answers({422: "A value that is wrong, or asks for what cannot be done."} | BODIED)
        if path.endswith(("txt2img", "img2img", "single-image", "batch-images")):
            operation["responses"] |= _answers(WAITING)
        if path.endswith("img2img"):
            operation["responses"] |= _answers({404: "Init image not found."})
        if path.endswith(("skip", "interrupt")):
            operation["responses"] |= _answers({400: "One of several pictures cannot be skipped.", 403: "Not yours."})
        paths.setdefault(path, {})["post"] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "sdspool: the A1111 API", "version": __version__, "description": "See docs/api-a1111.md."},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(method: str, path: str, answer: Schema) -> Schema:
    name = path.strip("/").replace("/", "_").replace("-", "_")
    told = {"description": "As A1111 answers.", "content": {"application/json": {"schema": answer}}}
    return {"operationId": f"{method}_{name}", "responses": {"200": told}}


def _answers(told: dict[int, str]) -> Schema:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {str(status): {"description": about, "content": error} for status, about in told.items()}


def _schemas(model: type[BaseModel]) -> Schema:
    """The request's schema and those it is made of: values may have other types that mean the same, and null is the default."""
    whole = model.model_json_schema(ref_template="#/components/schemas/{model}")
    found = {**whole.pop("$defs", {}), model.__name__: whole}
    for schema in found.values():
        for name, field in schema.get("properties", {}).items():
            field.pop("verdict", None)
            told = {key: field.pop(key) for key in ("title", "default", "description") if key in field}
            choices = _coerced([each for each in field.pop("anyOf", [field]) if each != NULL])
            null = [] if name in schema.get("required", ()) else [NULL]
            schema["properties"][name] = told | {"anyOf": [*choices, *null]}
    return found


def _coerced(choices: list[Schema]) -> list[Schema]:
    """What is taken in the place of one of these: texts that are numbers, numbers that are texts, and so on."""
    found = list(choices)
    for choice in choices:
        match choice.get("type"):
            case "integer":
                # A fraction is cut off; a bound is of the number that is left, so it is told of whole ones only.
                found += [{"type": "number", "not": WHOLE}, TRUTH, {"type": "string", "pattern": r"^[+-]?\d+(\.0*)?$"}]
            case "number":
                found += [TRUTH, {"type": "string", "pattern": r"^[+-]?\d+(\.\d*)?([eE][+-]?\d+)?$"}]
            case "boolean":
                found += [{"enum": [0, 1]}, {"enum": [*"01tfyn", "true", "false", "yes", "no", "on", "off"]}]
            case "string":
                found.append(NUMBER)
    return found
