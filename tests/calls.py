"""The system's calls, as a test sees them: which files were synced, and a call that fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def synced() -> Iterator[list[str]]:
    """The names of what is fsynced meanwhile, in order; a file's with its size."""
    kept, names = os.fsync, []

    def sync(fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))  # noqa: PTH115 - it is no path that could be followed
        names.append(path.name if path.is_dir() else f"{path.name} {path.stat().st_size}")
        kept(fd)

    os.fsync = sync  # type: ignore[assignment]
    try:
        yield names
    finally:
        os.fsync = kept


@contextmanager
def failing(name: str, after: bool = False, code: int = errno.EIO) -> Iterator[None]:
    """The call os.<name> fails meanwhile; `after`: when it is done all the same."""
    kept: Callable[..., Any] = getattr(os, name)

    def fail(*arguments: Any, **options: Any) -> None:
        if after:
            kept(*arguments, **options)
        raise OSError(code, os.strerror(code))

    setattr(os, name, fail)
    try:
        yield
    finally:
        setattr(os, name, kept)


@contextmanager
def no_fsync_of(suffix: str) -> Iterator[None]:
    """The disk will not keep files or folders whose name ends so."""
    kept = os.fsync

    def sync(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(suffix):  # noqa: PTH115 - it is no path that could be followed
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        kept(fd)

    os.fsync = sync  # type: ignore[assignment]
    try:
        yield
    finally:
        os.fsync = kept
