"""Those who are told of jobs' ends, over real HTTP, and jobs that end: what the tests of notices share."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from house import wait_for

from spooler.job import Job
from spooler.notices import Outbox, notices_for
from spooler.notify import Notifier
from spooler.place import Place
from spooler.record import Attempt, Image, Record, Timings, utc_now
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.states import End

SECRET = b"correct horse battery staple"
ME = "me"


class Receiver:
    """A real HTTP server on a port of its own. `answer` says what the next requests get; `got` keeps what came."""

    def __init__(self, answer: Callable[[int], tuple[int, dict[str, str]]] | None = None, tls: ssl.SSLContext | None = None):
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answer = answer or (lambda number: (204, {}))
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((dict(self.headers), body))
                receiver.reply(self, *receiver.answer(len(receiver.got)))

            do_GET = do_POST

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                pass  # a client that hung up, which some of these tests want

        self.server = Server(("127.0.0.1", 0), Handler)
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}/hook?key=hush-hush"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def reply(self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    @property
    def notices(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receivers() -> Iterator[Callable[..., Receiver]]:
    made: list[Receiver] = []

    def make(*args: Any, **options: Any) -> Receiver:
        made.append(Receiver(*args, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    path.chmod(0o600)
    return path


def outbox(spool: Spool, spooler: str = ME) -> Outbox:
    return Outbox(spool.claimed / spooler / ".outbox")


def claimed(spool: Spool, job_id: str = "cat") -> tuple[Place, Record]:
    """A job that the spooler has begun."""
    (spool.pending / f"{job_id}.json").write_text('{"prompt": "a cat", "owner": "ann"}')
    place = spool.claim(f"{job_id}.json", ME)
    assert place
    record = Record(id=job_id).claimed_by(ME, job_id, f"{job_id}.json")
    return place, began(spool, place, record)


def began(spool: Spool, place: Place, record: Record) -> Record:
    """The record of the next attempt, stored before the engine would hear of it."""
    attempt = Attempt(number=len(record.attempts) + 1, started=utc_now())
    parameters = Job(prompt="a cat", owner="ann")
    record = record.model_copy(update={"attempts": (*record.attempts, attempt), "parameters": parameters})
    spool.prepare(place, record)
    return record


def finished(record: Record) -> Record:
    return record.finish((Image(file="0.png", seed=1, width=64, height=64),), Timings())


def end(spool: Spool, settings: Settings, state: End = "done", job_id: str = "cat") -> Record:
    """Run a job to its end as the service does: the letters first, then the rename."""
    place, record = claimed(spool, job_id)
    record = finished(record) if state == "done" else record.fail("no-model", "There is no such model.")
    outbox(spool).put(notices_for(record, state, settings))
    assert spool.publish(place, record, state)
    return record


@contextmanager
def notifier(settings: Settings, spool: Spool) -> Iterator[Notifier]:
    made = Notifier(settings, spool, outbox(spool))
    made.start()
    try:
        yield made
    finally:
        made.stop()


def looked(running: Notifier) -> int:
    """Number of letters whose job was looked for in vain."""
    return sum(entry.looks > 0 for each in running._rounds.values() for entry in list(each.waiting.values()))


def wait_empty(spool: Spool) -> None:
    wait_for(lambda: not outbox(spool).names(), "the outbox to be empty")


def hooked(secret_file: Path, *receivers: Receiver, **changes: Any) -> Settings:
    urls = ", ".join(each.url for each in receivers)
    return replace(Settings(), webhook=urls, webhook_secret_file=str(secret_file), **changes)


def notice_options(settings: Settings) -> list[str]:
    return [each for each in settings.arguments() if each.startswith(("--webhook", "--notify"))]
