"""Ids of jobs: the name of a dropped file as far as it may be one, or a new one that sorts by time."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from functools import lru_cache
from itertools import count

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def is_id(text: str) -> bool:
    """Whether the text may be a job's id: one that ends in .json would be taken for a file's name."""
    return bool(ID.fullmatch(text)) and not text.endswith((".json", ".priority"))


def is_text(name: str) -> bool:
    """Whether a file's name is UTF-8: one that is not cannot be told in JSON."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def new_id() -> str:
    """An id for a job from the web: it sorts by time, and 40 random bits make it new."""
    seconds, ms = divmod(time.time_ns() // 1_000_000, 1000)
    return f"{_second(seconds)}-{ms:03d}-{os.urandom(5).hex()}"


@lru_cache(1)  # many jobs come in one second, and the calendar takes longer than the rest of a name
def _second(seconds: int) -> str:
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(seconds))


def clean_id(name: str) -> str:
    """The id of a dropped file: its name without .json, with what an id may not have made into dashes."""
    stem = name
    while stem.endswith((".json", ".priority")):
        stem = stem.removesuffix(".json").removesuffix(".priority")
    if ID.fullmatch(stem):
        return stem
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-")[:120].rstrip("-")
    return cleaned or "job"


def versions(wanted: str) -> Iterator[str]:
    """cat, cat-2, cat-3, ..."""
    yield wanted
    yield from (f"{wanted[:120]}-{number}" for number in count(2))
