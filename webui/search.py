"""What may be asked of the index of finished jobs, and what it answers. No disk, no database: decisions only.

Finished jobs are shown by time, the newest first. A job's place in time is one whole number: the millisecond in which it ended
and a few bits made from its id. It is the key of the index, the order of every page and the cursor, so a page stays where it is
while new jobs arrive, and a cursor outlives a rebuild.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from spooler.job import JobError, Mistake, show
from spooler.place import Place

Ended = Literal["done", "failed", "cancelled"]
#: The states that jobs end in, and stay in: what the index is about.
ENDED: tuple[Ended, ...] = ("done", "failed", "cancelled")

#: Numbers for each millisecond, for jobs that end in the same one.
PER_MS = 1 << 10
MAX_NUMBER = (1 << 62) - 1
#: Words of a query that are looked at; more say nothing more.
MAX_WORDS = 32
#: Matches of a search are counted up to here.
MAX_COUNTED = 10_000

#: The form of a cursor.
CURSOR = r"^(older|newer)-([0-9]{1,19})$"
_CURSOR = re.compile(CURSOR)


@dataclass(frozen=True)
class Search:
    """What the jobs that are shown must have; empty, they are all shown."""

    query: str = ""  # words, each the beginning of one in the prompt, id, owner or model
    owner: str | None = None
    model: str | None = None
    batch: str | None = None
    starred: bool | None = None
    since: datetime | None = None  # ended then or later
    until: datetime | None = None  # ended earlier
    min_pixels: int = 0  # width times height of its first picture

    @property
    def is_empty(self) -> bool:
        return self == Search()


@dataclass(frozen=True)
class Page:
    """Some finished jobs, the newest first. A job may have moved on since; whoever shows it finds out."""

    places: tuple[Place, ...] = ()
    total: int | None = 0  # None: more than MAX_COUNTED, or too many to count in time
    next_cursor: str | None = None  # of the older ones; None: there are none
    previous_cursor: str | None = None  # of the newer ones
    note: str | None = None  # a sentence when this is not all there is to say

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(place.id for place in self.places)


@dataclass(frozen=True)
class Cursor:
    """Where a page begins: at the jobs that are older, or newer, than a place in time."""

    newer: bool
    number: int

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Raises JobError for a text that no page gave."""
        found = _CURSOR.fullmatch(text)
        if not found or int(found[2]) > MAX_NUMBER:
            raise JobError(Mistake("cursor", f"`cursor` must be one that a page gave, but is {show(text)}."))
        return cls(found[1] == "newer", int(found[2]))

    def encode(self) -> str:
        return f"{'newer' if self.newer else 'older'}-{self.number}"


def number(completed_ms: int, job_id: str, attempt: int = 0) -> int:
    """The job's place in time. When another job has that number: the next attempt, which looks ever farther around."""
    digest = hashlib.blake2b(f"{attempt} {job_id}".encode(), digest_size=8).digest()
    around = int.from_bytes(digest, "big") % min(PER_MS << attempt, MAX_NUMBER >> 4)
    return min(first_number(completed_ms) + around, MAX_NUMBER)


def first_number(completed_ms: int) -> int:
    """The lowest number of that millisecond."""
    return min(max(completed_ms, 0) * PER_MS, MAX_NUMBER - (MAX_NUMBER >> 4))


def match_expression(query: str) -> str:
    """The words of a person's query as quoted FTS5 strings, so that nothing in it is syntax; "" when it has no words."""
    words = re.findall(r"\w+", query.encode(errors="replace").decode())[:MAX_WORDS]
    return " ".join(f'"{word}"*' for word in words)


def page_of(
    found: Iterable[tuple[int, Place]],
    limit: int,
    cursor: Cursor | None,
    skip: int,
    offset: int,
    total: int | None,
    note: str | None,
) -> Page:
    """The page of what was found after the cursor, or from the offset on, of which the first `skip` are not shown.

    When more than `limit` are left, that only tells that there are more.
    """
    backwards = cursor is not None and cursor.newer
    line = sorted(found, key=lambda pair: pair[0], reverse=not backwards)[skip : skip + limit + 1]
    more, shown = len(line) > limit, line[:limit]
    if backwards:
        shown.reverse()
    if not shown:
        return Page(total=total, note=note)
    older = backwards or more
    newer = more if backwards else cursor is not None or offset > 0
    return Page(
        tuple(place for _, place in shown),
        total,
        Cursor(False, shown[-1][0]).encode() if older else None,
        Cursor(True, shown[0][0]).encode() if newer else None,
        note,
    )
