"""What lies in pending/, by its name and its times: a job, a file of many, a side file, or what is none of them yet.

A look from outside, which reads no job. `Pending` keeps what these looks find.
"""

from __future__ import annotations

import fcntl
import logging
import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from spooler import priority
from spooler.ids import ID
from spooler.place import Place
from spooler.reader import PRIORITY
from spooler.schedule import Waiting

log = logging.getLogger(__name__)

#: Identity of a file's content as far as a look from outside tells: inode, size, modification time.
Signature = tuple[int, int, int]
UNSEEN: Signature = (0, 0, 0)

#: A dropped file that holds many jobs, or a picture that tells of one.
SOURCES = (".jsonl", ".csv", ".txt", ".png")
OVERRIDES = ".overrides.json"
#: Names that others give to what is not finished: editors, browsers, scp and rsync clients, sync tools.
_UNFINISHED = ("~", "#", ".tmp", ".part", ".partial", ".filepart", ".swp", ".swx", ".crdownload", ".download")


@dataclass(frozen=True, slots=True)
class Suspect:
    """Something in pending/ that is no job: for good, or perhaps not yet (a copy that is still arriving)."""

    path: Path
    reason: str
    final: bool
    since: float  # monotonic seconds since when it has not changed


@dataclass(frozen=True, slots=True)
class Source:
    """A dropped file of many jobs. It has no end that could be seen in its bytes: `whole` when it came by a rename."""

    path: Path
    since: float
    whole: bool


@dataclass(frozen=True, slots=True)
class Side:
    """A side file with another priority for a job."""

    job_id: str
    priority: int | None
    top: int
    since: float


Found = Waiting | Suspect | Source | Side


def kind_of(name: str, is_folder: Callable[[], bool]) -> Literal["job", "source", "side"] | None:
    """What an entry of pending/ may be by its name; None for others' temporary names and files that are nobody's job."""
    if _is_anothers(name):
        return None
    if name.endswith(".json"):
        return "job"
    if name.endswith(PRIORITY):
        return "side" if ID.fullmatch(name.removesuffix(PRIORITY)) else None
    if name.lower().endswith(SOURCES):
        return "source"
    return "job" if is_folder() else None


def is_nobodys(name: str, is_folder: Callable[[], bool]) -> bool:
    """Whether an entry of pending/ is left lying for good: it is no job by its name, nor what will become or belongs to one."""
    return not _is_anothers(name) and kind_of(name, is_folder) is None


def _is_anothers(name: str) -> bool:
    """Whether it is a program's, which has not finished with it, or belongs to another file."""
    return name.startswith((".", "~", "#")) or name.lower().endswith(_UNFINISHED) or name.endswith(OVERRIDES)


@lru_cache(256)
def owner_of(uid: int) -> str:
    """The user name of a file's owner; its number where it has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def side_of(path: Path, info: os.stat_result, now: float) -> Side:
    """What a side file says; one that says nothing of use changes nothing."""
    job_id = path.name.removesuffix(PRIORITY)
    given = priority.read(path)
    if given.mistake:  # told once for each time that the file changed
        log.warning("job %s: %s", job_id, given.mistake)
    if given.value == "top":
        return Side(job_id, None, max(1, info.st_mtime_ns), now)
    return Side(job_id, given.value, 0, now)


def signature_of(place: Place) -> Signature:
    try:
        info = place.job_file.lstat()
    except FileNotFoundError:  # a folder may be there without it
        info = place.path.lstat()
    if place.is_folder:  # its pictures count too: they may come after job.json
        inside = [entry.stat(follow_symlinks=False) for entry in _entries(place.path)]
        newest = max((each.st_mtime_ns for each in inside), default=0)
        return (info.st_ino, sum(each.st_size for each in inside) + len(inside), max(newest, info.st_mtime_ns))
    return (info.st_ino, info.st_size, info.st_mtime_ns)


def signature_of_source(path: Path) -> Signature:
    """Of a file of many jobs together with its overrides: as long as these change, it is not whole."""
    info = path.lstat()
    try:
        extra = path.with_name(f"{path.name}{OVERRIDES}").lstat()
    except FileNotFoundError:
        return (info.st_ino, info.st_size, info.st_mtime_ns)
    return (info.st_ino + extra.st_ino, info.st_size + extra.st_size + 1, info.st_mtime_ns + extra.st_mtime_ns)


def has_writer(path: Path) -> bool:
    """Whether some process of this host has the file, or one in the folder, open to write: no read lease then (fcntl(2)).

    Where it cannot be told (a network file system, another user's file) the answer is no. SIGIO, which a writer that comes
    just now sends us, is ignored by `serve.serve`.
    """
    if path.is_dir() and not path.is_symlink():
        try:
            return any(has_writer(Path(entry.path)) for entry in _entries(path) if entry.is_file())
        except OSError:
            return False
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        found = list(entries)
    inputs = folder / "inputs"
    if inputs.is_dir() and not inputs.is_symlink():
        with os.scandir(inputs) as entries:
            found += list(entries)
    return found
