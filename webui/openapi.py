"""The API's description as OpenAPI 3.1: the paths from one table, the bodies from the models that the views send."""

from __future__ import annotations

import functools
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from spooler import __version__
from spooler.ids import ID
from spooler.job_schema import with_sweeps
from spooler.strict_json import MAX_BYTES
from webui.openapi_parts import MULTIPART
from webui.openapi_routes import MODELS, OF_EVENTS, OF_FORM, ROUTES


@functools.cache
def document() -> dict[str, Any]:
    """The whole document."""
    _, schemas = models_json_schema(
        [(model, "serialization") for model in (*MODELS, *OF_EVENTS, *OF_FORM)], ref_template="#/components/schemas/{model}"
    )
    components = schemas["$defs"]
    written = with_sweeps(components["Job"])
    wanted = {"type": ["string", "null"], "pattern": f"^{ID.pattern}$", "description": "An id of your own."}
    components["Fields"] = written | {"title": "Fields"}
    components["Submission"] = written | {"title": "Submission", "properties": written["properties"] | {"id": wanted}}
    paths: dict[str, Any] = {}
    for path, method, summary, parameters, takes_job, answers in ROUTES:
        operation: dict[str, Any] = {
            "summary": summary,
            "parameters": parameters,
            "responses": {str(status): _answer(*told) for status, told in answers.items()},
        }
        if isinstance(takes_job, dict):
            operation["requestBody"] = {"required": True, "content": takes_job}
        elif isinstance(takes_job, str):
            schema = {"schema": {"$ref": f"#/components/schemas/{takes_job}"}}
            kind = "multipart/form-data" if takes_job == "Picture" else "application/json"
            operation["requestBody"] = {"required": True, "content": {kind: schema}}
        elif takes_job:
            operation["requestBody"] = {
                "required": True,
                "description": f"The job, at most {MAX_BYTES} bytes; with pictures as multipart/form-data.",
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Submission"}},
                    "multipart/form-data": {"schema": MULTIPART},
                },
            }
        paths.setdefault(path, {})[method] = operation
    return _guarded(
        {
            "openapi": "3.1.0",
            "info": {"title": "sdspool", "version": __version__, "license": {"name": "MIT", "identifier": "MIT"}},
            "paths": paths,
            "components": {"schemas": components},
        }
    )


def _guarded(document: dict[str, Any]) -> dict[str, Any]:
    """The document with what the guard may answer before a route is asked, and how a key is sent."""
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    told = {
        "401": "People need a key here, and there is none, or a wrong one.",
        "403": "Another site's page sent this, or the job is somebody else's.",
        "415": "The Content-Type is not application/json.",
        "421": "The Host is no name of this server.",
        "429": "Too many wrong keys, jobs or requests at once; Retry-After tells when to try again, in seconds.",
    }
    for path, operations in document["paths"].items():
        free = path in ("/healthz", "/readyz")
        for method, operation in operations.items():
            for status, sentence in told.items():
                if (free and status != "421") or (status == "415" and method in ("get", "head")):
                    continue
                operation["responses"].setdefault(status, {"description": sentence, "content": error})
            if free:
                operation["security"] = []
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "The secret of a key."},
        "basic": {"type": "http", "scheme": "basic", "description": "The name and the secret of a key."},
    }
    document["security"] = [{"bearer": []}, {"basic": []}, {}]
    return document


def _answer(description: str, body: type[BaseModel] | str) -> dict[str, Any]:
    if body == "":
        return {"description": description}
    if isinstance(body, str):
        schema: dict[str, Any] = {"type": "object"} if body == "application/json" else {}
        return {"description": description, "content": {body: {"schema": schema}}}
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}},
    }
