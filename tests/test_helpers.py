"""Threads beside the one that draws. `./run.sh bench overhead` tells what becomes of it when they compute on every core."""

from __future__ import annotations

import torch

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
