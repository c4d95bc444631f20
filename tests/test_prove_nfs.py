"""The short form of the NFS proof (N7, N8, P2): where the tools for it are not there, it says so and claims nothing."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.prove import nfs
from tests.prove.report import Figure


def test_p2_the_spool_on_kernel_nfs() -> None:
    figures = list(nfs.prove(True))
    assert figures
    if reason := nfs.why_not_short():
        assert [(each.ok, each.value, each.details) for each in figures] == [(None, None, reason)]
    else:
        assert all(each.ok for each in figures), [each.line for each in figures]


def test_a_machine_without_the_tools_says_so_and_claims_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nfs, "TOOLS", (*nfs.TOOLS, "no-such-tool"))
    (figure,) = nfs.prove(True)
    assert isinstance(figure, Figure)
    assert (figure.ok, figure.value) == (None, None)
    assert "must be installed" in figure.details or "kernel" in figure.details


@pytest.mark.parametrize(
    ("done", "shown", "lost", "doubled", "twice"),
    [
        ({"a": 1, "b": 1}, ["1", "2"], 0, 0, 0),
        ({"a": 1}, ["1"], 1, 0, 0),
        ({"a": 2, "b": 1}, ["1", "2", "3"], 0, 1, 0),
        ({"a": 1, "b": 1}, ["1", "2", "2"], 0, 0, 1),
    ],
)
def test_the_judge_sees_what_is_lost_and_what_is_doubled(
    done: dict[str, int], shown: list[str], lost: int, doubled: int, twice: int
) -> None:
    found = nfs.judge({"1": "a", "2": "b"}, Counter(done), {"done": len(done), "pending": 0}, shown)
    assert (found["lost"], found["doubled"], found["claimed twice as shown"]) == (lost, doubled, twice)
