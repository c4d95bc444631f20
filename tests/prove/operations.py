"""What is put under fire: each verb of the spool, on each of the stages that it is done on.

An operation is a row of a table: the stage (a spool folder in the state before), the deed, and what was acknowledged when the
deed returned.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from spooler import durable, edit, retention
from spooler.batch_file import read_rows
from spooler.batches import Batches
from spooler.job import decode, encode
from spooler.place import Place
from spooler.record import Record
from spooler.spool import Spool
from tests.prove.promises import Entry, Ledger
from tests.prove.restart import FACTS, OWNER, restart, submit_rows
from tests.prove.stages import (
    CAT,
    DEAD,
    DOG,
    INPUTS,
    ME,
    REST,
    START,
    WITH_INPUTS,
    begun,
    claimed,
    ended,
    finished,
    given,
    having,
    job,
    new,
    write,
)

WAITING: tuple[Literal["pending", "held"], ...] = ("pending", "held")


@dataclass(frozen=True)
class Operation:
    name: str
    stage: Callable[[Spool], Ledger]
    deed: Callable[[Spool], Any]
    #: The ledger after the deed gave this value to its caller.
    acknowledged: Callable[[Ledger, Any], Ledger]
    #: What a fault-free run gives: "success", "nothing" or the name of what it raises.
    answer: str = "success"
    #: Whose life locks the process holds: it is that spooler.
    lives: tuple[str, ...] = ()

    def ready(self, spool: Spool) -> ExitStack:
        stack = ExitStack()
        for name in self.lives:
            stack.enter_context(spool.life_lock(name).acquire(timeout=5))
        return stack


# -- submit ------------------------------------------------------------------------------------------------------------------


def _to_submit(raw: bytes, inputs: Mapping[str, bytes] | None = None) -> Callable[[Spool], Ledger]:
    def stage(spool: Spool) -> Ledger:
        return having(new(spool), Entry("cat", raw, inputs=inputs or {}, given=False, keeps_id=False))

    return stage


def _submitted(ledger: Ledger, job_id: str) -> Ledger:
    return ledger.but("cat", id=job_id, given=True, keeps_id=True)


def _taken(state: str) -> Callable[[Spool], Ledger]:
    """A job cat in that state; DOG will be submitted under the same id, and must be refused."""

    def stage(spool: Spool) -> Ledger:
        ledger = new(spool)
        ends = REST
        if state in ("pending", "held"):
            given(spool, "cat", CAT, state=state)
            ends = REST if state == "pending" else frozenset({"held"})
        elif state == "claimed":
            claimed(spool, "cat", CAT, by=DEAD)
        else:
            ended(spool, "cat", CAT, state)
            ends = frozenset({state})
        return having(ledger, Entry("cat", CAT, ends))

    return stage


def _unchanged(ledger: Ledger, value: Any) -> Ledger:
    return ledger


# -- claim and run -----------------------------------------------------------------------------------------------------------


def _waiting(*, folder: bool = False, state: str = "pending") -> Callable[[Spool], Ledger]:
    def stage(spool: Spool) -> Ledger:
        ledger = new(spool)
        raw, inputs = (WITH_INPUTS, INPUTS) if folder else (CAT, {})
        given(spool, "cat", raw, inputs, state)
        return having(ledger, Entry("cat", raw, REST if state == "pending" else frozenset({"held"}), inputs))

    return stage


def _claim_dropped(spool: Spool) -> Ledger:
    """A file with a name that is no id, and a job in done/ that has the id which it would get."""
    ledger = new(spool)
    ended(spool, "my-cat", DOG, "done")
    given(spool, "my cat", CAT)
    return having(ledger, Entry("my-cat-2", CAT, keeps_id=False), Entry("my-cat", DOG, state="done"))


#: A file, a folder with pictures, and another file, in the order in which they are claimed.
THREE = ("cat.json", "fox", "dog.json")
ONE_GONE = ("cat.json", "gone.json", "fox")


def _three_waiting(spool: Spool) -> Ledger:
    ledger = new(spool)
    given(spool, "cat", CAT)
    given(spool, "fox", WITH_INPUTS, INPUTS)
    given(spool, "dog", DOG)
    (spool.claimed / ME / "dog").mkdir()  # killed between mkdir and rename
    return having(ledger, Entry("cat", CAT), Entry("fox", WITH_INPUTS, inputs=INPUTS), Entry("dog", DOG))


def _two_of_one_id(spool: Spool) -> Ledger:
    """Two files whose names make one id, of which only one can have it."""
    ledger = new(spool)
    given(spool, "my cat", CAT)
    given(spool, "my-cat", DOG)
    return having(ledger, Entry("my cat", CAT, keeps_id=False), Entry("my-cat", DOG, keeps_id=False))


def _two_held(spool: Spool) -> Ledger:
    ledger = new(spool)
    given(spool, "cat", CAT, state="held")
    given(spool, "fox", WITH_INPUTS, INPUTS, "held")
    ends = frozenset({"held"})
    return having(ledger, Entry("cat", CAT, ends), Entry("fox", WITH_INPUTS, ends, INPUTS))


def _claim_many(names: Sequence[str], state: Literal["pending", "held"] = "pending") -> Callable[[Spool], Any]:
    def deed(spool: Spool) -> list[Place | None]:
        """The places; what kept one of them from being claimed is raised when the others are."""
        answers = spool.claim_many(names, ME, state)
        for answer in answers:
            if isinstance(answer, OSError):
                raise answer
        return [answer for answer in answers if not isinstance(answer, OSError)]

    return deed


def _in_claimed(
    raw: bytes = CAT, inputs: Mapping[str, bytes] | None = None, attempts: int = 0, ends: frozenset[str] = REST
) -> Callable[[Spool], Ledger]:
    def stage(spool: Spool) -> Ledger:
        ledger = new(spool)
        place = claimed(spool, "cat", raw, inputs)
        for _ in range(attempts):
            begun(spool, place, 2)
        return having(ledger, Entry("cat", raw, ends, inputs or {}, heard=attempts))

    return stage


def _place(spool: Spool) -> Place:
    return Place("cat", "claimed", spool.claimed / ME / "cat", ME)


def _prepare(spool: Spool) -> int:
    """As the service begins an attempt. Returns its number."""
    place = _place(spool)
    record = spool.read_record(place) or Record(id="cat", queued="2026-01-01T00:00:00Z")
    record = (
        record.claimed_by(ME, "cat", "").end_attempt("worker-died: the engine died").begin_attempt(spool.read_job(place), FACTS)
    )
    spool.prepare(place, record)
    return len(record.attempts)


def _publish(state: str) -> Callable[[Spool], Place | None]:
    def deed(spool: Spool) -> Place | None:
        place = _place(spool)
        record = spool.read_record(place)
        assert record
        record = finished(record, 2) if state == "done" else record.fail(state, f"It {state}.")
        return spool.publish(place, record, state)  # type: ignore[arg-type]

    return deed


def _to_publish(state: str, in_the_way: bool = False) -> Callable[[Spool], Ledger]:
    def stage(spool: Spool) -> Ledger:
        ledger = new(spool)
        place = claimed(spool, "cat", WITH_INPUTS, INPUTS)
        begun(spool, place, 2)
        write(place.path / "progress.json", b"{}")
        write(place.path / "preview.jpg", b"\xff\xd8")
        if state == "cancelled":
            (place.path / "cancel").touch()
        entry = Entry(
            "cat", WITH_INPUTS, frozenset({state, "done"} - ({"done"} if state == "cancelled" else set())), INPUTS, heard=1
        )
        if not in_the_way:
            return having(ledger, entry)
        # A person has put another job of that name there by hand.
        ended(spool, "dog", DOG, "done")
        (spool.root / "done" / "dog").rename(spool.root / "done" / "cat")
        record = Record.decode((spool.root / "done" / "cat" / "record.json").read_bytes()).model_copy(update={"id": "cat"})
        write(spool.root / "done" / "cat" / "record.json", record.encode())
        return having(ledger, replace(entry, keeps_id=False), Entry("cat", DOG, state="done"))

    return stage


def _published(ledger: Ledger, place: Place | None) -> Ledger:
    if place is None:
        return ledger
    raw = (WITH_INPUTS, CAT)
    return Ledger(
        tuple(
            replace(each, state=place.state, ends=frozenset({place.state})) if each.raw in raw else each
            for each in ledger.entries
        )
    )


# -- cancel, retry, hold, release --------------------------------------------------------------------------------------------


def _to_cancel(folder: bool = False, state: str = "pending") -> Callable[[Spool], Ledger]:
    def stage(spool: Spool) -> Ledger:
        ledger = _waiting(folder=folder, state=state)(spool)
        return ledger.but("cat", ends=ledger.entry("cat").ends | {"cancelled"})

    return stage


def _cancel_running(spool: Spool) -> Ledger:
    ledger = new(spool)
    begun(spool, claimed(spool, "cat", CAT, by=DEAD))
    return having(ledger, Entry("cat", CAT, frozenset({"done", "cancelled"}), heard=1))


def _cancelled(ledger: Ledger, place: Place | None) -> Ledger:
    """A waiting job is shown as cancelled at once; a running one will be at its next step."""
    if place is None:
        return ledger
    return ledger.but("cat", ends=frozenset({"cancelled"}), state="cancelled" if place.state == "cancelled" else None)


def _ended(state: str, folder: bool = False) -> Callable[[Spool], Ledger]:
    def stage(spool: Spool) -> Ledger:
        ledger = new(spool)
        raw, inputs = (WITH_INPUTS, INPUTS) if folder else (CAT, {})
        ended(spool, "cat", raw, state, inputs)
        return having(ledger, Entry("cat", raw, frozenset({state, "done"}), inputs, heard=1))

    return stage


def _retried(ledger: Ledger, place: Place | None) -> Ledger:
    return ledger.but("cat", ends=REST) if place else ledger


def _to_move(source: str, folder: bool) -> Callable[[Spool], Ledger]:
    return lambda spool: _waiting(folder=folder, state=source)(spool).but("cat", ends=frozenset({"done", "held"}))


def _verb(name: str, *arguments: Any) -> Callable[[Spool], Any]:
    """A verb on the job cat."""
    return lambda spool: getattr(spool, name)("cat", *arguments)


def _give_back(state: Literal["pending", "held"]) -> Callable[[Spool], Any]:
    def deed(spool: Spool) -> Place | None:
        return spool.give_back(_place(spool), state)

    return deed


def _begin_epoch(spool: Spool) -> int:
    return spool.raise_epoch(ME)


def _moved(ledger: Ledger, place: Place | None) -> Ledger:
    """To pending/ or held/: from there to its end, or to rest."""
    return ledger.but("cat", ends=frozenset({"held" if place.state == "held" else "done"})) if place else ledger


# -- reject ------------------------------------------------------------------------------------------------------------------

COMPLETED = "2026-01-01T00:00:00.000Z"
BAD = b'{"prompt": "a red circle", "stepz": 3}'


def _bad(spool: Spool) -> Ledger:
    ledger = new(spool)
    given(spool, "bad", BAD)
    return having(ledger, Entry("bad", BAD, frozenset({"rejected"}), keeps_id=False))


def _bad_taken(spool: Spool) -> Ledger:
    """Another file of that name was rejected before."""
    ledger = _bad(spool)
    other = BAD.replace(b"3", b"4")
    write(spool.rejected_folder / "bad.json", other)
    write(spool.rejected_folder / "bad.json.reason.txt", b"It has no field `stepz`.\n")
    return having(ledger, Entry("bad-before", other, frozenset({"rejected"}), state="rejected", keeps_id=False))


def _bad_claimed(inputs: Mapping[str, bytes] | None = None) -> Callable[[Spool], Ledger]:
    def stage(spool: Spool) -> Ledger:
        ledger = new(spool)
        claimed(spool, "cat", BAD, inputs)
        return having(ledger, Entry("cat", BAD, frozenset({"rejected"}), inputs or {}, keeps_id=False))

    return stage


def _rejected(ledger: Ledger, name: str | None) -> Ledger:
    if name is None:
        return ledger
    return Ledger(tuple(replace(each, state="rejected") if each.raw == BAD else each for each in ledger.entries))


# -- edit --------------------------------------------------------------------------------------------------------------------


def _to_edit(state: str, folder: bool) -> Callable[[Spool], Ledger]:
    def stage(spool: Spool) -> Ledger:
        ledger = _waiting(folder=folder, state=state)(spool)
        return ledger.but("cat", edited=encode(EDIT(decode(ledger.entry("cat").raw))))

    return stage


#: No `replacing`: that tries its pattern in a process of its own, whose files the recording would take for ours.
EDIT = edit.setting({"prompt": "a green circle"})


def _edit(spool: Spool) -> list[edit.Edited]:
    return edit.apply(spool, EDIT, frozenset({"cat"}))


# -- batches -----------------------------------------------------------------------------------------------------------------

FEW = 3
#: So many that they are written several at a time, and one of the writers has two of them.
MANY = durable.AT_ONCE + 1
assert FEW < durable.MANY <= MANY


def _dropped_rows(spool: Spool, number: int = FEW) -> Ledger:
    ledger = new(spool)
    raw = "".join(f'{{"prompt": "a red circle, row {row}", "steps": 2}}\n' for row in range(number)).encode()
    write(spool.pending / "rows.jsonl", raw)
    jobs = [row.job.model_copy(update={"batch": "rows", "owner": OWNER}) for row in read_rows("rows.jsonl", raw)]
    rows = (Entry(f"rows.{number:04d}", encode(each), given=False, due=True) for number, each in enumerate(jobs, 1))
    return having(ledger, *rows)


def _taken_rows(number: int) -> Callable[[Spool], Ledger]:
    def stage(spool: Spool) -> Ledger:
        ledger = _dropped_rows(spool, number)
        assert Batches(spool).take("rows.jsonl", number, OWNER)
        return ledger

    return stage


def _take(spool: Spool) -> bool | None:
    return True if Batches(spool).take("rows.jsonl", FEW, OWNER) else None


def _submit_rows(spool: Spool) -> bool:
    batch = Batches(spool).read("rows")
    assert batch
    return submit_rows(Batches(spool), batch)


def _all_rows(ledger: Ledger, value: Any) -> Ledger:
    return Ledger(tuple(replace(each, given=True) for each in ledger.entries))


# -- recover, retention, upkeep ----------------------------------------------------------------------------------------------


def _after_a_crash(spool: Spool) -> Ledger:
    """What two dead spoolers left, this one's earlier life and another: each half way through everything that they do."""
    ledger = new(spool)
    entries = []
    for by in (ME, DEAD):
        name = f"{by}-claimed"
        claimed(spool, name, job(name), by=by)
        entries.append(Entry(name, job(name)))

        name = f"{by}-inputs"  # with pictures beside job.json, as somebody dropped them
        place = claimed(spool, name, job(name, image="start.png"), INPUTS, by=by)
        (place.path / "inputs" / "start.png").rename(place.path / "start.png")
        (place.path / "inputs").rmdir()
        entries.append(Entry(name, job(name, image="start.png"), inputs=INPUTS))

        name = f"{by}-running"
        place = claimed(spool, name, job(name), by=by)
        begun(spool, place)
        write(place.path / f".record.json.{durable.unique_name()}", b'{"id":')
        entries.append(Entry(name, job(name), heard=1))

        name = f"{by}-worn"  # all its attempts are used up
        place = claimed(spool, name, job(name), by=by)
        for _ in range(3):
            begun(spool, place)
        entries.append(Entry(name, job(name), frozenset({"failed"}), heard=3))

        name = f"{by}-unwanted"
        place = claimed(spool, name, job(name), by=by)
        begun(spool, place)
        (place.path / "cancel").touch()
        entries.append(Entry(name, job(name), frozenset({"cancelled"}), heard=1))

        name = f"{by}-unpublished"
        place = claimed(spool, name, job(name), by=by)
        record = finished(begun(spool, place))
        durable.replace(place.path / "record.json", record.encode())
        entries.append(Entry(name, job(name), heard=1))

        name = f"{by}-half"  # killed between mkdir and rename
        (spool.claimed / by / name).mkdir()
        given(spool, name, job(name))
        entries.append(Entry(name, job(name)))
    write(spool.tmp / durable.unique_name(), b"half a dra")
    return having(ledger, *entries)


def _to_prune(starred: bool = False) -> Callable[[Spool], Ledger]:
    """A job in done/ whose time has come: it is there whole, or it is not there. Unless somebody gave it a star meanwhile."""

    def stage(spool: Spool) -> Ledger:
        ledger = new(spool)
        record = spool.read_record(place := ended(spool, "cat", CAT, "done"))
        assert record
        write(place.path / "record.json", record.model_copy(update={"completed": COMPLETED}).encode())
        if starred:
            assert spool.star("cat", True)
        return having(ledger, Entry("cat", CAT, given=starred, state="done"))

    return stage


def _prune(spool: Spool) -> bool:
    completed = datetime.fromisoformat(COMPLETED).timestamp()
    return retention.remove(spool, retention.Ended("cat", "done", completed, 0, starred=False))


def _old_drafts(spool: Spool) -> Ledger:
    """Drafts of writers that are long dead, and one of a writer that is alive."""
    ledger = new(spool)
    for number in range(2):
        write(spool.tmp / f"old-{number}", b"half a dra")
        write(spool.tmp / f"old-folder-{number}" / "inputs" / "start.png", START[:9])
    for path in spool.tmp.rglob("*"):
        os.utime(path, (1e9, 1e9))
    write(spool.tmp / "young", b"half a dra")
    return ledger


def _gather(spool: Spool) -> Ledger:
    ledger = _in_claimed(WITH_INPUTS, INPUTS)(spool)
    place = _place(spool)
    (place.path / "inputs" / "start.png").rename(place.path / "start.png")
    (place.path / "inputs").rmdir()
    return ledger


def _gathering(spool: Spool) -> bool:
    spool.gather_inputs(_place(spool), ["start.png"])
    return True


def operations() -> list[Operation]:
    def submit(raw: bytes, wanted: str | None = None, inputs: Mapping[str, bytes] | None = None) -> Callable[[Spool], Any]:
        return lambda spool: spool.submit(raw, wanted, inputs)

    return [
        Operation("submit", _to_submit(CAT), submit(CAT), _submitted),
        Operation("submit, pictures", _to_submit(WITH_INPUTS, INPUTS), submit(WITH_INPUTS, None, INPUTS), _submitted),
        Operation("submit, wanted id", _to_submit(CAT), submit(CAT, "cat"), _submitted),
        Operation(
            "submit, wanted id, pictures", _to_submit(WITH_INPUTS, INPUTS), submit(WITH_INPUTS, "cat", INPUTS), _submitted
        ),
        *(
            Operation(f"submit, id taken in {state}", _taken(state), submit(DOG, "cat"), _unchanged, "TakenError")
            for state in ("pending", "held", "claimed", "done", "failed", "cancelled")
        ),
        Operation("claim", _waiting(), lambda spool: spool.claim("cat.json", ME), _unchanged, lives=(ME,)),
        Operation("claim, folder", _waiting(folder=True), lambda spool: spool.claim("cat", ME), _unchanged, lives=(ME,)),
        Operation("claim three in one go", _three_waiting, _claim_many(THREE), _unchanged, lives=(ME,)),
        Operation("claim three, one gone", _three_waiting, _claim_many(ONE_GONE), _unchanged, lives=(ME,)),
        Operation("claim two of one id", _two_of_one_id, _claim_many(("my cat.json", "my-cat.json")), _unchanged, lives=(ME,)),
        Operation("claim two of held", _two_held, _claim_many(("cat.json", "fox"), "held"), _unchanged, lives=(ME,)),
        Operation("claim, id taken", _claim_dropped, lambda spool: spool.claim("my cat.json", ME), _unchanged, lives=(ME,)),
        Operation(
            "gather pictures",
            _gather,
            _gathering,
            _unchanged,
            lives=(ME,),
        ),
        *(
            Operation(
                f"prepare, attempt {attempts + 1}",
                _in_claimed(attempts=attempts),
                _prepare,
                lambda ledger, number: ledger.but("cat", heard=number, ends=REST | {"failed"}),
                lives=(ME,),
            )
            for attempts in (0, 1)
        ),
        *(
            Operation(f"publish to {state}", _to_publish(state), _publish(state), _published, lives=(ME,))
            for state in ("done", "failed", "cancelled")
        ),
        Operation("publish, name taken", _to_publish("done", in_the_way=True), _publish("done"), _published, lives=(ME,)),
        Operation("cancel, waiting", _to_cancel(), lambda spool: spool.cancel("cat"), _cancelled),
        Operation("cancel, waiting folder", _to_cancel(folder=True), lambda spool: spool.cancel("cat"), _cancelled),
        Operation("cancel, held", _to_cancel(state="held"), lambda spool: spool.cancel("cat"), _cancelled),
        Operation("cancel, held folder", _to_cancel(folder=True, state="held"), lambda spool: spool.cancel("cat"), _cancelled),
        Operation("cancel, running", _cancel_running, lambda spool: spool.cancel("cat"), _cancelled),
        Operation("retry", _ended("failed"), lambda spool: spool.retry("cat"), _retried),
        Operation("retry, pictures", _ended("failed", folder=True), lambda spool: spool.retry("cat"), _retried),
        Operation("retry, cancelled", _ended("cancelled"), lambda spool: spool.retry("cat"), _retried),
        *(
            Operation(f"{verb}{', folder' if folder else ''}", _to_move(source, folder), _verb(verb), _moved)
            for verb, source in (("hold", "pending"), ("release", "held"))
            for folder in (False, True)
        ),
        *(
            Operation(
                f"give back to {state}",
                _in_claimed(WITH_INPUTS, INPUTS, ends=frozenset({"done", "held"})),
                _give_back(state),
                _moved,
                lives=(ME,),
            )
            for state in WAITING
        ),
        Operation("set priority", _waiting(), _verb("set_priority", "top"), _unchanged),
        Operation("star", _ended("done"), _verb("star", True), _unchanged),
        Operation("begin an epoch", _waiting(), _begin_epoch, _unchanged),
        Operation("reject", _bad, lambda spool: spool.reject(spool.pending / "bad.json", "It is bad."), _rejected, lives=(ME,)),
        Operation(
            "reject, name taken",
            _bad_taken,
            lambda spool: spool.reject(spool.pending / "bad.json", "Bad."),
            _rejected,
            lives=(ME,),
        ),
        Operation(
            "reject, claimed", _bad_claimed(), lambda spool: spool.reject_claimed(_place(spool), "Bad."), _rejected, lives=(ME,)
        ),
        Operation(
            "reject, claimed folder",
            _bad_claimed(INPUTS),
            lambda spool: spool.reject_claimed(_place(spool), "Bad."),
            _rejected,
            lives=(ME,),
        ),
        *(
            Operation(f"edit, {state}{', folder' if folder else ''}", _to_edit(state, folder), _edit, _unchanged)
            for state in WAITING
            for folder in (False, True)
        ),
        Operation("take rows", _dropped_rows, _take, _unchanged, lives=(ME,)),
        Operation("submit rows", _taken_rows(FEW), _submit_rows, _all_rows, lives=(ME,)),
        Operation("submit rows, several at a time", _taken_rows(MANY), _submit_rows, _all_rows, lives=(ME,)),
        Operation("recover", _after_a_crash, lambda spool: spool.recover(ME), _unchanged, lives=(ME,)),
        Operation("prune", _to_prune(), _prune, _unchanged, lives=(ME,)),
        Operation("prune, starred", _to_prune(starred=True), _prune, _unchanged, lives=(ME,)),
        Operation("reap tmp", _old_drafts, lambda spool: spool.reap_tmp(3600.0), _unchanged, lives=(ME,)),
        Operation("restart after a crash", _after_a_crash, lambda spool: restart(spool.root, ME), _unchanged),
    ]
