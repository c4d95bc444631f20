"""What a spooler looks at when it has claimed a job and begins it, and what it does when its end cannot be kept."""

from __future__ import annotations

import errno
import time
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from calls import no_fsync_of
from desk import Desk
from house import drop

from spooler import messages
from spooler.child import Gone
from spooler.denylist import DenyList
from spooler.life import Life
from spooler.place import Place
from spooler.record import Record, Timings, utc_now
from spooler.running import Running
from spooler.serve import serve
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.states import End
from spooler.status import Progress, SpoolerStatus
from tests.prove.restart import FACTS, draw
from tests.prove.sleeper import CATALOGUE

CAT = {"prompt": "a cat"}
FINISHED = messages.Finished(id="cat", timings=Timings(), facts=FACTS)


def denied(tmp_path: Path) -> DenyList:
    (tmp_path / "words").write_text("dog\n")
    return DenyList.read(tmp_path / "words")


def desk(tmp_path: Path) -> AbstractContextManager[Desk]:
    return closing(Desk(tmp_path / "spool", denied(tmp_path)))


def claimed(tmp_path: Path, job: dict[str, Any] = CAT) -> Path:
    """A job that an earlier life of this spooler had claimed, and died: what it is now, nobody has looked at."""
    spool = Spool(tmp_path / "spool")
    spool.create()
    (spool.claimed / "me").mkdir()
    drop(spool, "cat.json", job)
    place = spool.claim("cat.json", "me")
    assert place
    return place.path


def test_a_job_that_is_to_be_tried_again_waits_for_an_engine_and_is_not_ended_by_who_was_taken_for_dead(
    tmp_path: Path,
) -> None:
    with desk(tmp_path) as made:
        drop(made.spool, "cat.json", CAT)
        for _ in range(3):
            made.turn()
        made.turn(Gone("killed by SIGSEGV"))
        made.turn()
        assert (made.state(), made.runs()) == ("claimed", 1), "there is no engine that it could be begun on"
        made.spool.cancel("cat")
        made.spool.raise_epoch("me")
        made.turn()
        assert made.state() == "claimed", "it is another's by now (N8)"


def test_n8_who_was_taken_for_dead_gives_nothing_back_either(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        drop(made.spool, "cat.json", CAT)
        made.turn()
        made.turn(Gone("killed by SIGSEGV"))
        made.turn()
        place = made.spool.find("cat")
        assert place
        for note in ("hold", "cancel"):
            (place.path / note).touch()
        made.spool.raise_epoch("me")
        made.turn()
        assert made.state() == "claimed", "it is another's by now"


def test_f5_a_job_that_is_to_be_tried_again_waits_for_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claimed(tmp_path)
    with monkeypatch.context() as disk:
        disk.setattr(Spool, "free_bytes", lambda _: -1)
        with desk(tmp_path) as made:
            assert (made.state(), made.runs()) == ("claimed", 0)
            disk.undo()
            made.turn()
            assert (made.state(), made.runs()) == ("claimed", 1)


def test_a_job_that_is_well_is_begun(tmp_path: Path) -> None:
    claimed(tmp_path)
    with desk(tmp_path) as made:
        assert (made.state(), made.runs()) == ("claimed", 1)


@pytest.mark.parametrize("job", [{"prompt": "a dog"}, {"prompt": "a cat", "model": "nobody-has-it"}], ids=["denied", "model"])
def test_p5_what_is_claimed_is_judged_again(job: dict[str, Any], tmp_path: Path) -> None:
    claimed(tmp_path, job)
    with desk(tmp_path) as made:
        assert made.runs() == 0 and (made.spool.rejected_folder / "cat.json.reason.txt").exists()


def test_p9_a_folder_with_something_odd_in_it_is_not_begun(tmp_path: Path) -> None:
    (claimed(tmp_path) / "0.png").symlink_to("/etc/hostname")
    with desk(tmp_path) as made:
        assert made.runs() == 0 and list(made.spool.rejected_folder.glob("*.reason.txt"))


@pytest.mark.parametrize(("note", "state"), [("hold", "held"), ("cancel", "cancelled")])
def test_a_note_in_the_folder_is_heeded_before_the_job_is_begun(note: str, state: str, tmp_path: Path) -> None:
    (claimed(tmp_path) / note).touch()
    with desk(tmp_path) as made:
        assert (made.state(), made.runs()) == (state, 0)


def test_a_running_job_is_told_of_its_cancel_once(tmp_path: Path) -> None:
    folder = claimed(tmp_path)
    with desk(tmp_path) as made:
        made.turn()
        assert not any(isinstance(each, messages.Cancel) for each in made.engine.heard)
        (folder / "cancel").touch()
        made.turn()
        made.turn()
        assert [each.id for each in made.engine.heard if isinstance(each, messages.Cancel)] == ["cat"]


@pytest.mark.parametrize("job", [{"prompt": "a dog"}, {"prompt": "a cat", "model": "nobody-has-it"}], ids=["denied", "model"])
def test_p5_what_can_never_run_is_set_aside_at_sight_even_while_the_spool_is_paused(
    job: dict[str, Any], tmp_path: Path
) -> None:
    with desk(tmp_path) as made:
        made.spool.pause()
        drop(made.spool, "cat.json", job)
        made.turn()
        assert (made.spool.rejected_folder / "cat.json.reason.txt").exists()


def test_a_job_for_another_spooler_s_model_is_left_to_it(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        card = CATALOGUE.models[0].model_copy(update={"name": "theirs"})
        theirs = CATALOGUE.model_copy(update={"models": (card,), "default": "theirs"})
        (made.spool.claimed / "other").mkdir()
        told = {"spooler": "other", "host": "there", "state": "ready", "started": utc_now(), "beat": utc_now()}
        status = SpoolerStatus.model_validate({**told, "catalogue": theirs})
        made.spool.write_status(status)
        drop(made.spool, "cat.json", {"prompt": "a cat", "model": "theirs"})
        drop(made.spool, "owl.json", {"prompt": "an owl", "model": "nobody-has-it"})
        made.turn()
        assert made.state() == "pending" and made.runs() == 0
        assert (made.spool.rejected_folder / "owl.json.reason.txt").exists()


def test_w5_a_picture_that_cannot_be_kept_is_drawn_anew(tmp_path: Path) -> None:
    folder = claimed(tmp_path)
    with desk(tmp_path) as made:
        (image,) = draw(folder, 1, 1)
        made.turn(messages.ImageDone(id="cat", image=image))
        with no_fsync_of(".png"):
            made.turn(FINISHED)
        assert (made.state(), made.runs()) == ("claimed", 2) and not (folder / "0.png").exists()
        (image,) = draw(folder, 2, 1)
        made.turn(messages.ImageDone(id="cat", image=image))
        made.turn(FINISHED)
        assert made.state() == "done"


@pytest.mark.parametrize(
    ("code", "outcome", "counts"),
    [(errno.ENOSPC, "no-room", False), (errno.EDQUOT, "no-room", False), (errno.ESTALE, "disk: Stale file handle", True)],
)
def test_f5_what_the_engine_finds_no_room_for_is_drawn_anew(code: int, outcome: str, counts: bool, tmp_path: Path) -> None:
    claimed(tmp_path)
    with desk(tmp_path) as made:
        made.turn(messages.Failed(id="cat", code="no_space", reason="x", errno=code))
        made.service._floor.next_look = 0.0  # else a full disk is believed to be full for ten seconds
        made.turn()
        assert (made.state(), made.runs()) == ("claimed", 2)
        place = made.spool.find("cat")
        record = made.spool.read_record(place) if place else None
        assert record and (record.attempts[0].outcome, record.attempts[0].counts) == (outcome, counts)


def test_a_closed_file_of_the_engine_s_fails_its_job(tmp_path: Path) -> None:
    claimed(tmp_path)
    with desk(tmp_path) as made:
        made.turn(messages.Failed(id="cat", code="no_space", reason="x", errno=errno.EACCES))
        assert made.state() == "failed"


def test_p2_a_job_that_is_shown_is_not_run_again_though_the_disk_may_forget_it(tmp_path: Path) -> None:
    claimed(tmp_path)
    with desk(tmp_path) as made:
        with no_fsync_of("/done"):
            made.turn(FINISHED)
        assert (made.state(), made.service.running) == ("done", {})
        made.turn()
        assert made.runs() == 1


def test_w5_a_failure_that_cannot_be_kept_is_published_when_it_can_and_not_run_again(tmp_path: Path) -> None:
    claimed(tmp_path)
    with desk(tmp_path) as made:
        with no_fsync_of("job.json"), pytest.raises(OSError, match="Input/output"):
            made.turn(messages.Failed(id="cat", code="broken", reason="It broke."))
        assert (made.state(), made.runs()) == ("claimed", 1)
        made.turn()
        assert (made.state(), made.runs()) == ("failed", 1)


class Shown:
    """What the engine had been given whenever a job's end was to be shown. `full`: the disk takes none just now."""

    def __init__(self, made: Desk, monkeypatch: pytest.MonkeyPatch):
        self.full = False
        self.runs: list[int] = []
        publish = made.spool.publish

        def published(place: Place, record: Record, state: End) -> Place | None:
            self.runs.append(made.runs())
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return publish(place, record, state)

        monkeypatch.setattr(made.spool, "publish", published)


def test_the_next_job_is_with_the_engine_before_the_last_one_s_end_is_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with desk(tmp_path) as made:
        for name in ("cat", "ant", "bee"):
            drop(made.spool, f"{name}.json", CAT)
        made.turn()
        shown = Shown(made, monkeypatch)
        made.turn(FINISHED)
        assert (made.state(), made.runs(), shown.runs) == ("done", 2, [2])

        # But no more than one: while the disk does not take an end, nothing further is begun.
        shown.full = True
        for said in (messages.Failed(id="ant", code="broken", reason="It broke."), None):
            with pytest.raises(OSError, match="No space"):
                made.turn(said)
        assert made.runs() == 3
        with pytest.raises(OSError, match="No space"):
            made.turn(messages.Failed(id="bee", code="broken", reason="It broke."))
        shown.full = False
        made.turn()
        assert made.runs() == 3 and len(list((made.spool.root / "failed").glob("[!.]*"))) == 2


def test_a_job_that_cannot_be_claimed_keeps_no_end_from_being_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with desk(tmp_path) as made:
        for name in ("cat", "ant"):
            drop(made.spool, f"{name}.json", CAT)
        made.turn()
        with monkeypatch.context() as disk:
            disk.setattr(made.spool, "claim_many", full)
            with pytest.raises(OSError, match="No space"):
                made.turn(FINISHED)
        assert (made.state(), made.runs()) == ("done", 1)
        made.turn()
        assert made.runs() == 2


def test_where_an_owner_s_running_jobs_are_bounded_the_one_that_has_ended_is_shown_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with desk(tmp_path) as made:
        made.service.settings = replace(made.service.settings, owner_running=1)
        for name in ("cat", "ant"):
            drop(made.spool, f"{name}.json", CAT)
        made.turn()
        shown = Shown(made, monkeypatch)
        made.turn(FINISHED)
        assert (made.state(), made.runs(), shown.runs) == ("done", 2, [1])


def test_signs_of_life_call_for_no_turn_each(tmp_path: Path) -> None:
    claimed(tmp_path)
    with desk(tmp_path) as made:
        told = messages.Progress(id="cat", phase="denoise", image=0, step=1, steps=20)
        for step in range(50):
            made.service.inbox.put((made.engine, told.model_copy(update={"step": step})))
        turns = 0
        while not made.service.inbox.empty():
            made.service.turn(time.monotonic())
            made.service.inbox.put((made.engine, told))
            made.service._wait()
            turns += 1
            assert turns < 25
        assert made.service.running["cat"].progress.step == 1


def test_p5_a_folder_that_is_closed_to_us_is_no_matter_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner may take away what a folder that was dropped allows: while it is drawn, and when it ends."""
    with desk(tmp_path) as made:
        closed = {"cat"}

        def shut(name: str) -> None:
            real = getattr(made.spool, name)

            def asked(place: Place, *more: object) -> object:
                if place.id in closed:
                    raise PermissionError(errno.EACCES, "Permission denied")
                return real(place, *more)

            monkeypatch.setattr(made.spool, name, asked)

        drop(made.spool, "cat.json", CAT)
        made.turn()
        for name in ("write_progress", "publish"):
            shut(name)
        made.turn(messages.Progress(id="cat", phase="denoise", image=0, step=1, steps=20))
        made.turn(messages.Room(heard=1, jobs=1))
        drop(made.spool, "ant.json", CAT)
        made.turn()
        assert made.runs() == 2, "another is begun beside it"
        made.turn(messages.Progress(id="ant", phase="denoise", image=0, step=1, steps=20))
        made.spool.cancel("ant")
        made.turn()
        assert messages.Cancel(id="ant") in made.engine.heard, "and hears that it is cancelled"
        made.turn(FINISHED, after_s=0.5)
        made.turn(FINISHED.model_copy(update={"id": "ant"}), after_s=0.5)
        assert (made.spool.root / "done" / "ant").exists() and made.state() == "claimed"
        drop(made.spool, "bee.json", CAT)
        made.turn(after_s=0.5)
        assert made.runs() == 3, "and another is begun after it"
        assert made.service._attempts.due > 100.0, "which is not tried without a pause"
        closed.clear()
        made.turn()
        assert made.state() == "done"


def test_p2_a_spool_that_is_away_for_a_moment_costs_no_attempt(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        drop(made.spool, "cat.json", CAT)
        made.turn()
        made.spool.root.rename(tmp_path / "away")
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                made.turn()
        (tmp_path / "away").rename(made.spool.root)
        made.turn()
        made.turn(FINISHED)
        assert (made.state(), made.runs()) == ("done", 1)


def test_p4_what_a_full_disk_does_not_take_of_those_that_died_together_is_written_when_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with desk(tmp_path) as made:
        names = ("ant", "bee", "cat")
        for name in names:
            drop(made.spool, f"{name}.json", CAT)
        made.turn()
        made.turn(messages.Room(heard=1, jobs=3))
        assert made.runs() == 3
        with monkeypatch.context() as disk:
            disk.setattr(made.spool, "prepare", full)
            for said in (Gone("killed by SIGSEGV"), None):
                with pytest.raises(OSError, match="No space"):
                    made.turn(said)
            assert not made.service.running, "nobody waits for an engine that is gone"
            with pytest.raises(OSError, match="No space"):
                made.service._attempts.put_all_back(
                    [Running(Place("dog", "claimed", tmp_path), Record(id="dog"), 0.0, Progress())], ""
                )
            made.service._attempts.again.pop(0)
            made.service._attempts._unwritten.pop("dog")
        made.turn()
        records = [made.spool.read_record(place) for name in names if (place := made.spool.find(name))]
        ends = [record.attempts[0].outcome for record in records if record]
        assert ends == ["company-died: killed by SIGSEGV"] * 3, "so that none is blamed when each is tried again"


def test_a_floor_that_is_met_by_nobody_any_more_is_told_of_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk(tmp_path) as made:
        with monkeypatch.context() as disk:
            disk.setattr(Spool, "free_bytes", lambda _: -1)
            drop(made.spool, "cat.json", CAT)
            made.turn()
            [(told, _)] = made.spool.spoolers()
            assert told.reason and "less than the floor" in told.reason
        made.spool.cancel("cat")
        made.turn()
        [(told, _)] = made.spool.spoolers()
        assert told.reason is None, "else readyz says no for good, and nobody sends the job that would have it asked"


def test_the_loop_sleeps_while_there_is_nothing_to_do(tmp_path: Path) -> None:
    """Whatever is overdue and cannot be done: an engine that has longer than `stall_s`, a folder that is away."""
    with desk(tmp_path) as made:
        made.service.settings = replace(made.service.settings, stall_s=5.0)
        drop(made.spool, "cat.json", CAT)
        made.turn()
        [lane] = made.service.lanes
        lane.settings = lane.warden._settings = replace(lane.settings, stall_s=5.0, load_s=1000.0)
        made.turn(messages.Progress(id="cat", phase="load", image=0, step=0, steps=20), after_s=1.0)
        made.turn(after_s=100.0)
        assert lane.due() > made.service.running["cat"].last_sign + 100, "loading has its own time"
        made.spool.pending.rename(tmp_path / "away")
        now = time.monotonic()
        made.service.intake.look(now)
        assert made.service.intake.due(now) >= now + 0.05
        (tmp_path / "away").rename(made.spool.pending)
        made.service.intake.look(now + 1.0)
        assert not made.service.intake._is_away


def test_how_far_a_job_is_is_due_to_be_shown_whatever_woke_the_loop(tmp_path: Path) -> None:
    claimed(tmp_path)
    with desk(tmp_path) as made:
        attempts = made.service._attempts
        made.turn()
        assert attempts.due == float("inf"), "all is shown"
        made.turn(messages.Progress(id="cat", phase="denoise", image=0, step=1, steps=20), after_s=0.01)
        assert attempts.due < made.clock + 0.25
        made.turn(after_s=0.3)
        assert attempts.due == float("inf")
        place = made.spool.find("cat")
        shown = made.spool.read_progress(place) if place else None
        assert shown and shown.step == 1


def stumbling(made: Desk, error: Exception, adopted: bool = False) -> None:
    """The next job that is begun meets this error; `adopted`: and another spooler has it by then."""

    def gather_inputs(place: Place, names: object) -> None:
        del made.spool.gather_inputs  # type: ignore[method-assign]
        if adopted:
            place.path.rename(made.spool.claimed / "other" / place.id)
        raise error

    made.spool.gather_inputs = gather_inputs  # type: ignore[method-assign]


PASSES = OSError(errno.EIO, "Input/output error")
STAYS = PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize("error", [ValueError("x"), STAYS, FileNotFoundError(errno.ENOENT, "x")], ids=lambda each: repr(each))
def test_p5_a_job_that_the_spooler_stumbles_over_fails_and_the_queue_goes_on(error: Exception, tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        stumbling(made, error)
        drop(made.spool, "cat.json", CAT)
        made.turn()
        assert (made.state(), made.runs()) == ("failed", 0)
        drop(made.spool, "dog.json", CAT)
        made.turn()
        assert made.runs() == 1


def test_p2_an_error_that_passes_costs_no_job(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        stumbling(made, PASSES)
        drop(made.spool, "cat.json", CAT)
        with pytest.raises(OSError, match="Input/output"):
            made.turn()
        assert (made.state(), made.runs()) == ("claimed", 0)
        made.turn()
        assert (made.state(), made.runs()) == ("claimed", 1)


@pytest.mark.parametrize("error", [ValueError("x"), FileNotFoundError(errno.ENOENT, "x")], ids=lambda each: repr(each))
def test_n8_a_job_that_is_adopted_while_it_is_begun_is_the_other_s(
    error: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with desk(tmp_path) as made:
        other = Life.begin(made.spool, "other")
        stumbling(made, error, adopted=True)
        drop(made.spool, "cat.json", CAT)
        made.turn()
        assert (made.state(), made.runs(), made.service.running) == ("claimed", 0, {})
        lost = isinstance(error, FileNotFoundError)
        assert ("another spooler has it" in caplog.text, "cannot be begun" in caplog.text) == (lost, not lost)
        other.end()


@pytest.mark.parametrize("error", [STAYS, PASSES], ids=["stays", "passes"])
def test_p5_a_job_that_cannot_even_be_ended_is_left_and_the_queue_goes_on(error: OSError, tmp_path: Path) -> None:
    def publish(*_: object) -> None:
        raise error

    with desk(tmp_path) as made:
        stumbling(made, ValueError("x"))
        made.spool.publish = publish  # type: ignore[method-assign, assignment]
        drop(made.spool, "cat.json", CAT)
        if error is PASSES:
            with pytest.raises(OSError, match="Input/output"):
                made.turn()
        else:
            made.turn()
            drop(made.spool, "dog.json", CAT)
            made.turn()
            assert (made.state(), made.runs()) == ("claimed", 1)
        del made.spool.publish  # type: ignore[method-assign]
        made.turn()
        assert made.state() == "failed"


def test_n8_progress_of_a_job_that_was_just_adopted_is_told_to_nobody(tmp_path: Path) -> None:
    claimed(tmp_path)
    with desk(tmp_path) as made:

        def write_progress(*_: object) -> None:
            raise FileNotFoundError

        made.spool.write_progress = write_progress  # type: ignore[method-assign, assignment]
        made.turn()
        assert made.service.running


def test_a_pending_that_is_away_for_a_while_stops_nothing(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        made.spool.pending.rename(made.spool.root / "away")
        made.turn()
        (made.spool.root / "away").rename(made.spool.pending)
        drop(made.spool, "cat.json", CAT)
        made.turn()
        made.turn()
        assert made.runs() == 1


def test_a_store_that_nothing_is_sent_by_is_no_setting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert serve(Settings(spool=tmp_path / "spool", store="file:///pictures")) == 2
    assert "`store` is where jobs that --dispatch sends have their pictures, but none are sent" in caplog.text
    assert not (tmp_path / "spool").exists()


def test_a_second_spooler_of_a_name_that_lives_refuses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with desk(tmp_path) as made:
        assert serve(made.service.settings) == 2
        assert "a spooler named me is running on this spool" in caplog.text
