"""What every view works with: the settings, the spool, the reports, and the one way in for a job."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from flask import current_app

from spooler import pictures
from spooler.catalogue import Sizes
from spooler.denylist import DenyList
from spooler.job import Job, encode
from spooler.mistakes import JobError, Mistake, show
from spooler.pending import owner_of
from spooler.settings import Settings
from spooler.spool import Spool
from webui.index import Index
from webui.line import Line
from webui.reports import Reports


class FullError(RuntimeError):
    """As many jobs wait as may: met by whoever submits one more, with the seconds after which to try again."""

    def __init__(self, message: str, retry_s: float):
        super().__init__(message)
        self.retry_s = retry_s


class NoRoomError(RuntimeError):
    """The disk has less free than the floor: met by whoever submits a job."""


@dataclass(frozen=True)
class Office:
    """One app's desk: it takes jobs in and tells what became of them."""

    settings: Settings
    spool: Spool
    reports: Reports
    line: Line
    index: Index
    deny_list: DenyList

    def accept(self, job: Job, wanted_id: str | None = None, inputs: Mapping[str, bytes] | None = None) -> str:
        """Put the job into the queue, durably, and return its id. `inputs` are the pictures that it names.

        Raises JobError for what no spooler can run, TakenError for an id that exists, FullError while too many wait,
        NoRoomError below the floor of free space, OSError when the disk will not have it.
        """
        self.deny_list.check(job)
        given = dict(inputs or {})
        sizes = _sizes(job, given)
        # Before any spooler told of its models there is nothing to check against; the spooler will.
        catalogue = self.reports.ready().catalogue
        if catalogue.models:
            catalogue.check(job, sizes)
        self._check_room(job)
        return self.spool.submit(encode(job), wanted_id, given)

    def _check_room(self, job: Job) -> None:
        """Raise FullError when as many jobs wait as may, NoRoomError when the disk has less free than the floor."""
        free, floor = self.spool.free_bytes(), int(self.settings.floor_mib * (1 << 20))
        if free < floor:
            rule = f"The disk must have {floor >> 20} MiB free, but has {free >> 20}"
            raise NoRoomError(f"{rule}: the job was not accepted. Try again when there is space.")
        told = self.spool.spoolers()
        line = self.line.jobs(told)
        retry_s = self.line.next_start_s(told)
        if self.settings.max_waiting and len(line) >= self.settings.max_waiting:
            rule = f"At most {self.settings.max_waiting} jobs may wait, and {len(line)} do"
            raise FullError(f"{rule}: the job was not accepted. Try again later.", retry_s)
        cap = self.settings.owner_waiting
        owner = job.owner or owner_of(os.geteuid())
        if cap and (number := self.line.waiting_of(owner)) >= cap:
            rule = f"At most {cap} jobs of one owner may wait, and {number} of {show(owner)} do"
            raise FullError(f"{rule}: the job was not accepted. Try again later.", retry_s)


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
