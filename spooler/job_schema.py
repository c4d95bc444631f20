"""The JSON Schema of a job file. It says what the file may hold by itself; `job.from_fields` alone knows what goes together."""

from __future__ import annotations

from typing import Any

from spooler.job import SWEEPABLE, Job


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a job file, A1111's spellings left out."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | with_sweeps(Job.model_json_schema())


def with_sweeps(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a Job as people may write one: with a list in the place of any value that may be swept."""
    properties = dict(schema["properties"])
    for name in SWEEPABLE:
        field = properties[name]
        told = {key: field[key] for key in ("default", "description", "title", "examples") if key in field}
        value = {key: field[key] for key in field if key not in told}
        properties[name] = told | {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}]}

    def given(name: str) -> dict[str, Any]:
        """By itself, or as what is swept."""
        swept = {"required": ["sweep"], "properties": {"sweep": {"required": [name]}}}
        return {"anyOf": [{"required": [name]}, swept]}

    enough = [given("prompt"), {"allOf": [given("image"), given("upscale")]}]
    return schema | {"properties": properties, "anyOf": enough}
