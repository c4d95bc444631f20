"""A try that was sent to the workers, and what is to be made of what Redis has of it.

What was sent is compared every second with what Redis has: heartbeats, the key of each try, and results.

| what is seen of a try                             | what is done                                                           |
|---------------------------------------------------|------------------------------------------------------------------------|
| its result                                        | pictures fetched, checked, written whole; told as an engine would      |
| nobody has begun it, and its queue has no hearer, | sent again, into the queue of all: who takes it is decided by the key, |
|   or a worker with room does not take it          |   so a second message of it is drawn by nobody                         |
| nobody has begun it, and its key is gone          | sent again under another name: Redis has forgotten it                  |
| a worker has it, its key is gone                  | the key is made anew                                                   |
| it was begun, and its worker is gone              | Lost, and blamed on the job, which may be what ended the worker        |
| it was begun, and its worker tells that it has it | Lost on the way: no fault of the job's                                 |
|   no longer                                       |                                                                        |
| it was begun, and its worker tells nothing new    | nothing yet: one of the two above is to come                           |
| a result of another try                           | nothing: its name is not known here (P2)                               |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal

from spooler import messages
from spooler.remote import broker as redises
from spooler.remote.crew import UNSEEN_S, Crew
from spooler.remote.wire import Name

#: Seconds that a worker with room may leave a task where it is: its message is then in nobody's hands.
STRANDED_S = 20.0


@dataclass(eq=False)
class Sent:
    """A try that was given to be sent and has not ended."""

    run: messages.Run
    name: Name
    queue: str = ""
    #: outgoing: on its way to Redis · waiting: for a worker · taken: a worker has it · ending: its result is being fetched
    state: Literal["outgoing", "waiting", "taken", "ending"] = "outgoing"
    worker: str = ""
    cancelling: bool = False
    preview: str | None = None  # the newest that is not shown yet
    ahead: set[int] = field(default_factory=set)  # numbers of the pictures that were told of before the end
    wrong: str = ""  # what is seen of it that is not as it should be
    since: float = 0.0  # ... and since when, in monotonic seconds

    @property
    def id(self) -> str:
        return str(self.name)

    def wrong_for(self, what: str, now: float) -> float:
        """Seconds for which that has been wrong with it, as it is seen to be once more. What was wrong before does not count:
        one that long lay about, and was taken just now, is not one that its worker has not told of for as long."""
        if what != self.wrong:
            self.wrong, self.since = what, now
        return now - self.since

    def is_well(self) -> None:
        """All that is seen of it is as it should be, or may be."""
        self.wrong = ""


class Verdict(Enum):
    """What is to be done about a try."""

    NOTHING = auto()
    FETCH = auto()  # its result is there
    CANCEL = auto()  # somebody may have begun it
    KEY_ANEW = auto()  # its worker has it, and Redis has forgotten so
    FOR_ALL = auto()  # no worker that listens to its queue takes it
    ANEW = auto()  # Redis has forgotten it
    CANCELLED = auto()  # nobody has it
    ABANDONED = auto()  # its worker is gone
    MISLAID = auto()  # its worker lives and has it no longer, and nothing came of it


def judge(sent: Sent, key: str | None, result: bool, crew: Crew, now: float) -> Verdict:
    """What to do about a try of which Redis has this key, and a result or none. Notes in `sent` what is seen of it.

    `now`: monotonic seconds, from before Redis was asked.
    """
    if result:
        return Verdict.FETCH
    is_ours = bool(key and key.startswith(f"{sent.id}|"))
    state, _, worker = (key or "").removeprefix(f"{sent.id}|").partition("|") if is_ours else ("", "", "")
    holder = crew.holder(sent.id)
    if sent.cancelling and is_ours and state != "cancel":
        return Verdict.CANCEL
    if is_ours and state == "waiting" and not holder:
        return _judge_waiting(sent, crew, now)
    if holder:
        sent.state, sent.worker = "taken", holder
        sent.is_well()
        return Verdict.NOTHING if key else Verdict.KEY_ANEW
    if key is None and sent.state == "waiting":
        if sent.wrong_for("forgotten", now) <= UNSEEN_S:
            return Verdict.NOTHING
        return Verdict.CANCELLED if sent.cancelling else Verdict.ANEW
    sent.state, sent.worker = "taken", worker or sent.worker
    if sent.wrong_for("unaccounted for", now) <= UNSEEN_S:
        return Verdict.NOTHING
    if sent.cancelling:
        return Verdict.CANCELLED
    if sent.worker not in crew.beats:
        # Without its key Redis has lost more than the worker: who knows what became of either.
        return Verdict.ABANDONED if is_ours else Verdict.MISLAID
    return Verdict.MISLAID if crew.has_beaten_since(sent.worker, sent.since) else Verdict.NOTHING


def _judge_waiting(sent: Sent, crew: Crew, now: float) -> Verdict:
    """Nobody has begun it: see to it that somebody may."""
    if sent.queue != redises.COMMON and sent.queue not in crew.queues() and crew.able:
        sent.is_well()
        return Verdict.FOR_ALL
    if not any(beat.free for beat in crew.able):
        sent.is_well()
    elif sent.wrong_for("left lying", now) >= STRANDED_S:
        sent.is_well()
        return Verdict.FOR_ALL
    return Verdict.NOTHING
