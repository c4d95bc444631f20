"""A small file that only its owner may read: keys, and what signs sessions. Read again when it changes, replaced whole."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from filelock import FileLock

from spooler import durable

T = TypeVar("T")
MAX_BYTES = 1 << 20
#: Seconds that somebody else who writes the file is waited for.
LOCK_S = 10.0


class KeysError(RuntimeError):
    """A file of keys or sessions that cannot be used: met by whoever starts the web app or changes a key."""


class PrivateFile(Generic[T]):
    """The file, and what `read` makes of its bytes; of a file that is not there, of b"". Safe for many threads."""

    def __init__(self, path: Path, read: Callable[[bytes], T]):
        self.path = path
        self._read = read
        self._kept: tuple[object, T] | None = None

    def value(self) -> T:
        """What the file says now. Raises KeysError when others than its owner may read it, or it cannot be read."""
        try:
            # Links are followed: a secret that is mounted into a container often is one. O_NONBLOCK: never wait for a FIFO.
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return self._of(None, b"")
        except OSError as error:
            raise KeysError(f"{self.path} must be readable, but: {error.strerror}.") from None
        try:
            facts = os.fstat(fd)
            state = (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
            if self._kept and self._kept[0] == state:
                return self._kept[1]
            if not stat.S_ISREG(facts.st_mode):
                raise KeysError(f"{self.path} must be an ordinary file, but is none.")
            if facts.st_mode & 0o077:
                mode = stat.S_IMODE(facts.st_mode)
                rule = "must be readable and writable by its owner alone, but has mode"
                raise KeysError(f"{self.path} {rule} {mode:04o}: chmod 600 {self.path}")
            with os.fdopen(os.dup(fd), "rb") as file:
                data = file.read(MAX_BYTES + 1)
        finally:
            os.close(fd)
        if len(data) > MAX_BYTES:
            raise KeysError(f"{self.path} must have at most {MAX_BYTES} bytes, but has more.")
        return self._of(state, data)

    def _of(self, state: object, data: bytes) -> T:
        if self._kept is None or self._kept[0] != state:
            try:
                self._kept = (state, self._read(data))
            except KeysError as error:
                raise KeysError(f"{self.path}: {error}") from error
        return self._kept[1]

    def change(self, make: Callable[[bytes], bytes]) -> None:
        """Replace the file's bytes by what `make` makes of them, with no other writer in between. Raises KeysError."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                self.value()  # never write to a file that is not fit to be kept
                old = self.path.read_bytes() if self.path.exists() else b""
                new = make(old)
                if new != old:
                    durable.replace(self.path.resolve(), new, 0o600)
        except OSError as error:
            raise KeysError(f"{self.path} must be writable, but: {error.strerror or error}.") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(f"{self.path}.lock", LOCK_S, mode=0o600, fallback_to_soft=False)
        try:
            with lock:
                yield
        except TimeoutError as error:
            raise KeysError(f"{self.path} is being changed by somebody else: try again.") from error
