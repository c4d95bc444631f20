"""What fsck mends long after it looked: it looks again, and waits for nobody who is at work there."""

from __future__ import annotations

import pytest
from filelock import Timeout
from house import drop

from spooler import fsck, moves
from spooler.spool import Spool

CAT = {"prompt": "a cat"}


def test_what_was_a_leftover_and_is_a_job_by_now_stays(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "CLAIM_LOCK_WAIT_S", 0.01)
    folder = spool.claimed / "me" / "cat"
    folder.mkdir()
    mend = fsck._leftover(spool, folder)
    with spool.claim_lock(), pytest.raises(Timeout):
        mend()
    (folder / "job.json").write_text("{}")
    mend()
    assert folder.exists()
    (folder / "job.json").unlink()
    mend()
    mend()
    assert not folder.exists()


def test_a_reason_whose_file_is_back_stays(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "CLAIM_LOCK_WAIT_S", 0.01)
    reason = spool.rejected_folder / "cat.json.reason.txt"
    reason.write_text("It is bad.")
    mend = fsck._lone_reason(spool, reason)
    with spool.claim_lock(), pytest.raises(Timeout):
        mend()
    (spool.rejected_folder / "cat.json").write_text("{}")
    mend()
    assert reason.exists()
    (spool.rejected_folder / "cat.json").unlink()
    mend()
    assert not reason.exists()


def test_the_folder_of_an_editor_that_lives_or_that_has_a_job_stays(spool: Spool) -> None:
    folder = spool.claimed / "edit_1"
    folder.mkdir()
    mend = fsck._dead_editor(spool, folder)
    with spool.life_lock("edit_1"):
        mend()
    assert folder.exists()
    drop(spool, "cat.json", CAT)
    place = spool.claim("cat.json", "edit_1")
    assert place
    mend()
    assert place.job_file.exists()
    assert spool.give_back(place, "pending")
    mend()
    assert not folder.exists()
