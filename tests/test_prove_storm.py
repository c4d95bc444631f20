"""P2 and P4 under kills at random: the short form of tests/prove/storm.py."""

from __future__ import annotations

from tests.prove import storm


def test_p2_what_goes_in_comes_out_once_whoever_is_killed() -> None:
    figures = storm.prove(short=True)
    assert all(figure.ok for figure in figures), "\n".join(figure.line for figure in figures)
