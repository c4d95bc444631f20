"""What a writer works at: the bytes of one file or folder, and what was whole under its name at some moment.

What a writer yields is how long it may pause there, in seconds: OPEN while it holds the file open to write, or has nothing half
written; SHUT in the middle of its work with nothing open, which the spooler cannot tell from the end: shorter than its settle
time. A writer that pauses longer there is the known limit (docs/spool.md).
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: Seconds that a file must stay unchanged, where its bytes do not tell its end: the settings' default.
SETTLE_S = 10.0
OPEN = 2.4 * SETTLE_S
ANY = 2.5 * SETTLE_S
SHUT = 0.85 * SETTLE_S

NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
ONLY = os.O_WRONLY | os.O_CREAT | os.O_EXCL
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
KEPT = os.O_WRONLY | os.O_CREAT  # not truncated: dd conv=notrunc, rsync --inplace, scp

#: A job as it was given: the file's name in done/<id>/ or batches/<id>/ -> its bytes.
Whole = dict[str, bytes]
Steps = Iterator[float]


@dataclass
class Work:
    """One trace: who writes what, and what was whole under its name at some moment."""

    stem: str
    suffix: str  # of the name in pending/; "" for a folder
    data: bytes
    rng: random.Random
    pending: Path
    tmp: Path  # on the same file system, beside pending/
    byte_by_byte: bool = False
    wholes: list[Whole] = field(default_factory=list)  # in order: only the last has to be taken
    invalid: bytes | None = None  # what is to be set aside
    litter: set[str] = field(default_factory=set)  # temporary names that it leaves: never taken, never set aside
    overrides: bytes | None = None

    @property
    def essence(self) -> bytes:
        """What must come in one go: a JSON object ends with its brace, and white space that comes later is another file."""
        return self.data.rstrip() if self.suffix == ".json" else self.data

    @property
    def name(self) -> str:
        return self.stem + self.suffix

    @property
    def path(self) -> Path:
        return self.pending / self.name

    def declare(self, data: bytes) -> None:
        """From now on these bytes may be taken as the whole: called before the last of them is written."""
        self.wholes.append(self.whole(data))

    def whole(self, data: bytes) -> Whole:
        if self.suffix == ".json":
            return {"job.json": data}
        extra = {} if self.overrides is None else {f"{self.name}.overrides.json": self.overrides}
        return {self.name: data, **extra}

    @property
    def seems_whole(self) -> bool:
        """Whether the bytes alone prove that it is whole: then it is taken when it has not changed for the settle time, whoever
        has it open."""
        try:
            if self.suffix == ".json":
                return isinstance(json.loads(self.path.read_bytes().decode("utf-8-sig")), dict)
            return not self.suffix
        except (OSError, ValueError):
            return False

    def hidden(self, name: str) -> Path:
        """A temporary name in pending/."""
        self.litter.add(name)
        return self.pending / name

    def cuts(self, data: bytes) -> list[tuple[int, bytes]]:
        """The data in pieces, with their offsets."""
        if self.byte_by_byte or not data:
            return [(at, data[at : at + 1]) for at in range(len(data))]
        ends = sorted({*(self.rng.randint(1, len(data)) for _ in range(self.rng.randint(0, 5))), len(data)})
        return [(at, data[at:end]) for at, end in zip([0, *ends], ends, strict=False)]

    def word(self) -> str:
        return "".join(self.rng.choice("abcdefghijkABCDEFGHIJK0123456789") for _ in range(6))


def put(work: Work, path: Path, data: bytes, flags: int = NEW, after: Callable[[int], None] | None = None) -> Steps:
    """Open, write piece by piece, close."""
    fd = os.open(path, flags, 0o644)
    try:
        yield OPEN
        for _, piece in work.cuts(data):
            os.write(fd, piece)
            yield OPEN
        if after:
            after(fd)
            yield OPEN
    finally:
        os.close(fd)


def old_times(work: Work) -> tuple[int, int]:
    """Times that a copy keeps: of long ago, of just now, of the future; in whole seconds, as some protocols have them."""
    at = work.rng.choice((0, 1_000_000_000, 1_700_000_000, 4_000_000_000)) * 1_000_000_000
    return (at, at)


def draft_and_rename(work: Work, draft: str, then: Callable[[Path], None] = lambda path: None) -> Steps:
    path = work.hidden(draft)
    yield from put(work, path, work.data, ONLY)
    yield ANY
    then(path)
    yield ANY
    work.declare(work.data)
    path.rename(work.path)


def by_offset(work: Work, shuffled: bool, prepare: Callable[[int], None]) -> Steps:
    fd = os.open(work.path, NEW, 0o644)
    try:
        prepare(fd)
        yield OPEN
        cuts = work.cuts(work.data)
        if shuffled:
            work.rng.shuffle(cuts)
        for number, (at, piece) in enumerate(cuts):
            if number == len(cuts) - 1:
                work.declare(work.data)
            os.pwrite(fd, piece, at)
            yield OPEN
    finally:
        os.close(fd)
