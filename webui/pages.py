"""The pages: server-rendered, whole without JavaScript. A view reads the spool through Reports and shows a template."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, abort, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from spooler.catalogue import loras_of
from spooler.mistakes import JobError
from spooler.record import EngineFacts
from webui.office import office
from webui.reports import JobReport, ReadyReport
from webui.rules import Rule, needs
from webui.search import Search

blueprint = Blueprint("pages", __name__)

PAGE = 24


@blueprint.get("/jobs/<job_id>")
def job(job_id: str) -> str:
    report = _report(job_id)
    return render_template("job.html", job=report, again=_again(report), record=_record_rows(report), **_frame())


@blueprint.post("/jobs/<job_id>/cancel")
@needs(Rule.OWNER)
def cancel(job_id: str) -> AnyResponse:
    place = office().spool.cancel(job_id)
    if place is None:
        abort(404)
    return redirect(url_for("pages.job", job_id=place.id), 303)


@blueprint.post("/jobs/<job_id>/retry")
@needs(Rule.OWNER)
def retry(job_id: str) -> AnyResponse:
    _report(job_id)
    office().spool.retry(job_id)  # when it is no longer failed, its page says what it is
    return redirect(url_for("pages.job", job_id=job_id), 303)


@blueprint.get("/queue")
def queue() -> str:
    reports = office().reports
    return render_template(
        "queue.html",
        running=reports.jobs("claimed")[0],
        waiting=reports.jobs("pending", limit=200)[0],
        held=reports.jobs("held", limit=200)[0],
        paused=office().spool.paused,
        **_frame(),
    )


@blueprint.get("/gallery")
def gallery() -> str:
    given = {name: request.args[name] for name in ("q", "owner", "model", "batch") if request.args.get(name)}
    wanted = Search(given.get("q", ""), given.get("owner"), given.get("model"), given.get("batch"))
    try:
        found = office().reports.ended(("done",), wanted, request.args.get("cursor"), PAGE, _page() * PAGE)
    except JobError as error:
        abort(404, str(error))
    return render_template("gallery.html", found=found, given=given, **_frame())


@blueprint.get("/failed")
def failed() -> str:
    reports = office().reports
    return render_template(
        "failed.html",
        failed=reports.ended(("failed",), limit=100).jobs,
        cancelled=reports.ended(("cancelled",), limit=50).jobs,
        rejected=office().spool.rejected()[:100],
        **_frame(),
    )


def _page() -> int:
    text = request.args.get("page", "0")
    return int(text) if text.isdecimal() and len(text) < 9 else 0


def _report(job_id: str) -> JobReport:
    report = office().reports.job(job_id)
    if report is None:
        abort(404, "There is no such job: it may have been removed from the spool.")
    return report


def _frame(ready: ReadyReport | None = None) -> dict[str, Any]:
    """What the frame around every page shows."""
    return {"ready": ready or office().reports.ready(), "queue_length": len(office().reports.waiting())}


def _again(report: JobReport) -> dict[str, str]:
    """Links to the form: with everything as it was run, and with another seed."""
    same = f"{url_for('pages.create')}?from={report.id}&as=same"
    return {"same": same, "new": same + "&seed=-1"}


def _record_rows(report: JobReport) -> list[tuple[str, str]]:
    """The record as rows for people, the interesting ones first."""
    used, engine, rows = report.parameters or report.job, report.engine, []
    for label, value in (
        ("Negative prompt", used.negative_prompt),
        ("Size", f"{used.width} × {used.height} pixels" if used.width and used.height else None),  # noqa: RUF001
        ("Steps", used.steps),
        ("Guidance scale", f"{used.guidance_scale:g}" if used.guidance_scale is not None else None),
        (
            "Sampler",
            used.sampler and (used.sampler + (f", {used.scheduler}" if used.scheduler not in (None, "Automatic") else "")),
        ),
        ("Seed", None if used.seed == -1 else _span(used.seed, used.count)),
        ("Kind", None if used.kind == "txt2img" else used.kind),
        ("Strength", f"{used.strength:g}" if used.image and not used.upscales_only else None),
        ("LoRA", ", ".join(f"{lora.name} {lora.weight:g}" for lora in loras_of(used))),
        ("VAE", used.vae),
        ("ControlNet", ", ".join(f"{control.model} {control.weight:g}" for control in used.controls)),
        ("Hires fix", used.hires and f"{used.hires.scale:g} times, strength {used.hires.strength:g}, {used.hires.upscaler}"),
        ("Refiner", used.refiner and f"{used.refiner.model} from {used.refiner.switch_at:g}"),
        ("Enlarged", used.upscale and f"{used.upscale.scale:g} times, {used.upscale.upscaler}"),
        ("Sweep", "; ".join(f"{name}: {', '.join(map(str, values))}" for name, values in used.sweep.items())),
        ("Model", f"{engine.model} [{engine.hash[:10]}]" if engine else used.model),
        ("Device", f"{engine.device_name}, {engine.precision}" if engine else None),
        ("Memory", _memory(engine) if engine and report.completed else None),
        ("Time", _seconds(report) if report.completed and report.timings.denoise else None),
        ("Owner", used.owner),
        ("Priority", used.priority or None),
        ("Attempts", len(report.attempts) if len(report.attempts) > 1 else None),
        ("Spooler", report.spooler),
        ("Versions", ", ".join(f"{name} {version}" for name, version in engine.versions.items()) if engine else None),
    ):
        if value not in (None, "") and label.lower().replace(" ", "_") not in used.sweep:  # what is swept is told there
            rows.append((label, str(value)))
    return rows


def _memory(engine: EngineFacts) -> str:
    peak = f", at most {engine.peak_bytes / 2**30:.1f} GiB in use" if engine.peak_bytes else ""
    return engine.memory + peak + (f"; memory was short, so: {engine.rung}" if engine.rung else "")


def _span(seed: int, count: int) -> str:
    return str(seed) if count == 1 else f"{seed} to {(seed + count - 1) % 2**32}"


def _seconds(report: JobReport) -> str:
    timings = report.timings
    work = timings.denoise + timings.decode + timings.encode
    parts = f"denoise {timings.denoise:.1f}, decode {timings.decode:.1f}, encode {timings.encode:.1f}"
    return f"{work:.1f} s ({parts}), after {timings.queue:.1f} s in the queue"


@blueprint.app_template_filter("ago")
def ago(moment: str | None) -> str:
    """A record's time, from now, in words."""
    if not moment:
        return ""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    if seconds < 10:
        return "just now"
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{int(seconds)} s ago"


@blueprint.app_template_filter("span")
def span(seconds: float) -> str:
    """A span of time for people: "20 s", "3 min", "2 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{round(seconds / 3600)} h"


@blueprint.app_template_filter("whole_json")
def whole_json(report: JobReport) -> str:
    return json.dumps(report.model_dump(exclude={"position", "progress"}), indent=2, ensure_ascii=False)
