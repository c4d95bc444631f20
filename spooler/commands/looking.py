"""Verbs that look: ls, show."""

from __future__ import annotations

import argparse
import heapq
import sys
from itertools import islice
from typing import Any

from rich.console import Console
from rich.table import Table

from spooler.batches import Batches
from spooler.commands.common import (
    DONE,
    MISSING,
    WRONG,
    Verbs,
    add_json,
    add_spool,
    add_verb,
    missing,
    printable,
    say_json,
    tell,
)
from spooler.durable import UnreadableError
from spooler.mistakes import JobError
from spooler.place import Place
from spooler.reader import mtime, mtime_ns
from spooler.spool import Spool
from spooler.states import STATES, State

LIMIT = 50


def add(verbs: Verbs) -> None:
    listing = add_verb(verbs, "ls", _ls, "List jobs: those that run and wait, or those of a state, the newest first.")
    listing.add_argument("state", nargs="*", choices=[*STATES, []], help=f"{', '.join(STATES)}; none: claimed, pending, held")
    listing.add_argument("--owner", help="only this owner's")
    listing.add_argument("--limit", type=int, default=LIMIT, help=f"at most so many of a state (default {LIMIT})")
    add_json(listing)
    add_spool(listing)
    show = add_verb(verbs, "show", _show, "Tell all that is known of a job, or of a batch.")
    show.add_argument("id")
    add_json(show)
    add_spool(show)


def _ls(options: argparse.Namespace) -> int:
    spool = Spool(options.spool)
    if not spool.pending.is_dir():
        tell(f"there is no spool at {options.spool}")
        return WRONG
    states: list[State] = options.state or ["claimed", "pending", "held"]
    rows: list[dict[str, Any]] = []
    for state in states:
        found = (row for place in _newest(spool, state, options) if (row := _row(spool, place)))
        rows += islice((row for row in found if options.owner in (None, row["owner"])), options.limit)
    if options.json:
        say_json(rows)
    elif sys.stdout.isatty():
        _print_table(rows)
    else:
        for row in rows:
            print("\t".join(printable(str(row[name])) for name in ("id", "state", "owner", "priority", "prompt")))
    return DONE


def _newest(spool: Spool, state: State, options: argparse.Namespace) -> list[Place]:
    """The places of a state, the newest first (waiting ones: the oldest); of a million no more are kept than are shown."""
    if options.owner is not None or state in ("claimed", "pending", "held"):
        return spool.places(state)
    return heapq.nlargest(options.limit, spool.walk(state), key=lambda place: (mtime_ns(place.path), place.id))


def _row(spool: Spool, place: Place) -> dict[str, Any] | None:
    try:
        job = spool.read_job(place)
    except (OSError, JobError, UnreadableError):  # it moved on, or is no job
        return None
    return {
        "id": place.id,
        "state": place.state,
        "spooler": place.spooler,
        "owner": job.owner,
        "priority": job.priority,
        "model": job.model,
        "prompt": job.prompt,
        "changed": mtime(place.path),
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("id", "state", "owner", "priority", "prompt"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(printable(str(row[name])) for name in ("id", "state", "owner", "priority", "prompt")))
    Console(markup=False).print(table)


def _show(options: argparse.Namespace) -> int:
    spool = Spool(options.spool)
    place = spool.find(options.id)
    batch = Batches(spool).progress(options.id) if place is None else None
    if batch:
        say_json({**batch.batch.model_dump(), "counts": batch.counts, "gone": batch.gone})
        return DONE
    if place is None:
        return missing(options.id)
    try:
        job = spool.read_job(place)
    except FileNotFoundError:
        return missing(options.id)
    except (JobError, UnreadableError) as error:
        tell(str(error))
        return MISSING
    record, progress = spool.read_record(place), spool.read_progress(place) if place.state == "claimed" else None
    answer = {
        "id": place.id,
        "state": place.state,
        "path": str(place.path),
        "spooler": place.spooler,
        "job": job.model_dump(exclude_unset=True),
        "record": record.model_dump(mode="json") if record else None,
        "progress": progress.model_dump(mode="json") if progress else None,
    }
    if options.json or not sys.stdout.isatty():
        say_json(answer)
    else:
        Console().print_json(data=answer)
    return DONE
