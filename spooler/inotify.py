"""Linux's file events, as raw as the kernel gives them, on folders that are named one by one.

watchdog reads the events (its InotifyFD: one inotify instance, one thread). Its Observer is not used, for two reasons found in
its source and measured. It holds back a file that was moved out of what it watches for 0.5 s, and every event behind it: each
of our claims is such a move. And a recursive watch of it keeps watching a folder that was renamed to elsewhere: each job that
is published would leave a watch in done/, until the user has none left.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from watchdog.observers.inotify_c import CallbackId, InotifyConstants, InotifyEvent, InotifyFD, Mask, WatchDescriptor

_ENTRIES = (
    InotifyConstants.IN_CREATE | InotifyConstants.IN_DELETE | InotifyConstants.IN_MOVED_FROM | InotifyConstants.IN_MOVED_TO
)
_SELF = InotifyConstants.IN_MOVE_SELF | InotifyConstants.IN_DELETE_SELF | InotifyConstants.IN_ONLYDIR


class Folder:
    """One watched folder: a callback of InotifyFD. What it is given is called in that thread, and must not wait nor raise."""

    def __init__(self, path: Path, on_event: Callable[[Folder, InotifyEvent], None], on_loss: Callable[[], None]):
        """`on_loss`: the kernel dropped events, or watches the folder no more."""
        self.path = path
        self.heard = 0  # events, and losses of events, so far
        self.gone = False  # the kernel watches it no more
        self.missed = False  # events were lost: what was renamed meanwhile may be watched still
        self.wd: WatchDescriptor | None = None
        self._on_event = on_event
        self._on_loss = on_loss

    def on_event(self, event: InotifyEvent) -> None:
        self.heard += 1
        self.wd = event.wd  # the first event may be faster than `watch` returns
        self._on_event(self, event)

    def on_queue_overflow(self) -> None:
        self.heard += 1
        self.missed = True
        self._on_loss()

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        self.gone = True
        self._on_loss()


class Inotify:
    """One inotify instance and its thread. Raises OSError when the user has no instance left (EMFILE)."""

    #: Entries that come or go or change their mode: whatever changes a folder's own time gives an event.
    NAMES = Mask(_ENTRIES | _SELF | InotifyConstants.IN_ATTRIB)
    #: And those that a writer has closed. No IN_MODIFY: a slow copy would be told of at each of its writes; whoever waits for
    #: one that is never closed looks by a timer. No IN_OPEN: our own reading must not wake us.
    CHANGES = Mask(NAMES | InotifyConstants.IN_CLOSE_WRITE)
    #: Entries that come: all that is of interest where we write ourselves all the time.
    ARRIVALS = Mask(InotifyConstants.IN_CREATE | InotifyConstants.IN_MOVED_TO | _SELF)

    def __init__(self) -> None:
        self._fd = InotifyFD()
        self._fd.start()

    @property
    def alive(self) -> bool:
        return self._fd.is_alive()

    def watch(
        self, path: Path, mask: Mask, on_event: Callable[[Folder, InotifyEvent], None], on_loss: Callable[[], None]
    ) -> Folder:
        """Raises OSError: no watch is left (ENOSPC), the folder is not there, is none, or cannot be read (EACCES)."""
        folder = Folder(path, on_event, on_loss)
        try:
            wd = self._fd.add_callback(os.fsencode(path), mask, folder, CallbackId(id(folder)))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        if wd == -1:  # watchdog raises for every error but this one
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        folder.wd = wd
        return folder

    def forget(self, folder: Folder) -> None:
        """Watch the folder no more, wherever it was renamed to."""
        if folder.wd is not None:
            self._fd.remove_callbacks([(folder.wd, CallbackId(id(folder)))])

    def close(self) -> None:
        """Give everything back; each folder is told of its loss."""
        self._fd.stop()
        self._fd.join()
