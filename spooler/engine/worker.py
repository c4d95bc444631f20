"""Messages in, messages out: which jobs are drawn together (company.py), which alone, and what becomes of what goes wrong."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

import torch
from PIL.Image import Image as Picture

from spooler import messages, pictures
from spooler.company import ALONE, CALLED_WHOLE, key_of_all
from spooler.engine import device as devices
from spooler.engine import draw, preview
from spooler.engine.album import Album
from spooler.engine.alone import FILES_S, Alone, UnwantedError
from spooler.engine.commands import Commands
from spooler.engine.company import Company, Drawing, Drawn
from spooler.engine.cores import Cores
from spooler.engine.device import JOB_ERRORS, first_line
from spooler.engine.growth import Growth
from spooler.engine.helpers import helpers
from spooler.engine.knee import Knees
from spooler.engine.party import Party
from spooler.engine.preview import Previews
from spooler.engine.reports import Reports
from spooler.engine.residents import Residents
from spooler.engine.row import Desk
from spooler.engine.safety import Safety, SafetyOptions
from spooler.engine.voice import Voice
from spooler.engine.warming import warm_up
from spooler.engine.work import Work
from spooler.library import Library
from spooler.record import EngineFacts
from spooler.settings import Settings
from spooler.status import Phase

log = logging.getLogger(__name__)

#: Between looks for those who are about to join a party's first call.
GATHER_S = 0.002
T = TypeVar("T")


class Engine:
    """Runs jobs until told to stop."""

    def __init__(self, settings: Settings, residents: Residents, safety: Safety, commands: Commands, out: IO[bytes]):
        self._settings = settings
        self._residents = residents
        self._safety = safety
        self._commands = commands
        self._voice = Voice(out)
        self._device = residents.device
        self._cores = Cores(residents.device, settings.compile != "off")
        # Previews would show what a filter is there to withhold.
        self._previews = Previews(0.0 if safety.is_on else settings.preview_s)
        self._alone = Alone(settings, residents, commands, self._previews, self)
        self._knees = Knees(settings.cache / "knees.json", residents.device)
        self._desk = Desk()
        self._files = helpers(2)
        self._waiting: deque[Work] = deque()  # jobs that are not at work yet, in the order in which they are to be
        self._company: Company | Party | None = None
        self._ending: list[Work] = []  # of which nothing is to be drawn any more, but something to be written
        self._heard = 0
        self._growth = Growth(residents)
        self._reports = Reports(residents, self._growth, self._voice)

    @classmethod
    def make(cls, settings: Settings, library: Library, device: torch.device, commands: Commands, out: IO[bytes]) -> Engine:
        """The engine on that device, with its filters, and no model yet. Raises SafetyError."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings.tf32 == "on"
        default = library.models[library.default]
        options = SafetyOptions(
            checker=settings.safety_checker == "on",
            classifier=settings.classifier,
            labels=tuple(label.strip() for label in settings.classifier_labels.split(",") if label.strip()),
            threshold=settings.classifier_threshold,
            action=settings.flagged,
        )
        dtype = devices.precision(settings.precision, device, default.card.family)
        safety = Safety.load(options, None if default.is_file else default.path, device, dtype)
        residents = Residents(settings, library, device)
        engine = cls(settings, residents, safety, commands, out)
        residents.on_load = engine._alone.on_load
        return engine

    # -- the loop ------------------------------------------------------------------------------------------------------------

    def warm_up(self) -> EngineFacts:
        """Load the default model and draw with it. Raises UnusableError when that cannot be."""
        return warm_up(self._residents, self._alone, self._reports, self._growth, self._album)

    def serve(self, facts: EngineFacts) -> None:
        """Run jobs as they come, until told to stop."""
        self._voice.send(messages.Ready(facts=facts))
        while not self._commands.stopped:
            run = self._commands.next_run(wait=not self._is_busy)
            while run is not None:
                self._take(run)
                run = self._commands.next_run(wait=False)
            if not self._commands.stopped:
                self._turn()
        for work in [*(self._company.works if self._company else ()), *self._ending]:
            work.album.end()

    def run(self, run: messages.Run) -> messages.Finished | messages.Failed:
        """Run one job to its end, whatever end that is, as `serve` does."""
        return self.run_all([run])[0]

    def run_all(
        self, runs: Sequence[messages.Run], on_turn: Callable[[int], None] = lambda turn: None
    ) -> list[messages.Finished | messages.Failed]:
        """Run jobs that all wait to their ends, as `serve` does; `on_turn` is called before each turn with its number."""
        works, turns = [self._take(run) for run in runs], count()
        while self._is_busy:
            on_turn(next(turns))
            self._turn()
        return [work.ended for work in works if work.ended]

    @property
    def _is_busy(self) -> bool:
        return bool(self._waiting or self._company or self._ending)

    def _take(self, run: messages.Run) -> Work:
        """A job came in: its pictures are read while others are being drawn."""
        if not self._is_busy:
            self._cores.begin()
        self._heard += 1
        work = Work.of(run, self._album(run), self._key(run))
        if run.job.inputs:
            work.reading = self._files.submit(_read, run)
        self._waiting.append(work)
        return work

    def _album(self, run: messages.Run) -> Album:
        return Album(run, self._safety, self._files, self._voice.send, self._residents.hash_of)

    @torch.inference_mode()
    def _turn(self) -> None:
        """Everything there is to do now, once, with one call of the UNet for those who are drawn together."""
        # 1. Who has gone, and who is next.
        for work in [*self._waiting, *(self._company.works if self._company else ())]:
            if self._commands.unwanted(work.id):
                self._quit(work, UnwantedError())
        if self._company and not self._company.works:
            self._company = None
        if self._company is None and self._waiting:
            self._begin()
        self._read()

        # 2. One step.
        self._cores.look()
        gathers = isinstance(self._company, Party) and self._company.gathers
        moved = self._company is not None and not gathers and self._step(self._company)
        self._conclude()
        self._tell_room()
        if gathers:
            time.sleep(GATHER_S)
        elif not moved and (files := self._files_at_work()):
            wait(files, FILES_S, FIRST_COMPLETED)

    def _begin(self) -> None:
        """Nobody is at work: the first that waits is next, and whoever may be drawn with it."""
        work = self._waiting[0]
        if self._ending and work.run.cells[0].model not in self._residents.names:
            return  # while a model is loaded nobody is told an end: those that have ended come first
        if self._shares(work):
            try:
                self._company = self._gathered(work)
                return
            except (OSError, *JOB_ERRORS) as error:  # the model cannot be loaded: what helps is tried below
                log.info("job %s: drawn alone: %s", work.id, first_line(error))
                devices.release(self._device)
        self._alone.work = self._waiting.popleft()
        self._tell_room()
        self._draw_alone(work)

    def _read(self) -> None:
        """Let in those that are like those at work, and give them their pictures once these are read."""
        company = self._company
        while company and self._waiting and self._waiting[0].key == company.key and self._shares(self._waiting[0]):
            company.admit(self._waiting.popleft())
        if company:
            company.closed = bool(self._waiting)
        for work in company.works[:] if company else ():
            if work.reading and work.reading.done():
                self._try(work, work.take_inputs)

    def _files_at_work(self) -> list[Future[Any]]:
        works = [*self._ending, *(self._company.works if self._company else ())]
        more = [each for work in works for each in (work.reading, work.sheet) if each]
        return [each for each in [*more, *(each for work in works for each in work.album.waits_for)] if not each.done()]

    # -- jobs that are drawn together ----------------------------------------------------------------------------------------

    def _key(self, run: messages.Run) -> str:
        """The key of the jobs that this one may be drawn with; ALONE where the settings want each alone."""
        model = self._residents.library.models.get(run.cells[0].model)
        if self._settings.together == 1 or run.alone or model is None:
            return ALONE
        return key_of_all(run.cells, model.card)

    def _shares(self, work: Work) -> bool:
        """Whether it may be drawn with others, and as others are drawn: not if it needs the thriftier ways of memory.py."""
        if not work.key or work.rungs:
            return False
        cell = work.run.cells[0]
        try:
            tricks = self._residents.configured(cell.model)
            tops = {len(work.next_group()), *(each.count for each in work.run.cells)} - {0}
            fits = all(self._alone.fit(cell, count)[1].name is None for count in tops)
        except (OSError, *JOB_ERRORS) as error:  # the weights cannot be read, say: that is told when it is drawn
            log.info("job %s: drawn alone: %s", work.id, first_line(error))
            return False
        return fits and tricks.offload == "none" and tricks.attention == "sdpa"

    def _gathered(self, first: Work) -> Company | Party:
        """The company of that job and of those that are like it."""
        devices.forget_peak(self._device)
        cell, begun = first.run.cells[0], time.perf_counter()
        self._alone.work = first
        try:
            self._residents.use(cell.model, self._residents.configured(cell.model))
            model = self._residents.get(cell.model)
        finally:
            self._alone.work = None
        first.clock.load += time.perf_counter() - begun
        about = [devices.name(self._device), model.hash[:10], f"{cell.width}x{cell.height}", str(model.tricks)]
        compiled = "" if self._settings.compile == "off" else f", compiled {self._settings.compile}"
        precision = str(model.dtype).removeprefix("torch.")
        knee = self._knees.get(" | ".join([*about, precision + compiled]), 2 * self._settings.together)
        if model.family.name in CALLED_WHOLE:
            draw_all = partial(self._alone.in_one_call, model)
            most = self._settings.together, self._settings.batch
            return Party(first.key, model, knee, draw_all, self._called, self.between_steps, *most, cell.steps or 1)
        return Company(first.key, model, cell.vae, knee, self._desk, self._settings.together, self._settings.batch)

    def _step(self, company: Company | Party) -> bool:
        """Whoever has room joins, all move on by one step, or the whole call; what is done goes to be written. False: there was
        nothing to do."""
        while work := company.next_to_join():
            self._try(work, partial(self._join, company, work))
        moved = company.pictures > 0
        if isinstance(company, Party):
            for drawn in self._tried(company, company.call) if moved else ():
                self._keep(drawn)
        else:
            if moved:
                self._tick(company)
            for those, taken in company.arrived():
                self._deliver(company, those, taken)
        self._end_drawn(company)
        return moved

    def _tick(self, company: Company) -> None:
        """One call of the UNet; what is done by it goes to be decoded."""
        done = self._tried(company, company.tick)
        for work in company.works:
            self._show(company, work)
        for work in {id(each.work): each.work for each in done}.values():
            self.sign(work, "decode", work.planned, always=True)
        if done:
            self._deliver(company, done, company.decode)

    def _join(self, company: Company | Party, work: Work) -> None:
        if drawn := company.join(work):
            self._keep(drawn)

    def _tried(self, company: Company | Party, draw_on: Callable[[], list[T]]) -> list[T]:
        """What one call came to. When it cannot be, those in it are drawn alone, where what is wrong with whom will show."""
        try:
            return draw_on()
        except JOB_ERRORS as error:
            short, what = devices.is_out_of_memory(error), first_line(error)
            if devices.is_fatal(error):
                self._die(company, error)
        # Only out here, where the traceback no longer holds the tensors, is there anything to free.
        devices.release(self._device)
        works, pictures = [work for work in company.works if company.pictures_of(work)], company.pictures
        if short and works and self._residents.spare(works[0].run.cells[0]):
            return []
        if not short:
            log.warning("%d jobs are drawn alone, what they were drawn by met: %s", len(works), what)
        elif len(works) == 1:
            self._go_down(works[0], what)
        elif company.be_thrifty():
            log.warning("out of memory (%s): %d pictures together, in smaller calls from now on", what, pictures)
            return []
        else:
            works = works[-1:]
            log.warning("job %s: out of memory (%s), drawn alone", works[0].id, what)
        for work in reversed(works):
            self._leave(work)
        return []

    def _deliver(self, company: Company, done: list[Drawing], decode: Callable[[Sequence[Drawing]], list[Drawn]]) -> None:
        """Keep the pictures of what is done, as `decode` has them: what cannot be decoded together job by job, and what cannot
        be so either is drawn alone."""
        works = list({id(each.work): each.work for each in done}.values())
        try:
            drawn = decode(done)
        except JOB_ERRORS as error:
            short, what = devices.is_out_of_memory(error), first_line(error)
            if devices.is_fatal(error):
                self._die(company, error)
        else:
            for each in drawn:
                self._keep(each)
            return
        devices.release(self._device)
        if len(works) > 1:
            for work in works:
                self._deliver(company, [each for each in done if each.work is work], company.decoded)
            return
        if short and len(company.works) == 1:
            self._go_down(works[0], what)
        else:
            log.warning("job %s: drawn alone: %s", works[0].id, what)
        works[0].left.extendleft(each.piece for each in reversed(done))
        self._leave(works[0])

    def _keep(self, drawn: Drawn) -> None:
        piece = drawn.piece
        drawn.work.album.add(piece.cell, piece.seed, piece.index, piece.at, drawn.picture, drawn.finish)

    def _end_drawn(self, company: Company | Party) -> None:
        """Those of whom all pictures are drawn."""
        for work in [work for work in company.works if company.is_drawn(work)]:
            company.works.remove(work)
            self._drawn(work)

    def _show(self, company: Company, work: Work) -> None:
        """Tell how far a job is, now and then with a preview."""
        drawings = company.pictures_of(work)
        if not drawings:
            return
        work.image, work.batch = drawings[0].piece.index, len(drawings)
        work.planned = draw.planned_steps(drawings[0].piece.cell)
        part = sum(each.row.tick / each.row.table.ticks for each in drawings) / len(drawings)
        self.sign(work, "denoise", round(part * work.planned))
        latent_map = company.model.latent_map
        if latent_map and self._previews.is_due(work, latent_map):
            latents, folder = company.latents(drawings[0]), work.folder
            work.album.show(partial(preview.write, latents, latent_map, folder))

    def _go_down(self, work: Work, what: str) -> None:
        """Have a job that alone was too much begin on the next rung down."""
        cell = work.run.cells[0]
        lower = self._alone.fit(cell, min(cell.count, self._settings.batch))[1].lower()
        if lower:
            log.warning("job %s: out of memory (%s), again with %s", work.id, what, lower.name)
            work.rungs[cell.model] = lower

    def _leave(self, work: Work) -> None:
        """Take a job out of the company, to be drawn alone before all others that wait."""
        if self._company and work in self._company.works:
            self._company.leave(work)
        work.key = ALONE
        self._waiting.appendleft(work)

    def _try(self, work: Work, do: Callable[[], None]) -> None:
        """Do something for one of the company; what it meets costs nobody else anything."""
        try:
            do()
        except (UnwantedError, pictures.InputError, OSError) as error:
            self._quit(work, error)
            return
        except Exception as error:  # noqa: BLE001 - a library may raise anything over a stranger's file
            if devices.is_fatal(error) and self._company:
                self._die(self._company, error)
            what = first_line(error)
            if devices.is_out_of_memory(error) and self._company and len(self._company.works) == 1:
                self._go_down(work, what)
        else:
            return
        devices.release(self._device)
        log.info("job %s: drawn alone: %s", work.id, what)
        self._leave(work)

    def _die(self, company: Company | Party, error: Exception) -> NoReturn:
        """A sticky CUDA error: every later call in this process would fail too. The spooler starts a new one.

        A job that was alone fails with it. Of several nobody knows which one it was: then the spooler tries each by itself.
        """
        if len(company.works) == 1:
            self._reports.failed(company.works[0], error)
        log.error("the device is lost: %s", first_line(error))
        os._exit(3)

    # -- the end of a job ----------------------------------------------------------------------------------------------------

    def _quit(self, work: Work, error: Exception) -> None:
        """A job ends without all of its pictures, as soon as nobody writes into its folder any more."""
        if self._company and work in self._company.works:
            self._company.leave(work)
        if work in self._waiting:
            self._waiting.remove(work)
        work.album.close()
        work.failed = self._reports.ended_by(work, error)
        self._drawn(work)

    def _conclude(self) -> None:
        """Tell of those that have ended and of whom all is written."""
        for work in [each for each in self._ending if each.album.is_quiet]:
            if work.failed is None:
                if work.run.job.sweep and work.sheet is None:
                    work.sheet = self._files.submit(work.album.finish)
                if work.sheet and not work.sheet.done():
                    continue
                try:
                    sheet_name = work.sheet.result() if work.sheet else work.album.finish()
                except Exception as error:  # noqa: BLE001 - a filter, or the disk: it costs the job alone
                    work.failed = self._reports.ended_by(work, error)
                else:
                    work.ended = self._reports.finished(work, sheet_name)
            self._ending.remove(work)
            work.ended = work.ended or work.failed
            if work.ended:
                self._voice.send(work.ended)

    def between_steps(self) -> None:
        """In the middle of a call of a pipeline: let go who is not wanted any more, and tell of others that have ended.

        Raises UnwantedError when the engine is told to stop: then nobody is told an end, whoever was at work is tried again.
        """
        if self._commands.stopped:
            raise UnwantedError
        self._cores.look()
        for work in self._company.works[:] if self._company else ():
            if self._commands.unwanted(work.id):
                self._quit(work, UnwantedError())
        self._conclude()
        self._tell_room()

    def _called(self, work: Work, step: int, steps: int) -> None:
        """A job's call is at that step."""
        work.planned = steps
        self.sign(work, "denoise", step, always=step == steps)

    # -- a job alone ---------------------------------------------------------------------------------------------------------

    def _draw_alone(self, work: Work) -> None:
        """Draw one job to its end, whatever end that is. A fault that outlives the job ends the process instead."""
        devices.forget_peak(self._device)
        try:
            self._alone.draw_all(work)
        except Exception as error:  # noqa: BLE001 - a library may raise anything over a stranger's file: it costs the job alone
            work.album.close()
            work.failed = self._reports.ended_by(work, error)
        self._drawn(work)

    def _drawn(self, work: Work) -> None:
        """Nothing of a job is to be drawn any more."""
        work.drawn, work.peak_bytes = time.perf_counter(), devices.peak_bytes(self._device)
        self._ending.append(work)

    # -- telling -------------------------------------------------------------------------------------------------------------

    def sign(self, work: Work, phase: Phase, step: int, always: bool = False) -> None:
        """Tell how far a job is."""
        self._voice.sign(work, phase, step, len(self._company.works) if self._company else 1, always)

    def _tell_room(self) -> None:
        jobs = self._company.room if self._company else 0
        self._voice.tell_room(messages.Room(heard=self._heard, jobs=jobs, ending=self._is_ending))

    @property
    def _is_ending(self) -> bool:
        """Whether one more job, whatever it is like, would be begun at once or very soon; not where this process is to end."""
        if self._waiting or self._company or not (self._alone.work is None or self._alone.is_ending):
            return False
        return not self._growth.is_more_than(self._settings.recycle_bytes)


def _read(run: messages.Run) -> dict[str, Picture]:
    """The job's pictures."""
    masks = {cell.mask for cell in run.cells} - {cell.image for cell in run.cells}
    folder = Path(run.folder) / "inputs"
    # Where nothing was painted on a mask, nothing is to be repainted.
    return {name: pictures.read(folder / name, "black" if name in masks else "white") for name in run.job.inputs}
