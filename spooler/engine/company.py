"""The jobs that are drawn together: who joins when, one call of the UNet for all, and the pictures of those that are done.

    admit    a job of the company's key (spooler/company.py); it waits here until there is room for its pictures
    join     its pictures come in one by one, the first job's as many as it would have at once alone, the others' while the
             calls stay below the knee (knee.py): the oldest job is never slower for those that joined it than they gain
    tick     one call (batch.py)
    decode   what is done is asked of the VAE, while the others go on
    arrived  what has been decoded leaves as pictures

Nothing here knows how a job ends, nor of messages: what goes wrong is told to the engine, which draws the job alone then.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from PIL.Image import Image as Picture

from spooler.engine import draw, ends
from spooler.engine.batch import Batch
from spooler.engine.draw import Begun
from spooler.engine.ends import Decoding
from spooler.engine.group import Group
from spooler.engine.knee import Knee
from spooler.engine.model import Model
from spooler.engine.moment import Moment
from spooler.engine.row import Desk, Row
from spooler.engine.work import Piece, Work

#: UNet rows that calls are filled up to where a graph is compiled for each.
SIZES = (2, 4, 8, 16, 32)
#: Rows that are done after so few ticks are as good as gone when the spooler is told what room there is.
SOON_TICKS = 4


@dataclass
class Drawing:
    """A picture that is in the batch."""

    work: Work
    piece: Piece
    begun: Begun
    row: Row


@dataclass(frozen=True)
class Drawn:
    """A picture that is done, but for what a thread can do as well."""

    work: Work
    piece: Piece
    picture: Picture
    finish: Callable[[Picture], Picture] = draw.as_it_is


class Company(Group):
    """Jobs that share the calls of a UNet."""

    def __init__(self, key: str, model: Model, vae: str, knee: Knee, desk: Desk, most_jobs: int, most_pictures: int):
        super().__init__(key, model, knee, most_jobs, most_pictures)
        self._vae = vae
        self._desk = desk
        # A network that is told the guidance is asked once.
        self._most_asked = 1 if model.backbone.config.time_cond_proj_dim else 2
        self._drawing: dict[str, Drawing] = {}  # by the names of their rows
        self._before: Moment | None = None  # when the device will have done the last call
        self._decoding: list[tuple[list[Drawing], Decoding]] = []  # what has left the batch and is no picture yet
        self._batch = Batch(model.backbone, model.device, model.dtype, SIZES if model.compiled else ())

    @property
    def pictures(self) -> int:
        """Those that are in the batch."""
        return len(self._drawing)

    @property
    def rows(self) -> int:
        """The UNet's rows in a call."""
        return sum(_rows(drawing.row) for drawing in self._drawing.values())

    @property
    def room(self) -> int:
        """How many more jobs could have a picture in the batch, now or soon."""
        if self.closed:
            return 0
        soon = [each.row for each in self._drawing.values() if each.row.table.ticks - each.row.tick > SOON_TICKS]
        queued = sum(self._asks(each) for work in self.works for each in islice(work.left, self._most_pictures))
        free_rows = self._knee.rows - sum(map(_rows, soon)) - queued
        return max(0, min(free_rows // self._most_asked, self._most_jobs - sum(self._stays(work) for work in self.works)))

    def _asks(self, piece: Piece) -> int:
        """The UNet's rows that a picture begins with."""
        return min(self._most_asked, 1 + ((piece.cell.guidance_scale or 0) > 1))

    def _stays(self, work: Work) -> bool:
        return bool(work.left) or any(
            each.work is work and each.row.table.ticks - each.row.tick > SOON_TICKS for each in self._drawing.values()
        )

    def pictures_of(self, work: Work) -> list[Drawing]:
        """Those of a job that are in the batch, by their number."""
        found = [drawing for drawing in self._drawing.values() if drawing.work is work]
        return sorted(found, key=lambda drawing: drawing.piece.index)

    def is_drawn(self, work: Work) -> bool:
        """Whether nothing of a job is to be drawn any more, nor to be decoded."""
        at_work = [*self._drawing.values(), *(each for done, _ in self._decoding for each in done)]
        return not work.left and all(each.work is not work for each in at_work)

    def latents(self, drawing: Drawing) -> torch.Tensor:
        """A picture's latents as they are now: (channels, h, w), on the device."""
        return self._batch.latents(drawing.row.name)

    # -- coming and going ----------------------------------------------------------------------------------------------------

    def next_to_join(self) -> Work | None:
        """The job whose picture is next to join: of those that have the fewest in the batch the oldest. None: no room."""
        there = Counter(drawing.work.id for drawing in self._drawing.values())
        ready = [
            work
            for work in self.works
            if work.left
            and work.reading is None
            and there[work.id] < self._most_pictures
            and not work.album.is_behind(_size(work))
        ]
        if not ready or not there:
            return ready[0] if ready else None
        chosen = min(ready, key=lambda work: there[work.id])
        has_place = chosen.id in there or len(there) < self._most_jobs
        if has_place and self.rows + self._asks(chosen.left[0]) <= self._knee.rows:
            return chosen
        return ready[0] if ready[0] is self.works[0] else None

    def join(self, work: Work) -> Drawn | None:
        """Begin the job's next picture; returned is one with nothing to be drawn. Raises what beginning it raises."""
        piece = work.left[0]
        name = f"{work.id}/{piece.index}"
        self.model.dress(piece.cell)
        self.model.encode_together(each.left[0].cell for each in (work, *self.works) if each.left)
        begun = draw.begin(piece.cell, piece.seed, name, self.model, self._desk, work.inputs)
        if self.model.compiled:
            self.model.compiled.paused = self.model.is_dressed
        if begun.row is None:
            assert begun.picture  # noqa: S101 - there is one or the other
            work.left.popleft()
            return Drawn(work, piece, begun.picture)
        self._batch.join(begun.row)
        work.left.popleft()
        self._drawing[name] = Drawing(work, piece, begun, begun.row)
        return None

    def leave(self, work: Work) -> None:
        """The job goes, and what of it is being drawn is again to be drawn."""
        for drawing in self.pictures_of(work):
            self._batch.leave(drawing.row.name)
            del self._drawing[drawing.row.name]
            work.left.append(drawing.piece)
        work.left.extend(each.piece for done, _ in self._decoding for each in done if each.work is work)
        work.left = deque(sorted(work.left, key=lambda piece: piece.index))
        self.works.remove(work)

    # -- drawing -------------------------------------------------------------------------------------------------------------

    def tick(self) -> list[Drawing]:
        """One call of the UNet. Returns what is done, which has left. When it raises, nothing has happened."""
        rows, begun = self.rows, self._knee.begin()
        is_steady, is_whole, began = self._batch.is_laid, self._batch.is_whole, time.perf_counter()
        done = [self._drawing[row.name] for row in self._batch.tick()]
        self._keep_pace()
        took_s = time.perf_counter() - began
        if is_steady and is_whole and self._batch.most is None:
            self._knee.end(rows, begun)
        for work in {id(each.work): each.work for each in self._drawing.values()}.values():
            work.clock.denoise += took_s
            work.shared = max(work.shared, len(self._drawing))
        for drawing in done:
            del self._drawing[drawing.row.name]
        return done

    def _keep_pace(self) -> None:
        """Wait for the call before the last one: the device always has one to go on with, and a cancel is never many late."""
        before, self._before = self._before, Moment(self.model.device)
        if before is not None:
            before.wait()

    def be_thrifty(self) -> bool:
        """Memory was short: make the calls half as large from now on. False when they cannot be smaller."""
        self._knee.met_full_memory(self.rows)
        most = min(self._batch.most or self.rows, self.rows)
        self._batch.most = max(1, most // 2)
        return most > 1

    def decode(self, done: Sequence[Drawing]) -> list[Drawn]:
        """Have what is done decoded. The answer has none: they have `arrived` some calls later. Raises what decoding does."""
        self._decoding.append(([*done], Decoding(self._pipe, [drawing.row.latents for drawing in done])))
        return []

    def arrived(self) -> Iterator[tuple[list[Drawing], Callable[[Sequence[Drawing]], list[Drawn]]]]:
        """What has been decoded, and by what each is taken; where nothing else is to be drawn, all that is being decoded."""
        while self._decoding and (not self._drawing or self._decoding[0][1].is_there):
            asked, decoding = self._decoding.pop(0)
            if wanted := [each for each in asked if each.work in self.works]:
                yield wanted, partial(self._taken, asked, decoding)

    def _taken(self, asked: Sequence[Drawing], decoding: Decoding, wanted: Sequence[Drawing]) -> list[Drawn]:
        decoding.wait()
        for work in {id(each.work): each.work for each in wanted}.values():
            work.clock.decode += decoding.seconds
        pictures = decoding.pictures()
        if pictures is None:
            return self.decoded(wanted, again=True)
        of_row = {each.row.name: picture for each, picture in zip(asked, pictures, strict=True)}
        return [Drawn(each.work, each.piece, of_row[each.row.name], each.begun.finish) for each in wanted]

    def decoded(self, done: Sequence[Drawing], again: bool = False) -> list[Drawn]:
        """The pictures, waited for, each of them finite; `again`: they were not. Raises what decoding raises; the latents are
        still there then."""
        pictures = ends.decoded(self._pipe, [drawing.row.latents for drawing in done], again=again)
        return [Drawn(each.work, each.piece, picture, each.begun.finish) for each, picture in zip(done, pictures, strict=True)]

    @property
    def _pipe(self) -> Any:
        return self.model.pipeline("txt2img", (), self._vae)


def _rows(row: Row) -> int:
    return 1 + row.is_guided


def _size(work: Work) -> tuple[int, int]:
    cell = work.run.cells[0]
    return cell.width or 0, cell.height or 0
