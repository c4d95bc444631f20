"""Notices of jobs' ends, and the outbox in which they wait on disk until somebody took them.

The outbox is claimed/<spooler>/.outbox/, one small file a notice and target. It is written before the rename that publishes
the job: a crash between the two leaves a notice too many, which `verdict` finds out, and never one too few. So each end is told
at least once, under an id that is the same each time, by which a receiver drops doubles.

    put      the letters of one end, durable, before the job is published
    verdict  look whether the end that a letter tells of was really published
    forget   it was taken, or its end never came to be
    set_aside  nobody takes it: into .outbox/dead/, the last hundred are kept
    adopt    the letters of a dead spooler into the outbox of a living one, by renames
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spooler import durable, targets
from spooler.place import Place
from spooler.record import Failure, Record
from spooler.settings import Settings
from spooler.states import ENDS, End

log = logging.getLogger(__name__)

OUTBOX = ".outbox"
DEAD = "dead"
#: Letters that were given up and are kept for the operator to look at.
MAX_DEAD = 100
#: More than the longest prompt and 64 pictures take, even if each letter is escaped.
MAX_LETTER_BYTES = 1 << 20

#: What becomes of a letter: send it, drop it for what it tells of never came to be, or look again later.
Verdict = Literal["send", "drop", "wait"]


class Notice(BaseModel):
    """What a receiver is told: the body of the POST, and the standard input of the command."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(description="The same however often it is sent; other for every other end of a job.")
    event: str = Field(description='"job.done", "job.failed" or "job.cancelled".')
    job: str = Field(description="The job's id.")
    state: End = Field(description="The folder that the job is in now.")
    owner: str
    prompt: str
    images: tuple[str, ...] = Field(description="Names of the pictures in the job's folder.")
    failure: Failure | None
    spooler: str
    at: str | None = Field(description="When the job ended, UTC.")


class Letter(BaseModel):
    """A notice for one target, as it lies in the outbox, with what was tried."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    notice: Notice
    target: str = Field(description="Key of the target: whom it names, the settings alone say.")
    attempts: int = Field(description="Attempts that the job had when it ended so.")
    retries: int = Field(description="How often the job had been sent back to the queue by then.")
    tried: int = Field(0, description="Tries to deliver it that failed.")
    waited_s: float = Field(0.0, description="Seconds that it was left alone between tries, all together.")
    seen: bool = Field(False, description="Whether the job was seen where the notice says that it is.")

    @property
    def name(self) -> str:
        """Its file's name. The same end told to the same target has the same, so that it never lies there twice."""
        return f"{self.notice.id}.{self.target}.json"


def notices_for(record: Record, state: End, settings: Settings, owner: str = "") -> tuple[Letter, ...]:
    """The letters to write before the job is published to `state`: one for each target; none for an end that is not told.

    `owner` is whose the job is when it does not say so itself: the user whose file it was.
    """
    if state not in targets.told_of(settings):
        return ()
    text = f"{record.id}\n{state}\n{record.completed}\n{record.tries}\n{record.spooler}"
    notice = Notice(
        id=hashlib.sha256(text.encode()).hexdigest()[:32],
        event=f"job.{state}",
        job=record.id,
        state=state,
        owner=(record.parameters.owner if record.parameters else "") or owner,
        prompt=record.parameters.prompt if record.parameters else "",
        images=tuple(image.file for image in record.images if image.file) if state == "done" else (),
        failure=record.failure,
        spooler=record.spooler or "",
        at=record.completed,
    )
    attempts, retries = record.tries, len(record.retried)
    return tuple(
        Letter(notice=notice, target=target.key, attempts=attempts, retries=retries) for target in targets.targets(settings)
    )


def verdict(letter: Letter, place: Place | None, record: Record | None) -> Verdict:
    """What to do with a letter, by where its job is now. No clock is asked.

    A letter is written before its job is published. So a job that is not yet where the letter says proves nothing; only what
    can not be after that end was published does: a newer attempt that nobody asked for, or another end.
    """
    if letter.seen:
        return "send"
    if place is None:
        return "wait"
    if record and len(record.retried) > letter.retries:
        return "send"  # only a job that had ended can be sent back to the queue: it was there
    if place.state == letter.notice.state:
        return "send" if record is None or record.completed == letter.notice.at else "drop"
    if place.state in ENDS:
        return "drop"
    return "drop" if record and record.tries > letter.attempts else "wait"


class Outbox:
    """The letters of one spooler. `put` is called by the thread that publishes, the rest by the one that delivers."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.dead = folder / DEAD

    def put(self, letters: Sequence[Letter]) -> None:
        """Have the disk keep the letters of one end. Publish the job only when this has returned.

        Raises OSError when the disk will not have them: then the job is not to be published yet, as with a record that
        cannot be written. Doing it again for the same end is harmless.
        """
        if not letters:
            return
        if not self.folder.is_dir():
            self.folder.mkdir(exist_ok=True)
            durable.sync_folder(self.folder.parent)
        for letter in letters:
            # Always a new file: one whose folder could not be synced the last time must not be trusted (W5).
            draft = self.folder / f".{letter.name}.{durable.unique_name()}"
            durable.write_new(draft, letter.model_dump_json().encode())
            draft.replace(self.folder / letter.name)
        durable.sync_folder(self.folder)

    def tidy(self) -> None:
        """Remove what a killed writer left half written. The caller is the only writer: it holds the spooler's life lock."""
        for name in _listing(self.folder):
            if name.startswith("."):
                self.forget(name)

    def names(self) -> list[str]:
        """The names of the letters, in no order."""
        return [name for name in _listing(self.folder) if name.endswith(".json") and not name.startswith(".")]

    def read(self, name: str) -> Letter | None:
        """None when it is gone. Raises ValueError for a file that no sdspool wrote, OSError for one that cannot be read."""
        try:
            raw = durable.read_small(self.folder / name, MAX_LETTER_BYTES)
        except FileNotFoundError:
            return None
        try:
            return Letter.model_validate_json(raw)
        except ValidationError as error:
            raise ValueError(f"not a notice: {error.error_count()} mistakes") from None

    def keep(self, letter: Letter) -> None:
        """Write down how far a letter has come. One that was adopted meanwhile comes back, and is sent twice."""
        durable.replace(self.folder / letter.name, letter.model_dump_json().encode())

    def forget(self, name: str) -> None:
        """It was taken, or is to be dropped. A crash before the disk knows of it sends it once more."""
        (self.folder / name).unlink(missing_ok=True)

    def set_aside(self, names: Iterable[str]) -> None:
        """Into dead/, of which the last hundred are kept. They can be moved back by hand to be tried again."""
        self.dead.mkdir(exist_ok=True)
        there = sorted(_listing(self.dead))
        number = _number(there[-1]) if there else 0
        for name in list(names)[-MAX_DEAD:]:
            number += 1
            aside = f"{number:09}-{name}"
            with contextlib.suppress(FileNotFoundError):
                (self.folder / name).rename(self.dead / aside)
                there.append(aside)
        for name in there[:-MAX_DEAD]:
            (self.dead / name).unlink(missing_ok=True)


def adopt(theirs: Path, mine: Path) -> int:
    """Take over the letters of a dead spooler: `theirs` and `mine` are folders of claimed/. Returns how many came.

    The caller holds the dead one's life lock, or is the spooler itself. Letter by letter a rename; killed in between, the rest
    comes the next time. A name that is in both tells the same target of the same end, so that one of them is enough.
    """
    source, target = theirs / OUTBOX, mine / OUTBOX
    names = Outbox(source).names()
    if not names or theirs == mine:
        return 0
    target.mkdir(exist_ok=True)
    durable.sync_folder(mine)
    came = 0
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # RACE: it lives after all, and delivered it
            (source / name).rename(target / name)
            came += 1
    durable.sync_folder(target)
    durable.sync_folder(source)
    return came


def body(notice: Notice) -> bytes:
    """The notice as it is sent: the same bytes each time, so that they can be signed and compared."""
    return json.dumps(notice.model_dump(), ensure_ascii=True, separators=(",", ":")).encode()


def _listing(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - the names alone, of which there may be thousands
    except FileNotFoundError:
        return []


def _number(name: str) -> int:
    head = name.partition("-")[0]
    return int(head) if head.isdecimal() else 0
