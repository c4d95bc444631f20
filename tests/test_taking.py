"""A file of many jobs on its way into batches/: what is kept, what another has done meanwhile, what is put back."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from calls import failing, no_fsync_of, synced
from house import drop

from spooler.batch_file import MAX_BYTES
from spooler.batches import Batch, Batches
from spooler.doorman import Doorman
from spooler.durable import UnsyncedError
from spooler.job import Job
from spooler.pending import Pending, Source
from spooler.spool import Spool

ROWS = [Job(prompt="a cat"), Job(prompt="a dog")]
RAW = b'{"prompt":"a cat"}\n{"prompt":"a dog"}\n'
TEXT = b"a cat\na dog\n"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".gitignore")


def waiting(spool: Spool) -> list[str]:
    return sorted(place.id for place in spool.places("pending"))


def doorman(spool: Spool) -> Doorman:
    return Doorman(spool, Pending(spool), lambda job: None, lambda: 10.0)


# -- by the web app ------------------------------------------------------------------------------------------------------------


def test_w4_a_batch_s_file_is_kept_before_it_is_taken(spool: Spool) -> None:
    with synced() as kept:
        Batches(spool).submit(ROWS, "two", "me")
    assert kept[0].endswith(f" {len(RAW)}") and kept[1] == "pending" and "batches" in kept[2:]


def test_a_batch_that_an_earlier_call_left_in_pending_is_gone_on_with(spool: Spool) -> None:
    drop(spool, "two.jsonl", RAW)
    assert Batches(spool).submit(ROWS, "two", "me").id == "two"
    assert waiting(spool) == ["two.0001", "two.0002"] and Batches(spool).submit(ROWS, "two", "me").id == "two"


def test_n1_a_batch_whose_reply_was_lost_is_there_once(spool: Spool) -> None:
    with failing("link", after=True):
        Batches(spool).submit(ROWS, "two", "me")
    assert waiting(spool) == ["two.0001", "two.0002"]


def test_a_batch_that_somebody_withdraws_at_once_is_told_of_as_gone(spool: Spool) -> None:
    class Withdrawn(Batches):
        def _take(self, name: str, *more: Any) -> None:
            (spool.pending / name).unlink()

    with pytest.raises(FileNotFoundError, match=r"two\.jsonl"):
        Withdrawn(spool).submit(ROWS, "two", "me")
    assert waiting(spool) == [] and names(spool.tmp) == []


# -- by a spooler --------------------------------------------------------------------------------------------------------------


def test_p2_a_batch_that_is_taken_is_not_taken_apart_though_the_disk_may_forget_it(spool: Spool) -> None:
    drop(spool, "two.txt", TEXT)
    with no_fsync_of("/pending"), pytest.raises(UnsyncedError):
        Batches(spool).take("two.txt", 2, "me")
    assert names(spool.batches / "two") == ["batch.json", "two.txt"]
    assert [batch.id for batch in Batches(spool).unfinished()] == ["two"]


def test_what_a_killed_taker_left_keeps_no_id_and_no_overrides_go_over_others(spool: Spool) -> None:
    folder = spool.batches / "old"
    folder.mkdir()
    (folder / "old.png.overrides.json").write_text('{"steps": 3}')
    drop(spool, "old.png", b"")
    batch = Batches(spool).take("old.png", 1, "me")
    assert batch and batch.id == "old"
    assert names(folder) == ["batch.json", "old.png", "old.png.overrides.json"], "they came back in time to be taken along"

    (spool.batches / "dog").mkdir()
    (spool.batches / "dog" / "dog.png.overrides.json").write_text('{"steps": 3}')
    drop(spool, "dog.png.overrides.json", b'{"steps": 7}')
    drop(spool, "dog.png", b"")
    batch = Batches(spool).take("dog.png", 1, "me")
    assert batch and batch.id == "dog-2", "somebody's older ones are in the way"
    assert (spool.batches / "dog-2" / "dog.png.overrides.json").read_text() == '{"steps": 7}'
    assert (spool.batches / "dog" / "dog.png.overrides.json").read_text() == '{"steps": 3}'


def test_n1_overrides_come_back_though_the_reply_was_lost(spool: Spool) -> None:
    (spool.batches / "old").mkdir()
    (spool.batches / "old" / "old.png.overrides.json").write_text('{"steps": 3}')
    with failing("link", after=True):
        assert Batches(spool).unfinished() == []
    assert names(spool.batches) == [] and names(spool.pending) == ["old.png.overrides.json"]


def test_what_is_read_has_gone_or_is_no_file(spool: Spool) -> None:
    with pytest.raises(FileNotFoundError):
        Doorman._read(spool.pending / "gone.txt", MAX_BYTES)


def test_overrides_stay_while_their_picture_cannot_be_set_aside(spool: Spool) -> None:
    drop(spool, "old.png", b"no picture")
    drop(spool, "old.png.overrides.json", b"{}")
    with failing("rename", code=errno.EACCES), failing("link", code=errno.EACCES):
        doorman(spool)._reject_source(Source(spool.pending / "old.png", 0.0, whole=True), "It is bad.")
    assert names(spool.pending) == ["old.png", "old.png.overrides.json"]

    class Stuck(Spool):
        def reject(self, path: Path, *more: Any, **options: Any) -> str | None:
            if path.name == "old.png":
                raise PermissionError(errno.EACCES, "Permission denied")
            return super().reject(path, *more, **options)

    doorman(Stuck(spool.root))._reject_source(Source(spool.pending / "old.png", 0.0, whole=True), "It is bad.")
    assert names(spool.pending) == ["old.png", "old.png.overrides.json"]


def test_a_batch_keeps_its_own_name_from_the_next(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    found: list[Batch | None] = []
    for _ in range(2):
        drop(spool, "two.txt", TEXT)
        found.append(Batches(spool).take("two.txt", 2, "me"))
    assert [each and each.id for each in found] == ["two", "two-2"]
    assert not caplog.records, "there was nothing to be taken apart"
