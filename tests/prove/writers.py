"""How programs put a file into a folder: each writer does the system calls that strace shows of one, and yields between them.

What it yields is how long it may pause there, in seconds: OPEN while it holds the file open to write, or has nothing half
written; SHUT in the middle of its work with nothing open, which the spooler cannot tell from the end: shorter than its settle
time. A writer that pauses longer there is the known limit (docs/spool.md).
"""

from __future__ import annotations

import json
import mmap
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from PIL import Image

#: Seconds that a file must stay unchanged, where its bytes do not tell its end: the settings' default.
SETTLE_S = 10.0
OPEN = 2.4 * SETTLE_S
ANY = 2.5 * SETTLE_S
SHUT = 0.85 * SETTLE_S

NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
ONLY = os.O_WRONLY | os.O_CREAT | os.O_EXCL
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
KEPT = os.O_WRONLY | os.O_CREAT  # not truncated: dd conv=notrunc, rsync --inplace, scp

#: A job as it was given: the file's name in done/<id>/ or batches/<id>/ -> its bytes.
Whole = dict[str, bytes]
Steps = Iterator[float]


@dataclass
class Work:
    """One trace: who writes what, and what was whole under its name at some moment."""

    stem: str
    suffix: str  # of the name in pending/; "" for a folder
    data: bytes
    rng: random.Random
    pending: Path
    tmp: Path  # on the same file system, beside pending/
    byte_by_byte: bool = False
    wholes: list[Whole] = field(default_factory=list)  # in order: only the last has to be taken
    invalid: bytes | None = None  # what is to be set aside
    litter: set[str] = field(default_factory=set)  # temporary names that it leaves: never taken, never set aside
    overrides: bytes | None = None

    @property
    def essence(self) -> bytes:
        """What must come in one go: a JSON object ends with its brace, and white space that comes later is another file."""
        return self.data.rstrip() if self.suffix == ".json" else self.data

    @property
    def name(self) -> str:
        return self.stem + self.suffix

    @property
    def path(self) -> Path:
        return self.pending / self.name

    def declare(self, data: bytes) -> None:
        """From now on these bytes may be taken as the whole: called before the last of them is written."""
        self.wholes.append(self.whole(data))

    def whole(self, data: bytes) -> Whole:
        if self.suffix == ".json":
            return {"job.json": data}
        extra = {} if self.overrides is None else {f"{self.name}.overrides.json": self.overrides}
        return {self.name: data, **extra}

    @property
    def seems_whole(self) -> bool:
        """Whether the bytes alone prove that it is whole: then it is taken when it has not changed for the settle time, whoever
        has it open."""
        try:
            if self.suffix == ".json":
                return isinstance(json.loads(self.path.read_bytes().decode("utf-8-sig")), dict)
            return not self.suffix
        except (OSError, ValueError):
            return False

    def hidden(self, name: str) -> Path:
        """A temporary name in pending/."""
        self.litter.add(name)
        return self.pending / name

    def cuts(self, data: bytes) -> list[tuple[int, bytes]]:
        """The data in pieces, with their offsets."""
        if self.byte_by_byte or not data:
            return [(at, data[at : at + 1]) for at in range(len(data))]
        ends = sorted({*(self.rng.randint(1, len(data)) for _ in range(self.rng.randint(0, 5))), len(data)})
        return [(at, data[at:end]) for at, end in zip([0, *ends], ends, strict=False)]

    def word(self) -> str:
        return "".join(self.rng.choice("abcdefghijkABCDEFGHIJK0123456789") for _ in range(6))


def put(work: Work, path: Path, data: bytes, flags: int = NEW, after: Callable[[int], None] | None = None) -> Steps:
    """Open, write piece by piece, close."""
    fd = os.open(path, flags, 0o644)
    try:
        yield OPEN
        for _, piece in work.cuts(data):
            os.write(fd, piece)
            yield OPEN
        if after:
            after(fd)
            yield OPEN
    finally:
        os.close(fd)


def old_times(work: Work) -> tuple[int, int]:
    """Times that a copy keeps: of long ago, of just now, of the future; in whole seconds, as some protocols have them."""
    at = work.rng.choice((0, 1_000_000_000, 1_700_000_000, 4_000_000_000)) * 1_000_000_000
    return (at, at)


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
    yield from _draft_and_rename(work, f".{work.name}.{work.word()}", lambda path: os.utime(path, ns=old_times(work)))


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
    yield from _by_offset(work, shuffled=work.rng.random() < 0.5, prepare=lambda fd: None)


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
    yield from _by_offset(work, False, lambda fd: os.ftruncate(fd, len(work.data)))
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
    yield from _by_offset(work, True, lambda fd: None)


def hole_first(work: Work) -> Steps:
    def last_byte(fd: int) -> None:
        os.pwrite(fd, work.data[-1:], len(work.data) - 1)

    yield from _by_offset(work, True, last_byte)


def fallocated(work: Work) -> Steps:
    """Room is set aside first: zeros, as many as there will be bytes."""
    yield from _by_offset(work, False, lambda fd: os.posix_fallocate(fd, 0, len(work.data)))


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


def _draft_and_rename(work: Work, draft: str, then: Callable[[Path], None] = lambda path: None) -> Steps:
    path = work.hidden(draft)
    yield from put(work, path, work.data, ONLY)
    yield ANY
    then(path)
    yield ANY
    work.declare(work.data)
    path.rename(work.path)


def gedit(work: Work) -> Steps:
    yield from _draft_and_rename(work, f".goutputstream-{work.word()}")


def kate(work: Work) -> Steps:
    yield from _draft_and_rename(work, f"{work.name}.{work.word()}")


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
    yield from _draft_and_rename(work, work.rng.choice(names))


def sed(work: Work) -> Steps:
    """sed -i over a file that waits."""
    yield from cp(work)
    yield ANY
    work.data = _other(work.data)
    yield from _draft_and_rename(work, f"sed{work.word()}")


def excel(work: Work) -> Steps:
    """Microsoft Office: a lock, an eight-letter draft, the old file out of the way, the draft in its place."""
    yield from put(work, work.hidden(f"~${work.name}"), b"\5user")
    yield from cp(work)
    yield ANY
    draft, old = work.hidden(f"{work.rng.randrange(1 << 32):08X}"), work.hidden(f"{work.word()}.tmp")
    work.data = _other(work.data)
    yield from put(work, draft, work.data)
    yield ANY
    with suppress(FileNotFoundError):
        work.path.rename(old)
    yield ANY
    work.declare(work.data)
    draft.rename(work.path)
    yield ANY
    old.unlink(missing_ok=True)
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
    with suppress(FileNotFoundError):
        work.path.rename(old)
    yield ANY
    work.declare(work.data)
    draft.rename(work.path)
    yield ANY
    old.unlink(missing_ok=True)


# -- editors that save again ---------------------------------------------------------------------------------------------------


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


def _by_offset(work: Work, shuffled: bool, prepare: Callable[[int], None]) -> Steps:
    fd = os.open(work.path, NEW, 0o644)
    try:
        prepare(fd)
        yield OPEN
        cuts = work.cuts(work.data)
        if shuffled:
            work.rng.shuffle(cuts)
        for number, (at, piece) in enumerate(cuts):
            if number == len(cuts) - 1:
                work.declare(work.data)
            os.pwrite(fd, piece, at)
            yield OPEN
    finally:
        os.close(fd)


def _other(data: bytes) -> bytes:
    """Another version of the same file: valid, and of the same length or another."""
    for old, new in ((b"red circle", b"blue square"), (b"blue square", b"tan spiral"), (b"tan spiral", b"big ring")):
        if old in data:
            return data.replace(old, new)
    return data.replace(b"big ring", b"red circle")


FILE_WRITERS: tuple[Callable[[Work], Steps], ...] = (
    *(cp, cp_p, mv, link, rsync, rsync_inplace, scp, sftp, winscp, samba, finder, nfs_flush, hole_first, fallocated),
    *(too_long_first, shortened, mapped, touched, appended, tee, curl, python, renamed_while_open, begun_anew, gedit, kate),
    *(browser, sync_tool, mended),
)
#: Those that come with a second version; of a picture's bytes there is none.
EDITORS = (sed, excel, libreoffice, jetbrains, vim, vim_in_place, nano, emacs, vscode, moved_over, written_over)
#: Only where lines follow lines.
GROWING = (moved_then_appended,)


# -- folders, and pictures with overrides --------------------------------------------------------------------------------------


def copied_folder(work: Work) -> Steps:
    """cp -r, sftp's put -r, unzip, Finder: a folder is made, and the files come one by one, in any order."""
    files = _files(work)
    folder = work.path
    folder.mkdir()
    yield SHUT
    if work.rng.random() < 0.3:
        (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        yield SHUT
    if by_rename := work.rng.random() < 0.3:  # rsync
        for name, data in files:
            draft = folder / f".{name}.{work.word()}"
            yield from put(work, draft, data)
            yield SHUT
            draft.rename(folder / name)
            yield SHUT
    else:
        for name, data in files:
            pieces = work.cuts(data) if work.rng.random() < 0.3 else [(0, data)]  # >> again and again
            for _, piece in pieces:
                yield from put(work, folder / name, piece, APPEND)
                yield SHUT
    if not by_rename and work.rng.random() < 0.3:  # cp -rp, tar
        with suppress(FileNotFoundError):
            os.utime(folder, ns=old_times(work))


def moved_folder(work: Work) -> Steps:
    draft = work.tmp / work.stem
    draft.mkdir()
    for name, data in _files(work):
        (draft / name).write_bytes(data)
    yield ANY
    draft.rename(work.path)


def filled_folder(work: Work) -> Steps:
    """mkdir, then each file by mv."""
    work.path.mkdir()
    yield SHUT
    for name, data in _files(work):
        draft = work.tmp / f"{work.stem}-{name}"
        draft.write_bytes(data)
        yield SHUT / 2
        draft.rename(work.path / name)
        yield SHUT


def mapped_folder(work: Work) -> Steps:
    """Every file first as long as it will be, then filled by offset, out of order."""
    work.path.mkdir()
    yield SHUT
    for name, data in _files(work):
        fd = os.open(work.path / name, ONLY, 0o644)
        os.ftruncate(fd, len(data))
        yield OPEN
        cuts = work.cuts(data)
        work.rng.shuffle(cuts)
        for at, piece in cuts:
            os.pwrite(fd, piece, at)
            yield OPEN
        os.close(fd)
        yield SHUT


FOLDER_WRITERS = (copied_folder, moved_folder, filled_folder, mapped_folder)


def _files(work: Work) -> list[tuple[str, bytes]]:
    files = [(name.removeprefix("inputs/"), data) for name, data in work.wholes[0].items()]
    work.rng.shuffle(files)
    return files


def with_overrides(work: Work) -> Steps:
    """The overrides first, by any writer, then the picture by any other."""
    assert work.overrides is not None
    extra = Work(f"{work.name}.overrides", ".json", work.overrides, work.rng, work.pending, work.tmp)
    extra.byte_by_byte = work.byte_by_byte
    yield from work.rng.choice((*FILE_WRITERS[:4], sftp, samba, mapped, appended, tee, python, kate))(extra)
    yield SHUT
    yield from work.rng.choice(FILE_WRITERS)(work)
    work.litter |= extra.litter


# -- what is written -----------------------------------------------------------------------------------------------------------


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(text: str = "a red circle\nSteps: 4, Sampler: Euler, CFG scale: 2, Seed: 7, Size: 64x64") -> bytes:
    """A picture of one pixel with A1111's text."""
    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"tEXt", b"parameters\0" + text.encode()), (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*each) for each in chunks)


def picture(kind: str) -> bytes:
    """A picture as an input of a job, of the kind PNG, JPEG or WEBP."""
    file = BytesIO()
    Image.linear_gradient("L").resize((8, 8)).convert("RGB").save(file, kind)
    return file.getvalue()


#: Suffix -> small jobs of that format.
SAMPLES: dict[str, tuple[bytes, ...]] = {
    ".json": (
        b'{"prompt": "a red circle"}',
        b'{"prompt": "a red circle", "steps": 4, "seed": 7}\n',
        b'\xef\xbb\xbf{\r\n  "prompt": "a red circle {[\\"\xc3\xa9\\u00e9", "sweep": {"steps": [3, 4]}\r\n}\r\n\r\n',
    ),
    ".jsonl": (
        b'{"prompt": "a red circle"}\n{"prompt": "two", "seed": 1}\n',
        b'{"prompt": "a red circle"}\r\n\r\n{"prompt": "two"}',
    ),
    ".csv": (
        b'prompt,steps\n"a red circle, small",4\ntwo,5\n',
        b'prompt;seed\r\n"a red circle ""x""";1\r\ntwo;2',
    ),
    ".txt": (b"a red circle\n# a remark\ntwo (words:1.2)\n", "a red circle\ntwo é".encode()),
    ".png": (png(),),
}
OVERRIDES = b'{"seed": 3, "steps": 5}'
FOLDERS: tuple[Whole, ...] = tuple(
    {
        "job.json": f'{{"prompt": "a red circle", "image": "a.{kind.lower()}", "strength": 0.5}}'.encode(),
        f"inputs/a.{kind.lower()}": picture(kind),
    }
    for kind in ("PNG", "JPEG", "WEBP")
)
#: Whole, and wrong for good: they are set aside with their reason.
WRONG: dict[str, tuple[bytes, ...]] = {
    ".json": (b'{"prompt": "a red circle", "stepz": 4}', b"[1, 2]", b'{"prompt": "a red circle"', b"", b'{"prompt": "x"}\0\0'),
    ".jsonl": (b'{"prompt": "a red circle"}\n{"prompt": 7}\n', b'{"prompt": "a red circle"}\n{"prom', b"\n"),
    ".csv": (b"prompt,steps\na red circle,many\n", b"prompt\n", b'prompt\n"a'),
    ".txt": (b"# nothing\n", b"a red circle\n\xff\n", b""),
    ".png": (png()[:-1], b"\x89PNG\r\n\x1a\n", png("no settings at all")[:40], b""),
}
