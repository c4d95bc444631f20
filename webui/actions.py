"""What people do to jobs and to the queue: the same verbs for the pages, which lead back, and for the API, which tells."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, redirect, request, url_for
from pydantic import BaseModel, Field
from werkzeug.wrappers import Response as AnyResponse

from spooler.batches import Batches
from spooler.mistakes import JobError, Mistake, show
from spooler.place import Place
from spooler.states import ENDS, STATES, STATUS, State
from spooler.strict_json import parse_object
from webui import moves
from webui.answers import may_change
from webui.bulk import give
from webui.errors import answer
from webui.frame import local
from webui.office import Office, office
from webui.people import person
from webui.rules import Rule, needs

blueprint = Blueprint("actions", __name__)

_ENDED: frozenset[State] = frozenset(ENDS)
#: Each verb: what it does, and the states that mean that it was done.
VERBS: dict[str, tuple[Callable[[Office, str], Place | None], frozenset[State]]] = {
    "hold": (lambda desk, job_id: desk.spool.hold(job_id), frozenset({"held"})),
    "release": (lambda desk, job_id: desk.release(job_id), frozenset({"pending"})),
    "top": (lambda desk, job_id: desk.spool.set_priority(job_id, "top"), frozenset({"pending", "held"})),
    "star": (lambda desk, job_id: desk.spool.star(job_id, True) or desk.spool.find(job_id), _ENDED),
    "unstar": (lambda desk, job_id: desk.spool.star(job_id, False) or desk.spool.find(job_id), _ENDED),
}
MOST_PRIORITY = 100


class QueueReport(BaseModel):
    """The queue as a whole."""

    paused: bool
    waiting: int = Field(description="Jobs that wait, held ones left out.")
    running: int


class BatchReport(BaseModel):
    """A dropped file of many jobs, and how far they are."""

    id: str
    file: str = Field(description="Name of the dropped file.")
    owner: str
    taken: str = Field(description="UTC, ISO 8601.")
    jobs: tuple[str, ...] = Field(description="Ids of its jobs, row by row.")
    waiting: int
    held: int
    running: int
    done: int
    failed: int
    cancelled: int
    coming: int = Field(description="Jobs that are accepted and not in the queue yet.")
    gone: int = Field(description="Jobs that nobody has any more.")


@blueprint.post("/api/v1/jobs/<job_id>/hold", defaults={"verb": "hold"})
@blueprint.post("/api/v1/jobs/<job_id>/release", defaults={"verb": "release"})
@blueprint.post("/api/v1/jobs/<job_id>/top", defaults={"verb": "top"})
@blueprint.post("/api/v1/jobs/<job_id>/star", defaults={"verb": "star"})
@blueprint.post("/api/v1/jobs/<job_id>/unstar", defaults={"verb": "unstar"})
@needs(Rule.OWNER)
def act(job_id: str, verb: str) -> Response:
    """Do it: 200 with the job as it is then, 409 when its state does not allow it."""
    do, wanted = VERBS[verb]
    place = do(office(), job_id)
    return _told(job_id, place, wanted, verb)


@blueprint.post("/api/v1/jobs/<job_id>/priority")
@needs(Rule.OWNER)
def priority(job_id: str) -> Response:
    """Give a waiting job another priority than its own; null takes that back."""
    fields = parse_object(request.get_data())
    if unknown := [name for name in fields if name != "priority"]:
        raise JobError(Mistake(unknown[0], f"`{unknown[0]}` is no field here: only `priority` is."))
    value = _priority(fields.get("priority", ""))
    return _told(job_id, office().spool.set_priority(job_id, value), frozenset({"pending", "held"}), "priority")


def _priority(value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MOST_PRIORITY):
        return value
    rule = f"`priority` must be a whole number from -{MOST_PRIORITY} to {MOST_PRIORITY}, or null"
    raise JobError(Mistake("priority", f"{rule}, but is {show(value)}."))


def _told(job_id: str, place: Place | None, wanted: frozenset[State], verb: str) -> Response:
    report = office().reports.job(place.id if place else job_id)
    if place is None or report is None:
        return answer(404, "not_found", f"There is no job {show(job_id)}.")
    if place.state not in wanted:
        states = " or ".join(STATUS[state] for state in STATES if state in wanted)
        return answer(409, "wrong_state", f"`{verb}` is for a job that is {states}, but this one is {report.status}.")
    return Response(report.model_dump_json(), mimetype="application/json")


@blueprint.get("/api/v1/queue")
def queue() -> Response:
    """The queue as a whole."""
    return _queue()


@blueprint.post("/api/v1/queue/pause", defaults={"verb": "pause"})
@blueprint.post("/api/v1/queue/resume", defaults={"verb": "resume"})
@needs(Rule.OPERATOR)
def pause(verb: str) -> Response:
    """Stop claiming, or go on; what runs is finished."""
    _pause(verb)
    return _queue()


def _queue() -> Response:
    spool = office().spool
    running = sum(1 for _ in spool.walk("claimed"))
    report = QueueReport(paused=spool.paused, waiting=len(office().reports.waiting()), running=running)
    return Response(report.model_dump_json(), mimetype="application/json")


@blueprint.get("/api/v1/batches/<batch_id>")
def batch(batch_id: str) -> Response:
    """How far the jobs of a dropped file are."""
    found = batch_report(batch_id)
    if found is None:
        return answer(404, "not_found", f"There is no batch {show(batch_id)}.")
    return Response(found.model_dump_json(), mimetype="application/json")


def batch_report(batch_id: str) -> BatchReport | None:
    progress = Batches(office().spool).progress(batch_id)
    if progress is None:
        return None
    counts: dict[str, Any] = {STATUS[state]: number for state, number in progress.counts.items()}
    return BatchReport(**progress.batch.model_dump(), **counts, coming=progress.coming, gone=progress.gone)


# -- the pages' forms ------------------------------------------------------------------------------------------------------


@blueprint.post("/jobs/<job_id>/<any(hold, release, top, star, unstar):verb>")
@needs(Rule.OWNER)
def page_act(job_id: str, verb: str) -> AnyResponse:
    """Do it, and lead back: to the queue from where waiting jobs are changed, else to the job."""
    do, wanted = VERBS[verb]
    place = do(office(), job_id)
    if place is None:
        return answer(404, "not_found", "There is no such job: it may have been removed from the spool.")
    if verb == "top":
        office().line.hint(job_id)
    if "back" in request.form:
        return redirect(local(request.form["back"]), 303)
    where = "pages.queue" if "pending" in wanted or "held" in wanted else "pages.job"
    # When it was too late, the page that follows shows where the job is.
    return redirect(url_for(where) if where == "pages.queue" else url_for(where, job_id=place.id), 303)


@blueprint.post("/jobs/<job_id>/priority")
@needs(Rule.OWNER)
def page_priority(job_id: str) -> AnyResponse:
    """Give a waiting job the form's priority, or its own when the field is empty, and lead to the queue."""
    text = request.form.get("priority", "").strip()
    value = int(text) if re.fullmatch(r"[+-]?\d{1,3}", text, re.ASCII) else text or None
    if office().spool.set_priority(job_id, _priority(value)) is None:
        return answer(404, "not_found", "There is no such job: it may have been removed from the spool.")
    return redirect(url_for("pages.queue"), 303)


@blueprint.post("/jobs/<job_id>/move")
@needs(Rule.OWNER)
def page_move(job_id: str) -> AnyResponse:
    """Move a waiting job before another, `before`, or to the end of the line; webui/moves.py says what that means."""
    desk = office()
    told = desk.spool.spoolers()
    place = desk.spool.find_by_name(job_id)
    if place is None:
        return answer(404, "not_found", "There is no such job: it may have been removed from the spool.")
    if not may_change(place):
        return answer(403, "not_yours", "The job belongs to somebody else.")
    line, turns = desk.line.may_run(told)
    ids = {each.id for each in line}
    before = request.form.get("before") or None
    if job_id in ids and (before is None or before in ids):
        move = moves.plan(line, job_id, before, turns, desk.line.owner_cap, may_touch_others=person().operator)
        give(move.changes if move else ())
    # When it left the line meanwhile, the page that follows shows where it is.
    return redirect(local(request.form.get("back") or url_for("pages.queue")), 303)


@blueprint.post("/queue/<any(pause, resume):verb>")
@needs(Rule.OPERATOR)
def page_pause(verb: str) -> AnyResponse:
    _pause(verb)
    return redirect(url_for("pages.queue"), 303)


def _pause(verb: str) -> None:
    if verb == "pause":
        office().spool.pause()
    else:
        office().spool.resume()
