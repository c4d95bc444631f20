"""The API's description as OpenAPI 3.1: the paths from one table, the bodies from the models that the views send."""

from __future__ import annotations

import functools
from typing import Any

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from spooler import __version__
from spooler.catalogue import Catalogue
from spooler.client import ChangeView
from spooler.ids import ID
from spooler.job import SWEEPABLE, Job
from spooler.strict_json import MAX_BYTES
from webui.actions import MOST_PRIORITY, BatchReport, QueueReport
from webui.aids import MetadataReport, Picture, StyleList, StyleTexts, TokenCounts, TokenQuestion
from webui.batching import KINDS, BatchError
from webui.changing import ActionReport, Actions, Deleted
from webui.live import LiveReport
from webui.news import Begin, QueueNews
from webui.plain import Generating, Result
from webui.recoded import TYPES
from webui.reports import JobList, JobReport, ReadyReport, RejectedList
from webui.search import CURSOR
from webui.status import StatusReport
from webui.styles import Style


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


_Answers = dict[int, tuple[str, type[BaseModel] | str]]
#: path, method, summary, parameters, the body (True: a job; a name: that schema; else its content), answers by status.
_Route = tuple[str, str, str, list[dict[str, Any]], bool | str | dict[str, Any], _Answers]
_MODELS: tuple[type[BaseModel], ...] = (
    Job,
    JobReport,
    JobList,
    RejectedList,
    ReadyReport,
    QueueReport,
    BatchReport,
    BatchError,
    Actions,
    ActionReport,
    Deleted,
    Generating,
    Result,
    Catalogue,
    Priority,
    Error,
    Health,
    LiveReport,
    StatusReport,
)
#: The data of the events, which no answer as a whole has.
_OF_EVENTS: tuple[type[BaseModel], ...] = (Begin, QueueNews, ChangeView)
_OF_FORM: tuple[type[BaseModel], ...] = (TokenQuestion, TokenCounts, MetadataReport, Picture, Style, StyleList, StyleTexts)
_ID = {"name": "job_id", "in": "path", "required": True, "schema": {"type": "string"}}
_FILE = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "As the job's report lists it.",
}
_TEXT = {"type": "string"}
_TIME = {"type": "string", "format": "date-time"}
_STYLE = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
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
    {
        "name": "cursor",
        "in": "query",
        "schema": {"type": "string", "pattern": CURSOR},
        "description": "`next_cursor` or `previous_cursor` of a page: it stays where it is while jobs arrive, as `offset` does "
        "not. Finished jobs only.",
    },
    *(
        {"name": name, "in": "query", "schema": schema, "description": told}
        for name, schema, told in (
            ("q", _TEXT, "Words, each the beginning of one in the prompt, id, owner or model."),
            ("owner", _TEXT, "The owner, as given."),
            ("model", _TEXT, "Name of the model that ran the job, or is asked for."),
            ("batch", _TEXT, "Id of the batch that the job came in."),
            ("starred", {"type": "boolean"}, "Whether it has a star. Finished jobs only."),
            ("since", _TIME, "That ended then or later; of unfinished ones, that came then or later."),
            ("until", _TIME, "That ended, or came, earlier."),
            ("min_pixels", {"type": "integer", "minimum": 0, "maximum": 10**9}, "Width times height, at least."),
        )
    ),
]
_LAST_EVENT = {
    "name": "Last-Event-ID",
    "in": "header",
    "schema": {"type": "string"},
    "description": "The `id` of the last event that you have: the stream goes on after it where that is possible.",
}
_WAIT = {
    "name": "wait",
    "in": "query",
    "schema": {"type": "integer", "minimum": 0, "maximum": 60, "default": 0},
    "description": "Seconds to wait for the job's end before answering.",
}
_IDS = {
    "name": "ids",
    "in": "query",
    "required": True,
    "schema": {"type": "string", "pattern": f"^{ID.pattern}(,{ID.pattern}){{0,199}}$"},
    "description": "Ids of jobs, with commas between them, at most 200.",
}
_IMAGE = [
    {"name": "download", "in": "query", "schema": {"type": "string"}, "description": "As an attachment."},
    {"name": "format", "in": "query", "schema": {"enum": list(TYPES)}, "description": "Another format than PNG."},
    {
        "name": "quality",
        "in": "query",
        "schema": {"type": "integer", "minimum": 0, "maximum": 100, "default": 90},
        "description": "Of `format` webp or jpeg.",
    },
]
_MULTIPART = {
    "type": "object",
    "required": ["job"],
    "properties": {"job": {"$ref": "#/components/schemas/Submission"}},
    "additionalProperties": {"type": "string", "contentMediaType": "image/*"},
    "description": "The part `job` is the job as JSON; each other part is a picture, its file name the one that the job names.",
}
_CHANGES: dict[str, Any] = {
    "type": "object",
    "properties": {name: {} for name in Job.model_fields},
    "additionalProperties": False,
    "description": "Fields of a job, as a JSON merge patch: null takes a field away.",
}
_NOT_FOUND = {404: ("There is no such job.", Error)}
_REFUSED = {400: ("A bad parameter, or no valid body; every mistake is named.", Error)}
_BUSY = {503: ("As many requests wait as may; Retry-After tells when to try again, in seconds.", Error)}
_LARGE = {413: ("The request is too large.", Error)}
_FULL: _Answers = {
    409: ("The id is taken.", Error),
    413: ("The request is too large.", Error),
    429: ("As many jobs wait as may; Retry-After tells when to try again, in seconds.", Error),
    507: ("The disk is full; the job was not accepted.", Error),
}


def _action(verb: str, about: str) -> _Route:
    """A verb that is done to a job by a POST without a body."""
    done = (200, ("Done; the job as it is then.", JobReport))
    refused = (409, ("Its state does not allow it.", Error))
    return (f"/api/v1/jobs/{{job_id}}/{verb}", "post", about, [_ID], False, dict((done, refused, *_NOT_FOUND.items())))


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
            415: ("The Content-Type is neither application/json nor multipart/form-data.", Error),
            **_FULL,
        },
    ),
    (
        "/api/v1/actions",
        "post",
        "Do the same to many jobs; what could not be done is told, and keeps no other",
        [],
        "Actions",
        {200: ("What became of each.", ActionReport), **_REFUSED, **_LARGE},
    ),
    ("/api/v1/jobs", "get", "List jobs", _LIST, False, {200: ("A page of jobs.", JobList), 400: ("A bad parameter.", Error)}),
    (
        "/api/v1/jobs/{job_id}",
        "get",
        "Tell about one job, at once or at its end; answers 304 to a matching If-None-Match",
        [_ID, _WAIT],
        False,
        {200: ("The job.", JobReport), 304: ("Not changed.", ""), **_REFUSED, **_NOT_FOUND, **_BUSY},
    ),
    (
        "/api/v1/jobs/{job_id}/events",
        "get",
        "Follow a job: server-sent events `job`, each with its report, until it ended",
        [_ID],
        False,
        {200: ("The events.", "text/event-stream"), **_NOT_FOUND, **_BUSY},
    ),
    (
        "/api/v1/events",
        "get",
        "Follow the whole queue: server-sent events `begin`, `queue` and `job`, for ten minutes",
        [_LAST_EVENT],
        False,
        {200: ("The events.", "text/event-stream"), **_BUSY},
    ),
    (
        "/api/v1/jobs/{job_id}",
        "patch",
        "Give a waiting job other values; it keeps its place",
        [_ID],
        {"application/json": {"schema": _CHANGES}},
        {
            200: ("Changed; the job as it is then.", JobReport),
            409: ("It does not wait.", Error),
            **_REFUSED,
            **_NOT_FOUND,
            **_LARGE,
        },
    ),
    (
        "/api/v1/jobs/{job_id}/delete",
        "post",
        "Remove a job that has ended, with its pictures, for good",
        [_ID],
        False,
        {200: ("It is no more.", Deleted), 409: ("It has not ended, or has a star.", Error), **_NOT_FOUND},
    ),
    (
        "/api/v1/jobs/{job_id}/archive.zip",
        "get",
        "Fetch a job that has ended as a zip: pictures, job.json, record.json",
        [_ID],
        False,
        {200: ("The zip.", "application/zip"), 409: ("It has not ended.", Error), **_NOT_FOUND},
    ),
    (
        "/api/v1/archive.zip",
        "get",
        "Fetch jobs that have ended as one zip; what is not there is left out",
        [_IDS],
        False,
        {200: ("The zip.", "application/zip"), **_REFUSED, **_NOT_FOUND},
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
    (
        "/api/v1/jobs/{job_id}/again",
        "post",
        "Submit an ended job once more with other values, as a new job; the old one stays",
        [_ID, _KEY],
        {"application/json": {"schema": _CHANGES}},
        {
            201: ("The new job.", JobReport),
            200: ("The job that the same Idempotency-Key made before.", JobReport),
            **_REFUSED,
            **_NOT_FOUND,
            **_FULL,
            409: ("It has not ended.", Error),
        },
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
        {
            200: ("Done.", JobReport),
            400: ("No such priority.", Error),
            409: ("It does not wait.", Error),
            **_NOT_FOUND,
            **_LARGE,
        },
    ),
    ("/api/v1/queue", "get", "Tell about the queue as a whole", [], False, {200: ("The queue.", QueueReport)}),
    ("/api/v1/queue/pause", "post", "Stop claiming; what runs is finished", [], False, {200: ("Paused.", QueueReport)}),
    ("/api/v1/queue/resume", "post", "Go on claiming", [], False, {200: ("Not paused.", QueueReport)}),
    (
        "/api/v1/batches",
        "post",
        "Submit many jobs, all of them or none",
        [_KEY],
        {
            kind: {
                "schema": {"type": "array", "items": {"$ref": "#/components/schemas/Job"}, "minItems": 1, "maxItems": 10_000}
                if kind == "application/json"
                else {"type": "string"}
            }
            for kind in KINDS
        },
        {
            201: ("Accepted: every job is on disk, or will be in the queue whatever happens.", BatchReport),
            200: ("The batch that the same Idempotency-Key made before.", BatchReport),
            400: ("No valid batch; every mistake is named with its line, and no job was accepted.", BatchError),
            415: ("The Content-Type is none of these.", Error),
            **_FULL,
        },
    ),
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
        [_ID, _FILE, *_IMAGE],
        False,
        {200: ("The picture.", "image/*"), **_REFUSED, **_NOT_FOUND},
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
    (
        "/api/v1/tokens",
        "post",
        "Count the tokens of prompts",
        [],
        "TokenQuestion",
        {200: ("The counts.", TokenCounts), 400: ("No such question.", Error)},
    ),
    (
        "/api/v1/metadata",
        "post",
        "Read the settings that A1111, SwarmUI, InvokeAI, ComfyUI or sdspool left in a picture",
        [],
        "Picture",
        {200: ("As fields of a job.", MetadataReport), 400: ("It tells none.", Error), 413: ("It is too large.", Error)},
    ),
    ("/api/v1/styles", "get", "List the styles, snippets of prompts", [], False, {200: ("By name.", StyleList)}),
    (
        "/api/v1/styles/{name}",
        "put",
        "Keep a style, in the place of one of that name",
        [_STYLE],
        "StyleTexts",
        {
            200: ("Kept.", Style),
            400: ("No such style.", Error),
            403: ("It is somebody else's.", Error),
            409: ("There are as many as may be.", Error),
        },
    ),
    (
        "/api/v1/styles/{name}",
        "delete",
        "Forget a style",
        [_STYLE],
        False,
        {204: ("Forgotten.", ""), 403: ("It is somebody else's.", Error), 404: ("There is none.", Error)},
    ),
    ("/api/v1/schema/job.json", "get", "JSON Schema of a job file", [], False, {200: ("The schema.", "application/json")}),
    ("/api/v1/openapi.json", "get", "This document", [], False, {200: ("OpenAPI 3.1.", "application/json")}),
    (
        "/generate",
        "post",
        "Submit a job, as tutorials do",
        [_KEY],
        {"application/json": {"schema": {"$ref": "#/components/schemas/Job"}}},
        {202: ("Accepted: the job is on disk.", Generating), 400: ("No valid job; every mistake is named.", Error), **_FULL},
    ),
    (
        "/result/{job_id}",
        "get",
        "Tell what became of it",
        [_ID],
        False,
        {200: ("Its status, and its first picture.", Result), **_NOT_FOUND},
    ),
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


@functools.cache
def document() -> dict[str, Any]:
    """The whole document."""
    _, schemas = models_json_schema(
        [(model, "serialization") for model in (*_MODELS, *_OF_EVENTS, *_OF_FORM)], ref_template="#/components/schemas/{model}"
    )
    components = schemas["$defs"]
    submission = {**components["Job"], "title": "Submission", "properties": dict(components["Job"]["properties"])}
    for name in SWEEPABLE:  # a list in the place of a value is a sweep over it
        field = submission["properties"][name]
        told = {key: field[key] for key in ("default", "description", "title") if key in field}
        value = {key: field[key] for key in field if key not in told}
        submission["properties"][name] = told | {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}]}
    wanted = {"type": ["string", "null"], "pattern": f"^{ID.pattern}$", "description": "An id of your own."}
    submission["properties"]["id"] = wanted
    components["Submission"] = submission
    paths: dict[str, Any] = {}
    for path, method, summary, parameters, takes_job, answers in _ROUTES:
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
                    "multipart/form-data": {"schema": _MULTIPART},
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
