"""Waiting for a job inside a request: each holds one of the server's threads, so only so many may, and the others never wait.

A waiter looks at the job's names, which costs a few system calls, and makes a report only for whoever asked for one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from webui.pace import Crowd
from webui.reports import JobReport, Reports
from webui.search import ENDED

#: Seconds between two looks: short at first, for a small job may be done by then, and longer the longer it takes.
SOON_S, LATER_S, PATIENT_AFTER_S = 0.05, 0.25, 5.0


class NoSeatError(RuntimeError):
    """As many requests wait as may: met by one more of them, which should ask again later."""


class Patience:
    """Seats for the requests that wait. Safe for many threads."""

    def __init__(self, reports: Reports, seats: int):
        self._reports = reports
        seats = max(1, seats)
        self._free = threading.BoundedSemaphore(seats)
        #: Of one client: a quarter of the seats is always left to the others.
        self._crowd = Crowd(seats - seats // 4)

    @contextmanager
    def seat(self, client: str = "") -> Iterator[None]:
        """Hold a seat, as one of that client's; "": of somebody who may have all of them.

        Raises NoSeatError at once when none is free: before a job is submitted for whom nobody could wait.
        """
        if client and not self._crowd.enter(client):
            raise NoSeatError(
                "As many of your requests wait for their jobs as may: try again in a moment, or ask without waiting."
            )
        try:
            if not self._free.acquire(blocking=False):
                raise NoSeatError("As many requests wait for their jobs as may: try again in a moment, or ask without waiting.")
            try:
                yield
            finally:
                self._free.release()
        finally:
            if client:
                self._crowd.leave(client)

    def looks(self, job_id: str, wait_s: float, gone: Callable[[], bool] = lambda: False) -> Iterator[JobReport]:
        """The job's report now and at each change, until it ended, `wait_s` seconds passed, or `gone()` (nobody listens).

        With a seat held. Ends without a report when there is no such job any more.
        """
        last = None
        for _ in _moments(wait_s, gone):
            report = self._reports.job(job_id)
            if report is None:
                return
            if report != last:
                yield report
                last = report
            if report.status in ENDED:
                return

    def end_of(self, job_id: str, wait_s: float, gone: Callable[[], bool] = lambda: False) -> JobReport | None:
        """The job's report when it ended, or as it is when `wait_s` are over. None: there is no such job any more."""
        for _ in _moments(wait_s, gone):
            if self._reports.status(job_id) in (None, *ENDED):
                break
        return self._reports.job(job_id)


def _moments(wait_s: float, gone: Callable[[], bool]) -> Iterator[None]:
    """The moments for a look: now, and at intervals for `wait_s` seconds; none any more when `gone()`."""
    began = time.monotonic()
    while True:
        yield
        passed = time.monotonic() - began
        if passed >= wait_s or gone():
            return
        time.sleep(min(wait_s - passed, SOON_S if passed < PATIENT_AFTER_S else LATER_S))
