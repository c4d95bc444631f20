"""Which requests are let in, and the headers that every answer carries.

The page has no password yet: what protects it is that it listens on loopback. A browser on this machine may still be sent
here by any page it shows, so the Host and the Origin of a request are checked.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from flask import Flask, Response, request

from webui.errors import answer
from webui.office import office
from webui.sdapi.errors import carries_pictures

#: Room for a form whose prompt is far too long, so that the answer can say so beside the field. Pictures may have more.
MAX_TEXT_BYTES = 4 << 20
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def install(app: Flask) -> None:
    app.before_request(_check)
    app.after_request(_add_headers)


def _check() -> Response | None:
    if not host_allowed(request.headers.get("Host", ""), office().settings.host):
        return answer(421, "wrong_host", "This server does not answer to that host name.")
    if request.method in SAFE:
        return None
    if request.mimetype != "multipart/form-data" and not carries_pictures(request.path):
        request.max_content_length = MAX_TEXT_BYTES
    if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        return answer(403, "cross_site", "Another site may not change anything here.")
    origin = request.headers.get("Origin")
    if origin is not None and not _same_origin(origin, request.headers.get("Host", "")):
        return answer(403, "cross_site", "Another site may not change anything here.")
    return None


def _add_headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def host_allowed(header: str, listening_on: str) -> bool:
    """Whether a Host header names this server, so that no other site's name can be pointed at it (DNS rebinding).

    On loopback: loopback's names and addresses. Else any address, this machine's name, and the name that was listened on.
    """
    name = _name(header)
    if name in ("localhost", _name(listening_on)):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        own = socket.gethostname().lower()
        return not _is_loopback(listening_on) and name.partition(".")[0] == own.partition(".")[0]
    return address.is_loopback or not _is_loopback(listening_on)


def _name(host: str) -> str:
    """The name or address of a host[:port], in small letters, without brackets and the dot at the end."""
    try:
        found = urlsplit(f"//{host}" if host.count(":") < 2 or "[" in host else f"//[{host}]").hostname
    except ValueError:
        return ""
    return (found or "").rstrip(".").lower()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(_name(host)).is_loopback
    except ValueError:
        return _name(host) == "localhost"


def _same_origin(origin: str, host: str) -> bool:
    """Whether an Origin header is this page's own; "null" never is."""
    try:
        netloc = urlsplit(origin).netloc
    except ValueError:
        return False
    return bool(netloc) and netloc.lower() == host.lower()
