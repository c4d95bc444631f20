"""JSON as a stranger may write it, read strictly: what two readers could understand in two ways is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NoReturn

from spooler.mistakes import IncompleteError, JobError, Mistake, kind_of, show

#: Largest object, in bytes. Read no further than this: the file is a stranger's.
MAX_BYTES = 1 << 20


def parse_object(raw: bytes, what: str = "A job", one_line: bool = False) -> dict[str, Any]:
    """The JSON object in the bytes.

    A strict prefix of a JSON object never parses, so a file that parses is a whole file. Raises as `parse` does.
    """
    value = parse(raw, what, one_line)
    if not isinstance(value, dict):
        raise JobError(Mistake("", f"{what} must be a JSON object, {{...}}, but this is {kind_of(value)}."))
    return value


def parse(raw: bytes, what: str = "A job", one_line: bool = False) -> Any:
    """The JSON value in the bytes, strictly: UTF-8 (a byte order mark is let pass), no NaN, no name twice, no bottomless nest.

    `what` begins the sentences of the errors, which tell no line for bytes that are one line of a file: IncompleteError for
    bytes that are not JSON (yet), JobError for everything else that is wrong.
    """
    if len(raw) > MAX_BYTES:
        raise JobError(Mistake("", f"{what} must have at most {MAX_BYTES} bytes, but this has more."))
    try:
        return json.loads(
            raw.decode("utf-8-sig"), parse_constant=refuse_constant, object_pairs_hook=_unique, parse_float=finite
        )
    except JobError:
        raise
    except UnicodeDecodeError as error:
        why = f"{what} must be UTF-8 text, but byte {error.start} is {raw[error.start] if raw else 0:#04x}."
        raise IncompleteError(Mistake("", why)) from error
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if one_line else f"line {error.lineno}, column {error.colno}"
        why = f"{what} must be JSON, but at {place}: {error.msg}."
        raise IncompleteError(Mistake("", why if raw.strip() else f"{what} must be JSON, but this is empty.")) from error
    except RecursionError as error:
        raise JobError(Mistake("", f"{what} must be one flat JSON object, but this nests too deep.")) from error
    except ValueError as error:  # int() refuses thousands of digits
        raise JobError(Mistake("", f"{what} must have numbers of ordinary size ({error}).")) from error


def refuse_constant(name: str) -> NoReturn:
    """For json's parse_constant: raise JobError for NaN and Infinity, which are no JSON."""
    raise JobError(Mistake("", f"A job must have finite numbers, but this has {name}."))


def finite(text: str) -> float:
    """For json's parse_float: the number. Raises JobError for one that no float can have, like 1e400."""
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
