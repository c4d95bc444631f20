"""The short form of the proof `fuzz`."""

from __future__ import annotations

from tests.prove import fuzz


def test_the_apis_answer_as_their_documents_say() -> None:
    for figure in fuzz.prove(short=True):
        assert figure.ok, figure.line
