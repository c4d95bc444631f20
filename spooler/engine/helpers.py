"""Threads beside the one that draws: they read and write files, and make previews, each on one core."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch


def helpers(number: int) -> ThreadPoolExecutor:
    """That many threads, in which torch computes on one core.

    OpenMP gives a team of threads to each thread that computes, as many as there are cores: a preview's would be in the way of
    the step's, each operation of which waits for the last of its own.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(number, thread_name_prefix="files")
    all_there = Barrier(number)

    def settle(_: int) -> None:
        all_there.wait()  # so that each of them comes here once
        torch.get_num_threads()  # whatever torch does when a thread first computes, it does now
        torch.set_num_threads(1)

    list(pool.map(settle, range(number)))
    torch.set_num_threads(threads)  # of this thread, and of those that are yet to come
    return pool
