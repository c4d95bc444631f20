"""P2, P5: what programs drop into pending/ is taken whole and once: the short form of tests/prove/traces.py."""

from __future__ import annotations

from tests.prove import traces


def test_p2_p5_dropped_files_are_taken_whole_and_once_and_none_is_wrongly_set_aside() -> None:
    for figure in traces.prove(short=True):
        assert figure.ok, figure.line
