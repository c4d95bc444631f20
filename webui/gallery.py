"""What a person asks of the gallery: the query string as a search, and what is wrong with it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from typing import Any

from flask_babel import gettext, lazy_gettext

from webui.search import Search

#: The filters by their names in the query string, in the order in which they are shown, with what they are called.
FILTERS: dict[str, Any] = {
    "q": lazy_gettext("Search"),
    "model": lazy_gettext("Model"),
    "owner": lazy_gettext("Owner"),
    "from": lazy_gettext("From"),
    "to": lazy_gettext("To"),
    "size": lazy_gettext("At least"),
    "starred": lazy_gettext("Starred"),
    "batch": lazy_gettext("Batch"),
}
#: Sizes worth asking for: side of a square in pixels with as many pixels as the picture has at least.
SIDES = (512, 768, 1024, 1536, 2048)
MAX_SIDE = 1 << 20


@dataclass(frozen=True)
class Asked:
    """A search, the query string that stands for it, and a sentence for each value that was none."""

    search: Search
    given: dict[str, str]
    mistakes: tuple[str, ...]

    def without(self, name: str) -> dict[str, str]:
        return {key: value for key, value in self.given.items() if key != name}


def asked(query: Mapping[str, str], zone: tzinfo | None = None) -> Asked:
    """The search of a query string; days are those of `zone`, the server's when None. A bad value is told and left out."""
    given = {name: query[name].strip() for name in FILTERS if query.get(name, "").strip()}
    mistakes: list[str] = []
    moments: dict[str, datetime] = {}
    for name, days in (("from", 0), ("to", 1)):  # the last day is within
        if text := given.get(name):
            try:
                moments[name] = _midnight(date.fromisoformat(text) + timedelta(days=days), zone)
            except (ValueError, OverflowError):
                mistakes.append(gettext("A day must be written like 2027-03-31, but is “%(text)s”.", text=text[:40]))
                del given[name]
    side = 0
    if text := given.get("size"):
        if text.isascii() and text.isdigit() and 0 < int(text[:9]) <= MAX_SIDE:
            side = int(text[:9])
        else:
            mistakes.append(gettext("A size must be a number of pixels, but is “%(text)s”.", text=text[:40]))
            del given["size"]
    search = Search(
        query=given.get("q", ""),
        owner=given.get("owner"),
        model=given.get("model"),
        batch=given.get("batch"),
        starred=True if given.get("starred") else None,
        since=moments.get("from"),
        until=moments.get("to"),
        min_pixels=side * side,
    )
    return Asked(search, given, tuple(mistakes))


def _midnight(day: date, zone: tzinfo | None) -> datetime:
    """Where the day begins. Raises ValueError or OverflowError for one that no clock knows."""
    at = datetime.combine(day, time())
    made = at.replace(tzinfo=zone) if zone else at.astimezone()
    made.timestamp()
    return made
