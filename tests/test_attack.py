"""What a hostile or unlucky environment did to the spool: each once lost a job, destroyed a file or stopped the queue."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from house import drop, wait_for

from spooler import archive, edit, fsck, pictures, retention
from spooler.batches import Batches
from spooler.denylist import DenyList
from spooler.doorman import Doorman
from spooler.intake import Intake
from spooler.life import Life
from spooler.mistakes import JobError
from spooler.pending import Judged, Pending
from spooler.record import Record
from spooler.settings import Settings
from spooler.spool import Spool
from tests.prove.sleeper import CATALOGUE
from webui.app import create_app

CAT = b'{"prompt": "a cat"}'


def doorman(spool: Spool) -> tuple[Pending, Doorman]:
    pending = Pending(spool)
    return pending, Doorman(spool, pending, lambda job: Judged(), lambda: 0.0)


def mind(spool: Spool) -> None:
    """Some turns of a doorman over what lies in pending/."""
    pending, man = doorman(spool)
    for now in range(1, 4):
        pending.refresh(float(now))
        man.turn(float(now))


@pytest.mark.parametrize("name", ["epoch", "batch", "spooler", "lock", "outbox", "queued"])
def test_p5_no_name_of_a_job_stops_the_spooler(spool: Spool, name: str) -> None:
    life = Life.begin(spool, "gpu")
    drop(spool, f"{name}.json", CAT)
    place = spool.claim(f"{name}.json", "gpu")
    assert place and place.id == name
    assert life.goes_on()
    assert spool.publish(place, Record(id=name), "done")
    assert life.goes_on()
    life.end()


def test_p2_a_batch_whose_rows_ids_are_taken_gets_another_id(spool: Spool) -> None:
    """As when batches/prompts was removed by hand, and prompts.txt is dropped once more."""
    spool.submit(CAT, "prompts.0002")
    drop(spool, "prompts.txt", b"one\ntwo\n")
    mind(spool)
    assert {place.id for place in spool.walk("pending")} == {"prompts.0002", "prompts-2.0001", "prompts-2.0002"}


def test_p5_a_batch_whose_name_is_no_text_is_set_aside(spool: Spool) -> None:
    drop(spool, os.fsdecode(b"a\xff.txt"), b"one\n")
    mind(spool)
    assert [each.name for each in spool.rejected()] == [os.fsdecode(b"a\xff.txt")]
    client = create_app(Settings(spool=spool.root, cache=spool.root.parent / "cache")).test_client()
    (told,) = client.get("/api/v1/rejected", headers={"Host": "localhost"}).json["rejected"]  # type: ignore[index]
    assert told["name"] == r"a\udcff.txt"
    page = client.get("/failed", headers={"Host": "localhost"})
    assert (page.status_code, r"a\udcff.txt" in page.text) == (200, True), "no name takes the page away from everybody"


@pytest.mark.skipif(os.geteuid() != 0, reason="a file that its owner may not read is made by root, for another user")
def test_p5_a_batch_that_may_not_be_read_is_set_aside() -> None:
    """By a process of another user, for root may read all."""
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, which lies where another user may not go
        spool = Spool(Path(name) / "spool")
        spool.create()
        drop(spool, "secret.txt", b"one\n")
        (spool.pending / "secret.txt").chmod(0)
        for path in [Path(name), spool.root, *spool.root.iterdir()]:
            os.chown(path, 65534, 65534)
        pid = os.fork()
        if pid == 0:
            os.setegid(65534)
            os.seteuid(65534)
            os._exit(_exit_status_of_mind(spool))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert (spool.rejected_folder / "secret.txt").exists()


def _exit_status_of_mind(spool: Spool) -> int:
    try:
        mind(spool)
    except OSError:
        return 1
    return 0


def test_p5_a_rejected_file_is_never_overwritten_by_another_s_reason(spool: Spool) -> None:
    drop(spool, "cat.json.reason.txt", b"mine")
    assert spool.reject(spool.pending / "cat.json.reason.txt", "why") == "cat.json.reason.txt.dropped"
    drop(spool, "cat.json", b"{}")
    assert spool.reject(spool.pending / "cat.json", "why") == "cat.json"
    assert (spool.rejected_folder / "cat.json.reason.txt.dropped").read_bytes() == b"mine"
    assert list(fsck.examine(spool)) == []


def test_p5_what_a_person_put_into_batches_stays(spool: Spool) -> None:
    (spool.batches / "mine").mkdir()
    (spool.batches / "mine" / "notes.txt").write_text("mine")
    (spool.batches / "old").mkdir()
    (spool.batches / "old" / "batch.json").write_text("{ half")
    (spool.batches / "old" / "prompts.txt").write_text("one\n")
    (spool.batches / "killed").mkdir()
    assert Batches(spool).unfinished() == []
    left = sorted(str(path.relative_to(spool.batches)) for path in spool.batches.rglob("*"))
    assert left == ["mine", "mine/notes.txt", "old", "old/batch.json", "old/prompts.txt"]


def test_p2_a_folder_of_the_spool_that_was_removed_is_made_again(spool: Spool) -> None:
    for verb, folder in (("cancel", "cancelled"), ("hold", "held")):
        spool.submit(CAT, verb)
        (spool.root / folder).rmdir()
        # In a thread, for it once went round for ever.
        worker = threading.Thread(target=getattr(spool, verb), args=(verb,), daemon=True)
        worker.start()
        wait_for(lambda worker=worker: not worker.is_alive(), verb, 20)  # type: ignore[misc]
        place = spool.find(verb)
        assert place and place.state == folder
    spool.submit(CAT, "cat")
    place = spool.claim("cat.json", "me")
    (spool.root / "done").rmdir()
    assert place and spool.publish(place, Record(id="cat"), "done")
    spool.rejected_folder.rmdir()
    drop(spool, "bad.json", b"{}")
    assert spool.reject(spool.pending / "bad.json", "why")


def test_pending_that_is_gone_is_not_made_and_not_waited_for(spool: Spool) -> None:
    """Who replaces pending/ moves another to its name: one of ours in between would swallow it."""
    spool.submit(CAT, "cat")
    spool.hold("cat")
    spool.pending.rmdir()
    with pytest.raises(OSError, match="gone"):
        spool.release("cat")
    assert not spool.pending.exists()


@contextmanager
def deep(folder: Path, levels: int) -> Iterator[None]:
    """So many folders one in another; taken away in the end, for pytest itself could not."""
    script = f"import os\nfor _ in range({levels}): os.mkdir('dd'); os.chdir('dd')"
    folder.mkdir(parents=True)
    try:
        subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)
        yield
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_p5_a_deep_folder_is_reaped(spool: Spool) -> None:
    with deep(spool.tmp / "deep", 1500):
        (spool.tmp / "old").write_text("")
        for name in ("deep", "old"):
            os.utime(spool.tmp / name, (1, 1))
        assert spool.reap_tmp(3600) == 2
        assert list(spool.tmp.iterdir()) == []


def test_p5_a_deep_folder_in_done_does_not_end_retention(spool: Spool) -> None:
    (spool.root / "done" / "dog").mkdir()
    with deep(spool.root / "done" / "cat", 2500):
        assert {job.id for job in retention.ended(spool.root)} == {"cat", "dog"}


def test_p9_export_reads_nothing_outside_the_spool(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"very secret")
    (spool.held / "spy").mkdir()
    (spool.held / "spy" / "job.json").write_bytes(b'{"prompt": "a cat", "image": "a.png"}')
    (spool.held / "spy" / "a.png").symlink_to(tmp_path / "secret")
    out = io.BytesIO()
    assert archive.export(spool, out) == 0
    assert b"very secret" not in out.getvalue()


def test_import_keeps_a_bounded_number_of_files_in_memory(spool: Spool) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for number in range(100):
            entry = tarfile.TarInfo(f"pending/cat/{number}.png")
            entry.size = 1000
            tar.addfile(entry, io.BytesIO(bytes(1000)))
    packed.seek(0)
    with pytest.raises(JobError, match="at most"):
        list(archive.load(spool, packed))
    assert pictures.MAX_FILE_BYTES > 1000


def test_an_edit_keeps_the_priority_that_somebody_gave(spool: Spool) -> None:
    spool.submit(CAT, "cat")
    spool.set_priority("cat", "top")
    assert edit.apply(spool, edit.replacing("cat", "dog"))
    assert (spool.pending / "cat.priority").exists()


def test_p2_a_mend_that_comes_late_destroys_no_job(spool: Spool) -> None:
    (spool.root / "cancelled" / "cat").mkdir()
    (spool.root / "cancelled" / "cat" / "record.json").write_text("{}")
    (spool.claimed / "me" / "dog").mkdir()
    (spool.rejected_folder / "bad.json.reason.txt").write_text("why")
    mends = [finding.mend for finding in fsck.examine(spool) if finding.mend]
    assert len(mends) == 3
    spool.submit(CAT, "cat")
    spool.cancel("cat")
    spool.submit(CAT, "dog")
    spool.claim("dog.json", "me")
    (spool.rejected_folder / "bad.json").write_text("{}")
    for mend in mends:
        mend()
    assert {place.state for name in ("cat", "dog") if (place := spool.find(name))} == {"cancelled", "claimed"}
    assert [each.name for each in spool.rejected()] == ["bad.json"]


def test_the_conditions_of_many_are_looked_at_in_slices(spool: Spool) -> None:
    """However slow a look is: a turn ends, the next goes on, and all of them are looked at in the end."""
    for number in range(40):
        spool.submit(b'{"prompt": "a cat", "after": ["dog"]}', f"cat{number}")
    (spool.root / "done" / "dog").mkdir()
    (spool.root / "done" / "dog" / "job.json").write_bytes(CAT)
    intake = Intake(Settings(spool=spool.root, spooler="me"), spool, lambda: CATALOGUE, DenyList(), lambda hint: None)
    intake.pending.refresh(1.0)
    assert len(intake.pending.gated) == 40
    intake._mind_gate(until=time.perf_counter())
    assert len(intake.pending.gated) == 39
    intake._mind_gate(until=time.perf_counter() + 60)
    assert not intake.pending.gated
    intake.stop()


def test_p2_a_job_is_not_given_up_for_one_that_was_retried_meanwhile(spool: Spool) -> None:
    spool.submit(b'{"prompt": "a cat", "after": ["dog"]}', "cat")
    (spool.root / "failed" / "dog").mkdir()
    (spool.root / "failed" / "dog" / "job.json").write_bytes(CAT)
    intake = Intake(Settings(spool=spool.root, spooler="me"), spool, lambda: CATALOGUE, DenyList(), lambda hint: None)
    intake.pending.refresh(1.0)
    intake._mind_gate(until=time.perf_counter() + 60)
    assert intake.hopeless
    spool.retry("dog")
    assert intake.claim_hopeless(1.0) == []
    intake.stop()
