"""How programs put a file into a folder: each writer does the system calls that strace shows of one, and yields between them
how long it may pause there (writing.py).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from contextlib import suppress

from tests.prove.writing import (
    ANY,
    APPEND,
    KEPT,
    NEW,
    ONLY,
    OPEN,
    SHUT,
    Steps,
    Work,
    by_offset,
    draft_and_rename,
    old_times,
    put,
)

# -- copies --------------------------------------------------------------------------------------------------------------------


def cp(work: Work) -> Steps:
    work.declare(work.data)
    yield from put(work, work.path, work.data, ONLY)


def cp_p(work: Work) -> Steps:
    """cp -p, and mv from another file system: times and mode are set through the open file."""
    work.declare(work.data)
    times = old_times(work)

    def after(fd: int) -> None:
        os.utime(fd, ns=times)
        os.fchmod(fd, 0o640)

    yield from put(work, work.path, work.data, ONLY, after)


def mv(work: Work) -> Steps:
    draft = work.tmp / work.name
    draft.write_bytes(work.data)
    if work.rng.random() < 0.5:
        os.utime(draft, ns=old_times(work))
    yield ANY
    work.declare(work.data)
    draft.rename(work.path)


def link(work: Work) -> Steps:
    """A hard link; the other name stays, or goes soon."""
    draft = work.tmp / work.name
    draft.write_bytes(work.data)
    yield ANY
    work.declare(work.data)
    os.link(draft, work.path)
    yield ANY
    draft.unlink()


def rsync(work: Work) -> Steps:
    yield from draft_and_rename(work, f".{work.name}.{work.word()}", lambda path: os.utime(path, ns=old_times(work)))


def rsync_inplace(work: Work) -> Steps:
    work.declare(work.data)
    yield from put(work, work.path, work.data, KEPT, lambda fd: os.ftruncate(fd, len(work.data)))
    with suppress(FileNotFoundError):
        os.utime(work.path, ns=old_times(work))


def scp(work: Work) -> Steps:
    """The old protocol, as scp.c's sink: no O_TRUNC, ftruncate at the end, then times."""
    yield from rsync_inplace(work)


def sftp(work: Work) -> Steps:
    """sftp-server: blocks by offset, in the order in which they arrive; then fsetstat."""
    yield from by_offset(work, shuffled=work.rng.random() < 0.5, prepare=lambda fd: None)


def winscp(work: Work) -> Steps:
    """To .filepart, then a rename: sftp-server makes it a link and an unlink."""
    part = work.hidden(f"{work.name}.filepart")
    yield from put(work, part, work.data)
    yield ANY
    work.declare(work.data)
    os.link(part, work.path)
    if work.rng.random() < 0.5:
        yield ANY
    part.unlink()


def samba(work: Work) -> Steps:
    """smbd for Windows: the file is made as long as it will be, then written by offset, then its times are set."""
    yield from by_offset(work, False, lambda fd: os.ftruncate(fd, len(work.data)))
    with suppress(FileNotFoundError):
        os.utime(work.path, ns=old_times(work))


def finder(work: Work) -> Steps:
    """macOS over Samba: .DS_Store, ._name beside it, and the file opened, closed and opened again."""
    yield from put(work, work.hidden(".DS_Store"), b"\0\0\0\1Bud1")
    os.close(os.open(work.path, ONLY, 0o644))
    yield SHUT / 2
    work.hidden(f"._{work.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    yield SHUT / 2
    work.declare(work.data)
    yield from put(work, work.path, work.data, KEPT)


def nfs_flush(work: Work) -> Steps:
    """What an NFS client's cache sends: blocks in any order, holes between them."""
    yield from by_offset(work, True, lambda fd: None)


def hole_first(work: Work) -> Steps:
    def last_byte(fd: int) -> None:
        os.pwrite(fd, work.data[-1:], len(work.data) - 1)

    yield from by_offset(work, True, last_byte)


def fallocated(work: Work) -> Steps:
    """Room is set aside first: zeros, as many as there will be bytes."""
    yield from by_offset(work, False, lambda fd: os.posix_fallocate(fd, 0, len(work.data)))


def too_long_first(work: Work) -> Steps:
    """aria2 and the like set aside more than is needed, and cut it off at the end."""
    fd = os.open(work.path, NEW, 0o644)
    try:
        os.ftruncate(fd, len(work.data) + 100)
        yield OPEN
        for at, piece in work.cuts(work.data):
            os.pwrite(fd, piece, at)
            yield OPEN
        work.declare(work.data)
        os.ftruncate(fd, len(work.data))
        yield OPEN
    finally:
        os.close(fd)


def shortened(work: Work) -> Steps:
    """Written with a tail that is then cut off."""
    fd = os.open(work.path, NEW, 0o644)
    try:
        os.write(fd, work.data + b'\n{"prompt": "never')
        yield OPEN
        work.declare(work.data)
        os.ftruncate(fd, len(work.data))
        yield OPEN
    finally:
        os.close(fd)


def mapped(work: Work) -> Steps:
    """ftruncate to the full length, and the bytes by a mapping; the descriptor is closed before."""
    fd = os.open(work.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    os.ftruncate(fd, len(work.data))
    yield OPEN
    room = mmap.mmap(fd, len(work.data))
    os.close(fd)
    yield OPEN
    cuts = work.cuts(work.data)
    if work.rng.random() < 0.5:
        work.rng.shuffle(cuts)
    for number, (at, piece) in enumerate(cuts):
        if number == len(cuts) - 1:
            work.declare(work.data)
        room[at : at + len(piece)] = piece
        yield OPEN
    if work.rng.random() < 0.5:
        room.flush()
        yield OPEN
    room.close()


def touched(work: Work) -> Steps:
    work.path.touch()
    yield SHUT
    work.declare(work.data)
    yield from put(work, work.path, work.data, NEW)


def appended(work: Work) -> Steps:
    """>> again and again: as many closes as pieces."""
    cuts = work.cuts(work.essence)
    work.declare(work.essence)
    for number, (_, piece) in enumerate(cuts):
        fd = os.open(work.path, APPEND, 0o644)
        os.write(fd, piece)
        if work.rng.random() < 0.5:
            yield OPEN
        os.close(fd)
        if number < len(cuts) - 1:
            yield SHUT


def tee(work: Work) -> Steps:
    work.declare(work.data)
    yield from put(work, work.path, work.data)


def curl(work: Work) -> Steps:
    """curl -o, wget: written as it comes, and at the end the server's time."""
    work.declare(work.data)
    yield from put(work, work.path, work.data, NEW)
    with suppress(FileNotFoundError):
        os.utime(work.path, ns=old_times(work))


def python(work: Work) -> Steps:
    """open().write() with several flushes."""
    work.declare(work.data)
    with work.path.open("wb") as file:
        yield OPEN
        for _, piece in work.cuts(work.data):
            file.write(piece)
            if work.rng.random() < 0.7:
                file.flush()
            yield OPEN


def renamed_while_open(work: Work) -> Steps:
    """A temporary file that is renamed before its last buffer is written, as many a script does by mistake."""
    draft = work.tmp / work.name
    work.declare(work.data)
    fd = os.open(draft, ONLY, 0o644)
    try:
        cuts = work.cuts(work.data)
        when = work.rng.randrange(len(cuts))
        for number, (_, piece) in enumerate(cuts):
            if number == when:
                draft.rename(work.path)
                yield OPEN
            os.write(fd, piece)
            yield OPEN
    finally:
        os.close(fd)


def begun_anew(work: Work) -> Steps:
    """A copy that dies in the middle and is started again."""
    cuts = work.cuts(work.essence)
    fd = os.open(work.path, NEW, 0o644)
    os.write(fd, work.essence[: cuts[-1][0]])
    yield OPEN
    os.close(fd)
    yield SHUT
    work.declare(work.data)
    yield from put(work, work.path, work.data)


# -- temporary names -----------------------------------------------------------------------------------------------------------


def gedit(work: Work) -> Steps:
    yield from draft_and_rename(work, f".goutputstream-{work.word()}")


def kate(work: Work) -> Steps:
    yield from draft_and_rename(work, f"{work.name}.{work.word()}")


def browser(work: Work) -> Steps:
    """A download: an empty file of the name as a place holder (Firefox), and the bytes elsewhere, renamed over it."""
    holder = work.rng.random() < 0.5
    if holder:
        work.path.touch()
    yield SHUT / 5
    suffix = work.rng.choice((".part", ".crdownload", ".partial", ".opdownload", ".tmp"))
    path = work.hidden(f"{work.name}{suffix}")
    fd = os.open(path, ONLY, 0o644)
    for _, piece in work.cuts(work.data)[:3]:
        os.write(fd, piece)
        yield SHUT / 5 if holder else OPEN
    os.close(fd)
    path.write_bytes(work.data)
    work.declare(work.data)
    path.rename(work.path)


def sync_tool(work: Work) -> Steps:
    names = (
        f".syncthing.{work.name}.tmp",
        f"~syncthing~{work.name}.tmp",
        f".{work.name}.~1a2b",
        f"{work.name}.1a2b3c4d.partial",
    )
    yield from draft_and_rename(work, work.rng.choice(names))


def mended(work: Work) -> Steps:
    """A copy that ended too early, and is gone on with after a while (cp, then >> the rest)."""
    half = work.cuts(work.essence)[-1][0] or len(work.data) // 2
    yield from put(work, work.path, work.data[:half], NEW)
    yield SHUT
    work.declare(work.data)
    yield from put(work, work.path, work.data[half:], APPEND)


def dies(work: Work) -> Steps:
    """A copy that ends too early, for good: what is to become of it is told by `Work.invalid`, set by the caller."""
    yield from put(work, work.path, work.data)


FILE_WRITERS: tuple[Callable[[Work], Steps], ...] = (
    *(cp, cp_p, mv, link, rsync, rsync_inplace, scp, sftp, winscp, samba, finder, nfs_flush, hole_first, fallocated),
    *(too_long_first, shortened, mapped, touched, appended, tee, curl, python, renamed_while_open, begun_anew, gedit, kate),
    *(browser, sync_tool, mended),
)
