"""The JSON API under /api/v1, and the two questions of a load balancer: /healthz and /readyz."""

from __future__ import annotations

import re
import time
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from flask import Blueprint, Response, abort, request, send_file
from PIL import UnidentifiedImageError
from pydantic import BaseModel

from spooler import moments
from spooler.durable import is_odd
from spooler.ids import is_id
from spooler.job import from_fields
from spooler.job_schema import json_schema
from spooler.mistakes import JobError, Mistake, show
from spooler.reader import RESULT
from spooler.states import STATE, State, Status
from spooler.strict_json import parse_object
from webui import once, openapi
from webui.answers import gone, report_of
from webui.errors import answer
from webui.guard import is_let_in
from webui.office import office
from webui.people import client, person
from webui.proxies import at_prefix
from webui.recoded import TYPES, RecodeError, recoded
from webui.reports import JobList, JobReport, ReadyReport, RejectedList
from webui.rules import Rule, needs
from webui.search import ENDED, MAX_WORDS, Cursor, Search

blueprint = Blueprint("api", __name__)

MAX_LIMIT = 200
#: Of one request that waits for a job's end.
MAX_WAIT_S = 60
#: Seconds that a picture is waited for whose job is ending, between two of its files.
BETWEEN_S = 5.0
#: Those that may still change come first, then those that ended.
ALL: tuple[State, ...] = ("claimed", "pending", "held", *ENDED)
#: Parameters that find finished jobs.
FINDING = ("cursor", "q", "owner", "model", "batch", "starred", "since", "until", "min_pixels")
#: Unfinished jobs that one request looks through.
MAX_LOOKED = 2000


@blueprint.post("/api/v1/jobs")
@needs(Rule.SUBMIT)
def submit() -> Response:
    """Accept a job: 201 when it is on disk, with its name and entry synced."""
    inputs: dict[str, bytes] = {}
    if request.mimetype == "multipart/form-data":
        fields, inputs = _multipart()
    elif request.mimetype == "application/json":
        fields = parse_object(request.get_data())
    else:
        return answer(
            415, "not_json", "The Content-Type must be application/json, or multipart/form-data to send pictures along."
        )
    wanted = _wanted_id(fields.pop("id", None))
    job = person().owned(from_fields(fields))
    job_id, is_new = once.accept(job, wanted, inputs)
    report = office().reports.accepted(job_id, job) if is_new else report_of(job_id)
    response = _send(report, 201 if is_new else 200)
    response.headers["Location"] = f"{request.script_root}/api/v1/jobs/{job_id}"
    return response


def _multipart() -> tuple[dict[str, Any], dict[str, bytes]]:
    """The job in the part `job`, and the pictures in the other parts by their file names."""
    if (parts := len(request.files.getlist("job")) + len(request.form.getlist("job"))) > 1:
        raise JobError(Mistake("job", f"`job` must be one part of the request, but there are {parts}."))
    raw = request.files["job"].read() if "job" in request.files else request.form.get("job", "").encode()
    if not raw:
        raise JobError(Mistake("job", "`job` must be a part of the request with the job as JSON, but is missing."))
    inputs: dict[str, bytes] = {}
    for part, file in request.files.items(multi=True):
        if part != "job":
            name = file.filename or ""
            if name in inputs:
                raise JobError(Mistake(part, f"Each picture must have a name of its own, but {show(name)} is sent twice."))
            inputs[name] = file.read()
    return parse_object(raw), inputs


def _wanted_id(given: Any) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str) or not is_id(given):
        rule = (
            "must be 1 to 128 letters, digits, dots, dashes and underscores, begin with one of the first two, "
            "not end in .json or .priority"
        )
        raise JobError(Mistake("id", f"`id` {rule}, but is {show(given)}."))
    return given


@blueprint.get("/api/v1/jobs")
def jobs() -> Response:
    """A page of the jobs: of one status, or of all."""
    status = request.args.get("status")
    if status is not None and status not in STATE:
        known = ", ".join(get_args(Status))
        raise JobError(Mistake("status", f"`status` must be one of {known}, but is {show(status)}."))
    offset, limit = _number("offset", 0, 0, 10**9), _number("limit", 50, 1, MAX_LIMIT)
    if status in ENDED or (status is None and any(name in request.args for name in FINDING)):
        return _send(_find(status, offset, limit))
    if any(name in request.args for name in FINDING):
        return _send(_find_live(STATE[status or "waiting"], offset, limit))
    found: list[JobReport] = []
    total = 0
    for state in (STATE[status],) if status else ALL:
        skip, wanted = max(0, offset - total), max(0, limit - len(found))
        if state in ENDED:
            ended = office().reports.ended((state,), limit=wanted, offset=skip)
            page, many = list(ended.jobs), ended.total or 0
        else:
            page, many = office().reports.jobs(state, skip, wanted)
        found += page
        total += many
    return _send(JobList(jobs=tuple(found), total=total, offset=offset, limit=limit))


def _find(status: str | None, offset: int, limit: int) -> JobList:
    """A page of the finished jobs that have what the parameters say."""
    cursor = request.args.get("cursor")
    if cursor is not None:
        Cursor.decode(cursor)  # an empty one is none that a page gave
    states = [state for state in ENDED if status in (None, state)]
    return office().reports.ended(states, _wanted(), cursor, limit, 0 if cursor is not None else offset)


def _find_live(state: State, offset: int, limit: int) -> JobList:
    """A page of the jobs of a state that is no end; of very many, only the first are looked through."""
    if "cursor" in request.args or "starred" in request.args:
        name = "cursor" if "cursor" in request.args else "starred"
        raise JobError(Mistake(name, f"`{name}` goes with jobs that have ended: `status` must be one of {', '.join(ENDED)}."))
    wanted = _wanted()
    looked, many = office().reports.jobs(state, 0, MAX_LOOKED)
    words = list(dict.fromkeys(re.findall(r"\w+", wanted.query.casefold())))[:MAX_WORDS]
    found = [report for report in looked if _has(report, wanted, words)]
    note = f"Only the first {MAX_LOOKED:,} of {many:,} jobs were looked through." if many > MAX_LOOKED else None
    total = None if note else len(found)
    return JobList(jobs=tuple(found[offset : offset + limit]), total=total, offset=offset, limit=limit, note=note)


def _wanted() -> Search:
    """What the parameters say. Raises JobError for one that says nothing."""
    given = request.args
    starred = given.get("starred")
    if starred not in (None, "true", "false"):
        raise JobError(Mistake("starred", f"`starred` must be true or false, but is {show(starred)}."))
    return Search(
        given.get("q", ""),
        given.get("owner"),
        given.get("model"),
        given.get("batch"),
        None if starred is None else starred == "true",
        min_pixels=_number("min_pixels", 0, 0, 10**9),
        since=_moment("since"),
        until=_moment("until"),
    )


def _moment(name: str) -> datetime | None:
    text = request.args.get(name)
    try:
        return moments.read(text) if text is not None else None
    except ValueError:
        rule = "must be a time with its zone, as in 2027-03-01T22:00:00Z (a + must be sent as %2B)"
        raise JobError(Mistake(name, f"`{name}` {rule}, but is {show(text)}.")) from None


def _has(report: JobReport, wanted: Search, words: list[str]) -> bool:
    """Whether an unfinished job has what is wanted, and begins words with all of `words`; its time is that at which it came."""
    job, came = report.job, datetime.fromisoformat(report.queued or "1970-01-01T00:00:00Z")
    there = re.findall(r"\w+", f"{job.prompt} {report.id} {job.owner} {job.model}".casefold())
    return (
        all(any(each.startswith(word) for each in there) for word in words)
        and all(getattr(wanted, name) in (None, getattr(job, name)) for name in ("owner", "model", "batch"))
        and (wanted.since is None or came >= wanted.since)
        and (wanted.until is None or came < wanted.until)
        and (not wanted.min_pixels or (job.width or 0) * (job.height or 0) >= wanted.min_pixels)
    )


def _number(name: str, default: int, least: int, most: int) -> int:
    text = request.args.get(name, str(default))
    if not re.fullmatch(r"\d{1,10}", text) or not least <= int(text) <= most:
        raise JobError(Mistake(name, f"`{name}` must be a whole number from {least} to {most}, but is {show(text)}."))
    return int(text)


@blueprint.get("/api/v1/jobs/<job_id>")
def job(job_id: str) -> Response:
    """One job; 304 when it is as the caller's ETag says. With `?wait=` not before it ended, or that many seconds are over."""
    report = report_of(job_id)
    wait_s = _number("wait", 0, 0, MAX_WAIT_S)
    if wait_s and report.status not in ENDED:
        with office().patience.seat(client()):
            most_s = min(wait_s, office().settings.wait_s)
            report = office().patience.end_of(job_id, most_s, gone()) or abort(404)
    response = _send(report)
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    response.make_conditional(request)
    return response


@blueprint.delete("/api/v1/jobs/<job_id>")
@needs(Rule.OWNER)
def cancel(job_id: str) -> Response:
    """Cancel a job: 200 when it is cancelled, 202 when it will be at its next step, 409 when it had ended."""
    before = report_of(job_id)
    if before.status in ("done", "failed", "cancelled"):
        return answer(409, "too_late", f"The job cannot be cancelled: it is {before.status}.")
    place = office().spool.cancel(job_id)
    if place is None:
        abort(404)
    if place.state in ("done", "failed"):
        return answer(409, "too_late", f"The job cannot be cancelled: it is {place.state}.")
    return _send(report_of(place.id), 200 if place.state == "cancelled" else 202)


@blueprint.post("/api/v1/jobs/<job_id>/retry")
@needs(Rule.OWNER)
def retry(job_id: str) -> Response:
    """Send a failed or cancelled job back to the queue."""
    before = report_of(job_id)
    if office().retry(job_id) is None:
        return answer(409, "not_failed", f"Only a failed or cancelled job can be tried again, but this one is {before.status}.")
    return _send(report_of(job_id))


@blueprint.get("/api/v1/jobs/<job_id>/images/<name>")
def image(job_id: str, name: str) -> Response:
    """One picture, as PNG. Only names that the job's own record lists are ever opened."""
    end = time.monotonic() + BETWEEN_S
    while True:
        report = report_of(job_id)
        place = office().spool.find(job_id)
        listed = {each.file for each in report.images} | ({"sheet.png"} if report.sheet else set())
        if place is None or not RESULT.fullmatch(name):
            abort(404)
        if name not in listed:
            # RACE: at a job's end its progress is removed before its record is written: for a moment neither lists the picture.
            is_between = place.state == "claimed" and report.progress is None and (place.path / name).exists()
            if not is_between or time.monotonic() > end:
                abort(404)
            time.sleep(0.01)
            continue
        try:
            if "format" in request.args:
                return _send_recoded(place.path / name, f"{job_id}-{name}", final=report.status == "done")
            return _send_image(place.path / name, f"{job_id}-{name}", final=report.status == "done")
        except FileNotFoundError:  # RACE: the folder moved from claimed/ to done/ since the look; a file that was deleted:
            if office().spool.find(job_id) == place:
                abort(404)


@blueprint.get("/api/v1/jobs/<job_id>/preview")
def preview(job_id: str) -> Response:
    """A small rough JPEG of the picture at work; 204 when there is none, which may be so at any moment and is no mistake."""
    place = office().spool.find(job_id)
    if place is None:
        abort(404)
    data = office().spool.preview(place)
    if not data:
        return Response(status=204)
    response = Response(data, mimetype="image/jpeg")
    response.headers["Cache-Control"] = "no-store"
    return response


def _send_image(path: Path, download_name: str, final: bool) -> Response:
    if is_odd(path):  # a stranger may have put it there: nothing outside the spool is shown
        abort(404)
    response = send_file(
        path,
        mimetype="image/png",
        as_attachment="download" in request.args,
        download_name=download_name,
        max_age=31_536_000 if final else 0,
    )
    if final:
        response.cache_control.immutable = True
    return response


def _send_recoded(path: Path, name: str, final: bool) -> Response:
    """The picture in the format that was asked for."""
    wanted = request.args.get("format")
    if wanted not in TYPES:
        raise JobError(Mistake("format", f"`format` must be one of {', '.join(TYPES)}, but is {show(wanted)}."))
    quality = _number("quality", 90, 0, 100)
    if is_odd(path):
        abort(404)
    try:
        data = recoded(path.read_bytes(), wanted, quality)
    except UnidentifiedImageError:
        abort(404)
    except RecodeError as error:
        raise JobError(Mistake("format", str(error))) from error
    response = Response(data, mimetype=TYPES[wanted])
    response.cache_control.max_age = 31_536_000 if final else 0
    if "download" in request.args:
        response.headers.set("Content-Disposition", "attachment", filename=f"{name.removesuffix('.png')}.{wanted}")
    return response


@blueprint.get("/api/v1/models")
def models() -> Response:
    """What a job may name: models with their families and defaults, LoRAs, VAEs and so on."""
    return _send(office().reports.ready().catalogue)


@blueprint.get("/api/v1/rejected")
def rejected() -> Response:
    """The newest of the dropped files that were no valid jobs, with their reasons."""
    return _send(RejectedList(rejected=office().reports.rejected(_number("limit", 50, 1, MAX_LIMIT))))


@blueprint.get("/api/v1/schema/job.json")
def schema() -> dict[str, Any]:
    """The JSON Schema of a job file."""
    return json_schema()


@blueprint.get("/api/v1/openapi.json")
def description() -> dict[str, Any]:
    """This API's description."""
    return at_prefix(openapi.document())


@blueprint.get("/healthz")
@needs(Rule.ANYONE)
def healthz() -> dict[str, str]:
    """Whether the web app is alive. It touches no disk, so it says nothing of the spool."""
    return {"status": "ok"}


@blueprint.get("/readyz")
@needs(Rule.ANYONE)
def readyz() -> Response:
    """Whether a job submitted now would be accepted and run now: 200, or 503 with the reason."""
    report = office().reports.ready()
    if report.ready and (why := office().closed()):
        report = report.model_copy(update={"ready": False, "reason": why})
    if not is_let_in():
        report = ReadyReport(ready=report.ready, reason=report.reason)
    return _send(report, 200 if report.ready else 503)


def _send(report: BaseModel, status: int = 200) -> Response:
    return Response(report.model_dump_json(), status, mimetype="application/json")
