"""What each family of models can do. A job that asks for more is refused when it is submitted, not on the GPU.

The table of docs/engine.md is made from these rows, and a test draws each cell of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from spooler.distilled import LCM_PIPELINE
from spooler.job import Job
from spooler.mistakes import Mistake

#: Each kind of work, in the words of the manual. All families draw txt2img, sweep, and enlarge the finished picture.
KINDS: dict[str, str] = {
    "img2img": "start from a picture",
    "inpaint": "repaint a masked part",
    "hires": "hires fix",
    "refiner": "base and refiner",
    "loras": "LoRA",
    "embeddings": "textual inversion",
    "controls": "ControlNet",
    "vae": "choice of the VAE",
    "clip_skip": "clip skip",
    "weights": "prompt weights, BREAK, long prompts",
    "variation": "variation seed",
    "sampler": "choice of the sampler",
    "negative_prompt": "negative prompt",
    "guidance_cutoff": "guidance that ends early",
    "deepcache": "DeepCache",
    "preview": "live preview",
}


@dataclass(frozen=True)
class Family:
    """One row: a family's name, the diffusers pipelines that make it up, and the kinds of work that it can do."""

    name: str
    title: str
    pipelines: tuple[str, ...]
    side: int  # pixels of the pictures that it was trained for
    kinds: frozenset[str]
    steps: int = 25
    guidance_scale: float = 7.0
    multiple: int = 8  # of which sides have to be, in pixels


_UNET = frozenset(KINDS) - {"refiner"}
_DIT = frozenset({"img2img", "inpaint", "hires", "loras", "negative_prompt", "guidance_cutoff"})

FAMILIES: tuple[Family, ...] = (
    Family(
        "sd1",
        "Stable Diffusion 1.x",
        # LCM's own pipeline is this one with LCM's sampler, for a UNet that is told the guidance: which all here do.
        ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline", LCM_PIPELINE),
        512,
        _UNET,
    ),
    Family("sd2", "Stable Diffusion 2.x", (), 768, _UNET),  # told from 1.x by the width of its text encoder
    Family(
        "sdxl",
        "Stable Diffusion XL",
        ("StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline"),
        1024,
        _UNET | {"refiner"},
    ),
    Family("sdxl-refiner", "SDXL refiner", ("StableDiffusionXLImg2ImgPipeline",), 1024, frozenset()),
    Family("sd3", "Stable Diffusion 3.x", ("StableDiffusion3Pipeline",), 1024, _DIT, 28, 7.0, 16),
    Family("flux", "Flux.1", ("FluxPipeline",), 1024, _DIT - {"negative_prompt", "guidance_cutoff"}, 28, 3.5, 16),
    Family(
        "pixart",
        "PixArt",
        ("PixArtAlphaPipeline", "PixArtSigmaPipeline"),
        1024,
        frozenset({"negative_prompt", "guidance_cutoff"}),
        20,
        4.5,
        16,
    ),
    Family("sana", "Sana", ("SanaPipeline",), 1024, frozenset({"loras", "negative_prompt", "guidance_cutoff"}), 20, 4.5, 32),
    Family("z-image", "Z-Image", ("ZImagePipeline",), 1024, _DIT, 9, 5.0, 16),
    Family("qwen-image", "Qwen-Image", ("QwenImagePipeline",), 1024, _DIT - {"guidance_cutoff"}, 30, 4.0, 16),
)

#: A pipeline that AutoPipelineForText2Image knows and this table does not: it runs through the library's own call.
OTHER = Family("other", "any other text-to-image pipeline of diffusers", (), 1024, frozenset())

_BY_NAME = {family.name: family for family in FAMILIES}
_BY_PIPELINE = {pipeline: family for family in FAMILIES for pipeline in family.pipelines}


def get(name: str) -> Family:
    """The family of that name; any name that is not in the table is that of an unknown pipeline."""
    return _BY_NAME.get(name, OTHER)


def of_pipeline(class_name: str) -> Family:
    """The family of a diffusers pipeline class."""
    return _BY_PIPELINE.get(class_name, OTHER)


def mistakes(job: Job, model: str, family: Family) -> Iterator[Mistake]:
    """What the job (one cell of it, if it is a sweep) asks for and a model of the family cannot do."""
    if family.name == "sdxl-refiner":
        yield Mistake(
            "model", f"`model` must draw by itself, but {model!r} is a refiner: name it as `refiner` of an SDXL model."
        )
        return
    asked = {
        "img2img": ("image", bool(job.image) and not job.mask and not job.upscales_only),
        "inpaint": ("mask", bool(job.mask)),
        "hires": ("hires", bool(job.hires)),
        "refiner": ("refiner", bool(job.refiner)),
        "loras": ("loras", bool(job.loras) or "<lora:" in job.prompt + job.negative_prompt),
        "controls": ("controls", bool(job.controls)),
        "vae": ("vae", bool(job.vae)),
        "clip_skip": ("clip_skip", job.clip_skip > 1),
        "variation": ("variation_strength", job.variation_strength > 0),
        "sampler": ("sampler", job.sampler is not None),
        "negative_prompt": ("negative_prompt", bool(job.negative_prompt)),
        "guidance_cutoff": ("guidance_cutoff", job.guidance_cutoff < 1),
        "deepcache": ("deepcache_interval", job.deepcache_interval > 1),
    }
    for kind, (field, wanted) in asked.items():
        if wanted and kind not in family.kinds:
            yield Mistake(
                field, f"`{field}` ({KINDS[kind]}) does not work with the model {model!r}: it is of the family {family.title}."
            )
    for side in ("width", "height"):
        value = getattr(job, side)
        if value and value % family.multiple:
            yield Mistake(
                side, f"`{side}` must be a multiple of {family.multiple} with the family {family.title}, but is {value}."
            )
    if job.hires and job.hires.upscaler == "Latent" and "sampler" not in family.kinds:
        yield Mistake("hires.upscaler", f"`hires.upscaler` Latent does not work with the family {family.title}: give Lanczos.")
    if "sampler" not in family.kinds and job.scheduler not in (None, "Automatic"):
        yield Mistake(
            "scheduler", f"`scheduler` does not work with the model {model!r}: the family {family.title} has its own."
        )


def markdown_table() -> str:
    """The table of docs/engine.md: kinds of work by families, in each cell the name of its test in tests/test_kinds.py."""
    columns = [family for family in FAMILIES if family.name != "sdxl-refiner"]
    rows = ["| | " + " | ".join(family.title for family in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for kind in ("txt2img", *KINDS, "upscale", "sweep"):
        cells = [
            f"`{family.name}-{kind}`" if kind in family.kinds or kind not in KINDS else f"no: `{family.name}-{kind}`"
            for family in columns
        ]
        rows.append(f"| {KINDS.get(kind, kind)} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"
