"""What stands beside an event in the web app's log: who asked, and through which door."""

from __future__ import annotations

from flask import has_request_context

from webui.errors import shape
from webui.people import person


def beside() -> dict[str, str]:
    """`door`: own, a1111, openai or page, as the shapes of errors have them. `by`: whose key it was, where people need one."""
    if not has_request_context():
        return {}
    who = person().name
    return {"door": shape(), "by": who} if who else {"door": shape()}
