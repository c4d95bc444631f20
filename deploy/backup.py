#!/usr/bin/env python3
"""Copy a spool while it is at work: python3 deploy/backup.py SPOOL COPY

Needs rsync and Python 3.11, no sdspool. COPY is a spool itself: `sdspool fsck --spool COPY` examines it, and a spooler can run
on it. Made again over an older copy it only copies what is new. Exit status: 0 a copy was made, 1 it was not, 2 it cannot be.

Jobs move while they are copied. Forward through the folders, they cannot be missed by whoever looks in that order. Backward
(release, retry) a job may be missed once, so everything is looked through twice, and what the second look does not see any more
is kept. What was then seen in several places is told by its job file, which moves with its time and bytes: the place that
is farthest on is right. A job that was being drawn waits again in the copy.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

#: The order to look in: that of the flow, and lists of jobs before the jobs that are made of them.
ORDER = ("batches", "pending", "held", "claimed", "rejected", "cancelled", "failed", "done")
ENDS = ("done", "failed", "cancelled")
#: Locks say nothing in a copy, and drafts are nobody's.
LEFT_OUT = ("--exclude=.lock", "--exclude=.claim.lock")
#: What rsync says when a file went away between its look and its copying.
VANISHED = 24
TRIES = 5


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or not (Path(arguments[0]) / "pending").is_dir():
        print("usage: backup.py SPOOL COPY; SPOOL must have a folder pending/", file=sys.stderr)
        return 2
    if not shutil.which("rsync"):
        print("rsync must be installed, but is not", file=sys.stderr)
        return 2
    spool, copy = map(Path, arguments)
    (copy / "tmp").mkdir(parents=True, exist_ok=True)
    try:
        for name in ORDER:
            look(spool / name, copy / name, "--delete")
        look(spool, copy, "--exclude=*/")  # PAUSE, styles
        for name in ORDER:
            # A job never comes back from done/: so what went from there meanwhile was removed, and half of it is of no use.
            look(spool / name, copy / name, *(("--delete",) if name == "done" else ()))
    except subprocess.CalledProcessError as error:
        print(f"rsync failed with status {error.returncode}, so there is no whole copy", file=sys.stderr)
        return 1
    settle(copy)
    return 0


def look(source: Path, target: Path, *options: str) -> None:
    """Copy a folder; once more when something went away meanwhile. Raises CalledProcessError when rsync cannot."""
    target.mkdir(parents=True, exist_ok=True)
    for _ in range(TRIES):
        ended = subprocess.run(["rsync", "-a", *LEFT_OUT, *options, f"{source}/", f"{target}/"], check=False)
        if ended.returncode != VANISHED:
            ended.check_returncode()
            return


def settle(copy: Path) -> None:
    """Leave each job in one place of the copy."""
    # 1. Of a job that ended twice, for it was sent back to the queue meanwhile, the later end is right.
    for folder in [each for name in ENDS for each in (copy / name).iterdir() if each.is_dir()]:
        others = [place for place in ends(copy, folder.name) if place != folder]
        was_removed = not (folder / "job.json").exists()  # while it was copied
        if was_removed or any(same(folder, place) and ended_at(place) > ended_at(folder) for place in others):
            shutil.rmtree(folder)
    # 2. What was being drawn waits again, unless it has ended since.
    for folder in [each for each in (copy / "claimed").glob("*/*/") if not each.name.startswith(".")]:
        if not (folder / "job.json").exists() or any(same(folder, place) for place in ends(copy, folder.name)):
            shutil.rmtree(folder)
            continue
        for stale in [place for place in waiting(copy, folder.name) if same(place, folder)]:
            remove(stale)
        if not waiting(copy, folder.name):
            folder.rename(copy / "pending" / folder.name)
    # 3. What waits: not what has ended since; a folder is later than the file that it was; what is held stays held.
    for entry in [each for name in ("pending", "held") for each in (copy / name).iterdir()]:
        job_id = entry.name if entry.is_dir() else entry.name.removesuffix(".json")
        if not job_of(entry).exists():
            continue
        places = waiting(copy, job_id)
        later = [*ends(copy, job_id), *places[places.index(entry) + 1 :]] if entry in places else []
        if any(same(entry, place) for place in later):
            remove(entry)


def ends(copy: Path, job_id: str) -> list[Path]:
    return [copy / name / job_id for name in ENDS if (copy / name / job_id).is_dir()]


def waiting(copy: Path, job_id: str) -> list[Path]:
    """Where a job of that id waits, as a file or as a folder."""
    places = (copy / state / name for name in (f"{job_id}.json", job_id) for state in ("pending", "held"))
    return [place for place in places if place.exists()]


def job_of(entry: Path) -> Path:
    return entry / "job.json" if entry.is_dir() else entry


def same(one: Path, other: Path) -> bool:
    """Whether the two are one job: its file, which no move changes, is the same; or one is the other as somebody edited it."""
    if not job_of(one).exists() or not job_of(other).exists():
        return False
    mine, its = as_it_came(one), as_it_came(other)
    if mine.read_bytes() != its.read_bytes():
        return False
    return "submitted.json" in (mine.name, its.name) or mine.stat().st_mtime_ns == its.stat().st_mtime_ns


def as_it_came(entry: Path) -> Path:
    """The job file that was submitted: beside an edited one lies the first."""
    first = entry / "submitted.json"
    return first if first.exists() else job_of(entry)


def ended_at(folder: Path) -> int:
    record = folder / "record.json"
    return record.stat().st_mtime_ns if record.exists() else 0


def remove(entry: Path) -> None:
    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
