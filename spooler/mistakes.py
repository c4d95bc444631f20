"""What is wrong with what somebody sent, in sentences: each names the field, the rule and the value."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import ErrorDetails

#: Sentences about one job. Who makes more mistakes is no person, and each costs time.
MAX_MISTAKES = 100


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
    """Bytes that cannot be read (yet): perhaps a file still on its way, so a reader of the drop folder waits a while."""


def sentence(detail: ErrorDetails, fields: Sequence[str], parts: Sequence[str]) -> Mistake:
    """A pydantic error as our sentence. `fields` are the names to offer for a field that does not exist, `parts` inside one."""
    name = ".".join(str(part) for part in detail["loc"])
    shown = show(name)[1:-1]  # a name is as much a stranger's as a value
    kind, message, value = detail["type"], detail["msg"], detail["input"]
    if kind == "extra_forbidden":
        if name == "id":
            return Mistake(name, "`id` is not a field of a job file: a job's id is its file's name.")
        near = did_you_mean(str(detail["loc"][-1]), parts if len(detail["loc"]) > 1 else fields)
        return Mistake(name, f"`{shown}` is not a field of a job{near}.")
    if kind == "missing":
        return Mistake(name, f"`{shown}` is required, but is missing.")
    if kind == "schedule":
        return Mistake("scheduler", message)
    if kind == "together":
        return Mistake(detail.get("ctx", {}).get("field", ""), message)
    if kind == "syntax":
        return Mistake(name, f"`{shown}` cannot be read: {printable(message)}")
    rule = message.removeprefix("Input ").replace("should be", "must be").replace("should have", "must have")
    rule = rule.replace("String should have", "must have").replace("String must have", "must have")
    rule = (
        rule.replace("a valid integer", "a whole number")
        .replace("a valid number", "a number")
        .replace("a valid string", "text")
    )
    rule = rule.replace("a finite number", "a finite number, not NaN or infinity")
    if kind == "string_too_long":
        return Mistake(name, f"`{shown}` {rule}, but has {len(value)}.")
    if kind == "too_long":
        return Mistake(name, f"`{shown}` must have at most {detail['ctx']['max_length']} items, but has {len(value)}.")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        rule = "must be an object, {...}"
    if kind == "list_type":
        rule = "must be a list of " + {"after": "ids", "sweep": "values"}.get(str(detail["loc"][0]), "objects, [{...}]")
    if kind == "literal_error":
        rule = f"must be {detail.get('ctx', {}).get('expected', '').replace(chr(39), '')}"
    # What was meant for a prompt goes into no log (S9), and these sentences do.
    told = kind_of(value) if "prompt" in name and isinstance(value, (str, list, dict)) else show(value)
    return Mistake(name, f"`{shown}` {rule}, but is {told}.")


def did_you_mean(value: str, names: Sequence[str]) -> str:
    """The tail of an error sentence that offers the nearest of the names; empty when none is near."""
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(value.lower()[:64], by_lower, n=1, cutoff=0.6)
    return f" (did you mean {by_lower[near[0]]}?)" if near else ""


def show(value: Any) -> str:
    """A stranger's value, fit for a sentence, a log line or a terminal: JSON, ASCII, at most 80 characters."""
    try:
        text = json.dumps(value)
    except (ValueError, TypeError, RecursionError):
        text = kind_of(value)
    return text if len(text) <= 80 else text[:76] + "... "


def printable(text: str) -> str:
    """The text with an escape in the place of each character that a terminal or a log would act on."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def kind_of(value: Any) -> str:
    """What a value of JSON is, in words."""
    kinds = {dict: "an object", list: "an array", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")
