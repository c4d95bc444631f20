"""A disk that fills up while jobs come and run, and is drained: nothing acknowledged is lost, nothing stays stuck.

Small real file systems (ext4 in a loop device, tmpfs with a bound), the real service with an engine that sleeps. A filler takes
the room byte by byte while jobs are submitted, dropped and run, with the floor of free space at nothing: so each write of the
spool meets the full disk somewhere, not only the check in front of it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spooler import fsck
from spooler.job import encode, from_fields
from tests.prove.clock import Clock, Desk
from tests.prove.report import Figure, cannot_run, main, report

NAME = "disk_full"
MIB = 1 << 20
ROUNDS = 12
#: A job of some size, so that it takes more than one block.
PROMPT = "a red circle " * 300
DRAIN_S = 30.0


@contextmanager
def small_disk(kind: str) -> Iterator[Path]:
    """A mounted file system of a few MiB."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        mount = Path(folder) / "mount"
        mount.mkdir()
        if kind == "ext4":
            image = Path(folder) / "image"
            with image.open("wb") as file:
                file.truncate(24 * MIB)
            subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-N", "4096", str(image)], check=True, capture_output=True)
            subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True, capture_output=True)
        else:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(mount)], check=True, capture_output=True)
        try:
            yield mount
        finally:
            subprocess.run(["umount", "-l", str(mount)], check=True)


class Filler:
    """A file that takes what is free, but for a little."""

    def __init__(self, folder: Path):
        self._path = folder / "filler"

    def fill(self, leave_bytes: int) -> None:
        with self._path.open("ab") as file:
            while (free := self._free()) > leave_bytes:
                try:
                    file.write(b"x" * min(64 << 10, max(512, free - leave_bytes)))
                    file.flush()
                except OSError:
                    return

    def _free(self) -> int:
        info = os.statvfs(self._path.parent)
        return info.f_bavail * info.f_frsize

    def drain(self) -> None:
        self._path.unlink(missing_ok=True)


def scene(kind: str, rounds: int) -> tuple[list[str], int, int]:
    """What went wrong, how many jobs were acknowledged, and how many were refused."""
    acknowledged: list[str] = []
    refused = 0
    with small_disk(kind) as mount:
        made = Desk(mount / "spool", Clock())
        filler = Filler(mount)
        try:
            for number in range(rounds):
                filler.fill(leave_bytes=(number * 3 % 7) * 4096)
                for index in range(8):
                    job_id = f"j{number}-{index}"
                    try:
                        made.spool.submit(encode(from_fields({"prompt": PROMPT})), job_id)
                    except OSError:
                        refused += 1
                    else:
                        acknowledged.append(job_id)
                    with contextlib.suppress(OSError):  # as `run` does: wait, and go on
                        made.service.turn(time.monotonic())
                filler.drain()
                if number % 3 == 2:
                    _turn(made, 0.5, until=len(acknowledged))
            _turn(made, DRAIN_S, until=len(acknowledged))
            found = _wrong(made, acknowledged)
        finally:
            with contextlib.suppress(OSError):
                made.close()
    return found, len(acknowledged), refused


def _turn(made: Desk, seconds: float, until: int) -> None:
    end = time.monotonic() + seconds
    made.service._floor.next_look = 0.0  # else it waits ten seconds before it believes that there is room again
    while time.monotonic() < end and made.ended < until:
        with contextlib.suppress(OSError):
            made.service.turn(time.monotonic())
        made.service._floor.next_look = min(made.service._floor.next_look, time.monotonic() + 0.1)
        time.sleep(0.002)


def _wrong(made: Desk, acknowledged: list[str]) -> list[str]:
    found = [f"{job_id} is {state}" for job_id in acknowledged if (state := made.state(job_id)) != "done"]
    found += [f"0 bytes: {path}" for path in made.spool.root.rglob("job.json") if path.stat().st_size == 0]
    found += [f"0 bytes: {path}" for path in made.spool.pending.glob("*.json") if path.stat().st_size == 0]
    return found + [f"{each.path.name}: {each.sentence}" for each in fsck.examine(made.spool, deep=True) if not each.mend]


def usable() -> str | None:
    """Why this machine cannot make a small file system; None when it can."""
    return None if os.geteuid() == 0 else "mounting a small file system takes root"


def prove(short: bool) -> list[Figure]:
    figure = "acknowledged jobs lost or stuck after the disk was full"
    if reason := usable():
        return [cannot_run(NAME, figure, "0", reason)]
    wrong: list[str] = []
    taken = refused = 0
    for kind in ("tmpfs",) if short else ("ext4", "tmpfs"):
        found, accepted, not_accepted = scene(kind, 4 if short else ROUNDS)
        wrong += [f"{kind}: {each}" for each in found]
        taken, refused = taken + accepted, refused + not_accepted
    details = "; ".join(wrong[:5]) or f"{taken} acknowledged, {refused} refused"
    met = refused > 0 and taken > 0
    return [report(NAME, figure, "0", len(wrong), not wrong and met, details)]


if __name__ == "__main__":
    sys.exit(main(prove))
