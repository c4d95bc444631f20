"""The side file pending/<id>.priority: another priority for a waiting job than its own, a number or the word `top`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spooler import durable
from spooler.mistakes import show

#: The most that a priority may be, and below 0 the least.
MOST_PRIORITY = 100
#: Of the file.
MAX_BYTES = 32


@dataclass(frozen=True, slots=True)
class Given:
    """What a side file says: nothing without one, or, with `mistake` in a sentence, when it cannot be understood."""

    value: int | Literal["top"] | None = None
    mistake: str = ""


def read(path: Path) -> Given:
    """What the file says. Raises FileNotFoundError without one, OSError when it cannot be read."""
    try:
        return understood(durable.read_small(path, MAX_BYTES).decode(errors="replace"))
    except durable.UnreadableError as error:
        return Given(mistake=f"Its .priority file has no effect: {error}")


def understood(text: str) -> Given:
    """What the text of a side file says."""
    text = text.strip()
    if text == "top":
        return Given("top")
    try:
        return Given(max(-MOST_PRIORITY, min(MOST_PRIORITY, int(text))))
    except ValueError:
        rule = f"must have a whole number from -{MOST_PRIORITY} to {MOST_PRIORITY}, or `top`"
        return Given(mistake=f"Its .priority file has no effect: it {rule}, but has {show(text)}.")
