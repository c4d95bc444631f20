"""Verbs that change jobs: cancel, hold, release, retry, top, priority, pause, resume, star, edit."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from spooler import edit
from spooler.commands.common import (
    DONE,
    MISSING,
    OTHERWISE,
    Verbs,
    add_json,
    add_spool,
    add_verb,
    ids_of,
    jobs,
    missing,
    say_json,
    spool_of,
    tell,
    tell_closed,
)
from spooler.job import Job
from spooler.mistakes import JobError, Mistake, show
from spooler.place import Place
from spooler.spool import Spool
from spooler.states import ENDS, STATES, State

WORDS: dict[State, str] = {"pending": "waiting", "claimed": "running"}


def add(verbs: Verbs) -> None:
    for name, run, about in (
        ("cancel", _cancel, "Cancel waiting jobs at once, running ones at their next step."),
        ("hold", _hold, "Keep waiting jobs from being run."),
        ("release", _release, "Let held jobs go on."),
        ("retry", _retry, "Send failed or cancelled jobs back to the queue."),
        ("top", _top, "Move waiting jobs to the top of the queue."),
        ("star", _star, "Spare finished jobs from retention."),
        ("unstar", _unstar, "Take the star away."),
    ):
        made = add_verb(verbs, name, run, about)
        made.add_argument("id", nargs="+", help="of jobs, or of a batch: all of its jobs")
        add_json(made)
        add_spool(made)
    priority = add_verb(verbs, "priority", _priority, "Give waiting jobs another priority than their own.")
    priority.add_argument("priority", help="-100 to 100; `own` takes it back")
    priority.add_argument("id", nargs="+", help="of jobs, or of a batch: all of its jobs")
    add_json(priority)
    add_spool(priority)
    for name, run, about in (
        ("pause", _pause, "Stop claiming; what runs is finished."),
        ("resume", _resume, "Go on claiming."),
    ):
        made = add_verb(verbs, name, run, about)
        add_json(made)
        add_spool(made)
    change = add_verb(verbs, "edit", _edit, "Find and replace in the waiting jobs' texts, or give their fields other values.")
    change.add_argument("id", nargs="*", help="of jobs, or of batches: these alone")
    change.add_argument("--find", metavar="REGEX", help="what to look for in the prompts")
    change.add_argument("--replace", metavar="TEXT", default="", help="what to put there; \\1 is the first group")
    change.add_argument("--field", action="append", metavar="NAME", help="another field to look in than the two prompts")
    change.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a field's other value; null: its default"
    )
    change.add_argument("--dry-run", action="store_true", help="only tell what would be changed")
    add_json(change)
    add_spool(change)


def _each(
    options: argparse.Namespace,
    act: Callable[[Spool, str], Place | None],
    wanted: tuple[State, ...],
    of: tuple[State, ...] = STATES,
    backwards: bool = False,
) -> int:
    """Do it to each job; the worst of the exit statuses. `wanted` are the states that mean that it was done, `of` those of
    the jobs that it can be done to; `backwards`: the last one first.

    Of a batch, a job whose state does not allow it is passed over: it is no mistake that some have ended.
    """
    spool, status, told = spool_of(options), DONE, []
    meant = ids_of(spool, options.id, to_change=True)
    for job_id, named in reversed(meant) if backwards else meant:
        place = spool.find(job_id)
        fits = place is None or place.state in of
        place = act(spool, job_id) if fits else place
        done = bool(fits and place and place.state in wanted)
        if not named and not done:
            continue
        told.append({"id": job_id, "state": place.state if place else None, "done": done})
        if place is None:
            status = max(status, missing(job_id) if not options.json else MISSING)
        elif not done:
            status = max(status, OTHERWISE)
            if not options.json:
                tell(f"nothing was done: {job_id} is {WORDS.get(place.state, place.state)}")
        elif not options.json:
            print(f"{place.id}: {WORDS.get(place.state, place.state)}")
    if options.json:
        say_json(told)
    return status


def _cancel(options: argparse.Namespace) -> int:
    return _each(options, lambda spool, job_id: spool.cancel(job_id), ("cancelled", "claimed"))


def _hold(options: argparse.Namespace) -> int:
    return _each(options, lambda spool, job_id: spool.hold(job_id), ("held",))


def _release(options: argparse.Namespace) -> int:
    return _each(options, lambda spool, job_id: spool.release(job_id), ("pending",))


def _retry(options: argparse.Namespace) -> int:
    return _each(
        options, lambda spool, job_id: spool.retry(job_id) or spool.find(job_id), ("pending",), ("failed", "cancelled")
    )


def _top(options: argparse.Namespace) -> int:
    # The last one moved is the first: so from the back, for the order that was asked for.
    return _each(options, lambda spool, job_id: spool.set_priority(job_id, "top"), ("pending", "held"), backwards=True)


def _priority(options: argparse.Namespace) -> int:
    priority = None if options.priority == "own" else _number(options.priority)
    return _each(options, lambda spool, job_id: spool.set_priority(job_id, priority), ("pending", "held"))


def _number(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 1000
    if not -100 <= number <= 100:
        raise JobError(Mistake("priority", f"`priority` must be from -100 to 100, or own, but is {show(text)}."))
    return number


def _star(options: argparse.Namespace) -> int:
    return _each(options, lambda spool, job_id: spool.star(job_id, True) or spool.find(job_id), ENDS)


def _unstar(options: argparse.Namespace) -> int:
    return _each(options, lambda spool, job_id: spool.star(job_id, False) or spool.find(job_id), ENDS)


def _pause(options: argparse.Namespace) -> int:
    spool = spool_of(options)
    spool.pause()
    return _tell_paused(spool, options)


def _resume(options: argparse.Namespace) -> int:
    spool = spool_of(options)
    spool.resume()
    return _tell_paused(spool, options)


def _tell_paused(spool: Spool, options: argparse.Namespace) -> int:
    if options.json:
        say_json({"paused": spool.paused})
    else:
        print("the queue is paused; what runs is finished" if spool.paused else "the queue goes on")
    return DONE


def _edit(options: argparse.Namespace) -> int:
    spool, status = spool_of(options), DONE
    change = _change(options)
    meant = ids_of(spool, options.id, to_change=True)
    for job_id, named in meant:
        place = spool.settled(job_id) if named else None
        if named and place is None:
            status = max(status, missing(job_id))
        elif place and place.state not in edit.STATES:
            status = max(status, OTHERWISE)
            tell(f"nothing was done: {job_id} is {WORDS.get(place.state, place.state)}")
    places = edit.waiting(spool, frozenset(job_id for job_id, _ in meant) if options.id else None)
    refused: list[PermissionError] = []
    planned = edit.plan(spool, change, places, refused)
    edited = [each for _, each in planned] if options.dry_run else edit.apply(spool, change, places, refused)
    status = max(status, tell_closed(refused))
    if options.json:
        told = [vars(each) | {"fields": {name: list(pair) for name, pair in each.fields.items()}} for each in edited]
        say_json(told)
        return status
    for each in edited:
        print(f"{each.id}: " + "; ".join(f"{name}: {show(a)} -> {show(b)}" for name, (a, b) in each.fields.items()))
    verb = "would be" if options.dry_run else "was" if len(edited) == 1 else "were"
    tell(f"{jobs(len(edited))} {verb} changed")
    return status


def _change(options: argparse.Namespace) -> edit.Change:
    """The change that the options ask for. Raises JobError when they ask for none, or for nonsense."""
    changes: list[edit.Change] = []
    if options.find is not None:
        changes.append(edit.replacing(options.find, options.replace, tuple(options.field or edit.TEXTS)))
    if options.set:
        changes.append(edit.setting(dict(_assignment(text) for text in options.set)))
    if not changes:
        raise JobError(Mistake("find", "`edit` needs `--find` or `--set`, but neither is given."))

    def change(before: Job) -> Job:
        for each in changes:
            before = each(before)
        return before

    return change


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or name not in Job.model_fields:
        raise JobError(Mistake("set", f"`--set` must be a field of a job, `=`, and its value, but is {show(text)}."))
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
