"""What is recorded for the power-cut proof: each operation of operations.py, and longer ones, which say themselves what they
have acknowledged, and when.

A script is told the ledger of its stage and says a new one each time that it has acknowledged something: to a submitter, to the
engine, or to a reader.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spooler import durable, edit, moves
from spooler.job import decode, encode
from spooler.life import Life
from spooler.record import Record, Timings
from spooler.spool import Place, Spool
from tests.prove import fire, operations, scenes, stages
from tests.prove.operations import Operation
from tests.prove.promises import Entry, Ledger
from tests.prove.restart import FACTS, draw, restart
from tests.prove.stages import CAT, DEAD, DOG, INPUTS, ME, REST, WITH_INPUTS, begun, having, new
from tests.prove.turns import in_turns

Say = Callable[[Ledger], None]


@dataclass(frozen=True)
class Script:
    name: str
    stage: Callable[[Spool], Ledger]
    act: Callable[[Spool, Ledger, Say], None]
    lives: tuple[str, ...] = ()
    one_of: tuple[bytes, ...] = ()  #: a job is there with the one of these bytes or the other: it is being edited

    def ready(self, spool: Spool) -> ExitStack:
        stack = ExitStack()
        for name in self.lives:
            stack.enter_context(spool.life_lock(name).acquire(timeout=5))
        return stack


def of_operation(operation: Operation) -> Script:
    def act(spool: Spool, ledger: Ledger, say: Say) -> None:
        try:
            value = operation.deed(spool)
        except Exception as error:
            if type(error).__name__ != operation.answer:
                raise
        else:
            say(operation.acknowledged(ledger, value))

    return Script(operation.name, operation.stage, act, operation.lives)


# -- longer ones -------------------------------------------------------------------------------------------------------------


class Run:
    """The way of jobs through one spooler, step by step, with the ledger kept."""

    def __init__(self, spool: Spool, ledger: Ledger, say: Say):
        self.spool = spool
        self.ledger = ledger
        self._say = say

    def said(self, job_id: str, **changes: Any) -> None:
        self.ledger = self.ledger.but(job_id, **changes)
        self._say(self.ledger)

    def submit(self, name: str, wanted: str | None = None) -> str:
        """Submit the bytes of the entry of that name."""
        entry = self.ledger.entry(name)
        job_id = self.spool.submit(entry.raw, wanted, entry.inputs or None)
        self.said(name, id=job_id, given=True, keeps_id=True)
        return job_id

    def claim(self, job_id: str) -> Place:
        place = self.spool.claim(self._waiting(job_id), ME)
        assert place
        return place

    def _waiting(self, job_id: str) -> str:
        place = self.spool.find(job_id)
        assert place
        return place.path.name

    def begin(self, place: Place) -> Record:
        """Store the attempt, and tell the engine."""
        spool = self.spool
        record = spool.read_record(place) or Record(id=place.id, queued=spool.queued_at(place))
        record = record.claimed_by(ME, place.id, "").end_attempt("worker-died: the engine died")
        job = spool.read_job(place)
        spool.gather_inputs(place, job.inputs)
        record = record.begin_attempt(job, FACTS)
        spool.prepare(place, record)
        # From now on it may fail, should this be the last attempt that it has.
        self.said(place.id, heard=len(record.attempts))
        return record

    def finish(self, place: Place, record: Record, pictures: int = 2) -> None:
        images = tuple(draw(place.path, record.attempts[-1].number, pictures))
        shown = self.spool.publish(place, record.finish(images, Timings(), FACTS), "done")
        assert shown
        self.said(place.id, state="done", ends=frozenset({"done"}), given=True, keeps_id=True)

    def fail(self, place: Place, record: Record, state: str = "failed") -> None:
        # Until it is shown there, a cut makes that it is run again.
        self.ledger = self.ledger.but(place.id, ends=self.ledger.entry(place.id).ends | {state})
        self._say(self.ledger)
        assert self.spool.publish(place, record.fail(state, f"It {state}."), state)  # type: ignore[arg-type]
        self.said(place.id, state=state, ends=frozenset({state}))

    def run(self, job_id: str) -> None:
        place = self.claim(job_id)
        self.finish(place, self.begin(place))


def _ungiven(*jobs: tuple[str, bytes]) -> Callable[[Spool], Ledger]:
    def stage(spool: Spool) -> Ledger:
        entries = (
            Entry(name, raw, inputs=INPUTS if raw == WITH_INPUTS else {}, given=False, keeps_id=False) for name, raw in jobs
        )
        return having(new(spool), *entries)

    return stage


def _nothing(spool: Spool) -> Ledger:
    """Not even the folders of a spool."""
    spool.root.mkdir(parents=True)
    return Ledger(
        (Entry("cat", CAT, given=False, keeps_id=False), Entry("dog", WITH_INPUTS, inputs=INPUTS, given=False, keeps_id=False))
    )


def _first_start(spool: Spool, ledger: Ledger, say: Say) -> None:
    """The folders are made, a spooler begins its first life, and the first jobs come and are run."""
    run = Run(spool, ledger, say)
    spool.create()
    life = Life.begin(spool, ME)
    try:
        for name in ("cat", "dog"):
            run.run(run.submit(name))
    finally:
        life.end()


def _whole_lives(spool: Spool, ledger: Ledger, say: Say) -> None:
    run = Run(spool, ledger, say)
    cat, dog, fox = run.submit("cat"), run.submit("dog"), run.submit("fox", "the-fox")
    run.run(dog)
    place = run.claim(cat)
    run.begin(place)
    list(draw(place.path, 1, 3))  # the engine died here
    run.finish(place, run.begin(place))
    run.run(fox)


def _there_and_back(spool: Spool, ledger: Ledger, say: Say) -> None:
    """Failed, sent back, cancelled while it waits, sent back, held, released, failed, sent back, run."""
    run = Run(spool, ledger, say)
    cat = run.submit("cat", "cat")

    def back() -> None:
        run.said(cat, state=None, ends=frozenset({"done", "failed", "cancelled"}))
        assert spool.retry(cat)
        run.said(cat, ends=REST)

    place = run.claim(cat)
    run.fail(place, run.begin(place))
    back()
    run.said(cat, ends=frozenset({"done", "cancelled"}))
    assert spool.cancel(cat)
    run.said(cat, state="cancelled", ends=frozenset({"cancelled"}))
    back()
    run.said(cat, ends=frozenset({"done", "held"}))
    spool.hold(cat)
    run.said(cat, ends=frozenset({"held"}))
    run.said(cat, ends=frozenset({"done", "held"}))
    spool.release(cat)
    run.said(cat, ends=REST)
    place = run.claim(cat)
    run.fail(place, run.begin(place))
    back()
    run.run(cat)


def _changed_minds(spool: Spool, ledger: Ledger, say: Say) -> None:
    """Cancelled while it runs, cancelled while it waits, one with pictures and one without."""
    run = Run(spool, ledger, say)
    for name in ("cat", "dog", "fox"):
        job_id = run.submit(name)
        run.said(job_id, ends=frozenset({"done", "cancelled"}))
        if name == "cat":
            place = run.claim(job_id)
            record = run.begin(place)
            list(draw(place.path, 1, 1))
            assert spool.cancel(job_id)
            run.fail(place, record, "cancelled")
        else:
            assert spool.cancel(job_id)
            run.said(job_id, state="cancelled", ends=frozenset({"cancelled"}))


def _overtaken(spool: Spool, ledger: Ledger, say: Say) -> None:
    """A spooler claims, runs and publishes the job between its link and the fsync that lets the submitter be answered."""
    run = Run(spool, ledger, say)
    kept = durable.sync_folder
    pending = [True]

    def sync_folder(path: durable.StrPath) -> None:
        if Path(path) == spool.pending and pending:
            pending.clear()
            (waiting,) = (place for place in spool.places("pending") if place.id != stages.NEIGHBOUR.id)
            # The submitter was told nothing yet, but the engine and the readers of done/ are.
            run.ledger = run.ledger.but("cat", id=waiting.id)
            run.run(waiting.id)
        kept(path)

    durable.sync_folder = sync_folder
    try:
        spool.submit(ledger.entry("cat").raw)
    finally:
        durable.sync_folder = kept
    say(run.ledger.but(run.ledger.entries[-1].id, given=True, keeps_id=True))


def _taken_over(spool: Spool) -> Ledger:
    ledger = new(spool)
    entries = []
    for name, raw in (("cat", CAT), ("dog", DOG), ("fox", FOX)):
        begun(spool, stages.claimed(spool, name, raw, by=DEAD), 2)
        entries.append(Entry(name, raw, heard=1))
    return having(ledger, *entries)


def _take_over(spool: Spool, ledger: Ledger, say: Say) -> None:
    """A spooler's first life, in which it takes over what another left, and runs it."""
    run = Run(spool, ledger, say)
    life = Life.begin(spool, NEW)
    try:
        for place in spool.recover(NEW):
            run.finish(place, run.begin(place))
    finally:
        life.end()


def _restart(spool: Spool, ledger: Ledger, say: Say) -> None:
    told: list[tuple[bytes, int]] = []

    def hear(raw: bytes, number: int) -> None:
        told.append((raw, number))
        say(ledger.heard(told))

    restart(spool.root, ME, hear)


def _busy(seed: int) -> Script:
    """A submitter, a spooler and two people who change their minds, all at once. The seed says who goes on when."""
    cat, dog, fox, owl = (stages.job(f"{name} {seed}") for name in ("cat", "dog", "fox", "owl"))
    eel = stages.job(f"eel {seed}", image="start.png")

    def stage(spool: Spool) -> Ledger:
        ledger = new(spool)
        stages.given(spool, "cat", cat)
        stages.ended(spool, "owl", owl, "failed")
        entries = (
            Entry("cat", cat, frozenset({"done", "cancelled"})),
            Entry("owl", owl, frozenset({"failed", "done", "held"}), heard=1),
            Entry("dog", dog, given=False),
            Entry("eel", eel, inputs=INPUTS, given=False, keeps_id=False),
            Entry("fox", fox, frozenset({"done", "cancelled"}), given=False),
        )
        return having(ledger, *entries)

    def act(spool: Spool, ledger: Ledger, say: Say) -> None:
        # Who has the lock waits for its turn, which on a busy machine takes longer than anybody waits. The process ends soon.
        moves.CLAIM_LOCK_WAIT_S = fire.DEADLINE_S
        run = Run(spool, ledger, say)

        def submitter() -> None:
            run.submit("dog", "dog")
            run.submit("eel")
            run.submit("fox", "fox")

        def spooler() -> None:
            for _ in range(3):
                for waiting in spool.places("pending"):
                    if waiting.id != stages.NEIGHBOUR.id and (place := spool.claim(waiting.path.name, ME)):
                        entry = next(each for each in run.ledger.entries if each.raw == place.job_file.read_bytes())
                        if entry.id != place.id:  # claimed before its submitter was told of the id
                            run.ledger = run.ledger.but(entry.id, id=place.id)
                        record = run.begin(place)
                        if (place.path / "cancel").exists():
                            run.fail(place, record, "cancelled")
                        else:
                            run.finish(place, record)

        def canceller() -> None:
            for name in ("cat", "fox"):
                if (place := spool.cancel(name)) and place.state == "cancelled":
                    run.said(name, state="cancelled", ends=frozenset({"cancelled"}), given=True)

        def retrier() -> None:
            assert spool.retry("owl")
            spool.hold("owl")
            spool.release("owl")

        in_turns((submitter, spooler, canceller, retrier), seed)

    return Script(f"four at once, {seed}", stage, act, (ME,))


def _edit(state: str, folder: bool) -> Script:
    inputs = INPUTS if folder else {}
    before = stages.job("a cat", **({"image": "start.png"} if folder else {}))
    after = encode(scenes.EDIT(decode(before)))

    def stage(spool: Spool) -> Ledger:
        ledger = new(spool)
        stages.given(spool, "cat", before, inputs, state)
        # Which of the two is told by `one_of`.
        entry = Entry("cat", before, frozenset({"done" if state == "pending" else "held"}), inputs, given=False)
        return having(ledger, entry, replace(entry, raw=after))

    def act(spool: Spool, ledger: Ledger, say: Say) -> None:
        assert len(edit.apply(spool, scenes.EDIT, edit.waiting(spool, frozenset({"cat"})))) == 1
        edited = (each for each in ledger.entries if each.raw != before)
        say(Ledger(tuple(replace(each, given=True) if each.raw == after else each for each in edited)))

    return Script(f"edit, {state}{', folder' if folder else ''}", stage, act, one_of=(before, after))


FOX = stages.job("fox")
NEW = "new"


def scripts(seeds: int) -> list[Script]:
    """All of them; with so many choices of who goes on when, where several are at work."""
    table = {each.name: each for each in operations.operations()}
    edits = [_edit(state, folder) for state in ("pending", "held") for folder in (False, True)]
    for each in edits:  # they ask for more than those of the table
        del table[each.name]
    return [
        Script("restart after a crash", table.pop("restart after a crash").stage, _restart),
        Script("whole lives", _ungiven(("cat", CAT), ("dog", WITH_INPUTS), ("fox", FOX)), _whole_lives, (ME,)),
        Script("there and back", _ungiven(("cat", CAT)), _there_and_back, (ME,)),
        Script("changed minds", _ungiven(("cat", CAT), ("dog", WITH_INPUTS), ("fox", FOX)), _changed_minds, (ME,)),
        Script("claimed before it was acknowledged", _ungiven(("cat", CAT)), _overtaken, (ME,)),
        Script("the first start", _nothing, _first_start),
        Script("taking over", _taken_over, _take_over),
        Script("a dropped file of many jobs", table["take rows"].stage, _restart),
        *edits,
        *(_busy(seed) for seed in range(seeds)),
        *(of_operation(each) for each in table.values()),
    ]
