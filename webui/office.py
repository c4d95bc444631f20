"""What every view works with: the settings, the spool, the reports, and the one way in for a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from flask import current_app

from spooler import models
from spooler.job import Job, encode
from spooler.settings import Settings
from spooler.spool import Spool
from webui.reports import Reports


@dataclass(frozen=True)
class Office:
    """One app's desk: it takes jobs in and tells what became of them."""

    settings: Settings
    spool: Spool
    reports: Reports

    def accept(self, job: Job, wanted_id: str | None = None) -> str:
        """Put the job into the queue, durably, and return its id.

        Raises JobError for a model that no spooler has, TakenError for an id that exists, OSError when the disk is full.
        """
        # Before any spooler told of its models there is nothing to check against; the spooler will.
        if names := [card.name for card in self.reports.ready().models]:
            models.check(job, names)
        return self.spool.submit(encode(job), wanted_id)


def office() -> Office:
    """The office of the app that serves this request."""
    return cast(Office, current_app.extensions["office"])
