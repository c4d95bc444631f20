"""Which requests are let in, and the headers that every answer carries.

Each request passes, in this order: 1. the Host, against DNS rebinding; 2. Origin and Sec-Fetch-Site, against other sites;
3. how many of the same client are under way; 4. the key, where people need one; 5. the kind of its body; 6. the route's rule.
Only then a view runs. What is wrong is told in the shape of the API that was asked (errors.py).
"""

from __future__ import annotations

import hashlib
import logging
import math
import socket
from collections.abc import Callable, Iterable
from typing import cast
from urllib.parse import quote

from flask import Flask, Response, current_app, g, redirect, request
from werkzeug.datastructures import Authorization
from werkzeug.wrappers import Response as AnyResponse
from werkzeug.wsgi import ClosingIterator

from spooler.batches import Batches
from spooler.logs import event
from spooler.mistakes import JobError
from spooler.settings import Settings
from webui.errors import answer, shape
from webui.keys import Key, KeyFile, KeysError, on_loopback
from webui.office import office
from webui.origins import SAFE, Hosts, of_another_site, surely_from_here
from webui.pace import Crowd, Known, Pace, client_of
from webui.people import ANYBODY, NOBODY, Person, person, require, require_operator
from webui.rules import Rule, rule_of
from webui.sdapi.errors import carries_pictures
from webui.sessions import Sessions

log = logging.getLogger(__name__)

#: Room for a form whose prompt is far too long, so that the answer can say so beside the field. Pictures may have more.
MAX_TEXT_BYTES = 4 << 20
#: Room for what somebody may send who has not been let in: a name and a key.
MAX_LOGIN_BYTES = 64 << 10
#: Wrong keys of one address: as many at once, and one more in so many seconds.
WRONG_KEYS, WRONG_KEY_S = 10, 6.0
#: Bodies that a page may send anywhere without asking the server first. None of them is JSON.
PLAIN_BODIES = frozenset({"text/plain", "application/x-www-form-urlencoded"})
#: Where a text is meant: prompts, one a line. Origin and Sec-Fetch-Site are looked at there as everywhere.
TEXTS = frozenset({"/api/v1/batches"})
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Door:
    """What the guard of one app knows: the keys, the sessions, the server's names, and how much each client does."""

    def __init__(self, settings: Settings):
        self.keys = KeyFile(settings.keys, wanted=reached_by_others(settings) and settings.open == "off")
        self.sessions = Sessions(settings.keys.with_name(settings.keys.name + ".sessions"), self.keys)
        self.hosts = Hosts(settings.host, socket.gethostname(), map(str.strip, settings.allowed_hosts.split(",")))
        # A cookie is sent to every port of a host: two servers on one host must not end each other's sessions.
        self.cookie = f"sdspool_{settings.port}"
        self.wrong = Pace(1 / WRONG_KEY_S, WRONG_KEYS)
        self.right = Known()
        self.submits = Pace(settings.client_submits / 60, settings.client_submits) if settings.client_submits else None
        self.crowd = Crowd(settings.client_requests) if settings.client_requests else None


def reached_by_others(settings: Settings) -> bool:
    """Whether others than this machine's own people reach the web app: by the network, or by a proxy."""
    return not on_loopback(settings.host) or bool(settings.trusted_proxies.strip())


def door() -> Door:
    """The door of the app that serves this request."""
    return cast(Door, current_app.extensions["door"])


def install(app: Flask, settings: Settings) -> None:
    app.extensions["door"] = Door(settings)
    app.register_error_handler(KeysError, _keys_unusable)
    app.before_request(_check)
    app.after_request(_add_headers)
    app.after_request(_leave_when_sent)
    app.teardown_request(_leave)
    app.context_processor(lambda: {"me": person(), "stranger": person() is NOBODY})


def _check() -> AnyResponse | None:
    g.person = NOBODY
    told = request.headers
    host, origin, site = told.get("Host", ""), told.get("Origin"), told.get("Sec-Fetch-Site")
    if not door().hosts.allow(host):
        return answer(421, "wrong_host", "This server does not answer to that host name.")
    if of_another_site(request.method, origin, site, told.get("Sec-Fetch-Mode"), host, request.scheme):
        return answer(403, "cross_site", "Another site may not change anything here, nor read it.")
    if not request.environ["PATH_INFO"] and request.script_root:
        return redirect(f"{request.script_root}/", 308)  # the pages' relative addresses begin at the slash
    rule = rule_of(current_app.view_functions.get(request.endpoint or ""))
    if rule is Rule.ANYONE or request.endpoint == "static":
        request.max_content_length = MAX_LOGIN_BYTES
        return None
    found = _who(client_of(request.remote_addr))
    if not isinstance(found, Person):
        return found
    g.person = found
    return _enter(found) or _check_body() or _check_rule(rule)


# -- who it is -------------------------------------------------------------------------------------------------------------


def _who(client: str) -> Person | AnyResponse:
    """Whoever asks, or the answer for whoever is not let in."""
    if not door().keys.in_force():
        return ANYBODY
    header = request.headers.get("Authorization", "").strip()
    if header.lower() not in ("", "basic", "bearer"):  # some clients send an empty one when they have no key
        found = _authorization()
        if found is None or found.type not in ("basic", "bearer"):
            return _not_let_in("Incorrect username or password")
        name = (found.username or "") if found.type == "basic" else None
        key = let_in(client, (found.password or "") if found.type == "basic" else found.token or "", name)
        if isinstance(key, float):
            return slow_down(key)
        return key.person if key else _not_let_in("Incorrect username or password")
    key = _of_session()
    return key.person if key else _not_let_in("Not authenticated")


def _authorization() -> Authorization | None:
    """What the header says; None for one that cannot be read. Of bytes that are no ASCII werkzeug makes an error of its own."""
    return request.authorization if request.headers.get("Authorization", "").isascii() else None


def is_let_in() -> bool:
    """For a route that answers anybody: whether who asks would be let in to the others, too. A wrong key counts as one."""
    try:
        found = _who(client_of(request.remote_addr))
    except KeysError:
        return False
    if isinstance(found, Person):
        g.person = found
    return isinstance(found, Person)


def let_in(client: str, secret: str, name: str | None = None) -> Key | float | None:
    """The key of whoever gives the secret; None when it is wrong; the seconds to wait after too many wrong ones.

    Meanwhile only those are looked at who had the right one from the same address before, so that one client with an old key
    does not shut out the others of its machine.
    """
    mark = (client, name, hashlib.sha256(secret.encode(errors="surrogatepass")).digest())
    wait_s = door().wrong.wait_s(client)
    if wait_s and mark not in door().right:
        return wait_s
    key = door().keys.whose(secret, name)
    if key is None:
        door().wrong.take(client)
        g.wrong_key = True
        log.warning("a wrong key from %s", client, extra=event("login_failed", address=client))
    else:
        door().right.add(mark)
    return key


def _of_session() -> Key | None:
    """The key of the session whose cookie the browser sends: to change something only when a page of this server does.

    The cookie is the browser's and goes along by itself; who is no browser has a key and sends that.
    """
    host, origin, site = request.headers.get("Host", ""), request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if request.method not in SAFE and not surely_from_here(origin, site, host, request.scheme):
        return None
    return door().sessions.holder(request.cookies.get(door().cookie, ""))


def still_in() -> Callable[[], bool]:
    """Whether who asks now would be let in later, too: for an answer that goes on for minutes.

    It must not outlive the key, nor the session where a cookie was the way in.
    """
    at, who = door(), person().name
    cookie = "" if _authorization() else request.cookies.get(at.cookie, "")
    key = at.keys.named(who) if who else None

    def look() -> bool:
        try:
            if key is None:
                return not at.keys.in_force()
            return (at.sessions.holder(cookie) if cookie else at.keys.named(who)) == key
        except KeysError:  # as at the door: while the file cannot be used nobody is in
            return False

    return look


def _not_let_in(detail: str) -> AnyResponse:
    """401 in the shape of the API that was asked; a browser is led to the page that asks for the key."""
    wanted = shape()
    if wanted == "page" and not request.headers.get("Authorization"):
        asked = request.full_path.removesuffix("?") if request.method in SAFE else "/"
        return redirect(f"{request.script_root}/login?next={quote(asked, safe='')}", 303)
    if wanted == "a1111":
        response = answer(401, "unauthorized", detail)
    elif wanted == "openai":
        response = answer(401, "invalid_api_key", f"{detail}: send a key as `Authorization: Bearer KEY`.")
    else:
        response = answer(401, "unauthorized", f"{detail}: send a key as `Authorization: Bearer KEY`, or as name and password.")
    if wanted != "a1111":
        response.headers.add("WWW-Authenticate", 'Bearer realm="sdspool"')
    # A browser would put its own window for a password over the page: that of the page is better.
    if wanted != "openai" and "Sec-Fetch-Site" not in request.headers:
        response.headers.add("WWW-Authenticate", 'Basic realm="sdspool", charset="UTF-8"')
    return response


def slow_down(wait_s: float) -> Response:
    """429 with the seconds to wait."""
    return _later("too_many_tries", "Too many wrong keys came from your address: try again later.", wait_s)


def _later(code: str, message: str, wait_s: float) -> Response:
    response = answer(429, code, message)
    response.headers["Retry-After"] = str(math.ceil(wait_s))
    return response


def _keys_unusable(error: KeysError) -> Response:
    log.error("%s", error)
    return answer(503, "keys_unavailable", "The file of keys cannot be used, so nobody is let in; the server's log says why.")


# -- how much, and what ----------------------------------------------------------------------------------------------------


def _enter(found: Person) -> Response | None:
    """Count the request as one of its client's: a person's, or an address's where nobody needs a key."""
    if not found.name and on_loopback(request.remote_addr or ""):
        return None
    client = f"person {found.name}" if found.name else f"address {client_of(request.remote_addr)}"
    g.client = client
    if submits := door().submits:
        g.pace = lambda jobs: submits.take(client, jobs)
    if crowd := door().crowd:
        if not crowd.enter(client):
            return _later("too_many_at_once", "Too many of your requests are under way: try again in a moment.", 1)
        g.leave = lambda: crowd.leave(client)
    return None


def _leave(error: BaseException | None = None) -> None:
    leave: Callable[[], None] | None = g.pop("leave", None)
    if leave:
        leave()


def _leave_when_sent(response: Response) -> Response:
    """What is sent piece by piece is under way until its last piece."""
    if response.is_streamed and (leave := g.pop("leave", None)):
        if response.direct_passthrough:  # then the response itself is never closed, what it sends is: a part of a file
            response.response = ClosingIterator(cast("Iterable[bytes]", response.response), leave)
        else:
            response.call_on_close(leave)
    return response


def _check_body() -> Response | None:
    if request.method in SAFE:
        return None
    kind = request.mimetype
    if kind != "multipart/form-data" and not carries_pictures(request.path):
        request.max_content_length = MAX_TEXT_BYTES
    has_body = bool(request.content_length) or "chunked" in request.headers.get("Transfer-Encoding", "").lower()
    meant = kind == "text/plain" and request.path in TEXTS
    if shape() != "page" and has_body and kind in PLAIN_BODIES and not meant:
        return answer(415, "not_json", f"The Content-Type must be application/json, but is {kind}.")
    return None


# -- whose it is -----------------------------------------------------------------------------------------------------------


def _check_rule(rule: Rule | None) -> Response | None:
    """Raise NotYoursError unless the route's rule lets this person change what it changes."""
    if request.method in SAFE or request.routing_exception is not None or rule in (Rule.LET_IN, Rule.SUBMIT, Rule.EACH):
        return None
    if rule is Rule.OWNER:
        job_id = (request.view_args or {})["job_id"]
        if office().spool.find_by_name(job_id) is None:
            Batches(office().spool).bring_in([job_id])  # it may be accepted, and not in the queue yet
        if not person().operator:
            _require_job(job_id)
        return None
    require_operator()
    return None


def _require_job(job_id: str) -> None:
    """Raise NotYoursError unless this person may change the job. A job that does not exist is the view's to tell."""
    spool = office().spool
    while place := spool.find(job_id):
        try:
            owner = spool.read_job(place).owner
        except FileNotFoundError:  # RACE: it moved on since the look
            if spool.find(job_id) == place:
                owner = ""
            else:
                continue
        except (JobError, OSError):
            owner = ""  # whose it is cannot be told: an operator's matter
        require(owner)
        return


# -- the headers -----------------------------------------------------------------------------------------------------------


def _add_headers(response: Response) -> Response:
    there = {name.lower() for name, _ in response.headers}
    response.headers.extend((name, value) for name, value in HEADERS.items() if name.lower() not in there)
    if person().name:  # what somebody got with a key is for nobody else who uses the same cache
        if "Cache-Control" not in response.headers:
            response.headers["Cache-Control"] = "no-store"
        elif not response.cache_control.no_store:
            response.cache_control.private = True
            response.cache_control.public = False
    return response
