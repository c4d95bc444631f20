"""A job: what a person asks for. One frozen record, one way in (`decode`), one way out (`encode`).

A job file is a JSON object whose only required field is `prompt`. A field that is left out means "the model's default" where
its sentence says so. Nothing is guessed: an unknown field, a wrong type or a value out of range is refused, and every
mistake of the file is named at once, each with its field, its rule and its value.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from spooler import samplers

#: Largest job file, in bytes. Read no further than this: the file is a stranger's.
MAX_BYTES = 1 << 20
MAX_PROMPT = 10_000
MAX_SEED = 2**32 - 1

#: A1111's spellings of our fields.
ALIASES = {"cfg_scale": "guidance_scale", "sampler_name": "sampler", "schedule": "scheduler"}


@dataclass(frozen=True)
class Mistake:
    """One thing wrong with a job: the field ("" for the file as a whole) and a sentence with the rule and the value."""

    field: str
    message: str

    def __str__(self) -> str:
        return self.message


class JobError(ValueError):
    """Bytes that are no valid job: met by whoever submits them, with every mistake in `mistakes`."""

    def __init__(self, *mistakes: Mistake):
        self.mistakes = mistakes
        super().__init__(" ".join(str(mistake) for mistake in mistakes))


class IncompleteError(JobError):
    """Bytes that do not parse as JSON: perhaps a file still on its way, so a reader of the drop folder waits a while."""


def _text(value: Any) -> Any:
    """Refuse what cannot be stored as UTF-8, and the control characters that have no place in a prompt."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise PydanticCustomError("text", "must be text that UTF-8 can hold") from None
        if any(ord(c) < 32 and c not in "\n\r\t" for c in value):
            raise PydanticCustomError("text", "must not have control characters")
    return value


def _prompt(value: Any) -> Any:
    if isinstance(value, str) and not value.strip():
        raise PydanticCustomError("empty", "must not be empty")
    return _text(value)


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


def did_you_mean(value: str, names: tuple[str, ...] | list[str]) -> str:
    """The tail of an error sentence that offers the nearest of the names; empty when none is near."""
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(value.lower()[:64], by_lower, n=1, cutoff=0.5)
    return f" (did you mean {by_lower[near[0]]}?)" if near else ""


Prompt = Annotated[str, Field(max_length=MAX_PROMPT), BeforeValidator(_text)]
Name = Annotated[str, Field(max_length=128), BeforeValidator(_text)]
Side = Annotated[int, Field(ge=64, le=2048, multiple_of=8)]


class Job(BaseModel):
    """A request for pictures. Sides are pixels; None means the model's own default."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT), BeforeValidator(_prompt)] = Field(
        description="What the picture shows.", examples=["a large red circle on a blue background"]
    )
    negative_prompt: Prompt = Field("", description="What to steer away from.")
    steps: Annotated[int, Field(ge=1, le=150)] | None = Field(
        None, description="Number of denoising steps; the model's default when left out."
    )
    guidance_scale: Annotated[float, Field(ge=0, le=30)] | None = Field(
        None,
        description="How strongly the prompt steers (classifier-free guidance); 1 is none; the model's default when left out.",
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
    count: Annotated[int, Field(ge=1, le=64)] = Field(1, description="Number of pictures, one after the other.")
    model: Name = Field("", description="Name of a configured model; empty for the server's.")
    priority: Annotated[int, Field(ge=-100, le=100)] = Field(0, description="Higher goes first.")
    owner: Name = Field("", description="Whose job it is; owners take turns.")

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
        mistakes += [_mistake(detail) for detail in error.errors(include_url=False)]
        raise JobError(*mistakes) from error
    if mistakes:
        raise JobError(*mistakes)
    return job


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in the bytes, strictly: UTF-8 (a byte order mark is let pass), no NaN, no name twice, no bottomless nest.

    A strict prefix of a JSON object never parses, so a file that parses is a whole file.
    """
    if len(raw) > MAX_BYTES:
        raise JobError(Mistake("", f"A job must have at most {MAX_BYTES} bytes, but this has more."))
    try:
        value = json.loads(
            raw.decode("utf-8-sig"), parse_constant=_refuse_constant, object_pairs_hook=_unique, parse_float=_finite
        )
    except JobError:
        raise
    except UnicodeDecodeError as error:
        what = f"A job must be UTF-8 text, but byte {error.start} is {raw[error.start] if raw else 0:#04x}."
        raise IncompleteError(Mistake("", what)) from error
    except json.JSONDecodeError as error:
        what = f"A job must be JSON, but at line {error.lineno}, column {error.colno}: {error.msg}."
        raise IncompleteError(Mistake("", what if raw.strip() else "A job must be JSON, but this is empty.")) from error
    except RecursionError as error:
        raise JobError(Mistake("", "A job must be one flat JSON object, but this nests too deep.")) from error
    except ValueError as error:  # int() refuses thousands of digits
        raise JobError(Mistake("", f"A job must have numbers of ordinary size ({error}).")) from error
    if not isinstance(value, dict):
        raise JobError(Mistake("", f"A job must be a JSON object, {{...}}, but this is {_kind(value)}."))
    return value


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a job file, A1111's spellings left out."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Job.model_json_schema()


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
            mistakes.append(Mistake("count", f"{names} make up `count`: only one way may be given."))
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
    return fields


def _mistake(detail: ErrorDetails) -> Mistake:
    """A pydantic error as our sentence: field, rule, value."""
    name = str(detail["loc"][0]) if detail["loc"] else ""
    kind, message, value = detail["type"], detail["msg"], detail["input"]
    if kind == "extra_forbidden":
        if name == "id":
            return Mistake(name, "`id` is not a field of a job file: a job's id is its file's name.")
        known = [*Job.model_fields, *ALIASES, "batch_size", "n_iter"]
        return Mistake(name, f"`{show(name)[1:-1]}` is not a field of a job{did_you_mean(name, known)}.")
    if kind == "missing":
        return Mistake(name, f"`{name}` is required, but is missing.")
    if kind == "schedule":
        return Mistake("scheduler", message)
    rule = message.removeprefix("Input ").replace("should be", "must be").replace("should have", "must have")
    rule = rule.replace("String should have", "must have").replace("String must have", "must have")
    rule = (
        rule.replace("a valid integer", "a whole number")
        .replace("a valid number", "a number")
        .replace("a valid string", "text")
    )
    rule = rule.replace("a finite number", "a finite number, not NaN or infinity")
    if kind == "string_too_long":
        return Mistake(name, f"`{name}` {rule}, but has {len(value)}.")
    if kind == "empty":
        return Mistake(name, f"`{name}` {rule}.")
    return Mistake(name, f"`{name}` {rule}, but is {show(value)}.")


def show(value: Any) -> str:
    """A stranger's value, fit for a sentence, a log line or a terminal: JSON, ASCII, at most 80 characters."""
    try:
        text = json.dumps(value)
    except (ValueError, TypeError, RecursionError):
        text = _kind(value)
    return text if len(text) <= 80 else text[:76] + "... "


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "an array", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


def _refuse_constant(name: str) -> NoReturn:
    raise JobError(Mistake("", f"A job must have finite numbers, but this has {name}."))


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise JobError(Mistake("", f"A job must have finite numbers, but this has {text[:40]}."))
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(_twice(name for name, _ in pairs))
        raise JobError(Mistake(twice, f"`{show(twice)[1:-1]}` must be given once, but is given twice."))
    return found


def _twice(names: Iterator[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)
