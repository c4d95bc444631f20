"""What file system a folder is on, and what of it is dangerous or slow for a spool (reliability.md N5 to N8, N12).

The kernel tells which mount an open folder is on (`mnt_id`, proc(5)), so links, nested mounts and mounts over mounts need no
guessing; `parse` and `advice` are pure functions over the text of /proc/self/mountinfo.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from spooler import durable

# fmt: off
#: File systems that other hosts change too. inotify(7): what they do raises no event here.
NETWORK = frozenset(
    (
        "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "drvfs", "gfs", "gfs2", "glusterfs", "gpfs", "lustre", "mfs",
        "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "prl_fs", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs",
    )
)
#: FUSE file systems that lie on this host. Every other one may be a network's: polled in doubt, which is only slower.
LOCAL_FUSE = frozenset(
    (
        "fuseblk", "fuse.bindfs", "fuse.cryfs", "fuse.encfs", "fuse.exfat", "fuse.exfat-fuse", "fuse.ext2", "fuse.fuse-ext2",
        "fuse.fuse-overlayfs", "fuse.gocryptfs", "fuse.lazyfs", "fuse.mergerfs", "fuse.ntfs", "fuse.ntfs-3g", "fuse.securefs",
        "fuse.unionfs", "fuse.zfs",
    )
)
# fmt: on
NFS = frozenset({"nfs", "nfs4"})
SMB = frozenset({"cifs", "smb3", "smbfs"})
#: Seconds that a folder's listing may be older than the folder before it is worth a warning.
LONG_CACHE_S = 3
#: nfs(5), for a mount that does not say it.
DEFAULT_ACDIRMAX_S = 60
#: The clocks of two hosts may differ by as much, in seconds, before it is worth a warning (N12).
SKEW_S = 2.0


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo. `options` are those of the mount and of the file system; an option without a value has ""."""

    point: str
    kind: str
    source: str
    options: Mapping[str, str]

    @property
    def network(self) -> bool:
        """Whether other hosts may change it without an event here."""
        return self.kind in NETWORK or (self.kind.startswith("fuse") and self.kind not in LOCAL_FUSE)


UNKNOWN = Mount("", "", "", {})


def parse(text: str) -> dict[int, Mount]:
    """The mounts of a mountinfo by their numbers. A line of another form is left out."""
    # proc(5): 36 35 98:0 /root /mount/point options [tags ...] - type source options
    found = {}
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        head, tail = before.split(" "), after.split(" ")
        if dash and len(head) >= 6 and len(tail) >= 3 and head[0].isdigit():
            options = {}
            for option in [*head[5].split(","), *tail[2].split(",")]:
                name, _, value = option.partition("=")
                options[_unescape(name)] = _unescape(value)
            found[int(head[0])] = Mount(_unescape(head[4]), tail[0], _unescape(tail[1]), options)
    return found


def _unescape(text: str) -> str:
    r"""mountinfo writes space, tab, newline and backslash as \040, \011, \012, \134."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def of(folder: Path) -> Mount:
    """The mount that holds the folder; UNKNOWN when it cannot be told: no /proc, no such folder, a mount out of sight."""
    try:
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            told = Path(f"/proc/self/fdinfo/{fd}").read_text()
        finally:
            os.close(fd)
        table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return UNKNOWN
    number = re.search(r"^mnt_id:\s*(\d+)$", told, re.MULTILINE)
    return parse(table).get(int(number[1]), UNKNOWN) if number else UNKNOWN


def file_system(folder: Path) -> str:
    """The type of the file system that holds the folder ("ext4", "nfs4"); "" when it cannot be told."""
    return of(folder).kind


def advice(mount: Mount) -> list[str]:
    """What is dangerous or slow about a spool on this mount: a sentence each, with the option to set."""
    if mount.kind in NFS:
        return list(_nfs(mount.options))
    if mount.kind in SMB:
        return list(_smb(mount.options))
    return list(_other(mount))


def _nfs(options: Mapping[str, str]) -> Iterator[str]:
    local = options.get("local_lock", "none")
    if "nolock" in options or local in ("all", "flock"):
        found = "nolock" if "nolock" in options else f"local_lock={local}"
        yield (
            f"`{found}` keeps locks on this host: a spooler on another host takes this one for dead and runs its jobs again. "
            "Mount with `lock,local_lock=none`."
        )
    elif local == "posix":
        yield "`local_lock=posix` keeps one kind of lock on this host; sdspool uses the other. Mount with `local_lock=none`."
    if options.get("vers") == "3":
        yield (
            "NFS version 3 keeps the lock of a host that died until that host is back: nobody takes over its jobs till then. "
            "Mount with `vers=4.2`."
        )
    if soft := next((each for each in ("soft", "softerr") if each in options), None):
        yield (
            f"`{soft}` gives up while the server is away, so what was written may be lost or be done unseen. Mount with `hard`."
        )
    yield from _cache(options, DEFAULT_ACDIRMAX_S, "acdirmax=1,lookupcache=positive")
    if "nocto" in options:
        yield "`nocto` lets this host read old bytes of a file that another has written. Mount without `nocto`."


def _smb(options: Mapping[str, str]) -> Iterator[str]:
    yield (
        "CIFS is good for dropping files in, not for a spooler: its locks are of another kind, and a rename may fail while a "
        "file is open. Run the spooler where the disk is, or mount the share by NFS."
    )
    if "nobrl" in options or "nolock" in options:
        yield "`nobrl` keeps locks on this host: two spoolers could take the same job. Mount without `nobrl`."
    yield from _cache(options, 1, "actimeo=1")


def _cache(options: Mapping[str, str], default_s: int, better: str) -> Iterator[str]:
    if "noac" in options:
        return
    told = options.get("acdirmax", options.get("actimeo", ""))
    seconds = int(told) if told.isdigit() else default_s
    if seconds > LONG_CACHE_S:
        yield f"A job that another host drops may be noticed up to {seconds} s late. Mount with `{better}`."


def _other(mount: Mount) -> Iterator[str]:
    options = mount.options
    if mount.kind in ("tmpfs", "ramfs"):
        yield f"{mount.kind} is memory: a power cut or a restart takes every job and every picture. Put the spool on a disk."
    elif mount.kind in ("overlay", "aufs", "fuse.fuse-overlayfs"):
        yield (f"{mount.kind} is a container's own layer: all jobs and pictures go when it does. Give the spool a volume.")
        if "volatile" in options:
            yield "`volatile` writes nothing through to the disk: a power cut takes jobs that were accepted."
    elif mount.network:
        yield (
            f"{mount.kind} may keep locks on this host, and may not rename a folder in one step: let only one spooler use it, "
            "or put the spool on the spooler's disk and share it by NFS."
        )
    if "nobarrier" in options or options.get("barrier") == "0":
        yield "`nobarrier` lets the disk keep what was written in its memory: a power cut takes jobs that were accepted."


def clock_skew_s(folder: Path) -> float:
    """How far the clock of the file system is ahead of this host's, in seconds; 0 when it cannot be told from none.

    `folder` is the spool's tmp/. For a warning only: nothing is decided by it. Raises OSError when no file can be made there.
    """
    probe = folder / durable.unique_name()
    durable.write_new(probe, b"")
    try:
        before = time.time()
        os.utime(probe)  # without a time: the server of a share takes its own
        after = time.time()
        changed = probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
    return skew_s(before, changed, after)


def skew_s(before: float, changed: float, after: float) -> float:
    """How far outside of `before` to `after` the time of a change is that was made between the two; seconds."""
    return min(0.0, changed - before) + max(0.0, changed - after)


#: Exit status 0: the lock was refused; 3: it was had.
_TRY_LOCK = """
import sys
from filelock import FileLock, Timeout
try:
    FileLock(sys.argv[1], fallback_to_soft=False).acquire(timeout=0)
except Timeout:
    sys.exit(0)
sys.exit(3)
"""


def lock_works(folder: Path) -> bool:
    """Whether a lock that this process holds keeps another one out (N7). `folder` is the spool's tmp/.

    Both are on this host: whether another host is kept out, too, only `advice` and two hosts can tell. Takes about 0.2 s.
    Raises OSError when no lock can be had at all.
    """
    path = folder / f"{durable.unique_name()}.lock"
    durable.write_new(path, b"")  # FileLock would make the folder too
    lock = FileLock(path, fallback_to_soft=False)
    try:
        with lock:
            # -P: not from the folder that it is started in.
            command = [sys.executable, "-P", "-c", _TRY_LOCK, str(path)]
            ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    finally:
        path.unlink(missing_ok=True)
    if ended.returncode not in (0, 3):
        raise OSError((ended.stderr.strip().splitlines() or [f"the lock's probe ended with {ended.returncode}"])[-1])
    return ended.returncode == 0
