"""Where a proof's deeds are done: spool folders in the state before, built from a few jobs by the spool's own verbs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spooler.place import Place
from spooler.record import Image, Record, Timings
from spooler.spool import Spool
from tests.prove.promises import Entry, Ledger
from tests.prove.restart import FACTS, SIDE, draw, picture

ME, DEAD = "me", "dead"
REST = frozenset({"done"})
START = picture(200, 0)


def job(name: str, **fields: Any) -> bytes:
    """A job's bytes. They are not what sdspool itself would write, so that one that was rewritten is seen."""
    return f" {json.dumps({'prompt': f'a red circle, {name}', 'steps': 2, **fields})}\n\n".encode()


CAT, DOG = job("cat"), job("dog")
WITH_INPUTS = job("cat with a picture", image="start.png")
INPUTS = {"start.png": START}
#: A neighbour that has nothing to do with the deed: it waits, and must come to its end too.
NEIGHBOUR = Entry("neighbour", job("neighbour"))


def given(spool: Spool, name: str, raw: bytes, inputs: Mapping[str, bytes] | None = None, state: str = "pending") -> Path:
    """A job in pending/ or held/ as if it had always been there."""
    if not inputs:
        return write(spool.root / state / f"{name}.json", raw)
    for picture_name, data in inputs.items():
        write(spool.root / state / name / "inputs" / picture_name, data)
    write(spool.root / state / name / "job.json", raw)
    return spool.root / state / name


def claimed(spool: Spool, name: str, raw: bytes, inputs: Mapping[str, bytes] | None = None, by: str = ME) -> Place:
    given(spool, name, raw, inputs)
    place = spool.claim(name if inputs else f"{name}.json", by)
    assert place and place.id == name
    return place


def begun(spool: Spool, place: Place, pictures: int = 1) -> Record:
    """An attempt that the engine has heard of, with the pictures that it has drawn so far. Returns the record."""
    record = spool.read_record(place) or Record(id=place.id, queued="2026-01-01T00:00:00Z")
    decoded = spool.read_job(place)
    record = record.claimed_by(place.spooler or ME, place.id, "").end_attempt("worker-died: the engine died")
    record = record.begin_attempt(decoded, FACTS)
    spool.prepare(place, record)
    list(draw(place.path, record.attempts[-1].number, pictures))
    return record


def finished(record: Record, pictures: int = 1) -> Record:
    number = record.attempts[-1].number
    images = (Image(file=f"{i}.png", index=i, seed=number, width=SIDE, height=SIDE) for i in range(pictures))
    return record.finish(tuple(images), Timings(), FACTS)


def ended(spool: Spool, name: str, raw: bytes, state: str, inputs: Mapping[str, bytes] | None = None) -> Place:
    """A job in done/, failed/ or cancelled/."""
    place = claimed(spool, name, raw, inputs)
    record = begun(spool, place)
    record = finished(record) if state == "done" else record.fail(state, f"It {state}.")
    shown = spool.publish(place, record, state)  # type: ignore[arg-type]
    assert shown
    return shown


def write(path: Path, raw: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return path


def new(spool: Spool) -> Ledger:
    """Every stage begins with this: one job that waits."""
    spool.create()
    for name in (ME, DEAD):
        (spool.claimed / name).mkdir()
    given(spool, NEIGHBOUR.id, NEIGHBOUR.raw)
    return Ledger((NEIGHBOUR,))


def having(ledger: Ledger, *entries: Entry) -> Ledger:
    return Ledger((*ledger.entries, *entries))


def copy(stage: Path, to: Path) -> Path:
    """A copy of a staged spool, times and all: making it anew would cost more."""
    return Path(shutil.copytree(stage, to, symlinks=True))
