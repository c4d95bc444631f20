"""What went wrong, told in the caller's language: each API's own JSON, a page to a browser. Never a traceback.

`answer` shapes an error by the path that was asked for, so a view and the guard say what is wrong and never how it looks.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Literal

from flask import Flask, Response, jsonify, render_template, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from spooler.durable import NO_ROOM
from spooler.mistakes import JobError, Mistake
from spooler.spool import TakenError
from webui.office import FullError, NoRoomError
from webui.openai_api import mishaps
from webui.patience import NoSeatError
from webui.people import NotYoursError
from webui.sdapi import errors as sdapi

log = logging.getLogger(__name__)

SENTENCES = {
    404: ("not_found", "There is nothing here."),
    405: ("method_not_allowed", "This cannot be done here."),
    413: ("too_large", "The request is too large: at most 64 MiB, its texts at most 4 MiB."),
    500: ("internal", "Something went wrong in the server; its log says what."),
}


def install(app: Flask) -> None:
    app.register_error_handler(JobError, _job_error)
    app.register_error_handler(TakenError, _taken)
    app.register_error_handler(NotYoursError, lambda error: answer(403, "not_yours", str(error)))
    app.register_error_handler(FullError, _full)
    app.register_error_handler(NoRoomError, lambda error: answer(507, "no_space", str(error)))
    app.register_error_handler(NoSeatError, _no_seat)
    app.register_error_handler(OSError, _disk)
    app.register_error_handler(HTTPException, _http)


#: Whose error bodies a path has: sdspool's own API, A1111's, OpenAI's. What begins with none of these is a page.
Shape = Literal["own", "a1111", "openai", "page"]
SHAPES: tuple[tuple[str, Shape], ...] = (
    ("/api/", "own"),
    ("/healthz", "own"),
    ("/readyz", "own"),
    ("/metrics", "own"),
    ("/generate", "own"),
    ("/result/", "own"),
    ("/sdapi/", "a1111"),
    ("/internal/", "a1111"),
    ("/controlnet/", "a1111"),
    ("/v1", "openai"),
)


def shape() -> Shape:
    """The shape of this request's errors."""
    return next((shape for prefix, shape in SHAPES if request.path.startswith(prefix)), "page")


def wants_json() -> bool:
    return shape() != "page"


def answer(status: int, code: str, message: str, mistakes: Iterable[Mistake] = ()) -> Response:
    """The error as the caller wants it: in the shape of the API that was asked, or a page for a browser."""
    match shape():
        case "a1111":
            return sdapi.answer(status, message, mistakes)
        case "openai":
            return mishaps.answer(status, code, message, mistakes)
        case "page":
            page = Response(render_template("error.html", status=status, message=message), mimetype="text/html")
            page.status_code = status
            return page
        case _:
            return _own(status, code, message, mistakes)


def _own(status: int, code: str, message: str, mistakes: Iterable[Mistake]) -> Response:
    fields: dict[str, list[str]] = {}
    for mistake in mistakes:
        if mistake.field:
            fields.setdefault(mistake.field, []).append(mistake.message)
    response = jsonify(error={"code": code, "message": message, "fields": fields})
    response.status_code = status
    return response


def _job_error(error: JobError) -> Response:
    return answer(400, "invalid_job", str(error), error.mistakes)


def _taken(error: TakenError) -> Response:
    return answer(409, "duplicate_id", str(error), [Mistake("id", str(error))])


def _full(error: FullError) -> Response:
    response = answer(429, "queue_full", str(error))
    response.headers["Retry-After"] = str(math.ceil(error.retry_s))
    return response


def _no_seat(error: NoSeatError) -> Response:
    response = answer(503, "busy", str(error))
    response.headers["Retry-After"] = "2"
    return response


def _disk(error: OSError) -> Response:
    log.error("%s %s: %s", request.method, request.path, error)
    if error.errno in NO_ROOM:
        return answer(507, "no_space", "The spool's disk is full: the job was not accepted. Try again when there is space.")
    if isinstance(error, PermissionError):
        # Of one job whose folder was dropped, or of all: who runs the web app does not own what is in the spool.
        return answer(
            503, "spool_closed", "The web app may not use this file of the spool: its owner, or root, has to open it to it."
        )
    return answer(503, "spool_unavailable", "The spool cannot be used just now: the job was not accepted.")


def _http(error: HTTPException) -> Response:
    status = error.code or 500
    if error.response is not None and status < 400:
        return error.response  # type: ignore[return-value]
    code, sentence = SENTENCES.get(status, ("bad_request", error.description or "The request cannot be understood."))
    if error.description and error.description != type(error).description:
        sentence = error.description  # a view's own word: which of its things is not there
    response = answer(status, code, sentence)
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return response
