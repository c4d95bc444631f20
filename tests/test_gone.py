"""What has gone since it was seen, and what is no job at all, is passed over: it stops nothing else."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest
from calls import failing, no_fsync_of
from house import drop

from spooler import archive, edit, fsck, reader, retention
from spooler import spool as spool_module
from spooler.batches import Batches
from spooler.doorman import Doorman
from spooler.durable import UnsyncedError
from spooler.job import Job, encode
from spooler.notices import OUTBOX, Letter, Notice, Outbox, adopt
from spooler.pending import Pending
from spooler.record import Record, Timings
from spooler.removal import remove
from spooler.retention import Retention
from spooler.settings import Settings
from spooler.spool import Spool

CAT = {"prompt": "a cat"}


@pytest.fixture
def spool(spool: Spool) -> Spool:
    (spool.claimed / "dead").mkdir()
    return spool


class Gone(Spool):
    """Whatever is to be moved is taken away by hand just before."""

    def move(self, verb: str, source: Path, target: Path) -> None:
        if "cat" in source.name:
            remove(source)
        super().move(verb, source, target)


def test_a_job_that_is_gone_is_no_longer_there_to_be_held(spool: Spool) -> None:
    drop(spool, "cat.json", CAT)
    assert Gone(spool.root).hold("cat") is None


def test_recovery_takes_over_the_rest(spool: Spool) -> None:
    for name in ("cat", "dog"):
        drop(spool, f"{name}.json", CAT)
        assert spool.claim(f"{name}.json", "dead")
    assert [place.id for place in Gone(spool.root).recover("me")] == ["dog"]


def test_two_reapers_do_not_stumble_over_each_other(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (spool.tmp / name).touch()
        os.utime(spool.tmp / name, (1e9, 1e9))

    def remove_all(entry: Path) -> None:
        for each in spool.tmp.iterdir():
            each.unlink()

    monkeypatch.setattr(spool_module, "remove", remove_all)
    assert spool.reap_tmp(3600.0) == 1


def test_a_rejected_file_that_is_cleared_away_is_not_shown(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    (spool.pending / "bad.json").write_bytes(b"bad")
    assert spool.reject(spool.pending / "bad.json", "It is bad.")
    assert len(spool.rejected()) == 1
    monkeypatch.setattr(reader, "mtime_ns", lambda path: path.unlink() or 0)
    assert spool.rejected() == []


def test_p1_a_folder_that_was_not_acknowledged_is_not_there(spool: Spool) -> None:
    with no_fsync_of("/pending"), pytest.raises(UnsyncedError):
        spool.submit(encode(Job(prompt="a cat")), None, {"a.png": b"picture"})
    assert spool.places("pending") == []


def test_a_picture_that_has_not_come_yet_is_named(spool: Spool) -> None:
    (spool.pending / "cat").mkdir()
    job = Job.model_validate({"prompt": "a cat", "image": "start.png", "strength": 0.5})
    (spool.pending / "cat" / "job.json").write_bytes(encode(job))
    pending = Pending(spool)
    pending.refresh(0.0)
    (suspect,) = pending.suspects
    assert suspect.reason == "`start.png` must lie beside job.json, but is not there."


def test_a_file_of_jobs_that_is_withdrawn_is_forgotten(spool: Spool) -> None:
    pending = Pending(spool)
    doorman = Doorman(spool, pending, lambda job: None, lambda: 10.0)
    doorman.turn(0.0)
    drop(spool, "two.txt", b"a cat\na dog\n")
    pending.hint("two.txt", whole=True)
    pending.refresh(0.0)
    (spool.pending / "two.txt").unlink()
    doorman.turn(0.1)  # before it looks again by itself
    assert pending.sources == []


def test_a_row_whose_name_somebody_drops_meanwhile_stops_no_other(spool: Spool) -> None:
    class Dropped(Spool):
        def link_draft(self, draft: Path, name: str, *more: Any) -> None:
            if name.endswith("1.json"):
                drop(spool, name, CAT)
            super().link_draft(draft, name, *more)

    drop(spool, "two.txt", b"a cat\na dog\n")
    batches = Batches(Dropped(spool.root))
    batch = batches.take("two.txt", 2, "me")
    assert batch
    assert batches.submit_some(batch, batches.rows(batch), 0) is None
    assert {place.id for place in spool.places("pending")} == set(batch.jobs)


def test_what_waits_and_is_no_job_is_neither_edited_nor_exported(spool: Spool) -> None:
    drop(spool, "bad.json", b"[]")
    drop(spool, "cat.json", CAT)
    assert [edited.id for edited in edit.apply(spool, edit.replacing("cat", "dog"))] == ["cat"]
    assert archive.export(spool, io.BytesIO()) == 1


def letter() -> Letter:
    told_of = {"event": "job.done", "job": "cat", "state": "done", "owner": "", "prompt": "", "images": (), "spooler": "me"}
    notice = Notice.model_validate({"id": "1", "failure": None, "at": None, **told_of})
    return Letter(notice=notice, target="hook", attempts=1, retries=0)


def test_a_letter_that_is_gone_was_delivered(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(spool.claimed / "dead" / OUTBOX)
    outbox.put([letter()])
    assert outbox.read("gone.json") is None
    outbox.set_aside(["gone.json"])
    names = outbox.names()
    monkeypatch.setattr(Outbox, "names", lambda self: ["gone.json", *names])
    assert adopt(spool.claimed / "dead", spool.claimed / "me") == 1


def test_fsck_finds_nothing_where_nothing_is_wrong_and_goes_on_where_a_folder_is_missing(spool: Spool) -> None:
    drop(spool, "cat.json", CAT)
    drop(spool, "dog.json", CAT)
    assert spool.hold("dog")
    drop(spool, "two.txt", b"a cat\na dog\n")
    batches = Batches(spool)
    batch = batches.take("two.txt", 2, "me")
    assert batch
    assert [finding.sentence[:14] for finding in fsck.examine(spool)] == ["Not all of its"]
    assert batches.submit_some(batch, batches.rows(batch), 0) is None
    assert list(fsck.examine(spool)) == []
    spool.rejected_folder.rmdir()
    assert [finding.sentence for finding in fsck.examine(spool)] == ["The folder is missing."]


def test_nothing_goes_by_age_while_the_clock_and_the_disk_s_disagree(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, completed in (("old", "2001-01-01T00:00:00.000Z"), ("new", None)):
        drop(spool, f"{name}.json", CAT)
        place = spool.claim(f"{name}.json", "me")
        assert place
        record = Record(id=name).finish((), Timings())
        assert spool.publish(place, record.model_copy(update={"completed": completed}) if completed else record, "done")
    assert retention._look(spool.root, "done", "gone") is None
    with failing("scandir", code=errno.ENAMETOOLONG):  # so deep a folder is a stranger's
        assert retention._look(spool.root, "done", "new")
    with failing("scandir"), pytest.raises(OSError, match="Input/output"):
        retention._look(spool.root, "done", "new")
    kept = retention.SKEW_S
    monkeypatch.setattr(retention, "SKEW_S", -1.0)
    made = Retention(spool, Settings(spool=spool.root, keep_days=1.0), first_pass_s=0.0)
    while made.turn(10.0):
        pass
    assert len(spool.places("done")) == 2
    monkeypatch.setattr(retention, "SKEW_S", kept)
    made = Retention(spool, Settings(spool=spool.root, keep_days=1.0), first_pass_s=0.0)
    while made.turn(10.0):
        pass
    assert [place.id for place in spool.places("done")] == ["new"]


def test_p2_no_file_of_a_pruned_job_goes_before_its_move_is_kept(spool: Spool) -> None:
    drop(spool, "cat.json", CAT)
    place = spool.claim("cat.json", "me")
    assert place and spool.publish(place, Record(id="cat").finish((), Timings()), "done")
    (job,) = retention.ended(spool.root)
    with no_fsync_of("/done"):
        assert retention.remove(spool, job)
    assert spool.places("done") == [] and [path.name for path in spool.tmp.glob("prune-*/job.json")] == ["job.json"]
