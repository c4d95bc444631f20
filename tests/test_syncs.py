"""W4: what each verb has the disk keep before it says that it is done, where no reader and no promise would miss it at once.

The power cut's proof (tests/prove/power.py) finds what a promise needs. What is here is lost more quietly: a star, a priority,
an epoch, a notice.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from calls import synced
from house import drop

from spooler.batches import Batches
from spooler.edit import apply, replacing
from spooler.fsck import examine
from spooler.notices import OUTBOX, Letter, Notice, Outbox, adopt
from spooler.record import Record, Timings
from spooler.spool import Spool

CAT = {"prompt": "a cat"}


@pytest.fixture
def spool(spool: Spool) -> Spool:
    (spool.claimed / "dead").mkdir()
    return spool


def told(names: list[str]) -> list[str]:
    """What was synced: folders by name, files as `file` with their size."""
    return [name if " " not in name else f"file {name.split()[-1]}" for name in names]


def test_the_first_start_keeps_the_spool_s_own_name_and_those_of_its_folders(tmp_path: Path) -> None:
    (tmp_path / "parent").mkdir()
    with synced() as names:
        Spool(tmp_path / "parent" / "spool").create()
    assert names[:2] == ["parent", "spool"]
    with synced() as names:
        Spool(tmp_path / "parent" / "spool").create()
    assert names[:1] == ["spool"], "who makes the missing folders may have died before"


def test_a_folder_that_is_made_again_is_kept_and_so_is_what_is_moved_there(spool: Spool) -> None:
    drop(spool, "cat.json", CAT)
    place = spool.claim("cat.json", "me")
    assert place
    (spool.root / "done").rmdir()
    with synced() as names:
        spool.move("publish", place.path, spool.root / "done" / "cat")
    assert told(names) == ["spool", "me", "done"]


def test_a_priority_is_kept_and_so_is_its_end(spool: Spool) -> None:
    drop(spool, "cat.json", CAT)
    with synced() as names:
        spool.set_priority("cat", 7)
    assert told(names) == ["file 2", "pending"]
    with synced() as names:
        spool.set_priority("cat", None)
    assert told(names) == ["pending"]


def test_a_star_is_kept_and_so_is_its_end(spool: Spool) -> None:
    drop(spool, "cat.json", CAT)
    place = spool.claim("cat.json", "me")
    assert place
    assert spool.publish(place, Record(id="cat").finish((), Timings()), "done")
    with synced() as names:
        spool.star("cat", True)
    assert told(names) == ["file 0", "cat"]
    with synced() as names:
        spool.star("cat", False)
    assert told(names) == ["cat"]


def test_n8_an_epoch_is_kept_before_its_number_is_told(spool: Spool) -> None:
    with synced() as names:
        assert spool.raise_epoch("me") == 1
    assert told(names) == ["file 2", "me"]


def test_what_an_edit_changes_is_kept_and_so_is_what_was_submitted_first(spool: Spool) -> None:
    drop(spool, "cat.json", CAT)
    submitted = (spool.pending / "cat.json").stat().st_size
    with synced() as names:
        assert apply(spool, replacing("cat", "dog"))
    place = spool.find("cat")
    assert place
    sizes = [submitted, *((place.path / name).stat().st_size for name in ("record.json", "job.json"))]
    kept = [each for each in told(names) if each.startswith("file") and each != "file 2"]  # 2: the editor's epoch
    assert kept == [f"file {size}" for size in sizes]
    assert names[-1] == "pending"


def test_that_a_batch_is_all_in_the_queue_is_kept(spool: Spool) -> None:
    drop(spool, "two.txt", b"a cat\na dog\n")
    batches = Batches(spool)
    batch = batches.take("two.txt", 2, "me")
    assert batch
    with synced() as names:
        assert batches.submit_some(batch, batches.rows(batch), 0) is None
    assert names[-3:] == ["pending", "queued 0", "two"]


def letter(number: int) -> Letter:
    told_of = {"event": "job.done", "job": "cat", "state": "done", "owner": "", "prompt": "", "images": (), "spooler": "me"}
    notice = Notice.model_validate({"id": f"{number}", "failure": None, "at": None, **told_of})
    return Letter(notice=notice, target="hook", attempts=1, retries=0)


def test_notices_are_kept_before_the_job_is_published(spool: Spool) -> None:
    outbox = Outbox(spool.claimed / "dead" / OUTBOX)
    size = f"file {len(letter(1).model_dump_json())}"
    with synced() as names:
        outbox.put([letter(1), letter(2)])
    assert told(names) == ["dead", size, size, OUTBOX]
    with synced() as names:
        outbox.keep(letter(1))
    assert told(names) == [size, OUTBOX]
    with synced() as names:
        assert adopt(spool.claimed / "dead", spool.claimed / "me") == 2
    assert names == ["me", OUTBOX, OUTBOX]


def test_what_fsck_writes_is_kept(spool: Spool) -> None:
    drop(spool, "cat.json", CAT)
    assert spool.cancel("cat")
    (spool.root / "cancelled" / "cat" / "record.json").unlink()
    (spool.rejected_folder / "bad").write_bytes(b"bad")
    with synced() as names:
        for finding in examine(spool):
            assert finding.mend
            finding.mend()
    kept = told(names)
    assert kept[1] == "cat" and len(kept) == 3 and all(int(kept[each].split()[1]) > 0 for each in (0, 2))
    assert list(examine(spool)) == []
