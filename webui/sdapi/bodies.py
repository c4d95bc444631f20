"""The JSON object that a request of A1111's API carries, whatever kind it calls itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from spooler.mistakes import JobError
from spooler.strict_json import finite, refuse_constant
from webui.sdapi.errors import BodyError


def object_in(raw: bytes) -> Mapping[str, Any]:
    """The object in the bytes. Raises BodyError for what is none."""
    try:
        given = json.loads(raw, parse_constant=refuse_constant, parse_float=finite)
    except (ValueError, RecursionError, JobError) as error:
        raise BodyError("value_error.jsondecode", str(error)[:200]) from error
    if not isinstance(given, Mapping):
        raise BodyError("type_error.dict", "value is not a valid dict")
    return given
