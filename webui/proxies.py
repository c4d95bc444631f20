"""Behind a reverse proxy: whose word is taken on who the client is, and under which path sdspool is reached.

    the client's address   X-Forwarded-For, its last entry      (limits, logins, the log)
    http or https          X-Forwarded-Proto, its last entry    (the cookie's Secure, the check of Origin, whole addresses)
    the host               Host, which a proxy must pass on as it came; no header stands in for it
    the path               the setting `prefix`; no header stands in for it

The two headers are believed of the proxies that are named in the settings, by the address that the connection comes from, and
of nobody else. Host and path need no belief, so they get none: a proxy that does not know of a header passes on what its client
made up. docs/proxy.md has the proxies' side.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from flask import request
from werkzeug.middleware.proxy_fix import ProxyFix

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
#: Parts of letters that stand for themselves in an address, none of them `.` or `..`.
PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*", re.ASCII)
#: 192.0.2.1:5678, [2001:db8::1]:5678 and [2001:db8::1].
WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\](?::[0-9]{1,5})?|([0-9]{1,3}(?:\.[0-9]{1,3}){3}):[0-9]{1,5})", re.ASCII)
#: What a proxy may say, as WSGI has it. All of it is taken away from what anybody else sends.
SAID = ("HTTP_FORWARDED", *(f"HTTP_X_FORWARDED_{name}" for name in ("FOR", "PROTO", "HOST", "PORT", "PREFIX", "BY")))


class ProxyError(ValueError):
    """A setting about proxies cannot be: met by whoever starts the web app."""


def networks(text: str) -> tuple[Network, ...]:
    """The addresses and networks of a list with commas. Raises ProxyError for what is none."""
    found = []
    for each in filter(None, map(str.strip, text.split(","))):
        try:
            found.append(ipaddress.ip_network(each))
        except ValueError as error:
            raise ProxyError(
                f"--trusted-proxies: must be addresses or networks as 127.0.0.1 or 10.0.0.0/8, but one is {each!a}: {error}"
            ) from None
    return tuple(found)


def checked_prefix(text: str) -> str:
    """The path under which sdspool is reached, as it was given. Raises ProxyError when it cannot be one."""
    if not PREFIX.fullmatch(text):
        raise ProxyError(f"--prefix: must be as /sd or /draw/sd, without a slash at its end, but is {text!a}")
    return text


def at_prefix(document: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI document, with the path that this request found the API under."""
    return {**document, "servers": [{"url": request.script_root}]} if request.script_root else document


class Proxies:
    """The app behind the trusted proxies. With none, nothing that is said of a client is believed."""

    def __init__(self, app: WSGIApplication, trusted: Iterable[Network]):
        self._app = app
        self._fixed = ProxyFix(_of_bare_addresses(app), x_for=1, x_proto=1)
        self._trusted = tuple(trusted)
        self._warned = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        peer = environ.get("REMOTE_ADDR", "")
        if self._trusts(peer):
            return self._fixed(environ, start_response)
        said = [name for name in SAID if environ.pop(name, None) is not None]
        if said and not self._warned:
            self._warned = True
            log.warning("%s speaks for another client, but is none of --trusted-proxies: not believed (said once)", peer)
        return self._app(environ, start_response)

    def _trusts(self, peer: str) -> bool:
        return is_of(peer, self._trusted)


def is_of(peer: str, networks: Sequence[Network]) -> bool:
    """Whether the address is in one of the networks."""
    if not networks:
        return False
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def bare_address(said: str) -> str:
    """The address in an entry of X-Forwarded-For: some proxies add the port, and brackets around what has colons itself."""
    found = WITH_PORT.fullmatch(said)
    return (found[1] or found[2]) if found else said


def _of_bare_addresses(app: WSGIApplication) -> WSGIApplication:
    def bared(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["REMOTE_ADDR"] = bare_address(environ.get("REMOTE_ADDR", ""))
        return app(environ, start_response)

    return bared
