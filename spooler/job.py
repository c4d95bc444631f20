"""A job: what a person asks for. One frozen record, one way in (`decode`), one way out (`encode`).

A job file is a JSON object whose only required field is `prompt`. A field that is left out means "the model's default" where
its sentence says so. Nothing is guessed: an unknown field, a wrong type or a value out of range is refused, and every
mistake of the file is named at once, each with its field, its rule and its value.

What kind of job it is follows from what is given: an `image` makes it img2img, a `mask` beside it inpaint, `hires` a second
pass, `upscale` a last one; an `image` with `upscale` and no `prompt` is upscaled only. A list in the place of a value is a
sweep: the job makes one picture for each, and a contact sheet.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from spooler import moments, samplers
from spooler import prompt as prompts
from spooler.mistakes import MAX_MISTAKES, sentence
from spooler.mistakes import IncompleteError as IncompleteError
from spooler.mistakes import JobError as JobError
from spooler.mistakes import Mistake as Mistake
from spooler.mistakes import did_you_mean as did_you_mean
from spooler.mistakes import show as show
from spooler.strict_json import MAX_BYTES as MAX_BYTES
from spooler.strict_json import parse_object as parse_object

MAX_PROMPT = 10_000
MAX_SEED = 2**32 - 1
MAX_NAME = 128
MAX_LORA = 5
#: Pictures that one job may start from, over all cells.
MAX_INPUTS = 16
#: Pictures that one job may make, over all cells of its sweep.
MAX_PICTURES = 64
#: Jobs that one job may wait for.
MAX_AFTER = 64
#: The form of a job's id.
ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
#: Name of a picture beside the job: no path can be written with these letters.
INPUT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.(png|jpg|jpeg|webp)", re.IGNORECASE)

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")

NO_PROMPT = "`prompt` is required, but is missing (only an `image` with `upscale` needs none)."

#: A1111's spellings of our fields.
ALIASES = {
    "cfg_scale": "guidance_scale",
    "sampler_name": "sampler",
    "schedule": "scheduler",
    "denoising_strength": "strength",
    "subseed": "variation_seed",
    "subseed_strength": "variation_strength",
}


def _text(value: Any) -> Any:
    """Refuse what cannot be stored as UTF-8, and the control characters that have no place in a prompt."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise PydanticCustomError("text", "must be text that UTF-8 can hold") from None
        if _CONTROL.search(value):
            raise PydanticCustomError("text", "must not have control characters")
    return value


def _prompt(value: Any) -> Any:
    """A text whose weights and <lora:...> can be read."""
    if isinstance(_text(value), str) and len(value) <= MAX_PROMPT and (why := _syntax_problem(value)):
        raise PydanticCustomError("syntax", "{why}", {"why": why})
    return value


@functools.lru_cache(4096)  # every cell of a sweep, and every look at a waiting job, asks again
def _syntax_problem(prompt: str) -> str | None:
    try:
        text, loras = prompts.extract_loras(prompt)
        if "(" in text or "[" in text:  # without a bracket nothing weighs
            prompts.parse(text)
    except prompts.PromptError as error:
        return str(error)
    for name, weight in loras:
        if len(name) > MAX_NAME or abs(weight) > MAX_LORA:
            rule = f"a LoRA must have a name of at most {MAX_NAME} characters and a weight from -{MAX_LORA} to {MAX_LORA}"
            return f"{rule}, but this is {show(f'<lora:{name}:{weight:g}>')}."
    return None


def _input(value: Any) -> Any:
    if isinstance(value, str) and not INPUT_NAME.fullmatch(value):
        raise PydanticCustomError(
            "input", "must be the plain name of a .png, .jpg or .webp file beside the job, no path, no URL"
        )
    return value


def _moment(value: Any) -> Any:
    if isinstance(value, str):
        try:
            moments.read(value)
        except ValueError:
            raise PydanticCustomError("moment", "must be a time with its zone, as in 2027-03-01T22:00:00+01:00") from None
    return value


def _id(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(ID_PATTERN, value):
        raise PydanticCustomError(
            "id", "must be a job's id: letters, digits, dots, dashes and underscores, at most 128, the first a letter or digit"
        )
    return value


def _batch(value: Any) -> Any:
    return value if value == "" else _id(value)


def _each_once(value: list[str]) -> list[str]:
    if len(set(value)) < len(value):
        raise PydanticCustomError("twice", "must name each job once")
    return value


def _sampler(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if sampler := samplers.find(value):
        return sampler.name
    raise PydanticCustomError("unknown", "must be one of {known}{near}", _known(value, samplers.SAMPLER_NAMES))


def _schedule(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if schedule := samplers.find_schedule(value):
        return schedule
    raise PydanticCustomError("unknown", "must be one of {known}{near}", _known(value, samplers.SCHEDULE_NAMES))


def _known(value: str, names: tuple[str, ...]) -> dict[str, Any]:
    return {"known": ", ".join(names), "near": did_you_mean(value, names)}


Prompt = Annotated[str, Field(max_length=MAX_PROMPT), BeforeValidator(_prompt)]
Name = Annotated[str, Field(max_length=MAX_NAME), BeforeValidator(_text)]
Input = Annotated[str, BeforeValidator(_input)]
Moment = Annotated[str, BeforeValidator(_moment), Field(json_schema_extra={"format": "date-time"})]
JobId = Annotated[str, BeforeValidator(_id), Field(json_schema_extra={"pattern": f"^{ID_PATTERN}$"})]
Side = Annotated[int, Field(ge=64, le=2048, multiple_of=8)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Lora(_Part):
    """A LoRA to lay over the model; `<lora:name:weight>` in the prompt does the same."""

    name: Name = Field(description="Name of a LoRA that the server has.")
    weight: Annotated[float, Field(ge=-MAX_LORA, le=MAX_LORA)] = Field(1.0, description="How strongly.")


class Control(_Part):
    """A ControlNet and the picture that it goes by."""

    model: Name = Field(description="Name of a ControlNet that the server has.")
    image: Input = Field(description="The control picture (edges, depth, pose, ...) as the ControlNet expects it.")
    weight: Annotated[float, Field(ge=0, le=2)] = Field(1.0, description="How strongly.")
    start: Fraction = Field(0.0, description="Part of the steps after which it sets in.")
    end: Fraction = Field(1.0, description="Part of the steps after which it leaves off.")


class Hires(_Part):
    """A second pass over the enlarged picture."""

    scale: Annotated[float, Field(gt=1, le=4)] = Field(2.0, description="How many times as wide and high.")
    strength: Fraction = Field(0.5, description="How much the second pass may change.")
    steps: Annotated[int, Field(ge=1, le=150)] | None = Field(None, description="Its steps; those of the job when left out.")
    upscaler: Name = Field("Lanczos", description="Lanczos, Latent, or the name of an upscaler that the server has.")


class Upscale(_Part):
    """Enlarging without a second pass."""

    scale: Annotated[float, Field(gt=1, le=8)] = Field(2.0, description="How many times as wide and high.")
    upscaler: Name = Field("Lanczos", description="Lanczos, or the name of an upscaler that the server has.")


class Refiner(_Part):
    """A second model that takes over for the last steps (SDXL's ensemble of denoisers)."""

    model: Name = Field(description="Name of a refiner model that the server has.")
    switch_at: Annotated[float, Field(gt=0, lt=1)] = Field(0.8, description="Part of the steps after which it takes over.")


class Job(_Part):
    """A request for pictures. Sides are pixels; None means the model's own default."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["prompt"]}, {"required": ["image", "upscale"]}]}, protected_namespaces=()
    )

    prompt: Prompt = Field(
        "",
        description="What the picture shows; `(word:1.3)` weighs a word, `BREAK` begins a chunk. It may be empty, "
        "and may be left out for upscaling only.",
        examples=["a large red circle on a blue background"],
    )
    negative_prompt: Prompt = Field("", description="What to steer away from.")
    steps: Annotated[int, Field(ge=1, le=150)] | None = Field(
        None, description="Number of denoising steps; the model's default when left out."
    )
    guidance_scale: Annotated[float, Field(ge=0, le=30)] | None = Field(
        None,
        description="How strongly the prompt steers (classifier-free guidance); 1 is none; the model's default when left out.",
    )
    guidance_cutoff: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="Part of the steps after which guidance ends, 1 is never. Faster, as the rest costs half as much, and "
        "lossy: it is another picture.",
    )
    deepcache_interval: Annotated[int, Field(ge=1, le=10)] = Field(
        1,
        description="DeepCache: the deep layers of the UNet are asked at every so many steps, 1 is at each. Faster, and lossy: "
        "it is another picture.",
    )
    width: Side | None = Field(None, description="Width in pixels, a multiple of 8; the model's default when left out.")
    height: Side | None = Field(None, description="Height in pixels, a multiple of 8; the model's default when left out.")
    seed: Annotated[int, Field(ge=-1, le=MAX_SEED)] = Field(
        -1, description="Start of the random numbers, -1 for one at random; picture i of a job has seed + i."
    )
    sampler: Annotated[str, BeforeValidator(_sampler)] | None = Field(
        None,
        description="The sampler, by its A1111 name; the model's default when left out.",
        json_schema_extra={"enum": [*samplers.SAMPLER_NAMES, None]},
    )
    scheduler: Annotated[str, BeforeValidator(_schedule)] | None = Field(
        None,
        description="How noise levels are spaced over the steps; Automatic is the model's own way.",
        json_schema_extra={"enum": [*samplers.SCHEDULE_NAMES, None]},
    )
    count: Annotated[int, Field(ge=1, le=MAX_PICTURES)] = Field(1, description="Number of pictures (of each cell of a sweep).")
    model: Name = Field("", description="Name of a model that the server has; empty for its default.")
    vae: Name = Field("", description="Name of a VAE that the server has; empty for the model's own.")
    clip_skip: Annotated[int, Field(ge=1, le=12)] = Field(
        1, description="Layer of the text encoder that is used, counted from the last, 1; the model's own way."
    )
    loras: Annotated[list[Lora], Field(max_length=16)] = Field(
        default_factory=list, description="LoRAs to lay over the model.", json_schema_extra={"default": []}
    )
    image: Input | None = Field(None, description="Picture beside the job to start from: img2img.")
    mask: Input | None = Field(None, description="Picture beside the job, white where `image` is to be repainted: inpaint.")
    strength: Fraction = Field(0.75, description="How much of `image` may change: 0 nothing, 1 everything.")
    mask_blur: Annotated[int, Field(ge=0, le=64)] = Field(
        4, description="Pixels over which the repainted part fades in, inside the white of the mask."
    )
    inpaint_area: Literal["whole", "masked"] = Field(
        "whole", description="Repaint at the whole picture's scale, or the masked part at full size: better for details."
    )
    inpaint_padding: Annotated[int, Field(ge=0, le=512)] = Field(32, description="Pixels around the masked part that are seen.")
    hires: Hires | None = Field(None, description="Hires fix: a second pass at a larger size.")
    refiner: Refiner | None = Field(None, description="A second model for the last steps.")
    controls: Annotated[list[Control], Field(max_length=4)] = Field(
        default_factory=list, description="ControlNets, with their pictures.", json_schema_extra={"default": []}
    )
    upscale: Upscale | None = Field(None, description="Enlarge the finished picture.")
    variation_seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = Field(0, description="Seed of the noise that is mixed in.")
    variation_strength: Fraction = Field(0.0, description="How much of it: 0 none, 1 all.")
    sweep: dict[str, list[Any]] = Field(
        default_factory=dict,
        description="Fields with several values, one picture for each combination, and a contact sheet; the first field makes "
        'the columns. `"steps": [15, 20]` is short for it.',
        json_schema_extra={"default": {}},
    )
    priority: Annotated[int, Field(ge=-100, le=100)] = Field(0, description="Higher goes first.")
    owner: Name = Field("", description="Whose job it is; owners take turns.")
    not_before: Moment | None = Field(None, description="Time before which it does not begin: ISO 8601 with a zone.")
    expires_at: Moment | None = Field(None, description="Time after which it is not begun any more: ISO 8601 with a zone.")
    after: Annotated[
        list[JobId],
        Field(max_length=MAX_AFTER, json_schema_extra={"uniqueItems": True, "default": []}),
        AfterValidator(_each_once),
    ] = Field(default_factory=list, description="Ids of jobs that must be done before it begins.")
    batch: Annotated[str, BeforeValidator(_batch), Field(json_schema_extra={"pattern": f"^({ID_PATTERN})?$"})] = Field(
        "", description="Id of the dropped file that it came from."
    )

    @property
    def upscales_only(self) -> bool:
        """Whether nothing is drawn: the given picture is enlarged."""
        return bool(self.image and self.upscale and not self.prompt.strip())

    @property
    def kind(self) -> str:
        """The kind of job, as the field calls it."""
        if self.upscales_only:
            return "upscale"
        return "inpaint" if self.mask else "img2img" if self.image else "txt2img"

    @property
    def inputs(self) -> list[str]:
        """Names of the pictures that must lie beside the job, each once."""
        cells = self.cells() if self.sweep.keys() & {"image", "mask", "controls"} else [self]
        named = [each for cell in cells for each in (cell.image, cell.mask, *(one.image for one in cell.controls))]
        return list(dict.fromkeys(each for each in named if each))

    @property
    def pictures(self) -> int:
        """How many pictures the job makes, the contact sheet left out."""
        return self.count * math.prod(len(values) for values in self.sweep.values())

    def cells(self) -> list[Job]:
        """One job without a sweep for each combination of the swept values, the first field changing fastest."""
        if not self.sweep:
            return [self]
        base = self.model_dump(exclude_unset=True, exclude={"sweep"})
        names = list(reversed(self.sweep))
        return [
            Job.model_validate(base | dict(zip(names, values, strict=True)))
            for values in itertools.product(*(self.sweep[name] for name in names))
        ]

    def variation_seed_of(self, seed: int) -> int:
        """The variation seed of the job's picture with that seed: from picture to picture both go on by one."""
        return (self.variation_seed + seed - self.seed) % 2**32 if self.seed >= 0 else self.variation_seed

    def values_at(self, cell: Sequence[int]) -> dict[str, Any]:
        """The swept fields with their values in that cell, an index for each; nothing when the sweep has no such cell."""
        if len(cell) != len(self.sweep) or any(at >= len(values) for at, values in zip(cell, self.sweep.values(), strict=True)):
            return {}
        return {name: values[at] for (name, values), at in zip(self.sweep.items(), cell, strict=True)}

    @model_validator(mode="after")
    def _fields_go_together(self) -> Job:
        def need(field: str, why: str) -> PydanticCustomError:
            return PydanticCustomError("together", "{why}", {"field": field, "why": why})

        # An empty prompt is drawn as any other, but who left it out forgot it.
        if "prompt" not in self.model_fields_set and not self.upscales_only and "prompt" not in self.sweep:
            raise need("prompt", NO_PROMPT)
        if self.mask and not self.image:
            raise need("mask", f"`mask` needs an `image` to repaint, but only {show(self.mask)} is given.")
        if self.hires and self.image:
            raise need(
                "hires", "`hires` is a second pass for txt2img: with an `image`, give a larger `width` and `height` instead."
            )
        if self.variation_strength and self.image:
            raise need("variation_strength", "`variation_strength` mixes the first noise of txt2img, but an `image` is given.")
        if self.refiner and (self.image or self.controls):
            raise need("refiner", "`refiner` goes with txt2img only, but an `image` or `controls` are given.")
        if self.not_before and self.expires_at and moments.read(self.not_before) >= moments.read(self.expires_at):
            both = f"{show(self.expires_at)} and `not_before` {show(self.not_before)}"
            raise need("expires_at", f"`expires_at` must be later than `not_before`, but is {both}.")
        for control in self.controls:
            if control.start >= control.end:
                raise need("controls", f"`start` must be less than `end`, but is {control.start:g} and {control.end:g}.")
        return self

    @model_validator(mode="after")
    def _sweep_is_of_jobs(self) -> Job:
        for name, values in self.sweep.items():
            if name not in SWEEPABLE:
                near = did_you_mean(name, sorted(SWEEPABLE))
                why = f"`sweep` must name fields that may be swept, but {show(name)} is none{near}."
                raise PydanticCustomError("together", "{why}", {"field": "sweep", "why": why})
            if not values:
                why = f"`{name}` must have at least one value to be swept, but the list is empty."
                raise PydanticCustomError("together", "{why}", {"field": name, "why": why})
        if self.pictures > MAX_PICTURES:
            why = f"A job must make at most {MAX_PICTURES} pictures, but its sweep and `count` make {self.pictures}."
            raise PydanticCustomError("together", "{why}", {"field": "sweep", "why": why})
        if self.sweep:
            self.cells()  # each one a valid job, or its mistakes are the sweep's
            if len(self.inputs) > MAX_INPUTS:
                why = f"A job must name at most {MAX_INPUTS} pictures, but its sweep names {len(self.inputs)}."
                raise PydanticCustomError("together", "{why}", {"field": "sweep", "why": why})
        return self

    @model_validator(mode="after")
    def _sampler_has_schedule(self) -> Job:
        sampler = samplers.find(self.sampler or "")
        if sampler and self.scheduler and self.scheduler not in sampler.schedules:
            raise PydanticCustomError(
                "schedule",
                "`scheduler` for the sampler {sampler} must be one of {known}, but is {value}.",
                {"sampler": sampler.name, "known": ", ".join(sampler.schedules), "value": repr(self.scheduler)},
            )
        return self


#: Fields that say when and for whom, and change nothing in the picture.
QUEUEING = frozenset({"priority", "owner", "not_before", "expires_at", "after", "batch"})
#: Fields that a sweep may go through: all that change the picture.
SWEEPABLE = frozenset(Job.model_fields) - QUEUEING - {"count", "sweep"}
#: Those whose value is a list by itself: of them a list of lists is a sweep.
LISTS = frozenset({"loras", "controls"})
#: Every name that a job file may use, and those inside its parts: to offer the one that was meant.
NAMES = (*Job.model_fields, *ALIASES, "batch_size", "n_iter")
PART_NAMES = tuple(field for part in (Lora, Control, Hires, Upscale, Refiner) for field in part.model_fields)


def decode(raw: bytes) -> Job:
    """The job in the bytes of a job file.

    Raises IncompleteError for bytes that are not JSON (yet), JobError for everything else that is wrong.
    """
    return from_fields(parse_object(raw))


def encode(job: Job) -> bytes:
    """The job as a file: UTF-8 JSON, only the fields that were given, so that a default stays the model's."""
    return job.model_dump_json(exclude_unset=True, indent=2).encode() + b"\n"


def from_fields(given: dict[str, Any]) -> Job:
    """The job with the fields of a parsed JSON object; raises JobError that names every mistake."""
    mistakes: list[Mistake] = []
    fields = _rename_aliases(given, mistakes)
    try:
        job = Job.model_validate(fields)
    except ValidationError as error:
        found = error.errors(include_url=False)
        mistakes += [sentence(detail, NAMES, PART_NAMES) for detail in found[:MAX_MISTAKES]]
        if len(found) > MAX_MISTAKES:
            mistakes.append(Mistake("", f"There are {len(found) - MAX_MISTAKES} more mistakes, not told."))
        if "prompt" not in fields and not {"image", "upscale"} <= set(fields):  # pydantic looks at that last
            mistakes += [] if NO_PROMPT in map(str, mistakes) else [Mistake("prompt", NO_PROMPT)]
        raise JobError(*mistakes) from error
    if mistakes:
        raise JobError(*mistakes)
    return job


def _mistakes_of(values: dict[str, Any]) -> list[Mistake]:
    """What is wrong with each of these fields by itself."""
    try:
        Job.model_validate({"prompt": ""} | values)
    except ValidationError as error:
        found = [each for each in error.errors(include_url=False) if each["loc"]]
        return [sentence(each, NAMES, PART_NAMES) for each in found[:MAX_MISTAKES]]
    return []


def _rename_aliases(given: dict[str, Any], mistakes: list[Mistake]) -> dict[str, Any]:
    """A1111's spellings turned into ours: cfg_scale, sampler_name ("Euler Karras" too), batch_size times n_iter."""
    fields = dict(given)
    for alias, name in ALIASES.items():
        if alias in fields:
            value = fields.pop(alias)
            if name in fields:
                mistakes.append(Mistake(alias, f"`{alias}` is another spelling of `{name}`: only one of them may be given."))
            fields.setdefault(name, value)
    counts = [(alias, fields.pop(alias)) for alias in ("batch_size", "n_iter") if alias in fields]
    if counts:
        names = " and ".join(f"`{alias}`" for alias, _ in counts)
        if "count" in fields:
            mistakes.append(Mistake("count", f"{names} and `count` say the same: only one of them may be given."))
        for alias, value in counts:
            if type(value) is not int or not 1 <= value <= 64:
                mistakes.append(Mistake(alias, f"`{alias}` must be a whole number from 1 to 64, but is {show(value)}."))
        if all(type(value) is int for _, value in counts):
            fields.setdefault("count", max(1, math.prod(value for _, value in counts)))
    if isinstance(fields.get("sampler"), str):
        sampler, schedule = samplers.split(fields["sampler"])
        if schedule:
            fields["sampler"] = sampler
            fields.setdefault("scheduler", schedule)
    return _gather_sweep(fields, mistakes)


def _gather_sweep(fields: dict[str, Any], mistakes: list[Mistake]) -> dict[str, Any]:
    """Lists in the place of values moved into `sweep`; the field itself keeps the first."""
    sweep: Any = dict(fields["sweep"]) if isinstance(fields.get("sweep"), dict) else {}
    beside: dict[str, Any] = {}  # values of swept fields, which nothing else looks at
    for name, value in list(fields.items()):
        if name in SWEEPABLE - LISTS and value == []:
            mistakes.append(Mistake(name, f"`{name}` must have at least one value to be swept, but the list is empty."))
            del fields[name]
        elif name in SWEEPABLE and isinstance(value, list) and (name not in LISTS or (value and isinstance(value[0], list))):
            if name in sweep:
                mistakes.append(Mistake(name, f"`{name}` is a list and in `sweep` too: only one of them may be given."))
            sweep.setdefault(name, value)
        elif name in sweep:
            beside[name] = value
    mistakes += _mistakes_of(beside) if beside else []
    for name, values in sweep.items():
        if name in SWEEPABLE and isinstance(values, list) and values:
            fields[name] = values[0]
    return fields | {"sweep": sweep} if sweep else fields
