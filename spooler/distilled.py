"""Models that were distilled to need few steps, told by their configs and names, and the defaults that suit them. No torch.

    kind        told by                                                       steps   guidance      sampler, schedule
    LCM         the pipeline's class, LCMScheduler, a UNet that is told       4       8 if told,    LCM
                the guidance, or the name                                             else 1.5
    TCD         TCDScheduler, or the name                                     4       1             TCD
    Turbo       the name                                                      4       1             Euler, SGM Uniform
    Lightning   the name                                                      4       1             Euler, SGM Uniform
    Hyper       the name (Hyper-SD)                                           8       1             Euler, SGM Uniform
    Schnell     Flux whose transformer is not told the guidance               4       1             its own

A name that says for how many steps it was made, "..._8step...", counts. With guidance of 1 the network is asked once a step.
SGM Uniform is diffusers' "trailing" spacing, which Turbo and Lightning were trained with; where the folder's own scheduler is
Euler's ancestral one, that is kept.

Sources: the docs of diffusers (SDXL Turbo, LCM, TCD) and the cards of SDXL-Lightning, Hyper-SD, LCM and FLUX.1-schnell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Kind = Literal["LCM", "TCD", "Turbo", "Lightning", "Hyper", "Schnell"]
KINDS: tuple[Kind, ...] = get_args(Kind)

LCM_PIPELINE = "LatentConsistencyModelPipeline"
#: In this order: "LCM" by itself, or as a word of a name in camel case, since other words have these letters too.
_NAMES: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("Lightning", re.compile(r"lightning", re.IGNORECASE)),
    ("Turbo", re.compile(r"turbo", re.IGNORECASE)),
    ("Schnell", re.compile(r"schnell", re.IGNORECASE)),
    ("Hyper", re.compile(r"hyper[-_ ]?sd", re.IGNORECASE)),
    ("LCM", re.compile(r"LCM|(?<![a-z])lcm(?![a-z])")),
    ("TCD", re.compile(r"TCD|(?<![a-z])tcd(?![a-z])")),
)
_OF_SCHEDULER: dict[str, Kind] = {"LCMScheduler": "LCM", "TCDScheduler": "TCD"}
_STEPS = re.compile(r"(?<!\d)([1-9]|1[0-6])[-_ ]?steps?(?![a-z])", re.IGNORECASE)
#: Stability's own, of 512 pixels though their families draw 768 and 1024, and of a noise prediction though 2.x has others.
_SMALL_TURBO = re.compile(r"sd(?:[-_]?xl)?[-_]turbo", re.IGNORECASE)


@dataclass(frozen=True)
class Marks:
    """What a model's files tell of it besides its weights; empty for a single file."""

    pipeline: str = ""
    scheduler: str = ""
    tells_guidance: bool | None = None  # whether the network is told the guidance; None where that is not known


def marks(index: Mapping[str, Any], unet: Mapping[str, Any], transformer: Mapping[str, Any]) -> Marks:
    """From a folder's model_index.json and the configs of its network, empty where there is none."""
    scheduler = index.get("scheduler")
    told = bool(unet.get("time_cond_proj_dim")) if unet else transformer.get("guidance_embeds")
    return Marks(
        pipeline=str(index.get("_class_name")),
        scheduler=str(scheduler[1]) if isinstance(scheduler, list) and len(scheduler) == 2 else "",
        tells_guidance=told if isinstance(told, bool) else None,
    )


def recognised(name: str, family: str, found: Marks) -> Kind | None:
    """What kind of distilled model it is; None for one that needs its steps. The files count before the name."""
    if family == "flux" and found.tells_guidance is False:
        return "Schnell"
    if found.pipeline == LCM_PIPELINE or (family in ("sd1", "sd2", "sdxl") and found.tells_guidance):
        return "LCM"
    if kind := _OF_SCHEDULER.get(found.scheduler):
        return kind
    return next((kind for kind, pattern in _NAMES if pattern.search(name)), None)


def defaults(kind: Kind, name: str, family: str, found: Marks, is_file: bool) -> dict[str, Any]:
    """The fields of a card that suit such a model."""
    fields: dict[str, Any] = {"distilled": kind, "steps": 8 if kind == "Hyper" else 4, "guidance_scale": 1.0}
    if kind in ("LCM", "TCD"):
        fields |= {"sampler": kind, "scheduler": "Automatic"}
    elif found.scheduler == "EulerAncestralDiscreteScheduler":
        fields |= {"sampler": "Euler a", "scheduler": "SGM Uniform"}
    else:
        fields |= {"sampler": "Euler", "scheduler": "SGM Uniform"}
    if kind == "LCM":
        fields["guidance_scale"] = 8.0 if found.tells_guidance else 1.5
    if family == "z-image":  # made for nine, which are eight calls; its guidance begins above 0
        fields |= {"steps": 9, "guidance_scale": 0.0}
    if made_for := _STEPS.search(name):
        fields["steps"] = int(made_for[1])
    if is_file and _SMALL_TURBO.search(name):
        fields |= {"width": 512, "height": 512} | ({"prediction_type": "epsilon"} if family == "sd2" else {})
    return fields
