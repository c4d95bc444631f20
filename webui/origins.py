"""Whether a request is meant for this server, and comes from a page of its own: pure functions of its headers.

A browser sends requests here for any page that it shows. Host says what name the page was reached by, Origin and Sec-Fetch-Site
what page sends it; no page can make a browser say something else.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from webui.keys import on_loopback

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
#: name or IPv4 address, or an IPv6 address in brackets; then perhaps a port. No user, path, space or anything else.
AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})))(?::([0-9]{1,5}))?", re.ASCII)
ORIGIN = re.compile(r"(https?)://([^/?#@\s]+)", re.IGNORECASE | re.ASCII)
DEFAULT_PORT = {"http": 80, "https": 443}
#: What home and office networks put behind a machine's name, and nobody can register on the internet.
LOCAL_DOMAINS = ("local", "lan", "home.arpa", "internal", "localdomain")


@dataclass(frozen=True)
class Authority:
    """What stands in a Host header: a name in small letters without the dot at the end, or an address, and the port."""

    name: str
    port: int | None

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        try:
            return ipaddress.ip_address(self.name)
        except ValueError:
            return None


def authority(header: str) -> Authority | None:
    """The header's name and port; None when it is not one name, or not one at all."""
    found = AUTHORITY.fullmatch(header)
    if found is None:
        return None
    v6, name, port = found.groups()
    if port is not None and not 1 <= int(port) <= 65535:
        return None
    if v6 is not None:
        try:
            name = str(ipaddress.IPv6Address(v6))
        except ValueError:
            return None
    else:
        name = name.lower().removesuffix(".")
        if not name or ".." in name or name.endswith("."):
            return None
    return Authority(name, int(port) if port else None)


class Hosts:
    """The names that this server answers to, so that no other site's name can be pointed at it (DNS rebinding).

    On loopback those of loopback; else every address (a name can be pointed at this server, an address cannot), and this
    machine's name, alone or with the domain of a local network. And always the name listened on, and the `further` ones.
    """

    def __init__(self, listening_on: str, own_name: str, further: Iterable[str] = ()):
        self._loopback = on_loopback(listening_on)
        self._names = {"localhost"}
        for given in (listening_on, *further):
            bare = f"[{given}]" if given.count(":") > 1 and not given.startswith("[") else given
            if found := authority(bare):
                self._names.add(found.name)
        if not self._loopback and (own := authority(own_name)):
            first = own.name.partition(".")[0]
            self._names |= {own.name, first, *(f"{first}.{domain}" for domain in LOCAL_DOMAINS)}

    def allow(self, header: str) -> bool:
        """Whether a Host header names this server."""
        found = authority(header)
        if found is None:
            return False
        if found.name in self._names:
            return True
        address = found.address
        if address is None or address.is_unspecified or address.is_multicast:
            return False
        return address.is_loopback or not self._loopback


def from_here(origin: str, host: str, scheme: str) -> bool:
    """Whether an Origin header is that of this server's own pages, as its Host header names it; "null" never is.

    Behind a proxy that speaks TLS the server sees http where the page has https: that is no other page. The other way round
    it is: whoever can change what comes over http must not get at what is behind TLS.
    """
    found = ORIGIN.fullmatch(origin)
    if found is None:
        return False
    told = found[1].lower()
    if scheme == "https" and told != "https":
        return False
    page, here = authority(found[2]), authority(host)
    if page is None or here is None:
        return False
    default = DEFAULT_PORT[told]
    return (page.name, page.port or default) == (here.name, here.port or default)


def of_another_site(method: str, origin: str | None, site: str | None, mode: str | None, host: str, scheme: str) -> bool:
    """Whether another site's page sends this. What changes something never may; what reads only when a link was followed.

    Who is no browser sends neither Origin nor Sec-Fetch-Site, and is none.
    """
    here = site is None or site in ("same-origin", "none")
    if method in SAFE:
        return not here and mode not in (None, "navigate")
    return not here or (origin is not None and not from_here(origin, host, scheme))


def surely_from_here(origin: str | None, site: str | None, host: str, scheme: str) -> bool:
    """Whether the browser says that a page of this server sends this, as each does that knows the headers."""
    return site == "same-origin" or (origin is not None and from_here(origin, host, scheme))
