"""The pages: server-rendered, whole without JavaScript. A view reads the spool through Reports and shows a template."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, abort, redirect, render_template, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response as AnyResponse

from spooler.mistakes import JobError
from webui import facts
from webui.answers import report_of
from webui.frame import around, local, me
from webui.gallery import FILTERS, SIDES, asked
from webui.office import office
from webui.people import person
from webui.reports import JobReport, ReadyReport
from webui.rules import Rule, needs
from webui.search import ENDED

blueprint = Blueprint("pages", __name__)

#: Jobs on a page of the gallery, and rows of each list of the queue.
PAGE = 24
SHOWN = 200


@blueprint.get("/jobs/<job_id>")
def job(job_id: str) -> str:
    report = report_of(job_id)
    newer, older = office().index.beside(report.status, job_id) if report.status in ENDED else (None, None)
    return render_template(
        "job.html",
        job=report,
        record=facts.rows(report),
        inputs=_inputs(report),
        newer=newer,
        older=older,
        mine=person().may_change(report.job.owner),
        **_frame(),
    )


@blueprint.get("/compare")
def compare() -> str:
    """Two pictures over each other. `a` and `b` are `<job>/<number of the picture>`."""
    sides = []
    for name in ("a", "b"):
        job_id, _, number = request.args.get(name, "").partition("/")
        report = report_of(job_id)
        at = int(number) if number.isdecimal() and len(number) < 5 else 0
        if at >= len(report.images):
            abort(404, "The job has no such picture.")
        sides.append((report, at))
    reports = list({report.id: report for report, _ in sides}.values())
    return render_template("compare.html", sides=sides, reports=reports, **_frame())


@blueprint.post("/jobs/<job_id>/cancel")
@needs(Rule.OWNER)
def cancel(job_id: str) -> AnyResponse:
    place = office().spool.cancel(job_id)
    if place is None:
        abort(404)
    if "back" in request.form:
        return redirect(local(request.form["back"]), 303)
    return redirect(url_for("pages.job", job_id=place.id), 303)


@blueprint.post("/jobs/<job_id>/retry")
@needs(Rule.OWNER)
def retry(job_id: str) -> AnyResponse:
    report_of(job_id)
    office().retry(job_id)  # when it is no longer failed, its page says what it is
    return redirect(url_for("pages.job", job_id=job_id), 303)


@blueprint.get("/queue")
def queue() -> str:
    reports = office().reports
    whose = "mine" if request.args.get("of") == "mine" and me() else "all"
    running = reports.running()
    waiting, held = reports.jobs("pending", limit=SHOWN)[0], reports.jobs("held", limit=SHOWN)[0]
    lists = {"waiting": waiting, "held": held}
    own = {
        "waiting": reports.waiting_of(me(), SHOWN) if me() else [],
        "held": [each for each in held if each.job.owner == me()],
    }
    return render_template(
        "queue.html",
        running=running,
        shown=own if whose == "mine" else lists,
        own=sum(map(len, own.values())) if me() else None,
        whose=whose,
        paused=office().spool.paused,
        left=_whole("left"),
        **_frame(),
    )


@blueprint.get("/gallery")
def gallery() -> str:
    wanted = asked(request.args)
    try:
        found = office().reports.ended(("done",), wanted.search, request.args.get("cursor"), PAGE, _whole("page") * PAGE)
    except JobError as error:
        abort(404, str(error))
    index = office().index
    choices = {"model": index.values("done", "model"), "owner": index.values("done", "owner")}
    return render_template(
        "gallery.html",
        found=found,
        wanted=wanted,
        given=wanted.given,
        choices=choices,
        filters=FILTERS,
        sides=SIDES,
        left=_whole("left"),
        **_frame(),
    )


@blueprint.get("/failed")
def failed() -> str:
    reports = office().reports
    return render_template(
        "failed.html",
        failed=reports.ended(("failed",), limit=100).jobs,
        cancelled=reports.ended(("cancelled",), limit=50).jobs,
        rejected=reports.rejected(100),
        lying=reports.lying(),
        **_frame(),
    )


def _whole(name: str) -> int:
    """A whole number of the query string, 0 when it is none."""
    text = request.args.get(name, "0")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0


def _frame(ready: ReadyReport | None = None) -> dict[str, Any]:
    """What the frame around every page shows."""
    return around(ready)


def _inputs(report: JobReport) -> list[tuple[str, str]]:
    """What a job began with: what each picture is, and its name."""
    named = {report.job.image: gettext("Picture"), report.job.mask: gettext("Mask")}
    named |= {control.image: gettext("ControlNet %(model)s", model=control.model) for control in report.job.controls}
    return [(named.get(name, gettext("Picture")), name) for name in report.job.inputs]


@blueprint.app_template_filter("ago")
def ago(moment: str | None) -> str:
    """A record's time, from now, in words."""
    if not moment:
        return ""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    if seconds < 10:
        return str(gettext("just now"))
    for words, length in ((gettext("%(n)s d ago"), 86_400), (gettext("%(n)s h ago"), 3_600), (gettext("%(n)s min ago"), 60)):
        if seconds >= length:
            return str(words % {"n": int(seconds // length)})
    return str(gettext("%(n)s s ago", n=int(seconds)))


@blueprint.app_template_filter("span")
def span(seconds: float) -> str:
    """A span of time for people: "20 s", "3 min", "2 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{round(seconds / 3600)} h"


@blueprint.app_template_filter("whole_json")
def whole_json(report: JobReport) -> str:
    return json.dumps(report.model_dump(exclude={"position", "progress"}), indent=2, ensure_ascii=False)
