"""From a trace of strace to the changes of a disk: what reached the kernel, whoever asked for it and by which function.

Each system call is either replayed on the model, or known to change no file, or an error here: none is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.prove.disk import Disk
from tests.prove.fire import MARK, NOISE, whole_lines

#: A deed tells that it has acknowledged something by looking for /acknowledged/<number>, which does not exist.
SAID = "/acknowledged/"

#: They look, or lock, or change what the model does not have: times, modes.
HARMLESS = re.compile(
    "access|faccessat2?|chdir|close_range|fadvise64|fchmod|fchmodat|fchown|fcntl|flock|fstat|fstatfs|getcwd|getdents64|"
    "getxattr|ioctl|listxattr|llistxattr|lgetxattr|lseek|lstat|newfstatat|pipe2|poll|pread64|prlimit64|read|readlink|"
    "readlinkat|recvfrom|recvmsg|set_tid_address|stat|statfs|statx|umask|utimensat|wait4|getrusage|sigaltstack|rseq|getpgrp|"
    "sched_getaffinity|tgkill|epoll_.*|eventfd2|socket|connect"
)
LINE = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+|\?|0x[0-9a-f]+)(.*)")
BEGUN = re.compile(r"(\w+)\((.*)")
QUIET = re.compile(r"(---|\+\+\+) ")  # signals and ends


@dataclass(frozen=True)
class Call:
    name: str
    arguments: Sequence[str]
    value: int
    thread: str = ""
    begins: bool = False  #: another thread does something before it is done

    def number(self, index: int) -> int:
        """An argument that is a number or a descriptor."""
        match = re.match(r"-?\d+", self.arguments[index])
        assert match, self
        return int(match[0])

    def text(self, index: int) -> bytes:
        """An argument that is a string: all are in hexadecimal."""
        match = re.fullmatch(r'"((?:\\x[0-9a-f]{2})*)"', self.arguments[index])
        assert match, f"{self.name}: {self.arguments[index][:100]!r} was cut"
        return bytes.fromhex(match[1].replace("\\x", ""))


def calls(trace: str) -> Iterator[Call]:
    """The successful calls between the two marks, and the failed look that says that something was acknowledged. One that takes
    while another thread does something comes twice."""
    marks = 0
    for thread, line, begins in whole_lines(trace.splitlines()):
        if begins:
            if marks == 1 and (match := BEGUN.match(line)) and not NOISE.fullmatch(match[1]):
                yield Call(match[1], match[2].split(", "), 0, thread, begins=True)
            continue
        match = LINE.match(line)
        if match is None:
            assert QUIET.match(line) or marks != 1 or "exit" in line, f"not understood: {line[:200]}"
            continue
        name, arguments, value, _ = match.groups()
        if name == MARK:
            marks += 1
        elif marks == 1 and not NOISE.fullmatch(name) and value != "?":
            call = Call(name, arguments.split(", "), int(value, 0), thread)
            if call.value >= 0 or name == "access":
                yield call
    assert marks == 2, f"{marks} marks in the trace"


def replay(trace: str, root: Path, disk: Disk, said: Callable[[int], None], leave_out: Container[int] = ()) -> int:
    """Do on the disk what the trace did below `root`, with a cut after each change; `said` hears what was acknowledged, when.

    The fsyncs whose numbers are in `leave_out` are taken out. Returns the number of fsyncs.
    """
    return _Replay(root, disk, said, leave_out).run(trace)


class _Replay:
    def __init__(self, root: Path, disk: Disk, said: Callable[[int], None], leave_out: Container[int]):
        self._root = f"{root}/"
        self._disk = disk
        self._said = said
        self._leave_out = leave_out
        self._files: dict[int, tuple[int | None, int]] = {}  # descriptor: file (None: not below root) and place in it
        self._paths: dict[int, str] = {}  # of descriptors of folders
        self._syncs = 0
        self._closing: set[str] = set()  # threads that are in the middle of a close
        self._before_sync: dict[str, int] = {}  # by thread that is in the middle of an fsync: how many changes there were

    def run(self, trace: str) -> int:
        for call in calls(trace):
            if call.begins:
                self._begin(call)
                continue
            method = getattr(self, f"_{call.name}", None)
            if method:
                before = len(self._disk.changes), self._syncs
                about = method(call)
                if before != (len(self._disk.changes), self._syncs):
                    self._disk.cut(f"{call.name} {about}")
            else:
                assert HARMLESS.fullmatch(call.name), f"the model does not know {call.name}{tuple(call.arguments)}"
        return self._syncs

    def _begin(self, call: Call) -> None:
        """What must be known of a call as soon as it begins; anything else is taken to be done when it ends."""
        if call.name == "close":  # another thread may get the descriptor before we are told that it is free
            self._close(call)
            self._closing.add(call.thread)
        elif call.name in ("fsync", "fdatasync"):  # it promises nothing of what is written meanwhile
            self._before_sync[call.thread] = len(self._disk.changes)

    # -- names ---------------------------------------------------------------------------------------------------------------

    def _below(self, path: bytes, folder: int | None = None) -> str | None:
        """The path from the root on; None for one that is not below it."""
        text = path.decode(errors="surrogateescape")
        if not text.startswith("/"):
            if folder not in self._paths:
                return None  # of the working folder
            text = f"{self._root}{self._paths[folder]}/{text}"
        below = f"{text}/".removeprefix(self._root)
        return None if below == f"{text}/" else below.strip("/")

    def _at(self, call: Call, index: int) -> str | None:
        """As above, for a pair of arguments: a folder's descriptor, which may be AT_FDCWD, and a path."""
        folder = None if call.arguments[index].startswith("AT_FDCWD") else call.number(index)
        return self._below(call.text(index + 1), folder)

    # -- the calls -----------------------------------------------------------------------------------------------------------

    def _access(self, call: Call) -> str:
        path = call.text(0).decode(errors="surrogateescape")
        if path.startswith(SAID):
            self._said(int(path.removeprefix(SAID)))
        return path

    def _openat(self, call: Call) -> str:
        return self._opened(call, self._at(call, 0), call.arguments[2])

    def _open(self, call: Call) -> str:
        return self._opened(call, self._below(call.text(0)), call.arguments[1])

    def _opened(self, call: Call, path: str | None, flags: str) -> str:
        assert "O_TMPFILE" not in flags and "SYNC" not in flags, flags
        if path is None:
            self._files[call.value] = (None, 0)
            self._paths.pop(call.value, None)
            return ""
        number = self._disk.find(path)
        if number is None:
            assert "O_CREAT" in flags, path
            number = self._disk.make(path, folder=False)
        elif "O_TRUNC" in flags and self._disk.files[number]:
            self._disk.write(number, 0, None)
        at = len(self._disk.files[number]) if "O_APPEND" in flags else 0
        self._files[call.value] = (number, at)
        self._paths[call.value] = path
        return path

    def _fcntl(self, call: Call) -> str:
        if "F_DUPFD" in call.arguments[1]:
            self._dup(call)
        return ""

    def _dup(self, call: Call) -> str:
        # A place in a file that is shared between two descriptors is not modelled: only folders are duplicated.
        number, _ = self._files.get(call.number(0), (None, 0))
        assert number is None or number in self._disk.folders, "a file's descriptor was duplicated"
        self._files[call.value] = (number, 0)
        if path := self._paths.get(call.number(0)):
            self._paths[call.value] = path
        return ""

    def _close(self, call: Call) -> str:
        if call.thread in self._closing:
            self._closing.remove(call.thread)
            return ""
        self._files.pop(call.number(0), None)
        self._paths.pop(call.number(0), None)
        return ""

    def _lseek(self, call: Call) -> str:
        number, _ = self._files.get(call.number(0), (None, 0))
        self._files[call.number(0)] = (number, call.value)
        return ""

    def _read(self, call: Call) -> str:
        number, at = self._files.get(call.number(0), (None, 0))
        self._files[call.number(0)] = (number, at + call.value)
        return ""

    def _write(self, call: Call) -> str:
        number, at = self._files.get(call.number(0), (None, 0))
        if number is not None and call.value:
            self._disk.write(number, at, call.text(1)[: call.value])
            self._files[call.number(0)] = (number, at + call.value)
        return self._paths.get(call.number(0), "")

    def _pwrite64(self, call: Call) -> str:
        number, _ = self._files.get(call.number(0), (None, 0))
        if number is not None and call.value:
            self._disk.write(number, call.number(3), call.text(1)[: call.value])
        return self._paths.get(call.number(0), "")

    def _ftruncate(self, call: Call) -> str:
        number, _ = self._files.get(call.number(0), (None, 0))
        if number is not None:
            self._disk.write(number, call.number(1), None)
        return self._paths.get(call.number(0), "")

    def _fsync(self, call: Call) -> str:
        number, _ = self._files.get(call.number(0), (None, 0))
        before = self._before_sync.pop(call.thread, None)
        if number is not None:
            if self._syncs not in self._leave_out:
                self._disk.sync(number, before)
            self._syncs += 1
        return self._paths.get(call.number(0), "")

    _fdatasync = _fsync

    def _mkdir(self, call: Call) -> str:
        return self._made(self._below(call.text(0)))

    def _mkdirat(self, call: Call) -> str:
        return self._made(self._at(call, 0))

    def _made(self, path: str | None) -> str:
        if path is not None:
            self._disk.make(path, folder=True)
        return path or ""

    def _link(self, call: Call) -> str:
        return self._linked(self._below(call.text(0)), self._below(call.text(1)))

    def _linkat(self, call: Call) -> str:
        return self._linked(self._at(call, 0), self._at(call, 2))

    def _linked(self, source: str | None, target: str | None) -> str:
        assert (source is None) == (target is None), "a link over the edge of the model"
        if source is not None and target is not None:
            self._disk.link(source, target)
        return f"{source} -> {target}"

    def _rename(self, call: Call) -> str:
        return self._renamed(self._below(call.text(0)), self._below(call.text(1)))

    def _renameat(self, call: Call) -> str:
        return self._renamed(self._at(call, 0), self._at(call, 2))

    def _renameat2(self, call: Call) -> str:
        assert call.arguments[4] in ("0", "RENAME_NOREPLACE"), call
        return self._renamed(self._at(call, 0), self._at(call, 2))

    def _renamed(self, source: str | None, target: str | None) -> str:
        assert (source is None) == (target is None), "a rename over the edge of the model"
        if source is not None and target is not None:
            self._disk.rename(source, target)
        return f"{source} -> {target}"

    def _unlink(self, call: Call) -> str:
        return self._removed(self._below(call.text(0)))

    _rmdir = _unlink

    def _unlinkat(self, call: Call) -> str:
        return self._removed(self._at(call, 0))

    def _removed(self, path: str | None) -> str:
        if path is not None:
            self._disk.remove(path)
        return path or ""
