"""Removing a stranger's file or folder, whatever its shape."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from spooler import durable


def remove(entry: Path) -> None:
    """Remove a file, a link or a whole folder, which may be gone already, however deep it is."""
    if entry.is_dir() and not entry.is_symlink():
        try:
            shutil.rmtree(entry)
        except RecursionError:  # rmtree calls itself for each level, and a stranger may have made a thousand
            _flatten(entry)
            shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)


def _flatten(top: Path) -> None:
    """Bring all folders below a folder into it, level by level: so no name gets too long, and no call too deep."""
    rest = [top]
    while rest:
        folder = rest.pop()
        with os.scandir(folder) as entries:
            inner = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        rest += inner if folder == top else [each.rename(top / durable.unique_name()) for each in inner]
