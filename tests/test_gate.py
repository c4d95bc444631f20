"""Jobs that wait for others: what lets them through, and a circle of them, which never can be."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest
from desk import Desk
from house import drop

from spooler import gate
from spooler.schedule import Waiting


class Jobs:
    """Waiting jobs by their ids, each with those that it runs after; and how often one was looked up."""

    def __init__(self, **after: str):
        self.jobs = {job_id: Waiting(f"{job_id}.json", False, 0, after=tuple(ids.split())) for job_id, ids in after.items()}
        self.looked = 0

    def find(self, job_id: str) -> Waiting | None:
        self.looked += 1
        return self.jobs.get(job_id)

    def circles(self) -> dict[str, tuple[str, ...]]:
        known: dict[str, tuple[str, ...]] = {}
        found = {job_id: gate.circle(job, self.find, known) for job_id, job in self.jobs.items()}
        return {job_id: circle for job_id, circle in found.items() if circle}


@pytest.mark.parametrize(
    ("after", "circles"),
    [
        ({"a": "b", "b": "a"}, {"a": ("a", "b"), "b": ("a", "b")}),
        ({"a": "b", "b": "c", "c": "a"}, dict.fromkeys("abc", ("a", "b", "c"))),
        ({"a": "done b", "b": "gone a"}, {"a": ("a", "b"), "b": ("a", "b")}),
        ({"tail": "a", "a": "b", "b": "a"}, {"a": ("a", "b"), "b": ("a", "b")}),
        ({"a": "b", "b": "a", "tail": "a"}, {"a": ("a", "b"), "b": ("a", "b")}),
        ({"a": "b", "b": "c", "c": "d"}, {}),
        ({"a": "b c", "b": "d", "c": "d", "d": "done"}, {}),
    ],
)
def test_a_circle_is_found_from_each_of_its_jobs_and_from_no_other(after: dict[str, str], circles: dict[str, object]) -> None:
    assert Jobs(**after).circles() == circles


def test_looking_at_thousands_goes_over_them_once() -> None:
    long = Jobs(**{f"j{number}": f"j{number + 1}" for number in range(9_000)})
    assert long.circles() == {} and long.looked <= 2 * 9_000
    tails = Jobs(a="b", b="a", **{f"j{number}": f"j{number + 1}" if number < 4_999 else "a" for number in range(5_000)})
    assert set(tails.circles()) == {"a", "b"} and tails.looked <= 3 * 5_000
    ring = Jobs(**{f"j{number}": f"j{(number + 1) % 2_000}" for number in range(2_000)})
    (first, *_) = ring.circles().values()
    why = gate.in_circle(first).why
    assert ring.looked <= 2 * 2_000 and len(first) == 2_000 and why.endswith("'j0', 'j1', 'j2', 'j3', 'j4' and 1995 more.")


def test_after_the_clock_was_set_a_job_that_expires_waits_without_a_turn_after_the_other(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "spool")
    try:
        desk.service.intake.clock = gate.WallClock(wall=count(0, 3600).__next__)
        drop(desk.spool, "cat.json", {"prompt": "a cat", "expires_at": "2100-01-01T00:00:00Z"})
        desk.turn()
        assert desk.state() == "pending" and desk.service.intake.due(desk.clock) > desk.clock
    finally:
        desk.close()


def test_jobs_in_a_circle_fail_with_a_reason_that_names_it_and_the_others_go_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "spool")
    for job_id, after in (("a", ["b"]), ("b", ["c"]), ("c", ["a"]), ("tail", ["a"]), ("free", ["later"])):
        desk.spool.submit(json.dumps({"prompt": "x", "after": after}).encode(), job_id)
    for _ in range(12):
        desk.turn()
    for job_id in ("a", "b", "c", "tail"):
        place = desk.spool.find(job_id)
        assert place and place.state == "failed", job_id
        record = desk.spool.read_record(place)
        assert record and record.failure and record.failure.code == "condition"
        told = record.failure.reason
        assert "in a circle: " in told or "is failed" in told, told
    free = desk.spool.find("free")
    assert free and free.state == "pending"
    desk.close()  # its watch of the folder with it
