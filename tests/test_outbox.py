"""The outbox: letters wait there on disk, through crashes of those who write and deliver them, and not without bound."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from house import wait_for
from receivers import ME, Receiver, end, hooked, notifier, outbox, wait_empty

from spooler import notify
from spooler.notices import Letter, adopt, notices_for
from spooler.notify import Notifier
from spooler.record import Record
from spooler.settings import Settings
from spooler.spool import Spool


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
