"""`sdspool prune`: remove the oldest ended jobs, now. Without --yes it only tells which."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from spooler import retention
from spooler.batches import Batches
from spooler.commands.common import Verbs, spool_of
from spooler.record import iso
from spooler.retention import Removal, Rules, Survey
from spooler.settings import Settings
from spooler.spool import SpoolError

SETTINGS = ("spool", "keep_days", "keep_jobs", "keep_disk_gib")


def add(verbs: Verbs) -> None:
    """Add the verb to those of `sdspool`."""
    help_ = "Remove the oldest ended jobs that are beyond a bound. Without --yes it only tells which. Starred ones stay."
    made = verbs.add_parser("prune", help=help_, description=help_)
    made.set_defaults(run=prune)
    way = made.add_mutually_exclusive_group()
    way.add_argument("--yes", action="store_true", help="remove them")
    way.add_argument("--dry-run", action="store_true", help="only tell which, as without --yes")
    made.add_argument("--json", action="store_true", help="the answer as JSON")
    Settings.add_options(made, only=SETTINGS)


def prune(options: argparse.Namespace) -> int:
    """0: done, if there was anything to do; 1: some could not be removed; 2: no bound is set, or there is no such spool."""
    rules = Rules(options.keep_days, options.keep_jobs, options.keep_disk_gib)
    if not rules:
        raise SpoolError("Nothing says what to keep: give --keep-days, --keep-jobs or --keep-disk-gib.")
    spool = spool_of(options, known_by="done")
    steady = retention.agrees_with_disk(spool)
    removed: list[dict[str, Any]] = []
    notes: list[str] = []
    jobs = size = left = 0
    while True:
        survey = Survey(time.time())
        for ids in retention.awaited(spool):
            survey.awaited.update(ids)
        for job in retention.ended(spool.root):
            survey.add(job)
        removals = survey.plan(rules, steady)
        notes = [why] if (why := survey.no_age(rules, steady)) else notes
        went = 0
        for removal in removals:
            if options.yes and not retention.remove(spool, removal.job):
                left += 1
                continue
            went += 1
            jobs, size = jobs + 1, size + removal.job.bytes
            if options.json:
                removed.append(_row(removal))
            else:
                _say(_line(removal))
        full = len(removals) >= retention.AT_MOST
        if not full or not options.yes or not went:
            break
    batches = sum(retention.remove_batch(spool, each) for each in Batches(spool).ids()) if options.yes else 0
    if batches:
        notes.append(f"{batches} {'batch' if batches == 1 else 'batches'} of which no job is left went, too.")
    if full and not options.yes:
        notes.append(f"These are the {retention.AT_MOST} oldest; there may be more.")
    if left:
        notes.append(f"{left} changed meanwhile, and stay.")
    if options.json:
        _say(
            json.dumps({"dry_run": not options.yes, "jobs": jobs, "bytes": size, "removals": removed, "notes": notes}, indent=2)
        )
    else:
        done = "removed" if options.yes else "would be removed; --yes removes them"
        _say(f"{jobs} {'job' if jobs == 1 else 'jobs'}, {size / (1 << 20):.1f} MiB {done}")
        for note in notes:
            sys.stderr.write(f"sdspool: {note}\n")
    return 1 if left else 0


def _row(removal: Removal) -> dict[str, Any]:
    return {**asdict(removal.job), "completed": _when(removal), "rule": removal.rule}


def _line(removal: Removal) -> str:
    job = removal.job
    # A folder's name may hold anything: what a terminal would obey is shown as an escape.
    name = job.id if job.id.isprintable() else ascii(job.id)
    return f"{job.state}/{name}  {_when(removal)}  {job.bytes / (1 << 20):.1f} MiB  {removal.rule}"


def _when(removal: Removal) -> str:
    return iso(datetime.fromtimestamp(removal.job.completed or 0.0, UTC))


def _say(line: str) -> None:
    sys.stdout.write(line.encode(errors="backslashreplace").decode() + "\n")
