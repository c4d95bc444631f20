"""How many rows a call of the UNet should have: up to the knee, where more of them no longer make it faster for each.

It is measured while jobs are drawn, model by model and size by size: a call of so many rows takes so many seconds. One that was
not measured yet begins with a single picture and doubles as long as that pays. What was found is kept in knees.json, and later
calls can only better it: the fastest counts, for whatever else the machine does makes a call slower and none faster.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spooler.engine.moment import Moment
from spooler.engine.notes import Notes

#: Rows of one picture with guidance: the least that a call must have room for.
LEAST = 2
#: The part of the best speed that is as good as the best. So no job is slower for the bound than 1 / 0.95 times.
ENOUGH = 0.95
#: Calls of so many rows are tried in any case, and of so many times the knee: one doubling may give nothing, the next one more.
TRIED, BEYOND = 8, 3
#: Calls of a size that are measured before anything is made of it.
SAMPLES = 12
#: Of so many calls the last few may have twice the rows: what was measured at a bad time would else never be measured again.
AGAIN, RETRIED = 200, 30
#: What is bettered by less is not written down.
NOTED = 0.02


def most_rows(seconds: Mapping[int, float], most: int) -> int:
    """The rows that a call should have at most, from the seconds that calls of so many rows took; LEAST to `most`."""
    if not seconds:
        return min(LEAST, most)
    # A call of fewer rows is no slower than one of more: it was only measured at a bad time.
    speeds = {rows: rows / min(taken for more, taken in seconds.items() if more >= rows) for rows in seconds}
    knee = min(rows for rows, speed in speeds.items() if speed >= ENOUGH * max(speeds.values()))
    if max(speeds) < min(most, max(TRIED, BEYOND * knee)):  # still gaining, as far as is known
        knee = 2 * max(speeds)
    return max(LEAST, min(knee, most))


class Knee:
    """The seconds that calls of one model at one size take."""

    def __init__(self, notes: Notes, key: str, most: int, device: torch.device):
        self._notes = notes
        self._key = key
        self._most = most
        self._device = device
        self._found: dict[int, float] = _numbers(notes.found.get(key))
        self._samples: dict[int, list[float]] = {}
        #: Of calls that the device is still at: rows, and the moments of begin and end.
        self._under_way: deque[tuple[int, Moment, Moment]] = deque()
        self._calls = 0
        self._short: int | None = None  # rows for which memory was short

    @property
    def rows(self) -> int:
        """The rows that a call should have at most."""
        self._read()
        most = self._most if self._short is None else min(self._most, max(LEAST, self._short // 2))
        knee = most_rows(self._found, most)
        return min(2 * knee, most) if self._calls % AGAIN >= AGAIN - RETRIED else knee

    def seconds(self, rows: int) -> float | None:
        """What the fastest call of so many rows took; None where it was not measured yet."""
        return self._found.get(rows)

    def begin(self) -> Moment:
        """The moment at which a call begins, for `end`."""
        return Moment(self._device)

    def end(self, rows: int, begun: Moment) -> None:
        """A call of so many rows was made, and nothing else since `begun`."""
        self._calls += 1
        self._under_way.append((rows, begun, self.begin()))
        self._read()

    def met_full_memory(self, rows: int) -> None:
        """A call of so many rows did not fit."""
        self._short = min(rows, self._short or rows)

    def _read(self) -> None:
        while self._under_way:
            rows, begun, ended = self._under_way[0]
            if not ended.has_come:
                return
            self._under_way.popleft()
            self._learn(rows, max(begun.until(ended), 1e-9))

    def _learn(self, rows: int, seconds: float) -> None:
        known = self._found.get(rows)
        if known is None:
            samples = self._samples.setdefault(rows, [])
            samples.append(seconds)
            if len(samples) < SAMPLES:
                return
            seconds = min(self._samples.pop(rows))
        elif seconds > (1 - NOTED) * known:
            return
        self._found[rows] = seconds
        self._notes.found[self._key] = {str(rows): float(f"{taken:.4g}") for rows, taken in sorted(self._found.items())}
        self._notes.write()


class Knees:
    """Those of all models and sizes, kept in a file."""

    def __init__(self, path: Path, device: torch.device):
        self._notes = Notes(path)
        self._device = device
        self._kept: dict[tuple[str, int], Knee] = {}

    def get(self, key: str, most: int) -> Knee:
        """The knee of what the key tells (device, model, size, tricks), which is never above `most` rows."""
        if (key, most) not in self._kept:
            self._kept[key, most] = Knee(self._notes, key, most, self._device)
        return self._kept[key, most]


def _numbers(noted: Any) -> dict[int, float]:
    """What a file says of a knee; nothing when somebody else wrote it."""
    try:
        found = {int(rows): float(seconds) for rows, seconds in noted.items()}
    except (AttributeError, TypeError, ValueError):
        return {}
    return found if all(rows > 0 and seconds > 0 for rows, seconds in found.items()) else {}
