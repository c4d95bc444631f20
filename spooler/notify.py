"""Delivering notices: a thread that decides, and one for each target that waits for it.

The spooler's loop only puts letters into the outbox and calls `wake`. Here one thread reads the outbox, looks whether what a
letter tells of was published, and gives each target at most one letter at a time; a target that hangs keeps nobody but itself
waiting. All state is the deciding thread's; the others get a letter and answer with an outcome.
"""

from __future__ import annotations

import contextlib
import heapq
import http.client
import logging
import os
import secrets
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal

from spooler import notices, targets, webhook
from spooler.notices import Letter, Outbox
from spooler.place import Place
from spooler.record import Record
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.targets import Command, Target, TargetError, Webhook
from spooler.webhook import Secret

log = logging.getLogger(__name__)

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 3600.0
#: Failures in a row, of whatever kind, after which a target is left alone as a whole.
FAILURES_IN_A_ROW = 5
#: Letters that may wait for one target. What is beyond it is given up, the oldest first.
MAX_WAITING = 10_000
#: Looks for a job that a hint of the spooler brings on; later ones come by the back-off alone.
EAGER_LOOKS = 5
#: Seconds between looks into the outbox without a hint: it may have got letters of a dead spooler.
RELIST_S = 60.0
STOP_WAIT_S = 2.0
#: Answers that speak of the receiver's state, not of the notice: nothing else is sent to it for a while.
BUSY = frozenset({408, 429, 502, 503, 504})
NEVER = float("inf")
CONTROL = dict.fromkeys((*range(32), 127), "?")

_chance = secrets.SystemRandom().random


@dataclass(frozen=True)
class Outcome:
    """What came of a try to deliver."""

    kind: Literal["delivered", "failed", "refused"]  #: refused: it never wants to hear of it
    why: str = ""
    whole: bool = False  #: whether the target is out of reach, so that no other letter would fare better
    after_s: float | None = None  #: how long the target wants to be left alone


def wait_s(failures: int, chance: float) -> float:
    """Seconds to wait after so many failures: doubling from 1 s to 1 h, the upper half of it by `chance`, from 0 to 1."""
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures, 20) / 2)
    return max(FIRST_WAIT_S, longest / 2 + chance * longest / 2)


@dataclass(slots=True)
class _Waiting:
    """A letter of the outbox, as far as it is kept in memory: about half a KiB, whatever the prompt."""

    name: str
    came: int  # in which order they were seen
    at: str
    due: float
    waited_s: float
    seen: bool
    looks: int = 0
    taken: bool = False  # it was delivered; only its file is still to be removed


@dataclass
class _Round:
    """One target, and what waits for it."""

    target: Target
    work: SimpleQueue[Letter | None] = field(default_factory=SimpleQueue)
    waiting: dict[str, _Waiting] = field(default_factory=dict)
    heap: list[tuple[float, int, str]] = field(default_factory=list)  # due, came, name; with some that are out of date
    at_work: Letter | None = None
    failures: int = 0  # in a row
    not_before: float = 0.0

    def add(self, entry: _Waiting) -> None:
        self.waiting[entry.name] = entry
        heapq.heappush(self.heap, (entry.due, entry.came, entry.name))

    def next_due(self) -> float:
        """When there is something to do for it, on the monotonic clock."""
        while self.heap:
            due, _, name = self.heap[0]
            entry = self.waiting.get(name)
            if entry and entry.due == due:
                return NEVER if self.at_work else max(due, self.not_before)
            heapq.heappop(self.heap)
        return NEVER


class Notifier:
    """Delivers what is in the outbox of one spooler, in threads of its own, for as long as it is started.

    Raises TargetError when it is made with settings that cannot be. After that nothing is raised: what goes wrong is a line
    of the log and another try.
    """

    def __init__(self, settings: Settings, spool: Spool, outbox: Outbox):
        self._settings = settings
        self._spool = spool
        self._outbox = outbox
        self._rounds = {target.key: _Round(target) for target in targets.check(settings)}
        self._secret = Secret(Path(settings.webhook_secret_file))
        if any(isinstance(each.target, Webhook) for each in self._rounds.values()):
            self._secret.read()
        self._inbox: SimpleQueue[tuple[str, Outcome] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._commands: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = False
        self._came = 0
        self._next_listing = 0.0
        self._hinted = True

    @property
    def waiting(self) -> int:
        """Number of letters that wait, as far as it has seen."""
        return sum(len(each.waiting) for each in self._rounds.values())

    def start(self) -> None:
        """Begin; once in its life."""
        self._threads = [threading.Thread(target=self._decide, name="notices", daemon=True)]
        for key, each in self._rounds.items():
            self._threads.append(threading.Thread(target=self._deliver_all, args=(key, each), name=key, daemon=True))
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """There is something new in the outbox, or a job was published. Never waits."""
        if self._inbox.qsize() < 1000:  # a hint more says nothing more
            self._inbox.put(None)

    def stop(self, within_s: float = STOP_WAIT_S) -> None:
        """Let what is being sent end, for so many seconds; then a command is killed. What was not taken is sent next time."""
        self._stopping = True
        self._inbox.put(None)
        for each in self._rounds.values():
            each.work.put(None)
        if self._threads:
            self._threads[0].join(within_s + 1.0)
        for process in list(self._commands.values()):
            _kill(process)
        for thread in self._threads[1:]:
            thread.join(0.1)
        self._threads = []

    # -- deciding --------------------------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        with contextlib.suppress(OSError):
            self._outbox.tidy()
        while not self._stopping:
            try:
                due = self.turn(time.monotonic())
            except OSError as error:
                log.error("notices: the outbox cannot be used just now: %s", error)
                due = time.monotonic() + FIRST_WAIT_S
            except Exception:
                log.exception("notices: a turn went wrong")
                due = time.monotonic() + FIRST_WAIT_S
            self._receive(due)
        end = time.monotonic() + STOP_WAIT_S
        while any(each.at_work for each in self._rounds.values()) and time.monotonic() < end:
            self._receive(end)

    def _receive(self, due: float) -> None:
        """Wait for a hint or an outcome until `due`; then take all that are there."""
        try:
            event = self._inbox.get(timeout=max(0.0, due - time.monotonic()))
            while True:
                if event is None:
                    self._hinted = True
                else:
                    self._hear(*event, time.monotonic())
                event = self._inbox.get_nowait()
        except Empty:
            return
        except OSError as error:  # the file stays as it is: the letter is sent again
            log.error("notices: cannot write down what came of a delivery: %s", error)

    def turn(self, now: float) -> float:
        """Everything there is to do now, once. Returns when there is something to do again."""
        if self._hinted or now >= self._next_listing:
            self._list(now)
        for each in self._rounds.values():
            while each.next_due() <= now:
                self._look(each, each.waiting[each.heap[0][2]], now)
        return min([self._next_listing, *(each.next_due() for each in self._rounds.values())])

    def _list(self, now: float) -> None:
        """See what is in the outbox: its names are the truth, what is in memory only says when to try again."""
        hinted, self._hinted = self._hinted, False
        self._next_listing = now + RELIST_S
        there = set(self._outbox.names())
        known = {name for each in self._rounds.values() for name in each.waiting}
        strangers = []
        fresh: list[tuple[str, str, _Waiting]] = []
        for name in there - known:
            try:
                letter = self._outbox.read(name)
            except (ValueError, OSError) as error:
                log.error("notices: %a is set aside: %s", name, error)
                strangers.append(name)
                continue
            if letter is None:
                continue
            if letter.name != name or letter.target not in self._rounds:
                log.error("notices: %a is set aside: it is for no target that the settings name", name)
                strangers.append(name)
                continue
            entry = _Waiting(name, 0, letter.notice.at or "", now, letter.waited_s, letter.seen)
            fresh.append((entry.at, letter.target, entry))
        if strangers:
            self._outbox.set_aside(strangers)
        # The oldest first, as far as their words tell; it is a courtesy, and nothing depends on it.
        for _, key, entry in sorted(fresh, key=lambda each: each[0]):
            self._came += 1
            entry.came = self._came
            self._rounds[key].add(entry)
        for each in self._rounds.values():
            for name in [name for name in each.waiting if name not in there and not self._is_at_work(each, name)]:
                del each.waiting[name]
            if hinted:
                for entry in each.waiting.values():
                    if not entry.seen and 0 < entry.looks <= EAGER_LOOKS:
                        self._put_off(each, entry, now)
            if (beyond := len(each.waiting) - MAX_WAITING) > 0:
                oldest = sorted(each.waiting.values(), key=lambda entry: (entry.at, entry.came))
                names = [entry.name for entry in oldest if not self._is_at_work(each, entry.name)][:beyond]
                self._give_up(each, names, f"more than {MAX_WAITING} wait")

    def _is_at_work(self, each: _Round, name: str) -> bool:
        return each.at_work is not None and each.at_work.name == name

    def _look(self, each: _Round, entry: _Waiting, now: float) -> None:
        """A letter is due: send it, unless what it tells of never came to be, or is not to be seen yet."""
        self._put_off(each, entry, now + RELIST_S)  # whatever is raised below, it is not due again at once
        if entry.taken:
            self._outbox.forget(entry.name)
            del each.waiting[entry.name]
            return
        try:
            letter = self._outbox.read(entry.name)
        except ValueError as error:
            log.error("notices: %a is set aside: %s", entry.name, error)
            self._outbox.set_aside([entry.name])
            letter = None
        if letter is None:
            del each.waiting[entry.name]
            return
        match notices.verdict(letter, *self._where(letter)):
            case "send":
                entry.seen = True
                each.at_work = letter.model_copy(update={"seen": True})
                each.work.put(each.at_work)
            case "drop":
                log.info("notice %s: job %s did not end so, as it turned out", letter.notice.id, letter.notice.job)
                self._outbox.forget(entry.name)
                del each.waiting[entry.name]
            case "wait":
                entry.looks += 1
                self._wait_on(each, entry, letter, wait_s(entry.looks, _chance()), now, "its job was not found where it says")

    def _where(self, letter: Letter) -> tuple[Place | None, Record | None]:
        """Where the letter's job is, and its record. First where the letter says: another of the same name may wait by now."""
        if letter.seen:
            return None, None
        told = letter.notice
        place: Place | None = Place(told.job, told.state, self._spool.root / told.state / told.job)
        record = self._spool.read_record(place) if place else None
        if record is None or record.completed != told.at:
            place = self._spool.find(told.job)
            record = self._spool.read_record(place) if place else None
        return place, record

    def _hear(self, key: str, outcome: Outcome, now: float) -> None:
        """What came of the letter that a target had."""
        each = self._rounds[key]
        letter, each.at_work = each.at_work, None
        if letter is None:
            return
        entry = each.waiting.get(letter.name)
        told = f"notice {letter.notice.id} of job {letter.notice.job}"
        if outcome.kind == "delivered":
            each.failures, each.not_before = 0, 0.0
            log.info("%s: %s has it", told, each.target.name)
            if entry:
                entry.taken = True  # where its file cannot be removed just now, it is not sent again for that
                self._outbox.forget(letter.name)
                del each.waiting[letter.name]
            return
        if outcome.kind == "refused":
            self._give_up(each, [letter.name], outcome.why)
            return
        each.failures += 1
        letter = letter.model_copy(update={"tried": letter.tried + 1})
        pause_s = wait_s(letter.tried, _chance())
        if outcome.whole or each.failures >= FAILURES_IN_A_ROW or outcome.after_s is not None:
            pause_s = wait_s(each.failures, _chance())
            if outcome.after_s is not None:
                pause_s = min(LONGEST_WAIT_S, max(FIRST_WAIT_S, outcome.after_s))
            each.not_before = now + pause_s
            self._charge_others(each, letter.name, pause_s)
        log.warning("%s: %s: %s; again in %.0f s", told, each.target.name, outcome.why, pause_s)
        if entry:
            self._wait_on(each, entry, letter, pause_s, now, f"{outcome.why}, {letter.tried} tries")

    def _wait_on(self, each: _Round, entry: _Waiting, letter: Letter, pause_s: float, now: float, why: str) -> None:
        """Try a letter again after a pause, or give it up when it has had pauses enough."""
        # By what it waited here, and not by a date: a clock that jumps must not throw a notice away.
        if entry.waited_s >= self._settings.notify_give_up_s:
            self._give_up(each, [entry.name], why)
            return
        entry.waited_s += pause_s
        self._put_off(each, entry, now + pause_s)
        self._outbox.keep(letter.model_copy(update={"waited_s": entry.waited_s}))

    def _charge_others(self, each: _Round, but: str, pause_s: float) -> None:
        """A target that is left alone keeps all its letters waiting: count it to each, and give up those that had enough."""
        given_up = []
        for entry in each.waiting.values():
            if entry.name != but:
                if entry.waited_s >= self._settings.notify_give_up_s:
                    given_up.append(entry.name)
                entry.waited_s += pause_s
        if given_up:
            self._give_up(each, given_up, "it cannot be reached")

    def _put_off(self, each: _Round, entry: _Waiting, due: float) -> None:
        entry.due = due
        heapq.heappush(each.heap, (due, entry.came, entry.name))

    def _give_up(self, each: _Round, names: list[str], why: str) -> None:
        first = f"notice {names[0].partition('.')[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        log.error(
            "%s: given up, %s: %s; the last %d lie in %s", first, each.target.name, why, notices.MAX_DEAD, self._outbox.dead
        )
        for name in names:
            each.waiting.pop(name, None)
        self._outbox.set_aside(names)
        # set_aside keeps the last hundred of them; the others go for good.
        for name in names[: -notices.MAX_DEAD]:
            self._outbox.forget(name)

    # -- delivering: one thread a target ---------------------------------------------------------------------------------------

    def _deliver_all(self, key: str, each: _Round) -> None:
        while (letter := each.work.get()) is not None:
            try:
                outcome = self._deliver(each.target, letter)
            except Exception as error:
                log.exception("notices: a delivery went wrong")
                outcome = Outcome("failed", type(error).__name__)
            self._inbox.put((key, outcome))

    def _deliver(self, target: Target, letter: Letter) -> Outcome:
        match target:
            case Webhook():
                return self._post(target, letter)
            case Command():
                return self._run(target, letter)

    def _post(self, target: Webhook, letter: Letter) -> Outcome:
        notice, body = letter.notice, notices.body(letter.notice)
        try:
            secret = self._secret.read()
        except TargetError as error:
            return Outcome("failed", str(error), whole=True)
        # The time of this try: a receiver refuses one that is old, and so a notice that somebody recorded.
        fields = webhook.headers(secret, f"{time.time():.0f}", notice.event, notice.id, body)
        try:
            answer = webhook.post(target, fields, body, self._settings.notify_timeout_s)
        except (OSError, http.client.HTTPException) as error:
            return Outcome("failed", _plain(error), whole=True)
        if 200 <= answer.status < 300:
            return Outcome("delivered")
        why = f"it answered {answer.status}"
        if answer.status == http.client.GONE:
            return Outcome("refused", why)
        if 300 <= answer.status < 400:
            why += ", but redirects are not followed"
        after_s = answer.after_s if answer.status in (429, 503) else None
        return Outcome("failed", why, whole=answer.status in BUSY, after_s=after_s)

    def _run(self, target: Command, letter: Letter) -> Outcome:
        notice = letter.notice
        env = {**os.environ, "SDSPOOL_ID": notice.job, "SDSPOOL_STATE": notice.state}
        try:
            # A session of its own: what it starts can be killed with it. What it prints goes to the spooler's log.
            process = subprocess.Popen(
                target.argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env, start_new_session=True
            )
        except OSError as error:
            return Outcome("failed", f"it cannot be started: {_plain(error)}", whole=True)
        self._commands[target.key] = process
        try:
            process.communicate(notices.body(notice), self._settings.notify_timeout_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            return Outcome("failed", f"killed, it did not end within {self._settings.notify_timeout_s:g} s")
        finally:
            del self._commands[target.key]
            if process.stdin:
                with contextlib.suppress(OSError):
                    process.stdin.close()
        if process.returncode == 0:
            return Outcome("delivered")
        how = f"exit status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        return Outcome("failed", how)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a command and all that it started, unless that left its session."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _plain(error: BaseException) -> str:
    """An error in one line of plain letters: parts of it may come from the other side."""
    return f"{type(error).__name__}: {error}".encode("ascii", "backslashreplace").decode().translate(CONTROL)[:200]
