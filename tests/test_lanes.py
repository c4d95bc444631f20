"""Several engines under one spooler: where a job goes, and that what befalls one engine is nothing to another's jobs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from desk import Desk, Engine
from house import Spooler, drop, wait_for, wait_state

from spooler import messages
from spooler.catalogue import Catalogue, ModelCard
from spooler.child import Gone
from spooler.life import Life
from spooler.record import Record, Timings
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.status import LaneStatus, SpoolerStatus
from tests.prove.restart import FACTS
from webui.app import create_app

CARD = ModelCard(name="none", family="sd1", hash="0" * 64, width=64, height=64, steps=1, guidance_scale=1.0)
MODELS = Catalogue(default="none", models=(CARD, CARD.model_copy(update={"name": "other"})))
OTHER = FACTS.model_copy(update={"model": "other"})
LONG = {"prompt": "a large red circle on a blue background", "seed": 5, "steps": 80}


class Two(Desk):
    """A service of two engines, which a test speaks for."""

    def __init__(self, root: Path):
        super().__init__(root, devices="one,two", catalogue=MODELS)
        self.one, self.two = self.engines.values()

    def given(self, engine: Engine) -> list[str]:
        """The jobs that the engine was given."""
        return [each.id for each in engine.heard if isinstance(each, messages.Run)]

    def drop(self, name: str, **job: Any) -> None:
        drop(self.spool, f"{name}.json", {"prompt": "a cat", **job})
        self.turn()

    def finish(self, name: str, engine: Engine, **facts: Any) -> None:
        """The engine is done with the job."""
        self.turn(messages.Finished(id=name, timings=Timings(), facts=FACTS.model_copy(update=facts)), engine)

    def place(self, name: str) -> tuple[str, Record]:
        found = self.spool.find(name)
        assert found
        return found.state, self.spool.read_record(found) or Record(id=name)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    made = Two(tmp_path / "spool")
    yield made
    made.close()


def test_each_engine_gets_a_job_and_the_third_waits_for_whichever_is_done_first(two: Two) -> None:
    for name in ("a", "b", "c"):
        two.drop(name)
    assert (two.given(two.one), two.given(two.two)) == (["a"], ["b"]) and two.place("c")[0] == "pending"
    two.finish("b", two.two)
    assert (two.given(two.one), two.given(two.two)) == (["a"], ["b", "c"])


def test_a_job_goes_where_its_model_is_loaded_though_another_engine_has_less_to_do(two: Two) -> None:
    two.drop("first", model="other")
    two.finish("first", two.one, model="other")
    assert two.given(two.one) == ["first"]
    two.drop("plain")
    two.drop("again", model="other")
    assert (two.given(two.one), two.given(two.two)) == (["first", "again"], ["plain"])


def test_an_engine_with_nothing_to_do_loads_another_model_rather_than_wait(two: Two) -> None:
    two.drop("a", model="other")
    two.drop("b", model="other")
    assert (two.given(two.one), two.given(two.two)) == (["a"], ["b"])


def test_p4_an_engine_that_dies_takes_only_its_own_jobs_along(two: Two) -> None:
    two.drop("a")
    two.drop("b")
    two.turn(Gone("killed by SIGSEGV"), two.one)
    assert two.place("b")[1].attempts[-1].ended is None
    two.turn(messages.Ready(facts=FACTS), two.one)
    two.finish("b", two.two)
    two.finish("a", two.one)
    assert [len(two.place(name)[1].attempts) for name in "ab"] == [2, 1]
    assert [two.place(name)[0] for name in "ab"] == ["done", "done"]


def test_a_suspect_is_drawn_where_nothing_else_is_and_keeps_no_other_engine_waiting(two: Two) -> None:
    for engine in (two.one, two.two):
        two.turn(messages.Room(heard=0, jobs=4), engine)
    for name in ("a", "b", "c", "d"):
        two.drop(name)
    assert (two.given(two.one), two.given(two.two)) == (["a", "c"], ["b", "d"])
    two.turn(messages.Lost(id="a", how="its worker is gone"), two.one)
    assert two.given(two.one) == ["a", "c"] and two.place("a")[0] == "claimed", "not beside the others"
    two.drop("e")
    assert two.given(two.two) == ["b", "d", "e"] and two.given(two.one) == ["a", "c"]
    two.finish("c", two.one)
    assert two.given(two.one) == ["a", "c", "a"]
    two.drop("f")
    assert two.given(two.one) == ["a", "c", "a"], "nothing joins it"
    two.finish("a", two.one)
    assert [each.outcome for each in two.place("a")[1].attempts] == ["worker-died: its worker is gone", "done"]


def test_what_an_engine_says_of_anothers_job_is_not_heard(two: Two) -> None:
    two.drop("a")
    two.finish("a", two.two)
    assert two.place("a")[0] == "claimed"


def test_a_cancel_reaches_the_engine_that_has_the_job(two: Two) -> None:
    two.drop("a")
    two.drop("b")
    two.spool.cancel("b")
    two.turn()
    assert [isinstance(each, messages.Cancel) for each in two.two.heard] == [False, True]
    assert not any(isinstance(each, messages.Cancel) for each in two.one.heard)


def test_a_job_that_waits_for_another_try_can_be_cancelled_while_no_engine_has_room(two: Two) -> None:
    two.drop("a")
    for engine in (two.one, two.two):
        two.turn(Gone("killed by SIGSEGV"), engine)
    assert two.place("a")[0] == "claimed"
    two.spool.cancel("a")
    two.turn()
    state, record = two.place("a")
    assert (state, [each.outcome for each in record.attempts]) == ("cancelled", ["worker-died: killed by SIGSEGV"] * 2)


def test_one_engine_that_works_is_enough_and_readers_are_told_of_both(two: Two, tmp_path: Path) -> None:
    two.drop("a")
    for _ in range(3):
        two.turn(Gone("exit status 1"), two.two)
    (status, _), *_ = two.spool.spoolers()
    assert (status.state, status.reason, status.takes_jobs) == ("ready", None, True)
    one, other = status.engines
    assert (one.state, one.running, other.state) == ("ready", ("a",), "starting")
    two.turn(Gone("exit status 1"), two.two)
    (status, _), *_ = two.spool.spoolers()
    assert status.takes_jobs and status.engines[1].state == "failing" and "exit status 1" in str(status.engines[1].reason)
    page = create_app(Settings(spool=two.spool.root, cache=tmp_path / "cache")).test_client().get("/status").text
    rows = [row.partition("</div>")[0] for row in page.partition('id="spoolers"')[2].split("<dt>")[1:3]]
    assert "one" in rows[0] and "none" in rows[0] and ">a</a>" in rows[0], "its model, and the job that it runs"
    assert "two" in rows[1] and "exit status 1" in rows[1]


def test_a_spooler_of_one_engine_is_told_of_in_the_same_form(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "spool")
    (status, _), *_ = desk.spool.spoolers()
    assert not status.lanes and [each.state for each in status.engines] == ["ready"]
    desk.close()


def test_readers_are_told_of_each_worker_elsewhere_and_estimates_count_them(two: Two, tmp_path: Path) -> None:
    client = create_app(Settings(spool=two.spool.root, cache=tmp_path / "cache")).test_client()
    two.drop("a")
    ready = LaneStatus(name="gpu-1.0f", device="cuda:0", state="ready", running=("a",), engine=OTHER)
    ailing = ready.model_copy(update={"name": "gpu-2.1e", "running": (), "reason": "the object store is away"})
    two.turn(messages.Crew(workers=(ready, ailing, ailing.model_copy(update={"name": "gpu-3.2d"}))), two.two)
    (status, _), *_ = two.spool.spoolers()
    assert [each.name for each in status.engines] == ["", "gpu-1.0f", "gpu-2.1e", "gpu-3.2d"]

    rows = [row.partition("</div>")[0] for row in client.get("/status").text.partition('id="spoolers"')[2].split("<dt>")[2:4]]
    assert "gpu-1.0f" in rows[0] and "cuda:0" in rows[0] and "other" in rows[0] and ">a</a>" in rows[0]
    assert "gpu-2.1e" in rows[1] and "the object store is away" in rows[1]
    scraped = client.get("/metrics").text
    assert f'sdspool_engine_running_jobs{{engine="gpu-1.0f",spooler="{status.spooler}"}} 1.0' in scraped
    assert f'sdspool_engine_running_jobs{{engine="gpu-2.1e",spooler="{status.spooler}"}} 0.0' in scraped

    two.finish("a", two.one)
    (status, _), *_ = two.spool.spoolers()
    two.spool.write_status(status.model_copy(update={"speeds": {"none": 10.0}}))
    for number in range(9):
        two.spool.submit(b'{"prompt": "a cat", "width": 1000, "height": 1000, "steps": 1}', f"w{number}")
    assert client.get("/api/v1/jobs/w8").get_json()["starts_in_s"] == pytest.approx(20.0, abs=0.1), "eight before it, four draw"

    two.turn(Gone("it stumbled"), two.two)
    (status, _), *_ = two.spool.spoolers()
    assert [each.name for each in status.engines] == ["", ""]


# -- several hosts -------------------------------------------------------------------------------------------------------------


def test_a_host_leaves_a_job_to_one_that_has_its_model_loaded_and_idle_but_not_for_long(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "spool", catalogue=MODELS)
    other = Life.begin(desk.spool, "other")
    told = SpoolerStatus.model_validate(json.loads((desk.spool.claimed / "me" / "spooler.json").read_text()))
    desk.spool.write_status(told.model_copy(update={"spooler": "other", "engine": OTHER}))
    drop(desk.spool, "cat.json", {"prompt": "a cat", "model": "other"})
    desk.turn()
    assert desk.state() == "pending", "it is left to the other"
    desk.turn(after_s=0.5)
    assert desk.state() == "pending"
    desk.turn(after_s=0.6)
    assert desk.state() == "claimed", "who was asked did not come"
    other.end()
    desk.close()


@pytest.mark.parametrize("change", [{"running": ("x",)}, {"paused": True}, {"state": "failing"}, {"engine": None}])
def test_a_host_that_is_busy_or_cannot_draw_is_not_waited_for(tmp_path: Path, change: dict[str, Any]) -> None:
    desk = Desk(tmp_path / "spool", catalogue=MODELS)
    other = Life.begin(desk.spool, "other")
    told = SpoolerStatus.model_validate(json.loads((desk.spool.claimed / "me" / "spooler.json").read_text()))
    desk.spool.write_status(told.model_copy(update={"spooler": "other", "engine": OTHER} | change))
    drop(desk.spool, "cat.json", {"prompt": "a cat", "model": "other"})
    desk.turn()
    assert desk.state() == "claimed"
    other.end()
    desk.close()


# -- real engines --------------------------------------------------------------------------------------------------------------


def test_two_engines_draw_side_by_side_and_one_that_is_stuck_and_then_killed_costs_the_other_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.create()
    running = Spooler(spool, "--devices=cpu,cpu", "--together=1", "--stall-s=15", "--preview-s=0")

    def both() -> tuple[LaneStatus, ...] | None:
        """Both engines, once they are ready."""
        told = running.status()
        return told.lanes if told and told.lanes and all(each.state == "ready" for each in told.lanes) else None

    def drawing() -> dict[str, int] | None:
        """Where each of the two jobs is, once both are being drawn."""
        told = running.status()
        found = {job: number for number, each in enumerate(told.lanes if told else ()) for job in each.running}
        return found if len(found) == 2 else None

    try:
        assert [each.device for each in wait_for(both, "both engines")] == ["cpu", "cpu"]
        pids = running.engine_pids()
        assert len(pids) == 2
        for name in ("hit", "spared"):
            drop(spool, f"{name}.json", LONG)
        found = wait_for(drawing, "both to run")
        os.kill(pids[found["hit"]], signal.SIGSTOP)
        attempts = {}
        for job_id in found:
            record = spool.read_record(wait_state(spool, job_id, "done"))
            assert record
            attempts[job_id] = [str(each.outcome).partition(":")[0] for each in record.attempts]
        assert attempts == {"spared": ["done"], "hit": ["worker-died", "done"]}
        wait_for(both, "both engines again")
        assert set(pids) - set(running.engine_pids()) == {pids[found["hit"]]} and len(running.engine_pids()) == 2
        client = create_app(Settings(spool=spool.root, cache=tmp_path / "cache")).test_client()
        told = client.get("/api/v1/status").get_json()["spoolers"][0]
        assert [each["device"] for each in told["engines"]] == ["cpu", "cpu"]
        assert client.get("/metrics").text.count("sdspool_engine_info{") == 2
    finally:
        running.stop()


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.create()
    running = Spooler(spool, "--devices=cpu,cuda:7")
    assert running.ended() == 2 and "cuda:7" in running.log
