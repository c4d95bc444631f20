"""How long jobs take: their work in megapixel-steps, and when the waiting ones will start, from speeds that were measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from spooler.catalogue import ModelCard, size_of
from spooler.job import Job
from spooler.schedule import Waiting

#: Weight of the newest measurement in the running mean.
NEWEST = 0.3


def work(job: Job, card: ModelCard | None, input_size: tuple[int, int] | None = None) -> float:
    """Megapixel-steps of a job: pictures x steps x width x height / 10^6, with the model's defaults for what it leaves open.

    `input_size`: of the picture that it starts from, where that is known.
    """
    width, height = size_of(job, card, input_size) if card else (job.width or 512, job.height or 512)
    steps = float(job.steps or (card.steps if card else 25))
    if job.image and not job.upscales_only:
        steps = max(1.0, steps * job.strength)
    if job.upscales_only:
        steps = 1.0
    if job.hires:
        steps += (job.hires.steps or steps) * job.hires.strength * job.hires.scale**2
    return job.pictures * steps * width * height / 1e6


def learn(speeds: Mapping[str, float], model: str, seconds: float, done: float) -> dict[str, float]:
    """The speeds (seconds a megapixel-step, by model) after a job of that work took that long."""
    measured = seconds / max(done, 1e-6)
    before = speeds.get(model)
    # The first job of an engine warms it up and is much slower: one that took less than half tells more than the mean of both.
    return {**speeds, model: measured if before is None or measured < before / 2 else (1 - NEWEST) * before + NEWEST * measured}


def starts(
    line: Iterable[Waiting], default: str, speeds: Mapping[str, float], running_s: float = 0.0, engines: int = 1
) -> list[float | None]:
    """Seconds from now until each job of the line starts; None from the first on whose speed nobody has measured.

    `speeds` is seconds a megapixel-step by model; a model that was not measured is taken for as fast as the mean of the others.
    `running_s` is what the running jobs still need together.
    """
    known = sum(speeds.values()) / len(speeds) if speeds else None
    at, found = running_s / max(1, engines), []
    for job in line:
        found.append(at if known is not None else None)
        if known is not None:
            at += job.work * speeds.get(job.model or default, known) / max(1, engines)
    return found
