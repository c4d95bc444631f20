"""The API under /v1 as OpenAPI 3.1: what `GET /v1/openapi.json` answers."""

from __future__ import annotations

import functools
from typing import Any

from spooler import __version__
from spooler.job import MAX_PROMPT, Job
from webui.openai_api import asked

_SIDES = "|".join(str(side) for side in range(64, 2049, 8))


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _fields() -> dict[str, Any]:
    """Each parameter of a generation with its rule."""
    own = Job.model_json_schema(ref_template="#/components/schemas/{model}")["properties"]
    # Its default is the server's model's, or as the job has it; a list would be a sweep, which this API has not.
    ours = {name: {key: rule for key, rule in own[name].items() if key != "default"} for name in asked.OWN}
    enums: dict[str, tuple[str, ...]] = {
        "response_format": ("b64_json", "url"),
        "output_format": asked.FORMATS,
        "quality": tuple(asked.QUALITY),
        "background": ("auto", "opaque"),
    }
    named = {name: _or_null({"enum": list(values)}) for name, values in enums.items()}
    without: dict[str, Any] = {
        name: {**_or_null({"enum": list(rule)} if rule else {"type": "string"}), "description": "Without effect."}
        for name, rule in asked.WITHOUT_EFFECT.items()
    }
    return {
        "prompt": {"type": "string", "minLength": 1, "maxLength": MAX_PROMPT},
        "model": _or_null({"type": "string"}),
        "n": _or_null({"type": "integer", "minimum": 1, "maximum": asked.MOST_PICTURES}),
        "size": _or_null({"type": "string", "pattern": f"^(|auto|({_SIDES})x({_SIDES}))$"}),
        "output_compression": _or_null({"type": "integer", "minimum": 0, "maximum": 100}),
        "stream": _or_null({"type": "boolean"}),
        "partial_images": _or_null({"type": "integer", "minimum": 0, "maximum": asked.MOST_PARTIALS}),
        "user": {
            **_or_null({"type": "string", "maxLength": 128}),
            "description": "The job's owner, unless a key tells.",
        },
        **named,
        **without,
        **{name: _or_null(rule) for name, rule in ours.items()},
    }


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_MODEL = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
    },
}
_MODELS = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": _ref("Model")}},
}
_IMAGES = {
    "type": "object",
    "required": ["created", "data"],
    "properties": {
        "created": {"type": "integer"},
        "data": {
            "type": "array",
            "items": {"type": "object", "properties": {"b64_json": {"type": "string"}, "url": {"type": "string"}}},
        },
        "background": {"const": "opaque"},
        "output_format": {"enum": list(asked.FORMATS)},
        "size": {"type": "string"},
        "quality": {"type": "string"},
        "without_effect": {"type": "array", "items": {"type": "string"}},
    },
}
_KEY = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}}
_FAILURES = {
    400: "A parameter is refused, or all pictures were withheld.",
    404: "There is no such model.",
    409: "The job was cancelled, or removed.",
    413: "The request is too large.",
    415: "The Content-Type is another.",
    429: "As many jobs wait as may: again after Retry-After.",
    500: "The job failed; it is not to be sent again.",
    503: "As many requests wait as may: again after Retry-After.",
    504: "The job did not end in time, and goes on.",
    507: "The disk is full; the job was not accepted.",
}


def _told(description: str, name: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _ref(name)}}}


def _drawing(summary: str, content: dict[str, Any]) -> dict[str, Any]:
    good = _told("The pictures; with `stream` as server-sent events.", "Images")
    good["content"]["text/event-stream"] = {"schema": {}}
    failures = {str(status): _told(why, "Error") for status, why in _FAILURES.items()}
    body = {"required": True, "content": content}
    return {"post": {"summary": summary, "parameters": [_KEY], "requestBody": body, "responses": {"200": good, **failures}}}


@functools.cache
def document() -> dict[str, Any]:
    """The whole document."""
    parts = Job.model_json_schema(ref_template="#/components/schemas/{model}")["$defs"]
    generation = {"type": "object", "required": ["prompt"], "properties": _fields(), "additionalProperties": False}
    text = {"type": "string"}
    edit = {
        "type": "object",
        "required": ["prompt", "image"],
        "properties": {
            **dict.fromkeys(asked.EDITS, text),
            "prompt": {"type": "string", "minLength": 1, "maxLength": MAX_PROMPT},
            "image": {"type": "string", "contentMediaType": "image/*", "description": "`image[]` is taken, too."},
            "mask": {"type": "string", "contentMediaType": "image/*", "description": "What is transparent is edited."},
        },
    }
    name = {"name": "name", "in": "path", "required": True, "schema": text}
    one = {"200": _told("The model.", "Model"), "404": _told("There is none.", "Error")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "sdspool, as OpenAI's images API", "version": __version__},
        "paths": {
            "/v1/images/generations": _drawing(
                "Draw pictures of what a prompt says", {"application/json": {"schema": _ref("Generation")}}
            ),
            "/v1/images/edits": _drawing(
                "Start from a picture, or repaint a part of it", {"multipart/form-data": {"schema": _ref("Edit")}}
            ),
            "/v1/models": {"get": {"summary": "The models", "responses": {"200": _told("All of them.", "Models")}}},
            "/v1/models/{name}": {"get": {"summary": "One model", "parameters": [name], "responses": one}},
            "/v1/openapi.json": {
                "get": {
                    "summary": "This document",
                    "responses": {
                        "200": {"description": "It.", "content": {"application/json": {"schema": {"type": "object"}}}}
                    },
                }
            },
        },
        "components": {
            "schemas": {
                **parts,
                "Generation": generation,
                "Edit": edit,
                "Images": _IMAGES,
                "Model": _MODEL,
                "Models": _MODELS,
                "Error": _ERROR,
                "Document": {"type": "object"},
            }
        },
    }
