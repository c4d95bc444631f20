"""Notices of jobs' ends: real HTTP servers, a real command, real kill -9 between the steps. At least once, and never of an end
that was not published."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from house import ROOT, drop, spooler, wait_for, wait_state

from spooler import notices, notify, targets, webhook
from spooler.job import Job
from spooler.notices import Letter, Outbox, adopt, notices_for
from spooler.notify import Notifier, wait_s
from spooler.place import Place
from spooler.record import Attempt, Image, Record, Timings, utc_now
from spooler.serve import serve
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.states import ENDS, End
from spooler.targets import Command, TargetError, Webhook

SECRET = b"correct horse battery staple"
ME = "gpu"


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
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.create()
    (spool.claimed / ME).mkdir()
    return spool


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


# -- what is told --------------------------------------------------------------------------------------------------------


def test_a_signed_post_tells_of_each_end(spool: Spool, secret_file: Path, receivers: Callable[..., Receiver]) -> None:
    receiver = receivers()
    settings = hooked(secret_file, receiver)
    record = end(spool, settings)
    end(spool, settings, "failed", "dog")
    with notifier(settings, spool):
        wait_empty(spool)
    by_job = {each["job"]: each for each in receiver.notices}
    assert set(by_job) == {"cat", "dog"}
    cat = by_job["cat"]
    assert cat == {
        "id": cat["id"],
        "event": "job.done",
        "job": "cat",
        "state": "done",
        "owner": "ann",
        "prompt": "a cat",
        "images": ["0.png"],
        "failure": None,
        "spooler": ME,
        "at": record.completed,
    }
    assert by_job["dog"]["failure"] == {"code": "no-model", "reason": "There is no such model."}
    assert by_job["dog"]["images"] == []
    for headers, body in receiver.got:
        told = json.loads(body)
        timestamp = headers["X-Sdspool-Timestamp"]
        wanted = hmac.new(SECRET, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        assert headers["X-Sdspool-Signature"] == "sha256=" + wanted
        assert (headers["X-Sdspool-Event"], headers["X-Sdspool-Delivery"]) == (told["event"], told["id"])


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


def test_only_the_ends_that_are_set_are_told(secret_file: Path) -> None:
    record = Record(id="x", completed="2026-01-01T00:00:00.000Z")
    settings = replace(Settings(), notify_command="true")
    assert [bool(notices_for(record, state, settings)) for state in ENDS] == [True, True, False]
    settings = replace(settings, notify_on=" cancelled ,done")
    assert [bool(notices_for(record, state, settings)) for state in ENDS] == [True, False, True]
    assert not notices_for(record, "done", Settings())


def test_the_same_end_has_the_same_id_and_another_end_another() -> None:
    settings = replace(Settings(), notify_command="true", notify_on="done,failed,cancelled")
    record = Record(id="x", completed="2026-01-01T00:00:00.000Z")
    later = record.model_copy(update={"completed": "2026-01-01T00:00:00.001Z"})
    first, again = notices_for(record, "done", settings), notices_for(record, "done", settings)
    assert first == again
    ids = {notices_for(one, state, settings)[0].notice.id for one in (record, later) for state in ENDS}
    assert len(ids) == 6


def test_a_real_command_gets_the_notice_on_standard_input(spool: Spool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = tmp_path / "tell me.sh"
    script.write_text(
        f'#!/bin/sh\ncat > "{out}.draft"\necho "$SDSPOOL_ID $SDSPOOL_STATE $1" >> "{out}.draft"\nmv "{out}.draft" "{out}"\n'
    )
    script.chmod(0o755)
    settings = replace(Settings(), notify_command=f"'{script}' '$(id); *'")
    end(spool, settings)
    with notifier(settings, spool):
        wait_empty(spool)
    told, rest = out.read_text().split("}", 1)
    assert json.loads(told + "}")["job"] == "cat"
    assert rest == "cat done $(id); *\n", "no shell looks at the words"


def test_a_command_that_does_not_end_is_killed_with_all_that_it_started(spool: Spool, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = tmp_path / "hang.sh"
    script.write_text(f"#!/bin/sh\nsleep 1000 &\necho $$ $! > {pids}.draft\nmv {pids}.draft {pids}\nwait\n")
    script.chmod(0o755)
    settings = replace(Settings(), notify_command=str(script), notify_timeout_s=0.5, notify_give_up_s=0.001)
    end(spool, settings)
    with notifier(settings, spool):
        wait_empty(spool)  # given up after its second try
        for pid in map(int, pids.read_text().split()):
            wait_for(lambda pid=pid: not _alive(pid), f"the process {pid} to be gone", 30)  # type: ignore[misc]
    assert len(list(outbox(spool).dead.iterdir())) == 1


def test_a_stop_kills_the_command_and_the_notice_is_kept(spool: Spool, tmp_path: Path) -> None:
    settings = replace(Settings(), notify_command="sleep 1000")
    end(spool, settings)
    made = Notifier(settings, spool, outbox(spool))
    made.start()
    process = wait_for(lambda: made._commands.get("command"), "the command to run")
    made.stop(0.1)
    assert not _alive(process.pid)
    assert len(outbox(spool).names()) == 1


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# -- at least once, and never of an end that was not ---------------------------------------------------------------------

STEPS = ("begun", "letters written", "record written", "published")

LIFE = """
import os, sys
from pathlib import Path
from spooler import durable
from spooler.notices import Outbox, notices_for
from spooler.settings import Settings
from spooler.spool import Spool
sys.path.insert(0, sys.argv[1])
import test_notices as t

spool, settings, until = Spool(Path(sys.argv[2])), Settings.parse(sys.argv[4:], "x", {}), sys.argv[3]

def reached(step):
    if step == until:
        os.kill(os.getpid(), 9)

place, record = t.claimed(spool)
reached("begun")
record = t.finished(record)
t.outbox(spool).put(notices_for(record, "done", settings))
reached("letters written")
durable.replace(place.path / "record.json", record.encode())
reached("record written")
spool.publish(place, record, "done")
reached("published")
"""


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_between_the_steps_loses_no_notice_and_tells_of_no_end_that_was_not(
    spool: Spool, secret_file: Path, receivers: Callable[..., Receiver], step: str
) -> None:
    """P2 for notices: kill -9 before and after each step; then the job runs again, as recovery does, and is told of once."""
    receiver = receivers()
    settings = hooked(secret_file, receiver)
    life = subprocess.run(
        [sys.executable, "-c", LIFE, str(ROOT / "tests"), str(spool.root), step, *_options(settings)], cwd=ROOT, check=False
    )
    assert life.returncode == -signal.SIGKILL
    with notifier(settings, spool) as running:
        for place in spool.recover(ME):
            record = spool.read_record(place)
            assert record
            # Nothing may be told of what was not published, however long it takes to be.
            running.wake()
            wait_for(lambda: looked(running) == len(outbox(spool).names()), "each letter to be looked at")
            assert not receiver.got
            record = finished(began(spool, place, record))
            outbox(spool).put(notices_for(record, "done", settings))
            running.wake()
            assert spool.publish(place, record, "done")
            running.wake()
        wait_empty(spool)
    (place,) = spool.places("done")
    published = spool.read_record(place)
    assert published
    assert [each["at"] for each in receiver.notices] == [published.completed]


def _options(settings: Settings) -> list[str]:
    return [each for each in settings.arguments() if each.startswith(("--webhook", "--notify"))]


def test_killed_between_the_delivery_and_its_note_it_comes_twice_under_one_id(
    spool: Spool, secret_file: Path, receivers: Callable[..., Receiver]
) -> None:
    lives: list[subprocess.Popen[bytes]] = []

    def answer(number: int) -> tuple[int, dict[str, str]]:
        if number == 1:
            wait_for(lambda: lives, "the process to be known")
            lives[0].kill()
            lives[0].wait()
        return 200, {}

    receiver = receivers(answer)
    settings = hooked(secret_file, receiver)
    end(spool, settings)
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom spooler.notices import Outbox\nfrom spooler.notify import Notifier\n"
        "from spooler.settings import Settings\nfrom spooler.spool import Spool\nspool = Spool(Path(sys.argv[1]))\n"
        "Notifier(Settings.parse(sys.argv[2:], 'x', {}), spool, Outbox(spool.claimed / 'gpu' / '.outbox')).start()\n"
        "time.sleep(600)\n"
    )
    lives.append(subprocess.Popen([sys.executable, "-c", script, str(spool.root), *_options(settings)], cwd=ROOT))
    assert lives[0].wait(60) == -signal.SIGKILL
    with notifier(settings, spool):
        wait_empty(spool)
    assert len(receiver.got) == 2
    assert receiver.got[0][1] == receiver.got[1][1], "the same bytes, the same id"


def test_a_letter_half_written_is_removed_and_no_bad_file_stops_the_rest(
    spool: Spool, secret_file: Path, receivers: Callable[..., Receiver], tmp_path: Path
) -> None:
    receiver = receivers()
    settings = hooked(secret_file, receiver)
    record = end(spool, settings)
    box = outbox(spool)
    (name,) = box.names()
    (box.folder / f".{name}.123").write_bytes(b'{"notice": {"id"')
    (box.folder / "bad.json").write_bytes(b"\xff\x00{")
    (box.folder / "empty.json").write_bytes(b"")
    os.mkfifo(box.folder / "fifo.json")
    (box.folder / "link.json").symlink_to("/etc/passwd")
    (box.folder / "folder.json").mkdir()
    (letter,) = notices_for(record, "done", settings)
    (box.folder / "other.json").write_text(letter.model_copy(update={"target": "../../../x"}).model_dump_json())
    with notifier(settings, spool):
        wait_empty(spool)
    assert len(receiver.got) == 1
    assert sorted(each.name.partition("-")[2] for each in box.dead.iterdir()) == [
        "bad.json", "empty.json", "fifo.json", "folder.json", "link.json", "other.json"
    ]  # fmt: skip
    assert not [each for each in box.folder.iterdir() if each.name.startswith(".")]


def test_a_planted_letter_cannot_name_an_address(spool: Spool, secret_file: Path, receivers: Callable[..., Receiver]) -> None:
    """Targets are set by the operator alone: a letter names one by the hash of its address, which the settings must have."""
    elsewhere, ours = receivers(), receivers()
    end(spool, hooked(secret_file, elsewhere))
    with notifier(hooked(secret_file, ours), spool):
        wait_empty(spool)
    assert not elsewhere.got
    assert not ours.got
    assert len(list(outbox(spool).dead.iterdir())) == 1


def test_a_failure_that_was_sent_back_before_it_was_told_is_told_all_the_same(
    spool: Spool, secret_file: Path, receivers: Callable[..., Receiver]
) -> None:
    receiver = receivers()
    settings = hooked(secret_file, receiver)
    end(spool, settings, "failed")
    assert spool.retry("cat")
    with notifier(settings, spool):
        wait_empty(spool)
    assert [each["event"] for each in receiver.notices] == ["job.failed"]


def _verdict(state: str | None, told: End = "done", **job: Any) -> notices.Verdict:
    settings = replace(Settings(), notify_command="true", notify_on="done,failed,cancelled")
    record = Record(id="x", completed="2026-01-01T00:00:00.000Z")
    (letter,) = notices_for(record, told, settings)
    place = Place("x", state, Path("x")) if state else None  # type: ignore[arg-type]
    return notices.verdict(letter, place, record.model_copy(update=job) if state else None)


def test_the_verdict_goes_by_folders_and_never_by_a_clock() -> None:
    attempt = {"number": 1, "started": "2026-01-01T00:00:00.000Z"}
    newer = Record.model_validate({"id": "x", "attempts": [attempt]}).attempts
    assert _verdict("done") == "send"
    assert _verdict(None) == "wait"
    assert _verdict("claimed") == "wait", "written, but not yet published"
    assert _verdict("pending") == "wait"
    assert _verdict("claimed", attempts=newer) == "drop", "the crash came before the rename, and it runs again"
    assert _verdict("done", completed="2036-01-01T00:00:00.000Z") == "drop", "another end"
    assert _verdict("done", completed="2016-01-01T00:00:00.000Z") == "drop"
    assert _verdict("failed") == "drop"
    assert _verdict("pending", "failed", retried=("1970-01-01T00:00:00.000Z",)) == "send", (
        "it had ended, or it could not be sent back"
    )


def test_the_letters_of_a_dead_spooler_are_adopted_and_delivered(
    spool: Spool, secret_file: Path, receivers: Callable[..., Receiver]
) -> None:
    receiver = receivers()
    settings = hooked(secret_file, receiver)
    ids = {end(spool, settings, job_id=f"job-{number}").id for number in range(5)}
    mine = spool.claimed / "other"
    mine.mkdir()
    assert adopt(spool.claimed / ME, mine) == 5
    assert adopt(spool.claimed / ME, mine) == 0
    assert adopt(mine, mine) == 0
    assert not outbox(spool).names()
    made = Notifier(settings, spool, outbox(spool, "other"))
    made.start()
    try:
        wait_for(lambda: not outbox(spool, "other").names(), "the outbox to be empty")
    finally:
        made.stop()
    assert {each["job"] for each in receiver.notices} == ids
    assert len(receiver.got) == 5


def test_a_real_spooler_tells_of_its_jobs_over_its_own_death(
    spool: Spool, secret_file: Path, receivers: Callable[..., Receiver]
) -> None:
    """The whole way: a spooler process, the demo model, kill -9 while the receiver is out of order, and another life."""
    works = threading.Event()
    receiver = receivers(lambda number: (200, {}) if works.is_set() else (503, {}))
    options = _options(hooked(secret_file, receiver))
    drop(spool, "cat.json", {"prompt": "a small red circle on a white background", "steps": 2, "width": 64, "height": 64})
    with spooler(spool, *options, name=ME) as first:
        wait_state(spool, "cat", "done")
        wait_for(lambda: receiver.got, "the first try")
        first.kill()
    assert len(outbox(spool).names()) == 1
    works.set()
    with spooler(spool, *options, name=ME):
        wait_empty(spool)
    told = receiver.notices[-1]
    assert (told["event"], told["job"], told["images"]) == ("job.done", "cat", ["0.png"])
    assert {each["id"] for each in receiver.notices} == {told["id"]}


# -- receivers that answer otherwise, or not at all ----------------------------------------------------------------------


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
    for hostile in ("-1", "soon", "", "9" * 400, "\u0663", "1e9", "Wed, 99 Oct 9999 99:99:99 GMT"):
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


def test_what_nobody_takes_is_given_up_after_its_waits_and_a_hundred_are_kept(
    spool: Spool, secret_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By the sum of its waits, which is on disk: neither mtime nor the host's clock has a say."""
    caplog.set_level(logging.INFO)
    settings = replace(hooked(secret_file), webhook="http://127.0.0.1:1/", notify_give_up_s=10.0)
    (letter,) = notices_for(Record(id="x", completed="2026-01-01T00:00:00.000Z"), "done", settings)
    box = outbox(spool)
    letters = []
    for number in range(130):
        notice = letter.notice.model_copy(update={"id": f"{number:032}"})
        letters.append(letter.model_copy(update={"notice": notice, "seen": True, "waited_s": 10.0 if number else 0.0}))
    box.put(letters)
    os.utime(box.folder / letters[0].name, (0, 0))  # 1970
    with notifier(settings, spool):
        wait_for(lambda: len(box.names()) == 1, "129 to be given up")
        (left,) = box.names()
        assert left == letters[0].name
    assert len(list(box.dead.iterdir())) == 100
    assert "given up" in caplog.text


def test_the_outbox_has_a_bound_and_the_oldest_go_first(
    spool: Spool, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "MAX_WAITING", 50)
    settings = replace(hooked(secret_file), webhook="http://127.0.0.1:1/")
    box = outbox(spool)
    for number in range(80):
        record = Record(id=f"job-{number}", completed=f"2026-01-01T00:00:{number % 60:02}.{number:03}Z")
        box.put(notices_for(record, "done", settings))
    made = Notifier(settings, spool, box)
    made.turn(0.0)
    assert len(box.names()) == 50
    assert made.waiting == 50
    assert len(list(box.dead.iterdir())) == 30
    kept = sorted(letter.notice.at or "" for name in box.names() if (letter := box.read(name)))
    gone = [Letter.model_validate_json(path.read_bytes()).notice.at or "" for path in box.dead.iterdir()]
    assert max(gone) < kept[0]


def test_a_disk_that_will_not_have_the_letter_raises_before_the_job_is_published(spool: Spool) -> None:
    settings = replace(Settings(), notify_command="true")
    record = Record(id="x", completed="2026-01-01T00:00:00.000Z")
    (spool.claimed / ME / ".outbox").write_bytes(b"")  # a file where the folder should be
    with pytest.raises(OSError, match=r"exists|directory"):
        outbox(spool).put(notices_for(record, "done", settings))


# -- TLS -----------------------------------------------------------------------------------------------------------------


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


# -- settings and the secret ---------------------------------------------------------------------------------------------


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


def test_with_no_target_nothing_is_written_and_no_thread_delivers(spool: Spool) -> None:
    end(spool, Settings())
    assert not outbox(spool).folder.exists()
    with notifier(Settings(), spool) as running:
        running.wake()
        assert running.waiting == 0


def test_a_spooler_under_way_is_never_kept_waiting(spool: Spool, secret_file: Path, receivers: Callable[..., Receiver]) -> None:
    """Letters and hints while the receiver hangs: the calls that the loop makes return, all is delivered when it wakes up."""
    awake = threading.Event()

    def answer(number: int) -> tuple[int, dict[str, str]]:
        awake.wait(60)
        return 200, {}

    receiver = receivers(answer)
    settings = hooked(secret_file, receiver)
    with notifier(settings, spool) as running:
        for number in range(50):
            end(spool, settings, job_id=f"job-{number}")
            running.wake()
        assert len(outbox(spool).names()) == 50
        awake.set()
        wait_empty(spool)
    assert len({each["id"] for each in receiver.notices}) == len(receiver.got) == 50
