"""Hints that something in the spool changed. A hint only makes a look happen sooner: what is in the folders is the truth.

Watched are spool/ (PAUSE, a folder that was replaced), pending/, held/, claimed/<spooler>/ and the folders in that (`cancel`),
but none below those. Never done/: a job's folder is watched until it leaves.

| how a watch goes deaf                     | how `keep` finds out                                                            |
|-------------------------------------------|---------------------------------------------------------------------------------|
| a folder is renamed, deleted, replaced    | another inode under its path                                                    |
| a folder cannot be read, or can be again  | another mode, or the kernel says so                                             |
| the thread that reads the events died     | it is not alive                                                                 |
| no inotify instance or watch is left      | the kernel says so; tried again after a while, at last every minute             |
| the kernel's queue ran over               | the kernel says so: a hint to look at everything, and soon a new watch, since   |
|                                           | a job's folder may have left unheard, and would be watched for ever             |
| none of these, and yet no event comes     | a folder's own time changed, and a second later still no event has come from it |

The last is the canary: a folder's time comes with the stat that tells its inode, so it costs nothing, needs no file of its own,
and sings only when something happened that should have been heard. It also finds the file systems that send no events.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from watchdog.utils import UnsupportedLibcError

from spooler import mounts

if TYPE_CHECKING:  # it is for Linux alone, so `_Ears` imports it when it is needed
    from watchdog.observers.inotify_c import InotifyEvent, Mask

    from spooler.inotify import Folder

log = logging.getLogger(__name__)

#: An event may come this late, in seconds; a folder that changed longer ago without one is not heard.
DEAF_S = 1.0
#: Folders in pending/ that are watched while they are filled; of any more a timer tells.
MAX_FILLING = 100
#: The longest time between two tries to watch, in seconds: the first is at once, then after 1, 3, 7, ...
RETRY_S = 60.0


@dataclass(frozen=True)
class Hint:
    """What to look at: the entry of that name in pending/, which came, changed or left; without a name, everything.

    `whole`: it came by a rename, so it is complete; False: it was closed by a writer, or `left`; None: of neither is anything
    known. Of a hard link that cannot be told: like a new, empty file it is one IN_CREATE.
    """

    name: str | None = None
    whole: bool | None = None
    left: bool = False


EVERYTHING = Hint()


class Watch:
    """Calls `hint` soon after something came, changed or went, in a thread of its own: `hint` must not wait.

    `spooler` is whose claimed folder is watched; None for one that claims nothing. All methods are for one thread.
    """

    def __init__(self, root: Path, spooler: str | None, hint: Callable[[Hint], None]):
        self.reason = "it has not begun"  # why it polls; "" when it does not
        self._root = root
        self._paths = [root, root / "pending", root / "held", *([root / "claimed" / spooler] if spooler else [])]
        self._hint = hint
        self._ears: _Ears | None = None
        self._since = 0.0
        self._failures = 0
        self._next_try = float("-inf")
        self._tried: list[_Look] = []

    @property
    def mode(self) -> Literal["events", "polling"]:
        return "events" if self._ears else "polling"

    @property
    def polling(self) -> bool:
        return self._ears is None

    def keep(self, now: float | None = None) -> None:
        """Watch, or watch again when the watch went deaf: to be called about every second. `now` is monotonic seconds.

        What happened meanwhile is not known, so a hint to look at everything follows each beginning.
        """
        now = time.monotonic() if now is None else now
        before = self.reason
        heard = self._ears.heard if self._ears else []  # before the look: an event that comes between the two is no silence
        looks = [_look(path) for path in self._paths]
        if self._ears:
            if looks != self._tried or self._ears.outdated:
                log.info("%s: a folder is another, or has other permissions, or events were lost: watching anew", self._root)
                self.stop()
                self._next_try = now
            elif trouble := self._ears.trouble(looks, heard, now):
                log.info("%s: the watch went deaf: %s", self._root, trouble)
                self._give_up(trouble, now)
            elif now - self._since >= RETRY_S:
                self._failures = 0
        if not self._ears and (now >= self._next_try or looks != self._tried):
            self._tried = looks
            self._begin(looks, now)
        if self.reason and self.reason != before:
            log.warning("%s is polled, not watched: %s", self._root, self.reason)

    def stop(self) -> None:
        if self._ears:
            self._ears.close()
        self._ears, self.reason = None, "it was stopped"

    def _begin(self, looks: list[_Look], now: float) -> None:
        try:
            if (mount := mounts.of(self._root)).network:
                raise _DeafError(f"{mount.kind} does not tell what other hosts do")
            self._ears = _Ears(self._paths, looks, self._hint)
        except _DeafError as error:
            self._give_up(str(error), now)
            return
        self._since, self.reason = now, ""
        self._hint(EVERYTHING)

    def _give_up(self, reason: str, now: float) -> None:
        """Poll, until it is time to try again, or another folder or mode promises that it will work."""
        self.stop()
        self.reason = reason
        self._next_try = now + min(RETRY_S, 2.0 ** min(self._failures, 10) - 1)
        self._failures += 1


class _DeafError(RuntimeError):
    """The spool cannot be watched, and why: met by `Watch`, which polls then."""


@dataclass(frozen=True)
class _Look:
    """A folder as it was found; two are equal when it is the same folder with the same permissions."""

    identity: tuple[int, int, int] | None  # device, inode, mode
    error: str = ""
    mtime_ns: int = field(default=0, compare=False)


def _look(path: Path) -> _Look:
    try:
        info = path.stat()
    except OSError as error:
        return _Look(None, f"{path}: {error.strerror}")
    return _Look((info.st_dev, info.st_ino, info.st_mode), mtime_ns=info.st_mtime_ns)


@dataclass
class _Silence:
    """Whether a folder changes without a word."""

    heard: int = 0
    mtime_ns: int | None = None
    since: float | None = None

    def is_deaf(self, heard: int, mtime_ns: int, now: float) -> bool:
        """`heard` is how many events had come before the folder's time was looked at."""
        if self.mtime_ns is None or heard != self.heard:
            self.heard, self.mtime_ns, self.since = heard, mtime_ns, None
        elif mtime_ns != self.mtime_ns and self.since is None:
            self.since = now
        return self.since is not None and now - self.since >= DEAF_S


class _Ears:
    """A watch while it lasts. Its handlers run in the thread of the events: they do no input or output of their own."""

    def __init__(self, paths: list[Path], looks: list[_Look], hint: Callable[[Hint], None]):
        """Raises _DeafError when one of the folders cannot be watched."""
        self._hint = hint
        self._broken = ""
        self._closing = False
        self._folders: list[Folder] = []
        self._silences = [_Silence() for _ in paths]
        self._filling: dict[str, Folder] = {}  # by name
        try:
            from spooler.inotify import Inotify

            self._inotify = Inotify()
        except (ImportError, UnsupportedLibcError) as error:
            raise _DeafError(f"there is no inotify here: {error}") from error
        except OSError as error:
            raise _DeafError(_limit(error)) from error
        handlers = (self._in_root, self._in_pending, self._in_held, self._in_claimed)
        masks = (Inotify.NAMES, Inotify.CHANGES, Inotify.NAMES, Inotify.NAMES)
        try:
            # The fourth is left out where nothing is claimed.
            for path, look, mask, handler in zip(paths, looks, masks, handlers, strict=False):
                if look.error:
                    raise _DeafError(look.error)
                self._folders.append(self._inotify.watch(path, mask, handler, self._look_at_everything))
            for job in _folders(paths[3]) if len(paths) > 3 else []:
                self._watch_job(job)
        except OSError as error:
            self.close()
            raise _DeafError(_limit(error)) from error
        except _DeafError:
            self.close()
            raise

    @property
    def heard(self) -> list[int]:
        """How many events have come from each folder."""
        return [folder.heard for folder in self._folders]

    @property
    def outdated(self) -> bool:
        """Whether a folder is no more, or the kernel's queue ran over: then it is well, but watches too little or too much."""
        return any(folder.gone or folder.missed for folder in self._folders)

    def trouble(self, looks: list[_Look], heard: list[int], now: float) -> str:
        """Why it is deaf; "" when it is well."""
        if not self._inotify.alive:
            return "the thread that reads the events died"
        for folder, silence, look, count in zip(self._folders, self._silences, looks, heard, strict=True):
            if silence.is_deaf(count, look.mtime_ns, now):
                return f"{folder.path} changed without an event"
        return self._broken

    def close(self) -> None:
        self._closing = True
        self._inotify.close()

    def _watch_job(self, path: Path) -> None:
        """Watch a claimed job's folder, unless it is gone already. Raises OSError when it cannot be watched."""
        self._watch_passing(path, self._inotify.ARRIVALS, self._in_job, lambda: None)

    def _watch_passing(
        self, path: Path, mask: Mask, on_event: Callable[[Folder, InotifyEvent], None], on_loss: Callable[[], None]
    ) -> Folder | None:
        """Watch a folder that will be renamed to elsewhere. None: it is gone already."""
        try:
            folder = self._inotify.watch(path, mask, on_event, on_loss)
        except FileNotFoundError:  # RACE: published, or taken by another spooler
            return None
        # RACE: the kernel looks the path up first and watches the folder then. One that was renamed in between will never tell
        # of it, and would be watched in done/ for ever.
        if not path.exists():
            self._inotify.forget(folder)
            return None
        return folder

    def _tell(self, hint: Hint) -> None:
        if self._closing:
            return
        try:
            self._hint(hint)
        except Exception:
            # It would end the thread. `keep` would find that out, but one hint less is better than none for a second.
            log.exception("a hint was lost")

    def _look_at_everything(self) -> None:
        self._tell(EVERYTHING)

    def _in_root(self, folder: Folder, event: InotifyEvent) -> None:
        if not event.name.startswith(b"."):  # a lock, a draft
            self._tell(EVERYTHING)

    def _in_pending(self, folder: Folder, event: InotifyEvent) -> None:
        if not event.name:
            self._tell(EVERYTHING)
            return
        name = os.fsdecode(event.name)
        if event.is_directory and event.is_create and name[0] != ".":
            self._watch_filling(folder.path / name)
        left = event.is_delete or event.is_moved_from
        self._tell(Hint(name, True if event.is_moved_to else False if left or event.is_close_write else None, left))

    def _watch_filling(self, path: Path) -> None:
        """Watch a folder that somebody made in pending/, and fills now; without a watch to be had the timer finds it too."""
        if len(self._filling) < MAX_FILLING:
            with contextlib.suppress(OSError):
                filled = partial(self._filled, path.name)
                if watched := self._watch_passing(path, self._inotify.CHANGES, self._in_filling, filled):
                    self._filling[path.name] = watched

    def _filled(self, name: str) -> None:
        self._filling.pop(name, None)

    def _in_filling(self, folder: Folder, event: InotifyEvent) -> None:
        if event.is_move_self:  # claimed, or taken away: the watch would go along
            self._filling.pop(folder.path.name, None)
            self._inotify.forget(folder)
        elif event.name:
            self._tell(Hint(folder.path.name))

    def _in_held(self, folder: Folder, event: InotifyEvent) -> None:
        self._tell(EVERYTHING)

    def _in_claimed(self, folder: Folder, event: InotifyEvent) -> None:
        if not event.name:
            self._tell(EVERYTHING)
        elif event.is_directory and (event.is_create or event.is_moved_to) and not event.name.startswith(b"."):
            try:
                self._watch_job(folder.path / os.fsdecode(event.name))
            except OSError as error:
                self._broken = str(error)

    def _in_job(self, folder: Folder, event: InotifyEvent) -> None:
        if event.name == b"cancel":
            self._tell(EVERYTHING)
        elif event.is_move_self:  # into done/: the watch would go along
            self._inotify.forget(folder)


def _limit(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    advice = "; see fs.inotify in sysctl" if error.errno in (errno.ENOSPC, errno.EMFILE) else ""
    return f"{where}{error.strerror}{advice}"


def _folders(parent: Path) -> list[Path]:
    with os.scandir(parent) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False) and entry.name[0] != "."]
