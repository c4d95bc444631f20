"""What the spooler and the engine say to each other: one JSON object a line, plain enough to read in a log.

    spooler -> engine   Run, Cancel, Stop
    engine -> spooler   Ready | Refused, then for each job Progress and ImageDone until Finished, Failed or Lost;
                        Room, Trouble and Crew in between

All but Stop and OfItself's carry a job's id: several jobs may run in one engine, when it has said that there is room.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from spooler.job import Job
from spooler.record import EngineFacts, Image, Text, Timings, Whole
from spooler.status import LaneStatus, Phase


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True)

    def line(self) -> bytes:
        return self.model_dump_json().encode() + b"\n"


class Run(_Message):
    """Run a job: one cell, or those of its sweep, every field filled in. Its pictures go into `folder` as 0.png, 1.png, ..."""

    type: Literal["run"] = "run"
    id: str
    folder: str
    job: Job
    cells: tuple[Job, ...]
    attempt: int = Field(1, description="Number of this try at it: what an earlier one still has to say is not heard.")
    alone: bool = Field(False, description="Whether it must share nothing with another job: it may be what ends the process.")


class Cancel(_Message):
    """Stop a job at its next step; it then ends with Failed(code="cancelled")."""

    type: Literal["cancel"] = "cancel"
    id: str


class Stop(_Message):
    """End the process at the next step, whatever it is doing."""

    type: Literal["stop"] = "stop"


class OfItself(_Message):
    """What an engine tells of itself, whatever the job."""


class Ready(OfItself):
    """The model is loaded on its device and warm."""

    type: Literal["ready"] = "ready"
    facts: EngineFacts


class Refused(OfItself):
    """The engine cannot work here as configured, and trying again will not help: no weights, no GPU."""

    type: Literal["refused"] = "refused"
    reason: str


class Room(OfItself):
    """How many more jobs may be given now that are like those at work (company.py). One that has none may be given one."""

    type: Literal["room"] = "room"
    heard: int = Field(description="Number of Run messages that were heard by then: later ones take of the room.")
    jobs: int
    ending: bool = Field(False, description="All at work is nearly over: one of any kind may be given, to be begun then.")


class Trouble(OfItself):
    """Why no job can be drawn just now though the engine itself is well, for people to read; null: that is over."""

    type: Literal["trouble"] = "trouble"
    reason: str | None


class Crew(OfItself):
    """Who draws what is sent on, of one that draws nothing itself."""

    type: Literal["crew"] = "crew"
    workers: tuple[LaneStatus, ...]


class Lost(_Message):
    """What drew this one job is gone, and nothing more will be heard of the try; the engine's other jobs go on."""

    type: Literal["lost"] = "lost"
    id: str
    how: str
    alone: bool = Field(True, description="Whether nothing else was drawn there, so that the job itself may be the reason.")
    blame: bool = Field(True, description="Whether an engine was lost over it; else what carries jobs to and fro failed.")


class Progress(_Message):
    """A sign of life, with how far the job is."""

    type: Literal["progress"] = "progress"
    id: str
    phase: Phase
    image: Whole
    batch: Whole = 1
    step: Whole
    steps: Whole


class ImageDone(_Message):
    """Picture `image.file` is in the folder, whole."""

    type: Literal["image"] = "image"
    id: str
    image: Image


class Finished(_Message):
    """All pictures are in the folder."""

    type: Literal["finished"] = "finished"
    id: str
    timings: Timings
    facts: EngineFacts
    sheet: Text | None = None
    grown_bytes: int = Field(0, description="Resident memory now, less what it was when a model was last loaded.")


class Failed(_Message):
    """The job ended without its pictures; `details` is for the operator, `reason` for whoever asked."""

    type: Literal["failed"] = "failed"
    id: str
    code: str
    reason: str
    details: str = ""
    facts: EngineFacts | None = None
    grown_bytes: int = 0
    errno: int | None = Field(None, description="What the disk answered, where it was that: durable.PASSING is tried again.")
    fatal: bool = Field(False, description="Whether the process is of no more use: it ends now.")


ToEngine = Annotated[Run | Cancel | Stop, Field(discriminator="type")]
FromEngine = Annotated[
    Ready | Refused | Room | Trouble | Crew | Progress | ImageDone | Finished | Failed | Lost, Field(discriminator="type")
]

to_engine: TypeAdapter[ToEngine] = TypeAdapter(ToEngine)
from_engine: TypeAdapter[FromEngine] = TypeAdapter(FromEngine)
