"""Verbs that look: ls, show."""

from __future__ import annotations

import argparse
import heapq
import sys
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

from rich.console import Console
from rich.table import Table

from spooler import schedule
from spooler.batches import Batches
from spooler.commands.common import (
    DONE,
    MISSING,
    Verbs,
    add_json,
    add_spool,
    add_verb,
    missing,
    printable,
    say_json,
    spool_of,
    tell,
)
from spooler.dropped import owner_of
from spooler.durable import UnreadableError
from spooler.mistakes import JobError
from spooler.pending import Pending
from spooler.place import Place
from spooler.reader import mtime, mtime_ns
from spooler.schedule import Waiting
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.states import STATES, State

LIMIT = 50
COLUMNS = ("id", "state", "owner", "priority", "prompt")


def add(verbs: Verbs) -> None:
    listing = add_verb(verbs, "ls", _ls, "List jobs: those that run and wait, or those of a state, the newest first.")
    listing.add_argument(
        "state", nargs="*", type=_state, metavar="STATE", help=f"{', '.join(STATES)}; none: claimed, pending, held"
    )
    listing.add_argument("--owner", help="only this owner's")
    listing.add_argument("--limit", type=_limit, default=LIMIT, help=f"at most so many of a state (default {LIMIT})")
    add_json(listing)
    add_spool(listing)
    show = add_verb(verbs, "show", _show, "Tell all that is known of a job, or of a batch.")
    show.add_argument("id")
    add_json(show)
    add_spool(show)


def _limit(word: str) -> int:
    if not (word.isascii() and word.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, but is {printable(word)!a}")
    return int(word)


def _state(word: str) -> str:
    if word not in STATES:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(STATES)}, but is {printable(word)!a}")
    return word


def _ls(options: argparse.Namespace) -> int:
    spool = spool_of(options)
    states: list[State] = options.state or ["claimed", "pending", "held"]
    rows: list[dict[str, Any]] = []
    for state in states:
        line = _line(spool) if state == "pending" else None
        found = (row for place in (line or _newest(spool, state, options)) if (row := _row(spool, place, line)))
        rows += islice((row for row in found if options.owner in (None, row["owner"])), options.limit)
    if options.json:
        say_json(rows)
    elif sys.stdout.isatty():
        _print_table(rows)
        for sentence in _why_not(spool) if "pending" in states else ():
            tell(sentence)
    else:
        for row in rows:
            print("\t".join(printable(str(row[name])) for name in COLUMNS))
    return DONE


def _line(spool: Spool) -> dict[Place, Waiting]:
    """The waiting jobs in the order in which they will run, side files, owners and turns minded: the web page's order."""
    index = Pending(spool, decode=False)
    index.refresh(time.monotonic())
    turns = {owner: turn for status, alive in spool.spoolers() if alive for owner, turn in status.last_turn.items()}
    cap = Settings.parse([], "sdspool").owner_waiting
    gated = sorted(index.gated.values(), key=lambda each: each.arrival)
    return {index.place(each): each for each in (*schedule.order(index.queue, turns, cap), *gated)}


def _why_not(spool: Spool) -> list[str]:
    """What keeps all waiting jobs back."""
    if spool.paused:
        return ["the queue is paused: `sdspool resume` lets it go on"]
    return [] if any(alive for _, alive in spool.spoolers()) else ["no spooler is running: jobs wait until one is started"]


def _newest(spool: Spool, state: State, options: argparse.Namespace) -> list[Place]:
    """The places of a state, the newest first (waiting ones: the oldest); of a million no more are kept than are shown."""
    if options.owner is not None or state in ("claimed", "pending", "held"):
        return spool.places(state)
    return heapq.nlargest(options.limit, spool.walk(state), key=lambda place: (mtime_ns(place.path), place.id))


def _row(spool: Spool, place: Place, line: Mapping[Place, Waiting] | None = None) -> dict[str, Any] | None:
    try:
        job = spool.read_job(place)
    except (OSError, JobError, UnreadableError):  # it moved on, or is no job
        return None
    waiting = line.get(place) if line else None
    return {
        "id": place.id,
        "state": place.state,
        "spooler": place.spooler,
        "owner": waiting.owner if waiting else job.owner or _whose_file(place),
        "priority": waiting.priority if waiting else job.priority,
        "top": bool(waiting and waiting.top),
        "model": job.model,
        "prompt": job.prompt,
        "changed": mtime(place.path),
    }


def _whose_file(place: Place) -> str:
    """Whose job it is that does not say so."""
    try:
        return owner_of(place.job_file.stat().st_uid)
    except FileNotFoundError:  # RACE: it moved on
        return ""


def _print_table(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    cells = [[printable(str(row[name])) for name in COLUMNS] for row in rows]
    for number, name in enumerate(COLUMNS):
        # Where it is narrow, the prompt is what gives way: half a state tells nothing, and an id is there to be copied.
        widest = max(len(name), *(len(row[number]) for row in cells)) if cells else len(name)
        table.add_column(name, no_wrap=True, overflow="ellipsis", min_width=None if name == "prompt" else min(widest, 32))
    for row in cells:
        table.add_row(*row)
    Console(markup=False).print(table)


def _show(options: argparse.Namespace) -> int:
    spool = spool_of(options)
    place = spool.find(options.id)
    batch = Batches(spool).progress(options.id) if place is None else None
    if batch:
        say_json({**batch.batch.model_dump(), "counts": batch.counts, "coming": batch.coming, "gone": batch.gone})
        return DONE
    if place is None and (row := Batches(spool).coming(options.id)):
        say_json({"id": options.id, "state": "pending", "path": None, "job": row.model_dump(exclude_unset=True)})
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
        Console().print_json(data=answer, ensure_ascii=True)
    return DONE
