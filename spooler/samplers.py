"""The samplers and schedules that a job may name: A1111's names, and the diffusers scheduler behind each. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sampler:
    """One row: the name people know, k-diffusion's aliases for it, and the diffusers class with its arguments."""

    name: str
    aliases: tuple[str, ...]
    scheduler_class: str
    arguments: dict[str, Any] = field(default_factory=dict)
    schedules: tuple[str, ...] = ("Automatic",)

    def config(self, schedule: str) -> dict[str, Any]:
        """What to lay over the model's own scheduler config. Automatic adds nothing: the model keeps its own spacing."""
        return self.arguments | SCHEDULES[schedule]


#: A schedule is how the noise levels are spaced over the steps; diffusers takes it as a switch of the scheduler.
SCHEDULES: dict[str, dict[str, Any]] = {
    "Automatic": {},
    "Karras": {"use_karras_sigmas": True},
    "Exponential": {"use_exponential_sigmas": True},
    "Uniform": {"timestep_spacing": "linspace"},
    "SGM Uniform": {"timestep_spacing": "trailing"},
}

_ALL = tuple(SCHEDULES)
_SPACED = ("Automatic", "Uniform", "SGM Uniform")

SAMPLERS: tuple[Sampler, ...] = (
    Sampler("DPM++ 2M", ("k_dpmpp_2m",), "DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}, _ALL),
    Sampler("DPM++ 2M SDE", ("k_dpmpp_2m_sde",), "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, _ALL),
    Sampler(
        "DPM++ 3M SDE",
        ("k_dpmpp_3m_sde",),
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
        _ALL,
    ),
    Sampler("Euler", ("k_euler",), "EulerDiscreteScheduler", {}, _ALL),
    Sampler("Euler a", ("k_euler_a", "k_euler_ancestral"), "EulerAncestralDiscreteScheduler", {}, _SPACED),
    Sampler("Heun", ("k_heun",), "HeunDiscreteScheduler", {}, _ALL),
    Sampler("LMS", ("k_lms",), "LMSDiscreteScheduler", {}, _ALL),
    Sampler("DPM2", ("k_dpm_2",), "KDPM2DiscreteScheduler", {}, _ALL),
    Sampler("DPM2 a", ("k_dpm_2_a", "k_dpm_2_ancestral"), "KDPM2AncestralDiscreteScheduler", {}, _ALL),
    Sampler("UniPC", ("unipc",), "UniPCMultistepScheduler", {}, _ALL),
    Sampler("DEIS", ("deis",), "DEISMultistepScheduler", {}, _ALL),
    Sampler("DDIM", ("ddim",), "DDIMScheduler", {}, _SPACED),
    Sampler("DDPM", ("ddpm",), "DDPMScheduler", {}, _SPACED),
    Sampler("PLMS", ("plms", "pndm"), "PNDMScheduler", {"skip_prk_steps": True}),
    Sampler("LCM", ("k_lcm",), "LCMScheduler"),
    Sampler("TCD", ("k_tcd",), "TCDScheduler"),
)

SAMPLER_NAMES: tuple[str, ...] = tuple(sampler.name for sampler in SAMPLERS)
SCHEDULE_NAMES: tuple[str, ...] = tuple(SCHEDULES)

_BY_NAME = {name.lower(): sampler for sampler in SAMPLERS for name in (sampler.name, *sampler.aliases)}
_SCHEDULE_BY_NAME = {name.lower(): name for name in SCHEDULES}


def find(name: str) -> Sampler | None:
    """The sampler of that name or alias, in any case; None when there is none."""
    return _BY_NAME.get(name.strip().lower())


def find_schedule(name: str) -> str | None:
    """The schedule of that name, in any case; None when there is none."""
    return _SCHEDULE_BY_NAME.get(name.strip().lower())


def split(name: str) -> tuple[str, str | None]:
    """A1111's joined form taken apart: "DPM++ 2M Karras" is the sampler "DPM++ 2M" with the schedule "Karras"."""
    if find(name) is None:
        for schedule in SCHEDULES:
            head = name.strip()[: -len(schedule)].rstrip()
            if head and name.strip().lower().endswith(f" {schedule.lower()}") and (find(head) or schedule == "Karras"):
                return head, schedule
    return name, None


def markdown_table() -> str:
    """The table of docs/engine.md."""
    rows = ["| sampler | aliases | diffusers scheduler | schedules |", "|---|---|---|---|"]
    for sampler in SAMPLERS:
        arguments = ", ".join(f"{name}={value}" for name, value in sampler.arguments.items())
        scheduler = sampler.scheduler_class + (f" ({arguments})" if arguments else "")
        rows.append(f"| {sampler.name} | {', '.join(sampler.aliases)} | {scheduler} | {', '.join(sampler.schedules)} |")
    return "\n".join(rows) + "\n"
