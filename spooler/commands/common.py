"""What the verbs share: the option --spool, exit statuses, and how things are told to people and to programs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spooler.batches import Batches
from spooler.durable import UnreadableError
from spooler.mistakes import JobError
from spooler.settings import Settings
from spooler.spool import Spool, SpoolError

DONE, OTHERWISE, WRONG, MISSING = 0, 1, 2, 3

Verbs = Any  # what ArgumentParser.add_subparsers returns; its class is private
Run = Callable[[argparse.Namespace], int]


def add_verb(verbs: Verbs, name: str, run: Run, about: str) -> argparse.ArgumentParser:
    """Add a verb with the options that all have."""
    made: argparse.ArgumentParser = verbs.add_parser(name, help=about, description=about)
    made.set_defaults(run=run)
    return made


def add_spool(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spool", type=Path, default=Settings.parse([], "sdspool").spool, help="the spool's folder")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs: the answer as JSON")


def tell(sentence: str) -> None:
    """To people, beside what the verb prints for programs."""
    print(f"sdspool: {printable(sentence)}", file=sys.stderr)


def say_json(answer: Any) -> None:
    print(json.dumps(answer, indent=2))


def ids_of(spool: Spool, given: Sequence[str], to_change: bool = False) -> list[tuple[str, bool]]:
    """The jobs that are meant, each with whether it was named itself: the id of a batch stands for all of its jobs.

    `to_change`: those that were accepted and are not in the queue yet are brought into it, or they would be missed.
    """
    found: list[tuple[str, bool]] = []
    batches = Batches(spool)
    for job_id in given:
        batch = batches.committed(job_id) if spool.find(job_id) is None else None
        if batch and to_change:
            try:
                batches.finish(batch)
            except (JobError, UnreadableError, PermissionError) as error:
                tell(f"batch {batch.id}: what is not in the queue yet cannot be brought into it: {error}")
        found += [(each, False) for each in batch.jobs] if batch else [(job_id, True)]
    if to_change:
        batches.bring_in([job_id for job_id, named in found if named])
    return found


def spool_of(options: argparse.Namespace, known_by: str = "pending") -> Spool:
    """The spool that the option names. Raises SpoolError when there is none, as its folder `known_by` tells: a mistyped one
    must not look like an empty one."""
    spool = Spool(options.spool)
    if not (spool.root / known_by).is_dir():
        raise SpoolError(f"there is no spool at {options.spool}: say with --spool where it is")
    return spool


def missing(job_id: str) -> int:
    tell(f"there is no job {job_id!a}")
    return MISSING


def tell_closed(refused: Sequence[PermissionError]) -> int:
    """Name what was left out because its owner has closed it to who asks; the exit status."""
    for error in refused:
        tell(f"left out: {error.filename}: {error.strerror}")
    return OTHERWISE if refused else DONE


def jobs(number: int) -> str:
    return "1 job" if number == 1 else f"{number:,} jobs"


def printable(text: str) -> str:
    """Text of a stranger's, safe for a terminal: control characters and what no terminal can show are written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
