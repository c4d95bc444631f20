"""No benchmark: what several of them make their figures with."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(values: Sequence[float], part: float) -> float:
    """The value that this part of them, 0 to 1, does not exceed."""
    line = sorted(values)
    return line[min(len(line) - 1, int(part * len(line)))]
