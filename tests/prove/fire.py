"""A deed under fire: a process under strace that is killed before its Nth system call, or whose Nth call fails.

The process is forked from this one, so that no point costs a start of Python. It stops itself when it is ready; strace takes
hold of it, and only then does it go on: the calls are counted from there. strace counts them for each name of its own, so a
point is a name and a number. A call before which the process is killed is not made; a call that fails is not made either.

strace counts for each thread of its own too, and which thread of a pool makes a call is chance: so a point of any thread but
the first is a name, a number and the path that the call is about.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

#: What Python does for itself: memory, threads, signals, time. All else is a point: whatever names a file or a descriptor.
NOISE = re.compile(
    "arch_prctl|brk|clock_gettime|clock_nanosleep|clone|clone3|exit|exit_group|futex|getegid|geteuid|getgid|"
    "getpid|getppid|getrandom|gettid|getuid|kill|madvise|mmap|mprotect|mremap|munmap|nanosleep|pselect6|"
    "restart_syscall|rt_sigaction|rt_sigprocmask|rt_sigreturn|rt_sigsuspend|sched_yield|select|sendto|"
    "set_robust_list|sysinfo|uname"
)
#: The process makes this call right before the deed and right after it; nothing else does.
MARK = "getppid"
#: Seconds after which a deed counts as hanging. None waits for anything but a lock that nobody has.
DEADLINE_S = 100.0

CALL = re.compile(r"(\w+)\((.*)\)\s+= (-?\w+|\?)(.*)")
THREAD = re.compile(r"(\d+) +(.*)")
UNFINISHED = "<unfinished ...>"
RESUMED = re.compile(r"<\.\.\. \w+ resumed>(.*)")


@dataclass(frozen=True)
class Call:
    """One system call of a deed: its name, and how many of that name there were with it. Both name the point for strace."""

    name: str
    number: int
    arguments: str = ""
    answer: str = ""
    of: str = ""  #: for a call of any thread but the first: the path that it is about, and it is counted among those calls

    @property
    def failed(self) -> bool:
        return self.answer.startswith("-")

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that it names, and those of its descriptors."""
        found = re.findall(r'"([^"]*)"|\d<([^>]*)>', self.arguments)
        return tuple(quoted or described for quoted, described in found if quoted or described)

    def __str__(self) -> str:
        """The point, and what it is about: paths from the spool on."""
        about = " ".join(re.sub(r"^/.*?/\d+(/|$)", "", path) or "/" for path in self.paths if path != str(Path.cwd()))
        return f"{self.name} {self.number}{f' ({about})' if about else ''}"


@dataclass(frozen=True)
class Run:
    """How a deed went: what it gave back or raised, or that the process was killed."""

    ended: Literal["returned", "raised", "killed", "hung"]
    value: Any = None  #: what it returned; of what it raised, the class's name
    errno: int | None = None
    text: str = ""
    calls: tuple[Call, ...] = ()  #: from mark to mark, those of Python for itself left out
    trace: str = ""  #: all that strace wrote, where the data was wanted

    @property
    def answer(self) -> str:
        """What its caller hears, in short."""
        if self.ended == "returned":
            return "nothing" if self.value is None else "success"
        return str(self.value) if self.ended == "raised" else self.ended


def usable() -> str | None:
    """Why this machine cannot do it, if it cannot."""
    if not shutil.which("strace"):
        return "strace is not installed"
    try:
        return None if fire(lambda: Path("/").stat(), log=True).calls else "strace may not trace here"
    except RuntimeError as error:
        return str(error)


def fire(
    deed: Callable[[], Any],
    ready: Callable[[], object] | None = None,
    inject: str = "",
    log: bool = False,
    data: bool = False,
    threads: bool = False,
    about: str = "",
) -> Run:
    """Do the deed in a process of its own. `inject` is strace's, as `fsync:signal=SIGKILL:when=2`; `log`: note the calls;
    `data`: keep the trace with every byte that was written, all strings in hexadecimal.

    Only its first thread is looked at; with `threads` all are, and with `about` all are, but only at calls about that path.
    `ready` is done before strace looks; what it returns is kept until the process ends.
    """
    ours, theirs = socket.socketpair()
    with ours, tempfile.NamedTemporaryFile("r", dir=shared_memory()) as trace:
        pid = os.fork()
        if pid == 0:
            ours.close()
            _child(deed, ready, theirs)
        theirs.close()
        try:
            _, status = os.waitpid(pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                raise RuntimeError("the process ended before it was ready")
            # Traced are only calls of that name where no log is wanted: a stop at each of the others would cost its time.
            traced = "all" if log or data else inject.partition(":")[0]
            strings = ["-xx", "-s", str(1 << 24)] if data else ["-s", "0"]
            followed = [*(["-f"] if data or threads or about else []), *(["-P", about] if about else [])]
            options = ["-y", *strings, *followed, "-o", trace.name, "-e", f"trace={traced}", "-e", "signal=none"]
            strace = subprocess.Popen(
                ["strace", *options, *(["-e", f"inject={inject}"] if inject else []), "-p", str(pid)], stderr=subprocess.PIPE
            )
            with strace:
                assert strace.stderr
                hello = strace.stderr.readline()
                if b"attached" not in hello:
                    raise RuntimeError(f"strace cannot trace: {hello.decode(errors='replace').strip()}")
                os.kill(pid, signal.SIGCONT)
                hung = not select.select([ours], [], [], DEADLINE_S)[0]
                if hung:
                    os.kill(pid, signal.SIGKILL)
                answer = b"" if hung else _read(ours)
                _, status = os.waitpid(pid, 0)
        except BaseException:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            raise
        written = trace.read()
        calls = tuple(_calls(written.splitlines(), str(pid), bool(about))) if log else ()
        kept = written if data else ""
    if hung:
        return Run("hung", calls=calls, trace=kept)
    if not answer:
        return Run("killed", os.WTERMSIG(status) if os.WIFSIGNALED(status) else status, calls=calls, trace=kept)
    ended, value, errno, text = pickle.loads(answer)  # noqa: S301 - from our own child
    return Run(ended, value, errno, text, calls, kept)


def _child(deed: Callable[[], Any], ready: Callable[[], object] | None, answer: socket.socket) -> None:
    """The process under fire. It never returns."""
    try:
        logging.disable()  # it would write to the terminal, which is not the deed's
        kept = ready() if ready else None
        os.kill(os.getpid(), signal.SIGSTOP)
        os.getppid()
        try:
            told: tuple[Any, ...] = ("returned", deed(), None, "")
        except BaseException as error:  # noqa: BLE001 - told to whoever fired
            told = ("raised", type(error).__name__, getattr(error, "errno", None), str(error))
        os.getppid()
        answer.sendall(pickle.dumps(told))
        del kept
    finally:
        os._exit(0)


def _read(answer: socket.socket) -> bytes:
    pieces = []
    while piece := answer.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def whole_lines(lines: Iterable[str]) -> Iterator[tuple[str, str, bool]]:
    """The lines of a trace: the thread (empty where only one was looked at), the call, and whether it only began there.

    strace cuts a call in two when another thread does something meanwhile; its second line is given as the whole call.
    """
    begun: dict[str, str] = {}
    for line in lines:
        match = THREAD.fullmatch(line)
        thread, text = (match[1], match[2]) if match else ("", line)
        if text.endswith(UNFINISHED):
            begun[thread] = text.removesuffix(UNFINISHED).rstrip()
            yield thread, begun[thread], True
        else:
            resumed = RESUMED.match(text)
            yield thread, begun.pop(thread) + resumed[1] if resumed else text, False


def _calls(lines: Iterable[str], first: str, about: bool) -> Iterator[Call]:
    """The calls of a trace that are points: from the first mark to the second (all of them, where it tells `about` one path
    only), numbered each for its name; those of any thread but the first for the path too."""
    numbers: Counter[tuple[str, str]] = Counter()
    marks = 1 if about else 0
    for thread, line, begins in whole_lines(lines):
        if begins or not (match := CALL.match(line)):
            continue
        name, arguments, answer, rest = match.groups()
        call = Call(name, 0, arguments, f"{answer}{rest}")
        of = call.paths[0] if thread not in ("", first) and call.paths else ""
        numbers[name, of] += 1
        if name == MARK and thread in ("", first):
            marks += 1
            if marks == 2:
                return
        elif marks == 1 and not NOISE.fullmatch(name) and (of or thread in ("", first)):
            yield replace(call, number=numbers[name, of], of=of)


def shared_memory() -> str | None:
    """A folder in memory, where there is one: a killed process leaves the page cache as it is, so no disk is needed."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for spools, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="sdspool-prove-", dir=shared_memory()) as folder:
        yield Path(folder)


def forked(work: Callable[[], Any]) -> Any:
    """What `work` returns, done in a process of its own. Raises RuntimeError with what it raised."""
    ours, theirs = socket.socketpair()
    with ours:
        pid = os.fork()
        if pid == 0:
            ours.close()
            try:
                logging.disable()
                try:
                    told: tuple[bool, Any] = (True, work())
                except BaseException as error:  # noqa: BLE001 - told to the parent
                    told = (False, f"{type(error).__name__}: {error}")
                theirs.sendall(pickle.dumps(told))
            finally:
                os._exit(0)
        theirs.close()
        answer = _read(ours)
        os.waitpid(pid, 0)
    good, value = pickle.loads(answer) if answer else (False, "it was killed")  # noqa: S301 - from our own child
    if not good:
        raise RuntimeError(value)
    return value
