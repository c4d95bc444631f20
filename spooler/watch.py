"""Hints that something in the spool changed. A hint only makes a scan happen sooner: the scan is the truth."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

log = logging.getLogger(__name__)

#: File systems on which another host's changes raise no event here (inotify(7)).
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs"})
#: What reading a file raises; our own scans must not wake us.
_READING = frozenset({"opened", "closed_no_write"})


class Watch:
    """Calls `hint` soon after a job may have come, gone, or been cancelled. `hint` must only set a flag."""

    def __init__(self, root: Path, hint: Callable[[], None]):
        self._root = root
        self._handler = _Hint(root, hint)
        self._observer: BaseObserver | None = None
        self._watched: tuple[int, int] | None = None
        self.polling = file_system(root) in NETWORK

    @property
    def mode(self) -> str:
        return "events" if self._observer else "polling"

    def keep(self) -> None:
        """Start watching, or start again when the watch went deaf: its thread died, or the folder was replaced."""
        if self.polling:
            return
        now = _identity(self._root)
        if self._observer and self._watched == now and any(emitter.is_alive() for emitter in self._observer.emitters):
            return
        self.stop()
        if now is None:
            return
        try:
            observer = Observer()
            # The whole spool, not pending/ alone: watchdog holds back a file moved out of what it watches for 0.5 s, and
            # every event after it.
            observer.schedule(self._handler, str(self._root), recursive=True)
            observer.start()
        except (OSError, RecursionError) as error:  # no inotify instance or watch is left; folders a thousand deep
            log.warning("cannot watch %s (%s): polling instead; see fs.inotify in sysctl", self._root, error)
            self.polling = True
            return
        self._observer, self._watched = observer, now

    def stop(self) -> None:
        if self._observer:
            self._observer.stop()
            self._observer.join()
            self._observer = None


class _Hint(FileSystemEventHandler):
    def __init__(self, root: Path, hint: Callable[[], None]):
        self._pending = f"{root}/pending/"
        self._pause = f"{root}/PAUSE"
        self._hint = hint

    def dispatch(self, event: FileSystemEvent) -> None:
        if event.event_type in _READING:
            return
        for path in (str(event.src_path), str(event.dest_path)):
            if path.startswith(self._pending) or path.endswith("/cancel") or path == self._pause:
                self._hint()
                return


def _identity(folder: Path) -> tuple[int, int] | None:
    """Inodes of the spool and of pending/: they change when a folder is replaced by another of the same name."""
    try:
        return (folder.stat().st_ino, (folder / "pending").stat().st_ino)
    except OSError:
        return None


def file_system(folder: Path) -> str:
    """The type of the file system that holds the folder, from the mount table ("ext4", "nfs4"); "" when it cannot be told."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    resolved = folder.resolve()
    best, kind = -1, ""
    for line in lines:
        # proc(5): 36 35 98:0 /root /mount/point options [tags] - type source options
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].replace("\\040", " "))
        if resolved.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split()[0]
    return kind
