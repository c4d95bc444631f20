"""What every view works with: the settings, the spool, the reports, and the one way in for a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from flask import current_app

from spooler import pictures
from spooler.catalogue import Sizes
from spooler.denylist import DenyList
from spooler.job import Job, encode
from spooler.mistakes import JobError, Mistake, show
from spooler.settings import Settings
from spooler.spool import Spool
from webui.reports import Reports


@dataclass(frozen=True)
class Office:
    """One app's desk: it takes jobs in and tells what became of them."""

    settings: Settings
    spool: Spool
    reports: Reports
    deny_list: DenyList

    def accept(self, job: Job, wanted_id: str | None = None, inputs: Mapping[str, bytes] | None = None) -> str:
        """Put the job into the queue, durably, and return its id. `inputs` are the pictures that it names.

        Raises JobError for what no spooler can run, TakenError for an id that exists, OSError when the disk is full.
        """
        self.deny_list.check(job)
        given = dict(inputs or {})
        sizes = _sizes(job, given)
        # Before any spooler told of its models there is nothing to check against; the spooler will.
        catalogue = self.reports.ready().catalogue
        if catalogue.models:
            catalogue.check(job, sizes)
        return self.spool.submit(encode(job), wanted_id, given)


def _sizes(job: Job, given: Mapping[str, bytes]) -> Sizes:
    """The width and height of each picture. Raises JobError unless exactly those that the job names are given, each whole."""
    wanted = job.inputs
    unknown = [name for name in given if name not in wanted]
    mistakes = [Mistake(name, f"`{show(name)[1:-1]}` is a file that the job does not name.") for name in unknown]
    sizes: dict[str, tuple[int, int]] = {}
    for name in wanted:
        if name not in given:
            rule = f"`{name}`, which the job names, must be sent along as a file of that name, but is not."
            mistakes.append(Mistake("image", rule))
            continue
        try:
            sizes[name] = pictures.check_bytes(given[name], name)
        except pictures.InputError as error:
            mistakes.append(Mistake("image", str(error)))
    if mistakes:
        raise JobError(*mistakes)
    return sizes


def office() -> Office:
    """The office of the app that serves this request."""
    return cast(Office, current_app.extensions["office"])
