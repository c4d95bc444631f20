"""Several jobs claimed in one go: what becomes of each, what the disk keeps, and that their order is as one after another."""

from __future__ import annotations

import errno
import itertools
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from calls import failing, no_fsync_of, synced
from desk import Desk
from house import drop

from spooler import edit, fsck, moves
from spooler.denylist import DenyList
from spooler.durable import UnsyncedError
from spooler.intake import Intake
from spooler.place import Place
from spooler.priority import Given
from spooler.schedule import Queue, Waiting
from spooler.settings import Settings
from spooler.spool import Spool
from tests.prove.sleeper import CATALOGUE

CAT = {"prompt": "a cat"}
THREE = ("a.json", "b.json", "c.json")


@pytest.fixture
def spool(spool: Spool) -> Spool:
    (spool.claimed / "dead").mkdir()
    return spool


def folder(spool: Spool, name: str, state: str = "pending") -> None:
    (spool.root / state / name).mkdir()
    (spool.root / state / name / "job.json").write_bytes(b'{"prompt": "a cat"}')


@contextmanager
def failing_for(call: str, name: str, code: int = errno.EIO) -> Iterator[None]:
    """The call os.<call> fails meanwhile for paths with that last name, or whose folder has it."""
    kept: Callable[..., Any] = getattr(os, call)

    def fail(path: Any, *arguments: Any, **options: Any) -> Any:
        if name in Path(path).parts[-2:]:
            raise OSError(code, os.strerror(code), str(path))
        return kept(path, *arguments, **options)

    setattr(os, call, fail)
    try:
        yield
    finally:
        setattr(os, call, kept)


def ids(answers: list[Place | OSError | None]) -> list[str | int | None]:
    """Of each answer the id, the errno, or None."""
    return [each.id if isinstance(each, Place) else each and each.errno for each in answers]


def left(spool: Spool, by: str = "me") -> list[str]:
    return sorted(path.name for path in (spool.claimed / by).iterdir() if path.is_dir())


def test_p2_one_fsync_keeps_all_folders_and_one_all_moves(spool: Spool) -> None:
    for name in THREE:
        drop(spool, name, CAT)
    folder(spool, "d")
    folder(spool, "e")
    with synced() as names:
        assert ids(spool.claim_many(THREE, "me")) == ["a", "b", "c"]
    assert names == ["me", "pending"]
    with synced() as names:
        assert ids(spool.claim_many(("d", "e"), "me")) == ["d", "e"]
    assert names == ["pending", "me"], "a folder is one rename, of which both ends are kept"
    with synced() as names:
        assert spool.claim_many((), "me") == []
    assert names == []


def test_a_lost_race_for_one_does_not_disturb_the_others(spool: Spool) -> None:
    for name in ("a.json", "c.json"):
        drop(spool, name, CAT)
    assert ids(spool.claim_many(THREE, "me")) == ["a", None, "c"]
    assert left(spool) == ["a", "c"]


@pytest.mark.parametrize("call", ["mkdir", "rename"])
def test_an_error_of_one_is_its_answer_and_the_others_are_claimed(call: str, spool: Spool) -> None:
    for name in THREE:
        drop(spool, name, CAT)
    with failing_for(call, "b" if call == "mkdir" else "b.json", errno.ENOSPC):
        assert ids(spool.claim_many(THREE, "me")) == ["a", errno.ENOSPC, "c"]
    assert left(spool) == ["a", "c"] and (spool.pending / "b.json").exists()
    assert ids(spool.claim_many(THREE, "me")) == [None, "b", None]


def test_p2_what_was_moved_though_nobody_could_tell_is_not_swept_away(spool: Spool) -> None:
    """The reply of the rename was lost, and then the disk would not say where the job is."""
    for name in THREE[:2]:
        drop(spool, name, CAT)
    with failing("rename", after=True), failing_for("lstat", "a.json"):
        assert ids(spool.claim_many(THREE[:2], "me")) == [errno.EIO, "b"]
    assert [place.id for place in spool.recover("me")] == ["a", "b"]


def test_what_is_a_lost_race_is_asked_right_before_each_move(spool: Spool) -> None:
    drop(spool, "a.json", CAT)
    folder(spool, "b")
    drop(spool, "c.json", CAT)
    seen = []

    def still(name: str) -> bool:
        seen.append((name, [each for each in "abc" if (spool.claimed / "me" / each / "job.json").exists()]))
        return name == "a.json"

    assert ids(spool.claim_many(("a.json", "b", "c.json"), "me", still=still)) == ["a", None, None]
    assert seen == [("a.json", []), ("b", ["a"]), ("c.json", ["a"])]
    assert left(spool) == ["a"] and (spool.pending / "b" / "job.json").exists() and (spool.pending / "c.json").exists()


def test_w4_nothing_is_moved_into_folders_that_the_disk_will_not_keep(spool: Spool) -> None:
    for name in THREE:
        drop(spool, name, CAT)
    with no_fsync_of("claimed/me"), pytest.raises(OSError, match="Input/output"):
        spool.claim_many(THREE, "me")
    assert left(spool) == [] and {path.name for path in spool.pending.glob("*.json")} == set(THREE)


def test_w5_what_was_moved_and_may_be_forgotten_is_no_claim_and_recovery_has_it(spool: Spool) -> None:
    for name in THREE[:2]:
        drop(spool, name, CAT)
    with no_fsync_of("/pending"), pytest.raises(UnsyncedError):
        spool.claim_many(THREE, "me")
    assert left(spool) == ["a", "b"], "and no folder of the one that was not there"
    assert [place.id for place in spool.recover("me")] == ["a", "b"]


def test_p2_two_names_of_one_id_in_one_go_are_two_jobs(spool: Spool) -> None:
    for name in ("my cat.json", "my-cat.json"):
        drop(spool, name, CAT)
    assert ids(spool.claim_many(("my cat.json", "my-cat.json", "my cat.json"), "me")) == ["my-cat", "my-cat-2", None]
    assert left(spool) == ["my-cat", "my-cat-2"]


def test_what_a_killed_claim_left_is_cleared_away_for_a_file_and_for_a_folder(spool: Spool) -> None:
    drop(spool, "a.json", CAT)
    folder(spool, "b")
    for name in ("a", "b"):
        (spool.claimed / "me" / name).mkdir()
        (spool.claimed / "me" / name / "hold").touch()
    assert ids(spool.claim_many(("a.json", "b"), "me")) == ["a", "b"]
    assert not list((spool.claimed / "me").glob("*/hold"))


def test_a_spooler_without_a_folder_is_no_lost_race_and_leaves_nothing(spool: Spool) -> None:
    drop(spool, "a.json", CAT)
    folder(spool, "b")
    with pytest.raises(FileNotFoundError):
        spool.claim_many(("a.json", "b"), "nobody")
    assert ids(spool.claim_many(("b",), "nobody")) == [errno.ESTALE]
    assert not (spool.claimed / "nobody").exists() and (spool.pending / "b" / "job.json").exists()


def test_what_has_left_before_it_was_told_of_is_no_job(spool: Spool) -> None:
    intake = intake_of(spool)
    drop(spool, "cat.json", CAT)
    place = spool.find("cat")
    assert place
    job = spool.read_job(place)
    place.path.unlink()
    intake.pending.came(place, job)
    assert "cat.json" not in intake.pending.queue
    intake.stop()


def test_a_file_that_goes_between_the_look_and_the_reading_is_no_broken_folder(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake = intake_of(spool)
    drop(spool, "cat.json", CAT)

    asked: list[Place] = []

    def gone(place: Place) -> None:
        asked.append(place)
        place.path.unlink(missing_ok=True)
        raise FileNotFoundError

    monkeypatch.setattr(intake.pending._spool, "read_job", gone)
    intake.pending.hint("cat.json", whole=True)
    intake.pending.refresh(2.0)
    assert asked and not intake.pending.suspects and "cat.json" not in intake.pending.queue
    intake.stop()


def test_a_reader_is_told_what_a_side_file_says_and_without_one_nothing(spool: Spool) -> None:
    drop(spool, "cat.json", CAT)
    assert spool.read_priority("cat") == Given()
    spool.set_priority("cat", 7)
    assert spool.read_priority("cat") == Given(value=7)
    (spool.pending / "cat.priority").write_text("soon")
    assert spool.read_priority("cat").mistake
    (spool.pending / "cat.priority").unlink()
    (spool.pending / "cat.priority").mkdir()
    assert spool.read_priority("cat").mistake


def test_what_is_claimed_out_of_held_is_marked_and_keeps_its_priority_when_it_is_to_be_edited(spool: Spool) -> None:
    drop(spool, "a.json", CAT)
    folder(spool, "b")
    for name in ("a", "b"):
        spool.set_priority(name, 7)
        assert spool.hold(name)
    assert ids(spool.claim_many(("a.json", "b"), "me", "held", to_edit=True)) == ["a", "b"]
    assert all((spool.claimed / "me" / name / "hold").exists() for name in ("a", "b"))
    assert len(list(spool.pending.glob("*.priority"))) == 2


# -- who is next --------------------------------------------------------------------------------------------------------------


def intake_of(spool: Spool, **settings: Any) -> Intake:
    made = Intake(Settings(spool=spool.root, spooler="me", **settings), spool, lambda: CATALOGUE, DenyList(), lambda hint: None)
    made.pending.refresh(1.0)
    return made


def test_what_nobody_takes_is_told_once_and_left(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a\nb.zip", "photo.jpg", "half.json.part", "~lock", ".hidden", "x.png.overrides.json"):
        (spool.pending / name).write_bytes(b"not a job")
    (spool.pending / "y.csv.overrides.json").write_text('{"steps": 2}')
    (spool.pending / "y.csv").write_text("prompt\na cat\n")
    intake = intake_of(spool, drop_grace_s=5.0)
    intake.look(2.0)
    assert intake.lying == (), "it may be somebody's temporary file, under a name that nobody knows"
    for now in (7.0, 9.0, 11.0):
        intake.look(now)
    assert sorted(intake.lying) == ["a\\nb.zip", "photo.jpg", "x.png.overrides.json"]
    assert len([said for said in caplog.messages if "and stays" in said]) == 3
    assert "pending/x.png.overrides.json: it is not taken and stays: what comes without '.overrides.json'" in caplog.text
    assert "pending/photo.jpg: it is not taken and stays: a job is a .json" in caplog.text
    assert (spool.pending / "photo.jpg").exists() and not any(spool.rejected_folder.iterdir())
    (spool.pending / "photo.jpg").unlink()
    intake.pending.refresh(20.0)
    intake.look(20.0)
    assert intake.lying == ("a\\nb.zip", "x.png.overrides.json")
    intake.stop()


@pytest.mark.parametrize("seed", range(6))
def test_n_picked_in_one_go_are_n_picked_one_after_another(seed: int, tmp_path: Path) -> None:
    """Turns of the owners, their caps for waiting and for running, priorities, the loaded model: all as if one by one."""
    orders = []
    for most in (1, 3, 8):
        rng = random.Random(seed)
        spool = Spool(tmp_path / f"{most}")
        spool.create()
        (spool.claimed / "me").mkdir()
        for number in range(30):
            fields = {"owner": rng.choice(("ann", "bob", "eve")), "priority": rng.choice((0, 0, 0, 5))}
            drop(spool, f"{number:02}.json", CAT | fields)
            os.utime(spool.pending / f"{number:02}.json", (1e9 + number, 1e9 + number))
        intake = intake_of(spool, owner_waiting=rng.choice((0, 4)), owner_running=rng.choice((0, 6)))
        order: list[str] = []
        while chosen := intake.choose("demo", 1.0, most):
            assert len(chosen) <= most
            order += [place.id for _, place in intake.claim(chosen, 1.0)]
        orders.append(order)
        intake.stop()
    assert orders[0] == orders[1] == orders[2] and len(orders[0]) in (18, 30)


def test_a_job_of_another_model_is_picked_as_if_it_had_been_loaded(spool: Spool) -> None:
    card = CATALOGUE.models[0].model_copy(update={"name": "other"})
    both = CATALOGUE.model_copy(update={"models": (*CATALOGUE.models, card)})
    first, default = "other", CATALOGUE.default
    for number, model in enumerate((first, default, first, default)):
        drop(spool, f"{number}.json", CAT | {"model": model})
        os.utime(spool.pending / f"{number}.json", (1e9 + number, 1e9 + number))
    intake = Intake(Settings(spool=spool.root, spooler="me"), spool, lambda: both, DenyList(), lambda hint: None)
    intake.pending.refresh(1.0)
    assert [each.name[0] for each in intake.choose(first, 1.0, 4)] == ["0", "2", "1", "3"]
    intake.stop()


def test_a_job_that_could_not_be_claimed_is_in_the_line_again(spool: Spool) -> None:
    for name in THREE:
        drop(spool, name, CAT)
    intake = intake_of(spool)
    with failing_for("mkdir", "b", errno.ENOSPC):
        assert [place.id for _, place in intake.claim(intake.choose("demo", 1.0, 8), 1.0)] == ["a", "c"]
        with pytest.raises(OSError, match="No space"):
            intake.claim(intake.choose("demo", 1.0, 8), 1.0)
    with no_fsync_of("claimed/me"), pytest.raises(OSError, match="Input/output"):
        intake.claim(intake.choose("demo", 1.0, 8), 1.0)
    with failing_for("mkdir", "b", errno.EACCES):
        assert intake.claim(intake.choose("demo", 1.0, 8), 1.0) == [], (
            "its owner has closed it to us: that keeps nobody waiting"
        )
    assert intake.choose("demo", 1.0, 8) == []
    intake.stop()


def test_who_is_put_back_keeps_its_rank_and_the_cap_is_kept_in_the_end() -> None:
    queue = Queue(owner_cap=2)
    jobs = [Waiting(f"{number}.json", False, number, "ann", priority=5) for number in range(5)]
    for each in jobs:
        queue.add(each)

    def pick() -> Waiting:
        found = queue.pick({}, "m", "m", 0, 60)
        assert found
        return found

    queue.remove(pick().name)
    queue.put_back(jobs[0])
    order = []
    while len(queue):
        order.append(pick().name)
        queue.remove(order[-1])
    assert order == [each.name for each in jobs]
    assert queue._count["ann"] == 0


# -- who claims several -------------------------------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "spool")
    yield made
    made.close()


def test_jobs_that_can_never_run_are_ended_several_in_one_go(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        drop(desk.spool, f"{number:02}.json", CAT | {"expires_at": "2001-01-01T00:00:00Z"})
    goes = []
    claim_many = Spool.claim_many

    def counted(self: Spool, names: list[str], *arguments: Any, **options: Any) -> Any:
        goes.append(len(names))
        return claim_many(self, names, *arguments, **options)

    monkeypatch.setattr(Spool, "claim_many", counted)
    for _ in range(20):  # each turn ends one go at least, however slow the disk
        desk.turn()
    assert len(list((desk.spool.root / "failed").glob("*/job.json"))) == sum(goes) == 20 and max(goes) == 8
    assert desk.runs() == 0


def test_one_that_cannot_be_ended_just_now_keeps_the_others_from_running(desk: Desk) -> None:
    for number in range(3):
        drop(desk.spool, f"{number}.json", CAT | {"expires_at": "2001-01-01T00:00:00Z"})
    with no_fsync_of("job.json"), pytest.raises(OSError, match="Input/output"):
        desk.turn()
    assert len(list((desk.spool.claimed / "me").glob("*/job.json"))) == 3
    for _ in range(3):
        desk.turn()
    assert len(list((desk.spool.root / "failed").glob("*/job.json"))) == 3 and desk.runs() == 0


@pytest.mark.parametrize(
    ("condition", "state"),
    [
        ({"expires_at": "2001-01-01T00:00:00Z"}, "failed"),
        ({"after": ["cat"]}, "failed"),
        ({"not_before": "2100-01-01T00:00:00Z"}, "pending"),
        ({"after": ["nobody"]}, "pending"),
        ({"expires_at": "2100-01-01T00:00:00Z", "not_before": "2001-01-01T00:00:00Z"}, "claimed"),
    ],
    ids=["expired", "after itself", "too early", "after what is not there", "met"],
)
def test_what_the_dead_had_claimed_without_running_it_runs_only_when_its_conditions_are_met(
    condition: dict[str, Any], state: str, tmp_path: Path
) -> None:
    """They were ending it, or editing it: that they had it does not mean that it may run."""
    spool = Spool(tmp_path / "spool")
    spool.create()
    (spool.claimed / "dead").mkdir()
    drop(spool, "cat.json", CAT | condition)
    assert spool.claim("cat.json", "dead")
    made = Desk(tmp_path / "spool")
    made.turn()
    assert (made.state(), made.runs()) == (state, int(state == "claimed"))
    made.close()


def test_an_edit_of_many_claims_several_in_one_go_and_gives_all_back(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        drop(spool, f"{number:02}.json", CAT)
    assert spool.hold("00") and spool.hold("01")
    locks = itertools.count()
    claim_lock = Spool.claim_lock
    monkeypatch.setattr(Spool, "claim_lock", lambda self: (next(locks), claim_lock(self))[1])
    edited = edit.apply(spool, edit.replacing("cat", "dog"))
    assert sorted(each.id for each in edited) == [f"{number:02}" for number in range(20)]
    assert {spool.read_job(place).prompt for state in ("pending", "held") for place in spool.walk(state)} == {"a dog"}  # type: ignore[arg-type]
    assert len(list(spool.held.glob("*/job.json"))) == 2 and next(locks) == 20 + 4, "one each to give back, four to claim"
    assert list(fsck.examine(spool)) == []


def test_an_edit_that_fails_in_the_middle_leaves_no_job_out_of_the_queue(spool: Spool) -> None:
    for name in THREE:
        drop(spool, name, CAT)
    first, middle, last = (place.id for place in spool.walk("pending"))  # in the file system's own order
    with failing_for("open", middle, errno.EIO), pytest.raises(OSError, match="Input/output"):
        edit.apply(spool, edit.replacing("cat", "dog"))
    prompts = {place.id: spool.read_job(place).prompt for place in spool.walk("pending")}
    assert prompts == {first: "a dog", middle: "a cat", last: "a cat"}
    with failing_for("rename", middle, errno.EIO), pytest.raises(OSError, match="Input/output"):
        edit.apply(spool, edit.replacing("cat", "dog"))
    prompts = {place.id: spool.read_job(place).prompt for place in spool.walk("pending")}
    assert prompts == {first: "a dog", middle: "a cat", last: "a dog"}, "the others are edited before the error is told"


def test_one_go_waits_for_the_claim_lock_once(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREE:
        drop(spool, name, CAT)
    monkeypatch.setattr(moves, "CLAIM_LOCK_WAIT_S", 0.01)
    with spool.claim_lock(), pytest.raises(OSError, match="could not be acquired"):
        spool.claim_many(THREE, "me")
    assert left(spool) == []
