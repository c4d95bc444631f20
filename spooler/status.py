"""What a spooler tells while it works: its own state, in claimed/<spooler>/spooler.json, and a job's progress beside the job.

Both are written for readers, nothing is decided by them: whether a spooler lives is told by its lock, where a job is by its
folder.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator

from spooler.catalogue import Catalogue
from spooler.moments import Moment
from spooler.record import EngineFacts, Image, Whole

#: What the engine is at: loading another model, in the denoising loop, the VAE, the upscaler, or writing files.
Phase = Literal["load", "denoise", "decode", "upscale", "encode"]


class _Note(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Progress(_Note):
    """How far the running job is: progress.json."""

    phase: Literal["starting"] | Phase = "starting"
    image: Whole = Field(0, description="Index of the picture at work, or of the first of the batch, from 0.")
    batch: Whole = Field(1, description="Number of pictures that are drawn together.")
    count: int = Field(1, ge=1, lt=1 << 63)
    step: Whole = 0
    steps: Whole = 0
    images: tuple[Image, ...] = Field((), description="The pictures that are finished.")

    @property
    def fraction(self) -> float:
        """From 0 to 1 over all pictures; a picture's last twentieth is its decoding and encoding."""
        if self.phase in ("starting", "load"):
            return len(self.images) / self.count
        within = 0.95 * self.batch * (min(1.0, self.step / self.steps) if self.steps else 0.0)
        return min(1.0, max(len(self.images), self.image + within) / self.count)


EngineState = Literal["starting", "ready", "failing"]


class LaneStatus(_Note):
    """One engine of a spooler that has several, or a worker elsewhere."""

    name: str = Field("", description="The worker's; an engine of the spooler's own has none.")
    device: str
    state: EngineState
    reason: str | None = None
    running: tuple[str, ...] = ()
    engine: EngineFacts | None = None


class SpoolerStatus(_Note):
    """What a spooler is doing: spooler.json."""

    spooler: str
    host: str
    started: Moment
    beat: Moment = Field(description="When this was written, UTC.")
    state: Literal["starting", "ready", "failing", "stopped"] = Field(
        description="starting: the engine loads; ready: it is warm; failing: it cannot start, see reason."
    )
    reason: str | None = None
    paused: bool = False
    running: tuple[str, ...] = Field((), description="Ids of the jobs on the device: those that are drawn together.")
    watching: str = Field("events", description="How new jobs are noticed: file events, or polling.")
    waiting: Whole = Field(0, description="Number of jobs in pending/ that it knows of.")
    lying: tuple[str, ...] = Field((), description="Names of entries of pending/ that nobody will take, the first few.")
    last_turn: dict[str, int] = Field({}, description="Number of the last turn of the owners served last.")
    speeds: dict[str, FiniteFloat] = Field({}, description="Measured seconds a megapixel-step, by model.")
    engine: EngineFacts | None = Field(None, description="Of several engines, the first that works.")
    lanes: tuple[LaneStatus, ...] = Field((), description="Its engines, when there are several, or its workers elsewhere.")
    catalogue: Catalogue = Catalogue()

    @field_validator("running", mode="before")
    @classmethod
    def _of_an_older_one(cls, running: Any) -> Any:
        """One that ran a single job at a time told its id, or null."""
        return (running,) if isinstance(running, str) else running or ()

    @property
    def engines(self) -> tuple[LaneStatus, ...]:
        """Its engines; one that has one has told of it without this form."""
        if self.lanes:
            return self.lanes
        state: EngineState = "ready" if self.engine else "failing" if self.state == "failing" else "starting"
        device = self.engine.device if self.engine else ""
        return (LaneStatus(device=device, state=state, reason=self.reason, running=self.running, engine=self.engine),)

    @property
    def takes_jobs(self) -> bool:
        """Whether a job submitted now would run, if it lives. A warm engine with a reason has no room on the disk."""
        return self.state == "ready" and not self.paused and not self.reason
