"""N8: a spooler that was taken for dead notices at its next commit; and only one lives under a name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from calls import synced
from desk import Desk
from filelock import Timeout
from house import drop

from spooler import messages
from spooler.life import Life
from spooler.record import Timings
from spooler.spool import Spool
from tests.prove.restart import FACTS

CAT = {"prompt": "a cat"}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "spool")
    yield made
    made.close()


FINISHED = messages.Finished(id="cat", timings=Timings(), facts=FACTS)


def test_a_spooler_that_lives_runs_its_job(desk: Desk) -> None:
    drop(desk.spool, "cat.json", CAT)
    desk.turn()
    assert (desk.state(), desk.service.fenced) == ("claimed", False)
    desk.turn(FINISHED)
    assert (desk.state(), desk.service.fenced) == ("done", False)


def test_n8_taken_for_dead_it_claims_nothing(desk: Desk) -> None:
    desk.spool.raise_epoch("me")
    drop(desk.spool, "cat.json", CAT)
    desk.turn()
    assert (desk.state(), desk.service.fenced) == ("pending", True)


def test_n8_taken_for_dead_it_publishes_nothing(desk: Desk) -> None:
    drop(desk.spool, "cat.json", CAT)
    desk.turn()
    desk.spool.raise_epoch("me")
    desk.turn(FINISHED)
    assert (desk.state(), desk.service.fenced) == ("claimed", True)


def test_n8_taken_for_dead_it_ends_no_job_whose_time_is_over(desk: Desk) -> None:
    desk.spool.raise_epoch("me")
    desk.service.running.clear()
    drop(desk.spool, "cat.json", CAT | {"expires_at": "2001-01-01T00:00:00Z"})
    desk.turn()
    desk.turn()
    assert (desk.state(), desk.service.fenced) == ("pending", True)


def test_n8_a_job_that_another_has_adopted_is_dropped_and_its_drawing_stopped(desk: Desk) -> None:
    drop(desk.spool, "cat.json", CAT)
    desk.turn()
    other = Life.begin(desk.spool, "other")
    (desk.spool.claimed / "me" / "cat").rename(desk.spool.claimed / "other" / "cat")
    desk.turn()
    assert not desk.service.running
    assert [each.id for each in desk.engine.heard if isinstance(each, messages.Cancel)] == ["cat"]
    desk.turn(FINISHED)
    assert desk.state() == "claimed"
    other.end()


def test_n8_who_adopts_begins_an_epoch_of_the_dead_one_first(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.create()
    for name in ("dead", "me"):
        (spool.claimed / name).mkdir()
    drop(spool, "cat.json", CAT)
    life = Life.begin(spool, "dead")
    assert spool.claim("cat.json", "dead")
    assert life.goes_on()
    life.end()
    assert [place.id for place in spool.recover("me")] == ["cat"]
    assert not life.goes_on()


def test_n8_a_spool_that_is_away_for_a_while_was_not_taken_over(desk: Desk) -> None:
    spool, aside = desk.spool, desk.spool.root.with_name("aside")
    spool.root.rename(aside)
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="The spool is not there"):
            desk.turn()
        spool.root.mkdir(exist_ok=True)  # as where nothing is mounted
    spool.root.rmdir()
    aside.rename(spool.root)
    drop(spool, "cat.json", CAT)
    desk.turn()
    assert (desk.state(), desk.service.fenced) == ("claimed", False)


def test_n8_a_spooler_whose_folder_was_taken_away_has_no_life_left(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.create()
    life = Life.begin(spool, "me")
    shutil.rmtree(spool.claimed)
    assert not life.goes_on(), "the spool is there, and this spooler is none of it"
    life.end()


def test_the_living_keep_their_jobs_and_their_name(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.create()
    (spool.claimed / "other").mkdir()
    with synced() as names:
        life = Life.begin(spool, "me")
    assert names[0] == "claimed", "the folder's name is durable before a job is moved into it"
    drop(spool, "cat.json", CAT)
    assert spool.claim("cat.json", "me")
    with pytest.raises(Timeout):
        Life.begin(spool, "me", wait_s=0.0)
    assert spool.alive("me") and spool.recover("other") == [] and life.goes_on()
    life.end()
    assert not spool.alive("me")
    Life.begin(spool, "me", wait_s=0.0).end()
    assert not life.goes_on()


def test_p9_a_lock_that_is_a_link_is_no_death_certificate(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.create()
    (spool.claimed / "other").mkdir()
    (tmp_path / "free").touch()
    (spool.claimed / "other" / ".lock").symlink_to(tmp_path / "free")
    assert spool.alive("other")


def test_a_spool_that_goes_away_while_the_spooler_stops_is_no_error(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.spool.root.rename(desk.spool.root.with_name("away"))
    desk.service.close()
    assert "cannot be told that the spooler stops" in caplog.text
