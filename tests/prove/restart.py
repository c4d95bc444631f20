"""The smallest spooler: takes over what a dead one left, claims what waits, and runs everything to its end.

It keeps the order that spooler/attempts.py keeps (P4: the attempt is on disk before the engine hears of the job). Its engine
draws pictures that tell which attempt they are of, so that one which lies in the wrong place is seen.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from spooler.batch_file import read_rows
from spooler.batches import Batch, Batches
from spooler.durable import UnreadableError
from spooler.job import JobError
from spooler.place import Place
from spooler.record import EngineFacts, Image, Record, Timings
from spooler.spool import Spool

MAX_ATTEMPTS = 3
SIDE = 4  # pixels
OWNER = "somebody"  # of dropped files

FACTS = EngineFacts(
    model="none", hash="0" * 64, family="none", device="cpu", device_name="none", precision="none", versions={}, load_seconds=0
)

#: Told of each job that the engine hears of: the job's bytes and the number of the attempt.
Hear = Callable[[bytes, int], None]


def restart(root: Path, spooler: str, hear: Hear = lambda raw, attempt: None, recover_first: bool = True) -> bool:
    """Start as `spooler`, run all that there is to the end, and stop. Returns True.

    `recover_first` False is a spooler that was alive when the other one died: it claims before it looks for the dead.
    """
    spool = Spool(root)
    spool.create()
    (spool.claimed / spooler).mkdir(exist_ok=True)
    with spool.life_lock(spooler).acquire(timeout=5):
        if recover_first:
            _take_over(spool, spooler, hear)
        _take_batches(spool)
        _run_waiting(spool, spooler, hear)
        if not recover_first:
            _take_over(spool, spooler, hear)
            _run_waiting(spool, spooler, hear)
    return True


def _take_over(spool: Spool, spooler: str, hear: Hear) -> None:
    """Run the jobs that a dead spooler had, and go on with the batches that it had begun with."""
    for place in spool.recover(spooler):
        run(spool, place, spooler, hear)
    batches = Batches(spool)
    for batch in batches.unfinished():
        submit_rows(batches, batch)


def _run_waiting(spool: Spool, spooler: str, hear: Hear) -> None:
    for waiting in spool.places("pending"):
        try:
            spool.read_job(waiting)
        except (JobError, UnreadableError) as error:
            spool.reject(waiting.path, str(error))
            continue
        if place := spool.claim(waiting.path.name, spooler):
            run(spool, place, spooler, hear, waiting.path.name)


def _take_batches(spool: Spool) -> None:
    """Make jobs of the dropped files of many."""
    batches = Batches(spool)
    for path in sorted(spool.pending.glob("*.jsonl")):
        if batch := batches.take(path.name, len(read_rows(path.name, path.read_bytes())), OWNER):
            submit_rows(batches, batch)


def submit_rows(batches: Batches, batch: Batch) -> bool:
    """Put all rows of a batch into the queue. Returns True."""
    begin: int | None = 0
    rows = batches.rows(batch)
    while begin is not None:
        begin = batches.submit_some(batch, rows, begin)
    return True


def run(spool: Spool, place: Place, spooler: str, hear: Hear, given_name: str = "") -> None:
    """Run a claimed job's next attempt and publish it, or end it without one."""
    record = spool.read_record(place) or Record(id=place.id, queued=spool.queued_at(place))
    record = record.claimed_by(spooler, place.id, given_name).end_attempt("worker-died: the spooler died")
    try:
        job = spool.read_job(place)
    except (JobError, UnreadableError) as error:
        spool.reject_claimed(place, str(error))
        return
    spool.gather_inputs(place, job.inputs)
    if (place.path / "hold").exists():  # somebody died who edited it
        spool.give_back(place, "held")
        return
    if (place.path / "cancel").exists():
        spool.publish(place, record.fail("cancelled", "Cancelled before it started."), "cancelled")
        return
    if record.attempts_used >= MAX_ATTEMPTS:
        spool.publish(place, record.fail("worker-died", f"The engine ended {record.attempts_used} times."), "failed")
        return
    record = record.begin_attempt(job, FACTS)
    spool.prepare(place, record)
    number = record.attempts[-1].number
    hear(place.job_file.read_bytes(), number)
    images = list(draw(place.path, number, job.count))
    spool.publish(place, record.finish(tuple(images), Timings(), FACTS), "done")


def draw(folder: Path, attempt: int, count: int) -> Iterator[Image]:
    """Write the pictures of an attempt. The seed in the record is the attempt's number, which the pixels tell too."""
    for index in range(count):
        (folder / f"{index}.png").write_bytes(picture(attempt, index))
        yield Image(file=f"{index}.png", index=index, seed=attempt, width=SIDE, height=SIDE)


def picture(attempt: int, index: int) -> bytes:
    """A PNG of one colour: the attempt and the index of the picture."""
    rows = (b"\0" + bytes((attempt, index, 128)) * SIDE) * SIDE
    parts = [(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data)) for tag, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
