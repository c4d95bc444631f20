"""Changing jobs: other values for one that waits, the same again with other values, removing one that ended, many at once."""

from __future__ import annotations

import contextlib
import time
from typing import Any, Literal

from flask import Blueprint, Response, abort, request
from pydantic import BaseModel, ConfigDict, Field

from spooler import durable, edit, pictures, retention
from spooler.batch_file import lay_over
from spooler.batches import Batches
from spooler.catalogue import Sizes
from spooler.job import NAMES, Job, JobId, from_fields
from spooler.mistakes import JobError, Mistake, show
from spooler.place import Place
from spooler.reader import EDIT_S
from spooler.states import ENDS, STATUS, Status
from spooler.strict_json import parse_object
from webui import once
from webui.actions import VERBS
from webui.answers import body_as, may_change, report_of, send
from webui.errors import answer
from webui.office import FullError, NoRoomError, office
from webui.people import person, require
from webui.rules import Rule, needs

blueprint = Blueprint("changing", __name__)

Verb = Literal["cancel", "hold", "release", "top", "star", "unstar", "retry", "delete"]
#: Jobs of one request.
MOST = 500


class Deleted(BaseModel):
    """A job that is no more."""

    id: str
    deleted: bool


class Actions(BaseModel):
    """The same verb for many jobs."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ids: list[JobId] = Field(min_length=1, max_length=MOST)
    verb: Verb


class ActionResult(BaseModel):
    """What became of one of them."""

    id: str
    ok: bool
    status: Status | None = Field(description="Of the job then; null: there is none.")
    code: str | None = Field(None, description="Why not: not_found, wrong_state, not_yours, starred, queue_full, no_space.")
    message: str | None = Field(None, description="Why not, in a sentence.")


class ActionReport(BaseModel):
    """What became of each, in the order of the request."""

    results: tuple[ActionResult, ...]


@blueprint.post("/api/v1/actions")
@needs(Rule.EACH)
def act() -> Response:
    """Do it to each: one that cannot be done is told, and keeps no other."""
    wanted = body_as(Actions)
    # Of several that go to the top the last is on top: so the order of the request is that of the queue.
    ids = list(dict.fromkeys(wanted.ids))
    Batches(office().spool).bring_in(ids)
    done = {each: do(each, wanted.verb) for each in (reversed(ids) if wanted.verb == "top" else ids)}
    return send(ActionReport(results=tuple(done[each] for each in ids)))


@blueprint.post("/api/v1/jobs/<job_id>/delete")
@needs(Rule.OWNER)
def delete(job_id: str) -> Response:
    """Remove a job that has ended, with its pictures, for good: 409 for one that has not, or that has a star."""
    told = do(job_id, "delete")
    if not told.ok:
        statuses = {"not_found": 404, "not_yours": 403}
        return answer(statuses.get(told.code or "", 409), told.code or "", told.message or "")
    return send(Deleted(id=job_id, deleted=True))


def do(job_id: str, verb: Verb) -> ActionResult:
    desk = office()
    place = desk.spool.find(job_id)
    if place is None:
        return _refusal(job_id, None, "not_found", f"There is no job {show(job_id)}.")
    if not may_change(place):
        return _refusal(job_id, place, "not_yours", "The job belongs to somebody else.")
    if verb == "delete":
        return _delete(place)
    after: Place | None
    try:
        if verb == "retry":
            after, wanted = desk.retry(job_id), frozenset({"pending"})
        elif verb == "cancel":
            if place.state in ENDS:
                return _wrong_state(place, verb)
            after, wanted = desk.spool.cancel(job_id), frozenset({"cancelled", "claimed"})
        else:
            do, wanted = VERBS[verb]
            after = do(desk, job_id)
    except FullError as error:
        return _refusal(job_id, place, "queue_full", str(error))
    except NoRoomError as error:
        return _refusal(job_id, place, "no_space", str(error))
    if after is None or after.state not in wanted:
        return _wrong_state(after or place, verb)
    if after.state in ENDS:
        desk.index.note(after.id)
    return ActionResult(id=job_id, ok=True, status=STATUS[after.state])


def _delete(place: Place) -> ActionResult:
    if place.state not in ENDS:
        return _wrong_state(place, "delete")
    if durable.exists(place.path / "starred"):
        return _refusal(place.id, place, "starred", "The job has a star: take the star away first.")
    removed = retention.delete(office().spool, place.state, place.id)
    office().index.note(place.id)
    return ActionResult(id=place.id, ok=True, status=None) if removed else _wrong_state(place, "delete")


def _wrong_state(place: Place, verb: str) -> ActionResult:
    return _refusal(place.id, place, "wrong_state", f"`{verb}` is not for a job that is {STATUS[place.state]}.")


def _refusal(job_id: str, place: Place | None, code: str, message: str) -> ActionResult:
    return ActionResult(id=job_id, ok=False, status=STATUS[place.state] if place else None, code=code, message=message)


@blueprint.patch("/api/v1/jobs/<job_id>")
@needs(Rule.OWNER)
def change(job_id: str) -> Response:
    """Give a waiting job other values, as a JSON merge patch (RFC 7396): null takes a field away. It keeps its place."""
    values = parse_object(request.get_data(), "The change")
    desk = office()
    end = time.monotonic() + EDIT_S
    while True:
        place = desk.spool.settled(job_id)
        if place is None:
            abort(404)
        if not may_change(place):
            return answer(403, "not_yours", "The job belongs to somebody else.")
        if place.state not in ("pending", "held"):
            return answer(409, "wrong_state", f"Only a job that waits can be changed, but this one is {place.status}.")
        with contextlib.suppress(FileNotFoundError):  # RACE: claimed since
            before = desk.spool.read_job(place)
            after = _changed(before, values)
            check(after, before, place)
            if after == before or edit.apply(desk.spool, owned(lambda job: _changed(job, values)), [place]):
                return send(report_of(job_id))
        if time.monotonic() > end:  # RACE: others change it all the time
            return answer(409, "wrong_state", "Only a job that waits can be changed, but this one is being changed just now.")


def owned(change: edit.Change) -> edit.Change:
    """The change, of a job that is who asks's: another may lie under the name by now. It raises NotYoursError."""

    def changed(job: Job) -> Job:
        require(job.owner)
        return change(job)

    return changed


@blueprint.post("/api/v1/jobs/<job_id>/again")
@needs(Rule.SUBMIT)
def again(job_id: str) -> Response:
    """Submit an ended job once more, with the body's fields laid over it, as a new job of who asks. The old one stays."""
    values = parse_object(request.get_data(), "The change")
    spool = office().spool
    place = spool.find(job_id)
    if place is None:
        abort(404)
    if place.state not in ENDS:
        return answer(409, "wrong_state", f"Only a job that has ended is sent again, but this one is {STATUS[place.state]}.")
    try:
        before = spool.read_job(place)
        after = _changed(before, {"owner": person().name or before.owner, "batch": None} | values)
        check(after, before, place)
        inputs = {name: durable.read_small(spool.input_file(place, name), pictures.MAX_FILE_BYTES) for name in after.inputs}
    except FileNotFoundError:  # RACE: removed, or sent back to the queue
        return answer(409, "wrong_state", "The job has moved on since.")
    new_id, is_new = once.accept(after, inputs=inputs)
    response = send(report_of(new_id), 201 if is_new else 200)
    response.headers["Location"] = f"{request.script_root}/api/v1/jobs/{new_id}"
    return response


def _changed(before: Job, values: dict[str, Any]) -> Job:
    """The job with these values. Raises JobError for what is no job then, and for a name that no job has: null hides it."""
    if unknown := [name for name in values if name not in NAMES]:
        raise JobError(Mistake(unknown[0], f"`{show(unknown[0])[1:-1]}` is not a field of a job."))
    return from_fields(lay_over(before.model_dump(exclude_unset=True), values))


def check(after: Job, before: Job, place: Place) -> None:
    """Raise JobError for what no spooler can run, or what the job's folder has no picture for."""
    desk = office()
    if new := [name for name in after.inputs if name not in before.inputs]:
        raise JobError(
            Mistake("image", f"The job must name the pictures that it came with, but {show(new[0])} is none of them.")
        )
    if after.owner != before.owner and after.owner != person().name and not person().operator:
        raise JobError(Mistake("owner", f"`owner` must be your own name, but is {show(after.owner)}."))
    desk.deny_list.check(after)
    catalogue = desk.reports.ready().catalogue
    if catalogue.models:
        catalogue.check(after, _sizes(place, after))


def _sizes(place: Place, job: Job) -> Sizes:
    try:
        return {name: pictures.size(office().spool.input_file(place, name)) for name in job.inputs}
    except pictures.InputError as error:
        raise JobError(Mistake("image", str(error))) from error
