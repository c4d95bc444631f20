"""What went wrong, in the shapes of A1111: an exception of its own, FastAPI's 422, Starlette's 404 and 405. Always JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from flask import Flask, Response, jsonify
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from spooler.mistakes import JobError, Mistake

#: Where its rules are in force.
PREFIXES = ("/sdapi/", "/internal/", "/controlnet/")
#: Routes whose JSON carries pictures; the others have no use for more than a text.
PICTURES = tuple(f"/sdapi/v1/{name}" for name in ("txt2img", "img2img", "extra-single-image", "extra-batch-images", "png-info"))
#: Our fields by A1111's names, so that a sentence names what the client has sent.
NAMES = {
    "guidance_scale": "cfg_scale",
    "sampler": "sampler_name",
    "strength": "denoising_strength",
    "variation_seed": "subseed",
    "variation_strength": "subseed_strength",
    "count": "batch_size",
    "model": "override_settings.sd_model_checkpoint",
    "vae": "override_settings.sd_vae",
    "clip_skip": "override_settings.CLIP_stop_at_last_layers",
    "hires": "enable_hr",
    "hires.scale": "hr_scale",
    "hires.steps": "hr_second_pass_steps",
    "hires.upscaler": "hr_upscaler",
    "hires.strength": "denoising_strength",
    "inpaint_padding": "inpaint_full_res_padding",
    "refiner": "refiner_checkpoint",
    "refiner.model": "refiner_checkpoint",
    "refiner.switch_at": "refiner_switch_at",
    "controls": "alwayson_scripts.controlnet",
    "controls.model": "alwayson_scripts.controlnet",
    "loras": "prompt",
    "upscale": "upscaling_resize",
    "upscale.scale": "upscaling_resize",
    "upscale.upscaler": "upscaler_1",
}
#: FastAPI's words at that time (pydantic 1) for what pydantic finds: sentence and code.
_WORDS = {
    "missing": ("field required", "value_error.missing"),
    "int": ("value is not a valid integer", "type_error.integer"),
    "float": ("value is not a valid float", "type_error.float"),
    "bool": ("value could not be parsed to a boolean", "type_error.bool"),
    "string": ("str type expected", "type_error.str"),
    "list": ("value is not a valid list", "type_error.list"),
    "dict": ("value is not a valid dict", "type_error.dict"),
    "model": ("value is not a valid dict", "type_error.dict"),
    "greater_than": ("ensure this value is greater than {gt}", "value_error.number.not_gt"),
    "greater_than_equal": ("ensure this value is greater than or equal to {ge}", "value_error.number.not_ge"),
    "less_than_equal": ("ensure this value is less than or equal to {le}", "value_error.number.not_le"),
    "literal_error": ("unexpected value; permitted: {expected}", "value_error.const"),
    "too_long": ("ensure this value has at most {max_length} items", "value_error.list.max_items"),
}


class AnswerError(Exception):
    """A request that cannot be served: A1111's HTTPException, or another of its exceptions by name. Met by the client."""

    def __init__(self, status: int, detail: str, name: str = "HTTPException", why: str = ""):
        super().__init__(detail)
        self.status, self.detail, self.name, self.why = status, detail, name, why


class BodyError(Exception):
    """A body that is no JSON object: met by the client, as FastAPI's 422."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def install(app: Flask) -> None:
    app.register_error_handler(AnswerError, lambda error: shape(error.status, error.detail, error.name, error.why))
    app.register_error_handler(ValidationError, _invalid)
    app.register_error_handler(BodyError, lambda error: _details([(["body"], str(error), error.kind)]))


def speaks(path: str) -> bool:
    """Whether a request to that path is answered in A1111's shapes."""
    return path.startswith(PREFIXES)


def carries_pictures(path: str) -> bool:
    """Whether the JSON of a request to that path may be as large as pictures are."""
    return path in PICTURES


def answer(status: int, message: str, mistakes: Iterable[Mistake] = ()) -> Response:
    """The error of any part of the app, by its status, as a client of this API knows it."""
    if status == 404:
        return _plain(404, "Not Found")
    if status == 405:
        return _plain(405, "Method Not Allowed")
    if status == 401:
        return _plain(401, message)
    if found := list(mistakes):
        return _details([(["body", *place(each.field)], named(each.message), "value_error") for each in found])
    if status >= 500:
        return shape(status, "", "RuntimeError" if status in (500, 502) else "HTTPException", message)
    return shape(status, message)


def shape(status: int, detail: str, name: str = "HTTPException", why: str = "") -> Response:
    """A1111's own: the exception's name, its detail, and itself as text."""
    response = jsonify(error=name, detail=detail or why, body="", errors=why)
    response.status_code = status
    return response


def place(field: str) -> list[str]:
    """Where a client finds the field in what it has sent."""
    renamed = NAMES.get(field) or NAMES.get(field.partition(".")[0], field)
    return renamed.split(".") if renamed else []


def named(sentence: str) -> str:
    """The sentence with A1111's names for our fields."""
    return re.sub(r"`([a-z_.]+)`", lambda match: f"`{NAMES.get(match[1], match[1])}`", sentence)


def refuse(field: str, sentence: str) -> JobError:
    """What is to be raised for a parameter that asks for what cannot be done: field, rule and value in one sentence."""
    return JobError(Mistake(field, sentence))


def _invalid(error: ValidationError) -> Response:
    return _details([(["body", *detail["loc"]], *_words(detail)) for detail in error.errors(include_url=False)])


def _words(detail: ErrorDetails) -> tuple[str, str]:
    kind = detail["type"]
    words = _WORDS.get(kind) or _WORDS.get(kind.partition("_")[0])
    if words is None:
        return detail["msg"], "value_error"
    return words[0].format(**detail.get("ctx", {})), words[1]


def _details(found: list[tuple[list[Any], str, str]]) -> Response:
    response = jsonify(detail=[{"loc": place, "msg": message, "type": kind} for place, message, kind in found])
    response.status_code = 422
    return response


def _plain(status: int, detail: str) -> Response:
    response = jsonify(detail=detail)
    response.status_code = status
    return response
