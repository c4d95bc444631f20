"""P1 to P5 after a power cut: the short form of tests/prove/power.py, and that it notices what it is there to notice."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest

from tests.prove import fire, power, scenes
from tests.prove.disk import Disk, Tree, lay, seen
from tests.prove.kernel import replay


def _needs_strace() -> None:
    if (reason := fire.usable()) and os.environ.get("CI") != "true":
        pytest.skip(reason)


def test_p1_to_p5_hold_after_a_power_cut_whatever_was_not_synced() -> None:
    _needs_strace()
    figures = power.prove(short=True)
    assert all(figure.ok for figure in figures), "\n".join(figure.line for figure in figures)


@pytest.mark.parametrize("name", ["submit", "submit, pictures", "claim", "publish to done", "retry", "reject"])
def test_p1_without_its_fsyncs_an_operation_is_found_out(name: str) -> None:
    _needs_strace()
    tally = power.tried(list(power.recorded([name], unsynced=True)), 20)
    assert tally.found, f"{name}: nobody notices that nothing was synced"


def test_p1_each_single_fsync_of_a_submit_is_missed() -> None:
    _needs_strace()
    for number in range(2):  # the draft's bytes; the folder that names it
        (recording,) = power.recorded(["submit"], leave_out={number})
        assert recording.syncs == 2
        assert power.tried([recording], 20).found, f"nobody misses fsync {number}"


def test_p1_a_single_fsync_of_a_writer_s_thread_is_missed() -> None:
    _needs_strace()
    (recording,) = power.recorded(["submit rows, several at a time"], leave_out={4})
    assert recording.syncs == scenes.MANY + 3  # pending/ and the batch's folder, and in it `queued`
    assert power.tried([recording], 4, 6).found


def _trace(root: Path, *lines: str) -> str:
    """A trace as strace writes it, with {root} and "texts" in hexadecimal."""

    def hexadecimal(match: re.Match[str]) -> str:
        return '"' + "".join(f"\\x{byte:02x}" for byte in match[1].replace("ROOT", str(root)).encode()) + '"'

    return "\n".join(re.sub('"([^"]*)"', hexadecimal, line) for line in ("1 getppid() = 0", *lines, "1 getppid() = 0"))


def test_of_two_threads_an_fsync_keeps_what_was_there_when_it_began(tmp_path: Path) -> None:
    disk = Disk.of(tmp_path)
    new = "O_WRONLY|O_CREAT|O_EXCL, 0644"
    lines = [
        '1 openat(AT_FDCWD, "ROOT", O_RDONLY|O_DIRECTORY) = 3',
        f'1 openat(AT_FDCWD, "ROOT/before", {new}) = 4',
        "1 fsync(3 <unfinished ...>",
        f'2 openat(AT_FDCWD, "ROOT/meanwhile", {new}) = 5',
        "1 <... fsync resumed>) = 0",
    ]
    assert replay(_trace(tmp_path, *lines), tmp_path, disk, lambda said: None) == 1
    assert sorted(map(sorted, _found(disk))) == [["before"], ["before", "meanwhile"]]


def test_of_two_threads_one_gets_the_descriptor_that_the_other_has_not_heard_to_be_free(tmp_path: Path) -> None:
    disk = Disk.of(tmp_path)
    new = "O_WRONLY|O_CREAT|O_EXCL, 0644"
    lines = [
        f'1 openat(AT_FDCWD, "ROOT/one", {new}) = 3',
        "1 close(3 <unfinished ...>",
        f'2 openat(AT_FDCWD, "ROOT/two", {new} <unfinished ...>',
        "2 <... openat resumed>) = 3",
        "1 <... close resumed>) = 0",
        '2 write(3, "x", 1) = 1',
    ]
    replay(_trace(tmp_path, *lines), tmp_path, disk, lambda said: None)
    assert {name: bytes(disk.files[disk.find(name) or 0]) for name in ("one", "two")} == {"one": b"", "two": b"x"}


# -- the model of disk.py ----------------------------------------------------------------------------------------------------


def _disk(tmp_path: Path, tree: Tree) -> Disk:
    return Disk.of(lay({"": None, **tree}, tmp_path / "disk"))


def _found(disk: Disk) -> list[Tree]:
    cut = disk.cuts[-1]
    trees = []
    for chosen, found in disk.states(cut, 10_000, random.Random(0)):
        if (tree := disk.tree(cut, chosen, found)) not in trees:
            trees.append({path: data for path, data in tree.items() if path})
    return trees


def test_a_file_that_was_not_synced_may_be_there_in_part(tmp_path: Path) -> None:
    disk = _disk(tmp_path, {})
    number = disk.make("a", folder=False)
    disk.write(number, 0, b"bytes!")
    disk.cut("write a")
    assert {tree.get("a") for tree in _found(disk)} == {
        None,
        b"",
        b"byt",
        b"byt\0\0\0",
        b"bytes",
        b"\0\0\0\0\0\0",
        b"bytes!",
    }
    disk.sync(number)
    disk.cut("fsync a")
    assert [tree.get("a") for tree in _found(disk)] == [None, b"bytes!"], "its bytes are kept, its name is not"
    disk.sync(disk.root)
    disk.cut("fsync .")
    assert _found(disk) == [{"a": b"bytes!"}]


def test_a_rename_is_one_change_and_an_fsync_of_either_folder_keeps_it(tmp_path: Path) -> None:
    for synced in ("from", "to"):
        (tmp_path / synced).mkdir()
        disk = _disk(tmp_path / synced, {"from": None, "to": None, "from/a": b"1"})
        disk.rename("from/a", "to/b")
        disk.cut("rename")
        assert [sorted(tree)[-1] for tree in _found(disk)] == ["to", "to/b"]
        number = disk.find(synced)
        assert number is not None
        disk.sync(number)
        disk.cut("fsync")
        assert _found(disk) == [{"from": None, "to": None, "to/b": b"1"}]


def test_changes_of_one_name_stay_in_order_and_those_of_two_do_not(tmp_path: Path) -> None:
    disk = _disk(tmp_path, {"a": b"1"})
    disk.rename("a", "b")
    disk.rename("b", "c")
    disk.make("d", folder=True)
    disk.cut("all")
    assert sorted("".join(sorted(tree)) for tree in _found(disk)) == ["a", "ad", "b", "bd", "c", "cd"]


def test_what_was_moved_into_a_folder_is_lost_with_the_folders_name(tmp_path: Path) -> None:
    disk = _disk(tmp_path, {"a": b"1"})
    number = disk.make("folder", folder=True)
    disk.rename("a", "folder/a")
    disk.sync(number)
    disk.cut("fsync folder")
    assert {} in _found(disk)


def test_the_model_knows_its_own_states_and_no_others(tmp_path: Path) -> None:
    disk = _disk(tmp_path, {"a": b"1", "to": None})
    number = disk.make("b", folder=False)
    disk.write(number, 0, b"four")
    disk.rename("a", "to/a")
    disk.cut("all")
    cut = disk.cuts[-1]
    for chosen, found in disk.states(cut, 1000, random.Random(0)):
        assert disk.allows(cut, disk.tree(cut, chosen, found))
    for strange in ({"": None, "to": None}, {"": None, "a": b"2", "to": None}, {"": None, "to": None, "to/a": b"1", "a": b"1"}):
        assert not disk.allows(cut, strange)


def test_a_tree_is_laid_out_as_it_is_seen(tmp_path: Path) -> None:
    tree: Tree = {"": None, "a": b"1", "folder": None, "folder/b": b""}
    assert seen(lay(tree, tmp_path / "laid")) == tree
