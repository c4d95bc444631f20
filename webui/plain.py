"""The two routes that tutorials have: hand a prompt in, ask what became of it. All else is under /api/v1."""

from __future__ import annotations

from flask import Blueprint, Response, request
from pydantic import BaseModel, Field

from spooler.job import from_fields
from spooler.states import Status
from spooler.strict_json import parse_object
from webui import once
from webui.answers import report_of, send
from webui.rules import Rule, needs

blueprint = Blueprint("plain", __name__)


class Generating(BaseModel):
    """A job that was accepted."""

    job_id: str
    status: Status


class Result(BaseModel):
    """What became of a job."""

    status: Status
    image_url: str | None = Field(description="Of its first picture, once there is one.")


@blueprint.post("/generate")
@needs(Rule.SUBMIT)
def generate() -> Response:
    """Accept a job: its fields as JSON."""
    job_id, is_new = once.accept(from_fields(parse_object(request.get_data())))
    response = send(Generating(job_id=job_id, status="waiting" if is_new else report_of(job_id).status), 202)
    response.headers["Location"] = f"{request.script_root}/result/{job_id}"
    return response


@blueprint.get("/result/<job_id>")
def result(job_id: str) -> Response:
    """The job's status, and where its picture is."""
    report = report_of(job_id)
    return send(Result(status=report.status, image_url=report.images[0].url if report.images else None))
