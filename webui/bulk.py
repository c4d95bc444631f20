"""The same verb for many jobs at once: what the gallery's and the queue's selections do.

Every job is judged by itself: one that somebody else owns, that has a star, or that moved on is left as it is and counted, and
the page that follows says how many were not done.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from urllib.parse import urlencode

from flask import Blueprint, Response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from spooler import retention
from spooler.ids import ID
from spooler.place import Place
from spooler.states import ENDS
from webui import zips
from webui.answers import may_change
from webui.errors import answer
from webui.frame import around, local
from webui.moves import Value
from webui.office import FullError, office
from webui.rules import Rule, needs

blueprint = Blueprint("bulk", __name__)

#: Jobs of one selection.
MOST = 500


@blueprint.post("/gallery/bulk")
@needs(Rule.EACH)
def gallery() -> AnyResponse:
    """Star, unstar, delete, zip or compare the selected finished jobs."""
    ids, verb, back = _ids(), request.form.get("do", ""), _back("pages.gallery")
    if verb not in ("star", "unstar", "delete", "zip", "compare"):
        return answer(400, "bad_request", "There is no such thing to do.")
    if not ids:
        return redirect(back, 303)
    if verb == "compare":
        query = urlencode({"a": f"{ids[0]}/0", "b": f"{ids[-1]}/0"})
        return redirect(f"{url_for('pages.compare')}?{query}", 303)
    places = [place for each in ids if (place := office().spool.find_by_name(each)) and place.state in ENDS]
    if verb == "zip":
        name = f"sdspool-{datetime.now(UTC):%Y%m%d-%H%M%S}.zip"
        heads = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        return Response(zips.archive(places), mimetype="application/zip", headers=heads)
    if verb == "delete" and "sure" not in request.form:
        mine = [place for place in places if may_change(place)]
        starred = sum((place.path / "starred").exists() for place in mine)
        page = render_template("sure.html", places=mine, others=len(ids) - len(mine), starred=starred, to=back, **around())
        return Response(page, mimetype="text/html")
    return _did(back, sum(_do_ended(place, verb) for place in places), len(ids))


@blueprint.post("/queue/bulk")
@needs(Rule.EACH)
def queue() -> AnyResponse:
    """Cancel, hold, release or raise the selected jobs."""
    ids, verb, back = _ids(), request.form.get("do", ""), _back("pages.queue")
    if verb not in ("cancel", "hold", "release", "top"):
        return answer(400, "bad_request", "There is no such thing to do.")
    if verb == "top":  # the last one to be raised is on top: the selection keeps its order
        done = give((each, "top") for each in reversed(ids) if _may_raise(each))
    else:
        done = sum(_do_waiting(each, verb) for each in ids)
    return _did(back, done, len(ids))


@blueprint.post("/jobs/<job_id>/delete")
@needs(Rule.OWNER)
def delete(job_id: str) -> AnyResponse:
    """Remove an ended job for good, and lead to the gallery."""
    place = office().spool.find_by_name(job_id)
    if place is None:
        return answer(404, "not_found", "There is no such job: it may have been removed from the spool.")
    if place.state not in ENDS:
        return answer(409, "wrong_state", "Only a job that has ended can be deleted: cancel it first.")
    if not may_change(place):
        return answer(403, "not_yours", "The job belongs to somebody else.")
    if (place.path / "starred").exists():
        return answer(409, "starred", "The job has a star: take the star away first.")
    if not _do_ended(place, "delete"):
        return answer(409, "moved", "The job has moved on.")
    return redirect(_back("pages.gallery"), 303)


def _do_ended(place: Place, verb: str) -> bool:
    """Whether it was done."""
    desk = office()
    if not may_change(place):
        return False
    if verb == "delete":
        done = place.state in ENDS and retention.delete(desk.spool, place.state, place.id)
    else:
        done = desk.spool.star(place.id, verb == "star") is not None
    desk.index.note(place.id)
    return done


def _do_waiting(job_id: str, verb: str) -> bool:
    desk = office()
    place = desk.spool.find_by_name(job_id)
    if place is None or place.state in ENDS or not may_change(place):
        return False
    if verb == "cancel":
        after = desk.spool.cancel(job_id)
        return after is not None and after.state in ("cancelled", "claimed")
    try:
        after = desk.spool.hold(job_id) if verb == "hold" else desk.release(job_id)
    except FullError:
        return False
    return after is not None and after.state == ("held" if verb == "hold" else "pending")


def _may_raise(job_id: str) -> bool:
    place = office().spool.find_by_name(job_id)
    return place is not None and place.state in ("pending", "held") and may_change(place)


def give(changes: Iterable[tuple[str, Value]]) -> int:
    """Give jobs their priorities, one after the other; how many there were."""
    desk, given = office(), 0
    for job_id, value in changes:
        given += 1
        desk.spool.set_priority(job_id, value)
        desk.line.hint(job_id)
    return given


def _ids() -> list[str]:
    """The selected jobs, each once."""
    return [each for each in dict.fromkeys(request.form.getlist("job")) if ID.fullmatch(each)][:MOST]


def _back(endpoint: str) -> str:
    return local(request.form.get("back") or url_for(endpoint))


def _did(back: str, done: int, asked: int) -> AnyResponse:
    """Lead back; the page says how many were not done."""
    if done == asked:
        return redirect(back, 303)
    return redirect(f"{back}{'&' if '?' in back else '?'}{urlencode({'left': asked - done})}", 303)
