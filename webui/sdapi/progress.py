"""How far the running job is, and how far a task of one's own is: A1111's two ways of asking."""

from __future__ import annotations

import base64
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, jsonify, request

from spooler.ids import clean_id, is_id
from webui.office import office
from webui.people import person
from webui.reports import JobReport
from webui.rules import Rule, needs
from webui.sdapi.draw import body
from webui.sdapi.info import timestamp
from webui.sdapi.kept import kept
from webui.sdapi.requests import TaskProgress

blueprint = Blueprint("sdapi_progress", __name__)

IDLE = {
    "skipped": False,
    "interrupted": False,
    "stopping_generation": False,
    "job": "",
    "job_count": 0,
    "job_timestamp": "0",
    "job_no": 0,
    "sampling_step": 0,
    "sampling_steps": 0,
}


@blueprint.get("/sdapi/v1/progress")
def progress() -> Response:
    """Of the job that runs, whoever's it is: with several spoolers, of the one that runs longest."""
    report = next(iter(running()), None)
    if report is None:
        return jsonify(progress=0.0, eta_relative=0.0, state=IDLE, current_image=None, textinfo=None)
    told = report.progress
    state = IDLE | {
        "job": report.id,
        "job_count": told.count if told else report.job.pictures,
        "job_timestamp": timestamp(report.started),
        "job_no": told.image if told else 0,
        "sampling_step": told.step if told else 0,
        "sampling_steps": (told.steps if told else 0) or report.job.steps or 0,
        "interrupted": cancelled(report.id),
    }
    skip = request.args.get("skip_current_image", "false").lower() in ("true", "1", "yes", "on")
    _, image = (0, None) if skip else preview(report.id)
    fraction = fraction_of(report)
    return jsonify(
        progress=fraction,
        eta_relative=_eta_s(report, fraction),
        state=state,
        current_image=base64.b64encode(image).decode() if image else None,
        textinfo=None,
    )


@blueprint.get("/internal/ping")
def ping() -> Response:
    return jsonify({})


@blueprint.get("/internal/pending-tasks")
def pending_tasks() -> Response:
    tasks = [each.id for each in office().reports.waiting()]
    return jsonify(size=len(tasks), tasks=tasks)


@blueprint.post("/internal/progress")
@needs(Rule.LET_IN)
def task_progress() -> Response:
    """Of one task, by its `force_task_id`: where it stands in the queue, how far it is, that it is over."""
    asked = body(TaskProgress)
    task = asked.id_task if is_id(asked.id_task) else clean_id(asked.id_task)
    report = office().reports.job(kept().job_of(person().name, task)) if asked.id_task else None
    told: dict[str, Any] = {
        "active": False,
        "queued": False,
        "completed": False,
        "progress": None,
        "eta": None,
        "live_preview": None,
        "id_live_preview": -1,
        "textinfo": None,
    }
    if report is None:
        return jsonify(told | {"textinfo": "Waiting..."})
    if report.status in ("waiting", "held"):
        total = len(office().reports.waiting())
        text = f"In queue: {report.position}/{total}" if report.position else "Waiting..."
        return jsonify(told | {"queued": True, "textinfo": report.waits_for or text})
    if report.status != "running":
        return jsonify(told | {"completed": True})
    fraction = fraction_of(report)
    number, image = preview(report.id) if asked.live_preview else (-1, None)
    told |= {"active": True, "progress": fraction, "eta": _eta_s(report, fraction), "id_live_preview": number}
    if image and number != asked.id_live_preview:
        told["live_preview"] = "data:image/jpeg;base64," + base64.b64encode(image).decode()
    return jsonify(told)


def running() -> list[JobReport]:
    """The jobs that run, the one first that has been running longest."""
    found, _ = office().reports.jobs("claimed")
    return sorted(found, key=lambda report: report.started or "~")


def cancelled(job_id: str) -> bool:
    place = office().spool.find(job_id)
    return bool(place and (place.path / "cancel").exists())


def fraction_of(report: JobReport) -> float:
    """A1111's count: of pictures and their steps, never 0 while it runs."""
    told = report.progress
    if told is None:
        return 0.01
    within = told.batch * min(1.0, told.step / told.steps) if told.steps else 0.0
    return round(min(1.0, 0.01 + (told.image + within) / told.count), 4)


def preview(job_id: str) -> tuple[int, bytes | None]:
    """The picture at work, a small JPEG, and a number that is another for each; (-1, None) while there is none."""
    place = office().spool.find(job_id)
    if place is None or place.state != "claimed":
        return -1, None
    path: Path = place.path / "preview.jpg"
    try:
        number = path.stat().st_mtime_ns // 1_000_000
    except OSError:  # RACE: not yet, or no longer
        return -1, None
    data = office().spool.preview(place)
    return (number, data) if data else (-1, None)


def _eta_s(report: JobReport, fraction: float) -> float:
    """Seconds that are left, if it goes on as it did."""
    if not report.attempts:
        return 0.0
    began = datetime.fromisoformat(report.attempts[-1].started).timestamp()
    passed = max(0.0, time.time() - began)
    return round(passed / fraction - passed, 3)
