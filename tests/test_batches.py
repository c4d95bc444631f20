"""Dropped files of many jobs: what becomes of them, and of what is dropped half. No engine: the doorman alone, turn by turn."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from house import drop
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from spooler import cli, durable, fsck
from spooler.batches import ROWS_AT_ONCE, Batch, Batches
from spooler.client import Client
from spooler.doorman import Doorman
from spooler.job import Job
from spooler.pending import Pending
from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import create_app

CIRCLE = json.dumps({"prompt": "a red circle"}).encode()


class Desk:
    """A doorman with a clock that the test sets: no second passes here."""

    def __init__(self, spool: Spool):
        self.spool = spool
        self.now = 100.0
        self.pending = Pending(spool)
        self.doorman = Doorman(spool, self.pending, lambda job: None, lambda: 10.0)

    def turn(self, after_s: float = 0.0, whole: str = "") -> None:
        self.now += after_s
        if whole:
            self.pending.hint(whole, whole=True)
        self.look()
        self.doorman.turn(self.now)

    def look(self) -> None:
        self.pending.distrust()  # events would have told what to look at; here is nobody to hear them
        self.pending.refresh(self.now)

    def waiting(self) -> list[str]:
        self.look()
        return sorted(each.id for each in self.pending.waiting)


def drawn(parameters: str) -> bytes:
    """A PNG with the text in which A1111 tells how it was made."""
    text, file = PngInfo(), io.BytesIO()
    text.add_text("parameters", parameters)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=text)
    return file.getvalue()


def rejected(spool: Spool) -> dict[str, str]:
    return {each.name: each.reason for each in spool.rejected()}


def test_a_text_that_was_moved_in_becomes_its_jobs_at_once(spool: Spool) -> None:
    desk = Desk(spool)
    drop(spool, "my prompts.txt", b"a red circle\n\na blue square\n# no more\n")
    desk.turn(whole="my prompts.txt")
    assert desk.waiting() == ["my-prompts.0001", "my-prompts.0002"]
    place = spool.find("my-prompts.0002")
    assert place
    job = spool.read_job(place)
    assert (job.prompt, job.batch, bool(job.owner)) == ("a blue square", "my-prompts", True)
    batch = Batches(spool).progress("my-prompts")
    assert batch and batch.counts["pending"] == 2 and batch.gone == 0 and not batch.ended
    assert (spool.batches / "my-prompts" / "my prompts.txt").read_bytes().startswith(b"a red circle")
    assert not (spool.pending / "my prompts.txt").exists()


def test_a_text_that_is_being_copied_is_waited_for(spool: Spool) -> None:
    desk = Desk(spool)
    path = spool.pending / "slow.txt"
    path.write_bytes(b"a red cir")
    desk.turn()
    desk.turn(after_s=9)
    path.write_bytes(b"a red circle\na blue squ")
    desk.turn(after_s=2)
    desk.turn(after_s=9)
    assert path.exists() and desk.waiting() == [], "it changed less than ten seconds ago"
    path.write_bytes(b"a red circle\na blue square")
    desk.turn(after_s=1)
    desk.turn(after_s=10)
    assert desk.waiting() == ["slow.0001", "slow.0002"]


def test_p5_nothing_is_set_aside_while_a_program_has_it_open(spool: Spool) -> None:
    desk = Desk(spool)
    with (spool.pending / "odd.json").open("wb", buffering=0) as copy:
        copy.write(b'{"steps": "many"}')  # whole, and no job: but its writer may go back
        desk.turn()
        assert rejected(spool) == {}
    desk.turn(1.0)
    assert list(rejected(spool)) == ["odd.json"]


def test_the_time_of_an_unfinished_file_runs_from_its_close(spool: Spool) -> None:
    desk = Desk(spool)
    with (spool.pending / "half.json").open("wb", buffering=0) as copy:
        copy.write(CIRCLE[:9])
        for _ in range(20):
            desk.turn(1.0)
    desk.turn(1.0)
    assert rejected(spool) == {}
    desk.turn(10.0)
    assert list(rejected(spool)) == ["half.json"]


def test_p5_a_verdict_does_not_rest_on_what_a_mapping_has_changed_since(spool: Spool) -> None:
    desk = Desk(spool)
    path = drop(spool, "cat.json", CIRCLE[:-1] + b" ")
    desk.turn()
    before = path.stat()
    with path.open("r+b", buffering=0) as file:
        file.write(CIRCLE)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as after a write through a mapping
    desk.turn(10.0)
    assert rejected(spool) == {} and desk.waiting() == ["cat"]


def test_a_picture_waits_for_its_overrides(spool: Spool) -> None:
    desk = Desk(spool)
    with (spool.pending / "old.png.overrides.json").open("wb", buffering=0) as overrides:
        overrides.write(b'{"steps": 3}')  # whole, but its writer may go back
        drop(spool, "old.png", drawn("a red circle\nSteps: 20, Seed: 2, Size: 64x64"))
        desk.turn(whole="old.png")
        assert rejected(spool) == {} and desk.waiting() == []
        overrides.seek(0)
        overrides.write(b'{"steps": 7}')
    desk.turn(1.0)
    assert desk.waiting() == ["old"]
    place = spool.find("old")
    assert place and spool.read_job(place).steps == 7


def test_a_copy_that_stalls_with_the_file_open_is_still_a_copy(spool: Spool) -> None:
    desk = Desk(spool)
    with (spool.pending / "stalled.json").open("wb") as copy, (spool.pending / "stalled.txt").open("wb") as text:
        copy.write(CIRCLE[:9])
        copy.flush()
        text.write(b"a red cir")
        text.flush()
        desk.turn()
        for _ in range(5):
            desk.turn(after_s=30)
        assert desk.waiting() == [] and rejected(spool) == {}
        copy.write(CIRCLE[9:])
        text.write(b"cle")
    desk.turn(after_s=1)
    desk.turn(after_s=10)
    assert desk.waiting() == ["stalled", "stalled.0001"]


def test_one_bad_row_sets_the_whole_file_aside_and_nothing_is_queued(spool: Spool) -> None:
    desk = Desk(spool)
    drop(spool, "jobs.csv", b"prompt,steps\na red circle,4\na blue square,many\nanother,999\n")
    desk.turn(whole="jobs.csv")
    reason = rejected(spool)["jobs.csv"]
    assert "line 3" in reason and "line 4" in reason and "steps" in reason
    assert desk.waiting() == [] and Batches(spool).ids() == []


def test_p2_killed_after_the_file_was_taken_every_row_becomes_a_job_once(spool: Spool) -> None:
    count = 2 * ROWS_AT_ONCE + 7
    desk = Desk(spool)
    drop(spool, "many.jsonl", b"\n".join([CIRCLE] * count))
    desk.turn(whole="many.jsonl")
    assert len(desk.waiting()) == ROWS_AT_ONCE, "a slice a turn"
    assert spool.claim("many.0001.json", "me")  # one runs already
    heir = Desk(spool)
    heir.doorman.recover()
    for _ in range(5):
        heir.turn()
    assert len(heir.waiting()) == count - 1
    assert (spool.batches / "many" / "queued").exists() and Batches(spool).unfinished() == []


def test_killed_before_the_file_was_taken_nothing_happened(spool: Spool) -> None:
    shell = spool.batches / "prompts"
    shell.mkdir()
    drop(spool, "prompts.txt", b"a red circle")
    desk = Desk(spool)
    desk.doorman.recover()
    assert not shell.exists()
    desk.turn(whole="prompts.txt")
    assert desk.waiting() == ["prompts.0001"]


def test_a_name_that_was_used_gets_a_number(spool: Spool) -> None:
    desk = Desk(spool)
    for _ in range(2):
        drop(spool, "prompts.txt", b"a red circle")
        desk.turn(whole="prompts.txt")
    assert desk.waiting() == ["prompts-2.0001", "prompts.0001"]


def test_p5_a_file_whose_name_is_no_text_is_set_aside_with_the_reason(spool: Spool) -> None:
    desk = Desk(spool)
    name = b"two\xff.txt".decode(errors="surrogateescape")
    drop(spool, name, b"a cat\n")
    desk.turn(whole=name)
    assert list(rejected(spool).values()) == ["The file's name must be UTF-8, but is 'two\\udcff.txt'."]


def test_overrides_wait_for_their_picture_and_a_picture_that_tells_nothing_is_set_aside(spool: Spool) -> None:
    desk = Desk(spool)
    drop(spool, "old.png.overrides.json", b'{"steps": 3}')
    desk.turn(after_s=100)
    assert (spool.pending / "old.png.overrides.json").exists() and rejected(spool) == {}
    drop(spool, "old.png", b"no picture at all")
    desk.turn(whole="old.png")
    desk.turn(after_s=11)
    assert sorted(rejected(spool)) == ["old.png", "old.png.overrides.json"] and not list(spool.pending.iterdir())


def test_a_priority_beside_the_job_ranks_it_and_goes_when_its_job_has_gone(spool: Spool) -> None:
    desk = Desk(spool)
    for name in ("a", "b", "c"):
        drop(spool, f"{name}.json", CIRCLE)
        desk.turn()
    (spool.pending / "c.priority").write_text("5\n")
    (spool.pending / "b.priority").write_text("top")
    desk.turn()
    desk.turn()

    def first() -> str:
        chosen = desk.pending.queue.pick({}, "m", "m", 0, 60)
        assert chosen
        return chosen.id

    assert first() == "b"
    assert spool.claim("b.json", "me")
    desk.turn()
    assert first() == "c" and not (spool.pending / "b.priority").exists()
    (spool.pending / "c.priority").write_text("nonsense")
    desk.turn(after_s=1)
    desk.turn(after_s=1)
    assert first() == "a", "a side file that says nothing changes nothing"
    (spool.pending / "c.json").unlink()
    desk.turn(after_s=5)
    desk.turn(after_s=11)
    assert not (spool.pending / "c.priority").exists()


def test_a_side_file_of_a_held_job_stays(spool: Spool) -> None:
    desk = Desk(spool)
    drop(spool, "a.json", CIRCLE)
    spool.set_priority("a", 7)
    spool.hold("a")
    desk.turn()
    desk.turn(after_s=100)
    spool.release("a")
    desk.turn()
    assert desk.pending.waiting[0].priority == 7


def test_a_batch_that_a_spooler_takes_first_is_in_the_queue_when_its_submitter_is_told(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can when an earlier call was killed behind its drop."""
    ours, theirs = Batches(spool), Batches(spool)
    take = ours._take

    def slower(name: str, rows: int, owner: str) -> Batch | None:
        assert theirs._take(name, rows, "ann")
        return take(name, rows, owner)

    monkeypatch.setattr(ours, "_take", slower)
    told = ours.submit([Job(prompt="a red circle"), Job(prompt="a blue star")], "two", "bob")
    assert told.owner == "ann" and [spool.find_by_name(job_id) is not None for job_id in told.jobs] == [True, True]


def test_a_batch_is_its_submitter_s_however_fast_a_spooler_is(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, link = Batches(spool), durable.link
    with ThreadPoolExecutor(1) as spooler:
        took: list[Future[Batch | None]] = []

        def seen_at_once(source: durable.StrPath, target: durable.StrPath) -> None:
            link(source, target)
            if not took:
                took.append(spooler.submit(theirs.take, "two.jsonl", 2, "the web app's user"))
                wait(took, timeout=0.3)

        monkeypatch.setattr(durable, "link", seen_at_once)
        told = Batches(spool).submit([Job(prompt="a red circle"), Job(prompt="a blue star")], "two", "bob")
        assert told.owner == "bob" and took[0].result() is None and Batches(spool).ids() == ["two"]


def test_a_side_file_is_kept_for_a_job_whose_file_has_another_name_than_its_id(spool: Spool) -> None:
    drop(spool, "my cat.json", CIRCLE)
    drop(spool, "his dog.json", CIRCLE)
    (spool.pending / "his dog.json").rename(spool.held / "his dog.json")
    for job_id in ("my-cat", "his-dog", "nobody"):
        (spool.pending / f"{job_id}.priority").write_text("7")
    assert [each.path.stem for each in fsck.examine(spool) if "priority" in each.sentence] == ["nobody"]
    desk = Desk(spool)
    for _ in range(3):
        desk.turn(after_s=20.0)
    assert {path.stem for path in spool.pending.glob("*.priority")} == {"my-cat", "his-dog"}


@pytest.fixture
def late(spool: Spool) -> tuple[Desk, str]:
    """A batch of which the first rows are in the queue; and the id of its last job, which is not."""
    rows = 2 * ROWS_AT_ONCE + 1
    drop(spool, "late.jsonl", b"\n".join([CIRCLE] * rows))
    desk = Desk(spool)
    desk.turn(whole="late.jsonl")
    return desk, f"late.{rows:04}"


def ended(desk: Desk) -> Counter[str]:
    """The states of the batch's jobs when a doorman has gone on to its end."""
    for _ in range(9):
        desk.turn()
    progress = Batches(desk.spool).progress("late")
    assert progress and not progress.coming
    return Counter({state: number for state, number in progress.counts.items() if number})


def test_who_cancels_a_batch_cancels_what_is_coming_too(spool: Spool, late: tuple[Desk, str]) -> None:
    assert cli.main(["cancel", "late", "--spool", str(spool.root)]) == 0
    assert ended(late[0]) == {"cancelled": 2 * ROWS_AT_ONCE + 1}


def test_who_cancels_a_batch_by_its_page_cancels_what_is_coming_too(
    spool: Spool, late: tuple[Desk, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webui.batch_page.MOST", ROWS_AT_ONCE)
    client = create_app(Settings(spool=spool.root, cache=tmp_path / "cache")).test_client()
    assert client.post("/batches/late/cancel").headers["Location"].endswith(f"left={ROWS_AT_ONCE + 1}")
    assert client.post("/batches/late/cancel").headers["Location"].endswith("left=1")
    assert client.post("/batches/late/cancel").headers["Location"].endswith("late")
    assert ended(late[0]) == {"cancelled": 2 * ROWS_AT_ONCE + 1}


@pytest.mark.parametrize("way", ["command", "folder", "http", "many", "page"])
def test_a_row_that_is_coming_can_be_changed(spool: Spool, late: tuple[Desk, str], tmp_path: Path, way: str) -> None:
    desk, last = late
    web = create_app(Settings(spool=spool.root, cache=tmp_path / "cache")).test_client()
    match way:
        case "command":
            assert cli.main(["show", last, "--spool", str(spool.root)]) == 0
            assert cli.main(["hold", last, "--spool", str(spool.root)]) == 0
        case "folder":
            Client(spool.root).job(last)
            Client(spool.root).hold(last)
        case "http":
            assert web.post(f"/api/v1/jobs/{last}/hold").status_code == 200
        case "many":
            told = web.post("/api/v1/actions", json={"ids": [last], "verb": "hold"}).get_json()
            assert [each["ok"] for each in told["results"]] == [True]
        case "page":
            assert web.post(f"/jobs/{last}/hold").status_code == 303
    assert ended(desk) == {"held": 1, "pending": 2 * ROWS_AT_ONCE}


def test_what_was_brought_in_and_removed_does_not_come_back(spool: Spool, late: tuple[Desk, str]) -> None:
    desk, last = late
    batch = Batches(spool).committed("late")
    assert batch
    Batches(spool).finish(batch)
    (spool.pending / f"{last}.json").unlink()
    assert ended(desk) == {"pending": 2 * ROWS_AT_ONCE}


def test_a_wait_for_what_is_coming_is_no_wait_for_nothing(spool: Spool, late: tuple[Desk, str]) -> None:
    desk, last = late
    assert Batches(spool).is_coming(last) and not Batches(spool).is_coming("late.0001.0001")
    ended(desk)
    assert not Batches(spool).is_coming(last)


def test_a_row_that_is_not_in_the_queue_yet_is_coming_and_not_gone(spool: Spool, tmp_path: Path) -> None:
    drop(spool, "late.jsonl", b"\n".join([CIRCLE] * (ROWS_AT_ONCE + 1)))
    desk = Desk(spool)
    desk.turn(whole="late.jsonl")
    last = f"late.{ROWS_AT_ONCE + 1:04}"
    batches = Batches(spool)
    half = batches.progress("late")
    assert half and (half.counts["pending"], half.coming, half.gone, half.ended) == (ROWS_AT_ONCE, 1, 0, False)
    row = batches.coming(last)
    assert row and (row.prompt, row.batch) == ("a red circle", "late")
    assert [batches.coming(name) for name in ("late.0001.0001", "late.0099", "late", "other.0001", "..")] == [None] * 5

    client = create_app(Settings(spool=spool.root, cache=tmp_path / "cache")).test_client()
    told = client.get(f"/api/v1/jobs/{last}")
    assert (told.status_code, told.get_json()["status"]) == (200, "waiting")
    assert Client(spool.root).job(last).status == "waiting"

    desk.turn()
    assert batches.coming(last) is None and spool.find_by_name(last)
    (spool.pending / f"{last}.json").unlink()
    whole = batches.progress("late")
    assert whole and (whole.coming, whole.gone) == (0, 1)
    assert client.get(f"/api/v1/jobs/{last}").status_code == 404
