"""The command line's verbs on a spool, no engine: what they change, print, and answer with."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from desk import Desk
from house import ROOT, drop
from ordinary import ordinary
from PIL import Image

from spooler import archive, cli, edit, fsck
from spooler.batches import Batches
from spooler.client import Client
from spooler.commands import submitting
from spooler.dropped import owner_of
from spooler.job import Job
from spooler.mistakes import JobError
from spooler.place import Place
from spooler.reader import mtime_ns
from spooler.record import Record, utc_now
from spooler.spool import Spool

CIRCLE = {"prompt": "a red circle"}


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


def test_p3_ls_lists_what_waits_as_it_will_run(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    """As the web page does: side files, turns and the file's owner are minded."""
    for name in ("a", "b", "c"):
        drop(spool, f"{name}.json", CIRCLE)
    drop(spool, "late.json", CIRCLE | {"not_before": "2100-01-01T00:00:00Z"})
    drop(spool, "other.json", CIRCLE | {"owner": "ann"})
    assert run(spool, "top", "c") == run(spool, "priority", "30", "b") == 0
    capsys.readouterr()
    assert run(spool, "ls", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in rows] == ["c", "b", "a", "other", "late"]
    assert rows[0]["top"] and [row["priority"] for row in rows[:3]] == [0, 30, 0]
    assert run(spool, "ls", "--owner", owner_of((spool.pending / "a.json").stat().st_uid)) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["c", "b", "a", "late"]
    assert run(spool, "cancel", "a") == 0
    capsys.readouterr()
    assert run(spool, "ls", "cancelled", "--owner", owner_of((spool.pending / "b.json").stat().st_uid)) == 0
    assert "a\tcancelled" in capsys.readouterr().out, "it is whose it was"
    with pytest.raises(SystemExit) as ended:
        run(spool, "ls", "rejected")
    assert ended.value.code == 2 and "must be one of pending, held," in capsys.readouterr().err


def test_the_id_of_a_batch_stands_for_its_jobs(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    folder = spool.batches / "many"
    folder.mkdir()
    (folder / "many.txt").write_text("a\nb\n")
    batch = {"id": "many", "file": "many.txt", "owner": "ann", "taken": utc_now(), "jobs": ["many.0001", "many.0002"]}
    (folder / "batch.json").write_text(json.dumps(batch))
    drop(spool, "many.0001.json", CIRCLE)
    drop(spool, "many.0002.json", CIRCLE)
    publish(spool, "many.0002", "done")
    assert run(spool, "hold", "many") == 0 and capsys.readouterr().out == "many.0001: held\n"
    assert run(spool, "cancel", "many", "nobody") == 3 and capsys.readouterr().out == "many.0001: cancelled\n"
    assert run(spool, "wait", "many", "--json") == 1
    assert [each["state"] for each in json.loads(capsys.readouterr().out)] == ["cancelled", "done"]


def test_a_spool_that_is_not_there_is_no_empty_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = Spool(tmp_path / "nowhere")
    for words in (
        ["ls"],
        ["show", "x"],
        ["cancel", "x"],
        ["pause"],
        ["fsck", "--mend"],
        ["edit", "--set", "steps=3"],
        ["wait", "x"],
    ):
        assert run(nowhere, *words) == 2
        assert capsys.readouterr().err == f"sdspool: there is no spool at {nowhere.root}: say with --spool where it is\n"
    assert not nowhere.root.exists()


def test_submit_takes_what_its_help_shows(spool: Spool, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = Job.model_json_schema()["properties"]
    simple = {"string", "integer", "number", "boolean"}
    kinds = {name: {row.get("type"), *(each.get("type") for each in row.get("anyOf", ()))} for name, row in rows.items()}
    assert {name for name, found in kinds.items() if not found & simple} == set(submitting.FORMS)
    Image.new("RGB", (8, 8)).save(tmp_path / "edges.png")
    with pytest.raises(SystemExit):
        cli.main(["submit", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, form in submitting.FORMS.items():
        assert f"As '{form}'." in shown
        edges = ["--input", str(tmp_path / "edges.png")] if name == "controls" else []
        assert run(spool, "submit", "a cat", f"--{name}", form, *edges) == 0, capsys.readouterr().err
        place = spool.find(capsys.readouterr().out.strip())
        assert place and name in spool.read_job(place).model_dump(exclude_defaults=True)


def test_a_reader_that_has_enough_is_no_error(spool: Spool) -> None:
    for number in range(50):
        drop(spool, f"{number}.json", {"prompt": "x" * 5000})
    command = f"{sys.executable} -m spooler.cli ls --json --spool {spool.root} | head -c 1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[", "")


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
    capsys.readouterr()
    assert run(spool, "retry", "cat") == 1 and "cat is waiting" in capsys.readouterr().err


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
    assert list(spool.claimed.glob("edit_*")) == []


def test_wait_writes_no_empty_line_where_there_is_no_terminal(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    drop(spool, "cat.json", CIRCLE)
    publish(spool, "cat", "done")
    assert run(spool, "wait", "cat") == 0 and tuple(capsys.readouterr()) == ("", "")
    assert run(spool, "wait", "dog") == 3 and tuple(capsys.readouterr()) == ("", "sdspool: there is no job 'dog'\n")


@pytest.mark.parametrize("words", (("edit", "b", "--set", "steps=9"), ("edit", "--set", "steps=9")))
def test_an_edited_job_keeps_its_place_for_who_starts_later_too(
    spool: Spool, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    for at, name in enumerate(("a", "b", "c")):
        drop(spool, f"{name}.json", CIRCLE)
        os.utime(spool.pending / f"{name}.json", ns=(10**18 + at, 10**18 + at))
    for steps in ("steps=9", "steps=8"):  # from a file to a folder, and from that one again
        assert run(spool, *words[:-1], steps) == 0
        capsys.readouterr()
        assert run(spool, "ls", "--json") == 0
        assert [row["id"] for row in json.loads(capsys.readouterr().out)] == ["a", "b", "c"]
    assert run(spool, "hold", "b") == run(spool, *words[:-1], "steps=7") == run(spool, "release", "b") == 0
    capsys.readouterr()
    assert run(spool, "ls", "--json") == 0
    assert [row["id"] for row in json.loads(capsys.readouterr().out)] == ["a", "b", "c"]


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
    (spool.claimed / "edit_x").mkdir()
    assert spool.claim("cat.json", "edit_x", "held")
    (place,) = spool.recover("me")
    assert (place.path / "hold").exists(), "whoever takes it over sees that it is to be held"
    assert spool.give_back(place, "held") == spool.find("cat")
    (spool.held / "cat" / "hold").touch()  # of an editor that died before its claim
    assert spool.release("cat")
    again = spool.claim("cat", "me")
    assert again and not (again.path / "hold").exists(), "who released it wants it to run"


def test_a_queue_goes_into_a_tar_and_comes_out_of_it(spool: Spool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drop(spool, "cat.json", CIRCLE | {"owner": "anna"})
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


def test_a_tar_has_the_line_the_owners_and_who_waits_for_whom(spool: Spool, tmp_path: Path) -> None:
    """What the files' times, owners and side files tell goes along, and with new ids no job waits for one of the old spool."""
    names = ["zebra", "cat", "bear", "ape", "dog"]
    for number, name in enumerate(names):
        after = {"after": ["zebra", "elsewhere"]} if name == "bear" else {}
        path = drop(spool, f"{name}.json", {"prompt": name} | after)
        os.utime(path, ns=(number * 10**9,) * 2)
    for name, priority in (("dog", "top"), ("cat", -3), ("ape", "top")):
        assert spool.set_priority(name, priority)  # type: ignore[arg-type]
    tar = tmp_path / "queue.tar"
    assert run(spool, "export", str(tar)) == 0

    command = [sys.executable, "-m", "spooler.cli", "import", "-", "--new-ids", "--json", "--spool"]
    for way in ("a pipe", "a file"):
        other = Spool(tmp_path / way)
        with tar.open("rb") as file:
            if way == "a pipe":
                done = subprocess.run([*command, str(other.root)], input=file.read(), capture_output=True, check=True, cwd=ROOT)
            else:
                done = subprocess.run([*command, str(other.root)], stdin=file, capture_output=True, check=True, cwd=ROOT)
        told = json.loads(done.stdout)
        assert [each["id"] for each in told] == names, "in the order in which they came"
        ids = {each["id"]: each["taken_as"] for each in told}
        assert not {*ids.values()} & {*names}
        jobs = {name: other.read_job(other.find(job_id)) for name, job_id in ids.items()}  # type: ignore[arg-type]
        assert all(found.owner == owner_of(os.getuid()) for found in jobs.values())
        assert [*jobs["bear"].after] == [ids["zebra"], "elsewhere"]
        given = {name: other.read_priority(ids[name]).value for name in names}
        assert given == {"zebra": None, "cat": -3, "bear": None, "ape": "top", "dog": "top"}
        tops = [mtime_ns(other.pending / f"{ids[name]}.priority") for name in ("dog", "ape")]
        assert tops[0] < tops[1], "who was put on top last is there"


def test_what_is_no_tar_is_told(spool: Spool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drop(spool, "cat.json", CIRCLE)
    whole, cut = tmp_path / "whole.tar", tmp_path / "cut.tar"
    assert run(spool, "export", str(whole)) == 0 and run(spool, "export", str(whole)) == 2
    assert f"`file` must be a new one, but {whole} exists" in capsys.readouterr().err
    cut.write_bytes(b"no tar, and longer than a block" * 100)
    assert run(spool, "import", str(cut)) == 2 and "`file` must be a whole tar file" in capsys.readouterr().err


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


@pytest.mark.parametrize("words", [(), ("--new-ids",)])
def test_files_that_come_to_one_id_are_all_in_a_tar(spool: Spool, tmp_path: Path, words: tuple[str, ...]) -> None:
    prompts = {"my cat.json": "one", "my-cat.json": "two", "my-cat-2.json": "three", "dog.json": "four"}
    for name, prompt in prompts.items():
        drop(spool, name, {"prompt": prompt})
    (spool.pending / "dog").mkdir()
    (spool.pending / "dog" / "job.json").write_text('{"prompt": "five"}')
    drop(spool, "held.json", {"prompt": "six"})
    (spool.pending / "held.json").rename(spool.held / "my?cat.json")
    (spool.pending / "my-cat.priority").write_text("7")
    assert run(spool, "export", str(tmp_path / "queue.tar")) == 0
    other = Spool(tmp_path / "other")
    assert run(other, "import", str(tmp_path / "queue.tar"), *words) == 0
    places = [*other.walk("pending"), *other.walk("held")]
    found = {other.read_job(place).prompt: place for place in places}
    assert sorted(found) == ["five", "four", "one", "six", "three", "two"] and len(places) == 6
    assert other.read_priority(found["two"].id).value == 7, "whose name says it has the side file"
    if not words:
        assert {found[each].id for each in ("two", "three", "four")} == {"my-cat", "my-cat-2", "dog"}


def test_a_tar_that_was_made_of_two_with_one_id_loses_neither_in_silence(spool: Spool) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for prompt in (b'{"prompt": "one"}', b'{"prompt": "two"}'):
            entry = tarfile.TarInfo("pending/cat/job.json")
            entry.size = len(prompt)
            tar.addfile(entry, io.BytesIO(prompt))
    file.seek(0)
    first, second = archive.load(spool, file)
    assert (first.taken_as, second.taken_as) == ("cat", None) and "exists" in second.why


def test_what_is_closed_to_who_asks_is_told_and_the_others_are_done(
    spool: Spool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "cat", "dog"):
        drop(spool, f"{name}.json", CIRCLE)
    (spool.pending / "cat.json").chmod(0)
    with ordinary():
        assert run(spool, "export", str(tmp_path / "queue.tar")) == 1
        assert "cat.json: Permission denied" in capsys.readouterr().err
        with tarfile.open(tmp_path / "queue.tar") as tar:
            assert sorted(tar.getnames()) == ["pending/a/job.json", "pending/dog/job.json"]
        assert [each.id for each in Client(spool.root).jobs()] == ["a", "dog"]
        for words in (("--dry-run",), ()):
            assert run(spool, "edit", "--set", "steps=3", *words) == 1
            told = capsys.readouterr()
            assert len(told.out.splitlines()) == 2 and "cat.json: Permission denied" in told.err
        folder = spool.pending / "a"
        assert {each.path for each in edit.waiting(spool)} > {folder}
        folder.chmod(0o555)
        assert run(spool, "edit", "--set", "steps=4") == 1
        assert f"{folder}" in capsys.readouterr().err
        folder.chmod(0o755)
    assert spool.read_job(Place("dog", "pending", spool.pending / "dog")).steps == 4


def test_half_a_tar_is_not_left_where_a_queue_was_to_be(spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drop(spool, "cat.json", CIRCLE)

    def read_job(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(archive, "_files", read_job)
    with pytest.raises(OSError, match="Input/output"):
        archive.export(spool, io.BytesIO())
    assert run(spool, "export", str(tmp_path / "queue.tar")) != 0
    assert not (tmp_path / "queue.tar").exists()


def test_edit_takes_the_id_of_a_batch_and_says_what_it_cannot_do(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Job(prompt="a cat")] * 3
    Batches(spool).submit(rows, "cats", "ann")
    drop(spool, "dog.json", CIRCLE)
    assert run(spool, "edit", "--set", "steps=3", "cats") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert run(spool, "edit", "--set", "steps=4", "nobody") == 3
    assert "no job 'nobody'" in capsys.readouterr().err
    publish(spool, "dog")
    assert run(spool, "edit", "--set", "steps=4", "dog", "cats.0002") == 1
    told = capsys.readouterr()
    assert told.out.startswith("cats.0002") and "dog is failed" in told.err


@pytest.mark.parametrize("limit", ["-1", "x", "1.5"])
def test_a_limit_that_is_none_is_refused_with_a_sentence(spool: Spool, limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(spool, "ls", "done", f"--limit={limit}")
    assert ended.value.code == 2 and "a whole number, 0 or more" in capsys.readouterr().err


def test_export_leaves_out_a_folder_with_something_odd_in_it(spool: Spool) -> None:
    """Even where the job does not name it: the folder is to be set aside, and not to be taken elsewhere."""
    folder = spool.held / "cat"
    folder.mkdir()
    (folder / "job.json").write_bytes(b'{"prompt": "a cat"}')
    os.mkfifo(folder / "odd")
    assert archive.export(spool, io.BytesIO()) == 0
    (folder / "odd").unlink()
    assert archive.export(spool, io.BytesIO()) == 1


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


def test_fsck_knows_a_spooler_that_was_stopped_from_one_that_died(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "spool")
    drop(desk.spool, "cat.json", CIRCLE)
    desk.turn()
    desk.life.end()
    assert [(found.promise, found.path.name) for found in fsck.examine(desk.spool)] == [("P2", "cat")]
    desk.service.close()
    assert not list(fsck.examine(desk.spool)), "the job waits for the next start, as it should"


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


def test_edit_with_an_expression_that_would_never_end_is_refused_and_changes_nothing(spool: Spool) -> None:
    drop(spool, "cat.json", b'{"prompt": "' + b"a" * 60 + b'!"}')
    with pytest.raises(JobError, match="must be done with a text within 1 s"):
        edit.apply(spool, edit.replacing(r"(a|a|aa)+$", "b"))
    assert (spool.pending / "cat.json").read_bytes() == b'{"prompt": "' + b"a" * 60 + b'!"}'
    for none in ("(", "[", "a{2,1}", "(?P<x"):
        with pytest.raises(JobError, match="must be a regular expression"):
            edit.replacing(none, "b")
    with pytest.raises(JobError):
        edit.replacing("a", r"\7")


@pytest.mark.parametrize("pattern", ["(" * 2000 + "a" + ")" * 2000, "(?:x{9999}){9999}", "(?:(?:x{999}){999}){999}"])
def test_edit_with_an_expression_that_nothing_can_understand_is_refused(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes too deep a nest, too long or too much memory: a sentence says so, and neither a traceback nor a full machine."""
    monkeypatch.setattr(edit, "COMPILE_S", 1.5)
    with pytest.raises(JobError, match="`find` must be a regular expression"):
        edit.replacing(pattern, "b")
