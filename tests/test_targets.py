"""Who is told of jobs' ends: the settings, and the secret."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from house import wait_for
from receivers import SECRET, Receiver, end, hooked, notifier, outbox, wait_empty

from spooler import targets, webhook
from spooler.notify import Notifier
from spooler.serve import serve
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.targets import Command, TargetError, Webhook


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"webhook": "ftp://x/"}, "must begin with http"),
        ({"webhook": "hook.example"}, "must begin with http"),
        ({"webhook": "file:///etc/passwd"}, "must begin with http"),
        ({"webhook": "http:///x"}, "must name a host"),
        ({"webhook": "http://u:hush@x/"}, "no user and password"),
        ({"webhook": "http://x:99999/"}, "must be an address"),
        ({"webhook": "http://x/a b"}, "without blanks"),
        ({"webhook": "http://x/\r\nEvil: 1"}, "without blanks"),
        ({"webhook": "http://x/", "webhook_secret_file": ""}, "needs `webhook_secret_file`"),
        ({"notify_command": "'unclosed"}, "must be a command line"),
        ({"notify_command": "no-such-program-here"}, "must name a program"),
        ({"notify_on": "done,started"}, "'started'"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused_at_the_start(
    spool: Spool, secret_file: Path, changes: dict[str, str], said: str
) -> None:
    settings = replace(Settings(), **{"webhook_secret_file": str(secret_file), **changes})  # type: ignore[arg-type]
    with pytest.raises(TargetError) as raised:
        Notifier(settings, spool, outbox(spool))
    assert said in str(raised.value)
    assert "hush" not in str(raised.value)


def test_a_spooler_with_such_a_setting_ends_with_the_sentence(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    """Status 2, which `run.sh` does not start anew, and a free lock."""
    settings = replace(Settings(), spool=spool.root, spooler="me", notify_on="done,started")
    assert serve(settings) == 2
    assert "`notify_on` must be some of done, failed, cancelled, but has 'started'." in caplog.text
    assert not spool.alive("me")


def test_addresses_are_read_as_they_are_meant(secret_file: Path) -> None:
    both = "https://[::1]:8443/a?b=c, http://Example.org, https://[::1]:8443/a?b=c"
    settings = replace(Settings(), webhook=both, webhook_secret_file=str(secret_file), notify_command="true 'a b'")
    first, second, third = targets.targets(settings)
    assert isinstance(first, Webhook)
    assert (first.https, first.host, first.port, first.path) == (True, "::1", 8443, "/a?b=c")
    assert isinstance(second, Webhook)
    assert (second.https, second.host, second.port, second.path) == (False, "example.org", 80, "/")
    assert isinstance(third, Command)
    assert third.argv == ("true", "a b")


def test_the_secret_must_be_its_owner_s_alone_and_is_read_again_when_it_changes(
    spool: Spool, secret_file: Path, receivers: Callable[..., Receiver], tmp_path: Path
) -> None:
    receiver = receivers()
    settings = hooked(secret_file, receiver)
    secret_file.chmod(0o640)
    with pytest.raises(TargetError, match="chmod 600"):
        Notifier(settings, spool, outbox(spool))
    secret_file.chmod(0o600)
    with notifier(settings, spool) as running:
        end(spool, settings)
        running.wake()
        wait_empty(spool)
        draft = tmp_path / "draft"
        draft.write_bytes(b"another secret, of some length")
        draft.chmod(0o600)
        draft.replace(secret_file)
        end(spool, settings, job_id="dog")
        running.wake()
        wait_empty(spool)
    for (headers, body), secret in zip(receiver.got, (SECRET, b"another secret, of some length"), strict=True):
        assert headers["X-Sdspool-Signature"] == webhook.signature(secret, headers["X-Sdspool-Timestamp"], body)
    secret_file.write_bytes(b"short")
    with pytest.raises(TargetError, match="holds 5"):
        Notifier(settings, spool, outbox(spool))
    secret_file.unlink()
    with pytest.raises(TargetError, match="must be readable"):
        Notifier(settings, spool, outbox(spool))


def test_neither_the_secret_nor_an_address_s_path_is_logged_or_written_into_the_spool(
    spool: Spool, secret_file: Path, receivers: Callable[..., Receiver], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver = receivers(lambda number: (500, {}) if number == 1 else (410, {}))
    settings = hooked(secret_file, receiver)
    end(spool, settings)
    written = b""
    with notifier(settings, spool) as running:
        wait_for(lambda: receiver.got, "the first try")
        written += b"".join(path.read_bytes() for path in outbox(spool).folder.glob("*.json"))
        wait_empty(spool)
        written += repr(vars(running)).encode()
    written += b"".join(path.read_bytes() for path in spool.root.rglob("*") if path.is_file())
    for hidden in (SECRET.decode(), "hush-hush"):
        assert hidden not in caplog.text
        assert hidden.encode() not in written.replace(repr(settings).encode(), b"")
