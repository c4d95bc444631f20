"""Messages in, messages out, one job at a time: batches, the out-of-memory ladder, the files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

import torch
from PIL.Image import Image as Picture
from PIL.PngImagePlugin import PngInfo

from spooler import messages, pictures, sheet
from spooler.engine import device as devices
from spooler.engine import draw
from spooler.engine.device import UnusableError
from spooler.engine.memory import Fits, Rung
from spooler.engine.model import Model
from spooler.engine.preview import Previews
from spooler.engine.residents import Residents
from spooler.engine.safety import Safety, SafetyError, SafetyOptions
from spooler.engine.upscale import UpscalerError, Upscalers
from spooler.infotext import infotext
from spooler.job import Job
from spooler.library import Library
from spooler.messages import FromEngine
from spooler.record import EngineFacts, Flag, Image, Timings
from spooler.settings import Settings
from spooler.status import Phase

log = logging.getLogger(__name__)

#: Pixels of finished pictures that may wait to be written.
FILES_PIXELS = 100_000_000
#: Between signs of life while a job runs; more would only fill the pipe.
SIGN_S = 0.05
#: zlib's fastest: a third of the time of the default for a file a tenth larger (docs/benchmarks.md).
PNG_LEVEL = 1
WARM_UP = Job(
    prompt="warm-up", width=64, height=64, steps=1, guidance_scale=2.0, sampler="Euler", scheduler="Automatic", seed=0
)
#: Errors of a job's own making or of the libraries: they end the job, not the process.
JOB_ERRORS = (RuntimeError, ValueError, ArithmeticError, TypeError, KeyError, IndexError, AttributeError, MemoryError)


class Commands:
    """What the spooler says, read by a thread of its own so that a cancel is heard in mid-job."""

    def __init__(self, stdin: IO[bytes]):
        self.runs: SimpleQueue[messages.Run | None] = SimpleQueue()
        self.stopped = False
        self._cancelled: set[str] = set()
        threading.Thread(target=self._listen, args=(stdin,), name="spooler listener", daemon=True).start()

    def unwanted(self, job_id: str) -> bool:
        """Whether the job should end at its next step."""
        return self.stopped or job_id in self._cancelled

    def _listen(self, stdin: IO[bytes]) -> None:
        for line in stdin:
            match messages.to_engine.validate_json(line):
                case messages.Run() as run:
                    self._cancelled.discard(run.id)
                    self.runs.put(run)
                case messages.Cancel(id=job_id):
                    self._cancelled.add(job_id)
                case messages.Stop():
                    self.stopped = True
                    self.runs.put(None)
                    return
        # The spooler is dead. Whatever runs here now would be published by nobody, and its GPU is wanted by the next.
        os._exit(0)


class UnwantedError(Exception):
    """The job was cancelled, or the engine told to stop: raised at a step to get out of the denoising loop."""


class MemoryShortError(RuntimeError):
    """Memory ran out on the last rung too: met by whoever asked, the sentence says what would fit."""


@dataclass
class Clock:
    """Seconds spent in each part of a job."""

    load: float = 0.0
    denoise: float = 0.0
    decode: float = 0.0
    encode: float = 0.0


@dataclass
class Work:
    """The job at work."""

    run: messages.Run
    clock: Clock
    inputs: dict[str, Picture]
    image: int = 0  # index of the first picture of the batch
    batch: int = 1
    planned: int = 1  # denoising steps of all stages of the batch
    before: int = 0  # of those, the ones of the stages that are over
    stage: int = 0  # steps of the stage at work
    rungs: dict[str, Rung] = field(default_factory=dict)  # by model: the lowest that the job came to

    @property
    def rung(self) -> Rung | None:
        """The rung that the job came to last."""
        return next(reversed(self.rungs.values()), None)

    @property
    def folder(self) -> Path:
        return Path(self.run.folder)


class Engine:
    """Runs jobs until told to stop."""

    def __init__(self, settings: Settings, residents: Residents, safety: Safety, commands: Commands, out: IO[bytes]):
        self._settings = settings
        self._residents = residents
        self._safety = safety
        self._commands = commands
        self._out = out
        self._send_lock = threading.Lock()
        self._device = residents.device
        self._upscalers = Upscalers(settings.models / "upscalers", residents.device)
        # Previews would show what a filter is there to withhold.
        self._previews = Previews(0.0 if safety.is_on else settings.preview_s)
        self._fits = Fits(settings.cache / "fits.json")
        self._files = ThreadPoolExecutor(2, thread_name_prefix="files")
        self._last_sign = 0.0
        self._work: Work | None = None
        self._resident_then = 0  # bytes, when a model was last loaded
        self._loaded_then: list[str] = []

    @classmethod
    def make(cls, settings: Settings, library: Library, commands: Commands, out: IO[bytes]) -> Engine:
        """The engine on the device of the settings, with its filters, and no model yet. Raises UnusableError, SafetyError."""
        device = devices.choose(settings.device, settings.model)
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
        residents.on_load = engine.on_load
        return engine

    # -- the loop ------------------------------------------------------------------------------------------------------------

    def warm_up(self) -> EngineFacts:
        """Load the default model and draw with it: the first kernels are slow, and one that cannot draw should say so now."""
        begun = time.perf_counter()
        name = self._residents.library.default
        rung = Rung(self._residents.configured(name), 1)
        while short := self._too_much(name, rung):
            log.warning("model %s: out of memory at the start (%s)", name, short)
            devices.release(self._device)
            lower = rung.lower()
            if lower is None:
                raise UnusableError(
                    f"The model {name!r} needs more memory than there is, with the thriftiest settings too: {short}"
                )
            rung = lower
            self._residents.use(name, rung.tricks)
        self._note_memory()
        return self._facts(name, rung, time.perf_counter() - begun)

    def _too_much(self, name: str, rung: Rung) -> str | None:
        """Load the model and draw the warm-up picture; what was said when memory ran out over it, None when all went well."""
        try:
            model = self._residents.get(name)
            if model.is_unet and model.family.name != "sdxl-refiner" and not model.entry.card.inpainting:
                self._work = Work(messages.Run(id="", folder="", job=WARM_UP, cells=()), Clock(), {})
                draw.pictures(WARM_UP.model_copy(update={"model": name}), [0], self._studio(self._work, quiet=True))
        except JOB_ERRORS as error:
            if not devices.is_out_of_memory(error):
                raise
            return str(error).splitlines()[0] if str(error) else type(error).__name__
        finally:
            self._work = None
        return None

    def serve(self, facts: EngineFacts) -> None:
        self._send(messages.Ready(facts=facts))
        while (run := self._commands.runs.get()) is not None and not self._commands.stopped:
            self._send(self.run(run))

    def run(self, run: messages.Run) -> messages.Finished | messages.Failed:
        """Run one job to its end, whatever end that is. A fault that outlives the job ends the process instead."""
        devices.forget_peak(self._device)
        work = Work(run, Clock(), {})
        self._work = work
        try:
            sheet_name = self._draw_all(work)
        except UnwantedError:
            return messages.Failed(id=run.id, code="cancelled", reason="Cancelled while it ran.")
        except pictures.InputError as error:
            return messages.Failed(id=run.id, code="invalid", reason=str(error))
        except FileNotFoundError as error:
            return messages.Failed(id=run.id, code="lost", reason=f"The job's folder is gone: {error}.")
        except OSError as error:
            return messages.Failed(id=run.id, code="no_space", reason=f"A picture could not be written: {error}.")
        except Exception as error:  # noqa: BLE001 - a library may raise anything over a stranger's file: it costs the job alone
            return self._failed(work, error)
        finally:
            self._work = None
        timings = Timings(**{name: round(value, 4) for name, value in vars(work.clock).items()})
        facts = self._facts(run.cells[-1].model, work.rung, 0.0)
        return messages.Finished(id=run.id, timings=timings, facts=facts, sheet=sheet_name, grown_bytes=self._grown())

    # -- a job ---------------------------------------------------------------------------------------------------------------

    def _draw_all(self, work: Work) -> str | None:
        """All cells, batch by batch. Returns the name of the contact sheet, if it is a sweep."""
        run = work.run
        masks = {cell.mask for cell in run.cells} - {cell.image for cell in run.cells}
        for name in run.job.inputs:
            # Where nothing was painted on a mask, nothing is to be repainted.
            ground = "black" if name in masks else "white"
            work.inputs[name] = pictures.read(work.folder / "inputs" / name, ground)
        written: list[Future[sheet.Cell | None]] = []
        try:
            for cell, at in zip(run.cells, _positions(run), strict=True):
                seeds = [((cell.seed + index) % 2**32) for index in range(cell.count)]
                while seeds:
                    drawn = self._batch(work, cell, seeds)
                    self._wait_for_files(written, drawn)
                    written += [
                        self._files.submit(self._keep, work, cell, seed, work.image + offset, at, picture)
                        for offset, (seed, picture) in enumerate(zip(seeds, drawn, strict=False))
                    ]
                    work.image += len(drawn)
                    seeds = seeds[len(drawn) :]
            begun = time.perf_counter()
            kept = [found for future in written if (found := future.result())]
            work.clock.encode += time.perf_counter() - begun
        finally:
            # Whatever the end is, nobody writes into the folder after it was told: the spooler publishes it then.
            for future in written:
                future.cancel()
            wait(written)
        return self._sheet(work, kept) if run.job.sweep else None

    def _wait_for_files(self, written: list[Future[sheet.Cell | None]], drawn: list[Picture]) -> None:
        """Let the files catch up, so that large finished pictures do not pile up in memory."""
        at_once = max(2, FILES_PIXELS // max(1, drawn[0].width * drawn[0].height))
        while sum(not each.done() for each in written) > at_once:
            self._check_wanted()
            self._sign("encode", self._work.planned if self._work else 0)
            time.sleep(0.02)

    def _batch(self, work: Work, cell: Job, seeds: list[int]) -> list[Picture]:
        """Draw the first pictures of the seeds, as many as fit at once, going down the ladder when memory runs out."""
        count = min(len(seeds), self._settings.batch)
        top = Rung(self._residents.configured(cell.model), count)
        model_hash = self._residents.hashes.of(self._residents.entry(cell.model))
        width, height = cell.width or 0, cell.height or 0
        key = Fits.key(devices.name(self._device), model_hash, width, height, count, top)
        rung = work.rungs.get(cell.model) or self._fits.start(key, top)
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
                what = str(error).splitlines()[0]
            else:
                self._fits.remember(key, rung)
                return drawn
            # Only out here, where the traceback no longer holds the tensors, is there anything to free.
            devices.release(self._device)
            lower = rung.lower()
            if lower is None:
                raise MemoryShortError(self._what_would_fit(cell, model_hash, what))
            log.warning("job %s: out of memory (%s), again with %s", work.run.id, what, lower.name)
            rung = lower

    def _draw(self, work: Work, cell: Job, seeds: list[int]) -> list[Picture]:
        work.batch, work.planned, work.before, work.stage = len(seeds), draw.planned_steps(cell), 0, 0
        self._sign("denoise", 0, always=True)
        self._check_wanted()
        begun, clock = time.perf_counter(), work.clock
        load, decode = clock.load, clock.decode
        drawn = draw.pictures(cell, seeds, self._studio(work))
        clock.denoise += time.perf_counter() - begun - (clock.load - load) - (clock.decode - decode)
        return drawn

    def _studio(self, work: Work, quiet: bool = False) -> draw.Studio:
        return draw.Studio(
            models=_Shelf(self, work),
            upscalers=self._upscalers,
            inputs=work.inputs,
            on_stage=(lambda phase, steps: None) if quiet else self._on_stage,
            on_step=(lambda step, steps, latents, model: None) if quiet else self._on_step,
            on_tile=(lambda tile, tiles: None) if quiet else self._on_tile,
            is_warm_up=quiet,
        )

    def _on_stage(self, phase: str, steps: int) -> None:
        assert self._work  # noqa: S101 - a stage is of a job
        self._check_wanted()
        if phase == "denoise":
            self._work.before += self._work.stage
            self._work.stage = steps

    def _on_step(self, step: int, steps: int, latents: Any, model: Model) -> None:
        work = self._work
        assert work  # noqa: S101 - a step is of a job
        self._check_wanted()
        done = work.before + round(work.stage * min(1.0, step / steps))
        self._sign("denoise", min(done, work.planned), always=step == steps)
        self._previews.show(latents, model.latent_map, work.folder)

    def _on_tile(self, tile: int, tiles: int) -> None:
        self._check_wanted()
        self._sign("upscale", self._work.planned if self._work else 0)

    def on_decode(self) -> None:
        if self._work and self._work.run.id:
            self._sign("decode", self._work.planned, always=True)

    def on_load(self, name: str) -> None:
        """A model is about to be loaded: the spooler gives that its own time limit."""
        if self._work and self._work.run.id:
            self._sign("load", 0, always=True)

    def _check_wanted(self) -> None:
        if self._work and self._commands.unwanted(self._work.run.id):
            raise UnwantedError

    # -- files, off the device's thread ---------------------------------------------------------------------------------------

    def _keep(self, work: Work, cell: Job, seed: int, index: int, at: tuple[int, ...], picture: Picture) -> sheet.Cell | None:
        """Let the filters see a picture, and write what they leave of it. Returns it for the contact sheet."""
        shown, verdict = self._safety.check(picture)
        flag = None
        if verdict:
            flag = Flag(**vars(verdict), action="blur" if shown else "withhold")
            log.warning("job %s: picture %d flagged by %s: %s %.2f", work.run.id, index, flag.layer, flag.label, flag.score)
        name = f"{index}.png" if shown else ""
        digest = None
        if shown:
            shown = shown.convert("RGB")
            digest = hashlib.sha256(shown.tobytes()).hexdigest()
            model = self._residents.entry(cell.model)
            facts = (cell.model, self._residents.hashes.of(model))
            _save(shown, work.folder / name, infotext(cell, seed, *facts))
        size = {"width": picture.width, "height": picture.height}
        image = Image(file=name, index=index, seed=seed, **size, pixels=digest, cell=at, flagged=flag)
        self._send(messages.ImageDone(id=work.run.id, image=image))
        if not (shown and work.run.job.sweep):
            return None
        small = shown.copy()
        small.thumbnail((512, 512))
        return sheet.Cell(small, at)

    def _sheet(self, work: Work, cells: list[sheet.Cell]) -> str | None:
        axes = [sheet.Axis(field, tuple(_label(value) for value in values)) for field, values in work.run.job.sweep.items()]
        try:
            made = sheet.contact_sheet(cells, axes)
        except ValueError as error:  # more columns than a sheet can show: the pictures are there all the same
            log.warning("job %s: no contact sheet: %s", work.run.id, error)
            return None
        _save(made, work.folder / "sheet.png", None)
        return "sheet.png"

    # -- telling -------------------------------------------------------------------------------------------------------------

    def _failed(self, work: Work, error: Exception) -> messages.Failed:
        run = work.run
        code = "out_of_memory" if isinstance(error, MemoryShortError) else devices.code_of(error)
        reason = str(error) or type(error).__name__
        if not isinstance(error, (MemoryShortError, UnusableError, UpscalerError, SafetyError, ValueError, ArithmeticError)):
            reason = f"The engine could not make the picture: {reason}"
        details, fatal = "".join(traceback.format_exception(error)), devices.is_fatal(error)
        failed = messages.Failed(id=run.id, code=code, reason=reason[:1000], details=details, fatal=fatal)
        if not fatal and run.cells[0].model in self._residents.library.models:
            facts = self._facts(run.cells[-1].model, work.rung, 0.0)
            failed = failed.model_copy(update={"facts": facts, "grown_bytes": self._grown()})
        if fatal:
            # A sticky CUDA error: every later call in this process would fail too. The spooler starts a new one.
            self._send(failed)
            os._exit(3)
        return failed

    def _what_would_fit(self, cell: Job, model_hash: str, what: str) -> str:
        """The sentence after the last rung."""
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

    def _facts(self, name: str, rung: Rung | None, load_seconds: float) -> EngineFacts:
        """What ran a job. The model itself may be gone again by now: a refiner may have needed its room."""
        entry = self._residents.entry(name)
        return EngineFacts(
            model=name,
            hash=self._residents.hashes.of(entry),
            family=entry.card.family,
            device=str(self._device),
            device_name=devices.name(self._device),
            precision=str(self._residents.precision(name)).removeprefix("torch."),
            versions={
                "torch": torch.__version__,
                "diffusers": importlib.metadata.version("diffusers"),
                "transformers": importlib.metadata.version("transformers"),
            },
            load_seconds=round(load_seconds, 3),
            memory=str(self._residents.tricks(name)),
            rung=rung.name if rung else None,
            peak_bytes=devices.peak_bytes(self._device),
            swaps=self._residents.swaps,
        )

    def _note_memory(self) -> None:
        self._resident_then, self._loaded_then = devices.resident_bytes(), self._residents.names

    def _grown(self) -> int:
        """Bytes by which the process grew since the loaded models changed; a model that could not be freed counts as all."""
        if self._residents.leaked:
            return 1 << 62
        if sorted(self._residents.names) != sorted(self._loaded_then):
            self._note_memory()
        return max(0, devices.resident_bytes() - self._resident_then)

    def _sign(self, phase: Phase, step: int, always: bool = False) -> None:
        now, work = time.monotonic(), self._work
        if work and (always or now - self._last_sign >= SIGN_S):
            self._last_sign = now
            progress = {"image": work.image, "batch": work.batch, "step": step, "steps": work.planned}
            self._send(messages.Progress(id=work.run.id, phase=phase, **progress))

    def _send(self, message: FromEngine) -> None:
        try:
            with self._send_lock:
                self._out.write(message.line())
        except BrokenPipeError:  # the spooler is dead
            os._exit(0)


class _Shelf:
    """The residents as drawing sees them: what loading and decoding cost is put down to the job's clock."""

    def __init__(self, engine: Engine, work: Work):
        self._engine = engine
        self._work = work

    def get(self, name: str) -> Model:
        begun = time.perf_counter()
        model = self._engine._residents.get(name)
        self._work.clock.load += time.perf_counter() - begun
        clock = self._work.clock
        model.on_decode = self._engine.on_decode
        model.on_decoded = lambda seconds: setattr(clock, "decode", clock.decode + seconds)
        return model


def _positions(run: messages.Run) -> list[tuple[int, ...]]:
    """Where each cell sits on the axes, in the order of `Job.cells`: the first axis changes fastest."""
    sizes = [len(values) for values in run.job.sweep.values()]
    positions = []
    for number in range(len(run.cells)):
        at = []
        for size in sizes:
            number, index = divmod(number, size)
            at.append(index)
        positions.append(tuple(at))
    return positions


def _label(value: Any) -> Any:
    """A swept value as the sheet shows it: objects by what is in them."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    if isinstance(value, list):
        return "; ".join(str(_label(each)) for each in value) or "none"
    return "none" if value is None else value


def _save(picture: Picture, path: Path, text: str | None) -> None:
    """Write a PNG under a name that nobody takes for a picture until it is whole."""
    info = PngInfo()
    if text:
        # A1111's key and form, which other tools read; Pillow writes iTXt where Latin-1 does not do.
        info.add_text("parameters", text)
    draft = path.with_name(f".{path.name}")
    picture.save(draft, format="PNG", pnginfo=info, compress_level=PNG_LEVEL)
    draft.replace(path)
