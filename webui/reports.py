"""What can be told of a job and of the spoolers, read from the spool: the pages show it, the API sends it as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from spooler.batches import Batches
from spooler.catalogue import Catalogue, merged
from spooler.durable import UnreadableError
from spooler.job import Job
from spooler.mistakes import JobError, printable
from spooler.place import Place
from spooler.priority import Given
from spooler.record import Attempt, EngineFacts, Failure, Image, Record, Timings
from spooler.schedule import Waiting
from spooler.spool import Spool
from spooler.states import ENDS, State, Status
from spooler.status import Progress, SpoolerStatus
from webui.index import Index
from webui.line import Line, Standing
from webui.search import ENDED, Ended, Search


class ImageReport(Image):
    """A picture of a job and where to get it."""

    url: str


class ProgressReport(Progress):
    """How far a running job is."""

    fraction_done: float = Field(description="From 0 to 1.")


class JobReport(BaseModel):
    """Everything about one job."""

    model_config = ConfigDict(frozen=True)

    id: str
    status: Status = Field(description="Which folder the job is in.")
    job: Job = Field(description="What was asked for, as submitted.")
    position: int | None = Field(None, description="Place in the queue, 1 is next; null unless waiting.")
    starts_in_s: float | None = Field(
        None, description="Seconds until it is thought to start, from the speeds measured so far; null when unknown."
    )
    ends_in_s: float | None = Field(
        None, description="Seconds until a waiting or running job is thought to be done; null when unknown."
    )
    waits_for: str | None = Field(None, description="What keeps a waiting job back besides the queue, in a sentence.")
    priority: int | None = Field(
        None,
        description="Its priority in the queue now, the job's own or the one it was given; null unless it waits or is held.",
    )
    top: bool = Field(False, description="Whether it was moved to the top of the queue.")
    note: str | None = Field(None, description="What else its owner should know, in a sentence.")
    starred: bool = Field(False, description="Whether it is spared from retention.")
    progress: ProgressReport | None = None
    parameters: Job | None = Field(
        None, description="What is run: every default and the seed filled in; null before it starts."
    )
    images: tuple[ImageReport, ...] = ()
    withheld: tuple[Image, ...] = Field((), description="Pictures that a safety filter keeps back.")
    sheet: str | None = Field(None, description="URL of a sweep's contact sheet.")
    preview: str | None = Field(None, description="URL of a preview of the picture at work, while the job runs.")
    failure: Failure | None = None
    queued: str | None = Field(None, description="UTC, ISO 8601.")
    started: str | None = None
    completed: str | None = None
    attempts: tuple[Attempt, ...] = ()
    retried: tuple[str, ...] = ()
    timings: Timings = Timings()
    engine: EngineFacts | None = None
    spooler: str | None = None


class JobList(BaseModel):
    """A page of jobs."""

    jobs: tuple[JobReport, ...]
    total: int | None = Field(description="How many there are in all; null when that would take long to count.")
    offset: int
    limit: int
    next_cursor: str | None = Field(None, description="`cursor` of the page with the older jobs; null: there is none.")
    previous_cursor: str | None = Field(None, description="`cursor` of the page with the newer jobs.")
    note: str | None = Field(None, description="A sentence when this is not all there is, for the index is being made.")


class RejectedReport(BaseModel):
    """A dropped file that was no valid job."""

    name: str = Field(
        description="Of the file in rejected/; with an escape for each character that is none of UTF-8, or cannot be seen."
    )
    reason: str
    at: str = Field(description="UTC, ISO 8601.")


class RejectedList(BaseModel):
    """The files in rejected/, the newest first."""

    rejected: tuple[RejectedReport, ...]


class ReadyReport(BaseModel):
    """Whether a job submitted now would run now."""

    ready: bool
    reason: str | None = Field(description="Why not, in a sentence.")
    spoolers: tuple[SpoolerStatus, ...] = Field((), description="Those that are alive; told to whoever is let in.")
    catalogue: Catalogue = Field(
        Catalogue(), description="What a job may name, as far as the spoolers have told; told to whoever is let in."
    )


class Reports:
    """Reads one spool. Safe for many threads."""

    def __init__(self, spool: Spool, line: Line, index: Index, prefix: str = ""):
        self._spool = spool
        self._prefix = prefix
        self._line = line
        self._index = index
        self._merged: tuple[list[Catalogue], Catalogue] = ([], merged([]))

    def waiting(self) -> list[Waiting]:
        """The waiting jobs, the next to run first."""
        return self._line.jobs(self._spool.spoolers())

    def job(self, job_id: str) -> JobReport | None:
        """The job of that id; None when there is none (or what lies there is no valid job)."""
        for _ in range(10):  # RACE: a job may move on between the look for it and the look at it, and again
            place = self._spool.find(job_id)
            if place is None:
                return self._coming(job_id)
            if place.state in ENDED:
                self._index.note(place.id)  # whoever looks at it will look for it in the gallery next
            try:
                return self.at(place)
            except FileNotFoundError:
                continue
            except (JobError, UnreadableError, PermissionError):
                return None
        return None

    def accepted(self, job_id: str, job: Job) -> JobReport:
        """The report on a job that this web app put into the queue just now: nothing is read that it has just written."""
        folder = self._spool.pending
        place = (
            Place(job_id, "pending", folder / job_id)
            if job.inputs
            else Place(job_id, "pending", folder / f"{job_id}.json", is_folder=False)
        )
        try:
            return self.at(place, job)
        except FileNotFoundError:
            # A spooler has it already, and may be between two folders with it: what is certain is that it was accepted.
            return self.job(job_id) or JobReport(id=job_id, status="waiting", job=job)

    def status(self, job_id: str) -> Status | None:
        """Which folder the job is in; None when there is none."""
        if place := self._spool.find_by_name(job_id) or self._spool.find(job_id):
            return place.status
        return "waiting" if self._coming(job_id) else None

    def _coming(self, job_id: str) -> JobReport | None:
        """A job of a batch that was accepted and is not in the queue yet: to whoever was told of it, it waits."""
        if row := Batches(self._spool).coming(job_id):
            return JobReport(id=job_id, status="waiting", job=row, waits_for="It is being put into the queue.")
        return None

    def jobs(self, state: State, offset: int = 0, limit: int = 50) -> tuple[list[JobReport], int]:
        """One page of the jobs of a state that is no end, and how many there are; those that came into it last are first."""
        if state == "pending":
            line = self.waiting()
            places = [self._line.place(each) for each in line[offset : offset + limit]]
            return [report for place in places if (report := self._try(place))], len(line)
        places = [place for place in self._spool.places(state) if not place.is_edited]
        return [report for place in places[offset : offset + limit] if (report := self._try(place))], len(places)

    def running(self) -> list[JobReport]:
        """The jobs at work, the one that began first at the top: their folders change with each step, and tell no order."""
        return sorted(self.jobs("claimed")[0], key=lambda report: (report.started or "", report.id))

    def waiting_of(self, owner: str, limit: int = 50) -> list[JobReport]:
        """The first waiting jobs of that owner, however far behind in the line."""
        places = [self._line.place(each) for each in self.waiting() if each.owner == owner][:limit]
        return [report for place in places if (report := self._try(place)) and report.job.owner == owner]

    def ended(
        self, states: Sequence[Ended], wanted: Search | None = None, cursor: str | None = None, limit: int = 50, offset: int = 0
    ) -> JobList:
        """One page of finished jobs, the newest first. Raises JobError for a cursor that no page gave."""
        self._index.glance()
        page = self._index.page(states, wanted, cursor, limit, offset)
        found = []
        for place in page.places:
            if report := self._try(place):
                found.append(report)
            else:
                self._index.note(place.id)  # gone since
        return JobList(
            jobs=tuple(found),
            total=page.total,
            offset=offset,
            limit=limit,
            next_cursor=page.next_cursor,
            previous_cursor=page.previous_cursor,
            note=page.note,
        )

    def at(self, place: Place, known: Job | None = None) -> JobReport:
        """The report on a job that is at that place; `known`: it came there just now, and is this.

        Raises FileNotFoundError when it moved on.
        """
        job = known or self._spool.read_job(place)
        record = self._spool.read_record(place) or Record(id=place.id)
        progress = self._spool.read_progress(place) if place.state == "claimed" else None
        if not place.job_file.exists():
            raise FileNotFoundError(place.job_file)
        images = progress.images if progress else record.images
        if place.state in ("pending", "held"):
            images = ()  # a record there may be a stranger's
        standing = Standing()
        if place.state == "pending":
            standing = self._line.standing(place.id, self._spool.spoolers(), (place, known) if known else None)
        ends_in_s = self._line.left_s(place, self._spool.spoolers()) if place.state == "claimed" else standing.ends_in_s
        return JobReport(
            id=place.id,
            status=place.status,
            job=job,
            position=standing.position,
            starts_in_s=standing.starts_in_s,
            ends_in_s=ends_in_s,
            waits_for=standing.waits_for,
            **(_ranked(job, self._spool.read_priority(place.id)) if place.state in ("pending", "held") else {}),
            starred=place.state in ENDS and (place.path / "starred").exists(),
            progress=ProgressReport(**progress.model_dump(), fraction_done=round(progress.fraction, 4)) if progress else None,
            images=tuple(
                ImageReport(**image.model_dump(), url=self.url(place.id, f"images/{image.file}"))
                for image in images
                if image.file
            ),
            withheld=tuple(image for image in images if not image.file),
            sheet=self.url(place.id, f"images/{record.sheet}") if record.sheet and place.state == "done" else None,
            preview=self.url(place.id, "preview") if progress and self._spool.has_preview(place) else None,
            queued=record.queued or self._spool.queued_at(place),
            **_shared(record),
        )

    def url(self, job_id: str, what: str) -> str:
        """Where a client finds it, from the root of the host on. No request is needed: events are made when theirs is over."""
        return f"{self._prefix}/api/v1/jobs/{job_id}/{what}"

    def lying(self) -> tuple[str, ...]:
        """Names of entries of pending/ that nobody will take, the first few, as far as the spoolers have told."""
        return tuple(sorted({name for status, alive in self._spool.spoolers() if alive for name in status.lying}))

    def rejected(self, most: int) -> tuple[RejectedReport, ...]:
        """The newest files in rejected/, so many."""
        return tuple(
            RejectedReport(name=printable(each.name), reason=each.reason, at=each.at) for each in self._spool.rejected(most)
        )

    def ready(self) -> ReadyReport:
        told = self._spool.spoolers()
        alive = tuple(status for status, lives in told if lives)
        # The living first: their default is the one, and their cards are the newer.
        catalogues = [status.catalogue for status, _ in sorted(told, key=lambda pair: not pair[1])]
        reason = why_not(alive)
        return ReadyReport(
            ready=reason is None,
            reason=reason,
            spoolers=alive,
            catalogue=self._together(catalogues),
        )

    def _together(self, catalogues: list[Catalogue]) -> Catalogue:
        """What they offer together: made anew when one of them is another, which is what a spooler that told anew has."""
        of, found = self._merged
        if len(of) != len(catalogues) or any(a is not b for a, b in zip(of, catalogues, strict=True)):
            found = merged(catalogues)
            self._merged = (catalogues, found)
        return found

    def _try(self, place: Place) -> JobReport | None:
        try:
            return self.at(place)
        except (FileNotFoundError, JobError, UnreadableError, PermissionError):
            return None


def _shared(record: Record) -> dict[str, Any]:
    names = ("parameters", "failure", "started", "completed", "attempts", "retried", "timings", "engine", "spooler")
    return {name: getattr(record, name) for name in names}


def _ranked(job: Job, given: Given) -> dict[str, Any]:
    value = given.value if isinstance(given.value, int) else job.priority
    return {"priority": value, "top": given.value == "top", "note": given.mistake or None}


#: Why nothing is begun while the queue is paused; a page says it in its own way, for an operator and for everybody else.
PAUSED = "The queue is paused: Resume on the page Queue, or removing the file PAUSE, lets it go on."


def why_not(alive: Sequence[SpoolerStatus]) -> str | None:
    """Why a job submitted now would not run now, in a sentence; None when it would. `alive`: the spoolers that are."""
    if any(status.takes_jobs for status in alive):
        return None
    if not alive:
        return "No spooler is running: jobs wait until one is started."
    for status in alive:
        if status.state == "failing":
            return f"The engine of {status.spooler} cannot start: {status.reason}"
        if status.state == "ready" and status.reason:
            return status.reason
        if status.paused:
            return PAUSED
    return "The engine is loading its model."
