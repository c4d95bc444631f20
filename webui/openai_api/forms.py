"""A form as the body that JSON would have: each text by what its field is, and nested values from the names of their parts.

The SDKs send what is nested part by part: `hires[scale]=2`, `loras[][name]=ink`, `loras[][weight]=0.5`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from spooler.job import Job
from spooler.mistakes import JobError
from spooler.strict_json import parse
from webui.openai_api.mishaps import RefusedError

#: OpenAI's own fields that are no text.
NUMBERS = ("n", "partial_images", "output_compression")
_PART = re.compile(r"(\w+)(?:\[(\d*)\])?\[(\w+)\]", re.ASCII)


def body(sent: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The fields of a form, in the order in which they were sent. Raises RefusedError for one that comes twice.

    A text that is not what its field is stays text, and a name that no field has stays as it is: the rules name it.
    """
    found: dict[str, Any] = {}
    for name, text in sent:
        part = _PART.fullmatch(name)
        is_taken = _place(found, part[1], part[2], part[3], text) if part and part[1] in _parts() else _put(found, name, text)
        if not is_taken:
            raise RefusedError(f"`{name}` must be sent once, but came twice.", name)
    return found


def _put(found: dict[str, Any], name: str, text: str) -> bool:
    """False: it is there already."""
    if name in found:
        return False
    if name == "stream" and text in ("true", "false"):
        found[name] = text == "true"
    elif name in NUMBERS:
        found[name] = int(text) if re.fullmatch(r"-?\d{1,9}", text, re.ASCII) else text
    else:
        found[name] = _value(text, _fields().get(name, {"type": "string"}))
    return True


def _place(found: dict[str, Any], name: str, number: str | None, part: str, text: str) -> bool:
    """Put a part of a nested value where it belongs. False: it is there already."""
    is_list, known = _parts()[name]
    whole = found.setdefault(name, [] if is_list else {})
    if is_list and isinstance(whole, list):
        whole = _element(whole, name, number, part)
    if not isinstance(whole, dict) or part in whole:
        return False
    whole[part] = _value(text, known.get(part, {"type": "string"}))
    return True


def _element(several: list[dict[str, Any]], name: str, number: str | None, part: str) -> dict[str, Any]:
    """The one that the part is of: that of its number, else the last, and a new one for a part that the last has."""
    last = len(several) - 1
    at = int(number) if number else last + (not several or part in several[last])
    if at > last + 1:
        raise RefusedError(f"`{name}` must be numbered from 0 without a gap, but has a part {at}.", name)
    if at > last:
        several.append({})
    return several[at]


def _value(text: str, field: Mapping[str, Any]) -> Any:
    """What JSON would have in the text's place, by the field's schema."""
    kinds = {each.get("type") for each in field.get("anyOf", [field])}
    if "string" in kinds:
        return text
    try:
        value = parse(text.encode())
    except JobError:
        return text
    return value if isinstance(value, (int, float, dict, list, type(None))) and not isinstance(value, bool) else text


@cache
def _fields() -> dict[str, Any]:
    """The schemas of a job's fields."""
    found: dict[str, Any] = Job.model_json_schema()["properties"]
    return found


@cache
def _parts() -> dict[str, tuple[bool, dict[str, Any]]]:
    """The fields of a job that have parts: whether there may be several, and the schemas of the parts."""
    schemas: dict[str, Any] = Job.model_json_schema()["$defs"]
    found = {}
    for name, field in _fields().items():
        is_list = field.get("type") == "array"
        for each in [field.get("items", {})] if is_list else field.get("anyOf", []):
            if "$ref" in each:
                found[name] = is_list, schemas[each["$ref"].rpartition("/")[2]]["properties"]
    return found
