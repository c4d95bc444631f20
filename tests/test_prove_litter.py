"""The short form of the proof `litter`."""

from __future__ import annotations

from tests.prove import litter


def test_p5_hostile_files_are_taken_or_set_aside_with_their_reason() -> None:
    (figure,) = litter.prove(short=True)
    assert figure.ok, figure.line
