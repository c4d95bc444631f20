"""A job that is drawn alone, by the stock pipeline of its kind, batch by batch of its own pictures; when memory runs out, down
the ladder of memory.py."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import wait
from functools import partial
from typing import Any, Protocol

from PIL.Image import Image as Picture

from spooler.engine import device as devices
from spooler.engine import draw, preview
from spooler.engine.commands import Commands
from spooler.engine.device import JOB_ERRORS, first_line
from spooler.engine.memory import Fits, Rung
from spooler.engine.model import Model
from spooler.engine.preview import Previews
from spooler.engine.residents import Residents
from spooler.engine.upscale import Upscalers
from spooler.engine.work import Work
from spooler.job import Job
from spooler.settings import Settings
from spooler.status import Phase

log = logging.getLogger(__name__)

#: Between looks at files that are being read or written, while there is nothing else to do.
FILES_S = 0.02
#: Seconds before a job's end from which on another may be given, to be begun then. Only where a step takes no longer than the
#: second: the one's end is told between the steps of the other, and where they are slow there is nothing to gain.
SOON_S, QUICK_STEP_S = 0.5, 0.1


class UnwantedError(Exception):
    """The job was cancelled, or the engine told to stop: raised at a step to get out of the denoising loop."""


class MemoryShortError(RuntimeError):
    """Memory ran out on the last rung too: met by whoever asked, the sentence says what would fit."""


class Host(Protocol):
    """Who has a job drawn alone."""

    def sign(self, work: Work, phase: Phase, step: int, always: bool = False) -> None:
        """Hear how far it is."""

    def between_steps(self) -> None:
        """Do what cannot wait for the job's end."""


class Alone:
    """Draws one job at a time."""

    def __init__(self, settings: Settings, residents: Residents, commands: Commands, previews: Previews, host: Host):
        #: The job at work, or the one for which a model is being loaded.
        self.work: Work | None = None
        self._stepped = 0.0  # when the last step was over, seconds of perf_counter
        self._ends_in = float("inf")  # seconds that its steps will still take, as far as known
        self.commands = commands
        self._settings = settings
        self._residents = residents
        self._device = residents.device
        self._previews = previews
        self._host = host
        self._upscalers = Upscalers(settings.models / "upscalers", residents.device)
        self._fits = Fits(settings.cache / "fits.json")

    def draw_all(self, work: Work) -> None:
        """Draw all pictures that are left, batch by batch. Raises whatever keeps them from being drawn; UnwantedError if nobody
        wants them any more."""
        self.work = work
        try:
            self._check_wanted(work)
            self._read_inputs(work)
            while group := work.next_group():
                work.image = group[0].index
                drawn = self._batch(work, group[0].cell, [piece.seed for piece in group])
                self._wait_for_files(work, drawn[0].size)
                for picture in drawn:
                    piece = work.left.popleft()
                    work.album.add(piece.cell, piece.seed, piece.index, piece.at, picture)
        finally:
            self.work, self._ends_in = None, float("inf")

    def _read_inputs(self, work: Work) -> None:
        while work.reading and not work.reading.done():
            self._check_wanted(work)
            wait([work.reading], FILES_S)
        work.take_inputs()

    def _wait_for_files(self, work: Work, size: tuple[int, int]) -> None:
        while work.album.is_behind(size):
            self._check_wanted(work)
            self._host.sign(work, "encode", work.planned)
            time.sleep(FILES_S)

    @property
    def is_ending(self) -> bool:
        """Whether the job at work will be drawn in a moment."""
        work = self.work
        if work is None or self._ends_in > SOON_S:
            return False
        return 0 < len(work.left) <= work.batch and not work.left[0].cell.upscale  # which takes long after the last step

    def fit(self, cell: Job, count: int) -> tuple[str, Rung]:
        """Where so many pictures of a cell begin: the key of what fitted, and the rung."""
        top = Rung(self._residents.configured(cell.model), min(count, self._settings.batch))
        size = cell.width or 0, cell.height or 0
        key = Fits.key(devices.name(self._device), self._residents.hash_of(cell.model), *size, top.batch, top)
        return key, self._fits.start(key, top)

    def _batch(self, work: Work, cell: Job, seeds: list[int]) -> list[Picture]:
        """Draw the first pictures of the seeds, as many as fit at once, going down the ladder when memory runs out."""
        count = min(len(seeds), self._settings.batch)
        key, start = self.fit(cell, count)
        rung = work.rungs.get(cell.model) or start
        while True:
            if rung.name:
                work.rungs[cell.model] = rung
            for name in (cell.model, *([cell.refiner.model] if cell.refiner else [])):
                self._residents.use(name, rung.tricks)  # the topmost too: another size may have gone down before
            try:
                drawn = self._draw(work, cell, seeds[: min(count, rung.batch)])
            except JOB_ERRORS as error:
                if not devices.is_out_of_memory(error):
                    raise
                what = first_line(error)
            else:
                self._fits.remember(key, rung)
                return drawn
            # Only out here, where the traceback no longer holds the tensors, is there anything to free.
            devices.release(self._device)
            if self._residents.spare(cell):
                continue
            lower = rung.lower()
            if lower is None:
                raise MemoryShortError(self._what_would_fit(cell, what))
            log.warning("job %s: out of memory (%s), again with %s", work.run.id, what, lower.name)
            rung = lower

    def _draw(self, work: Work, cell: Job, seeds: list[int]) -> list[Picture]:
        work.batch, work.planned, work.before, work.stage = len(seeds), draw.planned_steps(cell), 0, 0
        self._host.sign(work, "denoise", 0, always=True)
        self._check_wanted(work)
        begun, clock = time.perf_counter(), work.clock
        load, decode = clock.load, clock.decode
        drawn = draw.pictures(cell, seeds, self.studio(work))
        clock.denoise += time.perf_counter() - begun - (clock.load - load) - (clock.decode - decode)
        work.shared = max(work.shared, len(seeds))
        return drawn

    def studio(self, work: Work, quiet: bool = False) -> draw.Studio:
        return draw.Studio(
            models=_Shelf(self, work),
            upscalers=self._upscalers,
            inputs=work.inputs,
            on_stage=(lambda phase, steps: None) if quiet else self._on_stage,
            on_step=(lambda step, steps, latents, model: None) if quiet else self._on_step,
            on_tile=(lambda tile, tiles: None) if quiet else self._on_tile,
            is_warm_up=quiet,
        )

    def in_one_call(self, model: Model, cells: Sequence[Job], seeds: list[int], on_step: draw.OnStep) -> list[Picture]:
        """A picture of each cell with its seed, by one call of the model's pipeline. Raises as `draw.pictures` does."""
        studio = draw.Studio(
            models=_One(model),
            upscalers=self._upscalers,
            inputs={},
            on_stage=lambda phase, steps: None,
            on_step=on_step,
            on_tile=lambda tile, tiles: None,
        )
        drawn: list[Picture] = draw.in_one_call(cells, seeds, studio)
        return drawn

    def _on_stage(self, phase: str, steps: int) -> None:
        assert self.work  # noqa: S101 - a stage is of a job
        self._check_wanted(self.work)
        if phase == "denoise":
            self.work.before += self.work.stage
            self.work.stage = steps

    def _on_step(self, step: int, steps: int, latents: Any, model: Model) -> None:
        work = self.work
        assert work  # noqa: S101 - a step is of a job
        self._check_wanted(work)
        done = work.before + round(work.stage * min(1.0, step / steps))
        now = time.perf_counter()
        step_s, self._stepped = now - self._stepped, now
        self._ends_in = (work.planned - done) * step_s if step_s <= QUICK_STEP_S else float("inf")
        self._host.between_steps()
        self._host.sign(work, "denoise", min(done, work.planned), always=step == steps)
        latent_map = model.latent_map
        if latent_map and getattr(latents, "ndim", 0) == 4 and self._previews.is_due(work, latent_map):
            work.album.show(partial(preview.write, latents[0].clone(), latent_map, work.folder))

    def _on_tile(self, tile: int, tiles: int) -> None:
        if self.work:
            self._check_wanted(self.work)
            self._host.sign(self.work, "upscale", self.work.planned)

    def _on_decode(self) -> None:
        if self.work and self.work.run.id:
            self._host.sign(self.work, "decode", self.work.planned, always=True)

    def on_load(self, name: str) -> None:
        """A model is about to be loaded: the spooler gives that its own time limit."""
        if self.work and self.work.run.id:
            self._host.sign(self.work, "load", 0, always=True)

    def _check_wanted(self, work: Work) -> None:
        if self.commands.unwanted(work.id):
            raise UnwantedError

    def _what_would_fit(self, cell: Job, what: str) -> str:
        """The sentence after the last rung."""
        model_hash = self._residents.hash_of(cell.model)
        known = self._fits.largest(devices.name(self._device), model_hash, (cell.width or 0) * (cell.height or 0))
        size = f"{cell.width}x{cell.height}"
        if known:
            advice = f"{known} fitted with this model before"
        elif cell.width and cell.height and min(cell.width, cell.height) >= 128:
            advice = f"{cell.width // 16 * 8}x{cell.height // 16 * 8} needs about a quarter of it"
        else:
            advice = "a smaller model may fit"
        short = f"There is too little memory for {size} with the model {cell.model!r}, with the thriftiest settings too"
        return f"{short}: {advice} ({what})."


class _One:
    """A shelf with the one model that is at work."""

    def __init__(self, model: Model):
        self._model = model

    def get(self, name: str) -> Model:
        return self._model


class _Shelf:
    """The residents as drawing sees them: what loading and decoding cost is put down to the job's clock."""

    def __init__(self, alone: Alone, work: Work):
        self._alone = alone
        self._work = work

    def get(self, name: str) -> Model:
        begun = time.perf_counter()
        model = self._alone._residents.get(name)
        self._work.clock.load += time.perf_counter() - begun
        clock = self._work.clock
        model.on_decode = self._alone._on_decode
        model.on_decoded = lambda seconds: setattr(clock, "decode", clock.decode + seconds)
        return model
