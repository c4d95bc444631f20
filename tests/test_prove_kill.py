"""P1 to P5 under SIGKILL: the short form of tests/prove/kill.py, a few points of each operation."""

from __future__ import annotations

import house

from tests.prove import fire, kill


def test_p1_to_p5_hold_after_a_kill_before_any_system_call() -> None:
    if reason := fire.usable():
        house.missing(reason)
    figures = kill.prove(short=True)
    assert all(figure.ok for figure in figures), "\n".join(figure.line for figure in figures)


def test_a_process_that_is_killed_before_a_call_has_not_made_it() -> None:
    if reason := fire.usable():
        house.missing(reason)
    with fire.scratch() as folder:

        def deed() -> None:
            for name in ("one", "two"):
                (folder / name).mkdir()

        killed = fire.fire(deed, inject="mkdir:signal=SIGKILL:when=2")
        assert (killed.ended, [path.name for path in folder.iterdir()]) == ("killed", ["one"])
