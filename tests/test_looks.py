"""What is looked at before anything is moved, and who is believed afterwards."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from calls import failing, synced
from house import drop
from PIL import Image

from spooler import archive, edit, pictures
from spooler.batches import Batches
from spooler.doorman import Doorman
from spooler.job import Job, encode
from spooler.mistakes import JobError, Mistake
from spooler.pending import Pending
from spooler.spool import Spool
from spooler.states import FOLDERS, MOVES

CAT = {"prompt": "a cat"}


def png() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(file, "PNG")
    return file.getvalue()


WITH_PICTURE = encode(Job.model_validate({"prompt": "a cat", "image": "start.png", "strength": 0.5}))


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.verb)
def test_p3_no_move_is_made_that_the_table_has_not(spool: Spool, move: object) -> None:
    for source in FOLDERS:
        for target in FOLDERS:
            if source not in move.sources or target not in move.targets:  # type: ignore[attr-defined]
                (spool.root / source / "x").write_bytes(b"")
                with pytest.raises(AssertionError):
                    spool.move(move.verb, spool.root / source / "x", spool.root / target / "y")  # type: ignore[attr-defined]
                (spool.root / source / "x").unlink()


def test_p3_only_a_draft_is_submitted(spool: Spool) -> None:
    drop(spool, "cat.json", CAT)
    with pytest.raises(AssertionError):
        spool.link_draft(spool.pending / "cat.json", "dog.json")
    assert os.listdir(spool.pending) == ["cat.json"]  # noqa: PTH208 - the names


def test_n1_a_submission_whose_reply_was_lost_is_there_once(spool: Spool) -> None:
    with failing("link", after=True):
        job_id = spool.submit(encode(Job(prompt="a cat")), "cat")
    assert job_id == "cat" and [path.name for path in spool.pending.iterdir()] == ["cat.json"]


def test_n1_w4_a_picture_is_gathered_though_the_reply_was_lost_and_its_move_is_kept(spool: Spool) -> None:
    drop(spool, "cat.json", CAT)
    place = spool.claim("cat.json", "me")
    assert place
    (place.path / "start.png").write_bytes(b"picture")
    with failing("rename", after=True), synced() as names:
        spool.gather_inputs(place, ["start.png"])
    assert (
        sorted(names) == ["cat", "cat", "inputs", "start.png 7"]
        and (place.path / "inputs" / "start.png").read_bytes() == b"picture"
    )


@pytest.mark.parametrize("whole", [True, False])
def test_p5_a_dropped_picture_must_decode_whole(spool: Spool, whole: bool) -> None:
    data = png() if whole else png()[:-100]
    (spool.pending / "cat").mkdir()
    (spool.pending / "cat" / "start.png").write_bytes(data)
    (spool.pending / "cat" / "job.json").write_bytes(WITH_PICTURE)
    pending = Pending(spool)
    pending.refresh(0.0)
    assert (len(pending), len(pending.suspects)) == ((1, 0) if whole else (0, 1))


@pytest.mark.parametrize("whole", [True, False])
def test_p5_a_picture_in_a_tar_must_decode_whole(spool: Spool, whole: bool) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in (("job.json", WITH_PICTURE), ("start.png", png() if whole else png()[:-100])):
            entry = tarfile.TarInfo(f"pending/cat/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    file.seek(0)
    (made,) = archive.load(spool, file)
    assert (made.taken_as == "cat") == whole and bool(made.why) != whole


def test_p5_a_file_with_a_row_that_nobody_can_run_is_set_aside(spool: Spool) -> None:
    def check(job: Job) -> None:
        if job.prompt == "a dog":
            raise JobError(Mistake("model", "`model` must be one that is here, but is not."))

    pending = Pending(spool)
    doorman = Doorman(spool, pending, check, lambda: 10.0)
    drop(spool, "two.txt", b"a cat\na dog\n")
    pending.hint("two.txt", whole=True)
    pending.refresh(0.0)
    doorman.turn(0.0)
    assert "must be one that is here" in (spool.rejected_folder / "two.txt.reason.txt").read_text()
    assert (spool.rejected_folder / "two.txt").exists() and Batches(spool).ids() == []


@pytest.mark.parametrize("target", ["job.json", "nowhere"])
def test_p9_a_dropped_folder_with_a_link_in_it_is_no_job(target: str, spool: Spool) -> None:
    (spool.pending / "cat").mkdir()
    (spool.pending / "cat" / "job.json").write_bytes(WITH_PICTURE)
    (spool.pending / "cat" / "start.png").symlink_to(target)
    pending = Pending(spool)
    pending.refresh(0.0)
    (suspect,) = pending.suspects
    assert "ordinary files" in suspect.reason


@pytest.mark.parametrize("decode", [True, False])
def test_p5_a_file_that_names_a_picture_is_told_where_the_picture_would_be(spool: Spool, decode: bool) -> None:
    (spool.pending / "cat.json").write_bytes(WITH_PICTURE)
    pending = Pending(spool, decode=decode)
    pending.refresh(0.0)
    (suspect,) = pending.suspects
    assert "must be a folder in pending/ with job.json and start.png in it" in suspect.reason


def test_p9_a_picture_is_an_ordinary_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(png())
    (tmp_path / "cut").write_bytes(png()[:-12])  # all its pixels are there, but not its end
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    pictures.check(tmp_path / "file")
    for name in ("cut", "link", "folder", "pipe"):
        with pytest.raises(pictures.InputError):
            pictures.check(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        pictures.check(tmp_path / "nothing")


@pytest.mark.parametrize("odd", ["link", "dangling", "pipe"])
def test_p5_what_only_looks_like_a_file_of_jobs_is_set_aside_and_nobody_waits_for_it(
    odd: str, spool: Spool, tmp_path: Path
) -> None:
    name = spool.pending / "two.txt"
    (tmp_path / "target").write_bytes(b"a cat\n")
    if odd == "pipe":
        os.mkfifo(name)
    else:
        name.symlink_to(tmp_path / ("target" if odd == "link" else "nowhere"))
    pending = Pending(spool)
    doorman = Doorman(spool, pending, lambda job: None, lambda: 10.0)
    with (tmp_path / "target").open("ab"):  # that somebody writes to what it leads to is no reason to wait
        pending.refresh(0.0)
        doorman.turn(0.0)
        doorman.turn(100.0)
    assert (spool.rejected_folder / "two.txt.reason.txt").exists() and not os.listdir(spool.pending)  # noqa: PTH208


def test_a_job_that_is_edited_twice_keeps_what_was_submitted_first(spool: Spool) -> None:
    drop(spool, "cat.json", CAT)
    for before, after in (("cat", "dog"), ("dog", "owl")):
        assert len(edit.apply(spool, edit.replacing(before, after))) == 1
    place = spool.find("cat")
    assert place and b"a cat" in (place.path / "submitted.json").read_bytes()
    assert spool.read_job(place).prompt == "a owl"


def test_what_is_too_long_is_not_read(spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "long.png").write_bytes(png())
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.add(tmp_path / "long.png", "pending/cat/start.png")
    file.seek(0)
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 100)
    with pytest.raises(pictures.InputError, match="at most"):
        pictures.check(tmp_path / "long.png")
    with pytest.raises(JobError, match="at most 100 bytes"):
        list(archive.load(spool, file))


def test_a_job_in_a_tar_has_a_bounded_number_of_files(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_FILES", 2)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("job.json", "a.png", "b.png"):
            tar.addfile(tarfile.TarInfo(f"pending/cat/{name}"))
    file.seek(0)
    with pytest.raises(JobError, match="at most 2 files"):
        list(archive.load(spool, file))


def test_n2_where_it_is_polled_the_folder_is_listed_a_few_times_a_second(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at every turn's pace, nor only when the folder's own time has changed, which a client's cache may hide."""
    index = Pending(spool, polling=lambda: True)
    index.refresh(0.0, rescan_s=5.0)
    listings, now = 0, 0.0
    listed = index._list

    def counted(moment: float) -> None:
        nonlocal listings
        listings += 1
        listed(moment)

    monkeypatch.setattr(index, "_list", counted)
    while now < 10.0:
        now = max(now + 0.001, index.due(now, 5.0))
        index.refresh(now, rescan_s=5.0)
    assert 40 <= listings <= 60
