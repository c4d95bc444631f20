"""What every view works with: the settings, the spool, the reports, and the one way in for a job."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from flask import current_app, g

from spooler import pictures
from spooler.catalogue import Sizes
from spooler.denylist import DenyList
from spooler.dropped import owner_of
from spooler.job import Job, encode
from spooler.logs import event, whose
from spooler.mistakes import JobError, Mistake, show
from spooler.place import Place
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.states import State
from webui.index import Index
from webui.line import Line
from webui.news import News
from webui.patience import Patience
from webui.people import hurry, person
from webui.reports import Reports

log = logging.getLogger(__name__)

#: So near to the bound of waiting jobs they are counted exactly.
NEAR = 2000


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
    patience: Patience
    news: News

    def accept(
        self, job: Job, wanted_id: str | None = None, inputs: Mapping[str, bytes] | None = None, held: bool = False
    ) -> str:
        """Put the job into the queue, or among those held, durably, and return its id. `inputs` are the pictures that it names.

        Raises JobError for what no spooler can run, TakenError for an id that exists, FullError while too many wait,
        NoRoomError below the floor of free space, NotYoursError for one in somebody else's name, OSError when the disk will
        not have it.
        """
        job = person().owned(job)
        self.check_pace(1)
        self.deny_list.check(job)
        given = dict(inputs or {})
        sizes = _sizes(job, given)
        # Before any spooler told of its models there is nothing to check against; the spooler will.
        catalogue = self.reports.ready().catalogue
        if catalogue.models:
            catalogue.check(job, sizes)
        self.check_room([job])
        job_id = self.spool.submit(encode(job), wanted_id, given, "held" if held else "pending")
        told = event("submitted", job=job_id, owner=job.owner or None, held=held or None)
        log.info("job %s: submitted%s%s", job_id, whose(job.owner), ", held" if held else "", extra=told)
        g.accepted = g.get("accepted", 0) + 1
        self.news.hint(job_id)
        return job_id

    def check_pace(self, jobs: int) -> None:
        """Count so many jobs of who asks. Raises FullError when that is more than one may submit in this time."""
        if wait_s := hurry(jobs):
            what = "the job was" if jobs == 1 else f"these {jobs} were"
            raise FullError(f"You submit jobs faster than one may: {what} not accepted. Try again later.", wait_s)

    def check_room(self, jobs: Sequence[Job]) -> None:
        """Raise FullError unless all of these may wait beside those that do, NoRoomError when the disk has less free than the
        floor."""
        if rule := self._no_room():
            raise NoRoomError(f"{rule}: the job was not accepted. Try again when there is space.")
        self._check_line(jobs)

    def retry(self, job_id: str) -> Place | None:
        """As Spool.retry, for who asks: a job that waits again is one more that is submitted. Raises FullError, NoRoomError."""
        if job := self._job(job_id, "failed", "cancelled"):
            self.check_pace(1)
            self.check_room([job])
        return self.spool.retry(job_id)

    def release(self, job_id: str) -> Place | None:
        """As Spool.release. Raises FullError while as many wait as may: a job that is held is none of them."""
        if job := self._job(job_id, "held"):
            self._check_line([job])
        return self.spool.release(job_id)

    def _job(self, job_id: str, *states: State) -> Job | None:
        """That job, if it is in one of these states; None, too, for what is no job."""
        place = self.spool.find(job_id)
        with contextlib.suppress(FileNotFoundError, JobError):  # RACE: it has moved on
            return self.spool.read_job(place) if place and place.state in states else None
        return None

    def _check_line(self, jobs: Sequence[Job]) -> None:
        cap, most = self.settings.owner_waiting, self.settings.max_waiting
        # Far from the bound the line need not be brought up to date: its thread does that every second.
        if not cap and (not most or len(self.line) < most - NEAR):
            return
        told = self.spool.spoolers()
        line = self.line.jobs(told)
        retry_s = self.line.next_start_s(told)
        what = "the job was" if len(jobs) == 1 else f"these {len(jobs)} were"
        if self.settings.max_waiting and len(line) + len(jobs) > self.settings.max_waiting:
            rule = f"At most {self.settings.max_waiting} jobs may wait, and {len(line)} do"
            raise FullError(f"{rule}: {what} not accepted. Try again later.", retry_s)
        cap = self.settings.owner_waiting
        for owner, more in Counter(job.owner or owner_of(os.geteuid()) for job in jobs).items() if cap else ():
            if (number := self.line.waiting_of(owner)) + more > cap:
                rule = f"At most {cap} jobs of one owner may wait, and {number} of {show(owner)} do"
                raise FullError(f"{rule}: {what} not accepted. Try again later.", retry_s)

    def closed(self) -> str | None:
        """Why a job of anybody would not be accepted just now, in a sentence; None: it would."""
        if rule := self._no_room():
            return f"{rule}."
        most = self.settings.max_waiting
        return f"At most {most} jobs may wait, and so many do." if 0 < most <= len(self.line) else None

    def _no_room(self) -> str | None:
        free, floor = self.spool.free_bytes(), int(self.settings.floor_mib * (1 << 20))
        return f"The disk must have {floor >> 20} MiB free, but has {free >> 20}" if free < floor else None


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
