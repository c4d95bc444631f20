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
from webui.actions import MOST_PRIORITY, BatchReport, QueueReport
from webui.live import LiveReport
from webui.reports import JobList, JobReport, ReadyReport, RejectedList
from webui.status import StatusReport


class ErrorBody(BaseModel):
    """What went wrong."""

    code: str = Field(description="For programs.")
    message: str = Field(description="For people: a sentence with the rule and the value.")
    fields: dict[str, list[str]] = Field(description="The sentences by the field that they are about.")


class Error(BaseModel):
    """Every answer of 400 and above."""

    error: ErrorBody


class Priority(BaseModel):
    """Another priority for a waiting job."""

    priority: int | None = Field(ge=-MOST_PRIORITY, le=MOST_PRIORITY, description="Higher goes first; null: the job's own.")


class Health(BaseModel):
    """The web app is alive."""

    status: str


_MODELS = (
    *(Job, JobReport, JobList, RejectedList, ReadyReport, QueueReport, BatchReport, Catalogue, Priority, Error, Health),
    *(LiveReport, StatusReport),
)
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

_Route = tuple[str, str, str, list[dict[str, Any]], bool | str, dict[int, tuple[str, type[BaseModel] | str]]]


def _action(verb: str, about: str) -> _Route:
    """A verb that is done to a job by a POST without a body."""
    done = (200, ("Done; the job as it is then.", JobReport))
    refused = (409, ("Its state does not allow it.", Error))
    return (f"/api/v1/jobs/{{job_id}}/{verb}", "post", about, [_ID], False, dict((done, refused, *_NOT_FOUND.items())))


#: path, method, summary, parameters, whether a job, or the schema of what else, is the body, answers by status.
_ROUTES: tuple[_Route, ...] = (
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
            429: ("As many jobs wait as may; Retry-After tells when to try again, in seconds.", Error),
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
        "Send a failed or cancelled job back to the queue",
        [_ID],
        False,
        {200: ("It waits again.", JobReport), 409: ("It has neither failed nor been cancelled.", Error), **_NOT_FOUND},
    ),
    _action("hold", "Keep a waiting job from being run"),
    _action("release", "Let a held job go on"),
    _action("top", "Move a waiting job to the top of the queue"),
    _action("star", "Spare a finished job from retention"),
    _action("unstar", "Take the star away"),
    (
        "/api/v1/jobs/{job_id}/priority",
        "post",
        "Give a waiting job another priority than its own",
        [_ID],
        "Priority",
        {200: ("Done.", JobReport), 400: ("No such priority.", Error), 409: ("It does not wait.", Error), **_NOT_FOUND},
    ),
    ("/api/v1/queue", "get", "Tell about the queue as a whole", [], False, {200: ("The queue.", QueueReport)}),
    ("/api/v1/queue/pause", "post", "Stop claiming; what runs is finished", [], False, {200: ("Paused.", QueueReport)}),
    ("/api/v1/queue/resume", "post", "Go on claiming", [], False, {200: ("Not paused.", QueueReport)}),
    (
        "/api/v1/batches/{batch_id}",
        "get",
        "Tell how far the jobs of a dropped file are",
        [{**_ID, "name": "batch_id"}],
        False,
        {200: ("The batch.", BatchReport), **_NOT_FOUND},
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
        {200: ("The preview.", "image/jpeg"), 204: ("There is none just now.", ""), **_NOT_FOUND},
    ),
    (
        "/api/v1/live",
        "get",
        "Tell what moves, for pages that ask again and again; Poll-After-Ms says after how long, 304 answers If-None-Match",
        [{"name": "job", "in": "query", "schema": {"type": "string"}, "description": "Tell of this job too."}],
        False,
        {200: ("What moves.", LiveReport), 304: ("Not changed.", "")},
    ),
    (
        "/api/v1/status",
        "get",
        "Tell how the server is: spoolers, engines, disk, queue, and the last day; answers 304 to a matching If-None-Match",
        [],
        False,
        {200: ("How it is.", StatusReport), 304: ("Not changed.", "")},
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
        if isinstance(takes_job, str):
            schema = {"schema": {"$ref": f"#/components/schemas/{takes_job}"}}
            operation["requestBody"] = {"required": True, "content": {"application/json": schema}}
        elif takes_job:
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
