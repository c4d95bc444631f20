"""What waits in pending/, kept in memory: names that a hint brought are looked at, the rest only when it may have changed.

Three looks, each cheaper than the next: the names that events told of; a listing of names, when the folder's own time changed;
and, slowly and in slices, every entry again, for what no event and no listing tells. A call of `refresh` does as much of this
as it is given time for, so that a hundred thousand files never hold up the next claim.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from spooler import durable, gate, pictures, schedule
from spooler.catalogue import Sizes
from spooler.dropped import (
    OVERRIDES,
    UNSEEN,
    Found,
    Side,
    Signature,
    Source,
    Suspect,
    has_writer,
    is_dir,
    is_nobodys,
    kind_of,
    owner_of,
    side_of,
    signature_of,
    signature_of_source,
)
from spooler.ids import clean_id
from spooler.job import Job
from spooler.mistakes import IncompleteError, JobError, Mistake
from spooler.moments import seconds
from spooler.place import Place
from spooler.reader import PRIORITY, Reader
from spooler.schedule import Waiting

#: A listing may take this part of the time, so that a deep folder is listed less often.
LISTING_SHARE = 0.05
#: Seconds of one turn that may go into looking again at what is known: what just came must not wait for it.
VERIFY_S = 0.01
#: A folder's time has some grain: what comes within it after a listing is found by one more.
GRAIN_S = 0.05
#: Seconds between two listings where the folder's own time is not to be believed.
POLLED_S = 0.2
#: How many ids that left without our doing are remembered, so that a job that was held or edited keeps its place.
REMEMBERED = 10_000
#: Names of what is left lying in the folder that are kept, to be told.
LYING = 20


@dataclass(frozen=True, slots=True)
class Judged:
    """What a look at a job's content adds: whether this spooler can run it, how much work it is (megapixel-steps), and the key
    of the jobs that it may be drawn with (company.py)."""

    mine: bool = True
    work: float = 1.0
    key: str = ""


class _UnfinishedError(Exception):
    """A look at a job ended before it was known what it is: met by nobody else, the next look goes on."""


class Pending:
    """The index of pending/. Not thread-safe."""

    def __init__(
        self,
        spool: Reader,
        judge: Callable[[Job, Sizes], Judged] = lambda job, sizes: Judged(),
        decode: bool = True,
        owner_cap: int = 0,
        polling: Callable[[], bool] = lambda: False,
    ):
        """`judge` looks at each new job, again when its pictures' sizes are known, and raises JobError for one that is to be
        refused; `decode`: whether the pictures of jobs are looked at too, which takes its time; `polling`: whether the folder's
        own time is not to be believed."""
        self._spool = spool
        self._judge = judge
        self._decode = decode
        self._polling = polling
        self._lying: dict[str, float] = {}  # name -> since when, monotonic seconds
        self._known: dict[str, tuple[Signature, Found]] = {}
        self.queue = schedule.Queue(owner_cap)  # what may run now, as far as the folder tells
        self.gated: dict[str, Waiting] = {}  # what has a condition, and was not let through yet
        self._odd: dict[str, Suspect | Source] = {}
        self._sides: dict[str, Side] = {}
        self._by_id: dict[str, str] = {}  # id -> name, of those whose name is not plainly <id>.json
        self._sized: dict[str, dict[Signature, tuple[int, int]]] = {}  # by name, the pictures of a job that are decoded so far
        self._hints: dict[str, bool | None] = {}  # name -> whether it arrived whole, was written since, or neither is known
        self._opened: dict[
            str, tuple[Signature, float]
        ] = {}  # jobs that seem whole, but somebody has open to write; since when
        self._backlog: deque[str] = deque()  # new names of the last listing
        self._verify: deque[str] = deque()  # names to be looked at again
        self._arrivals = 0
        self._left: OrderedDict[str, int] = OrderedDict()  # id -> arrival
        self._folder: tuple[int, int] | None = None  # inode and time of pending/ at the last listing
        self._confirm_at = float("inf")
        self._listed = self._next_listing = self._next_verify = float("-inf")
        self._verify_s = 0.0

    # -- what there is -------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many jobs wait."""
        return len(self.queue) + len(self.gated)

    @property
    def complete(self) -> bool:
        """Whether every name of the last listing has been looked at."""
        return self._folder is not None and not self._backlog

    @property
    def waiting(self) -> list[Waiting]:
        return [*self.queue, *self.gated.values()]

    @property
    def suspects(self) -> list[Suspect]:
        return [each for each in self._odd.values() if isinstance(each, Suspect)]

    @property
    def sources(self) -> list[Source]:
        return [each for each in self._odd.values() if isinstance(each, Source)]

    def lying(self, now: float, for_s: float) -> tuple[str, ...]:
        """Names of entries that nobody will take and that have lain there so long; the first few of them."""
        return tuple(name for name, since in self._lying.items() if now - since >= for_s)

    def place(self, waiting: Waiting) -> Place:
        return Place(waiting.id, "pending", self._spool.pending / waiting.name, is_folder=waiting.is_folder)

    def get(self, job_id: str) -> Waiting | None:
        """The waiting job of that id, as far as the index knows."""
        for name in (f"{job_id}.json", job_id, self._by_id.get(job_id, "")):
            if name in self._known and isinstance(found := self._known[name][1], Waiting):
                return found
        return None

    # -- keeping up ----------------------------------------------------------------------------------------------------------

    def hint(self, name: str, whole: bool | None = None) -> None:
        """An entry of that name came or changed. `whole`: by a rename; False: it was written to since, or left."""
        self._hints[name] = self._hints.get(name) if whole is None else whole

    def came(self, place: Place, job: Job) -> None:
        """The caller has put this job there just now, so it need not be read; one that has left since is none."""
        name = place.path.name
        if name not in self._known:
            with contextlib.suppress(FileNotFoundError):
                self._put(name, signature_of(place), self._waiting(place, name, job, self._judge(job, {})))

    def distrust(self) -> None:
        """Something happened that no name tells of: list the folder, whatever its time says."""
        self._folder = None
        self._next_listing = float("-inf")

    def due(self, now: float, rescan_s: float) -> float:
        """When `refresh` has something to do, monotonic seconds."""
        if self._hints or self._backlog or self._verify:
            return now
        listing = min(self._confirm_at, self._listed + POLLED_S) if self._polling() else self._confirm_at
        return min(self._next_verify, now + rescan_s, max(listing, self._next_listing))

    def refresh(self, now: float, budget_s: float = float("inf"), rescan_s: float = 0.0) -> bool:
        """Bring the index nearer to the folder; returns whether it is there. `now` is monotonic seconds.

        `budget_s` bounds the work in seconds, `rescan_s` is the time between two looks at every single entry.
        """
        end = time.perf_counter() + budget_s
        self._look_at_hints(now, end)
        self._list_if_changed(now, rescan_s)
        while self._backlog and time.perf_counter() < end:
            self._look(self._backlog.popleft(), now)
        self._look_at_hints(now, end)  # those of which a look did not come to its end
        self._verify_some(now, end, rescan_s)
        return not self._backlog

    def _look_at_hints(self, now: float, end: float) -> None:
        while self._hints and time.perf_counter() < end:
            name = next(iter(self._hints))
            self._look(name, now, self._hints.pop(name), hinted=True)

    def _verify_some(self, now: float, end: float, rescan_s: float) -> None:
        """Look at every entry again, a slice at a time, and then rest so long that it takes little of all the time."""
        if not self._backlog and not self._verify and now >= self._next_verify:
            self._verify.extend(self._known)
            self._verify_s = 0.0
            self._next_verify = now + rescan_s
        if not self._verify:
            return
        started = time.perf_counter()
        end = min(end, started + VERIFY_S)
        while self._verify and time.perf_counter() < end:
            self._look(self._verify.popleft(), now)
        self._verify_s += time.perf_counter() - started
        self._next_verify = max(self._next_verify, now + self._verify_s / LISTING_SHARE)

    def look_again(self, now: float) -> None:
        """Look at what is no job yet: it may have become one. The time of one that is open begins when it is closed."""
        for name, found in list(self._odd.items()):
            self._look(name, now)
            if self._odd.get(name) is found and has_writer(found.path):
                self.patient(found, now)

    def forget(self, name: str) -> None:
        """Drop one that was claimed or set aside, without waiting until a look notices."""
        self._opened.pop(name, None)
        self._sized.pop(name, None)
        if name in self._known:
            self._drop(name)

    def confirm(self, found: Suspect, now: float) -> bool:
        """Look once more, before a verdict: whether it is still as it was. What a mapping wrote changes no time of the file."""
        self._look(found.path.name, now, hinted=True)
        known = self._known.get(found.path.name)
        return known is not None and known[1] == found

    def is_same(self, name: str) -> bool:
        """Whether the entry is, as far as can be seen from outside, the one of the last look: asked at the very move."""
        known = self._known.get(name)
        path = self._spool.pending / name
        try:
            if known is None:
                return False
            if isinstance(known[1], Source):
                return signature_of_source(path) == known[0]
            if isinstance(known[1], Suspect) and known[0] == UNSEEN:
                return True
            return signature_of(Place(clean_id(name), "pending", path, is_folder=path.suffix != ".json")) == known[0]
        except OSError:
            return False

    def may_be_claimed(self, waiting: Waiting, now: float, grace_s: float) -> bool:
        """Whether the job is still what was looked at, and nobody is writing to it; else it is looked at anew.

        One that somebody keeps open to write is let through when it has not changed for `grace_s` seconds.
        """
        name = waiting.name
        path = self._spool.pending / name
        if not self.is_same(name):
            self._known[name] = (UNSEEN, waiting)
            self.queue.remove(name)
            self._hints.setdefault(name, None)
            return False
        if not has_writer(path):
            self._opened.pop(name, None)
            return True
        signature = self._known[name][0]
        since = self._opened[name][1] if name in self._opened and self._opened[name][0] == signature else now
        self._opened[name] = (signature, since)
        if now - since >= grace_s:
            return True
        self._put(name, UNSEEN, Suspect(path, "A job must be whole, but a program has this one open to write.", False, now))
        return False

    def patient(self, suspect: Suspect | Source, now: float) -> None:
        """Let one that has not changed have its time once more: somebody has it open to write, and it runs from the close."""
        signature = self._known[suspect.path.name][0]
        self._put(suspect.path.name, signature, replace(suspect, since=now))

    def put_back(self, waiting: Waiting) -> None:
        """One that was chosen could not be claimed: it is in the line again, unless it waits for its condition as before, or
        was looked at anew since."""
        known = self._known.get(waiting.name)
        if known and known[1] is waiting and waiting.name not in self.gated and waiting.name not in self.queue:
            self.queue.put_back(waiting)

    def let_through(self, waiting: Waiting) -> None:
        """Its condition is met: it may run."""
        if self.gated.pop(waiting.name, None):
            self.queue.add(waiting)

    def _list_if_changed(self, now: float, rescan_s: float) -> None:
        if now < self._next_listing:
            return
        info = self._spool.pending.stat()
        changed = self._folder != (info.st_ino, info.st_mtime_ns)
        if not (changed or self._polling() or now >= min(self._confirm_at, self._next_verify)):
            return
        started = time.perf_counter()
        self._list(now)
        self._folder = (info.st_ino, info.st_mtime_ns)  # as it was before: what came meanwhile is found by the next one
        self._confirm_at = now + GRAIN_S if changed else float("inf")
        self._listed = now
        self._next_listing = now + (time.perf_counter() - started) / LISTING_SHARE

    def _list(self, now: float) -> None:
        """Compare the names in the folder with those that are known."""
        there: set[str] = set()
        new: list[tuple[int, str]] = []
        lying: dict[str, float] = {}
        overrides: list[str] = []
        with os.scandir(self._spool.pending) as entries:
            for entry in entries:
                there.add(entry.name)
                if entry.name in self._known:
                    continue
                if kind_of(entry.name, partial(is_dir, entry)):
                    try:
                        new.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
                    except OSError:  # gone, or not to be looked at: the look itself will say which
                        new.append((0, entry.name))
                elif entry.name.endswith(OVERRIDES):
                    overrides.append(entry.name)
                elif len(lying) < LYING and is_nobodys(entry.name, partial(is_dir, entry)):
                    lying[entry.name] = self._lying.get(entry.name, now)
        for name in overrides:
            if len(lying) < LYING and name.removesuffix(OVERRIDES) not in there:
                lying[name] = self._lying.get(name, now)
        self._lying = lying
        for name in [name for name in self._known if name not in there]:
            self._look(name, now)  # a listing may miss what is renamed meanwhile (C7): ask for the name itself
        waiting = set(self._backlog)
        self._backlog.extend(name for _, name in sorted(new) if name not in waiting)

    # -- one entry -----------------------------------------------------------------------------------------------------------

    def _look(self, name: str, now: float, whole: bool | None = None, hinted: bool = False) -> None:
        """Look at one entry. `whole` as in `hint`; `hinted`: what is no job yet is read again, whatever its time says."""
        if name.endswith(OVERRIDES):  # they belong to another, which is to be looked at
            name, whole = name.removesuffix(OVERRIDES), None
        path = self._spool.pending / name
        known = self._known.get(name)
        kind = kind_of(name, lambda: path.is_dir() and not path.is_symlink())
        if kind is None:
            if known:  # a folder is told by being one, so one that is gone is none any more
                self._leave(name, known[1])
            return
        since = known[1].since if known and isinstance(known[1], Suspect | Source | Side) else now
        try:
            if kind == "job":
                signature, found = self._look_at_job(name, path, known, now, hinted)
                if whole is False and isinstance(found, Suspect):
                    found = replace(found, since=now)
            elif kind == "source":
                signature = signature_of_source(path)
                if known and known[0] == signature and whole is None:
                    return
                # A new name of a file that has another one too: it was linked here, as whole as by a rename.
                linked = whole is None and not known and path.lstat().st_nlink > 1
                found = Source(path, now, bool(whole) or linked)
            else:
                info = path.lstat()
                signature = (info.st_ino, info.st_size, info.st_mtime_ns)
                if known and known[0] == signature:
                    return
                found = side_of(path, info, now)
        except FileNotFoundError:  # RACE: taken away since the listing
            if known:
                self._leave(name, known[1])
            return
        except OSError as error:  # one that cannot be looked at must not hide the others
            reason = f"A job must be readable, but: {error.strerror or error}."
            signature, found = UNSEEN, Suspect(path, reason, final=False, since=since)
        if not known or known[1] is not found:
            self._put(name, signature, found)

    def _look_at_job(
        self, name: str, path: Path, known: tuple[Signature, Found] | None, now: float, hinted: bool = False
    ) -> tuple[Signature, Found]:
        is_folder = path.suffix != ".json"
        place = Place(clean_id(name), "pending", path, is_folder=is_folder)
        signature, looked = signature_of(place), now
        if known and known[0] == signature:
            if isinstance(known[1], Suspect):
                if not hinted:
                    return known
                now = known[1].since  # it is read again, but it has not changed since then
            elif not (isinstance(known[1], Waiting) and not known[1].mine):
                return known
        found: Found
        try:
            job = self._spool.read_job(place)
            judged = self._judge(job, {})
            if sizes := self._sizes(place, job):
                judged = self._judge(job, sizes)
            found = self._waiting(place, name, job, judged)
        except _UnfinishedError:
            # Its time has not begun, and the next picture's turn comes at the next hint, which is this.
            found = Suspect(path, "Its pictures are being looked at.", final=False, since=looked)
            self._hints.setdefault(name, None)
        except pictures.InputError as error:
            # Perhaps still on its way: a copy of a folder brings the files one by one.
            found = Suspect(path, str(error), final=not is_folder, since=now)
        except IncompleteError as error:
            found = Suspect(path, str(error), final=False, since=now)
        except (JobError, durable.UnreadableError) as error:
            found = Suspect(path, _lines(error), final=True, since=now)
        except FileNotFoundError:
            # RACE: or it was taken away, whatever it was: it is gone at the next look.
            found = Suspect(path, f"A folder in pending/ must have a job.json, but {name!a} has none.", False, now)
        return signature, found

    def _waiting(self, place: Place, name: str, job: Job, judged: Judged) -> Waiting:
        """The light entry of a job."""
        known = self._known.get(name)
        if known and isinstance(known[1], Waiting):
            arrival = known[1].arrival
        elif not (arrival := self._left.pop(place.id, 0)):
            self._arrivals += 1
            arrival = self._arrivals
        side = self._sides.get(place.id)
        return Waiting(
            name=name,
            is_folder=place.is_folder,
            arrival=arrival,
            owner=job.owner or owner_of(place.job_file.lstat().st_uid),
            priority=job.priority if side is None or side.priority is None else side.priority,
            model=job.model,
            top=side.top if side else 0,
            work=judged.work,
            not_before=seconds(job.not_before) if job.not_before else None,
            expires_at=seconds(job.expires_at) if job.expires_at else None,
            after=tuple(job.after),
            mine=judged.mine,
            key=judged.key,
        )

    def _sizes(self, place: Place, job: Job) -> Sizes:
        """Those of the job's pictures, where they are looked at. InputError when one is not there, or not whole."""
        if job.inputs and not place.is_folder:
            names = ", ".join(job.inputs)
            rule = f"A job with pictures must be a folder in pending/ with job.json and {names} in it"
            raise pictures.InputError(f"{rule}, but this is a file.")
        if place.is_folder and (odd := self._spool.odd_entry(place, job.inputs)):
            raise pictures.InputError(odd)
        return self._decoded(place, job.inputs) if self._decode else {}

    def _decoded(self, place: Place, names: Sequence[str]) -> dict[str, tuple[int, int]]:
        """The sizes of these pictures, each decoded to its end. A large one takes a second: so a look decodes one that no look
        has decoded yet, and raises _UnfinishedError when there are more."""
        entry, fresh = place.path.name, 0
        before, sizes = self._sized.get(entry, {}), {}
        kept: dict[Signature, tuple[int, int]] = {}
        for name in names:
            path = self._spool.input_file(place, name)
            try:
                info = path.lstat()
                signature = (info.st_ino, info.st_size, info.st_mtime_ns)
                if signature in before:
                    kept[signature] = before[signature]
                elif fresh:
                    self._sized[entry] = before | kept
                    raise _UnfinishedError
                else:
                    fresh += 1
                    kept[signature] = pictures.check(path)
            except FileNotFoundError:
                raise pictures.InputError(f"`{name}` must lie beside job.json, but is not there.") from None
            except pictures.InputError:
                self._sized[entry] = kept
                raise
            sizes[name] = kept[signature]
        self._sized.pop(entry, None)
        return sizes

    # -- the books ---------------------------------------------------------------------------------------------------------

    def _put(self, name: str, signature: Signature, found: Found) -> None:
        self._drop(name)
        self._known[name] = (signature, found)
        match found:
            case Waiting():
                if name not in (f"{found.id}.json", found.id):
                    self._by_id[found.id] = name
                if gate.is_conditional(found) or not found.mine:
                    self.gated[name] = found
                else:
                    self.queue.add(found)
            case Side():
                self._sides[found.job_id] = found
                self._rank_anew(found.job_id)
            case _:
                self._odd[name] = found

    def _leave(self, name: str, found: Found) -> None:
        """Drop one that was taken away, and remember its turn: it may come back."""
        self._sized.pop(name, None)
        self._left[clean_id(name)] = found.arrival if isinstance(found, Waiting) else 0
        while len(self._left) > REMEMBERED:
            self._left.popitem(last=False)
        self._drop(name)

    def _drop(self, name: str) -> None:
        known = self._known.pop(name, None)
        if known is None:
            return
        self.queue.remove(name)
        self.gated.pop(name, None)
        self._odd.pop(name, None)
        if isinstance(known[1], Side):
            self._sides.pop(known[1].job_id, None)
            self._rank_anew(known[1].job_id)
        elif self._by_id.get(clean_id(name)) == name:
            del self._by_id[clean_id(name)]

    def _rank_anew(self, job_id: str) -> None:
        """A side file came or went: read the job again, for its own priority is not kept."""
        if waiting := self.get(job_id):
            self._known[waiting.name] = (UNSEEN, waiting)
            self._hints.setdefault(waiting.name, None)

    def orphans(self, now: float, grace_s: float) -> Iterable[str]:
        """Names of side files whose job is not here, for longer than `grace_s` seconds."""
        return [f"{s.job_id}{PRIORITY}" for s in self._sides.values() if now - s.since > grace_s and not self.get(s.job_id)]


def _lines(error: JobError | durable.UnreadableError) -> str:
    mistakes = error.mistakes if isinstance(error, JobError) else (Mistake("", str(error)),)
    return "\n".join(str(mistake) for mistake in mistakes)
