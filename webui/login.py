"""The page that asks for a key, and the way out."""

from __future__ import annotations

import logging
import re

from flask import Blueprint, Response, redirect, render_template, request
from flask_babel import gettext
from werkzeug.wrappers import Response as AnyResponse

from spooler.logs import event
from webui.frame import climbs
from webui.guard import door, let_in, slow_down
from webui.pace import client_of
from webui.rules import Rule, needs
from webui.sessions import LIFETIME_S

log = logging.getLogger(__name__)
blueprint = Blueprint("login", __name__)

#: A place on this server: one slash, for two would be another server's name, and nothing that a browser takes for a slash.
HERE = re.compile(r"/(?![/\\])[^\\\x00-\x20\x7f]*")


@blueprint.get("/login")
@needs(Rule.ANYONE)
def form() -> AnyResponse:
    """The form; whoever needs no key is led on."""
    return _form() if door().keys.in_force() else redirect(after(request.args.get("next", "")), 303)


@blueprint.post("/login")
@needs(Rule.ANYONE)
def log_in() -> AnyResponse:
    """Begin a session, and lead to where the person was going."""
    if not door().keys.in_force():
        return redirect(after(request.form.get("next", "")), 303)
    found = let_in(client_of(request.remote_addr), request.form.get("key", "").strip(), request.form.get("name", "").strip())
    if isinstance(found, float):
        return slow_down(found)
    if found is None:
        return _form(gettext("The name and the key do not go together."), 403)
    log.info("%s logged in", found.name, extra=event("login", by=found.name, address=client_of(request.remote_addr)))
    response = redirect(after(request.form.get("next", "")), 303)
    response.set_cookie(
        door().cookie,
        door().sessions.begin(found),
        max_age=LIFETIME_S,
        path=request.script_root or "/",
        secure=request.is_secure,
        httponly=True,
        # Lax, not Strict: a link to this server on another page leads to it and not to the login. What changes something is
        # asked for its Origin besides.
        samesite="Lax",
    )
    return response


@blueprint.post("/logout")
@needs(Rule.LET_IN)
def log_out() -> AnyResponse:
    """End the session."""
    door().sessions.end(request.cookies.get(door().cookie, ""))
    response = redirect(f"{request.script_root}/login", 303)
    response.delete_cookie(
        door().cookie, path=request.script_root or "/", secure=request.is_secure, httponly=True, samesite="Lax"
    )
    return response


def after(wanted: str) -> str:
    """Where to go after the login: the place that was asked for, if it is on this server; else the start."""
    place = wanted if HERE.fullmatch(wanted) and not climbs(wanted) and not wanted.startswith("/login") else "/"
    return request.script_root + place


def _form(mistake: str = "", status: int = 200) -> Response:
    given = request.values.get("next", ""), request.form.get("name", "")
    page = render_template("login.html", mistake=mistake, next=given[0], name=given[1])
    response = Response(page, status)
    response.headers["Cache-Control"] = "no-store"
    return response
