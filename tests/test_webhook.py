"""Receivers of notices over HTTP: those that answer otherwise or not at all, and those that nobody vouches for."""

from __future__ import annotations

import re
import ssl
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from house import ROOT, wait_for
from receivers import SECRET, Receiver, end, hooked, notifier, outbox, wait_empty

from spooler import webhook
from spooler.notices import Letter
from spooler.notify import Notifier, wait_s
from spooler.spool import Spool


def test_the_manual_s_five_lines_verify_what_is_sent_and_nothing_else() -> None:
    page = (ROOT / "docs" / "notifications.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code
    names: dict[str, Any] = {}
    exec(code[1], names)  # noqa: S102 - the manual's own words
    verify = names["verify"]
    body = b'{"id":"1"}'

    def headers(timestamp: float, secret: bytes = SECRET) -> dict[str, str]:
        return webhook.headers(secret, f"{timestamp:.0f}", "job.done", "1", body)

    now = names["time"].time()
    assert verify(SECRET, headers(now), body)
    assert not verify(SECRET, headers(now), body + b" ")
    assert not verify(SECRET, headers(now, b"another secret, long"), body)
    assert not verify(SECRET, headers(now - 3600), body), "a notice that somebody recorded"
    assert not verify(SECRET, {**headers(now - 3600), "X-Sdspool-Timestamp": f"{now:.0f}"}, body)


@pytest.mark.parametrize("status", [500, 400, 302, 503])
def test_a_failure_is_tried_again_with_the_same_id_and_a_fresh_signature(
    spool: Spool, secret_file: Path, receivers: Callable[..., Receiver], status: int
) -> None:
    elsewhere = receivers()
    receiver = receivers(lambda number: (status, {"Location": elsewhere.url}) if number == 1 else (200, {}))
    settings = hooked(secret_file, receiver)
    end(spool, settings)
    with notifier(settings, spool):
        wait_empty(spool)
    assert len(receiver.got) == 2
    assert not elsewhere.got, "no redirect is followed"
    first, second = (headers for headers, _ in receiver.got)
    assert first["X-Sdspool-Delivery"] == second["X-Sdspool-Delivery"]
    assert int(first["X-Sdspool-Timestamp"]) < int(second["X-Sdspool-Timestamp"])


def test_gone_gives_up_at_once(spool: Spool, secret_file: Path, receivers: Callable[..., Receiver]) -> None:
    receiver = receivers(lambda number: (410, {}))
    settings = hooked(secret_file, receiver)
    end(spool, settings)
    with notifier(settings, spool):
        wait_empty(spool)
    assert len(receiver.got) == 1
    (aside,) = outbox(spool).dead.iterdir()
    assert Letter.model_validate_json(aside.read_bytes()).notice.job == "cat"


def test_a_receiver_that_hangs_or_dribbles_keeps_no_other_waiting(
    spool: Spool, secret_file: Path, receivers: Callable[..., Receiver]
) -> None:
    over = threading.Event()

    class Dribbler(Receiver):
        def reply(self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            while not over.wait(0.05):
                handler.wfile.write(b"x")

    dribbler, good = Dribbler(), receivers()
    try:
        settings = hooked(secret_file, dribbler, good, notify_timeout_s=0.5)
        for number in range(3):
            end(spool, settings, job_id=f"job-{number}")
        with notifier(settings, spool):
            wait_for(lambda: len(good.got) == 3, "the good one to have all")
            wait_for(lambda: len(dribbler.got) >= 2, "the dribbler to be cut and tried again")
        assert len(outbox(spool).names()) == 3
    finally:
        over.set()
        dribbler.close()


def test_a_body_without_end_is_not_read_to_its_end(spool: Spool, secret_file: Path, receivers: Callable[..., Receiver]) -> None:
    sent = []

    class Flood(Receiver):
        def reply(self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            try:
                while True:
                    sent.append(handler.wfile.write(bytes(1 << 16)))
            except OSError:
                pass

    flood = Flood()
    try:
        settings = hooked(secret_file, flood)
        end(spool, settings)
        with notifier(settings, spool):
            wait_empty(spool)
        assert len(flood.got) == 1
    finally:
        flood.close()


def test_retry_after_is_kept_to_and_is_never_reckoned_by_this_host_s_clock() -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    assert webhook._after_s("120", None) == 120
    assert webhook._after_s("Wed, 21 Oct 2015 07:30:00 GMT", date) == 120
    assert webhook._after_s("Wed, 21 Oct 2015 07:20:00 GMT", date) == 0
    assert webhook._after_s("Wed, 21 Oct 2015 07:30:00 GMT", None) is None
    for hostile in (
        "-1",
        "soon",
        "",
        "9" * 400,
        "\u0663",
        "1e9",
        "Wed, 99 Oct 9999 99:99:99 GMT",
        f"Wed, 21 Oct {9**30} 07:28:00 GMT",
    ):
        after = webhook._after_s(hostile, date)
        assert after is None or 0 <= after < 1e9


def test_a_busy_receiver_is_left_alone_as_a_whole(spool: Spool, secret_file: Path, receivers: Callable[..., Receiver]) -> None:
    """429 with Retry-After: of many letters one is tried, and none before the time."""
    receiver = receivers(lambda number: (429, {"Retry-After": "1000"}))
    settings = hooked(secret_file, receiver)
    for number in range(5):
        end(spool, settings, job_id=f"job-{number}")
    made = Notifier(settings, spool, outbox(spool))
    key = next(iter(made._rounds))
    worker = threading.Thread(target=made._deliver_all, args=(key, made._rounds[key]))
    worker.start()
    try:
        made.turn(0.0)
        event = made._inbox.get(timeout=120)
        assert event
        made._hear(*event, 0.0)
        assert made.turn(999.0) <= 1059  # a look into the outbox, perhaps
        assert made._rounds[key].next_due() == 1000.0
        assert made._rounds[key].at_work is None
        made.turn(1000.0)
        assert made._inbox.get(timeout=120)
    finally:
        made._rounds[key].work.put(None)
        worker.join()
    assert len(receiver.got) == 2
    assert sorted(entry.waited_s for entry in made._rounds[key].waiting.values()) == [1000.0] * 5


def test_back_off_doubles_from_a_second_to_an_hour() -> None:
    assert [wait_s(failures, 1.0) for failures in (1, 2, 3, 4)] == [1, 2, 4, 8]
    assert wait_s(1, 0.0) == 1
    assert wait_s(4, 0.0) == 4
    assert wait_s(10**9, 1.0) == 3600
    assert sum(wait_s(failures, 0.5) for failures in range(1, 48)) > 86_400, "a day of trying is not fifty tries"


def test_a_certificate_that_nobody_vouches_for_is_refused_and_a_trusted_one_taken(
    spool: Spool,
    secret_file: Path,
    receivers: Callable[..., Receiver],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=here",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    receiver = receivers(tls=tls)
    settings = hooked(secret_file, receiver)
    end(spool, settings)
    with notifier(settings, spool):
        wait_for(lambda: "CERTIFICATE_VERIFY_FAILED" in caplog.text, "the certificate to be refused")
    assert not receiver.got
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    with notifier(settings, spool):
        wait_empty(spool)
    assert len(receiver.got) == 1
