"""Moving a job in the line, held against the schedule itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spooler import schedule
from spooler.schedule import Waiting
from webui import moves


def line(*jobs: tuple[str, str, int]) -> list[Waiting]:
    made = [Waiting(f"{name}.json", False, at, owner, priority) for at, (name, owner, priority) in enumerate(jobs)]
    return schedule.order(made)


def after(jobs: list[Waiting], move: moves.Move | None) -> list[str]:
    """The order that the schedule has once the move was made."""
    from dataclasses import replace

    made = {each.id: each for each in jobs}
    for number, (each, value) in enumerate(move.changes if move else (), 1_000_000):
        made[each] = replace(made[each], top=number) if value == "top" else replace(made[each], top=0, priority=value)
    return [each.id for each in schedule.order(made.values())]


def test_the_first_place_is_a_priority_of_one_more() -> None:
    jobs = line(("a", "ann", 0), ("b", "ann", 0), ("c", "ann", 0))
    move = moves.plan(jobs, "c", "a")
    assert move == moves.Move((("c", 1),), True) and after(jobs, move) == ["c", "a", "b"]


def test_a_place_between_is_exact_for_an_operator_and_nearest_for_anybody_else() -> None:
    jobs = line(("a", "ann", 0), ("b", "ann", 0), ("c", "ann", 0), ("d", "ann", 0))
    exact = moves.plan(jobs, "d", "c", may_touch_others=True)
    assert exact and exact.is_exact and after(jobs, exact) == ["a", "b", "d", "c"]
    near = moves.plan(jobs, "d", "c")
    assert near and not near.is_exact and {name for name, _ in near.changes} == {"d"}
    assert after(jobs, near).index("d") < 3


def test_to_the_end_is_a_lower_priority() -> None:
    jobs = line(("a", "ann", 0), ("b", "bert", 0), ("c", "ann", 0))
    move = moves.plan(jobs, "a", None)
    assert move and move.is_exact and after(jobs, move) == ["b", "c", "a"]


def test_where_it_stands_already_nothing_is_done() -> None:
    jobs = line(("a", "ann", 0), ("b", "ann", 0))
    assert moves.plan(jobs, "a", "b") is None and moves.plan(jobs, "b", None) is None


names = st.lists(st.tuples(st.sampled_from(["ann", "bert", ""]), st.integers(-3, 3)), min_size=2, max_size=9)


@given(names, st.data())
def test_a_move_that_says_exact_is_what_the_schedule_then_says(rows: list[tuple[str, int]], data: st.DataObject) -> None:
    jobs = line(*((f"j{at}", owner, priority) for at, (owner, priority) in enumerate(rows)))
    ids = [each.id for each in jobs]
    job, before = data.draw(st.sampled_from(ids)), data.draw(st.sampled_from([*ids, None]))
    if job == before:
        return
    operator = data.draw(st.booleans())
    move = moves.plan(jobs, job, before, may_touch_others=operator)
    rest = [each for each in ids if each != job]
    at = rest.index(before) if before else len(rest)
    wanted = [*rest[:at], job, *rest[at:]]
    if move is None:
        assert wanted == ids or not operator
        return
    assert operator or {name for name, _ in move.changes} == {job}, "nobody else's job is touched"
    if move.is_exact:
        assert after(jobs, move) == wanted
    else:
        assert (after(jobs, move).index(job) - ids.index(job)) * (at - ids.index(job)) > 0, "never to the wrong side"
