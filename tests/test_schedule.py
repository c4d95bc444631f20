"""What is next: pure functions, no GPU."""

from __future__ import annotations

from pathlib import Path

from spooler.job import Job
from spooler.schedule import Waiting, order, pick
from spooler.spool import Place


def waits(job_id: str, arrival: float, owner: str = "", priority: int = 0, model: str = "") -> Waiting:
    place = Place(job_id, "pending", Path(f"{job_id}.json"), is_folder=False)
    return Waiting(place, Job(prompt="x", owner=owner, priority=priority, model=model), arrival, seen=arrival)


def ids(line: list[Waiting]) -> list[str]:
    return [each.place.id for each in line]


def test_first_come_first_served() -> None:
    assert ids(order([waits("b", 2), waits("a", 1), waits("c", 2)])) == ["a", "b", "c"]


def test_priority_goes_before_arrival() -> None:
    assert ids(order([waits("late", 9, priority=1), waits("early", 1), waits("last", 0, priority=-5)])) == [
        "late",
        "early",
        "last",
    ]


def test_owners_take_turns() -> None:
    flood = [waits(f"a{n}", n, owner="ann") for n in range(4)]
    line = order([*flood, waits("b0", 8, owner="bob"), waits("b1", 9, owner="bob")])
    assert ids(line) == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_the_owner_served_longest_ago_is_next() -> None:
    line = [waits("a", 1, owner="ann"), waits("b", 2, owner="bob")]
    assert ids(order(line, {"ann": 7, "bob": 6})) == ["b", "a"]
    assert ids(order(line, {"ann": 7})) == ["b", "a"]


def test_picking_again_and_again_is_the_order_that_was_shown() -> None:
    rest = [waits(f"{owner}{n}", n, owner=owner, priority=n % 2) for n in range(6) for owner in "xyz"]
    shown, taken, turns = ids(order(rest)), [], {}
    while (chosen := pick(rest, turns, "m", "m", now=0, overtake_s=60)) is not None:
        rest.remove(chosen)
        taken.append(chosen.place.id)
        turns[chosen.job.owner] = len(taken)
    assert taken == shown


def test_a_job_for_the_loaded_model_overtakes_for_a_while() -> None:
    line = [waits("other", 0, model="xl"), waits("same", 5)]
    assert pick(line, {}, "demo", "demo", now=10, overtake_s=60).place.id == "same"  # type: ignore[union-attr]
    assert pick(line, {}, "demo", "demo", now=61, overtake_s=60).place.id == "other"  # type: ignore[union-attr]


def test_a_higher_priority_is_not_overtaken() -> None:
    line = [waits("urgent", 0, model="xl", priority=1), waits("same", 5)]
    assert pick(line, {}, "demo", "demo", now=1, overtake_s=60).place.id == "urgent"  # type: ignore[union-attr]
    assert pick([], {}, "demo", "demo", now=1, overtake_s=60) is None
