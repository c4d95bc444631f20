"""The frame around every page, and what a browser is remembered by: its theme, its language, its person's name.

Three cookies, none of them secret: `theme` (light or dark; none: as the system is), `tongue` (webui/tongues.py) and `owner`
(the name that this browser's jobs have, percent-encoded). They are set by small forms, so that no page needs a script for them.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote

from flask import Blueprint, Flask, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from spooler.job import MAX_NAME
from webui import tongues
from webui.office import office
from webui.people import person
from webui.reports import PAUSED, ReadyReport
from webui.rules import Rule, needs

blueprint = Blueprint("frame", __name__)

THEMES = ("light", "dark")
#: Seconds that a choice is remembered.
REMEMBERED_S = 365 * 86_400


def install(app: Flask) -> None:
    app.register_blueprint(blueprint)
    app.context_processor(lambda: {"theme": theme(), "my_name": me(), "person": person(), "back": here()})


def around(ready: ReadyReport | None = None) -> dict[str, Any]:
    """What the frame shows of the queue and the spoolers.

    `only_paused`: nothing but the pause keeps a job from running. Where something else does too, that is told first.
    """
    ready, paused = ready or office().reports.ready(), office().spool.paused
    return {
        "ready": ready,
        "only_paused": paused and ready.reason in (None, PAUSED),  # the spooler notices it in a moment
        "queue_length": len(office().reports.waiting()),
        "seen": f"{ready.reason or ''}|{int(paused)}",
    }


def theme() -> str:
    """The theme that this browser's person chose; "" leaves it to the system."""
    chosen = request.cookies.get("theme", "")
    return chosen if chosen in THEMES else ""


def me() -> str:
    """Who "mine" means: the name of the person who asks, else the one that this browser remembers; "" is nobody."""
    return person().name or _printable(unquote(request.cookies.get("owner", "")))[:MAX_NAME]


def here() -> str:
    """The path and query of this page, to come back to."""
    return request.script_root + (request.full_path.rstrip("?") if request.method == "GET" else "/")


@blueprint.post("/theme")
@needs(Rule.LET_IN)
def set_theme() -> AnyResponse:
    return _remember("theme", request.form.get("theme", ""), set(THEMES))


@blueprint.post("/tongue")
@needs(Rule.LET_IN)
def set_tongue() -> AnyResponse:
    return _remember(tongues.COOKIE, request.form.get("tongue", ""), set(tongues.TONGUES))


@blueprint.post("/owner")
@needs(Rule.LET_IN)
def set_owner() -> AnyResponse:
    name = _printable(request.form.get("owner", "")).strip()[:MAX_NAME]
    return _remember("owner", quote(name, safe=""), None)


def _remember(cookie: str, value: str, known: set[str] | None) -> AnyResponse:
    """Set the cookie, or forget it when the value is none of the known ones, and lead back to where the form was."""
    response = redirect(local(request.form.get("back", "")), 303)
    path, secure = request.script_root or "/", request.is_secure
    if value and (known is None or value in known):
        response.set_cookie(cookie, value, max_age=REMEMBERED_S, path=path, secure=secure, httponly=True, samesite="Lax")
    else:
        response.delete_cookie(cookie, path=path, secure=secure, httponly=True, samesite="Lax")
    return response


def local(path: str) -> str:
    """The path if it leads to a page of this server, else the start: nobody is sent elsewhere from here."""
    return inside(path, request.script_root)


def inside(path: str, root: str = "") -> str:
    """The path if it is one below the root, else the root's start."""
    start = f"{root}/"
    good = path.startswith(start) and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if good and not climbs(path) else start


def climbs(path: str) -> bool:
    """Whether a part of the path is `.` or `..`, which a browser takes out, with what stands before it: %2E is a dot to it."""
    parts = re.split(r"[?#]", path, maxsplit=1)[0].replace("%2e", ".").replace("%2E", ".").split("/")
    return "." in parts or ".." in parts


def _printable(text: str) -> str:
    return "".join(each for each in text if each.isprintable())
