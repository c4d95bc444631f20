"""What several routes of the API's description have alike: parameters, bodies, and the answers that are errors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from spooler.batch_file import MAX_ROWS
from spooler.ids import ID
from spooler.job import Job
from webui.actions import MOST_PRIORITY
from webui.recoded import TYPES
from webui.reports import JobReport
from webui.search import CURSOR


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


#: Status -> what it means, and its body: a model, a media type, or "" for none.
Answers = dict[int, tuple[str, type[BaseModel] | str]]
JOB_ID = {"name": "job_id", "in": "path", "required": True, "schema": {"type": "string"}}
FILE = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "As the job's report lists it.",
}
TEXT = {"type": "string"}
TIME = {"type": "string", "format": "date-time"}
STYLE = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string"},
    "description": "A second request with the same key is answered with the first one's job.",
}
LIMIT = {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}}
LIST = [
    {"name": "status", "in": "query", "schema": JobReport.model_json_schema()["properties"]["status"]},
    {"name": "offset", "in": "query", "schema": {"type": "integer", "minimum": 0, "default": 0}},
    LIMIT,
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
            ("q", TEXT, "Words, each the beginning of one in the prompt, id, owner or model."),
            ("owner", TEXT, "The owner, as given."),
            ("model", TEXT, "Name of the model that ran the job, or is asked for."),
            ("batch", TEXT, "Id of the batch that the job came in."),
            ("starred", {"type": "boolean"}, "Whether it has a star. Finished jobs only."),
            ("since", TIME, "That ended then or later; of unfinished ones, that came then or later."),
            ("until", TIME, "That ended, or came, earlier."),
            ("min_pixels", {"type": "integer", "minimum": 0, "maximum": 10**9}, "Width times height, at least."),
        )
    ),
]
LAST_EVENT = {
    "name": "Last-Event-ID",
    "in": "header",
    "schema": {"type": "string"},
    "description": "The `id` of the last event that you have: the stream goes on after it where that is possible.",
}
WAIT = {
    "name": "wait",
    "in": "query",
    "schema": {"type": "integer", "minimum": 0, "maximum": 60, "default": 0},
    "description": "Seconds to wait for the job's end before answering.",
}
IDS = {
    "name": "ids",
    "in": "query",
    "required": True,
    "schema": {"type": "string", "pattern": f"^{ID.pattern}(,{ID.pattern}){{0,199}}$"},
    "description": "Ids of jobs, with commas between them, at most 200.",
}
IMAGE = [
    {"name": "download", "in": "query", "schema": {"type": "string"}, "description": "As an attachment."},
    {"name": "format", "in": "query", "schema": {"enum": list(TYPES)}, "description": "Another format than PNG."},
    {
        "name": "quality",
        "in": "query",
        "schema": {"type": "integer", "minimum": 0, "maximum": 100, "default": 90},
        "description": "Of `format` webp or jpeg.",
    },
]
MULTIPART = {
    "type": "object",
    "required": ["job"],
    "properties": {"job": {"$ref": "#/components/schemas/Submission"}},
    "additionalProperties": {"type": "string", "contentMediaType": "image/*"},
    "description": "The part `job` is the job as JSON; each other part is a picture, its file name the one that the job names.",
}
_ROWS = {"type": "array", "items": {"$ref": "#/components/schemas/Fields"}, "minItems": 1, "maxItems": MAX_ROWS}
BATCH: dict[str, Any] = {
    "anyOf": [_ROWS, {"type": "object", "required": ["jobs"], "properties": {"jobs": _ROWS}, "additionalProperties": False}]
}
CHANGES: dict[str, Any] = {
    "type": "object",
    "properties": {name: {} for name in Job.model_fields},
    "additionalProperties": False,
    "description": "Fields of a job, as a JSON merge patch: null takes a field away.",
}
NOT_FOUND = {404: ("There is no such job.", Error)}
REFUSED = {400: ("A bad parameter, or no valid body; every mistake is named.", Error)}
BUSY = {503: ("As many requests wait as may; Retry-After tells when to try again, in seconds.", Error)}
LARGE = {413: ("The request is too large.", Error)}
FULL: Answers = {
    409: ("The id is taken.", Error),
    413: ("The request is too large.", Error),
    429: ("As many jobs wait as may; Retry-After tells when to try again, in seconds.", Error),
    507: ("The disk is full; the job was not accepted.", Error),
}
