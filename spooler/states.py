"""The states of a job and the moves between them: one table, which is checked at each move and printed into docs/spool.md.

A job's folder is its state (P3): there is no field that could say otherwise.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spooler.durable import StrPath

State = Literal["pending", "held", "claimed", "done", "failed", "cancelled"]
#: In the order of the flow, which is the order to look in.
STATES: tuple[State, ...] = ("pending", "held", "claimed", "done", "failed", "cancelled")
#: Where a job ends, and where a spooler publishes it.
End = Literal["done", "failed", "cancelled"]
ENDS: tuple[End, ...] = ("done", "failed", "cancelled")
FOLDERS = ("tmp", *STATES, "rejected", "batches")

Status = Literal["waiting", "held", "running", "done", "failed", "cancelled"]
#: The words that people see for the states, and back.
STATUS: dict[State, Status] = {
    "pending": "waiting",
    "held": "held",
    "claimed": "running",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
}
STATE: dict[Status, State] = {status: state for state, status in STATUS.items()}


@dataclass(frozen=True)
class Move:
    """One change of state: the verb, the folders that it goes between, who does it, and what holds while it is done."""

    verb: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    who: str
    locked: bool  # under the claim lock
    steps: str
    killed: str  # killed in between: what is found, and who mends it


MOVES = (
    Move(
        "submit",
        ("tmp",),
        ("pending", "held"),
        "web app, command line, a spooler for a batch",
        False,
        "write `tmp/<unique>`, fsync · link to `pending/<id>.json` (taken: the next id) · fsync `pending/` · answer · unlink "
        "the draft. With pictures: a folder in `tmp/`, all of it fsynced · one rename. With a wished id: under the claim lock",
        "not acknowledged: it may or may not exist. `tmp/` is reaped by age",
    ),
    Move(
        "claim",
        ("pending", "held"),
        ("claimed",),
        "a spooler; an editor, also from `held/`",
        True,
        "one job, or several in one go: for each choose an id that is free in `claimed/*`, `done/`, `failed/`, `cancelled/` · "
        "mkdir `claimed/<me>/<id>` · fsync `claimed/<me>/` · rename each file to `job.json` in its folder (a folder: one "
        "rename) · fsync `pending/`",
        "empty folders, removed by recovery; what was not moved still waits, what was moved is claimed by a dead one: recovery "
        "runs it",
    ),
    Move(
        "give back",
        ("claimed",),
        ("pending", "held"),
        "an editor, a spooler",
        True,
        "what was changed in the folder is fsynced · one rename of the folder",
        "the job is claimed by a dead one: recovery runs it",
    ),
    Move(
        "adopt",
        ("claimed",),
        ("claimed",),
        "a spooler that holds the dead one's life lock",
        False,
        "raise the dead one's epoch · rename `claimed/<dead>/<id>` to `claimed/<me>/<id>`, folder by folder · run it",
        "a function of the listing: again from the top",
    ),
    Move(
        "publish",
        ("claimed",),
        ("done", "failed", "cancelled"),
        "the spooler that has it",
        False,
        "notices into the outbox · pictures and record fsynced in the folder · ONE rename of the folder",
        "before it: run again; after it: done",
    ),
    Move(
        "cancel",
        ("pending", "held"),
        ("cancelled",),
        "web app, command line",
        True,
        "waiting: choose an id as at a claim · mkdir `cancelled/<id>`, `record.json` in it · rename the file into it (a folder:"
        " one rename). Running: an empty file `cancel` in the claimed folder, seen at the next step; then it is published to "
        "`cancelled/`",
        "a folder without a job, which no reader takes for one: removed when that id is cancelled or ends there, or by fsck",
    ),
    Move(
        "retry",
        ("failed", "cancelled"),
        ("pending",),
        "web app, command line",
        True,
        "the record notes it · one rename of the folder",
        "the record notes a retry that did not happen; the next one is noted beside it",
    ),
    Move("hold", ("pending",), ("held",), "anybody: `mv`", True, "one rename", "either it was done or not"),
    Move("release", ("held",), ("pending",), "anybody: `mv`", True, "one rename", "either it was done or not"),
    Move(
        "reject",
        ("pending", "claimed"),
        ("rejected",),
        "a spooler",
        True,
        "`rejected/<name>.reason.txt` first, which also reserves the name · one rename",
        "a reason without its file: fsck removes it",
    ),
    Move(
        "take",
        ("pending",),
        ("batches",),
        "a spooler",
        True,
        "`batches/<id>/batch.json` with the ids of all rows · rename the dropped file into it · submit each row under its id · "
        "an empty file `queued`",
        "without the file: removed by recovery; without `queued`: the rows that are nowhere are submitted",
    ),
    Move(
        "prune",
        ("done", "failed", "cancelled", "batches", "rejected"),
        ("tmp",),
        "retention, the operator",
        False,
        "one rename to `tmp/<unique>` · remove it there",
        "`tmp/` is reaped by age",
    ),
)
_BY_VERB = {move.verb: move for move in MOVES}


def check(verb: str, root: Path, source: StrPath, target: StrPath) -> None:
    """Raise AssertionError unless the table has this move: the one assertion that every transition passes."""
    move = _BY_VERB[verb]
    # In text: a submit asks this between two fsyncs, and `relative_to` was a tenth of what it took beside them.
    inside = "" if str(root) == "." else f"{root}/"
    from_, to = _folder(inside, str(source)), _folder(inside, str(target))
    if from_ not in move.sources or to not in move.targets:
        raise AssertionError(f"{verb} goes from {move.sources} to {move.targets}, but this is from {from_} to {to}.")


def _folder(inside: str, path: str) -> str:
    """The folder of the spool that the path is in, whose paths all begin so; "" for a path outside of it."""
    return path[len(inside) :].partition(os.sep)[0] if path.startswith(inside) else ""


def markdown_table() -> str:
    """The moves as the table of docs/spool.md."""
    rows = ["| verb | from | to | who | steps, in order | killed in between |", "|---|---|---|---|---|---|"]
    for move in MOVES:
        lock = "under the claim lock: " if move.locked else ""
        sources, targets = (", ".join(f"`{name}/`" for name in names) for names in (move.sources, move.targets))
        rows.append(f"| {move.verb} | {sources} | {targets} | {move.who} | {lock}{move.steps} | {move.killed} |")
    return "\n".join(rows) + "\n"
