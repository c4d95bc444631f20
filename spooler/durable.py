"""Writing so that a power cut cannot take it back, and reading what a stranger may have put there.

A file is durable when its bytes are fsynced and the folder that names it is fsynced too (fsync(2) says that the first does
not imply the second). A failed fsync is never tried again on the same file: Linux may have marked the pages clean.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

#: A path's text will do: between two fsyncs the processor's caches are cold, and pathlib then takes longer than the calls.
StrPath = str | os.PathLike[str]
#: What a full disk answers, and a quota that is used up.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
#: What will be otherwise when there is room, or the share is back: to be tried again, no job is given up for it.
PASSING = NO_ROOM | {
    *(errno.EIO, errno.ESTALE, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT, errno.EAGAIN)
}
#: Seconds until what its owner has closed to us is tried again: meanwhile it is no matter of the others.
CLOSED_S = 10.0
#: From so many files on they are written several at a time, and how many then: for fewer the threads take longer than the disk.
MANY, AT_ONCE = 8, 8


class UnsyncedError(OSError):
    """What was written or moved is there, but the disk would not promise to keep it: met by whoever must write it anew."""


class UnreadableError(OSError):
    """Something under a job's name that is no ordinary readable file: met by whoever drops a folder, a FIFO or a link."""


def exists(path: StrPath) -> bool:
    """Whether there is something of that name, a dangling link too. Only "no such entry" is a no: an I/O error is raised, for
    whoever takes it for a no gives a name away twice."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def is_ours(folder: StrPath) -> bool:
    """Whether we may read a folder, write into it and so move it: not one that its owner has closed to us, or that is gone."""
    return os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)


def unique_name() -> str:
    """A name that nobody else makes: 96 random bits and the process number, for whoever looks into tmp/."""
    return f"{os.getpid()}.{os.urandom(12).hex()}"


def write_new(path: StrPath, data: bytes, mode: int = 0o644, synced: bool = True) -> None:
    """Make the file, which must not exist, with its bytes on stable storage if `synced`. On any error nothing is left."""
    # O_EXCL and O_NOFOLLOW: never through somebody's link, never over somebody's file.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            if synced:
                os.fsync(fd)
        finally:
            os.close(fd)  # NFS may report a full disk only here
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108
        raise


def write_all_new(files: Sequence[tuple[StrPath, bytes]]) -> None:
    """As `write_new`, for each of these. On an error some of them are there, and nobody writes any more.

    Many are written several at a time: what waits for the disk at the same time is synced together.
    """

    def write(some: Sequence[tuple[StrPath, bytes]]) -> None:
        for path, data in some:
            write_new(path, data)

    if len(files) < MANY:
        write(files)
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(write, (files[number::AT_ONCE] for number in range(AT_ONCE))):
            pass


def write_new_if_missing(path: Path, data: bytes) -> None:
    """As `write_new`, with the folder's entry; a file that is there already is left as it is."""
    with contextlib.suppress(FileExistsError):
        write_new(path, data)
    sync_folder(path.parent)


def replace(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write the file anew; a reader and a crash see the old bytes or the new ones."""
    draft = path.with_name(f".{path.name}.{unique_name()}")
    write_new(draft, data, mode)
    try:
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    sync_folder(path.parent)


def replace_lightly(path: Path, data: bytes) -> None:
    """As `replace`, but a power cut may lose it: for what is told anew every second."""
    draft = f"{path.parent}/.{path.name}.{unique_name()}"
    write_new(draft, data, synced=False)
    os.rename(draft, path)  # noqa: PTH104


def sync_file(path: Path) -> None:
    """Have the disk keep a file that somebody else wrote. Raises UnsyncedError when it will not: write another."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        raise UnsyncedError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(fd)


def sync_folder(path: StrPath) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(path: Path, exist_ok: bool = False) -> None:
    """Make a folder and have its parent remember it: first of all, for what is moved into it would be lost with its name."""
    path.mkdir(exist_ok=exist_ok)
    sync_folder(path.parent)


def rename(source: StrPath, target: StrPath, synced: bool = True) -> None:
    """Rename onto a name that only the caller can own, and have both folders remember it; with `synced` false the caller does
    that, by `sync_moves`, for several renames at once.

    NFS may do a rename and yet answer with an error when its reply was lost, so the names decide: the target's there and the
    source gone means that it was done. Raises FileNotFoundError when the source is gone (a lost race), UnsyncedError when the
    move was done but may not outlive a power cut.
    """
    try:
        os.rename(source, target)  # noqa: PTH104 - the spool's calls are the system's own
    except OSError:
        if exists(source) or not exists(target):
            raise
    if synced:
        sync_moves(os.path.dirname(source), os.path.dirname(target))  # noqa: PTH120


def sync_moves(source: StrPath, target: StrPath | None) -> None:
    """Have the disk remember what was moved from one folder to another. Raises UnsyncedError when it will not.

    A rename is one change, so either folder's fsync keeps all of it: `target` None leaves that folder to the caller, who has it
    synced with what else is written there.
    """
    try:
        # The old folder first: btrfs commits the whole rename then. The new one first, and a power cut between the two may
        # bring the file back under both names.
        sync_folder(source)
        if target is not None and target != source:
            sync_folder(target)
    except OSError as error:
        raise UnsyncedError(error.errno, error.strerror, str(source)) from error


def link(source: StrPath, target: StrPath) -> None:
    """Link a file to a new name, which must not exist: raises FileExistsError when it does.

    As with `rename`, a lost reply of NFS may make an error of a link that was made: the inodes decide.
    """
    try:
        os.link(source, target)
    except OSError as error:
        try:
            same = os.path.samestat(os.lstat(source), os.lstat(target))
        except OSError:
            raise error from None
        if not same:
            raise


def open_ordinary(path: Path) -> int:
    """A descriptor of an ordinary file, to be read. Raises as `read_small` does."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        if path.is_symlink():
            raise UnreadableError(f"A job must be an ordinary file, but {path.name!a} is a symbolic link.") from None
        raise
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise UnreadableError(f"A job must be an ordinary file, but {path.name!a} is {_kind(mode)}.")
    return fd


def is_odd(path: Path) -> bool:
    """Whether there is something of that name that is no ordinary file: a link may lead anywhere, a FIFO is waited for."""
    try:
        return not stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def read_small(path: Path, max_bytes: int) -> bytes:
    """At most `max_bytes` + 1 bytes of an ordinary file, so that the caller sees when it is too long.

    Raises UnreadableError for a folder, link, FIFO or device; it never follows, and never waits for a writer.
    """
    fd = open_ordinary(path)
    try:
        pieces: list[bytes] = []
        left, asked = max_bytes + 1, os.fstat(fd).st_size + 1  # no more: what is asked for is taken from memory at once
        while left > 0 and (piece := os.read(fd, min(left, asked))):
            pieces.append(piece)
            left, asked = left - len(piece), 1 << 16
        return b"".join(pieces)
    finally:
        os.close(fd)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a FIFO" if stat.S_ISFIFO(mode) else "a device or socket"
