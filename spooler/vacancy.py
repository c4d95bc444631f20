"""Whether there is room to start: the web app's address, and the spooler's name in its spool. It looks and takes nothing.

run.sh looks before it starts the two halves, so that a second one in the same place says why it cannot be, and no more. Without
anything but the standard library: it looks before anything is set up. What comes in between is told by the half that meets it.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import time
from pathlib import Path

from spooler.settings import Settings

#: Seconds that a spooler's lock may be held by somebody who only looks whether it lives: as many as a spooler waits for it.
LOOK_S = 5.0


def taken(settings: Settings) -> str | None:
    """What somebody else has of it, in a sentence; None when nothing is."""
    if _listens(settings.host, settings.port):
        return f"cannot listen on {settings.host}:{settings.port}: something else does. Is it running already?"
    if _is_held(settings.spool / "claimed" / settings.spooler / ".lock"):
        return f"a spooler {settings.spooler!a} works on {settings.spool} already. A second one needs another --spooler name."
    return None


def _listens(host: str, port: int) -> bool:
    """Whether the address is in use. Whether it is one at all is for the web app to find out."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False
    return any(_is_used(socket.AddressFamily(family), address) for family, _, _, _, address in found)


def _is_used(family: socket.AddressFamily, address: tuple[object, ...]) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: what a closed one left is free
            if family == socket.AF_INET6:
                tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            tried.bind(address)
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _is_held(lock: Path) -> bool:
    """Whether a process holds the life lock (spooler/life.py), and goes on. It is taken shared, and given back at once."""
    end = time.monotonic() + LOOK_S
    try:
        with lock.open("rb") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() > end:
                        return True
                    time.sleep(0.1)
                else:
                    return False
    except OSError:  # there is none, or no locks: the spooler says so itself
        return False
