"""The page of a batch: how far its jobs are, their pictures, and what is done to all of them at once."""

from __future__ import annotations

from flask import Blueprint, abort, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from spooler.batches import Batches
from spooler.ids import is_id
from webui.actions import BatchReport, batch_report
from webui.answers import may_change
from webui.changing import do
from webui.frame import around
from webui.office import office
from webui.people import person
from webui.rules import Rule, needs

blueprint = Blueprint("batches", __name__)

#: Jobs on a page; and of one request that changes them, so that it holds no thread for minutes.
PAGE, MOST = 48, 500
#: The states in which a job is changed by each verb.
STATES = {"cancel": ("pending", "held", "claimed"), "retry": ("failed", "cancelled")}


@blueprint.get("/batches/<batch_id>")
def show(batch_id: str) -> str:
    report = _report(batch_id)
    pages = max(1, -(-len(report.jobs) // PAGE))
    text = request.args.get("page", "0")
    number = min(int(text), pages - 1) if text.isascii() and text.isdecimal() and len(text) < 9 else 0
    found = [office().reports.job(each) for each in report.jobs[number * PAGE : (number + 1) * PAGE]]
    jobs = [each for each in found if each]
    return render_template(
        "batch.html",
        batch=report,
        ended=report.done + report.failed + report.cancelled + report.gone,
        jobs=jobs,
        left_over=report.waiting + report.held + report.running,
        is_owner=person().may_change(report.owner),
        # Of each job its own owner counts, and almost always that is the batch's.
        mine=person().may_change(report.owner) or any(person().may_change(each.job.owner) for each in jobs),
        number=number,
        pages=pages,
        left=request.args.get("left", ""),
        **around(),
    )


@blueprint.post("/batches/<batch_id>/<any(cancel, retry):verb>")
@needs(Rule.EACH)
def change(batch_id: str, verb: str) -> AnyResponse:
    """Cancel what has not ended, or retry what failed or was cancelled, of one's own; the page tells what is left."""
    report = _report(batch_id)
    done, left, is_full = 0, 0, False
    if verb == "cancel" and report.coming:
        batches = Batches(office().spool)
        coming = [each for each in report.jobs if office().spool.find_by_name(each) is None]
        batches.bring_in(coming[:MOST])
        left = len(coming[MOST:])
    for job_id in report.jobs:
        place = office().spool.find_by_name(job_id)
        if place is None or place.state not in STATES[verb] or not may_change(place):
            continue
        if done >= MOST or is_full:
            left += 1
            continue
        told = do(job_id, "cancel" if verb == "cancel" else "retry")
        is_full = told.code in ("queue_full", "no_space")
        done, left = done + told.ok, left + is_full
    return redirect(url_for("batches.show", batch_id=batch_id, left=left or None), 303)  # None: it is left out


def _report(batch_id: str) -> BatchReport:
    report = batch_report(batch_id) if is_id(batch_id) else None
    if report is None:
        abort(404, "There is no such batch.")
    return report
