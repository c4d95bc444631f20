"""Moments as text: ISO 8601 with a zone, so that no host's own clock setting changes what is meant."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator


def read(text: str) -> datetime:
    """The moment in UTC. Raises ValueError for a text that is no moment, has no zone, or that no calendar in UTC holds."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time must have its zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:  # the last hours of the year 9999, west of Greenwich
        raise ValueError("a time must be between the years 1 and 9999 in UTC") from error


def seconds(text: str) -> float:
    """The moment in seconds since 1970. Raises as `read`."""
    return read(text).timestamp()


def _moment(value: str) -> str:
    read(value)
    return value


#: A time as text; one that is none would be met only where it is reckoned with.
Moment = Annotated[str, AfterValidator(_moment)]
