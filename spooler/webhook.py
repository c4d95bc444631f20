"""Telling by HTTP: one signed POST, whose answer is only a status.

The standard library's HTTP client, and not urllib3: a delivery must end when its time is over, however the other side dribbles,
and for that the socket itself has to be at hand from before the TLS handshake on. Of what else a library brings (pools,
redirects, retries, proxies, decompression) a webhook wants none.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import os
import socket
import ssl
import stat
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from spooler import __version__
from spooler.targets import TargetError, Webhook

#: Seconds to connect; the whole has the time that the setting gives.
CONNECT_S = 10.0
#: Of the answer no more is read: nothing in it matters but the status.
MAX_ANSWER_BYTES = 64 << 10
MAX_SECRET_BYTES = 4096
MIN_SECRET_BYTES = 16


@dataclass(frozen=True)
class Answer:
    """What a receiver said. `after_s` is how long it wants to be left alone, if it says so."""

    status: int
    after_s: float | None = None


class Secret:
    """The key of the signatures, from a file that is read again when it changes. It is never shown: not even by `repr`."""

    def __init__(self, path: Path):
        self._path = path.expanduser()
        self._state: object = None
        self._value = b""

    def read(self) -> bytes:
        """Raises TargetError when the file is missing, too short, or may be read by others than its owner."""
        try:
            # Links are followed: a secret that is mounted into a container often is one. O_NONBLOCK: never wait for a FIFO.
            fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise TargetError(f"`webhook_secret_file` must be readable, but {self._path}: {error.strerror}.") from None
        try:
            facts = os.fstat(fd)
            state = (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
            if state == self._state:
                return self._value
            if not stat.S_ISREG(facts.st_mode):
                raise TargetError(f"`webhook_secret_file` must be an ordinary file, but {self._path} is none.")
            if facts.st_mode & 0o077:
                mode = stat.S_IMODE(facts.st_mode)
                raise TargetError(
                    f"`webhook_secret_file` must be readable by its owner alone, but {self._path} has mode {mode:04o}: "
                    f"chmod 600 {self._path}"
                )
            value = os.read(fd, MAX_SECRET_BYTES + 1).strip()
        finally:
            os.close(fd)
        if not MIN_SECRET_BYTES <= len(value) <= MAX_SECRET_BYTES:
            rule = f"{MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes"
            raise TargetError(f"`webhook_secret_file` must hold {rule}, but {self._path} holds {len(value)}.")
        self._state, self._value = state, value
        return value


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """What X-Sdspool-Signature says: HMAC-SHA256 over time and body, so that neither can be changed, nor sent again later."""
    return "sha256=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def headers(secret: bytes, timestamp: str, event: str, delivery: str, body: bytes) -> dict[str, str]:
    """All headers of a delivery but those that HTTP itself asks for."""
    return {
        "Content-Type": "application/json",
        "User-Agent": f"sdspool/{__version__}",
        "Connection": "close",
        "X-Sdspool-Event": event,
        "X-Sdspool-Delivery": delivery,
        "X-Sdspool-Timestamp": timestamp,
        "X-Sdspool-Signature": signature(secret, timestamp, body),
    }


def post(target: Webhook, fields: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
    """Send it, within `timeout_s` in all. No redirect is followed, and a certificate must be one that this machine trusts.

    Raises OSError (ssl.SSLError, TimeoutError among them) or http.client.HTTPException when no answer came.
    """
    line = _Line(target, timeout_s)
    with line.cut_after(timeout_s):
        try:
            line.request("POST", target.path, body, dict(fields))
            response = line.getresponse()
            if line.was_cut:  # a header that was cut short looks like a short one
                raise TimeoutError
            answer = Answer(response.status, _after_s(response.headers.get("Retry-After"), response.headers.get("Date")))
            with contextlib.suppress(OSError, http.client.HTTPException):
                response.read(MAX_ANSWER_BYTES)  # closing on a receiver that still writes would be an error to it
            return answer
        except (OSError, http.client.HTTPException) as error:
            if line.was_cut:
                raise TimeoutError(f"no answer within {timeout_s:g} s") from error
            raise
        finally:
            line.close()


class _Line(http.client.HTTPConnection):
    """A connection that another thread can cut."""

    def __init__(self, target: Webhook, timeout_s: float):
        super().__init__(target.host, target.port, timeout=min(CONNECT_S, timeout_s))
        self._context = ssl.create_default_context() if target.https else None
        self.was_cut = False
        self._timeout_s = timeout_s
        # http.client itself would leave the port out of the header Host only for http's own.
        self.default_port = 443 if target.https else 80

    def connect(self) -> None:
        self.sock = socket.create_connection((self.host, self.port), min(CONNECT_S, self._timeout_s))
        if self.was_cut:
            raise TimeoutError
        if self._context:
            # The handshake only after self.sock is the socket: so it can be cut in the middle of it too.
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self.sock.do_handshake()
        self.sock.settimeout(self._timeout_s)

    @contextlib.contextmanager
    def cut_after(self, timeout_s: float) -> Iterator[None]:
        """Cut the line when the block takes longer: a socket's own timeout begins anew with each byte."""
        timer = threading.Timer(timeout_s, self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _cut(self) -> None:
        self.was_cut = True
        if self.sock is not None:
            with contextlib.suppress(OSError):
                # The plain socket's: that of TLS would take its state away from under the thread that reads.
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


def _after_s(after: str | None, date: str | None) -> float | None:
    """Seconds of a Retry-After. One that names a moment is reckoned from the answer's own Date, not by this host's clock."""
    if after is None:
        return None
    if after.strip().isdecimal() and after.strip().isascii():
        return float(after.strip()[:9])
    try:
        return max(0.0, (parsedate_to_datetime(after) - parsedate_to_datetime(date or "")).total_seconds())
    except (ValueError, TypeError, OverflowError):  # TypeError: one with a zone and one without
        return None
