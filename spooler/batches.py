"""Batches: a dropped file of many jobs (.jsonl, .csv, .txt), or a picture that tells of one (.png), and the jobs made of it.

    batches/<id>/<the file as it came>    and <name>.overrides.json, if there was one
    batches/<id>/batch.json               the ids of its jobs, written before anything else
    batches/<id>/queued                   empty: all of them are in the queue

The rename of the file into its folder is the commit: before it, nothing happened; after it, every row becomes a job, whoever is
killed in between, for the ids are fixed and a row whose id exists is not submitted again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spooler import durable, job
from spooler.batch_file import read_rows
from spooler.dropped import OVERRIDES
from spooler.ids import clean_id, is_id, versions
from spooler.job import Job
from spooler.logs import event, whose
from spooler.mistakes import JobError, Mistake
from spooler.moments import Moment
from spooler.reader import folders
from spooler.record import utc_now
from spooler.spool import Spool, TakenError
from spooler.states import State

log = logging.getLogger(__name__)

MAX_BYTES = 64 << 20
#: Rows that are submitted together: one fsync of pending/ for all of them.
ROWS_AT_ONCE = 50
#: Rows that `submit` itself puts into the queue.
ROWS_IN_REQUEST = 1000


class Batch(BaseModel):
    """batch.json: what was made of a dropped file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    file: str = Field(description="Name of the dropped file, beside batch.json.")
    owner: str
    taken: Moment
    jobs: tuple[str, ...] = Field(description="Ids of its jobs, row by row.")


@dataclass(frozen=True)
class BatchProgress:
    """How far a batch is: how many of its jobs are in each state.

    `coming` are those that are not in the queue yet, `gone` those that nobody has any more.
    """

    batch: Batch
    counts: dict[State, int]
    coming: int
    gone: int

    @property
    def ended(self) -> bool:
        left = self.coming + sum(self.counts[state] for state in ("pending", "held", "claimed"))
        return not left and bool(self.batch.jobs)


class Batches:
    """The folder batches/ of one spool."""

    def __init__(self, spool: Spool):
        self._spool = spool
        self._root = spool.batches

    def take(self, name: str, rows: int, owner: str, still: Callable[[], bool] = lambda: True) -> Batch | None:
        """Take pending/<name> with so many rows as a batch. None: somebody else was faster, took it away, or wrote to it.

        `still` says, right before the move, whether it is what was read.
        """
        with self._spool.claim_lock():
            return self._take(name, rows, owner, still)

    def _take(self, name: str, rows: int, owner: str, still: Callable[[], bool] = lambda: True) -> Batch | None:
        """As `take`, under the claim lock."""
        spool = self._spool
        source = spool.pending / name
        single = source.suffix.lower() == ".png"
        stem = clean_id(source.stem)[:100]
        batch_id = next(wanted for wanted in versions(stem) if self._free(wanted, _job_ids(wanted, rows, single)))
        jobs = _job_ids(batch_id, rows, single)
        batch = Batch(id=batch_id, file=name, owner=owner, taken=utc_now(), jobs=jobs)
        folder = self._root / batch_id
        spool.restore(self._root)
        durable.make_folder(folder)
        try:
            durable.replace(folder / "batch.json", batch.model_dump_json(indent=2).encode())
            if not still():
                raise FileNotFoundError(name)  # RACE: it was written to; what there is now is for the next look
            overrides = source.with_name(f"{name}{OVERRIDES}")
            if overrides.exists():
                spool.move("take", overrides, folder / overrides.name)
            spool.move("take", source, folder / name)
        except OSError as error:
            self._undo(folder)  # unless the file is there: then it is taken, though the disk may forget it
            if isinstance(error, FileNotFoundError):
                return None  # RACE: withdrawn, or taken by another spooler
            raise
        return batch

    def submit(self, rows: Sequence[Job], batch_id: str, owner: str) -> Batch:
        """Take jobs in together under that id: when this returns, all of them will be in the queue, whoever is killed.

        It drops them as a file, as a person would, and takes it at once; rows beyond the first thousand a spooler submits.
        Called again with the id of a batch that exists, it answers with that. Raises JobError for rows that no file can hold,
        TakenError when jobs have the ids that its rows would get, OSError when the disk will not have it.
        """
        folder = self._root / batch_id
        if batch := self._committed(folder):
            return batch
        spool = self._spool
        name = f"{batch_id}.jsonl"
        raw = b"\n".join(row.model_dump_json(exclude_unset=True).encode() for row in rows) + b"\n"
        read_rows(name, raw)  # what cannot be read again must not be accepted
        draft = spool.tmp / durable.unique_name()
        durable.write_new(draft, raw)
        try:
            with spool.claim_lock():  # or a spooler takes it as a file of the user that the web app runs as
                if batch := self._committed(folder):
                    return batch  # RACE: the same request, sent twice, was faster
                if not self._free(batch_id, _job_ids(batch_id, len(rows), single=False)):
                    raise TakenError(f"`id` must be a new one, but a job or a batch {batch_id!r} exists.")
                with contextlib.suppress(FileExistsError):  # an earlier call was killed behind this line
                    spool.link_draft(draft, name)
                durable.sync_folder(spool.pending)
                taken = self._take(name, len(rows), owner)
        finally:
            draft.unlink(missing_ok=True)
        # RACE: after that earlier call a spooler may be faster. Its rows are ours: both submit them, for whoever is told of
        # them looks for them next.
        taken = taken or self.read(batch_id)
        if taken is None:
            raise FileNotFoundError(spool.pending / name)
        jobs = jobs_of(taken, rows)
        begin: int | None = 0
        while begin is not None and begin < ROWS_IN_REQUEST:
            begin = self.submit_some(taken, jobs, begin)
        return taken

    def _free(self, batch_id: str, jobs: Sequence[str]) -> bool:
        """Whether the id is free, and those of its jobs; what a killed taker left there, without the file, is taken apart.

        A row whose id another job has would be taken for one that is in the queue, and be lost (P2).
        """
        folder = self._root / batch_id
        if durable.exists(folder):
            self._undo(folder)
            if durable.exists(folder):
                return False
        return all(self._spool.find_by_name(job_id) is None for job_id in jobs)

    def _undo(self, folder: Path) -> None:
        """Take apart what was begun for a file that was not taken; overrides go back where they were.

        Only what `take` made is removed: a folder with anything else in it is somebody's, and stays (P5).
        """
        try:
            names = {entry.name for entry in folder.iterdir()}
            if not all(name == "batch.json" or name[0] == "." or name.endswith(OVERRIDES) for name in names):
                return
            for name in names:
                if name.endswith(OVERRIDES):  # by a link: over none that somebody has put there since
                    durable.link(folder / name, self._spool.pending / name)
                (folder / name).unlink()
            folder.rmdir()
        except OSError as error:
            log.warning("batches/%s: cannot be taken apart: %s", folder.name, error)

    def unfinished(self, refused: dict[str, Exception] | None = None) -> list[Batch]:
        """The batches of which rows may not be in the queue yet; what was begun and not committed is taken apart.

        Those that are closed to us are left out; `refused` has what they answer, by their ids.
        """
        found = []
        for folder in folders(self._root):
            try:
                if batch := self._unfinished(folder):
                    found.append(batch)
            except PermissionError as error:
                if refused is not None:
                    refused[folder.name] = error
        return found

    def _unfinished(self, folder: Path) -> Batch | None:
        if durable.exists(folder / "queued"):
            return None
        batch = self._committed(folder)
        if batch is None:
            # Whoever takes a file holds the lock: so nobody is in the middle of that, but may have come to its end since.
            with self._spool.claim_lock():
                batch = self._committed(folder)
                if batch is None:
                    self._undo(folder)
        return batch

    def _committed(self, folder: Path) -> Batch | None:
        """The batch of a folder that has its file; None for one that was begun."""
        batch = self.read(folder.name)
        return batch if batch and durable.exists(folder / batch.file) else None

    def submit_some(self, batch: Batch, rows: Sequence[Job], begin: int) -> int | None:
        """Submit the next of its `rows`, from row `begin` on; returns where to go on, None when all are in the queue.

        None also when somebody else brought them in, or removed the batch: what he has done to them since is not to be undone.
        """
        folder = self._root / batch.id
        if durable.exists(folder / "queued"):
            return None
        if not durable.exists(folder):
            log.warning("batches/%s: was removed, what was not in the queue by row %d never will be", batch.id, begin)
            return None
        end = begin + ROWS_AT_ONCE
        self._submit(list(zip(batch.jobs[begin:end], rows[begin:end], strict=True)))
        if end < len(batch.jobs):
            return end
        durable.write_new_if_missing(folder / "queued", b"")
        return None

    def finish(self, batch: Batch) -> None:
        """Submit all rows that are not in the queue yet, as a spooler would, for who is about to change all of its jobs.

        Raises JobError, or OSError, when its file cannot be read.
        """
        if self._queued(batch):
            return
        rows = self.rows(batch)
        begin: int | None = 0
        while begin is not None:
            begin = self.submit_some(batch, rows, begin)

    def bring_in(self, ids: Iterable[str]) -> None:
        """Submit those of these that are rows which are not in the queue yet, ahead of the others, for who is about to change
        them."""
        wanted: dict[str, list[str]] = {}
        found: dict[str, Batch] = {}
        for job_id in ids:
            if batch := self._batch_of(job_id, found):
                wanted.setdefault(batch.id, []).append(job_id)
        for batch_id, some in wanted.items():
            rows = dict(zip(found[batch_id].jobs, self._rows_or_none(found[batch_id]), strict=False))
            self._submit([(job_id, rows[job_id]) for job_id in some if job_id in rows])

    def coming(self, job_id: str) -> Job | None:
        """The job of a row that was taken in and is not in the queue yet; None: there is no such row, or it was there."""
        batch = self._batch_of(job_id, {})
        rows = self._rows_or_none(batch) if batch else []
        return rows[batch.jobs.index(job_id)] if batch and rows else None

    def is_coming(self, job_id: str) -> bool:
        """Whether it is the id of such a row, whatever its job is."""
        return self._batch_of(job_id, {}) is not None

    def _batch_of(self, job_id: str, known: dict[str, Batch]) -> Batch | None:
        """The batch of which it is a row, if not all of its rows are in the queue. `known` has those read before, by their ids,
        and those read now."""
        for batch_id in (job_id.rpartition(".")[0], job_id):
            batch = known.get(batch_id) or self.read(batch_id)
            if batch:
                known[batch_id] = batch
                return None if self._queued(batch) or job_id not in batch.jobs else batch
        return None

    def _rows_or_none(self, batch: Batch) -> list[Job]:
        """As `rows`; none when they cannot be read, which the log tells."""
        try:
            return self.rows(batch)
        except (OSError, JobError) as error:
            log.warning("batches/%s: cannot be read: %s", batch.id, error)
            return []

    def _queued(self, batch: Batch) -> bool:
        return durable.exists(self._root / batch.id / "queued")

    def rows(self, batch: Batch) -> list[Job]:
        """The batch's jobs, as its file says, each with its owner and the batch's id.

        Raises JobError when the file no longer reads as it did, which somebody must have done by hand.
        """
        source = self._root / batch.id / batch.file
        overrides = source.with_name(f"{batch.file}{OVERRIDES}")
        extra = durable.read_small(overrides, job.MAX_BYTES) if overrides.exists() else None
        rows = read_rows(batch.file, durable.read_small(source, MAX_BYTES), extra)
        if len(rows) != len(batch.jobs):
            rule = f"The file must have the {len(batch.jobs)} jobs that it had when it was taken"
            raise JobError(Mistake("", f"{rule}, but it was written to since and has {len(rows)}."))
        return jobs_of(batch, [row.job for row in rows])

    def _submit(self, rows: Sequence[tuple[str, Job]]) -> None:
        """Put the rows into pending/ that are nowhere yet, and have the disk keep them, all with one fsync of the folder."""
        spool = self._spool
        new = {job_id: row for job_id, row in rows if spool.find_by_name(job_id) is None}
        drafts = [(job_id, spool.tmp / durable.unique_name()) for job_id in new]
        try:
            durable.write_all_new([(draft, job.encode(new[job_id])) for job_id, draft in drafts])
            with spool.claim_lock():
                for job_id, draft in drafts:
                    if spool.find_by_name(job_id) is None:
                        with contextlib.suppress(FileExistsError):
                            spool.link_draft(draft, f"{job_id}.json")
            durable.sync_folder(spool.pending)
            for job_id, row in new.items():
                told = event("submitted", job=job_id, owner=row.owner or None, batch=row.batch)
                log.info("job %s: submitted%s, of batch %s", job_id, whose(row.owner), row.batch, extra=told)
        finally:
            for _, draft in drafts:
                draft.unlink(missing_ok=True)

    def read(self, batch_id: str) -> Batch | None:
        """None when there is no such batch, or nothing that can be read of it."""
        if not is_id(batch_id):  # whatever somebody asks for: no other may become a path
            return None
        try:
            return Batch.model_validate_json(durable.read_small(self._root / batch_id / "batch.json", MAX_BYTES))
        except (FileNotFoundError, NotADirectoryError, ValidationError, durable.UnreadableError):
            return None

    def ids(self) -> list[str]:
        return [folder.name for folder in folders(self._root)]

    def is_spent(self, batch_id: str) -> bool:
        """Whether all of its jobs were in the queue, and nobody has any of them any more."""
        batch = self.read(batch_id)
        if batch is None or not self._queued(batch):
            return False
        # Those of the last rows are there the longest. RACE: one that goes back to the queue may be missed once.
        return not any(self._spool.find_by_name(job_id) for _ in range(2) for job_id in reversed(batch.jobs))

    def committed(self, batch_id: str) -> Batch | None:
        """The batch of that id; None: there is none, or not yet."""
        return self._committed(self._root / batch_id) if is_id(batch_id) else None

    def progress(self, batch_id: str) -> BatchProgress | None:
        """How many of the batch's jobs are where; a look at each of them. None: there is no such batch, or not yet."""
        batch = self.committed(batch_id)
        if batch is None:
            return None
        counts: dict[State, int] = dict.fromkeys(get_args(State), 0)
        nowhere = 0
        queued = self._queued(batch)  # before the look at the jobs: one that comes meanwhile is not taken for gone
        for job_id in batch.jobs:
            if place := self._spool.find_by_name(job_id):
                counts[place.state] += 1
            else:
                nowhere += 1
        return BatchProgress(batch, counts, coming=0 if queued else nowhere, gone=nowhere if queued else 0)


def jobs_of(batch: Batch, rows: Sequence[Job]) -> list[Job]:
    """The rows of its file as jobs of the batch: each with its owner and the batch's id."""
    return [row.model_copy(update={"batch": batch.id, "owner": row.owner or batch.owner}) for row in rows]


def _job_ids(batch_id: str, rows: int, single: bool) -> tuple[str, ...]:
    """The ids of a batch's jobs, row by row; a picture's only job has the batch's own."""
    return (batch_id,) if single else tuple(f"{batch_id}.{number:04d}" for number in range(1, rows + 1))
