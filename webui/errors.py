"""What went wrong, told in the caller's language: JSON to the API, a page to a browser. Never a traceback."""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Iterable

from flask import Flask, Response, jsonify, render_template, request
from werkzeug.exceptions import HTTPException

from spooler.mistakes import JobError, Mistake
from spooler.spool import TakenError
from webui.office import FullError, NoRoomError

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
    app.register_error_handler(FullError, _full)
    app.register_error_handler(NoRoomError, lambda error: answer(507, "no_space", str(error)))
    app.register_error_handler(OSError, _disk)
    app.register_error_handler(HTTPException, _http)


def answer(status: int, code: str, message: str, mistakes: Iterable[Mistake] = ()) -> Response:
    """The error as the caller wants it: `{"error": {"code", "message", "fields"}}` for the API, a page for a browser."""
    if not wants_json():
        page = Response(render_template("error.html", status=status, message=message), mimetype="text/html")
        page.status_code = status
        return page
    fields: dict[str, list[str]] = {}
    for mistake in mistakes:
        if mistake.field:
            fields.setdefault(mistake.field, []).append(mistake.message)
    response = jsonify(error={"code": code, "message": message, "fields": fields})
    response.status_code = status
    return response


def wants_json() -> bool:
    return request.path.startswith("/api/") or request.path in ("/healthz", "/readyz")


def _job_error(error: JobError) -> Response:
    return answer(400, "invalid_job", str(error), error.mistakes)


def _taken(error: TakenError) -> Response:
    return answer(409, "duplicate_id", str(error), [Mistake("id", str(error))])


def _full(error: FullError) -> Response:
    response = answer(429, "queue_full", str(error))
    response.headers["Retry-After"] = str(math.ceil(error.retry_s))
    return response


def _disk(error: OSError) -> Response:
    log.error("%s %s: %s", request.method, request.path, error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return answer(507, "no_space", "The spool's disk is full: the job was not accepted. Try again when there is space.")
    return answer(503, "spool_unavailable", "The spool cannot be used just now: the job was not accepted.")


def _http(error: HTTPException) -> Response:
    status = error.code or 500
    if error.response is not None and status < 400:
        return error.response  # type: ignore[return-value]
    code, sentence = SENTENCES.get(status, ("bad_request", error.description or "The request cannot be understood."))
    return answer(status, code, sentence)
