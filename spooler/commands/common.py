"""What the verbs share: the option --spool, exit statuses, and how things are told to people and to programs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spooler.batches import Batches
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


def ids_of(spool: Spool, given: Sequence[str]) -> list[tuple[str, bool]]:
    """The jobs that are meant, each with whether it was named itself: the id of a batch stands for all of its jobs."""
    found: list[tuple[str, bool]] = []
    for job_id in given:
        batch = Batches(spool).progress(job_id) if spool.find(job_id) is None else None
        found += [(each, False) for each in batch.batch.jobs] if batch else [(job_id, True)]
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


def jobs(number: int) -> str:
    return "1 job" if number == 1 else f"{number:,} jobs"


def printable(text: str) -> str:
    """Text of a stranger's, safe for a terminal: control characters and what no terminal can show are written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
