"""What the views of the API share: the report that a path names, the body that a model describes, the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flask import Response, abort, request
from pydantic import BaseModel, ValidationError

from spooler.durable import UnreadableError
from spooler.mistakes import JobError, Mistake, sentence
from spooler.place import Place
from spooler.strict_json import parse_object
from webui.office import office
from webui.people import person
from webui.reports import JobReport

Body = TypeVar("Body", bound=BaseModel)


def report_of(job_id: str) -> JobReport:
    """The job's report; ends the request with 404 when there is no such job."""
    report = office().reports.job(job_id)
    if report is None:
        abort(404, "There is no such job: it may have been removed from the spool.")
    return report


def send(report: BaseModel, status: int = 200) -> Response:
    return Response(report.model_dump_json(), status, mimetype="application/json")


def body_as(model: type[Body]) -> Body:
    """The request's JSON object as that model. Raises JobError with every mistake."""
    given = parse_object(request.get_data(), "The body")
    try:
        return model.model_validate(given)
    except ValidationError as error:
        told = (sentence(detail, list(model.model_fields), []) for detail in error.errors(include_url=False)[:20])
        raise JobError(
            *(Mistake(each.field, each.message.replace("a field of a job", "a field here")) for each in told)
        ) from error


def may_change(place: Place) -> bool:
    """Whether who asks may change the job that is there; of one that cannot be read, only an operator may say."""
    who = person()
    if who.operator:
        return True
    try:
        return who.may_change(office().spool.read_job(place).owner)
    except (FileNotFoundError, JobError, UnreadableError):
        return False


def gone() -> Callable[[], bool]:
    """Whether the caller hung up, where the server can tell."""
    found: Callable[[], bool] | None = request.environ.get("waitress.client_disconnected")
    return found or (lambda: False)
