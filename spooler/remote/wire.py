"""What a spooler and its workers say to each other: JSON, checked by both sides, with no secret and no address in it.

A task names its job's pictures by their names alone: where they lie follows from the task's own id (`Name.folder`), so that no
message can lead a worker anywhere else (P9).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from spooler import messages
from spooler.ids import ID
from spooler.job import MAX_INPUTS, MAX_PICTURES
from spooler.mistakes import printable
from spooler.record import EngineFacts, Image, Text, Whole

_TASK = re.compile(r"(?P<job>.+)\.(?P<attempt>[1-9]\d{0,8})\.(?P<token>[0-9a-f]{12})")
#: What is longer was written by no sdspool. Whoever holds Redis' password can write anything.
MAX_SLOTS = 1024
MAX_PREVIEW_BYTES = 256 << 10
#: Of a file: more than the largest picture that a job may make has when nothing of it can be compressed.
MAX_FILE_BYTES = 256 << 20
#: Of what Redis holds, bytes: of a heartbeat, of a try's key, of a result with all its pictures.
MAX_BEAT_BYTES, MAX_KEY_BYTES, MAX_RESULT_BYTES = 1 << 20, 4096, 16 << 20
MAX_REASON, MAX_DETAILS, MAX_TROUBLE = 2000, 100_000, 300
#: Pictures that one message tells of while their job is being drawn.
MAX_MADE = 16
_CODE = re.compile("[a-z_]{1,40}")
_SPOOLER = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # of an older or a newer sdspool


@dataclass(frozen=True)
class Name:
    """The id of a task, `<job>.<attempt>.<token>`. The token makes it one of its kind: the same job's id may come again."""

    job: str
    attempt: int
    token: str

    @classmethod
    def new(cls, job: str, attempt: int) -> Name:
        return cls(job, attempt, secrets.token_hex(6))

    @classmethod
    def parse(cls, text: str) -> Name:
        """Raises ValueError for what is no such id."""
        found = _TASK.fullmatch(text)
        if not found or not ID.fullmatch(found["job"]):
            raise ValueError(f"must be <job>.<attempt>.<token>, but is {text[:200]!a}")
        return cls(found["job"], int(found["attempt"]), found["token"])

    def __str__(self) -> str:
        return f"{self.job}.{self.attempt}.{self.token}"

    def folder(self, spooler: str) -> str:
        """Where its pictures lie in the store, below the store's own prefix."""
        return f"{spooler}/{self.job}/{self.attempt}.{self.token}"


class File(_Told):
    """A file of a job, in the store."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    size: int = Field(ge=0, le=MAX_FILE_BYTES, description="Bytes.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @classmethod
    def of(cls, name: str, data: bytes) -> File:
        return cls(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())

    def is_of(self, data: bytes) -> bool:
        """Whether these are its bytes."""
        return len(data) == self.size and hashlib.sha256(data).hexdigest() == self.sha256


class Task(_Told):
    """One try at a job, as Celery carries it. Its `run.folder` is empty: that is the worker's affair."""

    spooler: str = Field(pattern=_SPOOLER)
    run: messages.Run
    inputs: tuple[File, ...] = Field((), max_length=MAX_INPUTS)

    @field_validator("run")
    @classmethod
    def _has_its_cells(cls, run: messages.Run) -> messages.Run:
        if len(run.cells) != len(run.job.cells()):
            raise ValueError(f"a job of {len(run.job.cells())} cells must come with as many, but has {len(run.cells)}")
        return run


class Result(_Told):
    """How a try ended; of one that is finished also what it made."""

    worker: Text
    end: Annotated[messages.Finished | messages.Failed | messages.Lost, Field(discriminator="type")]
    images: tuple[Image, ...] = Field((), max_length=MAX_PICTURES)
    files: tuple[File, ...] = Field((), max_length=MAX_PICTURES + 1)

    @field_validator("end")
    @classmethod
    def _fits_a_record(
        cls, end: messages.Finished | messages.Failed | messages.Lost
    ) -> messages.Finished | messages.Failed | messages.Lost:
        """The end with what it says cut to what a record and a label hold, and plain: it is printed on terminals."""
        if isinstance(end, messages.Failed):
            details = "\n".join(map(printable, end.details[:MAX_DETAILS].split("\n")))[:MAX_DETAILS]
            code = end.code if _CODE.fullmatch(end.code) else "unknown"
            return end.model_copy(update={"code": code, "reason": _plain(end.reason), "details": details})
        return end.model_copy(update={"how": _plain(end.how)}) if isinstance(end, messages.Lost) else end


class Made(_Told):
    """A picture of a job that is still being drawn."""

    image: Image
    file: File | None = Field(None, description="As it lies in the store; null for one that was withheld.")

    def fits(self, run: messages.Run) -> bool:
        """Whether it can be one of that job's."""
        return image_fits(self.image, run) and self.image.file == (self.file.name if self.file else "")


class Said(_Told):
    """What is told meanwhile, and may be missed: all that counts comes with the result once more."""

    task: Text
    progress: messages.Progress | None = None
    made: tuple[Made, ...] = Field((), max_length=MAX_MADE, description="Pictures that were not told of yet.")
    preview: str | None = Field(None, max_length=2 * MAX_PREVIEW_BYTES, description="The picture at work, as a JPEG in base64.")
    ended: bool = Field(False, description="Whether its result is there to be fetched.")


class Beat(_Told):
    """A worker lives, and this is what it has."""

    worker: str = Field(pattern=r"^[\w.-]+$", max_length=300)
    number: Whole = Field(description="Of this heartbeat: one that is read twice tells nothing new.")
    host: Text
    slots: int = Field(ge=0, le=MAX_SLOTS, description="Most tasks that it has at the same time.")
    tasks: tuple[Text, ...] = Field((), max_length=2 * MAX_SLOTS)
    facts: EngineFacts | None = Field(None, description="Of the model that ran last; null while the engine loads.")
    trouble: Annotated[str, Field(max_length=MAX_TROUBLE)] | None = None

    @property
    def free(self) -> int:
        return max(0, self.slots - len(self.tasks)) if self.facts else 0


def image_fits(image: Image, run: messages.Run) -> bool:
    """Whether it can be one of that job's pictures, under our own name or withheld."""
    is_placed = not image.cell or bool(run.job.values_at(image.cell))
    return image.index < run.job.pictures and image.file in ("", f"{image.index}.png") and is_placed


def _plain(text: str) -> str:
    return printable(text[:MAX_REASON])[:MAX_REASON]
