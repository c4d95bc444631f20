"""What one web app counts of its own work, for /metrics; what the spool holds is read at each scrape."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

from flask import current_app
from prometheus_client import CollectorRegistry, Counter, ProcessCollector, disable_created_metrics

# When each counter began is a series more for each, and the process tells its start.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Meter:
    """The counters of one app, and the registry that they are told from. Safe for many threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "sdspool_http_requests",
            "Requests that the web app answered, by kind of route and status. What is no HTTP never reaches it.",
            ("route", "status"),
            registry=self.registry,
        )
        self.submitted = Counter(
            "sdspool_jobs_submitted",
            "Jobs that this web app accepted, by the door that they came through.",
            ("door",),
            registry=self.registry,
        )
        self.wrong_keys = Counter(
            "sdspool_wrong_keys", "Requests and logins with a key that does not let in.", registry=self.registry
        )
        #: The counter of one kind of route and status: looked up once, for there are few of them.
        self.answered = lru_cache(lambda route, status: self.requests.labels(route, str(status)))
        ProcessCollector(registry=self.registry)  # memory, processor time and open files of the web app


def meter() -> Meter:
    """The meter of the app that serves this request."""
    return cast(Meter, current_app.extensions["meter"])
