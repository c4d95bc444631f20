"""Who may use a route that changes something: declared beside the route, held by the guard before the view runs.

    @blueprint.post("/api/v1/jobs/<job_id>/hold")
    @needs(Rule.OWNER)
    def hold(job_id: str) -> Response: ...

A route that declares nothing may be used by operators only, so one that was forgotten is shut and not open; a test walks all
routes and names those without a rule. Reading is for everybody who is let in, and needs no rule.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

View = TypeVar("View", bound=Callable[..., Any])


class Rule(Enum):
    #: Also without a key, and reading too: the page that asks for it.
    ANYONE = "anyone"
    #: Everybody who is let in: what changes nobody's job.
    LET_IN = "let in"
    #: Everybody who is let in, and `Office.accept` sees whose the job is and how fast they come.
    SUBMIT = "submit"
    #: The owner of the job that the route's `job_id` names, and operators.
    OWNER = "owner"
    #: The view finds the jobs itself, and calls `people.require` for each before it changes it.
    EACH = "each"
    OPERATOR = "operator"


def needs(rule: Rule) -> Callable[[View], View]:
    def declare(view: View) -> View:
        view.rule = rule  # type: ignore[attr-defined]
        return view

    return declare


def rule_of(view: Callable[..., Any] | None) -> Rule | None:
    """What the view declared; None: nothing."""
    return getattr(view, "rule", None)
