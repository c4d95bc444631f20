"""A lost race is an answer and everything else an error; and what was moved is never taken for what was not."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from calls import failing, no_fsync_of
from filelock import FileLock
from house import ROOT, drop, missing

from spooler import fsck
from spooler.batches import Batch, Batches
from spooler.durable import UnsyncedError
from spooler.job import Job
from spooler.mistakes import JobError
from spooler.moves import forget
from spooler.pending import Pending
from spooler.place import Place
from spooler.record import Record, Timings, utc_now
from spooler.removal import remove
from spooler.spool import Spool, SpoolError, TakenError
from spooler.status import SpoolerStatus

CAT = {"prompt": "a cat"}
DONE = Record(id="cat").finish((), Timings())


@pytest.fixture
def spool(spool: Spool) -> Spool:
    (spool.claimed / "dead").mkdir()
    return spool


def claimed(spool: Spool, by: str = "me") -> Place:
    drop(spool, "cat.json", CAT)
    place = spool.claim("cat.json", by)
    assert place
    return place


@contextmanager
def not_to_be_opened(name: str) -> Iterator[None]:
    """Files of that name are another user's: root, who may run the tests, could open them all the same."""
    kept = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if Path(path).name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return kept(path, *arguments, **options)

    os.open = refuse
    try:
        yield
    finally:
        os.open = kept


def test_w6_folders_on_two_file_systems_are_no_spool(spool: Spool) -> None:
    here = spool.root.stat().st_dev
    elsewhere = next((Path(name) for name in ("/dev/shm", "/var/tmp", ROOT) if Path(name).stat().st_dev != here), None)
    if elsewhere is None:
        missing("two file systems")
    spool.held.rmdir()
    spool.held.symlink_to(elsewhere)
    with pytest.raises(SpoolError, match="must be on one file system, but are on 2"):
        spool.create()


def test_claim_tells_a_lost_race_from_a_disk_that_fails(spool: Spool) -> None:
    assert spool.claim("cat.json", "me") is None
    drop(spool, "cat.json", CAT)
    with failing("rename"), pytest.raises(OSError, match="Input/output"):
        spool.claim("cat.json", "me")
    with pytest.raises(FileNotFoundError):
        spool.claim("cat.json", "nobody")
    assert not (spool.claimed / "me" / "cat" / "job.json").exists() and spool.find("cat")
    with no_fsync_of("/pending"), pytest.raises(UnsyncedError):
        spool.claim("cat.json", "me")
    assert (spool.claimed / "me" / "cat" / "job.json").exists(), "it was moved, so it is not swept away"


def test_publish_tells_a_lost_race_from_a_folder_that_is_gone(spool: Spool) -> None:
    place = claimed(spool)
    (spool.root / "done").rename(spool.root / "gone")
    shown = spool.publish(place, DONE, "done")
    assert shown and shown.path.parent == spool.root / "done", "it is made again, and the job is shown"
    shown.path.rename(place.path)
    place.path.rename(spool.claimed / "dead" / "cat")
    assert spool.publish(place, DONE, "done") is None
    assert spool.give_back(Place("cat", "claimed", spool.claimed / "dead" / "cat", "dead"))


def test_a_lost_race_brings_no_folder_back(spool: Spool) -> None:
    (spool.root / "done").rename(spool.root / "gone")
    with pytest.raises(FileNotFoundError):
        spool.move("publish", spool.claimed / "me" / "cat", spool.root / "done" / "cat")
    assert not (spool.root / "done").exists(), "nothing was to be shown in it"


def test_a_race_that_is_lost_for_a_moment_is_lost(spool: Spool) -> None:
    """Whoever had it gave it back in between: it is for the next look."""
    place = claimed(spool)
    with failing("rename", code=errno.ENOENT), pytest.raises(FileNotFoundError):
        spool.move("publish", place.path, spool.root / "done" / "cat")
    asked: list[object] = []
    kept = os.rename

    def not_at_first(*names: Any) -> None:
        asked.append(names)
        if len(asked) == 1:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        kept(*names)

    os.rename = not_at_first
    try:
        with pytest.raises(FileNotFoundError):
            spool.move("publish", place.path, spool.root / "done" / "cat")
    finally:
        os.rename = kept
    assert len(asked) == 1 and place.path.exists()
    with failing("rename", code=errno.ENOENT), pytest.raises(FileNotFoundError):
        spool.publish(place, DONE, "done")  # it is ours yet: no lost race, which would have it dropped


def test_p9_a_folder_too_deep_for_the_library_is_removed_and_nothing_that_a_link_in_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "outside" / "precious").mkdir(parents=True)
    (tmp_path / "outside" / "precious" / "file").write_text("mine")
    inner = tmp_path / "deep"
    inner.mkdir()
    (inner / "link").symlink_to(tmp_path / "outside")
    kept = Path.cwd()
    os.chdir(inner)  # its whole path is longer than a path may be
    try:
        for _ in range(1500):
            Path("d").mkdir()
            os.chdir("d")
    finally:
        os.chdir(kept)
    remove(tmp_path / "deep")
    assert not (tmp_path / "deep").exists() and (tmp_path / "outside" / "precious" / "file").read_text() == "mine"


def test_p2_a_wished_id_that_is_dropped_between_the_look_and_the_link_is_taken(spool: Spool) -> None:
    """Who copies a file into pending/ asks for no lock."""

    class Late(Spool):
        def find_by_name(self, name: str) -> Any:
            assert not super().find_by_name(name)
            drop(spool, f"{name}.json", CAT)

    with pytest.raises(TakenError, match="'cat' exists"):
        Late(spool.root).submit(json.dumps({"prompt": "a dog"}).encode(), wanted_id="cat")
    assert json.loads((spool.pending / "cat.json").read_text()) == CAT


def test_a_folder_that_is_there_is_not_made_again_and_a_file_that_is_gone_is_forgotten_in_silence(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in (spool.root / "done", spool.pending, spool.claimed / "dead"):
        spool.restore(folder)
    forget(spool.root / "nothing")
    assert not caplog.records
    forget(spool.pending)
    assert "cannot remove" in caplog.text


def test_give_back_of_what_another_adopted_is_a_lost_race(spool: Spool) -> None:
    place = claimed(spool)

    class Adopted(Spool):
        """Between the look at the folder and the rename another adopts it."""

        def move(self, verb: str, source: Path, target: Path) -> None:
            source.rename(self.claimed / "dead" / "cat")
            super().move(verb, source, target)

    assert Adopted(spool.root).give_back(place) is None


def test_publish_syncs_no_link_and_waits_for_no_pipe_and_minds_only_what_is_the_job_s(spool: Spool) -> None:
    place = claimed(spool)
    (place.path / "link").symlink_to("/nowhere")
    os.mkfifo(place.path / "pipe")
    for name in ("0.png", "note", "job.json"):
        (place.path / name).write_bytes(b"x")
        with not_to_be_opened(name):
            if name != "note":
                with pytest.raises(PermissionError):
                    spool.publish(place, DONE, "done")
            else:
                shown = spool.publish(place, DONE, "done")
                assert shown
                shown.path.rename(place.path)


def test_p5_a_reason_stays_with_its_file_and_goes_without_it(spool: Spool) -> None:
    (spool.pending / "bad.json").write_bytes(b"bad")
    with failing("rename"), pytest.raises(OSError, match="Input/output"):
        spool.reject(spool.pending / "bad.json", "It is bad.")
    assert list(spool.rejected_folder.glob("bad*")) == []
    with no_fsync_of("/pending"), pytest.raises(UnsyncedError):
        spool.reject(spool.pending / "bad.json", "It is bad.")
    assert {path.name for path in spool.rejected_folder.glob("bad*")} == {"bad.json", "bad.json.reason.txt"}
    assert spool.reject(spool.pending / "bad.json", "It is bad.") is None
    assert len(list(spool.rejected_folder.glob("bad*"))) == 2
    (spool.rejected_folder / "bad.json").unlink()
    assert spool.rejected() == []


def test_p2_a_cancelled_job_stays_cancelled_though_the_disk_may_forget_it(spool: Spool) -> None:
    drop(spool, "cat.json", CAT)
    with no_fsync_of("/pending"), pytest.raises(UnsyncedError):
        spool.cancel("cat")
    assert {path.name for path in (spool.root / "cancelled" / "cat").iterdir()} == {"job.json", "record.json"}


def test_p2_nothing_is_held_or_released_over_another_of_its_name(spool: Spool) -> None:
    drop(spool, "cat.json", CAT)
    (spool.held / "cat.json").write_bytes(b"another")
    with pytest.raises(TakenError):
        spool.hold("cat")
    assert (spool.held / "cat.json").read_bytes() == b"another"


def test_p2_a_job_that_the_heir_has_too_is_left_where_it_is(spool: Spool) -> None:
    place = claimed(spool, by="dead")
    (spool.claimed / "me" / "cat").mkdir()
    (spool.claimed / "me" / "cat" / "job.json").write_bytes(b"{}")
    drop(spool, "owl.json", CAT)
    assert spool.claim("owl.json", "dead")
    assert sorted(each.id for each in spool.recover("me")) == ["cat", "owl"]
    assert place.job_file.exists()


@pytest.mark.parametrize("odd", ["link", "pipe", "folder", "unnamed", "inputs"])
def test_p9_what_is_odd_in_a_folder_is_told(odd: str, spool: Spool) -> None:
    place = claimed(spool)
    assert spool.odd_entry(place, ["a.png"]) is None
    match odd:
        case "link":
            (place.path / "a.png").symlink_to(place.job_file)
        case "pipe":
            os.mkfifo(place.path / "a.png")
        case "folder":
            (place.path / "a.png").mkdir()
        case "unnamed":
            (place.path / "b.png").touch()
        case _:
            (place.path / "inputs").symlink_to(spool.root / "done")
    assert spool.odd_entry(place, ["a.png"])


def test_p9_a_link_to_a_folder_is_no_job_and_no_spooler(spool: Spool) -> None:
    place = claimed(spool)
    for link in (spool.pending / "linked", spool.root / "done" / "linked", spool.claimed / "linked"):
        link.symlink_to(place.path.parent if link.parent == spool.claimed else place.path)
    assert spool.places("pending") == spool.places("done") == []
    assert [each.id for each in spool.places("claimed")] == ["cat"]
    assert [each.name for each in spool.spooler_folders()] == ["dead", "me"]


def test_what_has_gone_meanwhile_is_told_as_gone(spool: Spool, tmp_path: Path) -> None:
    place = claimed(spool)
    assert spool.spoolers() == [] and spool.read_progress(place) is None and spool.read_record(place) is None
    spool.write_status(SpoolerStatus(spooler="me", host="h", started=utc_now(), beat=utc_now(), state="ready"))
    assert [(status.spooler, alive) for status, alive in spool.spoolers()] == [("me", False)]
    place.path.rename(spool.claimed / "dead" / "cat")
    assert spool.queued_at(place).startswith("1970-01-01")
    assert spool.epoch("me") == 0
    assert Spool(tmp_path / "nowhere").spooler_folders() == []


def test_p2_a_made_up_id_that_is_taken_is_made_up_again(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spooler.spool.new_id", iter(["one", "one", "two"]).__next__)
    assert [spool.submit(b"{}"), spool.submit(b"{}")] == ["one", "two"]


def test_n8_what_is_to_be_swept_away_may_be_gone_but_not_the_folder_that_it_was_in(spool: Spool) -> None:
    place = claimed(spool)
    spool._discard(place.path / "gone")
    with pytest.raises(FileNotFoundError):
        spool._discard(spool.claimed / "dead" / "cat" / "gone")


@pytest.mark.parametrize("name", ["cat.json", "cat"])
def test_what_is_taken_away_while_it_is_looked_at_is_gone_and_no_bad_job(name: str, spool: Spool) -> None:
    class Vanishing(Spool):
        def read_job(self, place: Place) -> Job:
            remove(place.path)
            return super().read_job(place)

    drop(spool, name if name == "cat.json" else "cat.tmp", CAT)
    if name == "cat":
        (spool.pending / "cat").mkdir()
        (spool.pending / "cat.tmp").rename(spool.pending / "cat" / "job.json")
    pending = Pending(Vanishing(spool.root))
    pending.refresh(0.0)
    assert (len(pending), pending.suspects) == (0, [])
    (spool.pending / "dog").mkdir()
    pending = Pending(spool)
    pending.refresh(0.0)
    assert [suspect.path.name for suspect in pending.suspects] == ["dog"]


def test_taking_a_file_of_jobs_tells_a_lost_race_from_a_disk_that_fails(spool: Spool) -> None:
    assert Batches(spool).take("two.txt", 2, "me") is None
    drop(spool, "two.txt", b"a cat\na dog\n")
    with failing("rename"), pytest.raises(OSError, match="Input/output"):
        Batches(spool).take("two.txt", 2, "me")
    with no_fsync_of("/pending"), pytest.raises(UnsyncedError):
        Batches(spool).take("two.txt", 2, "me")
    assert [batch.file for batch in Batches(spool).unfinished()] == ["two.txt"], "it was taken, so its rows will be jobs"


def test_p2_a_wished_id_that_is_taken_is_refused_with_pictures_too(spool: Spool) -> None:
    claimed(spool)
    with pytest.raises(TakenError):
        spool.submit(b"{}", "cat", {"a.png": b"picture"})
    assert spool.places("pending") == [] and list(spool.tmp.iterdir()) == []


def test_only_pictures_that_lie_beside_the_job_are_gathered_and_over_none(spool: Spool) -> None:
    place = claimed(spool)
    spool.gather_inputs(place, ["gone.png"])
    assert not (place.path / "inputs").exists()
    (place.path / "inputs").mkdir()
    for folder in (place.path, place.path / "inputs"):
        (folder / "a.png").write_bytes(folder.name.encode())
    spool.gather_inputs(place, ["a.png"])
    assert (place.path / "inputs" / "a.png").read_bytes() == b"inputs"


def test_p5_a_claimed_job_is_set_aside_with_its_pictures(spool: Spool) -> None:
    place = claimed(spool)
    (place.path / "inputs").mkdir()
    (place.path / "inputs" / "a.png").write_bytes(b"picture")
    assert spool.reject_claimed(place, "It is bad.") == "cat"
    assert (spool.rejected_folder / "cat" / "inputs" / "a.png").read_bytes() == b"picture"


@pytest.mark.parametrize("folder", [False, True])
def test_a_job_that_is_claimed_before_it_is_cancelled_is_told_to_stop(folder: bool, spool: Spool) -> None:
    drop(spool, "cat.json", CAT)
    if folder:
        place = spool.claim("cat.json", "me")
        assert place and spool.give_back(place)

    class Slow(Spool):
        def read_record(self, place: Place) -> Record | None:
            record = super().read_record(place)
            if place.state == "pending":
                assert spool.claim(place.path.name, "me")
            return record

    cancelled = Slow(spool.root).cancel("cat")
    assert cancelled and cancelled.state == "claimed" and (cancelled.path / "cancel").exists()
    assert list((spool.root / "cancelled").iterdir()) == []


def test_p2_a_batch_that_is_committed_meanwhile_is_not_taken_apart(spool: Spool) -> None:
    drop(spool, "two.txt", b"a cat\na dog\n")
    batch = Batches(spool).take("two.txt", 2, "me")
    assert batch

    class Early(Batches):
        """Its first look came before batch.json was there."""

        looks = 0

        def read(self, batch_id: str) -> Batch | None:
            self.looks += 1
            return None if self.looks == 1 else super().read(batch_id)

    assert Early(spool).unfinished() == [batch] == Batches(spool).unfinished()


def test_p2_a_row_that_another_has_submitted_and_run_meanwhile_is_not_submitted_again(spool: Spool) -> None:
    drop(spool, "two.txt", b"a cat\na dog\n")
    batch = Batches(spool).take("two.txt", 2, "me")
    assert batch
    rows = Batches(spool).rows(batch)

    class Late(Spool):
        """Before it gets the lock another has submitted the rows, and claimed the first."""

        def claim_lock(self) -> FileLock:
            if not spool.find_by_name(batch.jobs[0]):
                Batches(spool).submit_some(batch, rows, 0)
                assert spool.claim(f"{batch.jobs[0]}.json", "me")
            return super().claim_lock()

    Batches(Late(spool.root)).submit_some(batch, rows, 0)
    assert [place.id for place in spool.places("pending")] == [batch.jobs[1]]


def test_fsck_tells_a_job_of_the_dead_from_what_a_killed_claim_left(spool: Spool) -> None:
    place = claimed(spool, by="dead")
    (spool.claimed / "dead" / "dog").mkdir()
    (spool.root / "done" / "file").write_bytes(b"")
    found = {finding.path.name: finding for finding in fsck.examine(spool)}
    assert set(found) == {"cat", "dog", "file"}
    assert (found["cat"].can_be_mended, found["dog"].can_be_mended, found["file"].can_be_mended) == (False, True, False)
    assert place.job_file.exists() and fsck._ended(spool, "done", spool.root / "done" / "gone", deep=False) == []


def test_what_was_written_to_since_it_was_read_is_neither_claimed_nor_rejected_nor_taken(spool: Spool) -> None:
    drop(spool, "cat.json", CAT)
    drop(spool, "two.txt", b"a cat\na dog\n")

    def still(name: str = "") -> bool:
        return False

    assert spool.claim("cat.json", "me", still=still) is None
    assert spool.reject(spool.pending / "cat.json", "It is bad.", still=still) is None
    assert Batches(spool).take("two.txt", 2, "me", still) is None
    assert {path.name for path in spool.pending.iterdir()} == {"cat.json", "two.txt"}
    for folder in (spool.claimed / "me", spool.rejected_folder, spool.batches):
        assert [path for path in folder.iterdir() if path.name != ".gitignore"] == []


def test_a_batch_whose_file_was_written_to_since_is_told_of_and_not_run_by_halves(spool: Spool) -> None:
    drop(spool, "two.txt", b"a cat\na dog\n")
    batch = Batches(spool).take("two.txt", 2, "me")
    assert batch
    (spool.batches / batch.id / batch.file).write_bytes(b"a cat\n")
    with pytest.raises(JobError, match="the 2 jobs that it had"):
        Batches(spool).rows(batch)


def test_p2_a_cancelled_job_keeps_its_id_though_a_killed_canceller_left_its_folder(spool: Spool) -> None:
    drop(spool, "cat.json", CAT)
    place = spool.claim("cat.json", "me")
    assert place
    (spool.root / "cancelled" / "cat").mkdir()
    (spool.root / "cancelled" / "cat" / "record.json").write_text("{}")
    ended = spool.publish(place, Record(id="cat").fail("cancelled", "Cancelled."), "cancelled")
    assert ended and (ended.id, ended.path.name) == ("cat", "cat") and spool.read_job(ended)


def test_p2_what_a_person_has_put_there_is_left_and_the_job_gets_another_id(spool: Spool) -> None:
    drop(spool, "cat.json", CAT)
    place = spool.claim("cat.json", "me")
    assert place
    (spool.root / "done" / "cat").mkdir()
    (spool.root / "done" / "cat" / "notes.txt").write_text("mine")
    ended = spool.publish(place, Record(id="cat"), "done")
    assert ended and ended.id == "cat-2" and (spool.root / "done" / "cat" / "notes.txt").exists()
