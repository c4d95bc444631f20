"""P1 to P5 and W5 when a system call fails: the short form of tests/prove/errno_.py, a few calls of each operation."""

from __future__ import annotations

import house

from tests.prove import errno_, fire
from tests.prove.fire import Call, Run


def test_p1_to_p5_and_w5_hold_when_any_system_call_fails() -> None:
    if reason := fire.usable():
        house.missing(reason)
    figures = errno_.prove(short=True)
    assert all(figure.ok for figure in figures), "\n".join(figure.line for figure in figures)


def test_an_ok_after_a_failed_fsync_is_seen() -> None:
    """The proof must not be blind: W5 and silent OKs in made-up runs."""
    write, synced = Call("write", 1, "3</x/1/tmp/a>", "4"), Call("fsync", 1, "3</x/1/tmp/a>", "0")
    clean = Run("returned", True, calls=(write, synced, Call("close", 1, "3</x/1/tmp/a>", "0")))
    failed = Call("fsync", 1, "3</x/1/tmp/a>", "-1 EIO (Input/output error) (INJECTED)")
    again = Call("fsync", 2, "3</x/1/tmp/a>", "0")
    elsewhere = Call("fsync", 2, "3</x/1/tmp/b>", "0")
    unclosed = Call("close", 1, "3</x/1/tmp/a>", "-1 EIO (Input/output error) (INJECTED)")
    silent = "P1: it says OK, but tmp/a was not made durable"

    def lies(*calls: Call) -> list[str]:
        return list(errno_.lies(clean, Run("returned", True, calls=calls)))

    assert lies(*clean.calls) == []
    assert lies(write, failed) == lies(write, failed, elsewhere) == lies(write, synced, unclosed) == [silent]
    assert lies(write, failed, again) == [silent, "W5: it says OK after a second fsync of tmp/a"]
    assert list(errno_.lies(clean, Run("returned", None))) == ["it says nothing"]
    assert list(errno_.lies(clean, Run("raised", "KeyError", text="x"))) == ["it raises KeyError: x"]
    assert list(errno_.lies(clean, Run("raised", "OSError", 5, "x"))) == []
