"""A job as flat names and texts: the fields of the form and the parameters of a link to it, which are the same.

A part of a job has its name before a dot, `hires.scale`, and one of a list its number too, `loras.0.name`: so the mistakes of a
job name their fields as well. A sweep is lines of text, `steps: 15, 20, 25`. An empty text is a field that was left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from spooler import moments
from spooler.job import SWEEPABLE, Job
from spooler.mistakes import JobError, Mistake, did_you_mean, show
from spooler.strict_json import parse

Given = dict[str, str]

NUMBERS = frozenset(
    {"steps", "guidance_scale", "width", "height", "seed", "count", "clip_skip", "strength", "mask_blur", "inpaint_padding"}
    | {"variation_seed", "variation_strength", "priority", "guidance_cutoff", "deepcache_interval"}
    | {"hires.scale", "hires.strength", "hires.steps", "refiner.switch_at", "upscale.scale"}
)
#: Texts whose spaces are kept.
PROMPTS = ("prompt", "negative_prompt")
TEXTS = frozenset(
    {"sampler", "scheduler", "model", "vae", "owner", "inpaint_area", "image", "mask"}
    | {"hires.upscaler", "refiner.model", "upscale.upscaler"}
)
MOMENTS = ("not_before", "expires_at")
#: The parts of a job that are objects; and what one entry of a list has, of which the last is a picture: it is sent as a file
#: or named by its `.from`.
PARTS = ("hires", "refiner", "upscale")
ROWS: dict[str, tuple[str, ...]] = {"loras": ("name", "weight"), "controls": ("model", "weight", "start", "end", "image")}
_ROW = re.compile(r"(loras|controls)\.(\d{1,2})\.(name|weight|model|start|end|image|image\.from)")
ROW_NUMBERS = frozenset({"weight", "start", "end"})
#: What the form itself needs to know, and no job has.
SWITCHES = ("hires", "refiner", "controls", "variation", "upscale", "sweep")
OWN = frozenset(
    {"form", "kind", "held", "zone", "image.from", "mask.from", "after", "sweep", *(f"{each}.on" for each in SWITCHES)}
)
NAMES = frozenset({*NUMBERS, *PROMPTS, *TEXTS, *MOMENTS, *OWN}) - {"image", "mask"}

KINDS = ("txt2img", "img2img", "inpaint", "upscale")
_OF_PICTURE = ("image", "image.from", "strength")
_OF_MASK = ("mask", "mask.from", "mask_blur", "inpaint_area", "inpaint_padding")
#: What the form does not show for each kind of job; a name ends in a dot for all that begin so.
_HIDDEN: dict[str, tuple[str, ...]] = {
    "txt2img": (*_OF_PICTURE, *_OF_MASK),
    "img2img": (*_OF_MASK, "hires.", "refiner.", "variation_"),
    "inpaint": ("hires.", "refiner.", "variation_"),
    "upscale": (
        *PROMPTS, "strength", *_OF_MASK, "hires.", "refiner.", "variation_", "controls.", "loras.", "sweep", "steps", "sampler",
        "scheduler", "guidance_scale", "guidance_cutoff", "deepcache_interval", "width", "height", "seed", "count",
        "vae", "clip_skip",
    ),
}  # fmt: skip
_SWITCHED = {switch: (f"{switch}.",) for switch in SWITCHES} | {"variation": ("variation_",), "sweep": ("sweep",)}


def is_name(name: str) -> bool:
    """Whether the form has such a field."""
    return name in NAMES or bool(_ROW.fullmatch(name))


def kind(given: Given) -> str:
    """The kind of job that the form is set to: what it says, else what follows from what is given."""
    if given.get("kind") in KINDS:
        return given["kind"]
    if given.get("mask") or given.get("mask.from"):
        return "inpaint"
    if given.get("image") or given.get("image.from"):
        enlarges = any(name.startswith("upscale.") and value for name, value in given.items())
        return "upscale" if enlarges and not given.get("prompt", "").strip() else "img2img"
    return "txt2img"


def is_on(given: Given, switch: str) -> bool:
    """Whether a part of the form is switched on: by its box, or in a link by any of its fields."""
    if given.get(f"{switch}.on") or given.get("form"):
        return bool(given.get(f"{switch}.on"))
    return any(value and name.startswith(_SWITCHED[switch]) for name, value in given.items())


def shown(given: Given) -> Given:
    """The form as it was seen by whoever sent it: what another kind of job needs, or was switched off, does not count.

    A link has no such hidden fields: all it says counts.
    """
    if not given.get("form"):
        return given
    hidden = list(_HIDDEN[kind(given)])
    for switch in SWITCHES:
        if not is_on(given, switch) and not (switch == "upscale" and kind(given) == "upscale"):
            hidden += _SWITCHED[switch]
    ends = tuple(each for each in hidden if each[-1] in "._")
    return {name: value for name, value in given.items() if name not in hidden and not (ends and name.startswith(ends))}


def compact(given: Given) -> Given:
    """The same with the rows of its lists numbered from 0, those left out that are empty: as a job counts them."""
    kept = {name: value for name, value in given.items() if not _ROW.fullmatch(name)}
    for part in ROWS:
        for number, row in enumerate(_rows(given, part)):
            kept |= {f"{part}.{number}.{name}": value for name, value in row.items()}
    return kept


def _rows(given: Given, part: str) -> Iterator[Given]:
    found: dict[int, Given] = {}
    for name, value in given.items():
        if (match := _ROW.fullmatch(name)) and match[1] == part and value.strip():
            found.setdefault(int(match[2]), {})[match[3]] = value
    for number in sorted(found):
        if found[number].keys() & {"name", "model", "image", "image.from"}:  # a weight alone is a default that was touched
            yield found[number]


def fields(given: Given) -> dict[str, Any]:
    """The flat texts as a job file's values; what is no number stays text, for the rules of a job to name.

    Raises JobError for a sweep that cannot be read. Hidden fields and empty rows are to be gone: see `shown` and `compact`.
    """
    made: dict[str, Any] = {}
    for name, text in given.items():
        if name in PROMPTS:
            if name == "prompt" or text.strip():
                made[name] = text.replace("\r\n", "\n")
        elif not text.strip():
            continue
        elif name in NUMBERS or name in TEXTS:
            part, _, inside = name.partition(".")
            value = _number(text.strip()) if name in NUMBERS else text.strip()
            if inside:
                made.setdefault(part, {})[inside] = value
            else:
                made[name] = value
        elif name in MOMENTS:
            made[name] = _moment(text.strip(), given.get("zone", ""))
        elif name == "after":
            made[name] = text.replace(",", " ").split()
        elif name == "sweep":
            made[name] = _sweep(text)
    for part in ("hires", "upscale"):  # switched on with nothing filled in
        if given.get(f"{part}.on") or (part == "upscale" and given.get("kind") == "upscale"):
            made.setdefault(part, {})
    for part in ROWS:
        rows = [
            {
                name: _number(text.strip()) if name in ROW_NUMBERS else text.strip()
                for name, text in row.items()
                if "." not in name
            }
            for row in _rows(given, part)
        ]
        if rows:
            made[part] = rows
    if isinstance(made.get("sweep"), dict):
        made |= {name: values[0] for name, values in made["sweep"].items() if isinstance(values, list) and values}
    return made


def _number(text: str) -> Any:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def _moment(text: str, zone: str) -> str:
    """A local time with its zone: minutes west of Greenwich, as browsers count, else this server's own."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            minutes = int(zone) if re.fullmatch(r"-?\d{1,4}", zone) else None
            moment = moment.astimezone() if minutes is None else moment.replace(tzinfo=timezone(timedelta(minutes=-minutes)))
        return moment.isoformat()
    except (ValueError, OverflowError):
        return text  # the rules of a job say what is wrong


def _sweep(text: str) -> dict[str, list[Any]]:
    """The lines `field: value, value, ...`; the values may be a JSON list where one has a comma. Raises JobError."""
    found: dict[str, list[Any]] = {}
    mistakes = []
    for line in text.splitlines():
        name, colon, values = (part.strip() for part in line.partition(":"))
        if not line.strip():
            continue
        if not colon or name not in SWEEPABLE:
            near = did_you_mean(name, sorted(SWEEPABLE))
            mistakes.append(
                f"A line of a sweep must be `field: value, value`, as in `steps: 15, 20, 25`, but is {show(line)}{near}."
            )
        elif name in found:
            mistakes.append(f"A sweep must name each field once, but names {show(name)} twice.")
        elif values.startswith("["):
            try:
                listed = parse(values.encode(), "The list of values", one_line=True)
            except JobError as error:
                mistakes += [f"`{name}`: {each}" for each in error.mistakes]
            else:
                found[name] = listed
        else:
            each = [part.strip() for part in values.split(",") if part.strip()]
            found[name] = [_number(part) for part in each] if name in NUMBERS else each
    if mistakes:
        raise JobError(*(Mistake("sweep", sentence) for sentence in mistakes))
    return found


def given(job: Job) -> Given:
    """The flat texts of a job, defaults left out and its pictures' names too: they are files, which a text cannot carry."""
    values = job.model_dump(exclude_none=True, exclude_defaults=True)
    # All of a part, its defaults too: an empty part would be none.
    return of_fields(
        values | {name: getattr(job, name).model_dump(exclude_none=True) for name in PARTS if values.get(name) is not None}
    )


def of_fields(values: dict[str, Any]) -> Given:
    """The flat texts of a job file's fields, which nobody has judged yet: what is of no fitting kind is left out."""
    made: Given = {}
    for name, value in values.items():
        if name == "sweep" and isinstance(value, dict):
            made[name] = "\n".join(f"{field}: {_listed(each)}" for field, each in value.items() if isinstance(each, list))
        elif name in ROWS and isinstance(value, list):
            for number, row in enumerate(each for each in value if isinstance(each, dict)):
                made |= {f"{name}.{number}.{field}": text(each) for field, each in row.items() if field != "image"}
        elif name in PARTS and isinstance(value, dict):
            made |= {f"{name}.{field}": text(each) for field, each in value.items() if each is not None}
        elif name == "after" and isinstance(value, list):
            made[name] = " ".join(map(str, value))
        elif name not in ("image", "mask", "batch") and isinstance(value, str | int | float):
            made[name] = text(value)
    return {name: value for name, value in made.items() if is_name(name)}


def _listed(values: list[Any]) -> str:
    plain = all(isinstance(each, int | float) for each in values) or all(
        isinstance(each, str) and each and each == each.strip() and not set(each) & set(",\n[") for each in values
    )
    return ", ".join(map(text, values)) if plain else json.dumps(values, ensure_ascii=False)


def text(value: Any) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def local(moment: str) -> str:
    """A moment as an input of date and time has it: this server's own clock, to the minute. What is no moment is kept."""
    try:
        return moments.read(moment).astimezone(datetime.now(UTC).astimezone().tzinfo).strftime("%Y-%m-%dT%H:%M")
    except (ValueError, OverflowError):  # the latter at both ends of the calendar
        return moment
