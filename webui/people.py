"""Who asks, and what they may do to whose jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from flask import g


@dataclass(frozen=True)
class Person:
    """Somebody who sent a request. Everybody sees everything; jobs are changed by their owner and by operators."""

    name: str
    operator: bool = False

    def may_change(self, owner: str | None) -> bool:
        return self.operator or (bool(self.name) and self.name == owner)


#: Whoever asks where nobody needs a key: may do everything, and is nobody in particular.
ANYBODY = Person("", operator=True)


def person() -> Person:
    """Who sent this request: the guard has found that out before any view runs."""
    return cast(Person, g.get("person", ANYBODY))
