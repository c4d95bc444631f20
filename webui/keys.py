"""The keys that let people in: one line each in a file that only its owner may read.

    # name role secret
    ann owner kX3...
    ops operator 9fQ...

A name is who owns the jobs that are sent with its secret. The file is read again when it changes, so a key that is added or
taken away counts from the next request on. In memory there is only the SHA-256 of a secret.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from spooler.mistakes import show
from webui.people import Person
from webui.private_file import KeysError, PrivateFile

__all__ = ["Key", "KeyFile", "KeysError", "on_loopback"]

OWNER, OPERATOR = "owner", "operator"
#: Random bytes of a secret that is made: 192 bits.
SECRET_BYTES = 24
#: What HTTP's Basic and a job's `owner` can carry, and a file of words: no space, no colon, no sign of a comment.
NAME = re.compile(r"[^\s:#\x00-\x1f\x7f]{1,64}")
#: A secret, made or somebody's own. Tries at it are slowed down, so 16 characters of chance are more than enough.
SECRET = re.compile(r"[!-~]{16,256}")


@dataclass(frozen=True)
class Key:
    """One line of the file."""

    name: str
    operator: bool
    digest: bytes  # SHA-256 of the secret

    @property
    def person(self) -> Person:
        return Person(self.name, self.operator)


class KeyFile:
    """The file of keys. `wanted`: they are in force even while it has none, so that nobody gets in.

    Keys that once were in force stay so until a restart: a file that was lost or emptied shuts the door, and does not open it.
    """

    def __init__(self, path: Path, wanted: bool = False):
        self._file = PrivateFile(path, _parse)
        self._wanted = wanted

    @property
    def path(self) -> Path:
        return self._file.path

    def all(self) -> tuple[Key, ...]:
        """Raises KeysError when the file cannot be used."""
        return self._file.value()

    def in_force(self) -> bool:
        """Whether people need a key. Raises KeysError when the file cannot be used."""
        if self.all():
            self._wanted = True
        return self._wanted

    def whose(self, secret: str, name: str | None = None) -> Key | None:
        """The key that has the secret, and the name if one is given. It takes the same time whichever it is, or none."""
        given, found = hashlib.sha256(secret.encode(errors="surrogatepass")).digest(), None
        wanted = None if name is None else name.encode(errors="surrogatepass")
        for key in self.all():
            same = hmac.compare_digest(key.digest, given)
            same &= wanted is None or hmac.compare_digest(key.name.encode(), wanted)
            found = key if same else found
        return found

    def named(self, name: str) -> Key | None:
        return next((key for key in self.all() if key.name == name), None)

    def add(self, name: str, operator: bool = False, unless: bool = False) -> str:
        """Make a key of that name, and return its secret; with `unless`, "" when there is any key already.

        Raises KeysError when the name is taken or cannot be one.
        """
        if not NAME.fullmatch(name) or not name.isprintable():
            raise KeysError(f"`name` must be 1 to 64 letters without spaces, colons and #, but is {show(name)}.")
        secret = secrets.token_urlsafe(SECRET_BYTES)
        line = f"{name} {OPERATOR if operator else OWNER} {secret}\n"
        made = ""

        def with_line(old: bytes) -> bytes:
            nonlocal made
            there = _parse(old)
            if unless and there:
                return old
            if any(key.name == name for key in there):
                raise KeysError(f"There is a key for {show(name)} already: take it away first, with `sdspool key rm`.")
            made = secret
            return old + (b"\n" if old and not old.endswith(b"\n") else b"") + line.encode()

        self._file.change(with_line)
        return made

    def remove(self, name: str) -> bool:
        """Take the key of that name away: whether there was one."""
        gone = False

        def without(old: bytes) -> bytes:
            nonlocal gone
            lines = old.decode().splitlines(keepends=True)
            kept = [line for line in lines if line.split()[:1] != [name]]
            gone = len(kept) < len(lines)
            return "".join(kept).encode()

        self._file.change(without)
        return gone


def _parse(data: bytes) -> tuple[Key, ...]:
    """The keys of the file. Raises KeysError, which names the line and never shows what may be a secret."""
    try:
        lines: Sequence[str] = data.decode().splitlines()
    except UnicodeDecodeError:
        raise KeysError("It must be UTF-8, but is not.") from None
    found: dict[str, Key] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 3:
            raise KeysError(f"Line {number} must be three words, `name role secret`, but has {len(words)} words.")
        name, role, secret = words
        if not NAME.fullmatch(name) or not name.isprintable():
            raise KeysError(f"Line {number}: a name has 1 to 64 letters without spaces, colons and #.")
        if role not in (OWNER, OPERATOR):
            raise KeysError(f"Line {number}: the role must be {OWNER} or {OPERATOR}.")
        if not SECRET.fullmatch(secret):
            raise KeysError(f"Line {number}: a secret has 16 to 256 ASCII characters; `sdspool key add` makes one.")
        if name in found:
            raise KeysError(f"Line {number}: there is a key for {show(name)} above already.")
        found[name] = Key(name, role == OPERATOR, hashlib.sha256(secret.encode()).digest())
    return tuple(found.values())


@lru_cache(1024)
def on_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on that address or name."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"
