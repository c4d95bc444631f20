"""F5: a full disk loses nothing: the short form of tests/prove/disk_full.py."""

from __future__ import annotations

import house

from tests.prove import disk_full


def test_f5_a_full_disk_loses_nothing_and_all_goes_on_when_there_is_room() -> None:
    if reason := disk_full.usable():
        house.missing(reason)
    (figure,) = disk_full.prove(short=True)
    assert figure.ok, figure.line
