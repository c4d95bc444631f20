"""The last day in numbers, from the jobs that ended in it. Pure: no clock, no disk."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict, Field

from webui.store import Outcome

#: Pieces that the day is cut into, and the length of one in seconds.
PIECES = 48
PIECE_S = 1800.0
DAY_S = PIECES * PIECE_S


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True)


class Spread(_Told):
    """How long something took: the middle one, and the one that all but a twentieth stayed below."""

    count: int
    p50_s: float
    p95_s: float


class Piece(_Told):
    """Half an hour."""

    pictures: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    waited: Spread | None = Field(None, description="Seconds in the queue of the jobs that ended in it.")
    ran: Spread | None = Field(None, description="Seconds from start to end of those that were done.")


class Day(_Told):
    """The last 24 hours."""

    pictures: int
    pictures_last_hour: int
    done: int
    failed: int
    cancelled: int
    waited: Spread | None
    ran: Spread | None
    failures: dict[str, int] = Field(description="Number of failed jobs by the code of the reason, the most frequent first.")
    pieces: tuple[Piece, ...] = Field(description="Half hours, the oldest first; the last one ends now.")
    is_whole: bool = Field(description="False when more jobs ended than are looked at: then only the newest are counted.")


def day(outcomes: Iterable[Outcome], now_ms: int, is_whole: bool = True) -> Day:
    """Count the jobs that ended in the day before `now_ms`, milliseconds since 1970."""
    pieces: list[list[Outcome]] = [[] for _ in range(PIECES)]
    for each in outcomes:
        back = math.floor((now_ms - each.completed_ms) / (PIECE_S * 1000))
        # One that another host's clock puts into the future ended just now.
        if back < PIECES:
            pieces[PIECES - 1 - max(0, back)].append(each)
    told = [_piece(piece) for piece in pieces]
    every = [each for piece in pieces for each in piece]
    return Day(
        pictures=sum(piece.pictures for piece in told),
        pictures_last_hour=sum(piece.pictures for piece in told[-2:]),
        done=sum(piece.done for piece in told),
        failed=sum(piece.failed for piece in told),
        cancelled=sum(piece.cancelled for piece in told),
        waited=_waited(every),
        ran=_ran(every),
        failures=dict(Counter(each.failure or "unknown" for each in every if each.state == "failed").most_common()),
        pieces=tuple(told),
        is_whole=is_whole,
    )


def _piece(ended: Sequence[Outcome]) -> Piece:
    states = Counter(each.state for each in ended)
    return Piece(
        pictures=sum(each.pictures for each in ended if each.state == "done"),
        done=states["done"],
        failed=states["failed"],
        cancelled=states["cancelled"],
        waited=_waited(ended),
        ran=_ran(ended),
    )


def _waited(ended: Iterable[Outcome]) -> Spread | None:
    return spread([each.waited for each in ended if each.waited is not None])


def _ran(ended: Iterable[Outcome]) -> Spread | None:
    return spread([each.seconds for each in ended if each.seconds is not None and each.state == "done"])


def spread(seconds: Sequence[float]) -> Spread | None:
    """None of nothing; else nearest-rank percentiles."""
    if not seconds:
        return None
    line = sorted(seconds)
    at = (line[min(len(line) - 1, math.ceil(part * len(line)) - 1)] for part in (0.5, 0.95))
    p50, p95 = (round(each, 3) for each in at)
    return Spread(count=len(line), p50_s=p50, p95_s=p95)
