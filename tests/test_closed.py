"""What a stranger closes to us (chmod 000, chmod 555), wherever it lies: it is no matter of the other jobs (P5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from desk import Desk
from house import drop
from ordinary import ordinary

from spooler import fsck, messages, retention
from spooler.durable import CLOSED_S
from spooler.place import Place
from spooler.record import Image, Record, Timings, utc_now
from spooler.settings import Settings
from spooler.spool import Spool
from tests.prove.restart import FACTS
from webui.app import create_app

CAT = {"prompt": "a cat"}
EXPIRED = CAT | {"expires_at": "2020-01-01T00:00:00Z"}
Close = Callable[..., None]


@pytest.fixture
def close() -> Iterator[Close]:
    """Closes a file or a folder: what is in it can neither be seen nor read, and it cannot be moved. With another mode less."""
    with ordinary():
        yield lambda path, mode=0: path.chmod(mode)


def end(made: Desk, job_id: str) -> None:
    made.turn(messages.Finished(id=job_id, timings=Timings(), facts=FACTS))


def folder(spool: Spool, name: str, job: dict[str, object] | None = None) -> Path:
    """A job dropped as a folder, which stays its owner's."""
    made = spool.tmp / name
    made.mkdir()
    drop(spool, f"{name}.json", job or CAT)
    (spool.pending / f"{name}.json").rename(made / "job.json")
    return made.rename(spool.pending / name)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.create()
    return made


def claimed(spool: Spool, name: str, spooler: str = "me") -> Path:
    (spool.claimed / spooler).mkdir(exist_ok=True)
    drop(spool, f"{name}.json", CAT)
    place = spool.claim(f"{name}.json", spooler)
    assert place
    return place.path


def test_p5_one_that_was_claimed_keeps_no_spooler_from_going_on(spool: Spool, close: Close) -> None:
    close(claimed(spool, "theirs"))
    claimed(spool, "cat")
    made = Desk(spool.root)
    try:
        for _ in range(3):
            made.turn()
        assert (made.state(), made.runs()) == ("claimed", 1)
        assert (spool.claimed / "me" / "theirs").is_dir()
    finally:
        made.close()


def test_p5_one_of_a_dead_spooler_keeps_no_other_from_being_taken_over(
    spool: Spool, close: Close, caplog: pytest.LogCaptureFixture
) -> None:
    close(claimed(spool, "a-theirs", "dead"))
    claimed(spool, "cat", "dead")
    (spool.claimed / "me").mkdir()
    refused: list[PermissionError] = []
    assert [place.id for place in spool.recover("me", closed=refused)] == ["cat"] and len(refused) == 1
    with pytest.raises(PermissionError):
        spool.recover("me")
    made = Desk(spool.root)
    try:
        for _ in range(3):
            made.turn()
        assert made.runs() == 1 and caplog.text.count("cannot be taken up") == 1
    finally:
        made.close()


def test_p5_one_that_has_a_waiting_job_s_id_keeps_that_one_alone_waiting(spool: Spool, close: Close) -> None:
    close(claimed(spool, "cat", "dead"))
    for name in ("cat", "dog"):
        drop(spool, f"{name}.json", CAT)
    made = Desk(spool.root)
    try:
        for _ in range(3):
            made.turn()
        assert [each.id for each in made.engine.heard] == ["dog"]  # type: ignore[union-attr]
        assert (spool.pending / "cat.json").exists()
    finally:
        made.close()


def test_p5_one_that_another_job_waits_for_keeps_nobody_waiting(spool: Spool, close: Close) -> None:
    close(claimed(spool, "theirs", "dead"))
    drop(spool, "later.json", CAT | {"after": ["theirs"]})
    made = Desk(spool.root)
    try:
        made.turn()
        drop(spool, "cat.json", CAT)
        made.turn()
        assert made.runs() == 1 and (spool.pending / "later.json").exists()
    finally:
        made.close()


def test_p5_one_is_told_by_fsck(spool: Spool, close: Close) -> None:
    ends = claimed(spool, "ended")
    place = spool.find("ended")
    assert place
    (ends / "0.png").write_bytes(b"x")
    record = Record(id="ended", queued=utc_now()).finish((Image(file="0.png", seed=0, width=8, height=8),), Timings())
    assert spool.publish(place, record, "done")
    close(spool.root / "done" / "ended")
    close(claimed(spool, "taken"))
    told = {str(each.path.relative_to(spool.root)) for each in fsck.examine(spool) if "closed" in each.sentence}
    assert told == {"done/ended/job.json", "claimed/me/taken/job.json"}


def test_p5_one_at_work_is_told_of_to_nobody_who_looks_at_the_others(spool: Spool, close: Close) -> None:
    close(claimed(spool, "theirs"))
    drop(spool, "cat.json", CAT)
    client = create_app(Settings(spool=spool.root, cache=spool.root.parent / "cache", floor_mib=0.0)).test_client()
    for path in (
        "/queue",
        "/gallery",
        "/status",
        "/api/v1/jobs",
        "/api/v1/live",
        "/api/v1/queue",
        "/metrics",
        "/sdapi/v1/progress",
    ):
        assert client.get(path).status_code == 200, path
    assert client.get("/api/v1/jobs/theirs").status_code == 404, "what is not to be seen is no job"
    assert client.post("/api/v1/jobs", json=CAT | {"id": "theirs"}).status_code == 409, "but nobody else's either"
    assert client.post("/api/v1/jobs", json=CAT).status_code == 201


def test_p5_one_that_may_not_be_moved_is_claimed_when_its_owner_has_mended_that(spool: Spool, close: Close) -> None:
    cat = folder(spool, "cat")
    close(cat, 0o555)
    drop(spool, "dog.json", CAT)
    made = Desk(spool.root)
    try:
        made.turn()
        assert made.runs() == 1 and made.state() == "pending"
        made.turn(after_s=0.1)
        assert made.service.intake.due(made.clock) <= made.clock + CLOSED_S
        end(made, "dog")
        close(cat, 0o755)
        for _ in range(3):
            made.turn()
        assert made.runs() == 2 and made.state() == "claimed"
    finally:
        made.close()


@pytest.mark.parametrize("mode", [0o555, 0])
def test_p5_one_whose_condition_will_never_be_met_keeps_nobody_waiting(spool: Spool, close: Close, mode: int) -> None:
    close(folder(spool, "cat", EXPIRED), mode)
    drop(spool, "dog.json", CAT)
    made = Desk(spool.root)
    try:
        for _ in range(3):
            made.turn()
        assert made.runs() == 1
        close(spool.pending / "cat", 0o755)
        for _ in range(3):
            made.turn()
        assert made.state() == "failed"
    finally:
        made.close()


def test_p5_one_whose_record_is_closed_fails_and_keeps_nobody_waiting(spool: Spool, close: Close) -> None:
    cat = folder(spool, "cat", EXPIRED)
    (cat / "record.json").write_bytes(Record(id="cat").encode())
    close(cat / "record.json")
    made = Desk(spool.root)
    try:
        made.turn()
        assert made.state() == "failed"
        drop(spool, "dog.json", CAT)
        made.turn()
        assert made.runs() == 1
    finally:
        made.close()


def test_p5_one_that_has_ended_is_spared_by_retention_and_not_counted(spool: Spool, close: Close) -> None:
    for number, name in enumerate(("old", "older", "oldest")):
        cat = claimed(spool, name)
        record = Record(id=name, queued=utc_now()).fail("worker-died", "killed")
        when = f"2020-01-0{3 - number}T00:00:00.000Z"
        assert spool.publish(Place(name, "claimed", cat, "me"), record.model_copy(update={"completed": when}), "failed")
    jobs = list(retention.ended(spool.root))
    close(spool.root / "failed" / "oldest", 0o555)
    assert {each.id for each in retention.ended(spool.root)} == {"old", "older"}
    assert not retention.remove(spool, next(each for each in jobs if each.id == "oldest"))
    keeping = retention.Retention(spool, Settings(spool=spool.root, keep_jobs=1), first_pass_s=0.0)
    while keeping.turn(1.0):
        pass
    assert {each.name for each in (spool.root / "failed").iterdir() if each.is_dir()} == {"old", "oldest"}


@pytest.mark.parametrize("closed", ["many.txt", "batch.json", ".", "gone"])
def test_p5_a_batch_that_is_closed_or_removed_in_the_middle_keeps_nobody_waiting(
    spool: Spool, close: Close, closed: str
) -> None:
    (spool.pending / "many.txt").write_text("".join(f"cat {number}\n" for number in range(120)))
    made = Desk(spool.root)
    batch = spool.batches / "many"
    try:
        for _ in range(9):
            made.turn(after_s=1.0)
            if batch.is_dir():
                break
        assert 0 < len(list(spool.pending.iterdir())) < 120
        if closed == "gone":
            batch.rename(spool.root.parent / "gone")
        else:
            close(batch / closed)
        for _ in range(3):
            made.turn()
        made.close()
        made = Desk(spool.root)
        drop(spool, "dog.json", CAT | {"priority": 50})
        made.turn()
        end(made, made.engine.heard[-1].id)  # type: ignore[union-attr]
        made.turn()
        assert made.engine.heard[-1].id == "dog"  # type: ignore[union-attr]
        if closed != "gone":
            assert closed == "many.txt" or any("closed" in each.sentence for each in fsck.examine(spool))
            close(batch / closed, 0o755)
            for _ in range(9):
                made.turn()
            assert (batch / "queued").exists()
    finally:
        made.close()
