"""What is told of a job's end: finished, with what it took and what ran it, or failed, with a reason and a code."""

from __future__ import annotations

import importlib.metadata
import os
import time
import traceback
from functools import cache

import torch

from spooler import messages, pictures
from spooler.engine import device as devices
from spooler.engine.alone import MemoryShortError, UnwantedError
from spooler.engine.device import UnusableError
from spooler.engine.growth import Growth
from spooler.engine.memory import Rung
from spooler.engine.residents import Residents
from spooler.engine.safety import SafetyError
from spooler.engine.upscale import UpscalerError
from spooler.engine.voice import Voice
from spooler.engine.work import Work
from spooler.record import EngineFacts, Timings


class Reports:
    """The last word on each job. One on an error that outlives the job is sent at once, and ends the process."""

    def __init__(self, residents: Residents, growth: Growth, voice: Voice):
        self._residents = residents
        self._device = residents.device
        self._growth = growth
        self._voice = voice

    def finished(self, work: Work, sheet_name: str | None) -> messages.Finished:
        work.clock.encode = time.perf_counter() - work.drawn
        timings = Timings(**{name: round(value, 4) for name, value in vars(work.clock).items()})
        seen = {"shared": work.shared, "peak_bytes": work.peak_bytes}
        facts = self.facts(work.run.cells[-1].model, work.rung, 0.0).model_copy(update=seen)
        return messages.Finished(id=work.id, timings=timings, facts=facts, sheet=sheet_name, grown_bytes=self._growth.bytes())

    def ended_by(self, work: Work, error: Exception) -> messages.Failed:
        """How a job ends that met this."""
        match error:
            case UnwantedError():
                return messages.Failed(id=work.id, code="cancelled", reason="Cancelled while it ran.")
            case pictures.InputError():
                return messages.Failed(id=work.id, code="invalid", reason=str(error))
            case FileNotFoundError():
                return messages.Failed(id=work.id, code="lost", reason=f"The job's folder is gone: {error}.")
            case OSError():
                reason = f"A picture could not be written: {error}."
                return messages.Failed(id=work.id, code="no_space", reason=reason, errno=error.errno)
        return self.failed(work, error)

    def failed(self, work: Work, error: Exception) -> messages.Failed:
        run = work.run
        code = "out_of_memory" if isinstance(error, MemoryShortError) else devices.code_of(error)
        reason = str(error) or type(error).__name__
        if not isinstance(error, (MemoryShortError, UnusableError, UpscalerError, SafetyError, ValueError, ArithmeticError)):
            reason = f"The engine could not make the picture: {reason}"
        details, fatal = "".join(traceback.format_exception(error)), devices.is_fatal(error)
        failed = messages.Failed(id=run.id, code=code, reason=reason[:1000], details=details, fatal=fatal)
        if not fatal and run.cells[0].model in self._residents.library.models:
            facts = self.facts(run.cells[-1].model, work.rung, 0.0)
            failed = failed.model_copy(update={"facts": facts, "grown_bytes": self._growth.bytes()})
        if fatal:
            # A sticky CUDA error: every later call in this process would fail too. The spooler starts a new one.
            self._voice.send(failed)
            os._exit(3)
        return failed

    def facts(self, name: str, rung: Rung | None, load_seconds: float) -> EngineFacts:
        """What ran a job. The model itself may be gone again by now: a refiner may have needed its room."""
        entry = self._residents.entry(name)
        return EngineFacts(
            model=name,
            hash=self._residents.hash_of(name),
            family=entry.card.family,
            device=str(self._device),
            device_name=devices.name(self._device),
            precision=str(self._residents.precision(name)).removeprefix("torch."),
            versions=_versions(),
            load_seconds=round(load_seconds, 3),
            memory=str(self._residents.tricks(name)),
            rung=rung.name if rung else None,
            peak_bytes=devices.peak_bytes(self._device),
            swaps=self._residents.swaps,
        )


@cache
def _versions() -> dict[str, str]:
    """What a picture depends on besides the model. Looked up once: it takes milliseconds, and each job's end tells of it."""
    return {"torch": torch.__version__} | {name: importlib.metadata.version(name) for name in ("diffusers", "transformers")}
