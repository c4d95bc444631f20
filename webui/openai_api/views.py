"""The routes under /v1. Each request for pictures holds a seat of the waiting room from before its job is submitted."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from flask import Blueprint, Response, jsonify, request, url_for

from spooler.catalogue import Catalogue
from spooler.strict_json import parse_object
from webui import once
from webui.answers import gone
from webui.office import office
from webui.openai_api import asked, description, forms, mishaps, told
from webui.openai_api.asked import Asked
from webui.openai_api.mishaps import RefusedError
from webui.people import client, person
from webui.proxies import at_prefix
from webui.recoded import RecodeError
from webui.reports import JobReport
from webui.rules import Rule, needs

blueprint = Blueprint("openai_api", __name__)


@blueprint.errorhandler(RefusedError)
def _refused(error: RefusedError) -> Response:
    return mishaps.shaped(error.status, error.code, str(error), error.param)


@blueprint.after_app_request
def _add_headers(response: Response) -> Response:
    if mishaps.is_ours(request.path):
        response.headers["x-request-id"] = mishaps.request_id()
        response.headers.setdefault("Cache-Control", "no-store")
    return response


@blueprint.post("/v1/images/generations")
@needs(Rule.SUBMIT)
def generations() -> Response:
    """Draw pictures of what a prompt says, and answer with them."""
    if request.mimetype != "application/json":
        return _not_of_type("application/json")
    given = parse_object(request.get_data(), "The request")
    return _draw(asked.generation(given, _catalogue(), person().name), "image_generation")


@blueprint.post("/v1/images/edits")
@needs(Rule.SUBMIT)
def edits() -> Response:
    """Start from a picture, or repaint what is transparent in a mask, and answer with what came of it."""
    if request.mimetype != "multipart/form-data":
        return _not_of_type("multipart/form-data")
    files: dict[str, list[bytes]] = {"image": [], "mask": []}
    for part, file in request.files.items(multi=True):
        name = "image" if part in ("image", "image[]") else part
        if name not in files:
            raise RefusedError(f"Unknown parameter: {part!a}.", part, "unknown_parameter")
        files[name].append(file.read())
    if len(files["mask"]) > 1:
        raise RefusedError(f"`mask` must be one picture, but {len(files['mask'])} were sent.", "mask")
    mask = files["mask"][0] if files["mask"] else None
    given = forms.body(request.form.items(multi=True))
    return _draw(asked.editing(given, files["image"], mask, _catalogue(), person().name), "image_edit")


@blueprint.get("/v1/models")
def models() -> Response:
    """The models that draw by themselves."""
    return jsonify(object="list", data=[_model(name) for name in _names()])


@blueprint.get("/v1/models/<path:name>")
def model(name: str) -> Response:
    """One model, by its own name or by one that stands for the default."""
    found = asked.model_of(name, _catalogue())
    if not _names() or found not in ("", *_names()):
        raise RefusedError(f"The model {name!a} does not exist.", "model", "model_not_found", 404)
    return jsonify(_model(found or name))


@blueprint.get("/v1/openapi.json")
def description_() -> Response:
    """This API's description."""
    return jsonify(at_prefix(description.document()))


def _names() -> list[str]:
    return [card.name for card in _catalogue().models if card.family != "sdxl-refiner"]


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "sdspool"}  # nobody knows when it was made


def _catalogue() -> Catalogue:
    return office().reports.ready().catalogue


def _not_of_type(wanted: str) -> Response:
    message = f"The Content-Type must be {wanted}, but is {request.mimetype!a}."
    return mishaps.shaped(415, "unsupported_content_type", message)


def _draw(wanted: Asked, kind: str) -> Response:
    """Submit the job and wait for it, or stream what becomes of it."""
    desk = office()
    wait_s = desk.settings.wait_s
    with ExitStack() as kept:
        kept.enter_context(desk.patience.seat(client()))
        job_id, _ = once.accept(wanted.job, inputs=wanted.inputs)
        if wanted.stream:
            stream = told.events(kind, wanted, job_id, desk.patience, desk.spool, wait_s, gone())
            response = Response(stream, mimetype="text/event-stream")
            response.headers["X-Accel-Buffering"] = "no"  # nginx: pass each event on as it comes
            response.call_on_close(kept.pop_all().close)
        else:
            response = _answer(desk.patience.end_of(job_id, wait_s, gone()), job_id, wanted)
    response.headers["x-sdspool-job"] = job_id
    if wanted.without_effect:
        response.headers["x-sdspool-without-effect"] = ", ".join(wanted.without_effect)
    return response


def _answer(report: JobReport | None, job_id: str, wanted: Asked) -> Response:
    if wrong := told.failure(report, job_id):
        return mishaps.shaped(*wrong)
    assert report  # noqa: S101 - else it were a failure
    data: list[dict[str, str]] = [{} for _ in report.images]
    try:
        if "b64_json" in wanted.keys:
            for each, picture in zip(data, told.pictures(office().spool, report, wanted), strict=True):
                each["b64_json"] = picture
    except FileNotFoundError:
        return mishaps.shaped(409, "job_gone", f"The job {job_id} is gone: somebody removed it.")
    except RecodeError as error:
        raise RefusedError(str(error), "output_format") from error
    if "url" in wanted.keys:
        for each, image in zip(data, report.images, strict=True):
            how: dict[str, Any] = {}
            if wanted.output_format != "png":
                how = {"format": wanted.output_format, "quality": wanted.compression}
            each["url"] = url_for("api.image", job_id=report.id, name=image.file, _external=True, **how)
    return jsonify(told.body(report, wanted, data))
