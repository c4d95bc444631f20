"""durable.py alone: what is synced and in what order, and who is believed when a call fails.

A reply that was lost, as on NFS, is a call of the system that is done and then raises; a disk that fails is one that raises.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from calls import failing, synced

from spooler import durable
from spooler.durable import UnreadableError, UnsyncedError


def two_folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("from", "to"):
        (tmp_path / name).mkdir()
    return tmp_path / "from" / "a", tmp_path / "to" / "b"


def test_w2_w4_what_is_synced_and_in_what_order(tmp_path: Path) -> None:
    source, target = two_folders(tmp_path)
    with synced() as names:
        durable.write_new(source, b"four")
    assert names == ["a 4"]
    with synced() as names:
        durable.rename(source, target)
    assert names == ["from", "to"]
    with synced() as names:
        durable.rename(target, target.with_name("c"))
    assert names == ["to"]
    with synced() as names:
        durable.replace(source, b"other")
    assert [name.split()[-1] for name in names] == ["5", "from"]
    with synced() as names:
        durable.make_folder(tmp_path / "to" / "new")
    assert names == ["to"]
    with synced() as names:
        durable.sync_file(source)
    assert names == ["a 5"]
    with synced() as names:
        durable.write_new_if_missing(target, b"missing")
    assert names == ["b 7", "to"]
    with synced() as names:
        durable.write_new_if_missing(target, b"no longer")
    assert names == ["to"] and target.read_bytes() == b"missing"
    with synced() as names:
        durable.replace_lightly(target, b"light")
    assert names == [] and target.read_bytes() == b"light"


def test_w1_a_new_file_is_written_over_nothing_and_through_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("there", "link"):
        with pytest.raises(FileExistsError):
            durable.write_new(tmp_path / name, b"new")
    assert (tmp_path / "there").read_bytes() == b"old" and not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("call", ["write", "fsync", "close"])
def test_w2_a_file_that_could_not_be_written_is_not_there(call: str, tmp_path: Path) -> None:
    with failing(call, after=call == "close", code=errno.ENOSPC), pytest.raises(OSError, match="No space"):
        durable.write_new(tmp_path / "new", b"new")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").write_bytes(b"old")
    with failing(call, after=call == "close", code=errno.ENOSPC), pytest.raises(OSError, match="No space"):
        durable.replace(tmp_path / "old", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_n1_a_rename_whose_reply_was_lost_was_done(tmp_path: Path) -> None:
    source, target = two_folders(tmp_path)
    source.write_bytes(b"1")
    with failing("rename", after=True):
        durable.rename(source, target)
    assert target.read_bytes() == b"1"


def test_n1_a_rename_that_failed_was_not_done(tmp_path: Path) -> None:
    source, target = two_folders(tmp_path)
    source.write_bytes(b"1")
    with failing("rename"), pytest.raises(OSError, match="Input/output"):
        durable.rename(source, target)
    target.write_bytes(b"another's")
    with failing("rename"), pytest.raises(OSError, match="Input/output"):
        durable.rename(source, target)
    source.unlink()
    target.unlink()
    with pytest.raises(FileNotFoundError):
        durable.rename(source, target)


def test_n1_a_link_is_ours_when_it_is_the_same_file(tmp_path: Path) -> None:
    source, target = two_folders(tmp_path)
    source.write_bytes(b"1")
    with failing("link"), pytest.raises(OSError, match="Input/output"):
        durable.link(source, target)
    with failing("link", after=True, code=errno.EEXIST):
        durable.link(source, target)
    assert target.samefile(source)
    target.unlink()
    target.write_bytes(b"1")
    with pytest.raises(FileExistsError):
        durable.link(source, target)


def test_w5_what_was_moved_and_is_not_synced_is_told_apart(tmp_path: Path) -> None:
    source, target = two_folders(tmp_path)
    source.write_bytes(b"1")
    with failing("fsync"), pytest.raises(UnsyncedError):
        durable.sync_file(source)
    with failing("fsync"), pytest.raises(UnsyncedError):
        durable.rename(source, target)
    assert target.exists()


def test_c1_only_an_ordinary_file_is_read_and_nobody_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert durable.read_small(tmp_path / "file", 3) == b"1234"
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    for name, kind in (("fifo", "a FIFO"), ("link", "a symbolic link"), ("folder", "a folder")):
        with pytest.raises(UnreadableError, match=f"is {kind}"):
            durable.read_small(tmp_path / name, 3)
    with pytest.raises(FileNotFoundError):
        durable.read_small(tmp_path / "nothing", 3)
    with pytest.raises(UnreadableError, match="a device"):
        durable.read_small(Path("/dev/null"), 3)


def test_what_is_synced_is_the_very_thing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match="symbolic links"):
        durable.sync_file(tmp_path / "link")
    with pytest.raises(NotADirectoryError):
        durable.sync_folder(tmp_path / "file")


def test_only_no_such_entry_is_a_no(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    assert durable.exists(tmp_path / "link") and durable.exists(tmp_path / "file")
    assert not durable.exists(tmp_path / "nothing") and not durable.exists(tmp_path / "file" / "below")
    with pytest.raises(OSError, match="File name too long"):
        durable.exists(tmp_path / ("x" * 300))


def test_many_files_are_written_whole_and_an_error_among_them_is_raised(tmp_path: Path) -> None:
    files = [(tmp_path / f"{number}", b"%d" % number) for number in range(20)]
    durable.write_all_new(files)
    assert all(path.read_bytes() == data for path, data in files)
    for some in (files[:3], files):
        with pytest.raises(FileExistsError):
            durable.write_all_new([(tmp_path / f"new-{len(some)}", b"x"), *some])


def test_w1_what_is_not_there_is_nothing_odd_and_a_link_or_a_fifo_is(tmp_path: Path) -> None:
    assert not durable.is_odd(tmp_path / "none")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "fifo")
    assert [durable.is_odd(tmp_path / name) for name in ("file", "link", "fifo")] == [False, True, True]
