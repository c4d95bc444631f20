"""The first picture of a process: the first kernels are slow, and a model that cannot draw should say so now."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from spooler import messages
from spooler.company import ALONE
from spooler.engine import device as devices
from spooler.engine import draw
from spooler.engine.album import Album
from spooler.engine.alone import Alone
from spooler.engine.device import JOB_ERRORS, UnusableError, first_line
from spooler.engine.growth import Growth
from spooler.engine.memory import Rung
from spooler.engine.reports import Reports
from spooler.engine.residents import Residents
from spooler.engine.work import Work
from spooler.job import Job
from spooler.record import EngineFacts

log = logging.getLogger(__name__)

WARM_UP = Job(
    prompt="warm-up", width=64, height=64, steps=1, guidance_scale=2.0, sampler="Euler", scheduler="Automatic", seed=0
)


def warm_up(
    residents: Residents, alone: Alone, reports: Reports, growth: Growth, album: Callable[[messages.Run], Album]
) -> EngineFacts:
    """Load the default model and draw with it, on the first rung of memory.py where that fits. Raises UnusableError."""
    begun = time.perf_counter()
    name = residents.library.default
    rung = Rung(residents.configured(name), 1)
    while short := _too_much(name, residents, alone, album):
        log.warning("model %s: out of memory at the start (%s)", name, short)
        devices.release(residents.device)
        lower = rung.lower()
        if lower is None:
            raise UnusableError(
                f"The model {name!r} needs more memory than there is, with the thriftiest settings too: {short}"
            )
        rung = lower
        residents.use(name, rung.tricks)
    growth.note()
    return reports.facts(name, rung, time.perf_counter() - begun)


def _too_much(name: str, residents: Residents, alone: Alone, album: Callable[[messages.Run], Album]) -> str | None:
    """Load the model and draw the warm-up picture; what was said when memory ran out over it, None when all went well."""
    try:
        model = residents.get(name)
        if model.is_unet and model.family.name != "sdxl-refiner" and not model.entry.card.inpainting:
            run = messages.Run(id="", folder="", job=WARM_UP, cells=())
            studio = alone.studio(Work.of(run, album(run), ALONE), quiet=True)
            draw.pictures(WARM_UP.model_copy(update={"model": name}), [0], studio)
    except JOB_ERRORS as error:
        if not devices.is_out_of_memory(error):
            raise
        return first_line(error)
    return None
