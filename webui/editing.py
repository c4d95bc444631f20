"""Changing a job that waits: a small form on the fields that people change most. It keeps its place in the line."""

from __future__ import annotations

import re
from typing import Any

from flask import Blueprint, Response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from spooler import edit
from spooler.job import Job
from spooler.mistakes import JobError
from webui import flat
from webui.answers import may_change
from webui.changing import check, owned
from webui.errors import answer
from webui.frame import around
from webui.office import office
from webui.people import person
from webui.rules import Rule, needs

blueprint = Blueprint("editing", __name__)

TEXTS = ("prompt", "negative_prompt")
NUMBERS = ("steps", "guidance_scale", "width", "height", "seed", "count")


@blueprint.get("/jobs/<job_id>/edit")
def form(job_id: str) -> AnyResponse:
    report = office().reports.job(job_id)
    if report is None:
        return answer(404, "not_found", "There is no such job: it may have been removed from the spool.")
    if report.status not in ("waiting", "held") or not person().may_change(report.job.owner):
        return redirect(url_for("pages.job", job_id=job_id), 303)
    return Response(_page(report.id, report.job, _given(report.job), {}), mimetype="text/html")


@blueprint.post("/jobs/<job_id>/edit")
@needs(Rule.OWNER)
def save(job_id: str) -> AnyResponse:
    """Change it if it still waits, and lead to its page; or show the form again, each mistake beside its field."""
    desk = office()
    place = desk.spool.settled(job_id)
    if place is None:
        return answer(404, "not_found", "There is no such job: it may have been removed from the spool.")
    if not may_change(place):
        return answer(403, "not_yours", "The job belongs to somebody else.")
    if place.state not in ("pending", "held"):
        return redirect(url_for("pages.job", job_id=job_id), 303)  # too late: its page says what it is at
    given = {name: _one_newline(request.form.get(name, "")) for name in (*TEXTS, *NUMBERS)}
    try:
        job = desk.spool.read_job(place)
    except FileNotFoundError:  # RACE: claimed since, or cancelled
        return redirect(url_for("pages.job", job_id=job_id), 303)
    shown = {name: _one_newline(text) for name, text in _given(job).items()}
    try:
        # What comes back as it was shown stays what it was: a browser's text cannot tell all that a job may say.
        touched = {name: text for name, text in given.items() if text != shown.get(name, "") and name not in job.sweep}
        values = {name: _value(name, text) for name, text in touched.items()}
        change = edit.setting(values)
        check(change(job), job, place)
        edit.apply(desk.spool, owned(change), [place])
    except JobError as error:
        mistakes: dict[str, list[str]] = {}
        for mistake in error.mistakes:
            mistakes.setdefault(mistake.field, []).append(mistake.message)
        return Response(_page(job_id, job, given, mistakes), status=422, mimetype="text/html")
    return redirect(url_for("pages.job", job_id=job_id), 303)


def _one_newline(text: str) -> str:
    """As a browser has the text of a field: each way to begin a line is one."""
    return re.sub("\r\n?", "\n", text)


def _given(job: Job) -> dict[str, str]:
    values = job.model_dump(include={*TEXTS, *NUMBERS}, exclude_none=True)
    return {name: flat.text(value) for name, value in values.items() if (name, value) != ("seed", -1)}  # a random one


def _value(name: str, text: str) -> Any:
    """The field's value; None takes it out, so that it has its default. What is no number stays text for the rules."""
    if name == "prompt":
        return text
    if not text.strip():
        return None
    if name in TEXTS:
        return text
    if re.fullmatch(r"\s*[+-]?\d{1,15}\s*", text, re.ASCII):
        return int(text)
    is_number = re.fullmatch(
        r"\s*[+-]?(\d{0,9}\.\d{1,17}(e[+-]?\d{1,2})?|\d{1,9}e[+-]?\d{1,2})\s*", text, re.ASCII | re.IGNORECASE
    )
    return float(text) if is_number else text


def _page(job_id: str, job: Job, given: dict[str, str], mistakes: dict[str, list[str]]) -> str:
    return render_template("edit.html", job_id=job_id, job=job, given=given, mistakes=mistakes, **around())
