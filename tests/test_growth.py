"""The simulation of many GPUs: where its answer is known without it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.growth import BENT, Costs, Model, checked, limit

FREE = Costs(submit_s=0, turn_s=0, fetch_s=0, look_s=0, commands=0, worker_commands_s=0, picture_bytes=0)


def test_parts_that_cost_nothing_leave_what_the_workers_can_do() -> None:
    found = Model(FREE, gpus=8, clients=1, job_s=2.0, load=None).run()
    assert found.jobs_s == pytest.approx(4.0) and found.busy["workers"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("costs", "part", "jobs_s"),
    [
        (replace(FREE, turn_s=0.01), "spooler", 100.0),
        (replace(FREE, commands=100, command_s=1e-4), "redis", 100.0),
        (replace(FREE, fetch_s=0.08, fetchers=8), "fetchers", 100.0),
        (replace(FREE, picture_bytes=1e6, pipe_bytes_s=1e8), "pipe", 100.0),
    ],
)
def test_the_slowest_part_is_what_all_wait_for(costs: Costs, part: str, jobs_s: float) -> None:
    found = Model(costs, gpus=1000, clients=1, job_s=2.0, load=None).run()
    assert found.bends == part and found.jobs_s == pytest.approx(jobs_s, rel=0.05)
    assert found.busy[part] == pytest.approx(1.0, abs=0.05) and found.of_ideal == pytest.approx(jobs_s / 500, rel=0.05)


def test_at_half_the_load_of_one_worker_the_wait_is_that_of_the_theory() -> None:
    """M/D/1: the mean wait is load / (2 x (1 - load)) x service: half of the service here. Its median is below that."""
    found = Model(FREE, gpus=1, clients=20, job_s=1.0, load=0.5)
    found.jobs = 20_000
    found.run()
    assert sum(found.waits) / len(found.waits) == pytest.approx(0.5, rel=0.1)


def test_it_bends_where_the_spooler_is_full() -> None:
    costs = replace(FREE, turn_s=0.01)  # 100 jobs a second, which are 200 GPUs of two seconds
    bent = limit(costs, 2.0)
    assert bent.gpus == 256 and bent.of_ideal < BENT


def test_it_is_held_against_what_was_measured() -> None:
    measured = {"costs": {"turn_s": 0.01}, "sleep_s": 1.0, "jobs_s": {"1": 1.0, "8": 4.0}}
    one, eight = checked(measured)
    assert one["ratio"] == pytest.approx(1.0, rel=0.1) and eight["ratio"] == pytest.approx(2.0, rel=0.1)
