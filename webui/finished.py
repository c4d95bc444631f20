"""What the index keeps of a finished job, read from the job's folder.

It is read lightly: the index is only for finding jobs, and whoever shows one reads its folder with all the rules. So a record
of an older or newer sdspool, or one that somebody wrote by hand, gives what can be had of it and is never an error.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from spooler import durable, job
from spooler.place import Place
from spooler.reader import MAX_RECORD_BYTES
from webui.search import Ended

#: Larger than any disk: a file with a hole in it may claim to be larger than a database can count.
MAX_BYTES = 1 << 53


class NoJobError(OSError):
    """A folder among the finished jobs that is no job: met by whoever puts folders of their own there."""


@dataclass(frozen=True)
class Finished:
    """A row of the index."""

    id: str
    state: Ended
    completed_ms: int  # since 1970, UTC
    owner: str
    model: str
    prompt: str
    width: int  # pixels, of the first picture
    height: int
    seed: int | None
    pictures: int
    bytes: int  # of all the folder's files
    batch: str
    starred: bool
    seconds: float | None  # from the start of its last attempt to its end
    waited: float | None  # seconds in the queue before it; null: unknown, or it never ran
    failure: str  # code of the failure; empty: none
    has_record: bool  # whether record.json is there: a job that is cancelled while it waits gets it a moment later


def read(place: Place, state: Ended) -> Finished:
    """Read a finished job. Raises FileNotFoundError when it is gone, NoJobError or another OSError when it cannot be read."""
    size, names, modified_ns = _measure(place.path)
    if "job.json" not in names:
        raise NoJobError(f"A finished job's folder must have a job.json, but {place.id} has none.")
    record = _object(place.path / "record.json", MAX_RECORD_BYTES) if "record.json" in names else {}
    asked = _get(record, "parameters")
    if not isinstance(asked, dict):  # it never ran
        asked = _object(place.job_file, job.MAX_BYTES)
    images = _get(record, "images")
    pictures = [each for each in images if _text(_get(each, "file"))] if isinstance(images, list) else []
    shown = pictures[0] if pictures else asked
    completed, started = _moment_ms(_get(record, "completed")), _moment_ms(_get(record, "started"))
    return Finished(
        id=place.id,
        state=state,
        completed_ms=completed if completed is not None else modified_ns // 1_000_000,
        owner=_text(_get(asked, "owner")),
        model=_text(_get(record, "engine", "model")) or _text(_get(asked, "model")),
        prompt=_text(_get(asked, "prompt")),
        width=_whole(_get(shown, "width")) or 0,
        height=_whole(_get(shown, "height")) or 0,
        seed=_whole(_get(shown, "seed")),
        pictures=len(pictures),
        bytes=min(size, MAX_BYTES),
        batch=_text(_get(asked, "batch")),
        starred="starred" in names,
        seconds=(completed - started) / 1000 if completed is not None and started is not None else None,
        waited=_waited(record, started),
        failure=_text(_get(record, "failure", "code")),
        has_record="record.json" in names,
    )


def _measure(folder: Path) -> tuple[int, set[str], int]:
    """The bytes of the folder's files and of those in inputs/, the names of its files, and when it changed."""
    size, names = 0, set()
    modified_ns = folder.lstat().st_mtime_ns
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name == "inputs":
                    with os.scandir(entry.path) as inputs:
                        size += sum(each.stat(follow_symlinks=False).st_size for each in inputs)
                continue
            names.add(entry.name)
            size += entry.stat(follow_symlinks=False).st_size
    return size, names, modified_ns


def _object(path: Path, max_bytes: int) -> dict[str, Any]:
    raw = durable.read_small(path, max_bytes)
    try:
        value = from_json(raw)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _get(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: Any) -> int | None:
    """A whole number that a database can hold."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 62 else None


def _waited(record: dict[str, Any], started_ms: int | None) -> float | None:
    """Seconds from the submission, or the last retry, to the start of the last attempt."""
    retried = _get(record, "retried")
    came = _moment_ms(retried[-1] if isinstance(retried, list) and retried else _get(record, "queued"))
    return max(0.0, (started_ms - came) / 1000) if started_ms is not None and came is not None else None


def _moment_ms(value: Any) -> int | None:
    try:
        return math.floor(datetime.fromisoformat(value).timestamp() * 1000)
    except (TypeError, ValueError, OverflowError):
        return None
