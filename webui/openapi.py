"""The API's description as OpenAPI 3.1: the paths from one table, the bodies from the models that the views send."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from spooler import __version__
from spooler.catalogue import Catalogue
from spooler.ids import ID
from spooler.job import Job
from spooler.strict_json import MAX_BYTES
from webui.reports import JobList, JobReport, ReadyReport, RejectedList


class ErrorBody(BaseModel):
    """What went wrong."""

    code: str = Field(description="For programs.")
    message: str = Field(description="For people: a sentence with the rule and the value.")
    fields: dict[str, list[str]] = Field(description="The sentences by the field that they are about.")


class Error(BaseModel):
    """Every answer of 400 and above."""

    error: ErrorBody


class Health(BaseModel):
    """The web app is alive."""

    status: str


_MODELS = (Job, JobReport, JobList, RejectedList, ReadyReport, Catalogue, Error, Health)
_ID = {"name": "job_id", "in": "path", "required": True, "schema": {"type": "string"}}
_FILE = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "As the job's report lists it.",
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string"},
    "description": "A second request with the same key is answered with the first one's job.",
}
_LIST = [
    {"name": "status", "in": "query", "schema": JobReport.model_json_schema()["properties"]["status"]},
    {"name": "offset", "in": "query", "schema": {"type": "integer", "minimum": 0, "default": 0}},
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}},
    *(
        {"name": name, "in": "query", "schema": {"type": "string"}, "description": f"{told} Finished jobs only."}
        for name, told in (
            (
                "cursor",
                "`next_cursor` or `previous_cursor` of a page: it stays where it is while jobs arrive, as `offset` does not.",
            ),
            ("q", "Words, each the beginning of one in the prompt, id, owner or model."),
            ("owner", "The owner, as given."),
            ("model", "Name of the model that ran the job."),
            ("batch", "Id of the batch that the job came in."),
        )
    ),
]
_MULTIPART = {
    "type": "object",
    "required": ["job"],
    "properties": {"job": {"$ref": "#/components/schemas/Submission"}},
    "additionalProperties": {"type": "string", "contentMediaType": "image/*"},
    "description": "The part `job` is the job as JSON; each other part is a picture, its file name the one that the job names.",
}
_NOT_FOUND = {404: ("There is no such job.", Error)}

#: path, method, summary, parameters, whether a job is the body, answers by status.
_ROUTES: tuple[tuple[str, str, str, list[dict[str, Any]], bool, dict[int, tuple[str, type[BaseModel] | str]]], ...] = (
    (
        "/api/v1/jobs",
        "post",
        "Submit a job",
        [_KEY],
        True,
        {
            201: ("Accepted: the job is on disk, and a power cut cannot take it back.", JobReport),
            200: ("The job that the same Idempotency-Key made before.", JobReport),
            400: ("No valid job; every mistake is named.", Error),
            409: ("The id is taken.", Error),
            413: ("The request is too large.", Error),
            415: ("The Content-Type is neither application/json nor multipart/form-data.", Error),
            507: ("The disk is full; the job was not accepted.", Error),
        },
    ),
    ("/api/v1/jobs", "get", "List jobs", _LIST, False, {200: ("A page of jobs.", JobList), 400: ("A bad parameter.", Error)}),
    (
        "/api/v1/jobs/{job_id}",
        "get",
        "Tell about one job; answers 304 to a matching If-None-Match",
        [_ID],
        False,
        {200: ("The job.", JobReport), 304: ("Not changed.", ""), **_NOT_FOUND},
    ),
    (
        "/api/v1/jobs/{job_id}",
        "delete",
        "Cancel a job",
        [_ID],
        False,
        {
            200: ("Cancelled.", JobReport),
            202: ("It runs, and will stop at its next step.", JobReport),
            409: ("Too late: it had ended.", Error),
            **_NOT_FOUND,
        },
    ),
    (
        "/api/v1/jobs/{job_id}/retry",
        "post",
        "Send a failed job back to the queue",
        [_ID],
        False,
        {200: ("It waits again.", JobReport), 409: ("It has not failed.", Error), **_NOT_FOUND},
    ),
    (
        "/api/v1/jobs/{job_id}/images/{name}",
        "get",
        "Fetch a picture; with ?download as an attachment",
        [_ID, _FILE],
        False,
        {200: ("The picture.", "image/png"), **_NOT_FOUND},
    ),
    (
        "/api/v1/jobs/{job_id}/preview",
        "get",
        "Fetch a small rough preview of the picture at work",
        [_ID],
        False,
        {200: ("The preview.", "image/jpeg"), 404: ("There is no such job, or no preview of it just now.", Error)},
    ),
    (
        "/api/v1/models",
        "get",
        "List what a job may name: models, LoRAs, VAEs and so on",
        [],
        False,
        {200: ("As far as the spoolers have told.", Catalogue)},
    ),
    (
        "/api/v1/rejected",
        "get",
        "List dropped files that were no valid jobs",
        [],
        False,
        {200: ("With reasons.", RejectedList)},
    ),
    ("/api/v1/schema/job.json", "get", "JSON Schema of a job file", [], False, {200: ("The schema.", "application/json")}),
    ("/api/v1/openapi.json", "get", "This document", [], False, {200: ("OpenAPI 3.1.", "application/json")}),
    ("/healthz", "get", "Whether the web app is alive", [], False, {200: ("Alive.", Health)}),
    (
        "/readyz",
        "get",
        "Whether a job submitted now would run now",
        [],
        False,
        {200: ("Ready.", ReadyReport), 503: ("Not ready; the reason is in the body.", ReadyReport)},
    ),
)


def document() -> dict[str, Any]:
    """The whole document."""
    _, schemas = models_json_schema(
        [(model, "serialization") for model in _MODELS], ref_template="#/components/schemas/{model}"
    )
    components = schemas["$defs"]
    submission = {**components["Job"], "title": "Submission", "properties": dict(components["Job"]["properties"])}
    submission["properties"]["id"] = {"type": "string", "pattern": f"^{ID.pattern}$", "description": "An id of your own."}
    components["Submission"] = submission
    paths: dict[str, Any] = {}
    for path, method, summary, parameters, takes_job, answers in _ROUTES:
        operation: dict[str, Any] = {
            "summary": summary,
            "parameters": parameters,
            "responses": {str(status): _answer(*told) for status, told in answers.items()},
        }
        if takes_job:
            operation["requestBody"] = {
                "required": True,
                "description": f"The job, at most {MAX_BYTES} bytes; with pictures as multipart/form-data.",
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Submission"}},
                    "multipart/form-data": {"schema": _MULTIPART},
                },
            }
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "sdspool", "version": __version__, "license": {"name": "MIT", "identifier": "MIT"}},
        "paths": paths,
        "components": {"schemas": components},
    }


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
