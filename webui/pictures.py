"""Pictures for the pages: thumbnails of results, and the pictures that a job began with."""

from __future__ import annotations

import logging

from flask import Blueprint, Flask, Response, abort, current_app, redirect, request, send_file, url_for
from werkzeug.wrappers import Response as AnyResponse

from spooler.durable import is_odd
from spooler.reader import RESULT
from webui.office import Office, office
from webui.thumbnails import SIZES, BrokenError, BusyError, Thumbnails

log = logging.getLogger(__name__)

blueprint = Blueprint("pictures", __name__)

#: What an input picture may be, by the end of its name.
KINDS = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp"}
FOR_EVER_S = 31_536_000
_PLACEHOLDER = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 96 96"><rect width="96" height="96" fill="#8884"/>'
    '<path d="M30 34h36v28H30zM30 56l11-10 8 7 7-6 10 9" fill="none" stroke="#888" stroke-width="3"/>'
    '<path d="M26 70 70 26" stroke="#888" stroke-width="3"/></svg>'
)


def install(app: Flask) -> None:
    desk: Office = app.extensions["office"]
    folder = desk.index.folder.parent.parent / "thumbnails" / desk.index.folder.name
    made = app.extensions["thumbnails"] = Thumbnails(folder, waiters=desk.settings.web_threads // 4)
    desk.index.on_gone = made.forget
    app.register_blueprint(blueprint)
    app.jinja_env.globals["thumb"] = thumb


def thumb(job_id: str, file: str, side: int = SIZES[0], completed: str | None = None) -> str:
    """Where the thumbnail of a job's picture is had.

    A browser keeps it for ever, and a deleted job's id may be given again: so `completed`, when the job ended, is part of it.
    """
    return url_for("pictures.thumbnail", job_id=job_id, name=file, side=side, of=completed)


@blueprint.get("/jobs/<job_id>/thumbnails/<int:side>/<name>")
def thumbnail(job_id: str, side: int, name: str) -> AnyResponse:
    """A small WebP of a result; a placeholder for one that cannot be read; the picture itself while too many are made."""
    place = office().spool.find_by_name(job_id)
    if place is None or side not in SIZES or not RESULT.fullmatch(name):
        abort(404)
    picture = place.path / name
    if is_odd(picture):  # a stranger may have put it there: nothing outside the spool is shown
        abort(404)
    made: Thumbnails = current_app.extensions["thumbnails"]
    try:
        file = made.get(picture, job_id, side)
    except BrokenError as error:
        log.warning("job %s: no thumbnail: %s", job_id, error)
        return Response(_PLACEHOLDER, mimetype="image/svg+xml", headers={"Cache-Control": "max-age=60"})
    except FileNotFoundError:
        abort(404)
    except (BusyError, OSError) as error:
        if not isinstance(error, BusyError):
            log.warning("the thumbnails: %s", error)
        whole = redirect(url_for("api.image", job_id=job_id, name=name), 302)
        whole.headers["Cache-Control"] = "no-store"
        return whole
    final = place.state == "done"
    response = send_file(file, mimetype="image/webp", max_age=FOR_EVER_S if final else 0)
    if final:
        response.cache_control.immutable = True
    return response


@blueprint.get("/jobs/<job_id>/inputs/<name>")
def given(job_id: str, name: str) -> AnyResponse:
    """A picture that the job names and that lies with it."""
    report = office().reports.job(job_id)
    place = office().spool.find(job_id)
    kind = KINDS.get(name.rpartition(".")[2].lower())
    if report is None or place is None or name not in report.job.inputs or kind is None:
        abort(404)
    path = office().spool.input_file(place, name)
    if path.is_symlink() or not path.is_file():
        abort(404)
    return send_file(path, mimetype=kind, download_name=name, as_attachment="download" in request.args)
