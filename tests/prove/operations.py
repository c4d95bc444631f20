"""What is put under fire: each verb of the spool, on each of the stages that it is done on.

An operation is a row of a table: the stage (a spool folder in the state before, of scenes.py), the deed, and what was
acknowledged when the deed returned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from spooler import edit, retention
from spooler.batches import Batches
from spooler.place import Place
from spooler.record import Record
from spooler.spool import Spool
from tests.prove import scenes
from tests.prove.promises import Ledger
from tests.prove.restart import FACTS, OWNER, restart, submit_rows
from tests.prove.stages import CAT, DOG, INPUTS, ME, REST, WITH_INPUTS, finished

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


def _submitted(ledger: Ledger, job_id: str) -> Ledger:
    return ledger.but("cat", id=job_id, given=True, keeps_id=True)


def _unchanged(ledger: Ledger, value: Any) -> Ledger:
    return ledger


# -- claim and run -----------------------------------------------------------------------------------------------------------


#: A file, a folder with pictures, and another file, in the order in which they are claimed.
THREE = ("cat.json", "fox", "dog.json")
ONE_GONE = ("cat.json", "gone.json", "fox")


def _claim_many(names: Sequence[str], state: Literal["pending", "held"] = "pending") -> Callable[[Spool], Any]:
    def deed(spool: Spool) -> list[Place | None]:
        """The places; what kept one of them from being claimed is raised when the others are."""
        answers = spool.claim_many(names, ME, state)
        for answer in answers:
            if isinstance(answer, OSError):
                raise answer
        return [answer for answer in answers if not isinstance(answer, OSError)]

    return deed


def _prepare(spool: Spool) -> int:
    """As the service begins an attempt. Returns its number."""
    place = scenes.cat_of(spool)
    record = spool.read_record(place) or Record(id="cat", queued="2026-01-01T00:00:00Z")
    record = (
        record.claimed_by(ME, "cat", "").end_attempt("worker-died: the engine died").begin_attempt(spool.read_job(place), FACTS)
    )
    spool.prepare(place, record)
    return len(record.attempts)


def _publish(state: str) -> Callable[[Spool], Place | None]:
    def deed(spool: Spool) -> Place | None:
        place = scenes.cat_of(spool)
        record = spool.read_record(place)
        assert record
        record = finished(record, 2) if state == "done" else record.fail(state, f"It {state}.")
        return spool.publish(place, record, state)  # type: ignore[arg-type]

    return deed


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


def _cancelled(ledger: Ledger, place: Place | None) -> Ledger:
    """A waiting job is shown as cancelled at once; a running one will be at its next step."""
    if place is None:
        return ledger
    return ledger.but("cat", ends=frozenset({"cancelled"}), state="cancelled" if place.state == "cancelled" else None)


def _retried(ledger: Ledger, place: Place | None) -> Ledger:
    return ledger.but("cat", ends=REST) if place else ledger


def _verb(name: str, *arguments: Any) -> Callable[[Spool], Any]:
    """A verb on the job cat."""
    return lambda spool: getattr(spool, name)("cat", *arguments)


def _give_back(state: Literal["pending", "held"]) -> Callable[[Spool], Any]:
    def deed(spool: Spool) -> Place | None:
        return spool.give_back(scenes.cat_of(spool), state)

    return deed


def _begin_epoch(spool: Spool) -> int:
    return spool.raise_epoch(ME)


def _moved(ledger: Ledger, place: Place | None) -> Ledger:
    """To pending/ or held/: from there to its end, or to rest."""
    return ledger.but("cat", ends=frozenset({"held" if place.state == "held" else "done"})) if place else ledger


# -- reject ------------------------------------------------------------------------------------------------------------------


def _rejected(ledger: Ledger, name: str | None) -> Ledger:
    if name is None:
        return ledger
    return Ledger(tuple(replace(each, state="rejected") if each.raw == scenes.BAD else each for each in ledger.entries))


# -- edit --------------------------------------------------------------------------------------------------------------------


def _edit(spool: Spool) -> list[edit.Edited]:
    return edit.apply(spool, scenes.EDIT, edit.waiting(spool, frozenset({"cat"})))


# -- batches -----------------------------------------------------------------------------------------------------------------


def _take(spool: Spool) -> bool | None:
    return True if Batches(spool).take("rows.jsonl", scenes.FEW, OWNER) else None


def _submit_rows(spool: Spool) -> bool:
    batch = Batches(spool).read("rows")
    assert batch
    return submit_rows(Batches(spool), batch)


def _all_rows(ledger: Ledger, value: Any) -> Ledger:
    return Ledger(tuple(replace(each, given=True) for each in ledger.entries))


# -- recover, retention, upkeep ----------------------------------------------------------------------------------------------


def _prune(spool: Spool) -> bool:
    completed = datetime.fromisoformat(scenes.COMPLETED).timestamp()
    return retention.remove(spool, retention.Ended("cat", "done", completed, 0, starred=False))


def _gathering(spool: Spool) -> bool:
    spool.gather_inputs(scenes.cat_of(spool), ["start.png"])
    return True


def operations() -> list[Operation]:
    def submit(raw: bytes, wanted: str | None = None, inputs: Mapping[str, bytes] | None = None) -> Callable[[Spool], Any]:
        return lambda spool: spool.submit(raw, wanted, inputs)

    return [
        Operation("submit", scenes.to_submit(CAT), submit(CAT), _submitted),
        Operation("submit, pictures", scenes.to_submit(WITH_INPUTS, INPUTS), submit(WITH_INPUTS, None, INPUTS), _submitted),
        Operation("submit, wanted id", scenes.to_submit(CAT), submit(CAT, "cat"), _submitted),
        Operation(
            "submit, wanted id, pictures", scenes.to_submit(WITH_INPUTS, INPUTS), submit(WITH_INPUTS, "cat", INPUTS), _submitted
        ),
        *(
            Operation(f"submit, id taken in {state}", scenes.taken(state), submit(DOG, "cat"), _unchanged, "TakenError")
            for state in ("pending", "held", "claimed", "done", "failed", "cancelled")
        ),
        Operation("claim", scenes.waiting(), lambda spool: spool.claim("cat.json", ME), _unchanged, lives=(ME,)),
        Operation("claim, folder", scenes.waiting(folder=True), lambda spool: spool.claim("cat", ME), _unchanged, lives=(ME,)),
        Operation("claim three in one go", scenes.three_waiting, _claim_many(THREE), _unchanged, lives=(ME,)),
        Operation("claim three, one gone", scenes.three_waiting, _claim_many(ONE_GONE), _unchanged, lives=(ME,)),
        Operation(
            "claim two of one id", scenes.two_of_one_id, _claim_many(("my cat.json", "my-cat.json")), _unchanged, lives=(ME,)
        ),
        Operation("claim two of held", scenes.two_held, _claim_many(("cat.json", "fox"), "held"), _unchanged, lives=(ME,)),
        Operation("claim, id taken", scenes.name_taken, lambda spool: spool.claim("my cat.json", ME), _unchanged, lives=(ME,)),
        Operation(
            "gather pictures",
            scenes.to_gather,
            _gathering,
            _unchanged,
            lives=(ME,),
        ),
        *(
            Operation(
                f"prepare, attempt {attempts + 1}",
                scenes.in_claimed(attempts=attempts),
                _prepare,
                lambda ledger, number: ledger.but("cat", heard=number, ends=REST | {"failed"}),
                lives=(ME,),
            )
            for attempts in (0, 1)
        ),
        *(
            Operation(f"publish to {state}", scenes.to_publish(state), _publish(state), _published, lives=(ME,))
            for state in ("done", "failed", "cancelled")
        ),
        Operation("publish, name taken", scenes.to_publish("done", in_the_way=True), _publish("done"), _published, lives=(ME,)),
        Operation("cancel, waiting", scenes.to_cancel(), lambda spool: spool.cancel("cat"), _cancelled),
        Operation("cancel, waiting folder", scenes.to_cancel(folder=True), lambda spool: spool.cancel("cat"), _cancelled),
        Operation("cancel, held", scenes.to_cancel(state="held"), lambda spool: spool.cancel("cat"), _cancelled),
        Operation(
            "cancel, held folder", scenes.to_cancel(folder=True, state="held"), lambda spool: spool.cancel("cat"), _cancelled
        ),
        Operation("cancel, running", scenes.running_elsewhere, lambda spool: spool.cancel("cat"), _cancelled),
        Operation("retry", scenes.at_its_end("failed"), lambda spool: spool.retry("cat"), _retried),
        Operation("retry, pictures", scenes.at_its_end("failed", folder=True), lambda spool: spool.retry("cat"), _retried),
        Operation("retry, cancelled", scenes.at_its_end("cancelled"), lambda spool: spool.retry("cat"), _retried),
        *(
            Operation(f"{verb}{', folder' if folder else ''}", scenes.to_move(source, folder), _verb(verb), _moved)
            for verb, source in (("hold", "pending"), ("release", "held"))
            for folder in (False, True)
        ),
        *(
            Operation(
                f"give back to {state}",
                scenes.in_claimed(WITH_INPUTS, INPUTS, ends=frozenset({"done", "held"})),
                _give_back(state),
                _moved,
                lives=(ME,),
            )
            for state in WAITING
        ),
        Operation("set priority", scenes.waiting(), _verb("set_priority", "top"), _unchanged),
        Operation("star", scenes.at_its_end("done"), _verb("star", True), _unchanged),
        Operation("begin an epoch", scenes.waiting(), _begin_epoch, _unchanged),
        Operation(
            "reject", scenes.bad, lambda spool: spool.reject(spool.pending / "bad.json", "It is bad."), _rejected, lives=(ME,)
        ),
        Operation(
            "reject, name taken",
            scenes.bad_taken,
            lambda spool: spool.reject(spool.pending / "bad.json", "Bad."),
            _rejected,
            lives=(ME,),
        ),
        Operation(
            "reject, claimed",
            scenes.bad_claimed(),
            lambda spool: spool.reject_claimed(scenes.cat_of(spool), "Bad."),
            _rejected,
            lives=(ME,),
        ),
        Operation(
            "reject, claimed folder",
            scenes.bad_claimed(INPUTS),
            lambda spool: spool.reject_claimed(scenes.cat_of(spool), "Bad."),
            _rejected,
            lives=(ME,),
        ),
        *(
            Operation(f"edit, {state}{', folder' if folder else ''}", scenes.to_edit(state, folder), _edit, _unchanged)
            for state in WAITING
            for folder in (False, True)
        ),
        Operation("take rows", scenes.dropped_rows, _take, _unchanged, lives=(ME,)),
        Operation("submit rows", scenes.taken_rows(scenes.FEW), _submit_rows, _all_rows, lives=(ME,)),
        Operation("submit rows, several at a time", scenes.taken_rows(scenes.MANY), _submit_rows, _all_rows, lives=(ME,)),
        Operation("recover", scenes.after_a_crash, lambda spool: spool.recover(ME), _unchanged, lives=(ME,)),
        Operation("prune", scenes.to_prune(), _prune, _unchanged, lives=(ME,)),
        Operation("prune, starred", scenes.to_prune(starred=True), _prune, _unchanged, lives=(ME,)),
        Operation("reap tmp", scenes.old_drafts, lambda spool: spool.reap_tmp(3600.0), _unchanged, lives=(ME,)),
        Operation("restart after a crash", scenes.after_a_crash, lambda spool: restart(spool.root, ME), _unchanged),
    ]
