"""The index of finished jobs: a throw-away copy of what lies in done/, failed/ and cancelled/, in this host's own cache folder.

The folders are the truth. Whatever happens to the copy (an older version, a corrupt file, a full disk, another program that
locks it) it is made again, and until then pages are made from a plain listing of bounded length, with a sentence that says so.

How a change is noticed, on a million folders and without file events:
- A job that was seen in claimed/ and is gone from there is looked for at once, and so is one that somebody looked at.
- When the mtime of a state's folder changed its names are listed and compared with the index. Names are enough: a finished
  folder does not change. A listing is followed by a rest of 20 times its length, so that a large folder is not listed forever.
- Every ten minutes they are listed anyway, and what could not be read is tried again.
- The file `starred` changes no mtime but the job's own: an endless slow walk looks at one job after the other.

Any number of processes may have this index; one at a time brings it up to date, by a lock that dies with its holder.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from spooler.ids import ID
from spooler.place import Place
from spooler.spool import Spool
from webui import finished, search, store
from webui.finished import Finished
from webui.index_folder import folder_of, forget_old
from webui.listings import FULL_S, TICK_S, Listing, exists, may_be_a_job, modified
from webui.search import ENDED, Cursor, Ended, Page, Search

log = logging.getLogger(__name__)

#: Seconds of work of the thread in one piece, of a pause after it, and of rest when there is nothing to do.
SLICE_S = 0.1
PAUSE_S = 0.005
REST_S = 0.5
#: Seconds that a request may spend on news, beside the thread, to which a folder is left whose listing takes longer; and alone.
GLANCE_S = 0.03
ALONE_S = 3.0
#: After a listing, a rest of so many times its length.
RESTS = 20
#: After it failed twice within so many seconds, it is left alone for as long.
TROUBLE_S = 60.0
#: Seconds that one question may take.
QUESTION_S = 2.0
#: Names, and jobs, in one piece of work.
NAMES = 2_000
READ = 250
#: Jobs that are remembered of claimed/, those that somebody looked at, and those to be looked at again.
MAX_NOTED = 10_000
#: Folders of a state that a page without the index looks at.
MAX_PLAIN = 2_000
#: The walk takes this share of the time.
WALK_SHARE = 0.01


class Index:
    """The index of one spool's finished jobs. Safe for many threads."""

    def __init__(self, spool: Spool, cache: Path):
        self._spool = spool
        self.folder = folder_of(spool.root, cache)
        self._store = store.Store(self.folder)
        self._lock = FileLock(self.folder / "lock", fallback_to_soft=False, thread_local=False)
        self._noted: dict[str, None] = {}  # handed over by any thread: setdefault and popitem are atomic
        self._turn = threading.Lock()  # held by the thread that brings it up to date; it guards all below
        self._runs = False  # whether `run` holds the lock file
        self._listings: dict[Ended, Listing] = {}
        self._steps: Iterator[None] | None = None  # what is being done; None: nothing is left to do
        self._unread: dict[Ended, int] = {}
        self._claimed: frozenset[str] = frozenset()
        self._again: list[tuple[float, float, Ended, str]] = []  # a heap: when to look, after what delay, at what
        self._odd_at = 0.0
        self._walked = search.MAX_NUMBER
        self._mishap_at: float | None = None
        self._not_before = 0.0
        self._trouble: str | None = None
        self._troubles: dict[Ended, str] = {}
        #: Is told the ids of jobs that are gone from where they had ended: what else is kept of them may go. Raises nothing.
        self.on_gone: Callable[[Sequence[str]], object] = lambda ids: None

    # -- bringing it up to date ------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Keep it up to date until told to stop: the body of the web app's thread."""
        forget_old(self.folder)
        while not stop.is_set():
            with self._turn, contextlib.suppress(OSError, Timeout):
                if not self._runs:  # held from turn to turn, so that of several processes one does the whole work
                    self.folder.mkdir(parents=True, exist_ok=True)
                    self._lock.acquire(timeout=0)
                    self._runs = True
            self.refresh(SLICE_S)
            stop.wait(PAUSE_S if self._steps else REST_S)
        with self._turn:
            if self._runs:
                self._lock.release()
                self._runs = False
        self.close()

    def refresh(self, budget_s: float) -> bool:
        """Bring it nearer to the folders for about that long. Returns whether nothing is left to do, as far as can be told.

        Never raises: what went wrong is logged, told by the pages, and tried again later.
        """
        return self._take_turn(budget_s, walk=True)

    def glance(self) -> None:
        """What a request does before it looks: take in what is new, where that is quick. The thread does the rest."""
        if not self._runs:  # no thread in this process: if there is one in another, it has the lock and this returns at once
            self._take_turn(ALONE_S)
            return
        slow = self._steps is not None or any(each.rest_s > RESTS * GLANCE_S for each in self._listings.values())
        self._take_turn(GLANCE_S, only_noted=slow)

    def note(self, job_id: str) -> None:
        """Look at this job soon: it ended, went, or got its star."""
        if len(self._noted) < MAX_NOTED and ID.fullmatch(job_id):
            self._noted.setdefault(job_id)

    def close(self) -> None:
        """Let the files go."""
        with self._turn:
            self._forget_work()

    def _take_turn(self, budget_s: float, only_noted: bool = False, walk: bool = False) -> bool:
        if time.monotonic() < self._not_before or not self._turn.acquire(blocking=False):
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock.acquire(timeout=0):
                return self._advance(time.monotonic() + budget_s, only_noted, walk)
        except Timeout:
            return False  # another process is at it
        except sqlite3.Error as error:
            if store.bad(error):
                self._throw_away(str(error))
            self._set_back(str(error))
        except OSError as error:
            log.warning("the index: %s", error)
            self._set_back(error.strerror or str(error))  # without the path, for this is told on the pages
        finally:
            self._turn.release()
        return False

    def _advance(self, end: float, only_noted: bool, walk: bool) -> bool:
        if (self.folder / "damaged").exists():
            self._throw_away("a reader could not use it")
        self._store.open()
        self._look_at_claimed()
        self._look_at_noted()
        if only_noted:
            return False
        self._steps = self._steps or self._all_steps()
        for _ in self._steps:
            if time.monotonic() >= end:
                return False
        self._steps = self._trouble = None
        if walk:
            self._walk(min(end, time.monotonic() + WALK_SHARE * REST_S))
        return all(self._mtime(state) == listing.mtime_ns for state, listing in self._listings.items())

    def _all_steps(self) -> Iterator[None]:
        """All that is to be done now, in pieces: listing first, then reading, the newest first."""
        while True:
            now = time.monotonic()
            due = next((each for each in ENDED if self._is_due(each, now)), None)
            if due:
                try:
                    yield from self._list(due)
                    self._troubles.pop(due, None)
                except OSError as error:
                    self._troubles[due] = error.strerror or str(error)
                    self._listings[due] = Listing(0, now, now, time.monotonic(), TROUBLE_S)
            elif now - self._odd_at >= FULL_S:
                self._odd_at = now
                for state, job_id in self._store.odd():
                    self._store.plan(state, [(job_id, 0)])
            elif planned := self._store.planned(READ):
                self._read(planned)
                yield
            else:
                return

    def _is_due(self, state: Ended, now: float) -> bool:
        listing = self._listings.get(state)
        return listing is None or listing.is_due(self._mtime(state), now)

    def _list(self, state: Ended) -> Iterator[None]:
        """List one folder, compare the names with those that are known, and plan to read the new ones."""
        folder, before = self._spool.root / state, self._listings.get(state)
        began, mtime_ns = time.monotonic(), self._mtime(state)
        self._store.begin_listing()
        with os.scandir(folder) as entries:
            while piece := list(islice(entries, NAMES)):
                self._store.list_names(entry.name for entry in piece if may_be_a_job(entry))
                yield
        after: str | None = ""
        while after is not None:
            new, gone, after = self._store.compare(state, after)
            for names in _pieces(new, NAMES):
                self._store.plan(state, modified(folder, names))
                yield
            # Only a look at the folder itself can say that a job is gone: it may have come while the folder was listed.
            self._forget(state, [name for name in gone if not exists(folder / name)])
            yield
        ended = time.monotonic()
        seen_at = before.seen_at if before and before.mtime_ns == mtime_ns else began
        self._listings[state] = Listing(mtime_ns, seen_at, began, ended, RESTS * (ended - began))
        self._unread[state] = self._store.unread(state)
        self._store.put((), unread=self._unread)

    def _read(self, jobs: Sequence[tuple[Ended, str]], delay_s: float = TICK_S) -> None:
        """Read these jobs and put them into the index; what cannot be read is kept as odd, what is gone is forgotten.

        One that is not all there is looked at again after the delay, for somebody may be at it.
        """
        rows: list[Finished] = []
        odd: list[tuple[Ended, str, str]] = []
        for state, job_id in jobs:
            self._unread[state] = max(0, self._unread.get(state, 0) - 1)
            try:
                rows.append(finished.read(self._place(state, job_id), state))
            except FileNotFoundError:  # RACE: sent back to the queue, pruned, or taken away by hand
                self._forget(state, [job_id])
            except OSError as error:
                odd.append((state, job_id, error.strerror or str(error)))
        self._store.put(rows, odd, self._unread)
        incomplete = [
            *((row.state, row.id) for row in rows if not row.has_record),
            *((state, job_id) for state, job_id, _ in odd),
        ]
        for state, job_id in incomplete if delay_s < FULL_S / 10 else ():  # from then on it is for the full look
            if len(self._again) < MAX_NOTED:
                heapq.heappush(self._again, (time.monotonic() + delay_s, delay_s, state, job_id))

    def _forget(self, state: Ended, ids: Sequence[str]) -> None:
        """These jobs are not in that state any more."""
        self._store.remove(state, ids)
        self.on_gone(ids)

    def _look_at_claimed(self) -> None:
        """Note the jobs that have left claimed/ since the last look."""
        try:
            now = frozenset(islice((place.id for place in self._spool.places("claimed")), MAX_NOTED))
        except OSError:  # the listing of the states will find what is missed here
            return
        for job_id in self._claimed - now:
            self.note(job_id)
        self._claimed = now

    def _look_at_noted(self) -> None:
        """Look for the noted jobs in all the folders where they may be, and again at those that were not all there."""
        there: list[tuple[Ended, str]] = []
        for _ in range(min(READ, len(self._noted))):
            job_id, _ = self._noted.popitem()
            for state in ENDED:
                with contextlib.suppress(OSError):  # listing the folder will say why
                    if exists(self._spool.root / state / job_id):
                        there.append((state, job_id))
                    elif self._store.knows(state, job_id):
                        self._forget(state, [job_id])
        if there:
            self._read(there)
        for _ in range(READ):
            if not self._again or self._again[0][0] > time.monotonic():
                break
            _, delay_s, state, job_id = heapq.heappop(self._again)
            self._read([(state, job_id)], 2 * delay_s)

    def _walk(self, end: float) -> None:
        """Look at the stars of some jobs, from where the last walk ended."""
        while time.monotonic() < end:
            jobs = self._store.below(self._walked, 50)
            self._walked = jobs[-1][0] if jobs else search.MAX_NUMBER
            if changed := [(state, job_id) for _, state, job_id, has in jobs if self._has_star(state, job_id) != has]:
                self._read(changed)
            if not jobs:
                return

    def _has_star(self, state: Ended, job_id: str) -> bool | None:
        try:
            return exists(self._spool.root / state / job_id / "starred")
        except OSError:
            return None  # reading it will say why

    def _mtime(self, state: Ended) -> int:
        try:
            return (self._spool.root / state).stat().st_mtime_ns
        except OSError:
            return 0  # listing it will say why

    # -- when it fails -----------------------------------------------------------------------------------------------------

    def _throw_away(self, why: str) -> None:
        log.warning("the index %s is made again: %s", self._store.path, why)
        self._forget_work()
        with contextlib.suppress(OSError):  # then the next turn meets it again
            self._store.discard()
            (self.folder / "damaged").unlink(missing_ok=True)

    def _set_back(self, why: str) -> None:
        """Forget what was being done. The first time it is begun again at once, after that only after a while."""
        now = time.monotonic()
        if self._mishap_at is not None and now - self._mishap_at < TROUBLE_S:
            self._not_before = now + TROUBLE_S
        if self._trouble != why:
            log.warning("the index %s cannot be brought up to date: %s", self._store.path, why)
        self._mishap_at, self._trouble = now, why
        self._forget_work()

    def _forget_work(self) -> None:
        self._listings, self._unread, self._steps = {}, {}, None
        self._store.close()

    # -- asking ------------------------------------------------------------------------------------------------------------

    def page(
        self,
        states: Sequence[Ended],
        wanted: Search | None = None,
        cursor: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> Page:
        """Jobs of these states, the newest first: from the cursor on, else from the offset.

        Raises JobError for a cursor that no page gave. Never waits for the index to be made.
        """
        asked, at = wanted or Search(), Cursor.decode(cursor) if cursor else None
        try:
            with self._store.read(QUESTION_S) as reader:
                found: list[tuple[int, Place]] = []
                skip = 0 if len(states) > 1 else offset  # of several states together it can only be told after they were sorted
                for state in states:
                    jobs = reader.jobs(state, asked, at, skip, limit + 1 + offset - skip)
                    found += [(number, self._place(state, job_id)) for number, job_id in jobs]
                folders = [reader.folders()[state] for state in states]
                if not found and not all(folder.was_listed for folder in folders):
                    return self._plain_page(states, asked, at, limit, offset, "the index is being made")
                if asked.is_empty:
                    total: int | None = sum(folder.jobs + folder.unread for folder in folders)
                else:
                    total = _sum(reader.count(state, asked) for state in states)
                page = search.page_of(found, limit, at, offset - skip, offset, total, self._note(folders, states))
        except sqlite3.Error as error:
            if store.interrupted(error):
                return Page(total=None, note="This search takes too long: give more words, or longer ones.")
            self._reader_mishap(error)
            why = f"the index is not there{f' ({self._trouble})' if self._trouble else ''}"
            page = self._plain_page(states, asked, at, limit, offset, why)
        if at and at.newer and not page.previous_cursor:
            return self.page(states, wanted, None, limit)  # the top was reached: a whole page of it
        return page

    def counts(self) -> dict[Ended, int]:
        """How many jobs ended in each state. Raises sqlite3.Error when there is no index."""
        with self._store.read(QUESTION_S) as reader:
            return {state: folder.jobs + folder.unread for state, folder in reader.folders().items()}

    def sizes(self) -> dict[Ended, int]:
        """The bytes of all files of the jobs in the index, by state. Raises sqlite3.Error when there is no index."""
        with self._store.read(QUESTION_S) as reader:
            return {state: folder.bytes for state, folder in reader.folders().items()}

    def values(self, state: Ended, field: Literal["owner", "model"], most: int = 200) -> list[str]:
        """The owners, or the models, of the jobs of that state; none while there is no index."""
        with contextlib.suppress(sqlite3.Error), self._store.read(QUESTION_S) as reader:
            return [value for value in reader.values(state, field, most) if value]
        return []

    def beside(self, state: Ended, job_id: str) -> tuple[str | None, str | None]:
        """The ids of the next newer and the next older job of that state, as far as the index knows."""
        with contextlib.suppress(sqlite3.Error), self._store.read(QUESTION_S) as reader:
            return reader.beside(state, job_id)
        return None, None

    def since(self, moment_ms: int, most: int) -> list[store.Outcome]:
        """The jobs that ended since then, the newest first, at most so many; none while there is no index."""
        with contextlib.suppress(sqlite3.Error), self._store.read(QUESTION_S) as reader:
            return reader.since(moment_ms, most)
        return []

    def find_batch(self, batch: str) -> list[Place]:
        """The finished jobs of a batch, by id. Raises sqlite3.Error when there is no index."""
        with self._store.read(QUESTION_S) as reader:
            return [self._place(state, job_id) for state, job_id in reader.batch(batch)]

    def odd(self, limit: int = 100) -> list[tuple[Place, str]]:
        """Folders among the finished jobs that cannot be read, and why. Raises sqlite3.Error when there is no index."""
        with self._store.read(QUESTION_S) as reader:
            return [(self._place(state, job_id), why) for state, job_id, why in reader.odd(limit)]

    def _place(self, state: Ended, job_id: str) -> Place:
        return Place(job_id, state, self._spool.root / state / job_id)

    def _note(self, folders: Sequence[store.Folder], states: Sequence[Ended]) -> str | None:
        if why := next((self._troubles[state] for state in states if state in self._troubles), self._trouble):
            return f"The newest jobs may be missing: the index cannot be brought up to date ({why})."
        known, unread = sum(folder.jobs for folder in folders), sum(folder.unread for folder in folders)
        if unread:
            return f"The index is being made: {known:,} of {known + unread:,} jobs are in it, the newest first."
        return None

    def _reader_mishap(self, error: sqlite3.Error) -> None:
        if store.bad(error):
            log.warning("the index %s cannot be used: %s", self._store.path, error)
            with contextlib.suppress(OSError):
                (self.folder / "damaged").touch()

    def _plain_page(self, states: Sequence[Ended], asked: Search, at: Cursor | None, limit: int, offset: int, why: str) -> Page:
        """A page from the folders themselves, of which a bounded part is looked at."""
        if not asked.is_empty:
            return Page(total=None, note=f"There is no searching just now: {why}.")
        found: list[tuple[int, Place]] = []
        whole = True
        for state in states:
            folder = self._spool.root / state
            with os.scandir(folder) as entries:
                names = [entry.name for entry in islice(entries, MAX_PLAIN) if may_be_a_job(entry)]
                whole = whole and next(entries, None) is None
            for job_id, modified_ns in modified(folder, names):
                found.append((search.number(modified_ns // 1_000_000, job_id), self._place(state, job_id)))
        total = len(found) if whole else None
        note = None if whole else f"These are the newest of some {len(found):,} jobs only: {why}."
        if at:
            found = [pair for pair in found if (pair[0] > at.number if at.newer else pair[0] < at.number)]
        return search.page_of(found, limit, at, offset, offset, total, note)


def _sum(numbers: Iterable[int | None]) -> int | None:
    known = list(numbers)
    return None if None in known else sum(each for each in known if each is not None)


def _pieces(names: Sequence[str], length: int) -> Iterator[Sequence[str]]:
    return (names[start : start + length] for start in range(0, len(names), length))
