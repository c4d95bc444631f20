"""What every view works with: the settings, the spool, the reports, and the one way in for a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from flask import current_app

from spooler import pictures
from spooler.denylist import DenyList
from spooler.durable import unique_name
from spooler.job import Job, JobError, Mistake, encode, show
from spooler.settings import Settings
from spooler.spool import Spool
from webui.index import Index
from webui.reports import Reports


@dataclass(frozen=True)
class Office:
    """One app's desk: it takes jobs in and tells what became of them."""

    settings: Settings
    spool: Spool
    reports: Reports
    index: Index
    deny_list: DenyList

    def accept(self, job: Job, wanted_id: str | None = None, inputs: Mapping[str, bytes] | None = None) -> str:
        """Put the job into the queue, durably, and return its id. `inputs` are the pictures that it names.

        Raises JobError for what no spooler can run, TakenError for an id that exists, OSError when the disk is full.
        """
        self.deny_list.check(job)
        # Before any spooler told of its models there is nothing to check against; the spooler will.
        catalogue = self.reports.ready().catalogue
        if catalogue.models:
            catalogue.check(job)
        given = dict(inputs or {})
        self._check_inputs(job, given)
        return self.spool.submit(encode(job), wanted_id, given)

    def _check_inputs(self, job: Job, given: dict[str, bytes]) -> None:
        """Raise JobError unless exactly the pictures that the job names are given, each whole."""
        mistakes = [
            Mistake(name, f"`{show(name)[1:-1]}` is a file that the job does not name.")
            for name in given
            if name not in job.inputs
        ]
        for name in job.inputs:
            if name not in given:
                mistakes.append(
                    Mistake(
                        "image",
                        f"`{name}`, which the job names, must be sent along as a file of that name, but is not.",
                    )
                )
                continue
            draft = self.spool.tmp / unique_name()
            try:
                draft.write_bytes(given[name])
                pictures.check(draft)
            except pictures.InputError as error:
                mistakes.append(Mistake("image", str(error).replace(draft.name, name)))
            finally:
                draft.unlink(missing_ok=True)
        if mistakes:
            raise JobError(*mistakes)


def office() -> Office:
    """The office of the app that serves this request."""
    return cast(Office, current_app.extensions["office"])
