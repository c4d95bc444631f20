"""Threads beside the one that draws. `./run.sh bench overhead` tells what becomes of it when they compute on every core."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.direct import Direct
from spooler.engine import device as devices
from spooler.engine.helpers import helpers


def test_helpers_compute_on_one_core_and_the_thread_that_draws_on_as_many_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with helpers(2) as pool:
            told = [pool.submit(torch.get_num_threads) for _ in range(8)]
            assert {each.result() for each in told} == {1}
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_small_model_is_drawn_on_one_core_and_a_larger_one_on_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A core that spins for the other, or is woken after each small operation, costs more than it gives."""
    before = torch.get_num_threads()
    made = Direct(tmp_path)
    try:
        residents = made.engine._residents
        monkeypatch.setattr(devices, "CORES", 3)
        torch.set_num_threads(2)
        residents.get("demo")
        assert torch.get_num_threads() == 1
        monkeypatch.setattr(devices, "SMALL_BYTES", 1)
        residents.get("demo")
        assert torch.get_num_threads() == 3
    finally:
        made.close()
        torch.set_num_threads(before)
