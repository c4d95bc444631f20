"""What is next: pure functions, no GPU."""

from __future__ import annotations

import random

import pytest

from spooler.schedule import Order, Queue, Waiting, order


def waits(job_id: str, arrival: int, owner: str = "", priority: int = 0, model: str = "", top: int = 0) -> Waiting:
    return Waiting(f"{job_id}.json", False, arrival, owner=owner, priority=priority, model=model, top=top)


def ids(line: list[Waiting]) -> list[str]:
    return [each.id for each in line]


def queue(*jobs: Waiting, cap: int = 0) -> Queue:
    made = Queue(cap)
    for job in jobs:
        made.add(job)
    return made


def drain(line: Queue, loaded: str = "m", default: str = "m", now: float = 0.0, overtake_s: float = 60.0) -> list[str]:
    """The ids as they are picked one by one, each owner's turn noted as the spooler does."""
    taken: list[str] = []
    turns: dict[str, int] = {}
    while (chosen := line.pick(turns, loaded, default, now, overtake_s)) is not None:
        line.remove(chosen.name)
        taken.append(chosen.id)
        turns[chosen.owner] = len(taken)
    return taken


def test_first_come_first_served() -> None:
    assert ids(order([waits("b", 2), waits("a", 1), waits("c", 3)])) == ["a", "b", "c"]


def test_priority_goes_before_arrival_and_the_top_before_priority() -> None:
    line = [waits("late", 9, priority=1), waits("early", 1), waits("last", 0, priority=-5), waits("top", 10, top=1)]
    assert ids(order(line)) == drain(queue(*line)) == ["top", "late", "early", "last"]
    assert ids(order([*line, waits("newest", 11, priority=-100, top=2)]))[0] == "newest"


def test_owners_take_turns() -> None:
    flood = [waits(f"a{n}", n, owner="ann") for n in range(4)]
    line = order([*flood, waits("b0", 8, owner="bob"), waits("b1", 9, owner="bob")])
    assert ids(line) == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_the_owner_served_longest_ago_is_next() -> None:
    line = [waits("a", 1, owner="ann"), waits("b", 2, owner="bob")]
    assert ids(order(line, {"ann": 7, "bob": 6})) == ["b", "a"]
    assert ids(order(line, {"ann": 7})) == ["b", "a"]


def test_picking_again_and_again_is_the_order_that_was_shown() -> None:
    rng = random.Random(4)
    for _ in range(200):
        jobs = [
            waits(f"{n}", n, owner=rng.choice("wxyz"), priority=rng.choice((0, 0, 0, 3)), top=rng.choice((0, 0, 0, 0, n)))
            for n in range(rng.randrange(1, 40))
        ]
        one_rank = [job for job in jobs if job.rank == (0, 0)]
        assert drain(queue(*one_rank)) == ids(order(one_rank))
        # Over several ranks the turns of a higher rank count for the next one too, which the order shown cannot know.
        taken, by_id = drain(queue(*jobs)), {job.id: job for job in jobs}
        assert sorted(taken) == sorted(by_id)
        assert [by_id[each].rank for each in taken] == sorted((job.rank for job in jobs), reverse=True)


def test_a_job_for_the_loaded_model_overtakes_for_a_while() -> None:
    line = queue(waits("other", 0, model="xl"), waits("same", 5))
    assert line.pick({}, "demo", "demo", now=1000.0, overtake_s=60).id == "same"  # type: ignore[union-attr]
    assert line.pick({}, "demo", "demo", now=1059.0, overtake_s=60).id == "same"  # type: ignore[union-attr]
    assert line.pick({}, "demo", "demo", now=1061.0, overtake_s=60).id == "other", "the bound is counted from the first time"  # type: ignore[union-attr]


def test_a_higher_priority_is_not_overtaken() -> None:
    line = queue(waits("urgent", 0, model="xl", priority=1), waits("same", 5))
    assert line.pick({}, "demo", "demo", now=1, overtake_s=60).id == "urgent"  # type: ignore[union-attr]
    assert queue().pick({}, "demo", "demo", now=1, overtake_s=60) is None


def test_jobs_beyond_the_owners_cap_cannot_be_raised() -> None:
    flood = [waits(f"a{n}", n, owner="ann", priority=9) for n in range(5)]
    line = [*flood, waits("b0", 8, owner="bob"), waits("b1", 9, owner="bob")]
    assert drain(queue(*line, cap=2)) == ["a0", "a1", "b0", "a2", "b1", "a3", "a4"]
    assert ids(order(line, owner_cap=2)) == ["a0", "a1", "a2", "b0", "a3", "b1", "a4"]
    assert drain(queue(*line)) == ["a0", "a1", "a2", "a3", "a4", "b0", "b1"]


def test_an_owner_with_as_many_running_as_allowed_waits() -> None:
    line = queue(waits("a", 0, owner="ann", priority=5), waits("b", 1, owner="bob"))
    assert line.pick({}, "m", "m", 0, 60, busy_owners={"ann"}).id == "b"  # type: ignore[union-attr]
    assert line.pick({}, "m", "m", 0, 60, busy_owners={"ann", "bob"}) is None


def test_a_job_that_changes_is_there_once() -> None:
    line = queue(waits("a", 0), waits("b", 1))
    line.add(waits("b", 1, priority=9))
    assert len(line) == 2 and drain(line) == ["b", "a"] and len(line) == 0


@pytest.mark.parametrize("cap", [0, 3])
def test_one_that_comes_takes_the_place_that_a_new_order_gives_it(cap: int) -> None:
    chance = random.Random(cap)
    jobs = [
        Waiting(
            f"{number}.json", False, number, chance.choice("abc"), chance.choice((0, 0, 5)), top=chance.choice((0, 0, 0, 7))
        )
        for number in range(60)
    ]
    turns = {"a": 3, "b": 1}
    kept = Order(jobs[:20], turns, cap)
    for number in range(20, 60):
        index = kept.add(jobs[number])
        anew = Order(jobs[: number + 1], turns, cap)
        assert kept.jobs == anew.jobs == order(jobs[: number + 1], turns, cap) and anew.jobs[index] == jobs[number]
        assert [kept.index(each.name) for each in anew.jobs] == list(range(number + 1)) and jobs[number].name in kept
