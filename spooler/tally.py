"""What a spooler counts of the jobs that it ended, in claimed/<spooler>/tally.json: the web apps' /metrics tell it on.

The count goes on through restarts, so it never goes down while the file lies there. It is for watching, not for keeping books:
killed between the end of a job and the file, a spooler has counted one too few, and of what ends no job (attempts, those that
broke, files set aside) those of the last two seconds.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, model_validator

from spooler.record import Record
from spooler.states import End

#: Upper bounds in seconds: from a picture of the demo model to a night in the queue.
BOUNDS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 43200.0)
TALLY = "tally.json"
MAX_BYTES = 1 << 18
#: Codes of failures that are told apart. There are a dozen; whatever else there may be is counted as "other".
MAX_CODES = 50
#: No count of anything is larger; a larger one is no number of Prometheus.
Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Spread(_Told):
    """How many took how long: `counts[n]` at most `bounds[n]` seconds and more than the bound before; the last: longer."""

    bounds: tuple[float, ...] = Field(BOUNDS, max_length=100)
    counts: tuple[Count, ...] = (0,) * (len(BOUNDS) + 1)
    sum: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _fits(self) -> Spread:
        if list(self.bounds) != sorted(set(self.bounds)) or len(self.counts) != len(self.bounds) + 1:
            raise ValueError("the bounds must rise, and there must be one count more than bounds")
        return self

    def add(self, seconds: float) -> Spread:
        at = bisect_left(self.bounds, seconds)
        counts = (*self.counts[:at], self.counts[at] + 1, *self.counts[at + 1 :])
        return self.model_copy(update={"counts": counts, "sum": self.sum + seconds})


class Tally(_Told):
    """All that one spooler has counted."""

    ended: dict[End, Count] = Field({}, description="Jobs, by how they ended.")
    failures: dict[str, Count] = Field({}, max_length=MAX_CODES + 1, description="Failed jobs by the code of the reason.")
    attempts: Count = 0
    broken: Count = Field(0, description="Attempts that ended without an end of the job, which is tried again.")
    rejected: Count = Field(0, description="Dropped files that were no valid job.")
    pictures: Count = 0
    batch: Count = Field(0, description="Most pictures in one call of the network, in the job that was done last.")
    waited: Spread = Field(Spread(), description="Seconds in the queue, of each job that began, at its first attempt.")
    ran: Spread = Field(Spread(), description="Seconds from start to end of those that were done.")

    def with_attempt(self, record: Record) -> Tally:
        """One attempt more; `record` is as it is stored before the engine hears of it."""
        is_first = record.attempts_used <= 1
        waited = self.waited.add(record.queue_seconds) if is_first else self.waited
        return self.model_copy(update={"attempts": self.attempts + 1, "waited": waited})

    def with_end(self, record: Record, end: End, batch: int = 1) -> Tally:
        """One job more that ended; `batch`: most pictures, of whichever jobs, that were drawn together with its own."""
        changes: dict[str, object] = {"ended": self.ended | {end: self.ended.get(end, 0) + 1}}
        if end == "failed":
            code = record.failure.code if record.failure else "unknown"
            code = code if code in self.failures or len(self.failures) < MAX_CODES else "other"
            changes["failures"] = self.failures | {code: self.failures.get(code, 0) + 1}
        if end == "done":
            changes["pictures"] = self.pictures + len(record.images)
            changes["ran"] = self.ran.add(record.seconds)
            changes["batch"] = batch
        return self.model_copy(update=changes)

    def with_rejected(self, more: int = 1) -> Tally:
        return self.model_copy(update={"rejected": self.rejected + more})

    def with_broken(self) -> Tally:
        return self.model_copy(update={"broken": self.broken + 1})
