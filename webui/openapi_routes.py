"""The routes of the API, a row each: what it takes, what it answers, and the models that these are made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from spooler.catalogue import Catalogue
from spooler.client import ChangeView
from spooler.job import Job
from webui.actions import BatchReport, QueueReport
from webui.aids import MetadataReport, Picture, StyleList, StyleTexts, TokenCounts, TokenQuestion
from webui.batching import KINDS, BatchError
from webui.changing import ActionReport, Actions, Deleted
from webui.live import LiveReport
from webui.news import Begin, QueueNews
from webui.openapi_parts import (
    BATCH,
    BUSY,
    CHANGES,
    FILE,
    FULL,
    IDS,
    IMAGE,
    JOB_ID,
    KEY,
    LARGE,
    LAST_EVENT,
    LIMIT,
    LIST,
    NOT_FOUND,
    REFUSED,
    STYLE,
    WAIT,
    Answers,
    Error,
    Health,
    Priority,
)
from webui.plain import Generating, Result
from webui.reports import JobList, JobReport, ReadyReport, RejectedList
from webui.status import StatusReport
from webui.styles import Style

#: path, method, summary, parameters, the body (True: a job; a name: that schema; else its content), answers by status.
Route = tuple[str, str, str, list[dict[str, Any]], bool | str | dict[str, Any], Answers]
MODELS: tuple[type[BaseModel], ...] = (
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
OF_EVENTS: tuple[type[BaseModel], ...] = (Begin, QueueNews, ChangeView)
OF_FORM: tuple[type[BaseModel], ...] = (TokenQuestion, TokenCounts, MetadataReport, Picture, Style, StyleList, StyleTexts)


def _action(verb: str, about: str) -> Route:
    """A verb that is done to a job by a POST without a body."""
    told: Answers = {
        200: ("Done; the job as it is then.", JobReport),
        409: ("Its state does not allow it.", Error),
        **NOT_FOUND,
    }
    if verb == "release":
        told[429] = FULL[429]
    return (f"/api/v1/jobs/{{job_id}}/{verb}", "post", about, [JOB_ID], False, told)


ROUTES: tuple[Route, ...] = (
    (
        "/api/v1/jobs",
        "post",
        "Submit a job",
        [KEY],
        True,
        {
            201: ("Accepted: the job is on disk, and a power cut cannot take it back.", JobReport),
            200: ("The job that the same Idempotency-Key made before.", JobReport),
            400: ("No valid job; every mistake is named.", Error),
            415: ("The Content-Type is neither application/json nor multipart/form-data.", Error),
            **FULL,
        },
    ),
    (
        "/api/v1/actions",
        "post",
        "Do the same to many jobs; what could not be done is told, and keeps no other",
        [],
        "Actions",
        {200: ("What became of each.", ActionReport), **REFUSED, **LARGE},
    ),
    ("/api/v1/jobs", "get", "List jobs", LIST, False, {200: ("A page of jobs.", JobList), 400: ("A bad parameter.", Error)}),
    (
        "/api/v1/jobs/{job_id}",
        "get",
        "Tell about one job, at once or at its end; answers 304 to a matching If-None-Match",
        [JOB_ID, WAIT],
        False,
        {200: ("The job.", JobReport), 304: ("Not changed.", ""), **REFUSED, **NOT_FOUND, **BUSY},
    ),
    (
        "/api/v1/jobs/{job_id}/events",
        "get",
        "Follow a job: server-sent events `job`, each with its report, until it ended",
        [JOB_ID],
        False,
        {200: ("The events.", "text/event-stream"), **NOT_FOUND, **BUSY},
    ),
    (
        "/api/v1/events",
        "get",
        "Follow the whole queue: server-sent events `begin`, `queue` and `job`, for ten minutes",
        [LAST_EVENT],
        False,
        {200: ("The events.", "text/event-stream"), **BUSY},
    ),
    (
        "/api/v1/jobs/{job_id}",
        "patch",
        "Give a waiting job other values; it keeps its place",
        [JOB_ID],
        {"application/json": {"schema": CHANGES}},
        {
            200: ("Changed; the job as it is then.", JobReport),
            409: ("It does not wait.", Error),
            **REFUSED,
            **NOT_FOUND,
            **LARGE,
        },
    ),
    (
        "/api/v1/jobs/{job_id}/delete",
        "post",
        "Remove a job that has ended, with its pictures, for good",
        [JOB_ID],
        False,
        {200: ("It is no more.", Deleted), 409: ("It has not ended, or has a star.", Error), **NOT_FOUND},
    ),
    (
        "/api/v1/jobs/{job_id}/archive.zip",
        "get",
        "Fetch a job that has ended as a zip: pictures, job.json, record.json",
        [JOB_ID],
        False,
        {200: ("The zip.", "application/zip"), 409: ("It has not ended.", Error), **NOT_FOUND},
    ),
    (
        "/api/v1/archive.zip",
        "get",
        "Fetch jobs that have ended as one zip; what is not there is left out",
        [IDS],
        False,
        {200: ("The zip.", "application/zip"), **REFUSED, **NOT_FOUND},
    ),
    (
        "/api/v1/jobs/{job_id}",
        "delete",
        "Cancel a job",
        [JOB_ID],
        False,
        {
            200: ("Cancelled.", JobReport),
            202: ("It runs, and will stop at its next step.", JobReport),
            409: ("Too late: it had ended.", Error),
            **NOT_FOUND,
        },
    ),
    (
        "/api/v1/jobs/{job_id}/retry",
        "post",
        "Send a failed or cancelled job back to the queue",
        [JOB_ID],
        False,
        {
            200: ("It waits again.", JobReport),
            **NOT_FOUND,
            **FULL,
            409: ("It has neither failed nor been cancelled.", Error),
        },
    ),
    (
        "/api/v1/jobs/{job_id}/again",
        "post",
        "Submit an ended job once more with other values, as a new job; the old one stays",
        [JOB_ID, KEY],
        {"application/json": {"schema": CHANGES}},
        {
            201: ("The new job.", JobReport),
            200: ("The job that the same Idempotency-Key made before.", JobReport),
            **REFUSED,
            **NOT_FOUND,
            **FULL,
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
        [JOB_ID],
        "Priority",
        {
            200: ("Done.", JobReport),
            400: ("No such priority.", Error),
            409: ("It does not wait.", Error),
            **NOT_FOUND,
            **LARGE,
        },
    ),
    ("/api/v1/queue", "get", "Tell about the queue as a whole", [], False, {200: ("The queue.", QueueReport)}),
    ("/api/v1/queue/pause", "post", "Stop claiming; what runs is finished", [], False, {200: ("Paused.", QueueReport)}),
    ("/api/v1/queue/resume", "post", "Go on claiming", [], False, {200: ("Not paused.", QueueReport)}),
    (
        "/api/v1/batches",
        "post",
        "Submit many jobs, all of them or none",
        [KEY],
        {kind: {"schema": BATCH if kind == "application/json" else {"type": "string"}} for kind in KINDS},
        {
            201: ("Accepted: every job is on disk, or will be in the queue whatever happens.", BatchReport),
            200: ("The batch that the same Idempotency-Key made before.", BatchReport),
            400: ("No valid batch; every mistake is named with its line, and no job was accepted.", BatchError),
            415: ("The Content-Type is none of these.", Error),
            **FULL,
        },
    ),
    (
        "/api/v1/batches/{batch_id}",
        "get",
        "Tell how far the jobs of a dropped file are",
        [{**JOB_ID, "name": "batch_id"}],
        False,
        {200: ("The batch.", BatchReport), **NOT_FOUND},
    ),
    (
        "/api/v1/jobs/{job_id}/images/{name}",
        "get",
        "Fetch a picture; with ?download as an attachment",
        [JOB_ID, FILE, *IMAGE],
        False,
        {200: ("The picture.", "image/*"), **REFUSED, **NOT_FOUND},
    ),
    (
        "/api/v1/jobs/{job_id}/preview",
        "get",
        "Fetch a small rough preview of the picture at work",
        [JOB_ID],
        False,
        {200: ("The preview.", "image/jpeg"), 204: ("There is none just now.", ""), **NOT_FOUND},
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
        "List dropped files that were no valid jobs, the newest first",
        [LIMIT],
        False,
        {200: ("With reasons.", RejectedList), 400: ("A bad parameter.", Error)},
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
        [STYLE],
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
        [STYLE],
        False,
        {204: ("Forgotten.", ""), 403: ("It is somebody else's.", Error), 404: ("There is none.", Error)},
    ),
    ("/api/v1/schema/job.json", "get", "JSON Schema of a job file", [], False, {200: ("The schema.", "application/json")}),
    ("/api/v1/openapi.json", "get", "This document", [], False, {200: ("OpenAPI 3.1.", "application/json")}),
    (
        "/generate",
        "post",
        "Submit a job, as tutorials do",
        [KEY],
        {"application/json": {"schema": {"$ref": "#/components/schemas/Fields"}}},
        {202: ("Accepted: the job is on disk.", Generating), 400: ("No valid job; every mistake is named.", Error), **FULL},
    ),
    (
        "/result/{job_id}",
        "get",
        "Tell what became of it",
        [JOB_ID],
        False,
        {200: ("Its status, and its first picture.", Result), **NOT_FOUND},
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
