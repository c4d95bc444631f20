"""Which ended jobs are removed, and removing them.

`plan` decides, and looks at nothing but what it is given. The rest is a thin shell: `ended` reads the jobs one by one, `remove`
takes one away by one rename and then its files, `Retention` does both in slices beside the spooler's work.

A job is removed when the operator set a bound (days, number, bytes) and the oldest are beyond it. Spared, and not counted,
are the starred ones, those whose record does not say when they ended, and those that some job which is not done is to run
`after`: once they are gone, nobody knows how they ended, and it would wait for ever.

A clock is believed only as far as the jobs bear it out, for what it says may be ten years off:

- Nothing is removed by age when the newest job is itself older than the bound: a clock that jumped ahead, or an idle server.
- Nor what ended in the future, nor at all while the caller knows that the clock jumped (`clock_steady`).
- While some job ended in the future, the clock may be behind, and what is made now looks older than it is: then number and size
  take no job of the last day.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spooler import durable, moments
from spooler.batches import Batches
from spooler.job import MAX_BYTES, decode
from spooler.logs import event
from spooler.mistakes import JobError
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.states import ENDS, End, State

log = logging.getLogger(__name__)

DAY_S = 86_400.0
GIB = 1 << 30
#: Jobs that one plan removes at most: what bounds its memory. The next plan goes on.
AT_MOST = 10_000
#: Of a job that has not ended.
COMING: tuple[State, ...] = ("pending", "held", "claimed")
MAX_RECORD_BYTES = 16 << 20
#: Seconds from the start to the first pass, and from the end of a pass to the next.
FIRST_PASS_S = 60.0
PASS_S = 3600.0
#: Seconds between two looks by which the clock may differ from what really passed; adjusting it slowly makes 2 s an hour.
JUMP_S = 60.0
#: Seconds by which another's clock may differ from this host's before ages are not trusted.
SKEW_S = 3600.0

Rule = Literal["keep_days", "keep_jobs", "keep_disk_gib"]


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that has ended, as far as retention goes."""

    id: str
    state: End
    completed: float | None  #: seconds since 1970; None: its record does not say
    bytes: int  #: on the disk
    starred: bool

    @property
    def key(self) -> tuple[float, str, str]:
        """By which the oldest is found; those without a time are never asked."""
        return (self.completed or 0.0, self.state, self.id)


@dataclass(frozen=True)
class Rules:
    """The bounds; 0: none."""

    keep_days: float = 0.0
    keep_jobs: int = 0
    keep_gib: float = 0.0

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        return cls(settings.keep_days, settings.keep_jobs, settings.keep_disk_gib)

    def __bool__(self) -> bool:
        return bool(self.keep_days or self.keep_jobs or self.keep_gib)


@dataclass(frozen=True, slots=True)
class Removal:
    """A job to remove, and the first rule that asks for it."""

    job: Ended
    rule: Rule


class Survey:
    """What a plan needs to know of all jobs, gathered one by one: some sums, and the oldest `at_most` to twice as many."""

    def __init__(self, now: float, at_most: int = AT_MOST):
        self.now = now
        self.awaited: set[str] = set()  # ids of jobs that others are to run after; to be known before any job is added
        self.jobs = 0  # that count: with a time, and without a star
        self.bytes = 0  # of those
        self.spared = 0
        self.newest: float | None = None  # of all, starred ones too, that did not end in the future
        self.any_in_future = False
        self._at_most = at_most
        self._oldest: list[Ended] = []
        self._cut: tuple[float, str, str] | None = None  # what is newer cannot be among the oldest any more

    def add(self, job: Ended) -> None:
        if job.completed is not None:
            if job.completed > self.now:
                self.any_in_future |= job.completed > self.now + SKEW_S
            elif self.newest is None or job.completed > self.newest:
                self.newest = job.completed
        if job.completed is None or job.starred or job.id in self.awaited:
            self.spared += 1
            return
        self.jobs += 1
        self.bytes += job.bytes
        if self._cut is None or job.key < self._cut:
            self._oldest.append(job)
            if len(self._oldest) >= 2 * self._at_most:
                self._sort()

    def _sort(self) -> None:
        self._oldest.sort(key=lambda job: job.key)
        if len(self._oldest) > self._at_most:
            del self._oldest[self._at_most :]
            self._cut = self._oldest[-1].key

    def oldest(self) -> list[Ended]:
        """The oldest jobs that count, at most as many as one plan removes, the oldest first."""
        self._sort()
        return self._oldest

    def no_age(self, rules: Rules, clock_steady: bool = True) -> str | None:
        """Why nothing is removed by age, in a sentence; None: ages count, or no bound is set."""
        if not rules.keep_days:
            return None
        if not clock_steady:
            return "Nothing is removed by age: this host's clock jumped, or differs from the file system's."
        if self.newest is None or self.newest < self.now - rules.keep_days * DAY_S:
            return "Nothing is removed by age: even the newest job is older than that, or the clock is wrong."
        return None

    def plan(self, rules: Rules, clock_steady: bool = True) -> list[Removal]:
        """What to remove, the oldest first."""
        born_before = self.now - rules.keep_days * DAY_S
        by_age = bool(rules.keep_days) and self.no_age(rules, clock_steady) is None
        jobs, size = self.jobs, self.bytes
        removals: list[Removal] = []
        for job in self.oldest():
            rule: Rule
            if by_age and job.key[0] < born_before:
                rule = "keep_days"
            elif self.any_in_future and job.key[0] > self.now - DAY_S:
                break
            elif rules.keep_jobs and jobs > rules.keep_jobs:
                rule = "keep_jobs"
            elif rules.keep_gib and size > rules.keep_gib * GIB:
                rule = "keep_disk_gib"
            else:
                break  # and so none that is newer
            removals.append(Removal(job, rule))
            jobs, size = jobs - 1, size - job.bytes
        return removals


def plan(jobs: Iterable[Ended], rules: Rules, now: float, clock_steady: bool = True, at_most: int = AT_MOST) -> list[Removal]:
    """What to remove of these jobs at the time `now` (seconds since 1970): the oldest first, at most `at_most`, each with its
    rule. The jobs are taken one by one, in any order, and are not kept."""
    survey = Survey(now, at_most)
    for job in jobs:
        survey.add(job)
    return survey.plan(rules, clock_steady)


# -- the shell ---------------------------------------------------------------------------------------------------------


def ended(root: Path) -> Iterator[Ended]:
    """The jobs that have ended, in no order, each looked at when it is asked for. Links are passed over."""
    for state in ENDS:
        with os.scandir(root / state) as entries:
            for entry in entries:
                if (
                    not entry.name.startswith(".")
                    and entry.is_dir(follow_symlinks=False)
                    and (job := _look(root, state, entry.name))
                ):
                    yield job


def awaited(spool: Spool) -> Iterator[Sequence[str]]:
    """Of each job that has not ended the ids of those that it is to run after, each looked at when it is asked for."""
    for state in COMING:
        for place in spool.walk(state):
            try:
                raw = durable.read_small(place.job_file, MAX_BYTES)
                yield decode(raw).after if b"after" in raw else ()  # to read each as a job takes ten times as long
            except (JobError, OSError):  # no job; RACE: it moved on
                yield ()


def _look(root: Path, state: End, name: str) -> Ended | None:
    """None for a folder that is gone, or that this user may not read, or not move: it is not in the sums either."""
    folder = root / state / name
    if not durable.is_ours(folder):
        return None
    size, starred = 0, False
    folders = [folder]
    try:
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    facts = entry.stat(follow_symlinks=False)
                    size += facts.st_blocks * 512  # st_blocks counts in these, whatever the file system's own are (stat(2))
                    if stat.S_ISDIR(facts.st_mode):
                        folders.append(Path(entry.path))
    except (FileNotFoundError, PermissionError):
        return None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # so deep a folder is a stranger's, and its size is not told in full
            raise
    starred = durable.exists(folder / "starred")
    return Ended(name, state, completed(folder), size, starred)


def completed(folder: Path) -> float | None:
    """When the job of this folder ended, seconds since 1970, by its record; None when that does not say."""
    try:
        # Only this field, not the whole record through its model: that would be ten times as slow, a million times over.
        record = json.loads(durable.read_small(folder / "record.json", MAX_RECORD_BYTES))
        return moments.read(record["completed"]).timestamp()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def remove(spool: Spool, job: Ended) -> bool:
    """Remove an ended job: one rename, then its files. False when it is not as it was: moved, starred, or run again.

    Killed in between, the rest lies in tmp/ and goes with the next reaping; the job is shown whole or not at all.
    """
    folder = spool.root / job.state / job.id
    if job.id in ("", ".", "..") or "/" in job.id:
        raise ValueError(f"A job's id must be a name, but is {job.id!a}.")
    try:
        is_same = stat.S_ISDIR(folder.lstat().st_mode) and completed(folder) == job.completed
        if not is_same or durable.exists(folder / "starred"):
            return False
        _take_away(spool, folder, f"job {job.id}")
    except FileNotFoundError:  # RACE: sent back to the queue, or removed by another
        return False
    except PermissionError as error:  # RACE: closed since it was looked at
        log.warning("job %s: cannot be removed: %s", job.id, error)
        return False
    return True


def remove_batch(spool: Spool, batch_id: str) -> bool:
    """Remove a batch of which no job is left, as a job is removed. False when it still is of use, or gone."""
    try:
        if not Batches(spool).is_spent(batch_id):
            return False
        _take_away(spool, spool.batches / batch_id, f"batch {batch_id}")
    except (FileNotFoundError, PermissionError):  # RACE: removed by another; or a folder is closed to us, where it may be
        return False
    return True


def _take_away(spool: Spool, folder: Path, what: str) -> None:
    """Raises FileNotFoundError when it is not there."""
    aside = spool.tmp / f"prune-{durable.unique_name()}"
    try:
        spool.move("prune", folder, aside)
    except durable.UnsyncedError as error:
        # Not a file goes before the rename is durable: else a power cut could bring back a folder with half its pictures.
        log.warning("%s: removed, but its files are left to the reaper of tmp/: %s", what, error)
        return
    try:
        os.utime(aside)  # it is as old as the job: without this a spooler that starts now would reap it beside us
        shutil.rmtree(aside)  # through descriptors, so that no link leads it astray
    except (OSError, RecursionError) as error:
        log.warning("%s: removed, but %s cannot be emptied now: %s", what, aside, error)


def delete(spool: Spool, state: End, job_id: str) -> bool:
    """Remove an ended job because somebody said so. False when there is none in that state any more, or it has a star."""
    job = _look(spool.root, state, job_id)
    if job is None or job.starred or not remove(spool, job):
        return False
    log.info("job %s: deleted from %s/", job_id, state, extra=event("deleted", job=job_id, state=state))
    return True


def agrees_with_disk(spool: Spool) -> bool:
    """Whether this host's clock and that of the file system are near each other. On a share the latter is another host's."""
    probe = spool.tmp / durable.unique_name()
    durable.write_new(probe, b"")
    try:
        return abs(probe.stat().st_mtime - time.time()) < SKEW_S
    finally:
        probe.unlink(missing_ok=True)


class Clock:
    """Whether this host's clock went on as time did, since this was made. A jump is remembered: which side of it was right, who
    knows."""

    def __init__(self) -> None:
        self._ahead = self._now()
        self._jumped = False

    @staticmethod
    def _now() -> float:
        # BOOTTIME, not MONOTONIC: a machine that slept has not jumped.
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def steady(self) -> bool:
        ahead = self._now()
        if abs(ahead - self._ahead) > JUMP_S and not self._jumped:
            self._jumped = True
            log.warning("the clock jumped by %.0f s: nothing is removed by age until the next start", ahead - self._ahead)
        self._ahead = ahead
        return not self._jumped


class Retention:
    """Keeps the ended jobs within the settings' bounds, in slices beside other work. One pass looks at each job once, about
    hourly; with no bound set, or nothing changed, it looks at none."""

    def __init__(self, spool: Spool, settings: Settings, first_pass_s: float = FIRST_PASS_S):
        self._spool = spool
        self._rules = Rules.of(settings)
        self._clock = Clock()
        self._next_pass = time.monotonic() + first_pass_s
        self._survey: Survey | None = None
        self._walk: Iterator[None] | None = None
        self._removals: list[Removal] = []  # the next last
        self._removed = self._freed = self._batches = 0
        self._steady = True
        self._signature: tuple[int, ...] = ()
        self._seen: tuple[int, ...] = ()
        self._ages: tuple[float, float] | None = None  # of the oldest that counts and the newest, at the last pass

    def turn(self, budget_s: float, clock_steady: bool = True) -> bool:
        """Go on for about `budget_s`; one job more at the most. True: there is more to do, call again soon.

        `clock_steady` False switches ages off for the pass, as does a jump that it sees itself. An error of the disk is a line
        of the log, and ends the pass.
        """
        end = time.monotonic() + budget_s
        if not self._rules:
            return False
        self._steady = self._clock.steady() and clock_steady and self._steady
        try:
            if self._survey is None and not self._removals:
                if time.monotonic() < self._next_pass:
                    return False
                if not self._begin(clock_steady):
                    return False
            return self._go_on(end)
        except OSError as error:
            log.error("retention: %s", error)
            self._end_pass(PASS_S)
            return False

    def close(self) -> None:
        """Let go of the folder that it reads."""
        self._walk, self._survey, self._removals = None, None, []

    def _begin(self, clock_steady: bool) -> bool:
        """Begin a pass, unless nothing can have come of one since the last."""
        self._signature = tuple((self._spool.root / state).stat().st_mtime_ns for state in ENDS)
        if self._signature == self._seen and not self._ages_may_ask():
            self._next_pass = time.monotonic() + PASS_S
            return False
        self._steady = clock_steady and self._clock.steady() and agrees_with_disk(self._spool)
        self._survey = Survey(time.time())
        self._walk = self._looks(self._survey)
        return True

    def _looks(self, survey: Survey) -> Iterator[None]:
        """Look at all jobs, one a turn, and last at the batches: whose jobs went with earlier passes may go."""
        for ids in awaited(self._spool):
            survey.awaited.update(ids)
            yield
        for job in ended(self._spool.root):
            survey.add(job)
            yield
        for batch_id in Batches(self._spool).ids():
            self._batches += remove_batch(self._spool, batch_id)
            yield

    def _ages_may_ask(self) -> bool:
        """Whether time alone makes a job removable: the oldest crossed the bound, and the newest did not."""
        if not self._rules.keep_days or self._ages is None:
            return False
        oldest, newest = self._ages
        return oldest < time.time() - self._rules.keep_days * DAY_S <= newest

    def _go_on(self, end: float) -> bool:
        if self._survey and self._walk:
            self._survey.now = time.time()  # a long pass meets jobs that ended after it began
            for _ in self._walk:
                if time.monotonic() >= end:
                    return True
            self._make_plan(self._survey)
            return bool(self._removals)
        while self._removals:
            removal = self._removals.pop()
            if remove(self._spool, removal.job):
                self._removed, self._freed = self._removed + 1, self._freed + removal.job.bytes
            if self._removals and time.monotonic() >= end:
                return True
        if self._removed:
            log.info("retention: removed %d jobs, %.1f MiB", self._removed, self._freed / (1 << 20))
        # A full plan left the rest to the next; one that could remove nothing must not be made again at once.
        again = self._removed >= AT_MOST
        self._end_pass(0.0 if again else PASS_S)
        return again

    def _make_plan(self, survey: Survey) -> None:
        oldest = survey.oldest()
        self._ages = (oldest[0].key[0], survey.newest) if oldest and survey.newest is not None else None
        if why := survey.no_age(self._rules, self._steady):
            log.info("retention: %s", why)
        self._removals = survey.plan(self._rules, self._steady)[::-1]
        self._survey = self._walk = None
        if not self._removals:
            self._seen = self._signature
            self._end_pass(PASS_S)

    def _end_pass(self, wait_s: float) -> None:
        if self._batches:
            log.info("retention: removed %d batches of which no job is left", self._batches)
        self._survey, self._walk, self._removals = None, None, []
        self._removed = self._freed = self._batches = 0
        self._next_pass = time.monotonic() + wait_s
