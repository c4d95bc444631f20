"""Changing jobs that wait: find and replace in their texts, or other values for their fields.

A submitted job never changes by itself. Who edits it takes it out of the queue as a spooler does, by a claim, so that nobody
can run it meanwhile; keeps what was submitted beside it (submitted.json); and gives it back. Killed in between, the job is
claimed by a dead one, and recovery goes on with it, as it was or as it was to be.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from spooler import durable, job
from spooler.job import Job, from_fields
from spooler.life import Life
from spooler.logs import event
from spooler.mistakes import JobError, Mistake, printable, show
from spooler.place import EDITOR, Place
from spooler.reader import mtime_ns
from spooler.record import Record
from spooler.removal import remove
from spooler.spool import Spool

log = logging.getLogger(__name__)

Change = Callable[[Job], Job]
TEXTS = ("prompt", "negative_prompt")
Waits = Literal["pending", "held"]
STATES: tuple[Waits, ...] = ("pending", "held")
#: Jobs that are out of the queue at a time. Should the editor be killed, so many are recovered out of their turn.
AT_ONCE = 8
#: Seconds that a regular expression may take with one text.
FIND_S = 1.0
#: Seconds that it may take to understand it, in a process of its own with so much memory.
COMPILE_S = 5.0
_TRY = """
import resource, sys, regex
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
try:
    regex.compile(sys.stdin.buffer.read().decode(errors="surrogatepass"))
except (regex.error, RecursionError, OverflowError) as error:
    sys.exit(str(error))
except MemoryError:
    sys.exit(1)
"""


@dataclass(frozen=True)
class Edited:
    """A job that was changed, or would be: its id, where it waits, and what became of its fields (before, after)."""

    id: str
    state: Waits
    fields: dict[str, tuple[Any, Any]]


def replacing(pattern: str, replacement: str, fields: tuple[str, ...] = TEXTS) -> Change:
    """The change that replaces what the regular expression finds. Raises JobError for one that is none; so does the change,
    for one that takes too long: some go through a text in more ways than anybody can wait for."""
    import regex  # which can be stopped, as `re` cannot; only here, for the web app needs it not

    _try_to_compile(pattern)
    try:
        compiled = regex.compile(pattern)
        # It always finds something, so a group that is not there is told of now, not in the middle of the work.
        regex.sub(f"{pattern}|", replacement, "")
    except (regex.error, IndexError) as error:
        rule = f"`find` must be a regular expression, but {show(pattern)} is none: {error}."
        raise JobError(Mistake("find", rule)) from error

    def change(before: Job) -> Job:
        given = before.model_dump(exclude_unset=True)
        for name in fields:
            if isinstance(text := getattr(before, name), str):
                try:
                    after = compiled.sub(replacement, text, timeout=FIND_S)
                except TimeoutError:
                    rule = f"`find` must be done with a text within {FIND_S:g} s, but {show(pattern)} is not with this one."
                    raise JobError(Mistake("find", rule)) from None
                if after != text:
                    given[name] = after
        return from_fields(given)

    return change


def _try_to_compile(pattern: str) -> None:
    """Raise JobError for what is no regular expression, or takes too long to become one, or too much memory.

    (?:x{1000}){100000} is written out before it is used, and nothing can stop that but the end of its process: so it is tried
    in one of its own.
    """
    given = pattern.encode(errors="surrogatepass")
    try:
        command = [sys.executable, "-I", "-c", _TRY]
        tried = subprocess.run(command, input=given, capture_output=True, timeout=COMPILE_S, check=False)
    except subprocess.TimeoutExpired:
        why = f"`find` must be a regular expression that is ready within {COMPILE_S:g} s, but {show(pattern)} is not."
        raise JobError(Mistake("find", why)) from None
    if tried.returncode:
        told = tried.stderr.decode(errors="replace").strip() or "it takes too much memory"
        raise JobError(Mistake("find", f"`find` must be a regular expression, but {show(pattern)} is none: {printable(told)}."))


def setting(values: Mapping[str, Any]) -> Change:
    """The change that gives fields other values; null takes a field out, so that it has its default."""

    def change(before: Job) -> Job:
        given = before.model_dump(exclude_unset=True) | dict(values)
        return from_fields({name: value for name, value in given.items() if value is not None})

    return change


def waiting(spool: Spool, ids: frozenset[str] | None = None) -> Iterator[Place]:
    """The jobs that wait; those of these ids, of which a dropped file may be one that another has, too."""
    for state in STATES:
        yield from (place for place in spool.walk(state) if ids is None or place.id in ids)


def plan(
    spool: Spool, change: Change, places: Iterable[Place] | None = None, refused: list[PermissionError] | None = None
) -> Iterator[tuple[Place, Edited]]:
    """The jobs that the change would change, of these or of all that wait. Raises JobError, naming the job, for one that it
    would spoil. One that is closed to us is left out: `refused` has what it answers; without that it is raised."""
    for place in waiting(spool) if places is None else places:
        try:
            before = spool.read_job(place)
        except (JobError, FileNotFoundError, durable.UnreadableError):  # no job, or no longer here
            continue
        except PermissionError as error:
            if refused is None:
                raise
            refused.append(error)
            continue
        if fields := _differences(before, _changed(change, before, place.id)):
            yield place, Edited(place.id, "held" if place.state == "held" else "pending", fields)


def apply(
    spool: Spool, change: Change, places: Iterable[Place] | None = None, refused: list[PermissionError] | None = None
) -> list[Edited]:
    """Change the waiting jobs, these or all. One that was claimed or taken away meanwhile is left as it is.

    What the change raises is raised, and the jobs that were not changed by then stay as they were. `refused` as in `plan`.
    """
    todo = list(plan(spool, change, places, refused))  # all of them are tried before the first is touched
    done: list[Edited] = []
    with _claimer(spool) as me:
        for state in STATES:
            of_state = [each for each in todo if each[1].state == state]
            for begin in range(0, len(of_state), AT_ONCE):
                _apply_some(spool, change, me, state, of_state[begin : begin + AT_ONCE], done, refused)
    return done


def _apply_some(
    spool: Spool,
    change: Change,
    me: str,
    state: Waits,
    some: list[tuple[Place, Edited]],
    done: list[Edited],
    refused: list[PermissionError] | None,
) -> None:
    """Claim these in one go, change each, and give all of them back, whatever happens. Those that were changed go to `done`."""
    came = {place.id: mtime_ns(place.path) for place, _ in some}  # by which whoever starts later tells its place in the line
    answers = spool.claim_many([place.path.name for place, _ in some], me, state, to_edit=True)
    # None is a RACE: it is being run, or somebody took it away.
    taken = [(claimed, edited) for claimed, (_, edited) in zip(answers, some, strict=True) if isinstance(claimed, Place)]

    changed: set[str] = set()

    def give_back(claimed: Place, edited: Edited) -> None:
        back = spool.give_back(claimed, state)
        if back:
            with contextlib.suppress(OSError):  # RACE: it is being run; or the folder is another user's, who alone may
                os.utime(back.path, ns=(came[edited.id],) * 2)
        if back and durable.exists(back.path / "cancel"):  # RACE: somebody had waited for us long enough
            (back.path / "cancel").unlink(missing_ok=True)
            spool.cancel(back.id)
        if back and claimed.id in changed:
            done.append(Edited(back.id, state, edited.fields))
            log.info("job %s: changed", back.id, extra=event("edited", job=back.id, fields=sorted(edited.fields)))

    with contextlib.ExitStack() as after:
        for each in reversed(taken):  # what is put on the stack last is done first
            after.callback(give_back, *each)
        for claimed, edited in taken:
            before = spool.read_job(claimed)
            after_it = _changed(change, before, edited.id)
            if not durable.exists(claimed.path / "submitted.json"):
                durable.write_new(claimed.path / "submitted.json", claimed.job_file.read_bytes())
            record = spool.read_record(claimed) or Record(id=claimed.id, queued=spool.queued_at(claimed))
            durable.replace(claimed.path / "record.json", record.edit().encode())
            durable.replace(claimed.job_file, job.encode(after_it))
            changed.add(claimed.id)
    for answer in answers:
        if isinstance(answer, PermissionError) and refused is not None:
            refused.append(answer)
        elif isinstance(answer, OSError):
            raise answer


def _changed(change: Change, before: Job, job_id: str) -> Job:
    try:
        return change(before)
    except JobError as error:
        raise JobError(*(Mistake(each.field, f"Job {job_id!r}: {each.message}") for each in error.mistakes)) from error


def _differences(before: Job, after: Job) -> dict[str, tuple[Any, Any]]:
    return {
        name: (getattr(before, name), getattr(after, name))
        for name in type(before).model_fields
        if getattr(before, name) != getattr(after, name)
    }


@contextmanager
def _claimer(spool: Spool) -> Iterator[str]:
    """A folder of claimed/ of our own, with its life lock, for as long as the work takes."""
    # One a thread: the web app edits for several people at once.
    name = f"{EDITOR}{re.sub('[^A-Za-z0-9-]+', '-', socket.gethostname())}-{os.getpid()}-{threading.get_ident()}"
    life = Life.begin(spool, name)
    try:
        yield name
    finally:
        life.end()
        with contextlib.suppress(OSError):
            if not any((spool.claimed / name).glob("*/job.json")):
                remove(spool.claimed / name)
