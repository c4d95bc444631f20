"""The command line's verbs on a spool, no engine: what they change, print, and answer with."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from house import drop

from spooler import archive, cli, edit, fsck
from spooler.record import Record, utc_now
from spooler.spool import Spool

CIRCLE = {"prompt": "a red circle"}


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.create()
    (made.claimed / "me").mkdir()
    return made


def run(spool: Spool, *words: str) -> int:
    return cli.main([*words, "--spool", str(spool.root)])


def publish(spool: Spool, job_id: str, state: str = "failed") -> None:
    place = spool.claim(f"{job_id}.json", "me")
    assert place
    record = Record(id=job_id, queued=utc_now())
    ended = record.fail("worker-died", "killed") if state != "done" else record.finish((), record.timings)
    spool.publish(place, ended, state)  # type: ignore[arg-type]


def test_ls_tells_programs_and_pipes(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    drop(spool, "cat.json", CIRCLE | {"owner": "ann"})
    drop(spool, "dog.json", {"prompt": "a\x7fdog\nwith lines"})
    assert run(spool, "ls") == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split("\t")[0] for line in lines) == ["cat", "dog"] and "\\x7f" in "".join(lines)
    assert run(spool, "ls", "--json", "--owner", "ann") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in rows] == ["cat"] and rows[0]["state"] == "pending"
    assert run(spool, "ls", "done", "--json") == 0 and json.loads(capsys.readouterr().out) == []
    assert cli.main(["ls", "--spool", str(spool.root / "nowhere")]) == 2


def test_show_tells_all_of_a_job(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    drop(spool, "cat.json", CIRCLE)
    publish(spool, "cat")
    assert run(spool, "show", "cat") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["state"] == "failed" and told["record"]["failure"]["reason"] == "killed" and told["job"] == CIRCLE
    assert run(spool, "show", "nobody") == 3


def test_hold_release_top_priority_pause(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    drop(spool, "cat.json", CIRCLE)
    assert run(spool, "hold", "cat") == 0 and (spool.held / "cat.json").exists()
    assert run(spool, "release", "cat", "nobody") == 3 and (spool.pending / "cat.json").exists()
    assert run(spool, "priority", "50", "cat") == 0 and (spool.pending / "cat.priority").read_text() == "50\n"
    assert run(spool, "top", "cat") == 0 and (spool.pending / "cat.priority").read_text() == "top\n"
    assert run(spool, "priority", "own", "cat") == 0 and not (spool.pending / "cat.priority").exists()
    assert run(spool, "priority", "101", "cat") == 2 and "from -100 to 100" in capsys.readouterr().err
    assert run(spool, "pause") == 0 and spool.paused
    assert run(spool, "resume") == 0 and not spool.paused
    publish(spool, "cat")
    assert run(spool, "hold", "cat") == 1 and "cat is failed" in capsys.readouterr().err
    assert run(spool, "retry", "cat", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [{"id": "cat", "state": "pending", "done": True}]
    assert run(spool, "retry", "cat") == 1


def test_star_is_a_file_in_the_finished_folder(spool: Spool) -> None:
    drop(spool, "cat.json", CIRCLE)
    assert run(spool, "star", "cat") == 1
    publish(spool, "cat")
    assert run(spool, "star", "cat") == 0 and (spool.root / "failed" / "cat" / "starred").exists()
    assert run(spool, "unstar", "cat") == 0 and not (spool.root / "failed" / "cat" / "starred").exists()


def test_edit_changes_what_waits_and_keeps_what_was_submitted(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    raw = json.dumps(CIRCLE | {"steps": 9}).encode()
    drop(spool, "cat.json", raw)
    drop(spool, "dog.json", {"prompt": "a blue square"})
    drop(spool, "cow.json", CIRCLE)
    spool.hold("cow")
    words = ("edit", "--find", "red (circle)", "--replace", r"green \1", "--set", "steps=null")
    assert run(spool, *words, "--dry-run") == 0
    assert "2 jobs would be changed" in capsys.readouterr().err and (spool.pending / "cat.json").read_bytes() == raw
    assert run(spool, *words) == 0
    place = spool.find("cat")
    assert place and place.state == "pending" and spool.read_job(place).prompt == "a green circle"
    assert spool.read_job(place).steps is None and (place.path / "submitted.json").read_bytes() == raw
    record = spool.read_record(place)
    assert record and len(record.edited) == 1
    held = spool.find("cow")
    assert held and held.state == "held" and spool.read_job(held).prompt == "a green circle"
    assert not (held.path / "hold").exists() and spool.read_job(spool.find("dog")).prompt == "a blue square"  # type: ignore[arg-type]
    assert list(spool.claimed.glob("edit-*")) == []


def test_an_edit_that_would_spoil_a_job_changes_none(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    drop(spool, "cat.json", CIRCLE)
    drop(spool, "dog.json", CIRCLE)
    assert run(spool, "edit", "--set", "steps=1000") == 2
    assert "steps" in capsys.readouterr().err
    assert {path.name for path in spool.pending.glob("*.json")} == {"cat.json", "dog.json"}
    assert run(spool, "edit", "--find", "(") == 2 and run(spool, "edit") == 2 and run(spool, "edit", "--set", "what=1") == 2


def test_a_job_of_an_editor_that_died_goes_back_to_where_it_waited(spool: Spool) -> None:
    drop(spool, "cat.json", CIRCLE)
    spool.hold("cat")
    (spool.claimed / "edit-x").mkdir()
    assert spool.claim("cat.json", "edit-x", "held")
    (place,) = spool.recover("me")
    assert (place.path / "hold").exists(), "whoever takes it over sees that it is to be held"
    assert spool.give_back(place, "held") == spool.find("cat")
    (spool.held / "cat" / "hold").touch()  # of an editor that died before its claim
    assert spool.release("cat")
    again = spool.claim("cat", "me")
    assert again and not (again.path / "hold").exists(), "who released it wants it to run"


def test_a_queue_goes_into_a_tar_and_comes_out_of_it(spool: Spool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drop(spool, "cat.json", CIRCLE)
    drop(spool, "dog.json", {"prompt": "a dog"})
    spool.hold("dog")
    tar = tmp_path / "queue.tar"
    assert run(spool, "export", str(tar)) == 0
    other = Spool(tmp_path / "other")
    assert cli.main(["import", str(tar), "--spool", str(other.root)]) == 0
    assert other.find("cat").state == "pending" and other.find("dog").state == "held"  # type: ignore[union-attr]
    assert (other.pending / "cat.json").read_bytes() == (spool.pending / "cat.json").read_bytes()
    assert cli.main(["import", str(tar), "--spool", str(other.root)]) == 1, "their ids are taken"
    assert cli.main(["import", str(tar), "--new-ids", "--spool", str(other.root)]) == 0
    assert len(list(other.pending.glob("*.json"))) == 2
    assert run(spool, "export", str(tar)) == 2, "nothing is overwritten"


def test_p9_a_hostile_tar_writes_nothing_but_jobs(spool: Spool) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("../../evil", "/etc/evil", "pending/x/../../evil", "pending/x", "done/x/job.json", "pending/bad/job.json"):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            tar.addfile(entry, io.BytesIO(b"{}x"))
        link = tarfile.TarInfo("pending/link/job.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    file.seek(0)
    assert [each.taken_as for each in archive.load(spool, file)] == [None]
    assert not [path for path in spool.root.rglob("*") if path.is_file() and path.name != ".claim.lock"]


def test_fsck_finds_and_mends_what_recovery_may_mend(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    drop(spool, "cat.json", CIRCLE)
    publish(spool, "cat")
    assert run(spool, "fsck") == 0 and "all is as promised" in capsys.readouterr().err
    cancelled = spool.root / "cancelled" / "dog"
    cancelled.mkdir()
    (cancelled / "job.json").write_text(json.dumps(CIRCLE))
    (spool.root / "cancelled" / "shell").mkdir()
    (spool.rejected_folder / "x.json.reason.txt").write_text("why")
    (spool.rejected_folder / "y.json").write_text("{")
    (spool.pending / "gone.priority").write_text("5")
    (spool.claimed / "dead" / "shell").mkdir(parents=True)
    (spool.root / "failed" / "cat" / "cancel").touch()
    (spool.pending / "notes.yaml").touch()
    assert run(spool, "fsck", "--json") == 1
    told = {each["path"]: each for each in json.loads(capsys.readouterr().out)}
    assert set(told) == {
        "cancelled/dog/record.json",
        "cancelled/shell",
        "rejected/x.json.reason.txt",
        "rejected/y.json",
        "pending/gone.priority",
        "claimed/dead/shell",
        "failed/cat/cancel",
        "pending/notes.yaml",
    }
    assert run(spool, "fsck", "--mend") == 1, "nobody but a person can say what notes.yaml is"
    capsys.readouterr()
    assert [str(each.path.name) for each in fsck.examine(spool)] == ["notes.yaml"]
    assert spool.read_record(spool.find("dog")).failure.code == "cancelled"  # type: ignore[union-attr,arg-type]


def test_p2_fsck_tells_of_a_job_in_two_states_and_of_a_picture_that_is_gone(spool: Spool) -> None:
    drop(spool, "cat.json", CIRCLE)
    publish(spool, "cat", "done")
    twin = spool.root / "failed" / "cat"
    twin.mkdir()
    for name in ("job.json", "record.json"):
        (twin / name).write_bytes((spool.root / "done" / "cat" / name).read_bytes())
    found = {(each.promise, each.sentence) for each in fsck.examine(spool)}
    assert ("P2", "The job is in done/ too.") in found
    assert ("P4", "The job failed, but the record has no reason.") in found
    record = json.loads((spool.root / "done" / "cat" / "record.json").read_text())
    record["images"] = [{"file": "0.png", "index": 0, "seed": 1, "width": 8, "height": 8}]
    (spool.root / "done" / "cat" / "record.json").write_text(json.dumps(record))
    assert any("missing" in each.sentence and each.path.name == "0.png" for each in fsck.examine(spool))
    (spool.root / "done" / "cat" / "0.png").write_bytes(b"torn")
    assert any("cannot be read" in each.sentence for each in fsck.examine(spool, deep=True))


def test_edit_of_jobs_that_are_claimed_meanwhile_leaves_them(spool: Spool) -> None:
    drop(spool, "cat.json", CIRCLE)
    change = edit.replacing("red", "green")
    todo = list(edit.plan(spool, change))
    assert len(todo) == 1
    assert spool.claim("cat.json", "me")
    assert edit.apply(spool, change) == []
