"""The parser's proof in its short form (W-rules and P5: a bad file is set aside with its reason and stops nothing)."""

from __future__ import annotations

from tests.prove import parser


def test_p5_hostile_files_are_answered_with_sentences_and_prefixes_wait() -> None:
    figures = list(parser.prove(short=True))
    assert len(figures) == 5
    assert [figure.line for figure in figures if figure.ok is not True] == []
