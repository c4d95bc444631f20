"""Who asks, and what they may do to whose jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from flask import g

from spooler.job import Job
from spooler.mistakes import show


class NotYoursError(RuntimeError):
    """Something that only a job's owner or an operator may do: met by everybody else who tries, as a 403."""


@dataclass(frozen=True)
class Person:
    """Somebody who sent a request. Everybody sees everything; jobs are changed by their owner and by operators."""

    name: str
    operator: bool = False

    def may_change(self, owner: str | None) -> bool:
        return self.operator or (bool(self.name) and self.name == owner)

    def owned(self, job: Job) -> Job:
        """The job with its owner: whoever sends it, where keys tell who that is. An operator may name somebody else.

        Raises NotYoursError when anybody else does.
        """
        if not self.operator and job.owner not in ("", self.name):
            raise NotYoursError(f"`owner` must be your own name, {show(self.name)}, or be left out, but is {show(job.owner)}.")
        return job if job.owner or not self.name else job.model_copy(update={"owner": self.name})


#: Whoever asks where nobody needs a key: may do everything, and is nobody in particular.
ANYBODY = Person("", operator=True)
#: Whoever the guard has not let in: may do nothing.
NOBODY = Person("")


def person() -> Person:
    """Who sent this request: the guard has found that out before any view runs."""
    return cast(Person, g.get("person", NOBODY))


def client() -> str:
    """As whose a request is counted, a person's or an address's; "": as nobody's, for this machine's own may do all."""
    return cast(str, g.get("client", ""))


def hurry(jobs: int = 1) -> float:
    """Count so many more jobs of whoever asks: the seconds after which they may come, 0 when they may now."""
    pace: Callable[[int], float] | None = g.get("pace")
    return pace(jobs) if pace else 0.0


def require(owner: str | None) -> None:
    """For a view that finds its jobs itself: raise NotYoursError unless who asks may change the jobs of that owner."""
    if not person().may_change(owner):
        of_somebody = f"It is the job of {show(owner)}: only its owner and an operator may do that"
        rule = of_somebody if owner else "Nobody owns it: only an operator may do that"
        raise NotYoursError(f"{rule}, and you are {show(person().name)}.")


def require_operator() -> None:
    """Raise NotYoursError unless an operator asks."""
    if not person().operator:
        raise NotYoursError(f"Only an operator may do that, and you are {show(person().name)}.")
