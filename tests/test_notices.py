"""Notices of jobs' ends: a real receiver, a real command, real kill -9 between the steps. At least once, and never of an end
that was not published."""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from house import ROOT, SLEEPER, drop, spooler, wait_for, wait_state
from receivers import ME, SECRET, Receiver, began, end, finished, hooked, looked, notice_options, notifier, outbox, wait_empty

from spooler import notices
from spooler.notices import notices_for
from spooler.notify import Notifier
from spooler.place import Place
from spooler.record import Record
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.states import ENDS, End

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
import receivers as t

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
        [sys.executable, "-c", LIFE, str(ROOT / "tests"), str(spool.root), step, *notice_options(settings)],
        cwd=ROOT,
        check=False,
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
        "Notifier(Settings.parse(sys.argv[2:], 'x', {}), spool, Outbox(spool.claimed / 'me' / '.outbox')).start()\n"
        "time.sleep(600)\n"
    )
    lives.append(subprocess.Popen([sys.executable, "-c", script, str(spool.root), *notice_options(settings)], cwd=ROOT))
    assert lives[0].wait(60) == -signal.SIGKILL
    with notifier(settings, spool):
        wait_empty(spool)
    assert len(receiver.got) == 2
    assert receiver.got[0][1] == receiver.got[1][1], "the same bytes, the same id"


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


def test_an_end_is_told_also_when_another_job_of_that_name_waits(
    spool: Spool, secret_file: Path, receivers: Callable[..., Receiver]
) -> None:
    receiver = receivers()
    settings = hooked(secret_file, receiver)
    end(spool, settings)
    drop(spool, "cat.json", {"prompt": "another cat"})
    with notifier(settings, spool):
        wait_empty(spool)
    assert [each["event"] for each in receiver.notices] == ["job.done"]


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


def test_a_real_spooler_tells_of_its_jobs_over_its_own_death(
    spool: Spool, secret_file: Path, receivers: Callable[..., Receiver]
) -> None:
    """The whole way: a spooler process, kill -9 while the receiver is out of order, and another life."""
    works = threading.Event()
    receiver = receivers(lambda number: (200, {}) if works.is_set() else (503, {}))
    options = notice_options(hooked(secret_file, receiver))
    drop(spool, "cat.json", {"prompt": "a small red circle on a white background", "steps": 2, "width": 64, "height": 64})
    with spooler(spool, *options, name=ME, program=SLEEPER) as first:
        wait_state(spool, "cat", "done")
        wait_for(lambda: receiver.got, "the first try")
        first.kill()
    assert len(outbox(spool).names()) == 1
    works.set()
    with spooler(spool, *options, name=ME, program=SLEEPER):
        wait_empty(spool)
    told = receiver.notices[-1]
    assert (told["event"], told["job"], told["images"]) == ("job.done", "cat", ["0.png"])
    assert {each["id"] for each in receiver.notices} == {told["id"]}


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
