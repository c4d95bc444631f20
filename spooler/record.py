"""A record: what happened to a job. It lies beside the job as record.json; where the job is now is told by its folder alone.

Times are UTC in ISO 8601 with milliseconds; durations are seconds.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from spooler.job import Job
from spooler.moments import Moment

#: How the outcomes of attempts begin that ended with the engine's process: under one job, and under several.
WORKER_DIED, COMPANY_DIED = "worker-died", "company-died"
#: And how those begin that never came back from another host, though no engine died: its way there and back failed.
UNDELIVERED = "undelivered"
#: Numbers to be reckoned with and texts to be shown, whoever wrote them: an engine on another host may say anything.
Whole = Annotated[int, Field(ge=0, lt=1 << 63)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Text = Annotated[str, Field(max_length=300)]
#: Attempts that used nothing up which a record keeps, the last ones: there is no bound on how many there may be.
MAX_UNCOUNTED = 100


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # an older sdspool may read a newer one's record


class Attempt(_Part):
    """One try at a job. It is on disk before the engine hears of the job; an end that is missing means the spooler died."""

    number: int
    started: Moment
    ended: Moment | None = None
    outcome: str | None = Field(
        None,
        description='"done", "stopped" (the spooler was told to stop), "no-room" (the disk was full), or why it ended; '
        '"company-died: ..." when the engine died under several jobs, of which nobody knows which one it was; '
        '"undelivered: ..." when it was sent to another host and what carries jobs there and back lost it.',
    )

    @property
    def counts(self) -> bool:
        """Whether it uses up one of the job's attempts: all do but those that the operator, a full disk or the way to another
        host stopped, and one in company that nobody can be blamed for: a job has at most one such, for it is alone from then.
        """
        stopped = self.outcome in ("stopped", "no-room") or (self.outcome or "").startswith(UNDELIVERED)
        return not stopped and not self.is_shared_death

    @property
    def is_shared_death(self) -> bool:
        """Whether the engine died under this job and others."""
        return (self.outcome or "").startswith(COMPANY_DIED)

    @property
    def is_suspect(self) -> bool:
        """Whether the job may have been what ended the engine, or the spooler."""
        return self.is_shared_death or (self.outcome or "").startswith(WORKER_DIED)


class Flag(_Part):
    """What a safety filter said of a picture, and what became of it."""

    layer: Text
    label: Text
    score: FiniteFloat
    action: Literal["withhold", "blur"]


class Image(_Part):
    """One picture of a job."""

    file: Text = Field(description="Its name in the job's folder; empty when it was withheld.")
    index: Whole = Field(0, description="Its number among the job's pictures, from 0.")
    seed: Whole
    width: Whole = Field(description="Pixels.")
    height: Whole = Field(description="Pixels.")
    pixels: Text | None = Field(None, description="SHA-256 over the RGB bytes, row by row: what `sdspool replay` compares.")
    cell: tuple[Whole, ...] = Field((), max_length=100, description="Of a sweep: index of the value on each of its axes.")
    flagged: Flag | None = Field(None, description="Set when a safety filter flagged it; withheld, it has no file.")
    stored: str | None = Field(
        None,
        max_length=4096,
        description="Where it lies in the object store too, when it came from another host by way of one.",
    )


class Timings(_Part):
    """Where the seconds went, summed over the pictures."""

    queue: Seconds = 0.0
    load: Seconds = 0.0
    denoise: Seconds = 0.0
    decode: Seconds = 0.0
    encode: Seconds = 0.0


class EngineFacts(_Part):
    """What ran the job: the model, the device and the versions that a picture depends on."""

    model: Text
    hash: Text = Field(description="SHA-256 over the model's weight files; the first ten digits are the short hash.")
    family: Text
    device: Text
    device_name: Text
    precision: Text
    versions: Annotated[dict[Text, Text], Field(max_length=100)]
    load_seconds: Seconds
    memory: Text = Field("", description="The memory tricks that were on when the job ended.")
    rung: Text | None = Field(
        None, description="The rung of the out-of-memory ladder that it took; null when all fitted at once."
    )
    peak_bytes: int | None = Field(
        None, lt=1 << 63, description="Most memory that was in use during the job: of the GPU, else of the process."
    )
    shared: int = Field(
        1,
        ge=1,
        lt=1 << 63,
        description="Most pictures that were in one call of the model's network while this job was drawn, its own among them.",
    )
    swaps: int = Field(0, lt=1 << 63, description="How many models this engine had loaded by then, after its first.")


class Failure(_Part):
    """Why a job ended without its pictures: a code for programs, a sentence for people."""

    code: str
    reason: str


class Record(_Part):
    """All that is known of a job besides the job itself."""

    id: str
    given_name: str | None = Field(None, description="The dropped file's name, where the id had to differ from it.")
    spooler: str | None = None
    queued: Moment | None = None
    started: Moment | None = None
    completed: Moment | None = None
    attempts: tuple[Attempt, ...] = ()
    retried: tuple[Moment, ...] = Field((), description="When somebody sent the failed job back to the queue.")
    edited: tuple[Moment, ...] = Field((), description="When somebody changed the waiting job; submitted.json is as it came.")
    parameters: Job | None = Field(None, description="The job with every default and the seed filled in.")
    engine: EngineFacts | None = None
    images: tuple[Image, ...] = ()
    sheet: Text | None = Field(None, description="File of a sweep's contact sheet.")
    timings: Timings = Timings()
    failure: Failure | None = None

    @property
    def files(self) -> set[str]:
        """Names of the files that it lists: the pictures and the contact sheet."""
        return {name for name in (*(image.file for image in self.images), self.sheet) if name}

    @property
    def tries(self) -> int:
        """How many attempts there were, those that it no longer keeps among them."""
        return self.attempts[-1].number if self.attempts else 0

    @property
    def attempts_used(self) -> int:
        """The attempts that count against the bound: those since the last retry that were not stopped by the operator."""
        return sum(attempt.counts for attempt in self._since_retry)

    @property
    def is_suspect(self) -> bool:
        """Whether an engine died under it since the last retry: it may have been the reason, and takes nobody along again."""
        return any(attempt.is_suspect for attempt in self._since_retry)

    @property
    def _since_retry(self) -> list[Attempt]:
        since = self.retried[-1] if self.retried else ""
        return [attempt for attempt in self.attempts if attempt.started >= since]

    @property
    def queue_seconds(self) -> float:
        """From the submission, or the last retry, to the start of the running attempt."""
        came = self.retried[-1] if self.retried else self.queued
        if not came or not self.started:
            return 0.0
        return max(0.0, (datetime.fromisoformat(self.started) - datetime.fromisoformat(came)).total_seconds())

    @property
    def seconds(self) -> float:
        """From the start of the last attempt to the end of the job."""
        if not self.started or not self.completed:
            return 0.0
        return max(0.0, (datetime.fromisoformat(self.completed) - datetime.fromisoformat(self.started)).total_seconds())

    def claimed_by(self, spooler: str, job_id: str, given_name: str) -> Record:
        """The record once a spooler has the job, which it found as pending/<given_name>, if it did find it there."""
        differs = given_name not in ("", job_id, f"{job_id}.json")
        printable = os.fsencode(given_name).decode(errors="backslashreplace")  # a file's name may be no UTF-8
        return self._with(spooler=spooler, id=job_id, given_name=printable if differs else self.given_name)

    def begin_attempt(self, parameters: Job, engine: EngineFacts) -> Record:
        """The record to store before the engine is touched."""
        now = utc_now()
        attempt = Attempt(number=self.tries + 1, started=now)
        return self._with(
            started=now,
            parameters=parameters,
            engine=engine,
            attempts=(*_kept(self.attempts), attempt),
            images=(),
            sheet=None,
            failure=None,
        )

    def end_attempt(self, outcome: str) -> Record:
        """The record after the running attempt ended, however it did."""
        if not self.attempts or self.attempts[-1].ended:
            return self
        ended = self.attempts[-1].model_copy(update={"ended": utc_now(), "outcome": outcome})
        return self._with(attempts=(*self.attempts[:-1], ended))

    def finish(
        self, images: tuple[Image, ...], timings: Timings, engine: EngineFacts | None = None, sheet: str | None = None
    ) -> Record:
        """The record of a job that is done; `engine` is what ran it in the end, when that is known better than at the start."""
        record = self.end_attempt("done")
        return record._with(completed=utc_now(), images=images, timings=timings, engine=engine or record.engine, sheet=sheet)

    def fail(self, code: str, reason: str, engine: EngineFacts | None = None) -> Record:
        failure = Failure(code=code, reason=reason)
        record = self.end_attempt(code)
        return record._with(completed=utc_now(), failure=failure, engine=engine or record.engine)

    def published_as(self, job_id: str) -> Record:
        """The record under the id that the job is shown by."""
        return self if job_id == self.id else self._with(id=job_id)

    def retry(self) -> Record:
        return self._with(retried=(*self.retried, utc_now()), completed=None)

    def edit(self) -> Record:
        return self._with(edited=(*self.edited, utc_now()))

    def encode(self) -> bytes:
        return self.model_dump_json(indent=2).encode() + b"\n"

    @classmethod
    def decode(cls, raw: bytes) -> Record:
        """Raises pydantic.ValidationError for bytes that no sdspool wrote."""
        return cls.model_validate_json(raw)

    def _with(self, **changes: Any) -> Record:
        return self.model_copy(update=changes)


def _kept(attempts: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
    """All that decide anything, and the last of the others."""
    others = [attempt for attempt in attempts if not (attempt.counts or attempt.is_suspect)]
    old = {attempt.number for attempt in others[:-MAX_UNCOUNTED]}
    return tuple(attempt for attempt in attempts if attempt.number not in old) if old else attempts


def utc_now() -> str:
    return iso(datetime.now(UTC))


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
