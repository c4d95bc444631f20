"""Whom a job's end is told: what the operator set, checked once at the start. Nothing that a job says can name a target."""

from __future__ import annotations

import hashlib
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from spooler.settings import Settings
from spooler.spool import SpoolError
from spooler.states import ENDS, End


class TargetError(SpoolError):
    """A setting about notices that cannot be: met by the operator at the start, the sentence says what to change."""


@dataclass(frozen=True)
class Webhook:
    """An address that is told by a signed POST."""

    key: str  #: what the outbox calls it: an address may hold a password, so it is never written there
    name: str  #: what the log calls it: the address without its path, for the same reason
    https: bool
    host: str
    port: int
    path: str = field(repr=False)  #: with the query


@dataclass(frozen=True)
class Command:
    """A command of this machine that is told on its standard input."""

    key: str
    name: str
    argv: tuple[str, ...] = field(repr=False)


Target = Webhook | Command


def targets(settings: Settings) -> tuple[Target, ...]:
    """Whom the settings name, each once. Raises TargetError for an address that is none, or a command line that cannot be."""
    found: list[Target] = [_webhook(each) for each in map(str.strip, settings.webhook.split(",")) if each]
    if found and not settings.webhook_secret_file:
        raise TargetError("`webhook` needs `webhook_secret_file`, the file of the secret that signs what it is told.")
    if settings.notify_command.strip():
        found.append(_command(settings.notify_command))
    return tuple({target.key: target for target in found}.values())


def told_of(settings: Settings) -> frozenset[End]:
    """The ends that are told of. Raises TargetError for a word that is no end."""
    words = [word.strip() for word in settings.notify_on.split(",") if word.strip()]
    if unknown := [word for word in words if word not in ENDS]:
        raise TargetError(f"`notify_on` must be some of {', '.join(ENDS)}, but has {unknown[0]!a}.")
    return frozenset(end for end in ENDS if end in words)


def check(settings: Settings) -> tuple[Target, ...]:
    """As `targets`, with all that only the start has to look at: the words of `notify_on`, and whether the command is there."""
    told_of(settings)
    found = targets(settings)
    for target in found:
        if isinstance(target, Command) and shutil.which(target.argv[0]) is None:
            raise TargetError(f"`notify_command` must name a program, but {target.argv[0]!a} is none that can be run.")
    return found


def _webhook(url: str) -> Webhook:
    # No message here shows the address: its path, query or password may be what lets one in.
    if not url.isascii() or not url.isprintable() or " " in url:
        raise TargetError("`webhook` must be an address of ASCII letters without blanks; other letters percent-encoded.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise TargetError(f"`webhook` must be an address, but: {error}.") from None
    if parts.scheme not in ("http", "https"):
        raise TargetError(f"`webhook` must begin with http:// or https://, but one begins with {parts.scheme!a}.")
    if not parts.hostname:
        raise TargetError("`webhook` must name a host, but one names none.")
    if "@" in parts.netloc:
        raise TargetError("`webhook` must have no user and password: the signature says who sent it.")
    https = parts.scheme == "https"
    port = port if port is not None else 443 if https else 80
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    key = hashlib.sha256(f"{parts.scheme}://{host}:{port}{path}".encode()).hexdigest()[:16]
    return Webhook(f"webhook-{key}", f"{parts.scheme}://{host}:{port}", https, parts.hostname, port, path)


def _command(line: str) -> Command:
    try:
        argv = shlex.split(line)
    except ValueError as error:
        raise TargetError(f"`notify_command` must be a command line, but: {error}.") from None
    if not argv:
        raise TargetError("`notify_command` must be a command line, but has no word in it.")
    # One command at most, so its key need not tell it from others: a changed one takes over what the old one did not.
    program = str(Path(argv[0]).expanduser())
    return Command("command", Path(program).name, (program, *argv[1:]))
