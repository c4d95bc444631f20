"""What is made of what Redis has of a try: the table at the top of spooler/remote/sent.py, without any process."""

from __future__ import annotations

import pytest

from spooler import messages
from spooler.job import Job
from spooler.remote import broker as redises
from spooler.remote.crew import UNSEEN_S, Crew
from spooler.remote.sent import STRANDED_S, Sent, Verdict, judge
from spooler.remote.wire import Beat, Name
from tests.prove.restart import FACTS

#: Heartbeats come every second, and Redis is asked as often.
LATER = UNSEEN_S + 2 * redises.BEAT_S + 0.1


class Table:
    """One try, one worker, and the clock."""

    def __init__(self) -> None:
        self.crew, self.now, self.number = Crew(), 100.0, 0
        job = Job(prompt="a red circle")
        self.sent = Sent(messages.Run(id="j", folder="", job=job, cells=(job,)), Name.new("j", 1), redises.COMMON, "waiting")

    def beats(self, *tasks: str, anew: bool = True, slots: int = 1) -> None:
        """Redis has a heartbeat of the worker: a new one, or the one that it had."""
        self.number += anew
        self.crew.see([Beat(worker="w", number=self.number, host="h", slots=slots, tasks=tasks, facts=FACTS)], self.now)

    def look(self, key: str | None, result: bool = False) -> Verdict:
        return judge(self.sent, f"{self.sent.id}|{key}" if key else None, result, self.crew, self.now)

    def pass_s(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def table() -> Table:
    return Table()


def test_a_worker_that_was_killed_before_it_told_of_a_try_is_to_blame_it(table: Table) -> None:
    """Its last heartbeat outlives it in Redis for longer than a try may be unaccounted for."""
    table.beats()
    assert table.look("taken|w") is Verdict.NOTHING
    for _ in range(int(redises.BEAT_TTL_S)):
        table.pass_s(1)
        table.beats(anew=False)
        assert table.look("taken|w") is Verdict.NOTHING, "it may be dead: its old heartbeat says nothing"
    for _ in range(int(UNSEEN_S) + 1):
        table.pass_s(1)
        table.crew.see([], table.now)
        verdict = table.look("taken|w")
    assert verdict is Verdict.ABANDONED


def test_a_worker_that_lives_and_has_it_no_longer_has_mislaid_it(table: Table) -> None:
    table.beats(table.sent.id)
    assert table.look("taken|w") is Verdict.NOTHING and table.sent.state == "taken"
    while (verdict := table.look("taken|w")) is Verdict.NOTHING:
        table.pass_s(1)
        table.beats()
        assert table.now < 100 + LATER + 1
    assert verdict is Verdict.MISLAID


def test_a_heartbeat_that_was_on_its_way_when_the_try_was_taken_says_nothing_of_it(table: Table) -> None:
    table.beats()
    table.look("taken|w")
    table.pass_s(redises.BEAT_S / 2)
    table.beats()  # from before
    table.pass_s(UNSEEN_S + 0.1)
    table.beats(anew=False)
    assert table.look("taken|w") is Verdict.NOTHING


def test_what_is_not_as_it_should_be_is_looked_at_again_before_it_is_believed(table: Table) -> None:
    table.beats(table.sent.id)
    table.look("taken|w")
    table.beats()
    assert table.look("taken|w") is Verdict.NOTHING
    table.pass_s(UNSEEN_S)
    table.beats(table.sent.id)
    assert table.look("taken|w") is Verdict.NOTHING and not table.sent.wrong


def test_what_lay_about_for_long_and_was_taken_just_now_is_not_mislaid(table: Table) -> None:
    """Its worker has not told of it yet. What was wrong with it before says nothing of that."""
    table.beats()
    assert table.look("waiting|") is Verdict.NOTHING
    table.pass_s(LATER)
    table.beats()
    assert table.look("waiting|") is Verdict.NOTHING
    table.pass_s(1)
    table.beats()
    assert table.look("taken|w") is Verdict.NOTHING
    table.pass_s(1)
    table.beats(table.sent.id)
    assert table.look("taken|w") is Verdict.NOTHING and not table.sent.wrong


def test_a_result_is_fetched_whatever_else_there_is(table: Table) -> None:
    table.sent.cancelling = True
    assert table.look(None, result=True) is Verdict.FETCH
    assert table.look("cancel|", result=True) is Verdict.FETCH


def test_a_key_that_redis_forgot_is_made_anew_for_who_has_the_try(table: Table) -> None:
    table.beats(table.sent.id)
    assert table.look(None) is Verdict.KEY_ANEW
    assert (table.sent.state, table.sent.worker) == ("taken", "w")


@pytest.mark.parametrize(("cancelling", "verdict"), [(False, Verdict.ANEW), (True, Verdict.CANCELLED)])
def test_a_try_that_redis_forgot_and_nobody_has_is_sent_again_unless_it_is_unwanted(
    table: Table, cancelling: bool, verdict: Verdict
) -> None:
    table.beats()
    table.sent.cancelling = cancelling
    assert table.look(None) is Verdict.NOTHING
    table.pass_s(UNSEEN_S + 0.1)
    assert table.look(None) is verdict


def test_a_try_whose_worker_and_key_are_both_gone_is_no_fault_of_its_job(table: Table) -> None:
    table.beats(table.sent.id)
    table.look("taken|w")
    table.pass_s(LATER)
    table.crew.see([], table.now)
    table.look(None)
    table.pass_s(UNSEEN_S + 0.1)
    assert table.look(None) is Verdict.MISLAID


def test_what_nobody_takes_goes_to_all_once_a_worker_with_room_left_it_lying(table: Table) -> None:
    table.beats()
    assert table.look("waiting|") is Verdict.NOTHING
    table.pass_s(STRANDED_S + 0.1)
    assert table.look("waiting|") is Verdict.FOR_ALL
    table.beats("another", slots=1)
    table.look("waiting|")
    table.pass_s(STRANDED_S + 0.1)
    assert table.look("waiting|") is Verdict.NOTHING, "nobody has room"


def test_what_waits_for_a_model_that_nobody_has_warm_goes_to_all_at_once(table: Table) -> None:
    table.sent.queue = redises.queue_of("another")
    assert table.look("waiting|") is Verdict.NOTHING, "there is no worker at all"
    table.beats()
    assert table.look("waiting|") is Verdict.FOR_ALL


@pytest.mark.parametrize("key", ["waiting|", "taken|w"])
def test_a_cancel_reaches_redis_before_anything_is_decided(table: Table, key: str) -> None:
    table.sent.cancelling = True
    assert table.look(key) is Verdict.CANCEL
    assert table.look("cancel|") is Verdict.NOTHING
    table.pass_s(UNSEEN_S + 0.1)
    assert table.look("cancel|") is Verdict.CANCELLED, "nobody ever told of it"


def test_a_key_of_another_try_is_no_key_of_this_one(table: Table) -> None:
    table.beats()
    table.sent.state = "taken"
    other = str(Name.new("j", 1))
    assert judge(table.sent, f"{other}|taken|w", False, table.crew, table.now) is Verdict.NOTHING
    assert table.sent.worker == ""
