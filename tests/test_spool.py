"""The spool's verbs, without an engine. P1 to P5 name the promises of docs/spool.md."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import PIL.Image
import pytest
from desk import Desk
from house import ROOT, drop, listing, missing

from spooler import fsck, messages, pictures
from spooler.dropped import Suspect
from spooler.ids import ID, clean_id, new_id
from spooler.job import Job, decode, encode
from spooler.pending import Judged, Pending
from spooler.place import Place
from spooler.reader import MAX_HIDDEN
from spooler.record import MAX_UNCOUNTED, Image, Record, Timings, utc_now
from spooler.spool import Spool, SpoolError, TakenError
from spooler.states import End
from tests.prove.restart import FACTS

JOB = encode(Job(prompt="a red circle"))


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.create()
    for name in ("me", "other"):
        (made.claimed / name).mkdir()
    return made


def claimed(spool: Spool, name: str = "cat.json", by: str = "me") -> Place:
    drop(spool, name, JOB)
    place = spool.claim(name, by)
    assert place
    return place


def run_and_publish(spool: Spool, place: Place) -> Place | None:
    record = Record(id=place.id)
    spool.prepare(place, record)
    (place.path / "0.png").write_bytes(b"picture")
    return spool.publish(place, record.finish((Image(file="0.png", seed=1, width=8, height=8),), Timings()), "done")


def test_a_job_goes_from_pending_to_done_with_the_exact_bytes_submitted(spool: Spool) -> None:
    raw = b'  {"prompt":\n"a red circle"}  '
    job_id = spool.submit(raw)
    place = spool.claim(f"{job_id}.json", "me")
    assert place and run_and_publish(spool, place)
    done = spool.root / "done" / job_id
    assert (done / "job.json").read_bytes() == raw
    assert sorted(path.name for path in done.iterdir()) == ["0.png", "job.json", "record.json"]
    assert not list(spool.pending.glob("*.json")) and not list((spool.claimed / "me").iterdir())


def test_p1_submit_syncs_the_file_and_then_the_folder_before_it_returns(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from spooler.spool import Spool\n" + (
        "spool = Spool(Path(sys.argv[1])); spool.create(); print('id ' + spool.submit(b'{}'), flush=True)"
    )
    if not shutil.which("strace"):
        missing("strace")
    trace = tmp_path / "trace"
    calls = "fsync,fdatasync,link,linkat,write,openat,unlink,unlinkat"
    command = [
        "strace",
        "-f",
        "-y",
        "-o",
        str(trace),
        "-e",
        f"trace={calls}",
        sys.executable,
        "-c",
        script,
        str(tmp_path / "spool"),
    ]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    lines = trace.read_text().splitlines()
    linked = next(n for n, line in enumerate(lines) if " link" in line and "/pending/" in line)
    told = next(n for n, line in enumerate(lines) if "write(1<" in line and "id " in line)
    assert any("fsync(" in line and "/spool/tmp/" in line for line in lines[:linked]), "the file, before the link"
    assert any("fsync(" in line and "/pending>" in line for line in lines[linked:told]), "the folder, before the answer"


def test_two_jobs_never_get_one_id(spool: Spool) -> None:
    spool.submit(JOB, "cat")
    with pytest.raises(TakenError, match="'cat' exists"):
        spool.submit(JOB, "cat")
    place = spool.claim("cat.json", "me")
    assert place
    with pytest.raises(TakenError):
        spool.submit(JOB, "cat")
    run_and_publish(spool, place)
    with pytest.raises(TakenError):
        spool.submit(JOB, "cat")
    assert not list(spool.tmp.iterdir())


def test_a_dropped_name_that_is_taken_gets_a_number(spool: Spool) -> None:
    assert run_and_publish(spool, claimed(spool)).id == "cat"  # type: ignore[union-attr]
    assert claimed(spool).id == "cat-2"
    assert claimed(spool).id == "cat-3"


@pytest.mark.parametrize(
    ("name", "job_id"),
    [
        ("cat.json", "cat"),
        ("my cat (2).json", "my-cat-2"),
        ("-x.json", "x"),
        ("..json", "job"),
        ("ü.json", "job"),
        ("a" * 200 + ".json", "a" * 120),
    ],
)
def test_a_file_s_name_becomes_an_id(name: str, job_id: str) -> None:
    assert clean_id(name) == job_id
    assert ID.fullmatch(job_id)


def test_made_up_ids_sort_by_time_and_differ() -> None:
    made = [new_id() for _ in range(200)]
    assert len(set(made)) == 200 and all(ID.fullmatch(each) for each in made)
    assert made[0][:15] <= made[-1][:15]


def test_a_lost_race_is_an_answer(spool: Spool) -> None:
    assert spool.claim("gone.json", "me") is None
    assert not list((spool.claimed / "me").iterdir())
    place = claimed(spool)
    place.path.rename(spool.claimed / "other" / "cat")  # another spooler took us for dead
    assert spool.publish(place, Record(id="cat"), "done") is None
    assert spool.find("cat").spooler == "other"  # type: ignore[union-attr]


def _claim_all(root: Path, name: str, barrier: object, out: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    spool = Spool(root)
    (spool.claimed / name).mkdir()
    barrier.wait()  # type: ignore[attr-defined]
    got = []
    while names := [path.name for path in spool.pending.glob("*.json")]:
        for each in names:
            if place := spool.claim(each, name):
                got.append(place.id)
                spool.publish(place, Record(id=place.id), "done")
    out.put(got)


def test_p2_eight_claimers_and_four_hundred_jobs_none_lost_none_doubled(spool: Spool) -> None:
    ids = [spool.submit(encode(Job(prompt=f"job {n}"))) for n in range(400)]
    context = multiprocessing.get_context("spawn")
    barrier, out = context.Barrier(8), context.Queue()
    claimers = [context.Process(target=_claim_all, args=(spool.root, f"s{n}", barrier, out)) for n in range(8)]
    for each in claimers:
        each.start()
    got = [job_id for _ in claimers for job_id in out.get(timeout=120)]
    for each in claimers:
        each.join()
    assert Counter(got) == Counter(ids)
    done = {
        path.name: json.loads((path / "job.json").read_bytes())["prompt"]
        for path in (spool.root / "done").iterdir()
        if path.is_dir()
    }
    assert sorted(done.values()) == sorted(f"job {n}" for n in range(400))
    assert set(done) == set(ids)


@pytest.mark.parametrize("round_", range(5))
def test_submitters_of_one_id_at_once_make_one_job_while_it_is_claimed_and_published(spool: Spool, round_: int) -> None:
    barrier, won, over = threading.Barrier(9), [], threading.Event()

    def submit() -> None:
        barrier.wait()
        with contextlib.suppress(TakenError):
            won.append(spool.submit(JOB, "same"))

    def take() -> None:
        barrier.wait()
        while not over.wait(0.005):  # else nobody but us has the lock: who waits for it looks now and then
            if place := spool.claim("same.json", "me"):
                run_and_publish(spool, place)

    taker = threading.Thread(target=take)
    threads = [threading.Thread(target=submit) for _ in range(8)]
    for each in (taker, *threads):
        each.start()
    for each in threads:
        each.join()
    over.set()
    taker.join()
    assert won == ["same"]
    assert [path.name for path in (spool.root / "done").iterdir()] in ([], ["same"])


def test_p4_a_record_does_not_grow_by_tries_that_use_nothing_up() -> None:
    record = Record(id="cat")
    lost = ("worker-died: it died", "company-died: it died with others")
    for number in range(1000):
        record = record.begin_attempt(decode(b'{"prompt": "x"}'), FACTS)
        record = record.end_attempt(lost[number] if number < 2 else f"undelivered: {number}")
    record = record.begin_attempt(decode(b'{"prompt": "x"}'), FACTS)
    assert [each.outcome for each in record.attempts[:2]] == list(lost) and record.is_suspect
    assert (record.attempts_used, record.tries, len(record.attempts)) == (2, 1001, 2 + MAX_UNCOUNTED + 1)
    assert record.attempts[-2].outcome == "undelivered: 999" and len(record.encode()) < 20_000


def test_p4_the_attempt_is_on_disk_and_old_results_are_gone(spool: Spool) -> None:
    place = claimed(spool)
    for name in ("0.png", ".0.png", "progress.json", "error.txt", "cancel"):
        (place.path / name).write_bytes(b"old")
    record = Record(id="cat").model_copy(update={"started": utc_now()})
    spool.prepare(place, record)
    assert sorted(path.name for path in place.path.iterdir()) == ["cancel", "job.json", "record.json"]
    assert spool.read_record(place) == record


def test_p5_a_rejected_file_keeps_its_bytes_and_gets_its_reason(spool: Spool) -> None:
    for number in range(3):
        source = drop(spool, "bad.json", b"{%d" % number)
        assert spool.reject(source, f"reason {number}") == ("bad.json" if number == 0 else f"bad-{number + 1}.json")
    assert (spool.rejected_folder / "bad-2.json").read_bytes() == b"{1"
    assert (spool.rejected_folder / "bad-2.json.reason.txt").read_text() == "reason 1\n"
    assert spool.reject(spool.pending / "gone.json", "x") is None
    assert [each.name for each in spool.rejected()] == ["bad-3.json", "bad-2.json", "bad.json"]
    assert len(list(spool.rejected_folder.glob("*.json*"))) == 6


def test_p9_a_reason_that_is_none_of_ours_is_neither_followed_nor_waited_for(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for number, name in enumerate(("fifo", "link", "own")):
        spool.reject(drop(spool, f"{name}.json", b"{"), "No job.")
        os.utime(reason := spool.rejected_folder / f"{name}.json.reason.txt", (number, number))
        if name != "own":
            reason.unlink()
    os.mkfifo(spool.rejected_folder / "fifo.json.reason.txt")
    (spool.rejected_folder / "link.json.reason.txt").symlink_to(tmp_path / "secret")
    told = {each.name: each.reason for each in spool.rejected()}
    assert told.pop("own.json") == "No job." and sorted(told) == ["fifo.json", "link.json"]
    assert all(reason.startswith("Its reason cannot be read: ") for reason in told.values())
    assert len(spool.rejected(2)) == 2


def test_pending_tells_jobs_from_what_is_none(spool: Spool) -> None:
    drop(spool, "good.json", JOB)
    drop(spool, "half.json", b'{"prompt": ')
    drop(spool, "empty.json", b"")
    drop(spool, "array.json", b"[]")
    drop(spool, "latin.json", '{"prompt": "ü"}'.encode("latin-1"))
    for ignored in (
        ".good.json.swp",
        "good.json~",
        "good.json.part",
        ".nfs0001",
        "~lock.json",
        "._good.json",
        "readme.md",
        "cat.png.overrides.json",
    ):
        drop(spool, ignored, JOB)
    (spool.pending / "folder.json").mkdir()
    (spool.pending / "bare").mkdir()
    (spool.pending / "whole").mkdir()
    (spool.pending / "whole" / "job.json").write_bytes(JOB)
    os.mkfifo(spool.pending / "fifo.json")
    (spool.pending / "link.json").symlink_to(spool.pending / "good.json")
    index = Pending(spool)
    index.refresh(now=1.0)
    assert {each.name for each in index.waiting} == {"good.json", "whole"}
    suspects = {each.path.name: each for each in index.suspects}
    assert {name for name, each in suspects.items() if each.final} == {"array.json", "folder.json", "fifo.json", "link.json"}
    assert {name for name, each in suspects.items() if not each.final} == {"half.json", "empty.json", "latin.json", "bare"}
    assert "symbolic link" in suspects["link.json"].reason and "FIFO" in suspects["fifo.json"].reason
    assert "a folder" in suspects["folder.json"].reason


def test_p3_a_folder_that_was_taken_away_waits_no_more(spool: Spool) -> None:
    """One with pictures, or that came back by retry: another process claims or cancels it, and the index is to hear of it."""
    index = Pending(spool)
    (spool.pending / "cat").mkdir()
    (spool.pending / "cat" / "job.json").write_bytes(JOB)
    index.refresh(now=1.0)
    assert [each.id for each in index.waiting] == ["cat"]
    spool.cancel("cat")
    index.distrust()
    index.refresh(now=2.0)
    assert index.waiting == [] and index.get("cat") is None


def folder_of(spool: Spool, name: str, pictures: int) -> Path:
    """A job of so many pictures, a dropped folder."""
    controls = [{"model": "canny", "image": f"{number}.png"} for number in range(pictures)]
    folder = spool.tmp / name
    folder.mkdir()
    for number in range(pictures):
        PIL.Image.new("RGB", (64 + number, 64)).save(folder / f"{number}.png")
    (folder / "job.json").write_text(json.dumps({"prompt": "a cat", "controls": controls}))
    return folder.rename(spool.pending / name)


@pytest.mark.parametrize("broken", [False, True])
def test_of_a_job_s_pictures_a_look_decodes_one_and_the_next_look_goes_on(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    decoded: list[str] = []
    at = [0.0]

    def check(path: Path) -> tuple[int, int]:
        decoded.append(path.name)
        at[0] += 1.0  # it is a large one
        return real(path)

    real = pictures.check
    monkeypatch.setattr(pictures, "check", check)
    monkeypatch.setattr("spooler.pending.time.perf_counter", lambda: at[0])
    sizes: dict[str, tuple[int, int]] = {}
    folder = folder_of(spool, "cat", 3)
    if broken:
        (folder / "2.png").write_bytes(b"no picture")

    def judge(_: Job, given: Mapping[str, tuple[int, int]]) -> Judged:
        sizes.update(given)
        return Judged()

    index = Pending(spool, judge)
    for number in range(3):
        assert index.waiting == [] and len(decoded) == number
        index.refresh(now=1.0 + number, budget_s=0.5)
    assert decoded == ["0.png", "1.png", "2.png"]
    if not broken:
        assert [each.id for each in index.waiting] == ["cat"]
        assert sizes == {"0.png": (64, 64), "1.png": (65, 64), "2.png": (66, 64)}
        return
    (suspect,) = index.suspects
    assert "2.png" in suspect.reason and index.confirm(suspect, 9.0), "and its time runs"
    assert decoded[3:] == ["2.png"], "what was whole is not decoded again"
    PIL.Image.new("RGB", (64, 64)).save(folder / "2.png")
    index.look_again(10.0)
    assert [each.id for each in index.waiting] == ["cat"] and decoded[4:] == ["2.png"]


def test_the_hidden_entries_of_a_job_s_folder_are_bounded(spool: Spool) -> None:
    folder = folder_of(spool, "cat", 0)
    for number in range(MAX_HIDDEN):
        (folder / f".{number}").touch()
    index = Pending(spool)
    index.refresh(now=1.0)
    assert [each.id for each in index.waiting] == ["cat"]
    (folder / ".more").touch()
    index = Pending(spool)
    index.refresh(now=1.0)
    assert f"at most {MAX_HIDDEN} hidden" in index.suspects[0].reason


def test_a_suspect_is_dated_by_its_last_change_and_may_become_a_job(spool: Spool) -> None:
    index = Pending(spool)

    def half() -> Suspect:
        return next(each for each in index.suspects if each.path.name == "slow.json")

    path = drop(spool, "slow.json", b'{"prompt"')
    index.refresh(now=1.0)
    index.refresh(now=5.0)
    assert half().since == 1.0
    path.write_bytes(b'{"prompt": "a ')
    index.refresh(now=6.0)
    assert half().since == 6.0
    path.write_bytes(JOB)
    index.refresh(now=7.0)
    assert [each.id for each in index.waiting] == ["slow"] and not index.suspects


def test_p3_the_folder_is_the_state_also_after_an_mv_by_hand(spool: Spool) -> None:
    assert not {"status", "state"} & set(Record.model_fields)
    drop(spool, "cat.json", JOB)
    (spool.pending / "cat.json").rename(spool.root / "held" / "cat.json")
    assert spool.find("cat").state == "held"  # type: ignore[union-attr]
    assert spool.claim("cat.json", "me") is None
    (spool.root / "held" / "cat.json").rename(spool.pending / "cat.json")
    place = spool.claim("cat.json", "me")
    assert place and run_and_publish(spool, place)
    (spool.root / "done" / "cat").rename(spool.root / "failed" / "cat")
    assert spool.find("cat").state == "failed"  # type: ignore[union-attr]


def test_cancel_of_a_waiting_job(spool: Spool) -> None:
    spool.submit(JOB, "cat")
    before = listing(spool.root / "done")
    place = spool.cancel("cat")
    assert place and place.state == "cancelled"
    record = spool.read_record(place)
    assert record and record.failure and record.failure.code == "cancelled"
    assert (place.path / "job.json").read_bytes() == JOB
    assert listing(spool.root / "done") == before
    drop(spool, "cat.json", JOB)
    assert spool.cancel("cat").id == "cat-2"  # type: ignore[union-attr]
    assert spool.cancel("nobody") is None


@pytest.mark.parametrize("state", ["done", "failed", "claimed"])
def test_a_cancelled_job_is_hidden_behind_no_other_of_its_name(spool: Spool, state: str) -> None:
    place = claimed(spool)
    if state != "claimed":
        spool.publish(place, Record(id="cat", queued=utc_now()).fail("worker-died", "killed"), state)  # type: ignore[arg-type]
    drop(spool, "cat.json", JOB)
    cancelled = spool.cancel("cat")
    assert cancelled and cancelled.id == "cat-2" and spool.find("cat-2") == cancelled
    found = spool.find("cat")
    assert found and found.state == state
    assert not [each for each in fsck.examine(spool) if "too" in each.sentence]


def test_cancel_of_a_running_job_leaves_a_note_and_of_a_finished_one_nothing(spool: Spool) -> None:
    place = claimed(spool)
    assert spool.cancel("cat").state == "claimed"  # type: ignore[union-attr]
    assert (place.path / "cancel").exists()
    done = run_and_publish(spool, place)
    assert done and spool.cancel("cat") == Place("cat", "done", done.path)
    assert not (done.path / "cancel").exists()


def test_retry_keeps_the_record_and_counts_anew(spool: Spool) -> None:
    place = claimed(spool)
    record = Record(id="cat", queued=utc_now()).fail("worker-died", "killed")
    spool.publish(place, record, "failed")
    back = spool.retry("cat")
    assert back and back.state == "pending" and spool.find("cat") == back
    kept = spool.read_record(back)
    assert kept and len(kept.retried) == 1 and kept.failure and kept.attempts_used == 0
    again = spool.claim("cat", "me")
    assert again and again.id == "cat"
    assert spool.retry("cat") is None and spool.retry("nobody") is None


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_star_stays_with_a_job_that_is_sent_back(tmp_path: Path, state: End) -> None:
    desk = Desk(tmp_path / "spool")
    try:
        drop(desk.spool, "cat.json", JOB)
        place = desk.spool.claim("cat.json", "me")
        assert place and desk.spool.publish(place, Record(id="cat", queued=utc_now()).fail("worker-died", "killed"), state)
        assert desk.spool.star("cat", True) and desk.spool.retry("cat")
        desk.turn()
        desk.turn()
        assert (desk.state(), desk.runs()) == ("claimed", 1) and not desk.spool.rejected()
        desk.turn(messages.Finished(id="cat", timings=Timings(), facts=FACTS))
        desk.turn()
        ended = desk.spool.find("cat")
        assert ended and ended.state == "done" and (ended.path / "starred").exists()
    finally:
        desk.close()


def test_recover_takes_over_what_the_dead_had_and_leaves_the_living_alone(spool: Spool) -> None:
    claimed(spool, "mine.json")
    claimed(spool, "theirs.json", by="other")
    (spool.claimed / "me" / "empty").mkdir()  # killed between mkdir and rename
    living = spool.life_lock("other")
    with living:
        assert spool.alive("other")
        assert [place.id for place in spool.recover("me")] == ["mine"]
    assert not spool.alive("other")
    assert [place.id for place in spool.recover("me")] == ["mine", "theirs"]
    assert [place.id for place in spool.recover("me")] == ["mine", "theirs"], "again from the top is the same"
    assert not (spool.claimed / "me" / "empty").exists()


def test_a_name_that_appears_in_done_by_hand_is_not_overwritten(spool: Spool) -> None:
    place = claimed(spool)
    (spool.root / "done" / "cat").mkdir()
    (spool.root / "done" / "cat" / "mine.txt").write_text("by hand")
    assert run_and_publish(spool, place).id == "cat-2"  # type: ignore[union-attr]
    assert (spool.root / "done" / "cat" / "mine.txt").exists()


def test_only_old_drafts_are_reaped(spool: Spool) -> None:
    old, new = spool.tmp / "old", spool.tmp / "new"
    old.write_bytes(b"")
    new.write_bytes(b"")
    os.utime(old, (0, 0))
    assert spool.reap_tmp(3600) == 1
    assert new.exists() and not old.exists()


def test_a_spool_that_cannot_be_one_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="cannot be used"):
        Spool(tmp_path / "file").create()


@pytest.mark.parametrize("job_id", ["..", "../x", "a/b", "", ".hidden", "x" * 129, "a\n", "ü"])
def test_p9_no_id_leads_out_of_the_spool(spool: Spool, job_id: str) -> None:
    assert spool.find(job_id) is None and spool.cancel(job_id) is None
