"""Editors, which save again: a second version of the file comes over the first, as writers.py has it of the first."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from tests.prove.writers import cp, mv, tee
from tests.prove.writing import ANY, KEPT, NEW, ONLY, OPEN, Steps, Work, draft_and_rename, put


def sed(work: Work) -> Steps:
    """sed -i over a file that waits."""
    yield from cp(work)
    yield ANY
    work.data = _other(work.data)
    yield from draft_and_rename(work, f"sed{work.word()}")


def _swapped(work: Work, draft: Path, old: Path) -> Steps:
    """The old file goes out of the way, the draft comes in its place."""
    with suppress(FileNotFoundError):
        work.path.rename(old)
    yield ANY
    work.declare(work.data)
    draft.rename(work.path)
    yield ANY
    old.unlink(missing_ok=True)


def excel(work: Work) -> Steps:
    """Microsoft Office: a lock, an eight-letter draft, the old file out of the way, the draft in its place."""
    yield from put(work, work.hidden(f"~${work.name}"), b"\5user")
    yield from cp(work)
    yield ANY
    draft, old = work.hidden(f"{work.rng.randrange(1 << 32):08X}"), work.hidden(f"{work.word()}.tmp")
    work.data = _other(work.data)
    yield from put(work, draft, work.data)
    yield ANY
    yield from _swapped(work, draft, old)
    work.hidden(f"~${work.name}").unlink()


def libreoffice(work: Work) -> Steps:
    lock = work.hidden(f".~lock.{work.name}#")
    yield from put(work, lock, b",user,host,21.11.2026 14:00,file:///home/user;")
    yield from put(work, work.hidden(f"lu{work.word()}.tmp"), work.data)
    yield ANY
    yield from tee(work)
    yield ANY
    lock.unlink()


def jetbrains(work: Work) -> Steps:
    yield from cp(work)
    yield ANY
    work.data = _other(work.data)
    draft, old = work.hidden(f"{work.name}___jb_tmp___"), work.hidden(f"{work.name}___jb_old___")
    yield from put(work, draft, work.data)
    yield from _swapped(work, draft, old)


def vim(work: Work) -> Steps:
    """The swap file, the probe 4913, the backup by a rename, the file anew; and once more."""
    swap = work.hidden(f".{work.name}.swp")
    swap.write_bytes(b"b0VIM 9.0")
    yield ANY
    for _ in range(work.rng.randint(1, 2)):
        with suppress(FileExistsError):
            os.close(os.open(work.hidden("4913"), ONLY, 0o644))
            yield ANY
        work.hidden("4913").unlink(missing_ok=True)
        backup = work.hidden(f"{work.name}~")
        with suppress(FileNotFoundError):
            work.path.rename(backup)
        yield ANY
        work.declare(work.data)
        yield from put(work, work.path, work.data, NEW, os.fsync)
        yield ANY
        with suppress(FileNotFoundError):
            work.path.chmod(0o644)
        backup.unlink(missing_ok=True)
        yield ANY
        work.data = _other(work.data)
    swap.unlink()


def vim_in_place(work: Work) -> Steps:
    """backupcopy=yes: a copy aside, then the file is truncated and written."""
    yield from cp(work)
    yield ANY
    with suppress(FileNotFoundError):
        work.hidden(f"{work.name}~").write_bytes(work.path.read_bytes())
    yield ANY
    yield from _save_again(work)


def nano(work: Work) -> Steps:
    lock = work.hidden(f".{work.name}.swp")
    lock.write_bytes(b"b0nano 7.2")
    yield ANY
    yield from tee(work)
    yield ANY
    yield from _save_again(work)
    lock.unlink()


def emacs(work: Work) -> Steps:
    lock = work.hidden(f".#{work.name}")
    lock.symlink_to("user@host.1234:1700000000")
    auto = work.hidden(f"#{work.name}#")
    auto.write_bytes(work.data[: len(work.data) // 2])
    yield ANY
    yield from tee(work)
    yield ANY
    with suppress(FileNotFoundError):
        work.path.rename(work.hidden(f"{work.name}~"))
    yield ANY
    yield from _save_again(work)
    lock.unlink()
    auto.unlink()


def vscode(work: Work) -> Steps:
    """Opened r+, truncated through the descriptor, written."""
    yield from tee(work)
    yield ANY
    work.data = _other(work.data)
    try:
        fd = os.open(work.path, os.O_RDWR)
    except FileNotFoundError:
        fd = os.open(work.path, NEW, 0o644)
    try:
        yield OPEN
        os.ftruncate(fd, 0)
        yield OPEN
        work.declare(work.data)
        for at, piece in work.cuts(work.data):
            os.pwrite(fd, piece, at)
            yield OPEN
    finally:
        os.close(fd)


def _save_again(work: Work) -> Steps:
    for _ in range(work.rng.randint(1, 3)):
        work.data = _other(work.data)
        work.declare(work.data)
        yield from put(work, work.path, work.data)
        yield ANY


def moved_over(work: Work) -> Steps:
    """A rename over the file that waits, several times."""
    for _ in range(work.rng.randint(2, 4)):
        draft = work.tmp / work.name
        draft.write_bytes(work.data)
        work.declare(work.data)
        draft.rename(work.path)
        yield ANY
        work.data = _other(work.data)


def written_over(work: Work) -> Steps:
    """dd conv=notrunc over a file that waits: for a while it is partly the one and partly the other."""
    yield from cp(work)
    yield ANY
    work.data = _other(work.data)
    work.declare(work.data)
    if not work.path.exists():
        yield from put(work, work.path, work.data, KEPT)
        return
    yield from put(work, work.path, work.data, KEPT, lambda fd: os.ftruncate(fd, len(work.data)))


def moved_then_appended(work: Work) -> Steps:
    """A file that came whole by a rename, and grows afterwards."""
    yield from mv(work)
    yield ANY
    tail = _other(work.data) if work.suffix != ".csv" else work.data.split(b"\n", 1)[1]
    with suppress(FileNotFoundError):
        before = work.path.read_bytes()
        tail = tail if before.endswith(b"\n") else b"\n" + tail
        fd = os.open(work.path, os.O_WRONLY | os.O_APPEND)
        work.declare(before + tail)
        for _, piece in work.cuts(tail):
            os.write(fd, piece)
            yield OPEN
        os.close(fd)


def _other(data: bytes) -> bytes:
    """Another version of the same file: valid, and of the same length or another."""
    for old, new in ((b"red circle", b"blue square"), (b"blue square", b"tan spiral"), (b"tan spiral", b"big ring")):
        if old in data:
            return data.replace(old, new)
    return data.replace(b"big ring", b"red circle")


#: Those that come with a second version; of a picture's bytes there is none.
EDITORS = (sed, excel, libreoffice, jetbrains, vim, vim_in_place, nano, emacs, vscode, moved_over, written_over)
#: Only where lines follow lines.
GROWING = (moved_then_appended,)
