"""N12: no decision rests on a clock that jumps: the short form of tests/prove/clock.py."""

from __future__ import annotations

from tests.prove import clock


def test_n12_a_jump_of_the_clock_decides_nothing() -> None:
    (figure,) = clock.prove(short=True)
    assert figure.ok, figure.line
