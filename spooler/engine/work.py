"""A job at work in the engine: which of its pictures are still to be drawn, what they cost so far, and how it ended."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from PIL.Image import Image as Picture

from spooler import messages
from spooler.engine.album import Album, positions
from spooler.engine.memory import Rung
from spooler.job import Job


@dataclass
class Clock:
    """Seconds spent in each part of a job."""

    load: float = 0.0
    denoise: float = 0.0
    decode: float = 0.0
    encode: float = 0.0


@dataclass(frozen=True)
class Piece:
    """One picture of a job."""

    cell: Job
    seed: int
    index: int  # among the job's pictures
    at: tuple[int, ...]  # the cell's place on the axes of the sweep


@dataclass
class Work:
    """The job at work."""

    run: messages.Run
    album: Album
    key: str  # of the jobs that it may be drawn with; "" when it is drawn alone
    left: deque[Piece]
    clock: Clock = field(default_factory=Clock)
    inputs: dict[str, Picture] = field(default_factory=dict)
    reading: Future[dict[str, Picture]] | None = None  # the inputs, on a thread
    image: int = 0  # index of the first picture that is being drawn
    batch: int = 1  # pictures that are being drawn
    planned: int = 1  # denoising steps of all stages of those
    before: int = 0  # of those, the ones of the stages that are over
    stage: int = 0  # steps of the stage at work
    rungs: dict[str, Rung] = field(default_factory=dict)  # by model: the lowest that the job came to
    shared: int = 1  # most pictures in one call of the network, with those of other jobs
    last_sign: float = 0.0  # monotonic seconds
    next_preview: float = 0.0
    drawn: float = 0.0  # when nothing of it was to be drawn any more, seconds of perf_counter
    peak_bytes: int | None = None  # of the device's memory by then; the next job begins while this one's files are written
    sheet: Future[str | None] | None = None  # the name of the contact sheet, on a thread
    failed: messages.Failed | None = None  # how it will end, as soon as nobody writes into its folder any more
    ended: messages.Finished | messages.Failed | None = None

    @classmethod
    def of(cls, run: messages.Run, album: Album, key: str) -> Work:
        left: deque[Piece] = deque()
        for cell, at in zip(run.cells, positions(run), strict=True):
            left += [Piece(cell, (cell.seed + nth) % 2**32, len(left) + nth, at) for nth in range(cell.count)]
        return cls(run, album, key, left)

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def rung(self) -> Rung | None:
        """The rung that the job came to last."""
        return next(reversed(self.rungs.values()), None)

    @property
    def folder(self) -> Path:
        return Path(self.run.folder)

    def take_inputs(self) -> None:
        """Take what was read, which must be done. Raises what reading it raised."""
        if self.reading:
            self.inputs = self.reading.result()
            self.reading = None

    def next_group(self) -> list[Piece]:
        """The pictures that are next and of one cell."""
        group: list[Piece] = []
        for piece in self.left:
            if group and piece.cell is not group[0].cell:
                break
            group.append(piece)
        return group
