"""What a spooler offers, and what a job comes to there: the rules for what it may name, and the model's defaults. No torch.

A spooler tells its catalogue in spooler.json, so the web app and the command line judge a job by the same rules before it
is in the queue. `library.py` makes the catalogue from what lies on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from spooler import checkpoint, families, samplers
from spooler.distilled import Kind
from spooler.job import Job, Lora
from spooler.mistakes import JobError, Mistake, did_you_mean, show
from spooler.prompt import extract_loras, written

AddOn = Literal["loras", "embeddings", "vaes", "controlnets", "upscalers"]
ADD_ONS: tuple[AddOn, ...] = get_args(AddOn)
#: Of a finished picture: 8192 x 8192 and a little.
MAX_PIXELS = 72_000_000
#: Pixels on a side of what is drawn, the second pass included; what enlarges a finished picture may go beyond.
MAX_SIDE = 4096
#: The fields of a card that fill in what a job leaves out.
DEFAULTS = ("width", "height", "steps", "guidance_scale", "sampler", "scheduler")
#: Upscalers that need no file.
BUILT_IN_UPSCALERS = ("Lanczos",)
#: Width and height in pixels of the pictures that a job names, upright, by their names.
Sizes = Mapping[str, tuple[int, int]]


class ModelCard(BaseModel):
    """What a form, a job and a person need to know of a model. Sides are pixels."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    name: str
    family: str
    width: int
    height: int
    steps: int = 25
    guidance_scale: float = 7.0
    sampler: str = "DPM++ 2M"
    scheduler: str = "Automatic"
    hash: str | None = Field(None, description="SHA-256 over its weight files, once they were read.")
    weight_bytes: int = Field(0, description="Bytes of its weights at half precision, as an estimate of the memory they need.")
    clip_skip: int = Field(12, description="The largest clip_skip that its text encoders have a layer for.")
    text_width: int | None = Field(None, description="Width of the text embeddings that its UNet reads.")
    vocabulary: str | None = Field(None, description="By which its prompts are counted, where that is known: clip or demo.")
    inpainting: bool = Field(False, description="Whether it was trained to repaint: its UNet sees the mask.")
    distilled: Kind | None = Field(None, description="How it was made to need few steps; its defaults are of that.")
    prediction_type: str | None = Field(None, description="For a single file that does not say: epsilon or v_prediction.")


class Catalogue(BaseModel):
    """What a spooler offers: the models and what may be added to them, by name."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    models: tuple[ModelCard, ...] = ()
    loras: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
    vaes: tuple[str, ...] = ()
    controlnets: tuple[str, ...] = ()
    upscalers: tuple[str, ...] = BUILT_IN_UPSCALERS
    default: str = ""
    made_for: dict[str, int] = Field(
        {}, description="Text width of the models that an add-on was made for, where its file tells: by `loras/name`."
    )

    def card(self, name: str) -> ModelCard | None:
        """The card of that name, the default's for no name."""
        wanted = name or self.default
        return next((card for card in self.models if card.name == wanted), None)

    def check(self, job: Job, sizes: Sizes | None = None) -> None:
        """Raise JobError with all that the job names and is not there, or asks for and its model cannot do.

        `sizes` are those of the job's pictures as far as they are known: a small one may be enlarged too far.
        """
        known = sizes or {}
        found = dict.fromkeys(
            mistake for cell in job.cells() for mistake in self._mistakes(cell, known.get(cell.image) if cell.image else None)
        )
        if found:
            raise JobError(*found)

    def _mistakes(self, job: Job, start: tuple[int, int] | None) -> Iterator[Mistake]:
        card = self.card(job.model)
        if card:
            yield from _beyond(job, card)
        else:
            yield self._unknown_model("model", job.model)
        yield from self._of_refiner(job)
        if card:
            yield from self._made_for_others(job, card)
        yield from self._unknown_add_ons(job)
        if card:
            yield from _sizes_beyond(job, card, start)

    def _unknown_model(self, field: str, name: str) -> Mistake:
        return _unknown(field, name, [card.name for card in self.models])

    def _of_refiner(self, job: Job) -> Iterator[Mistake]:
        if job.refiner:
            refiner = self.card(job.refiner.model)
            if refiner is None:
                yield self._unknown_model("refiner.model", job.refiner.model)
            elif not refiner.family.startswith("sdxl"):
                yield Mistake("refiner.model", f"`refiner.model` must be an SDXL model, but {refiner.name!r} is none.")

    def _made_for_others(self, job: Job, card: ModelCard) -> Iterator[Mistake]:
        """Add-ons that are there, but for models that read text of another width."""
        used = {f"loras/{lora.name}": "loras" for lora in loras_of(job)}
        used |= {f"controlnets/{control.model}": "controls" for control in job.controls}
        words = job.prompt + "\n" + job.negative_prompt
        used |= {f"embeddings/{name}": "prompt" for name in self.embeddings if written(name, words)}
        for key, field in used.items():
            width = self.made_for.get(key)
            if width and card.text_width and width != card.text_width:
                name = key.partition("/")[2]
                made_for, own = _of_width(width), _of_width(card.text_width)
                yield Mistake(field, f"`{field}`: {name!r} was made for {made_for}, but {card.name!r} is one of {own}.")

    def _unknown_add_ons(self, job: Job) -> Iterator[Mistake]:
        if job.vae and job.vae not in self.vaes:
            yield _unknown("vae", job.vae, self.vaes)
        for control in job.controls:
            if control.model not in self.controlnets:
                yield _unknown("controls.model", control.model, self.controlnets)
        for lora in loras_of(job):
            if lora.name not in self.loras:
                yield _unknown("loras.name" if lora in job.loras else "prompt", lora.name, self.loras, "The LoRA ")
        if job.upscale and job.upscale.upscaler not in self.upscalers:
            yield _unknown("upscale.upscaler", job.upscale.upscaler, self.upscalers)
        if job.hires and job.hires.upscaler not in ("Latent", *self.upscalers):
            yield _unknown("hires.upscaler", job.hires.upscaler, ("Latent", *self.upscalers))


def _beyond(job: Job, card: ModelCard) -> Iterator[Mistake]:
    """What the model cannot do, because of its family or by itself."""
    family = families.get(card.family)
    yield from families.mistakes(job, card.name, family)
    if "clip_skip" in family.kinds and job.clip_skip > card.clip_skip:
        rule = f"`clip_skip` must be at most {card.clip_skip} with {card.name!r}"
        yield Mistake("clip_skip", f"{rule}, but is {job.clip_skip}.")
    if card.inpainting and not (job.mask or job.upscales_only):
        yield Mistake("mask", f"`mask` is required: {card.name!r} is a model for repainting, it draws nothing else.")
    if job.scheduler and not job.sampler and "sampler" in family.kinds:
        sampler = samplers.find(card.sampler)
        if sampler and job.scheduler not in sampler.schedules:
            known = ", ".join(sampler.schedules)
            rule = f"`scheduler` must be one of {known} with the model's sampler {sampler.name}"
            yield Mistake("scheduler", f"{rule}, but is {show(job.scheduler)}: name a `sampler` that has it.")


def _sizes_beyond(job: Job, card: ModelCard, start: tuple[int, int] | None) -> Iterator[Mistake]:
    """What would be too large to draw, or to keep."""
    if mistake := too_large(job, card, start):
        yield mistake
    if job.hires:
        sides = [round((job.width or card.width) * job.hires.scale), round((job.height or card.height) * job.hires.scale)]
        if max(sides) > MAX_SIDE:
            made = f"{sides[0]}x{sides[1]}"
            yield Mistake("hires.scale", f"`hires` must make at most {MAX_SIDE} pixels a side, but makes {made}.")


def merged(catalogues: Sequence[Catalogue]) -> Catalogue:
    """What several spoolers offer together; of one name the first's counts, and so does its default."""
    cards: dict[str, ModelCard] = {}
    for catalogue in catalogues:
        cards = {card.name: card for card in catalogue.models} | cards
    together: dict[str, Any] = {
        kind: tuple(dict.fromkeys(name for catalogue in catalogues for name in getattr(catalogue, kind))) for kind in ADD_ONS
    }
    together["upscalers"] = together["upscalers"] or BUILT_IN_UPSCALERS
    default = next((catalogue.default for catalogue in catalogues if catalogue.default), "")
    for catalogue in reversed(catalogues):
        together["made_for"] = together.get("made_for", {}) | catalogue.made_for
    return Catalogue(models=tuple(cards.values()), default=default, **together)


def resolve_all(job: Job, catalogue: Catalogue, random_seed: int, sizes: Sizes) -> tuple[Job, tuple[Job, ...]]:
    """The job and each of its cells as they are run, every field filled in: see `resolve`.

    `sizes` must have every picture that is started from; each cell takes that of its own. The catalogue has checked the job.
    """

    def resolved(each: Job) -> Job:
        card = catalogue.card(each.model)
        assert card, each.model  # noqa: S101 - it was checked
        return resolve(each, card, random_seed, sizes[each.image] if each.image else None)

    return resolved(job), tuple(resolved(cell) for cell in job.cells())


def resolve(job: Job, card: ModelCard, random_seed: int, input_size: tuple[int, int] | None = None) -> Job:
    """The job (a sweep's base, or a cell of it) with every default of the model and the seed filled in.

    `input_size` is the width and height in pixels of the picture to start from: without a size, the job takes its.
    """
    given = job.model_dump(exclude_none=True, exclude_unset=True)
    fixed = {name: getattr(card, name) for name in DEFAULTS}
    if input_size:
        fixed |= dict(zip(("width", "height"), fitting(input_size, families.get(card.family).multiple), strict=True))
    if "sampler" not in families.get(card.family).kinds:
        fixed.pop("sampler")
        fixed["scheduler"] = "Automatic"
    elif job.sampler is not None and job.scheduler is None:
        fixed["scheduler"] = "Automatic"  # the model's default schedule belongs to the model's default sampler
    filled = fixed | given | {"model": card.name}
    if job.seed == -1:
        filled["seed"] = random_seed
    return Job.model_validate(filled)


def too_large(job: Job, card: ModelCard, input_size: tuple[int, int] | None = None) -> Mistake | None:
    """What is wrong with a job (or a cell) whose finished picture would have too many pixels; None when it is small enough.

    `input_size` is that of the picture to start from, when it is known.
    """
    if job.upscales_only or job.mask:
        if input_size is None:
            return None
        width, height = input_size
    else:
        width, height = size_of(job, card, input_size)
    factor = (job.hires.scale if job.hires and not job.image else 1.0) * (job.upscale.scale if job.upscale else 1.0)
    pixels = int(width * factor) * int(height * factor)
    if pixels <= MAX_PIXELS:
        return None
    made = f"{int(width * factor)}x{int(height * factor)}"
    rule = f"A finished picture must have at most {MAX_PIXELS // 10**6} million pixels, but would have {made}."
    return Mistake("upscale.scale" if job.upscale else "hires.scale", rule)


def size_of(job: Job, card: ModelCard, input_size: tuple[int, int] | None = None) -> tuple[int, int]:
    """The width and height in pixels that a job is drawn at: its own, else that of its picture, else the model's."""
    own = fitting(input_size, families.get(card.family).multiple) if input_size else (card.width, card.height)
    return job.width or own[0], job.height or own[1]


def fitting(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The size to draw at for a picture of that size: its shape, sides that are multiples of `multiple` from 64 to 2048."""
    factor = min(1.0, 2048 / max(size))
    width, height = (min(2048, max(64, round(side * factor / multiple) * multiple)) for side in size)
    return width, height


def loras_of(job: Job) -> list[Lora]:
    """All LoRAs of a job: those of its field and those written into its prompts. Of one name the last weight counts."""
    written = [found for text in (job.prompt, job.negative_prompt) for found in extract_loras(text)[1]]
    named = {lora.name: lora for lora in (*job.loras, *(Lora(name=name, weight=weight) for name, weight in written))}
    return list(named.values())


def _of_width(width: int) -> str:
    """Models that read text of that width, in words."""
    family = checkpoint.WIDTHS.get(width)
    return f"{families.get(family).title} models" if family else f"models that read text {width} wide"


def _unknown(name: str, value: str, known: tuple[str, ...] | list[str], what: str = "") -> Mistake:
    subject = f"{what}in `{name}`" if what and name == "prompt" else f"`{name}`"
    if not known:
        return Mistake(name, f"{subject} must be one that the server has, but it has none, and this is {show(value)}.")
    shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return Mistake(name, f"{subject} must be one of {shown}{did_you_mean(value, known)}, but is {show(value)}.")
