"""Jobs of one key whose model is called whole: their next pictures are drawn by one call of its pipeline, one generator each.

    admit    a job of the party's key (spooler/company.py); it waits here for the next call
    join     its pictures take their seats in that call, the first job's as many as it would have at once alone, the others'
             while the call stays below the knee (knee.py)
    call     all that have seats are drawn, and leave as pictures; nobody joins meanwhile

Whoever leaves in mid-call is told its end at once. Its row is drawn to the end with the others', and thrown away; when all have
left, the call ends at its next step. As in company.py nothing here knows how a job ends: the engine is told at each step, and
draws alone those for whom a call went wrong.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image as Picture

from spooler.engine.alone import UnwantedError
from spooler.engine.company import SOON_TICKS, Drawn
from spooler.engine.draw import OnStep
from spooler.engine.group import Group
from spooler.engine.knee import Knee
from spooler.engine.model import Model
from spooler.engine.work import Piece, Work
from spooler.job import Job

#: The part of a call's time that it may begin later for others to join it: so much slower is a lone job at the most.
GATHER_PART = 0.02
#: Seconds before its end from which on a call is as good as over when the spooler is told what room there is.
SOON_S = 0.5
#: In knee.py's terms a picture is two rows, whether it has guidance or not: those of one key have all or none.
ROWS = 2

#: Draws a picture for each cell with its seed, telling each step.
Draw = Callable[[Sequence[Job], list[int], OnStep], list[Picture]]


@dataclass(frozen=True)
class Seat:
    """A picture in the next call, or in the one at work."""

    work: Work
    piece: Piece


class Party(Group):
    """Jobs that share the calls of a whole pipeline.

    `between_steps` is called at each step, and may have jobs leave, or raise UnwantedError to end the call at once.
    """

    def __init__(
        self,
        key: str,
        model: Model,
        knee: Knee,
        draw: Draw,
        on_step: Callable[[Work, int, int], None],
        between_steps: Callable[[], None],
        most_jobs: int,
        most_pictures: int,
        steps: int,
    ):
        """`most_jobs` in one call, `most_pictures` of one job in it; a call has so many `steps`."""
        super().__init__(key, model, knee, most_jobs, most_pictures)
        self._draw = draw
        self._on_step = on_step
        self._between_steps = between_steps
        self._most: int | None = None  # pictures in a call, when memory is short
        self._seats: list[Seat] = []
        self._is_called = False  # a call is at work
        self._is_busy = False  # and will be for some time yet
        self._begun: Any = None  # the moment at which the step at work began
        seconds = self._knee.seconds(ROWS)
        self._gathers_until = time.perf_counter() + GATHER_PART * steps * seconds if seconds else 0.0

    @property
    def pictures(self) -> int:
        """Those that have seats."""
        return len(self._seats)

    @property
    def _most_seats(self) -> int:
        """The pictures that a call should have at most, those of the first job apart."""
        return min(self._knee.rows // ROWS, self._most or self._knee.rows)

    @property
    def room(self) -> int:
        """How many more jobs could have a picture in the next call: none until the one at work is nearly over."""
        if self.closed or self._is_busy:
            return 0
        staying = [work for work in self.works if work.left]
        queued = sum(min(len(work.left), self._most_pictures) for work in staying)
        if not self._is_called:
            staying += [work for work in self.works if not work.left]
            queued += len(self._seats)
        return max(0, min(self._most_seats - queued, self._most_jobs - len(staying)))

    @property
    def gathers(self) -> bool:
        """Whether the first call had better wait a little for those that the spooler may be about to send."""
        return time.perf_counter() < self._gathers_until and self.room > 0

    def pictures_of(self, work: Work) -> list[Seat]:
        """The seats of a job."""
        return [seat for seat in self._seats if seat.work is work]

    def is_drawn(self, work: Work) -> bool:
        """Whether nothing of a job is to be drawn any more."""
        return not work.left and not self.pictures_of(work)

    def next_to_join(self) -> Work | None:
        """The job whose picture takes the next seat: of those that have the fewest the oldest. None: there is no more room."""
        there = Counter(seat.work.id for seat in self._seats)
        ready = [
            work
            for work in self.works
            if work.left and there[work.id] < self._most_pictures and not work.album.is_behind(_size(work))
        ]
        if not ready or not there:
            return ready[0] if ready else None
        if self._most is not None and len(self._seats) >= self._most:
            return None
        chosen = min(ready, key=lambda work: there[work.id])
        has_place = chosen.id in there or len(there) < self._most_jobs
        if has_place and len(self._seats) < self._most_seats:
            return chosen
        return ready[0] if ready[0] is self.works[0] else None

    def join(self, work: Work) -> None:
        """Give the job's next picture a seat."""
        self._seats.append(Seat(work, work.left.popleft()))

    def leave(self, work: Work) -> None:
        """The job goes, and what of it is being drawn is again to be drawn."""
        for seat in reversed(self.pictures_of(work)):
            self._seats.remove(seat)
            work.left.appendleft(seat.piece)
        self.works.remove(work)

    def call(self) -> list[Drawn]:
        """Draw all that have seats; of those that left meanwhile nothing is returned. When it raises, they still have them."""
        seats = list(self._seats)
        works = {id(seat.work): seat.work for seat in seats}.values()
        for work in works:
            own = self.pictures_of(work)
            work.image, work.batch = own[0].piece.index, len(own)
        began, decode_s, self._begun = time.perf_counter(), 0.0, None
        self._is_called = self._is_busy = True

        def decoded(seconds: float) -> None:
            nonlocal decode_s
            decode_s += seconds

        self.model.on_decoded = decoded
        pictures: list[Picture] = []
        try:
            with suppress(UnwantedError):
                cells, seeds = [seat.piece.cell for seat in seats], [seat.piece.seed for seat in seats]
                pictures = self._draw(cells, seeds, self._stepped(len(seats), began))
        finally:
            self._is_called = self._is_busy = False
            self.model.on_decoded = lambda seconds: None
        for work in works:
            work.clock.denoise += time.perf_counter() - began - decode_s
            work.clock.decode += decode_s
            work.shared = max(work.shared, len(seats))
        if not pictures:
            self._rise()
        drawn = [
            Drawn(seat.work, seat.piece, picture)
            for seat, picture in zip(seats, pictures, strict=bool(pictures))
            if seat in self._seats
        ]
        self._seats = []
        return drawn

    def be_thrifty(self) -> bool:
        """Memory was short: have half as many in a call from now on. False when there cannot be fewer."""
        self._knee.met_full_memory(ROWS * len(self._seats))
        most = len(self._seats)
        self._most = max(1, most // 2)
        self._rise()
        return most > 1

    def _rise(self) -> None:
        """Nobody has a seat any more: their pictures are again to be drawn."""
        for seat in reversed(self._seats):
            seat.work.left.appendleft(seat.piece)
        self._seats = []

    def _stepped(self, pictures: int, began: float) -> OnStep:
        def on_step(step: int, steps: int, latents: Any, model: Model) -> None:
            if self._begun is not None:  # the first step has the text encoders in it
                self._knee.end(ROWS * pictures, self._begun)
            left, taken_s = steps - step, time.perf_counter() - began
            self._is_busy = left > SOON_TICKS and left * taken_s / step > SOON_S
            for work in {id(seat.work): seat.work for seat in self._seats}.values():
                self._on_step(work, step, steps)
            self._between_steps()
            if not self._seats:
                raise UnwantedError
            self._begun = self._knee.begin()

        return on_step


def _size(work: Work) -> tuple[int, int]:
    cell = work.run.cells[0]
    return cell.width or 0, cell.height or 0
