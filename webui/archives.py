"""Jobs as a zip: their pictures, what was asked for, and the record."""

from __future__ import annotations

from flask import Blueprint, Response, abort, request

from spooler.ids import ID
from spooler.mistakes import JobError, Mistake, show
from spooler.place import Place
from spooler.states import ENDS
from webui import zips
from webui.answers import report_of
from webui.errors import answer
from webui.office import office

blueprint = Blueprint("archives", __name__)

#: Jobs of one zip: as many ids as a request line holds.
MOST = 200


@blueprint.get("/api/v1/jobs/<job_id>/archive.zip")
def of_one(job_id: str) -> Response:
    """The zip of a job that has ended."""
    report = report_of(job_id)
    place = office().spool.find_by_name(report.id)
    if place is None:
        abort(404)
    if place.state not in ENDS:
        return answer(
            409, "wrong_state", f"Only a job that has ended can be fetched as a zip, but this one is {report.status}."
        )
    return _zip([place], report.id)


@blueprint.get("/api/v1/archive.zip")
def of_many() -> Response:
    """The zip of the ended jobs of `?ids=a,b,c`; one that is not there is left out."""
    ids = list(dict.fromkeys(each for each in request.args.get("ids", "").split(",") if each))
    if not 1 <= len(ids) <= MOST or not all(map(ID.fullmatch, ids)):
        rule = f"`ids` must be 1 to {MOST} ids of jobs with commas between them"
        raise JobError(Mistake("ids", f"{rule}, but is {show(request.args.get('ids'))}."))
    found = (office().spool.find_by_name(each) for each in ids)
    places = [place for place in found if place and place.state in ENDS]
    if not places:
        abort(404)
    return _zip(places, "sdspool")


def _zip(places: list[Place], name: str) -> Response:
    response = Response(zips.archive(places), mimetype="application/zip")
    response.headers.set("Content-Disposition", "attachment", filename=f"{name}.zip")
    response.headers["Cache-Control"] = "no-store"
    return response
