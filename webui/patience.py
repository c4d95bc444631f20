"""Waiting for a job inside a request: each holds one of the server's threads, so only so many may, and the others never wait.

A waiter looks at the job's names, which costs a few system calls, and makes a report only for whoever asked for one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from spooler.spool import Spool
from webui.reports import JobReport, Reports

#: Seconds between two looks: short at first, for a small job may be done by then, and longer the longer it takes.
SOON_S, LATER_S, PATIENT_AFTER_S = 0.05, 0.25, 5.0


class NoSeatError(RuntimeError):
    """As many requests wait as may: met by one more of them, which should ask again later."""


class Patience:
    """Seats for the requests that wait. Safe for many threads."""

    def __init__(self, spool: Spool, reports: Reports, seats: int):
        self._spool = spool
        self._reports = reports
        self._free = threading.BoundedSemaphore(max(1, seats))

    @contextmanager
    def seat(self) -> Iterator[None]:
        """Hold a seat. Raises NoSeatError at once when none is free: before a job is submitted for whom nobody could wait."""
        if not self._free.acquire(blocking=False):
            raise NoSeatError("As many requests wait for their jobs as may: try again in a moment, or ask without waiting.")
        try:
            yield
        finally:
            self._free.release()

    def looks(self, job_id: str, wait_s: float, gone: Callable[[], bool] = lambda: False) -> Iterator[JobReport]:
        """The job's report now and at each change, until it ended, `wait_s` seconds passed, or `gone()` (nobody listens).

        With a seat held. Ends without a report when there is no such job any more.
        """
        end = time.monotonic() + wait_s
        began, last = time.monotonic(), None
        while True:
            report = self._reports.job(job_id)
            if report is None:
                return
            if report != last:
                yield report
                last = report
            if report.status in ("done", "failed", "cancelled") or gone():
                return
            now = time.monotonic()
            if now >= end:
                return
            time.sleep(min(end - now, SOON_S if now - began < PATIENT_AFTER_S else LATER_S))

    def end_of(self, job_id: str, wait_s: float, gone: Callable[[], bool] = lambda: False) -> JobReport | None:
        """The job's report when it ended, or as it is when `wait_s` are over. None: there is no such job any more."""
        end = time.monotonic() + wait_s
        began = time.monotonic()
        while True:
            place = self._spool.find_by_name(job_id) or self._spool.find(job_id)
            now = time.monotonic()
            if place is None or place.state in ("done", "failed", "cancelled") or now >= end or gone():
                return self._reports.job(job_id)
            time.sleep(min(end - now, SOON_S if now - began < PATIENT_AFTER_S else LATER_S))
