"""P1 to P5 and W5 when a system call fails: the short form of tests/prove/errno_.py, a few calls of each operation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import house
import pytest

from spooler import durable
from tests.prove import errno_, fire, operations, scenes
from tests.prove.fire import Call, Run
from tests.prove.firing_range import Range


def test_p1_to_p5_and_w5_hold_when_any_system_call_fails() -> None:
    if reason := fire.usable():
        house.missing(reason)
    figures = errno_.prove(short=True)
    assert all(figure.ok for figure in figures), "\n".join(figure.line for figure in figures)


@pytest.mark.parametrize("careless", [False, True])
def test_w5_what_fails_in_a_writer_s_thread_is_not_lost_there(careless: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the proof sees it when nobody asks what became of the threads."""
    if reason := fire.usable():
        house.missing(reason)

    def write(files: Sequence[tuple[durable.StrPath, bytes]]) -> None:
        with ThreadPoolExecutor(durable.AT_ONCE) as pool:
            pool.map(lambda file: durable.write_new(*file), files)

    if careless:
        monkeypatch.setattr(durable, "write_all_new", write)
    (operation,) = (each for each in operations.operations() if each.name == "submit rows, several at a time")
    with fire.scratch() as folder:
        target = Range(operation, folder)
        clean, _ = target.counted(())
        theirs = [call for call in clean.calls if call.of]
        assert Counter(call.name for call in theirs) == dict.fromkeys(("openat", "write", "fsync", "close"), scenes.MANY)
        call = next(call for call in reversed(theirs) if call.name == "fsync")
        _, run = target.fire(call, "error=EIO", log=True)
    assert any(each.answer.endswith("(INJECTED)") for each in run.calls)
    assert bool(list(errno_.lies(errno_.of_its_kind(clean, call), run))) == careless


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
