"""On a CPU as many threads compute as other programs leave cores (spooler/engine/cores.py)."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator

import pytest
import torch

from spooler.engine import cores
from spooler.engine.cores import CHOOSE_S, Cores, Reading, left

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # which conftest sets for all
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Clock:
    """Readings of a machine with four cores."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = Reading(0.0, 0.0, 0.0)
        monkeypatch.setattr(cores, "_usable", lambda: {0, 1, 2, 3})
        monkeypatch.setattr("time.monotonic", lambda: self.now.moment)
        torch.set_num_threads(4)

    def read(self) -> Reading:
        return self.now

    def go_on(self, seconds: float, others: float, own: float) -> None:
        """So many seconds with so many cores at work for others, and for this process."""
        now = self.now
        self.now = Reading(now.moment + seconds, now.all + seconds * (others + own), now.own + seconds * own)


@pytest.mark.parametrize(("others", "found"), [(0.0, 4), (0.4, 4), (0.6, 3), (1.0, 3), (3.2, 1), (9.0, 1), (-0.02, 4)])
def test_what_others_leave_is_whole_cores_and_at_least_one(others: float, found: int) -> None:
    assert left(4, others) == found


def test_threads_follow_what_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    asked = Cores(CPU, read=clock.read)
    for others, expected in [(2.0, 2), (3.0, 1), (0.1, 4)]:
        for _ in range(8):
            clock.go_on(CHOOSE_S / 4, others, own=1.0)
            asked.look()
        assert torch.get_num_threads() == expected


def test_what_others_did_while_nothing_was_drawn_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it ever too short a time: what is seen of several short jobs is put together."""
    clock = Clock(monkeypatch)
    asked = Cores(CPU, read=clock.read)
    for others_then, others_now, expected in [(4.0, 0.0, 4), (0.0, 3.0, 1)]:
        for _ in range(8):
            clock.go_on(60.0, others_then, own=0.0)
            asked.begin()
            clock.go_on(CHOOSE_S / 4, others_now, own=1.0)
            asked.look()
        assert torch.get_num_threads() == expected


@pytest.mark.parametrize(
    ("name", "value", "is_fixed"),
    [
        ("OMP_NUM_THREADS", "4", True),
        ("OMP_NUM_THREADS", " 4,2", True),
        ("OMP_NUM_THREADS", "", False),
        ("OMP_NUM_THREADS", "many", False),
        ("OMP_NUM_THREADS", "0", False),
        ("OMP_PROC_BIND", "true", True),
    ],
)
def test_a_number_that_the_operator_names_stays(monkeypatch: pytest.MonkeyPatch, name: str, value: str, is_fixed: bool) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setenv(name, value)
    asked = Cores(CPU, read=clock.read)
    clock.go_on(CHOOSE_S, others=3.0, own=1.0)
    asked.look()
    assert torch.get_num_threads() == (4 if is_fixed else 1)


def test_what_is_compiled_keeps_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code is guarded by the number of threads: another one would have it compiled anew in mid-job."""
    clock = Clock(monkeypatch)
    asked = Cores(CPU, is_compiled=True, read=clock.read)
    clock.go_on(CHOOSE_S, others=3.0, own=1.0)
    asked.look()
    assert torch.get_num_threads() == 4


def test_where_nobody_may_see_what_others_do_the_number_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied() -> Reading:
        raise PermissionError("/proc/stat")

    Clock(monkeypatch)
    Cores(CPU, read=denied).look()
    assert torch.get_num_threads() == 4


def test_on_a_gpu_torchs_threads_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    asked = Cores(torch.device("meta"), read=clock.read)
    clock.go_on(CHOOSE_S, others=4.0, own=0.0)
    asked.look()
    assert torch.get_num_threads() == 4


def test_beside_real_programs_on_all_cores_one_thread_computes() -> None:
    torch.set_num_threads(2)
    asked = Cores(CPU)
    context = multiprocessing.get_context("spawn")
    busy = [context.Process(target=_spin, daemon=True) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        for each in busy:
            each.start()
        asked.begin()
        end = time.monotonic() + 120
        while torch.get_num_threads() > 1:
            assert time.monotonic() < end, "what others take was never seen"
            torch.ones(1000).sum()
            asked.look()
    finally:
        for each in busy:
            each.kill()
            each.join()


def _spin() -> None:
    while True:
        pass
