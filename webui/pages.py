"""The pages: server-rendered, whole without JavaScript. A view reads the spool through Reports and shows a template."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, abort, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from spooler import samplers
from spooler.catalogue import ModelCard, loras_of
from spooler.job import Job, from_fields
from spooler.mistakes import JobError
from spooler.record import EngineFacts
from webui.office import office
from webui.reports import JobReport, ReadyReport
from webui.rules import Rule, needs
from webui.search import Search

blueprint = Blueprint("pages", __name__)

PAGE = 24
#: The form's fields that are numbers in a job file.
NUMBERS = ("steps", "guidance_scale", "width", "height", "seed", "count", "priority", "strength", "clip_skip")
TEXTS = ("prompt", "negative_prompt", "sampler", "scheduler", "model", "vae", "owner")
#: What a job may have and the form has no field for, in words: a link to the form leaves it out, and says so.
NOT_IN_THE_FORM = {
    "image": "its picture",
    "mask": "its mask",
    "loras": "LoRAs",
    "hires": "hires fix",
    "refiner": "the refiner",
    "controls": "ControlNets",
    "upscale": "upscaling",
    "variation_strength": "the variation",
    "sweep": "the sweep",
}
#: Those that are pictures.
FILES = ("image", "mask")


@blueprint.get("/")
def create() -> str:
    """The form, filled in from the query string."""
    given = {name: request.args[name] for name in (*TEXTS, *NUMBERS) if name in request.args}
    return _form(given, {})


@blueprint.post("/")
@needs(Rule.SUBMIT)
def submit() -> AnyResponse:
    """Put the form's job into the queue and go to its page; or show the form again, each mistake beside its field."""
    given = {name: request.form.get(name, "") for name in (*TEXTS, *NUMBERS)}
    try:
        fields, inputs = _fields(given), {}
        for name in FILES:
            if (file := request.files.get(name)) and file.filename:
                # The person's own name for the file is nobody's business, and may be no name that a job can have.
                fields[name] = f"{name}.{file.filename.rpartition('.')[2].lower() or 'png'}"
                inputs[fields[name]] = file.read()
        if "image" not in fields:
            fields.pop("strength", None)
        job_id = office().accept(from_fields(fields), inputs=inputs)
    except JobError as error:
        mistakes: dict[str, list[str]] = {}
        for mistake in error.mistakes:
            mistakes.setdefault(mistake.field, []).append(mistake.message)
        return Response(_form(given, mistakes), status=422)
    return redirect(url_for("pages.job", job_id=job_id), 303)


def _fields(given: dict[str, str]) -> dict[str, Any]:
    """The form's texts as a job file's values. What was left empty is left out; what is no number stays text for the rules."""
    fields: dict[str, Any] = {}
    for name, text in given.items():
        if name == "prompt":
            fields[name] = text.replace("\r\n", "\n")
        elif text.strip():
            fields[name] = _number(text.strip()) if name in NUMBERS else text.replace("\r\n", "\n")
    return fields


def _number(text: str) -> Any:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def _form(given: dict[str, str], mistakes: dict[str, list[str]]) -> str:
    ready = office().reports.ready()
    card = ready.catalogue.card(given.get("model", ""))
    return render_template(
        "create.html",
        given=given,
        mistakes=mistakes,
        card=card,
        fields=Job.model_fields,
        samplers=samplers.SAMPLERS,
        schedules=samplers.SCHEDULE_NAMES,
        sizes=_sizes(card),
        finished=office().reports.ended(("done",), limit=8).jobs,
        running=office().reports.jobs("claimed")[0],
        **_frame(ready),
    )


def _sizes(card: ModelCard | None) -> list[tuple[str, int, int]]:
    """Sizes worth offering: the model's own, and its area in the usual shapes, in steps of 8 pixels."""
    if card is None:
        return []
    shapes = (("Square", 1.0), ("Landscape 3:2", 1.5), ("Portrait 2:3", 1 / 1.5), ("Wide 16:9", 16 / 9), ("Tall 9:16", 9 / 16))
    area = card.width * card.height
    return [(name, round((area * ratio) ** 0.5 / 8) * 8, round((area / ratio) ** 0.5 / 8) * 8) for name, ratio in shapes]


@blueprint.get("/jobs/<job_id>")
def job(job_id: str) -> str:
    report = _report(job_id)
    left_out = [words for name, words in NOT_IN_THE_FORM.items() if getattr(report.job, name)]
    return render_template(
        "job.html", job=report, again=_again(report), left_out=left_out, record=_record_rows(report), **_frame()
    )


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
    shown = {*TEXTS, *NUMBERS} - {"owner", "priority"} - (set() if report.job.image else {"strength"})
    used = (report.parameters or report.job).model_dump(exclude_none=True, exclude_defaults=True, include=shown)
    return {
        "same": url_for("pages.create") + "?" + urlencode(used),
        "new": url_for("pages.create") + "?" + urlencode(used | {"seed": -1}),
    }


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
