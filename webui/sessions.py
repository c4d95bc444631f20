"""Who logged in on the page: a signed cookie that names the person, for a week, until they log out or their key changes.

The file beside the keys has what signs the cookies, then a line for each session that was ended before its time.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from itsdangerous import BadData, URLSafeTimedSerializer

from webui.keys import Key, KeyFile
from webui.private_file import KeysError, PrivateFile

LIFETIME_S = 7 * 86_400
#: Ended sessions of one person that are remembered one by one; of more, a line of this name tells of all that began before.
MOST_ENDED, OLDER = 200, "*"


@dataclass(frozen=True)
class _Kept:
    secret: str
    ended: tuple[tuple[str, str, int], ...]  # name, session, when it would have expired: Unix time, s


class Sessions:
    """The sessions of the people who have keys."""

    def __init__(self, path: Path, keys: KeyFile):
        self._file = PrivateFile(path, _parse)
        self._keys = keys

    def begin(self, key: Key) -> str:
        """The cookie of a new session. Raises KeysError when what signs it cannot be kept."""
        if not self._file.value().secret:
            self._file.change(lambda old: old or secrets.token_hex(32).encode() + b"\n")
        return str(self._signer().dumps([key.name, secrets.token_urlsafe(12), _bound(key)]))

    def holder(self, cookie: str) -> Key | None:
        """The key of whoever has the cookie; None when it is nobody's, too old, ended, or the secret has changed since."""
        kept = self._file.value()
        if not cookie or not kept.secret:
            return None
        try:
            (name, session, bound), begun = self._signer().loads(cookie, max_age=LIFETIME_S, return_timestamp=True)
        except (BadData, ValueError, TypeError):
            return None
        key = self._keys.named(name)
        ended = any(
            whose == name and (each == session or (each == OLDER and begun.timestamp() + LIFETIME_S <= end))
            for whose, each, end in kept.ended
        )
        return key if key and not ended and hmac.compare_digest(_bound(key), bound) else None

    def end(self, cookie: str) -> None:
        """End the session: the cookie is good for nothing from now on, whoever has a copy of it."""
        if self.holder(cookie) is None:
            return
        name, session, _ = self._signer().loads(cookie)

        def ended(old: bytes) -> bytes:
            kept, now = _parse(old), int(time.time())
            lines = [each for each in kept.ended if each[2] > now] + [(name, session, now + LIFETIME_S)]
            own = [each for each in lines if each[0] == name and each[1] != OLDER]
            # One that is forgotten must not come to life again: with it all end that had begun when it was ended.
            older = [each for each in lines if each[0] == name and each[1] == OLDER] + own[:-MOST_ENDED]
            lines = [each for each in lines if each[0] != name] + own[-MOST_ENDED:]
            lines += [(name, OLDER, max(end for _, _, end in older))] if older else []
            return "\n".join([kept.secret, *(" ".join(map(str, each)) for each in lines), ""]).encode()

        self._file.change(ended)

    def _signer(self) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self._file.value().secret, salt="sdspool session")


def _bound(key: Key) -> str:
    """What ties a session to the secret that began it, and does not give the secret away."""
    return hmac.new(key.digest, b"session", hashlib.sha256).hexdigest()[:32]


def _parse(data: bytes) -> _Kept:
    try:
        secret, *lines = data.decode().splitlines() or [""]
        ended = tuple((name, session, int(end)) for name, session, end in (line.split() for line in lines))
    except ValueError:
        raise KeysError("It is damaged: remove it, and everybody logs in anew.") from None
    return _Kept(secret, ended)
