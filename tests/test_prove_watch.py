"""The watch's proof in its short form: nothing is missed, and done/ costs no watch."""

from __future__ import annotations

from tests.prove import watch


def test_p2_nothing_that_comes_into_pending_is_missed() -> None:
    figures = list(watch.prove(short=True))
    assert len(figures) == len(watch.SCENARIOS) + 2 + 2
    assert [figure.line for figure in figures if figure.ok is not True] == []
