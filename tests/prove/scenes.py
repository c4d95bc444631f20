"""The states of a spool that an operation is done on, each with what is expected of the jobs in it: the ledger."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from spooler import durable, edit
from spooler.batch_file import read_rows
from spooler.batches import Batches
from spooler.job import decode, encode
from spooler.place import Place
from spooler.record import Record
from spooler.spool import Spool
from tests.prove.promises import Entry, Ledger
from tests.prove.restart import OWNER
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

COMPLETED = "2026-01-01T00:00:00.000Z"
BAD = b'{"prompt": "a red circle", "stepz": 3}'
#: No `replacing`: that tries its pattern in a process of its own, whose files the recording would take for ours.
EDIT = edit.setting({"prompt": "a green circle"})
FEW = 3
#: So many that they are written several at a time, and one of the writers has two of them.
MANY = durable.AT_ONCE + 1
assert FEW < durable.MANY <= MANY


def to_submit(raw: bytes, inputs: Mapping[str, bytes] | None = None) -> Callable[[Spool], Ledger]:
    def stage(spool: Spool) -> Ledger:
        return having(new(spool), Entry("cat", raw, inputs=inputs or {}, given=False, keeps_id=False))

    return stage


def taken(state: str) -> Callable[[Spool], Ledger]:
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


def waiting(*, folder: bool = False, state: str = "pending") -> Callable[[Spool], Ledger]:
    def stage(spool: Spool) -> Ledger:
        ledger = new(spool)
        raw, inputs = (WITH_INPUTS, INPUTS) if folder else (CAT, {})
        given(spool, "cat", raw, inputs, state)
        return having(ledger, Entry("cat", raw, REST if state == "pending" else frozenset({"held"}), inputs))

    return stage


def name_taken(spool: Spool) -> Ledger:
    """A file with a name that is no id, and a job in done/ that has the id which it would get."""
    ledger = new(spool)
    ended(spool, "my-cat", DOG, "done")
    given(spool, "my cat", CAT)
    return having(ledger, Entry("my-cat-2", CAT, keeps_id=False), Entry("my-cat", DOG, state="done"))


def three_waiting(spool: Spool) -> Ledger:
    ledger = new(spool)
    given(spool, "cat", CAT)
    given(spool, "fox", WITH_INPUTS, INPUTS)
    given(spool, "dog", DOG)
    (spool.claimed / ME / "dog").mkdir()  # killed between mkdir and rename
    return having(ledger, Entry("cat", CAT), Entry("fox", WITH_INPUTS, inputs=INPUTS), Entry("dog", DOG))


def two_of_one_id(spool: Spool) -> Ledger:
    """Two files whose names make one id, of which only one can have it."""
    ledger = new(spool)
    given(spool, "my cat", CAT)
    given(spool, "my-cat", DOG)
    return having(ledger, Entry("my cat", CAT, keeps_id=False), Entry("my-cat", DOG, keeps_id=False))


def two_held(spool: Spool) -> Ledger:
    ledger = new(spool)
    given(spool, "cat", CAT, state="held")
    given(spool, "fox", WITH_INPUTS, INPUTS, "held")
    ends = frozenset({"held"})
    return having(ledger, Entry("cat", CAT, ends), Entry("fox", WITH_INPUTS, ends, INPUTS))


def in_claimed(
    raw: bytes = CAT, inputs: Mapping[str, bytes] | None = None, attempts: int = 0, ends: frozenset[str] = REST
) -> Callable[[Spool], Ledger]:
    def stage(spool: Spool) -> Ledger:
        ledger = new(spool)
        place = claimed(spool, "cat", raw, inputs)
        for _ in range(attempts):
            begun(spool, place, 2)
        return having(ledger, Entry("cat", raw, ends, inputs or {}, heard=attempts))

    return stage


def cat_of(spool: Spool) -> Place:
    return Place("cat", "claimed", spool.claimed / ME / "cat", ME)


def to_publish(state: str, in_the_way: bool = False) -> Callable[[Spool], Ledger]:
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


def to_cancel(folder: bool = False, state: str = "pending") -> Callable[[Spool], Ledger]:
    def stage(spool: Spool) -> Ledger:
        ledger = waiting(folder=folder, state=state)(spool)
        return ledger.but("cat", ends=ledger.entry("cat").ends | {"cancelled"})

    return stage


def running_elsewhere(spool: Spool) -> Ledger:
    ledger = new(spool)
    begun(spool, claimed(spool, "cat", CAT, by=DEAD))
    return having(ledger, Entry("cat", CAT, frozenset({"done", "cancelled"}), heard=1))


def at_its_end(state: str, folder: bool = False) -> Callable[[Spool], Ledger]:
    def stage(spool: Spool) -> Ledger:
        ledger = new(spool)
        raw, inputs = (WITH_INPUTS, INPUTS) if folder else (CAT, {})
        ended(spool, "cat", raw, state, inputs)
        return having(ledger, Entry("cat", raw, frozenset({state, "done"}), inputs, heard=1))

    return stage


def to_move(source: str, folder: bool) -> Callable[[Spool], Ledger]:
    return lambda spool: waiting(folder=folder, state=source)(spool).but("cat", ends=frozenset({"done", "held"}))


def bad(spool: Spool) -> Ledger:
    ledger = new(spool)
    given(spool, "bad", BAD)
    return having(ledger, Entry("bad", BAD, frozenset({"rejected"}), keeps_id=False))


def bad_taken(spool: Spool) -> Ledger:
    """Another file of that name was rejected before."""
    ledger = bad(spool)
    other = BAD.replace(b"3", b"4")
    write(spool.rejected_folder / "bad.json", other)
    write(spool.rejected_folder / "bad.json.reason.txt", b"It has no field `stepz`.\n")
    return having(ledger, Entry("bad-before", other, frozenset({"rejected"}), state="rejected", keeps_id=False))


def bad_claimed(inputs: Mapping[str, bytes] | None = None) -> Callable[[Spool], Ledger]:
    def stage(spool: Spool) -> Ledger:
        ledger = new(spool)
        claimed(spool, "cat", BAD, inputs)
        return having(ledger, Entry("cat", BAD, frozenset({"rejected"}), inputs or {}, keeps_id=False))

    return stage


def to_edit(state: str, folder: bool) -> Callable[[Spool], Ledger]:
    def stage(spool: Spool) -> Ledger:
        ledger = waiting(folder=folder, state=state)(spool)
        return ledger.but("cat", edited=encode(EDIT(decode(ledger.entry("cat").raw))))

    return stage


def dropped_rows(spool: Spool, number: int = FEW) -> Ledger:
    ledger = new(spool)
    raw = "".join(f'{{"prompt": "a red circle, row {row}", "steps": 2}}\n' for row in range(number)).encode()
    write(spool.pending / "rows.jsonl", raw)
    jobs = [row.job.model_copy(update={"batch": "rows", "owner": OWNER}) for row in read_rows("rows.jsonl", raw)]
    rows = (Entry(f"rows.{number:04d}", encode(each), given=False, due=True) for number, each in enumerate(jobs, 1))
    return having(ledger, *rows)


def taken_rows(number: int) -> Callable[[Spool], Ledger]:
    def stage(spool: Spool) -> Ledger:
        ledger = dropped_rows(spool, number)
        assert Batches(spool).take("rows.jsonl", number, OWNER)
        return ledger

    return stage


def after_a_crash(spool: Spool) -> Ledger:
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


def to_prune(starred: bool = False) -> Callable[[Spool], Ledger]:
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


def old_drafts(spool: Spool) -> Ledger:
    """Drafts of writers that are long dead, and one of a writer that is alive."""
    ledger = new(spool)
    for number in range(2):
        write(spool.tmp / f"old-{number}", b"half a dra")
        write(spool.tmp / f"old-folder-{number}" / "inputs" / "start.png", START[:9])
    for path in spool.tmp.rglob("*"):
        os.utime(path, (1e9, 1e9))
    write(spool.tmp / "young", b"half a dra")
    return ledger


def to_gather(spool: Spool) -> Ledger:
    ledger = in_claimed(WITH_INPUTS, INPUTS)(spool)
    place = cat_of(spool)
    (place.path / "inputs" / "start.png").rename(place.path / "start.png")
    (place.path / "inputs").rmdir()
    return ledger
