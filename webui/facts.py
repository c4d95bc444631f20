"""A job's record as rows for people, the interesting ones first. Pure."""

from __future__ import annotations

from flask_babel import gettext

from spooler.catalogue import loras_of
from spooler.job import Job
from spooler.record import EngineFacts
from webui.reports import JobReport


def rows(report: JobReport) -> list[tuple[str, str]]:
    """What each is called, and its value; what says nothing is left out, and what is swept is told in a row of its own."""
    used, engine = report.parameters or report.job, report.engine
    sized = used.width and used.height
    found = (
        ("negative_prompt", gettext("Negative prompt"), used.negative_prompt),
        ("width", gettext("Size"), sized and gettext("%(w)s × %(h)s pixels", w=used.width, h=used.height)),  # noqa: RUF001
        ("steps", gettext("Steps"), used.steps),
        ("guidance_scale", gettext("Guidance scale"), None if used.guidance_scale is None else f"{used.guidance_scale:g}"),
        ("guidance_cutoff", gettext("Guidance until"), None if used.guidance_cutoff == 1 else f"{used.guidance_cutoff:g}"),
        ("deepcache_interval", gettext("DeepCache"), None if used.deepcache_interval == 1 else used.deepcache_interval),
        ("sampler", gettext("Sampler"), _sampler(used)),
        ("seed", gettext("Seed"), None if used.seed == -1 else _span(used.seed, used.count)),
        ("kind", gettext("Kind"), None if used.kind == "txt2img" else used.kind),
        ("strength", gettext("Strength"), f"{used.strength:g}" if used.image and not used.upscales_only else None),
        ("loras", gettext("LoRA"), ", ".join(f"{lora.name} {lora.weight:g}" for lora in loras_of(used))),
        ("vae", gettext("VAE"), used.vae),
        ("controls", gettext("ControlNet"), ", ".join(f"{control.model} {control.weight:g}" for control in used.controls)),
        ("hires", gettext("Hires fix"), _hires(used)),
        ("refiner", gettext("Refiner"), used.refiner and f"{used.refiner.model}, {used.refiner.switch_at:g}"),
        ("upscale", gettext("Enlarged"), used.upscale and f"{used.upscale.scale:g} ×, {used.upscale.upscaler}"),  # noqa: RUF001
        ("", gettext("Sweep"), "; ".join(f"{name}: {', '.join(map(str, values))}" for name, values in used.sweep.items())),
        ("model", gettext("Model"), _model(engine) if engine else used.model),
        ("", gettext("Device"), f"{engine.device_name}, {engine.precision}" if engine else None),
        ("", gettext("Memory"), _memory(engine) if engine and report.completed else None),
        ("", gettext("Time"), _seconds(report) if report.completed and report.timings.denoise else None),
        # As the job says. One that names nobody waits its turn as the job of an account, which makes it nobody's own.
        ("", gettext("Owner"), report.job.owner or gettext("nobody")),
        ("", gettext("Priority"), _priority(report)),
        ("", gettext("Attempts"), report.attempts[-1].number if len(report.attempts) > 1 else None),
        ("", gettext("Spooler"), report.spooler),
        ("", gettext("Versions"), engine and ", ".join(f"{name} {version}" for name, version in engine.versions.items())),
    )
    return [(label, str(value)) for name, label, value in found if value not in (None, "") and name not in used.sweep]


def _priority(report: JobReport) -> str | int | None:
    if report.top:
        return str(gettext("top of the queue"))
    return (report.job.priority if report.priority is None else report.priority) or None


def _sampler(used: Job) -> str | None:
    return used.sampler and used.sampler + (f", {used.scheduler}" if used.scheduler not in (None, "Automatic") else "")


def _hires(used: Job) -> str | None:
    hires = used.hires
    return f"{hires.scale:g} ×, {hires.strength:g}, {hires.upscaler}" if hires else None  # noqa: RUF001


def _model(engine: EngineFacts) -> str:
    """Before a model is read its hash is not known."""
    return f"{engine.model} [{engine.hash[:10]}]" if engine.hash else engine.model


def _memory(engine: EngineFacts) -> str:
    told = engine.memory
    if engine.peak_bytes:
        told += gettext(", at most %(gib)s GiB in use", gib=f"{engine.peak_bytes / 2**30:.1f}")
    return told + (gettext("; memory was short, so: %(rung)s", rung=engine.rung) if engine.rung else "")


def _span(seed: int, count: int) -> str:
    return str(seed) if count == 1 else gettext("%(a)s to %(b)s", a=seed, b=(seed + count - 1) % 2**32)


def _seconds(report: JobReport) -> str:
    timings = report.timings
    told: str = gettext(
        "%(work)s s (denoise %(denoise)s, decode %(decode)s, encode %(encode)s), after %(queue)s s in the queue",
        work=f"{timings.denoise + timings.decode + timings.encode:.1f}",
        denoise=f"{timings.denoise:.1f}",
        decode=f"{timings.decode:.1f}",
        encode=f"{timings.encode:.1f}",
        queue=f"{timings.queue:.1f}",
    )
    return told
