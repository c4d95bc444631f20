"""What must hold in a spool, looked up from outside: the files are read here without any of the spool's verbs.

A ledger tells what was acknowledged, to submitters, to the engine and to readers. A job is known by its bytes, which no two
jobs of a ledger share: so one that was doubled, halved or given another id is seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from spooler.record import Record
from spooler.spool import Spool
from tests.prove.restart import picture

ENDS = frozenset({"done", "failed", "cancelled", "rejected"})
RESULT = re.compile(r"\d{1,4}\.png")


@dataclass(frozen=True)
class Entry:
    """One job of a ledger."""

    id: str
    raw: bytes
    ends: frozenset[str] = frozenset({"done"})  #: where it may rest when everything was run to its end
    inputs: Mapping[str, bytes] = field(default_factory=dict)
    given: bool = True  #: acknowledged. False: it may be there or not, but never in part
    state: str | None = None  #: what a reader has seen it end as: it must stay so
    heard: int = 0  #: the attempts that the engine has heard of
    keeps_id: bool = True  #: its id was told to somebody. False: a dropped file, which gets its id at the claim
    edited: bytes | None = None  #: the bytes that somebody is changing it to; then what was submitted lies beside them
    due: bool = False  #: not there yet, but when all was run to its end it must be: a row of a dropped file

    @property
    def raws(self) -> frozenset[bytes]:
        """The bytes that it may have."""
        return frozenset({self.raw} if self.edited is None else {self.raw, self.edited})


@dataclass(frozen=True)
class Ledger:
    """What was acknowledged."""

    entries: tuple[Entry, ...]

    def entry(self, job_id: str) -> Entry:
        return next(entry for entry in self.entries if entry.id == job_id)

    def but(self, job_id: str, **changes: object) -> Ledger:
        """The ledger with one entry changed."""
        return Ledger(tuple(replace(each, **changes) if each.id == job_id else each for each in self.entries))  # type: ignore[arg-type]

    def heard(self, told: Iterable[tuple[bytes, int]]) -> Ledger:
        """The ledger after the engine heard of attempts, by the job's bytes."""
        numbers: dict[bytes, int] = {}
        for raw, number in told:
            numbers[raw] = max(number, numbers.get(raw, 0))
        last = [max(numbers.get(raw, 0) for raw in each.raws) for each in self.entries]
        return Ledger(tuple(replace(each, heard=max(each.heard, more)) for each, more in zip(self.entries, last, strict=True)))


@dataclass(frozen=True)
class Sight:
    """A job as it lies in the spool."""

    state: str
    id: str
    path: Path
    raw: bytes


def violations(root: Path, ledger: Ledger, rested: bool) -> list[str]:
    """Every way in which the spool breaks a promise, one sentence each, beginning with the promise's number.

    `rested`: everything was run to its end, so that nothing may wait or be half way. Else a process was just killed: a folder
    that it had made and not yet filled may be there, in cancelled/ with its record, and so may a reason whose file is still in
    pending/.
    """
    sights = list(look(root))
    found: list[str] = []
    for entry in ledger.entries:
        mine = [sight for sight in sights if sight.raw in entry.raws]
        found += _of_entry(entry, mine, rested)
    known = {raw for entry in ledger.entries for raw in entry.raws}
    found += [
        f"P2: {sight.state}/{sight.id} is a job that nobody gave: {sight.raw[:40]!r}"
        for sight in sights
        if sight.raw not in known
    ]
    for sight in sights:
        found += _of_sight(sight, rested)
    ids: dict[str, list[str]] = {}
    told = {raw for entry in ledger.entries if entry.keeps_id for raw in entry.raws}
    for sight in sights:
        if sight.state != "rejected" and sight.raw in told:
            ids.setdefault(sight.id, []).append(sight.state)
    found += [
        f"P2: the id {job_id} is there twice, in {' and '.join(states)}" for job_id, states in ids.items() if len(states) > 1
    ]
    return [*found, *_litter(root, rested)]


def look(root: Path) -> Iterator[Sight]:
    """Every job that there is, by its job file."""
    for state in ("pending", "held"):
        for path in sorted((root / state).iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                yield from _job_in(path, state)
            elif path.suffix == ".json":
                yield Sight(state, path.name.removesuffix(".json"), path, path.read_bytes())
    for spooler in _folders(root / "claimed"):
        for folder in _folders(spooler):
            yield from _job_in(folder, "claimed")
    for state in ("done", "failed", "cancelled"):
        for folder in _folders(root / state):
            yield from _job_in(folder, state)
    for path in sorted((root / "rejected").iterdir()):
        if path.is_dir():
            yield from _job_in(path, "rejected")
        elif not path.name.endswith(".reason.txt") and not path.name.startswith("."):
            yield Sight("rejected", path.name.removesuffix(".json"), path, path.read_bytes())


def _job_in(folder: Path, state: str) -> Iterator[Sight]:
    if (folder / "job.json").exists():
        yield Sight(state, folder.name, folder, (folder / "job.json").read_bytes())


def _of_entry(entry: Entry, sights: list[Sight], rested: bool) -> Iterator[str]:
    if not sights:
        if entry.given or (entry.due and rested):
            yield f"P2: the job {entry.id} is lost"
        return
    if len(sights) > 1:
        yield f"P2: the job {entry.id} is shown {len(sights)} times: {', '.join(f'{each.state}/{each.id}' for each in sights)}"
    for sight in sights:
        if entry.keeps_id and sight.state != "rejected" and sight.id != entry.id:
            yield f"P2: the job {entry.id} is found as {sight.state}/{sight.id}"
        if entry.state and sight.state != entry.state:
            yield f"P2: the job {entry.id} was shown in {entry.state}, and now is in {sight.state}"
        if rested and sight.state not in entry.ends:
            yield f"P2: the job {entry.id} came to rest in {sight.state}, not in {' or '.join(sorted(entry.ends))}"
        if sight.raw == entry.edited and _bytes(sight.path / "submitted.json") != entry.raw:
            yield f"P2: the job {entry.id} in {sight.state} was changed, and what was submitted is lost"
        for name, data in entry.inputs.items():
            files = [path for path in (sight.path / "inputs" / name, sight.path / name) if path.exists()]
            if not files or files[0].read_bytes() != data:
                yield f"P2: the job {entry.id} in {sight.state} has lost its picture {name}"
        if entry.heard:
            record = _record(sight.path)
            known = max((attempt.number for attempt in record.attempts), default=0) if record else 0
            if known < entry.heard:
                yield f"P4: the engine heard of attempt {entry.heard} of {entry.id}, but its record knows of {known}"


def _of_sight(sight: Sight, rested: bool) -> Iterator[str]:
    """What is wrong with one job where it lies, whoever gave it."""
    where = f"{sight.state}/{sight.id}"
    if not sight.raw:
        yield f"P2: {where} is a job of 0 bytes"
    if sight.state == "rejected":
        reason = sight.path.with_name(f"{sight.path.name}.reason.txt")
        if not reason.exists() or not reason.read_text().strip():
            yield f"P5: {where} has no reason"
        return
    if sight.state not in ENDS:
        return
    record = _record(sight.path)
    if record is None:
        # A cancelled job is cancelled by its folder alone until its record is there.
        if sight.state != "cancelled" or rested:
            yield f"P2: {where} has no valid record.json"
        return
    if record.id != sight.id:
        yield f"P2: {where} has the record of {record.id}"
    if sight.state == "done":
        yield from _of_done(sight, record)
    elif record.failure is None or not record.failure.reason:
        yield f"P5: {where} has no reason in its record.json"


def _of_done(sight: Sight, record: Record) -> Iterator[str]:
    where = f"done/{sight.id}"
    if record.completed is None or record.failure or not record.images:
        yield f"P2: {where} has a record of a job that is not done"
    if record.attempts and record.attempts[-1].outcome != "done":
        yield f"P2: {where} has a record whose last attempt ended as {record.attempts[-1].outcome}"
    for image in record.images:
        file = sight.path / image.file
        if not file.exists():
            yield f"P2: {where} lacks {image.file}, which its record names"
        elif file.read_bytes() != picture(image.seed, image.index):
            yield f"P2: {where} has a part of a picture, or another attempt's, as {image.file}"
    named = {image.file for image in record.images}
    for path in sight.path.iterdir():
        if RESULT.fullmatch(path.name) and path.name not in named:
            yield f"P2: {where} has {path.name}, which is no result of it"


def _litter(root: Path, rested: bool) -> Iterator[str]:
    """What may lie about after a kill, and not after a restart: it would take an id, or be shown as a job."""
    for path in sorted((root / "rejected").glob("*.reason.txt")):
        if not path.with_name(path.name.removesuffix(".reason.txt")).exists() and rested:
            yield f"P5: rejected/{path.name} is a reason without its file"
    folders = [(f"claimed/{theirs.name}", each) for theirs in _folders(root / "claimed") for each in _folders(theirs)]
    folders += [(state, each) for state in ("pending", "held", "done", "failed") for each in _folders(root / state)]
    # One in cancelled/ is left until the next cancel of that id, but no reader may take it for a job.
    shown = [place.path for place in Spool(root).places("cancelled")]
    folders += [("cancelled", each) for each in _folders(root / "cancelled") if not rested or each in shown]
    for where, folder in folders:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        begun = names in ([], ["hold"]) or (where == "cancelled" and names == ["record.json"])
        # In cancelled/ a folder without a job stays until its id is cancelled again, or fsck: it takes no id, and is no job.
        clears = rested and where != "cancelled"
        if "job.json" not in names and (clears or not begun or where in ("done", "failed")):
            yield f"P3: {where}/{folder.name} has no job.json in it, but {', '.join(names) or 'nothing'}"
    for batch in _folders(root / "batches") if (root / "batches").exists() and rested else ():
        if not (batch / "queued").exists():
            yield f"P2: batches/{batch.name} is not all in the queue"


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _record(folder: Path) -> Record | None:
    try:
        return Record.decode((folder / "record.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
