"""What the guests of the NFS proof do, through the real code: each verb prints one line of JSON at its end.

intake    submits jobs; prints the ids that were acknowledged
spooler   a spooler whose engine takes no time: life lock, epoch, recover, claim, prepare, publish; until the stop file is there
hold      holds a lock, until the stop file is there
attempt   tries to get a lock once, or until it has it
scan      looks at pending/ of several mounts; prints when each name was first seen in each
edges     stale handles, silly-rename files
full      submits until the disk is full, then after room was made
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from spooler.life import Life
from spooler.record import EngineFacts, Image, Record, Timings
from spooler.spool import Place, Spool
from spooler.status import Progress

FACTS = EngineFacts(
    model="none", hash="0" * 64, family="none", device="cpu", device_name="none", precision="none", versions={}, load_seconds=0
)


def intake(spool: Spool, count: int, prefix: str, pause_s: float, stop: Path) -> dict[str, Any]:
    """`count` jobs, each with a prompt of its own; or until the stop file is there."""
    given: dict[str, str] = {}
    errors: Counter[str] = Counter()
    times: dict[str, float] = {}
    worst = 0.0
    for number in range(count):
        if stop.exists():
            break
        raw = json.dumps({"prompt": f"{prefix} {number}", "count": 1}).encode()
        began = time.monotonic()
        try:
            job_id = spool.submit(raw)
        except OSError as error:
            errors[_name(error)] += 1
            continue
        given[job_id] = f"{prefix} {number}"
        times[job_id] = time.time()
        worst = max(worst, time.monotonic() - began)
        if pause_s:
            time.sleep(pause_s)  # the pace of the submitter, so that there are jobs all through the trouble
    return {"given": given, "errors": errors, "worst_s": worst, "times": times}


def spooler(spool: Spool, name: str, work_s: float, stop: Path) -> dict[str, Any]:
    """As spooler/service.py and attempts.py order it; taken for dead, it begins a new life."""
    told: Counter[str] = Counter()
    published: list[str] = []
    errors: Counter[str] = Counter()
    adopted: dict[str, float] = {}
    longest = {"claim": 0.0, "publish": 0.0, "recover": 0.0, "list": 0.0}
    began_s = time.monotonic()
    lost_lives: list[float] = []

    def timed(verb: str, began: float) -> None:
        longest[verb] = max(longest[verb], time.monotonic() - began)

    while not stop.exists():
        try:
            life = Life.begin(spool, name)
        except (Timeout, OSError) as error:
            errors[f"begin: {_name(error)}"] += 1
            time.sleep(1)  # as run.sh rests before it starts a spooler again
            continue
        told["lives"] += 1
        recovered_at = -1e9
        try:
            while not stop.exists():
                places: list[Place] = []
                if time.monotonic() - recovered_at > 5:
                    began = time.monotonic()
                    mine = {entry.name for entry in (spool.claimed / name).iterdir()}
                    places = spool.recover(name)
                    for place in places:
                        if place.id not in mine:
                            adopted[place.id] = time.time()
                    timed("recover", began)
                    recovered_at = time.monotonic()
                began = time.monotonic()
                waiting = sorted(_names(spool.pending))[:20]
                timed("list", began)
                for each in waiting:
                    if not each.endswith(".json"):
                        continue
                    began = time.monotonic()
                    if not life.goes_on():
                        raise _TakenForDeadError
                    if place := spool.claim(each, name):
                        places.append(place)
                    else:
                        told["races lost"] += 1
                    timed("claim", began)
                    if len(places) >= 4:
                        break
                for place in places:
                    if not run(spool, place, name, work_s, life, told, timed):
                        continue
                    published.append(place.id)
                if not places:
                    time.sleep(0.1)  # a poll: there are no events on NFS
        except _TakenForDeadError:
            told["taken for dead"] += 1
            lost_lives.append(time.time())
        except (OSError, Timeout) as error:
            errors[f"loop: {_name(error)}"] += 1
            print(f"{name}: {error!r}", file=sys.stderr)
            time.sleep(0.2)  # as the service rests after a turn that failed
        finally:
            life.end()
    return {
        "published": published,
        "told": told,
        "errors": errors,
        "adopted": adopted,
        "longest_s": longest,
        "seconds": time.monotonic() - began_s,
        "lost_lives": lost_lives,
    }


class _TakenForDeadError(Exception):
    """Another spooler raised our epoch."""


def run(spool: Spool, place: Place, name: str, work_s: float, life: Life, told: Counter[str], timed: Any) -> bool:
    """One attempt of a claimed job. Returns whether it was shown by us."""
    try:
        record = spool.read_record(place) or Record(id=place.id)
        record = record.claimed_by(name, place.id, "").end_attempt("worker-died: the spooler died")
        record = record.begin_attempt(spool.read_job(place), FACTS)
        spool.prepare(place, record)
        if work_s:
            time.sleep(work_s)  # the engine at work
        (place.path / "0.png").write_bytes(name.encode() + b" " + place.id.encode())
    except FileNotFoundError:
        told["gone before publish"] += 1
        return False
    began = time.monotonic()
    if not life.goes_on():
        raise _TakenForDeadError
    record = record.finish((Image(file="0.png", index=0, seed=1, width=8, height=8),), Timings(), FACTS)
    shown = spool.publish(place, record, "done")
    timed("publish", began)
    if shown is None:
        told["gone at publish"] += 1
        return False
    if shown.id != place.id:
        told["shown under another id"] += 1
    return True


def hold(path: Path, said: Path, stop: Path) -> dict[str, Any]:
    """Hold the lock as filelock does; a write to the locked file at the end tells whether it still is (fcntl(2))."""
    lock = FileLock(path, fallback_to_soft=False, thread_local=False)
    lock.acquire(timeout=30)
    said.write_text("held")
    while not stop.exists():
        time.sleep(0.2)  # a poll: the host says when it is enough
    found = "the lock was held to the end"
    descriptor = lock._context.lock_file_fd
    assert descriptor is not None
    try:
        os.write(descriptor, b"x")
        os.fsync(descriptor)
    except OSError as error:
        found = f"a write to the locked file gives {_name(error)}"
    lock.release()
    return {"found": found}


def attempt(path: Path, wait_s: float, retry_s: float = 2.0) -> dict[str, Any]:
    """Whether and when the lock can be had."""
    began = time.monotonic()
    while True:
        lock = FileLock(path, fallback_to_soft=False, thread_local=False)
        try:
            lock.acquire(timeout=0)
            lock.release()
            return {"got": True, "after_s": time.monotonic() - began, "why": ""}
        except Timeout:
            why = "held"
        except OSError as error:
            why = _name(error)
        if time.monotonic() - began >= wait_s:
            return {"got": False, "after_s": time.monotonic() - began, "why": why}
        time.sleep(retry_s)  # a poll, with the deadline above


def scan(mounts: list[str], prefix: str, every_s: float, stop: Path) -> dict[str, Any]:
    """A thread a mount; each looks at pending/ until the stop file is there. "stat:<mount>": it lists only when the folder's
    time changed."""
    seen: dict[str, dict[str, float]] = {mount: {} for mount in mounts}
    turns: Counter[str] = Counter()

    def watch(mount: str) -> None:
        mine = seen[mount]
        folder = f"{mount.removeprefix('stat:')}/{prefix}/pending"
        changed = 0
        while not stop.exists():
            if not mount.startswith("stat:") or (now_changed := Path(folder).stat().st_mtime_ns) != changed:
                changed = now_changed if mount.startswith("stat:") else 0
                names = _names(folder)
                now = time.time()
                for name in names:
                    mine.setdefault(name, now)
            turns[mount] += 1
            time.sleep(every_s)  # the time between two looks, which is what is measured

    threads = [threading.Thread(target=watch, args=(mount,)) for mount in mounts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    devices = {Path(mount.removeprefix("stat:")).stat().st_dev for mount in mounts}
    return {"seen": seen, "turns": turns, "devices": len(devices)}


def edges(spool: Spool, other: Spool) -> dict[str, Any]:
    """Odd things of one client, `other` being the same spool through another mount with caches of its own."""
    found: dict[str, Any] = {}
    (spool.claimed / "edge").mkdir(exist_ok=True)

    def claimed() -> Place:
        job_id = spool.submit(json.dumps({"prompt": "edge"}).encode())
        place = spool.claim(f"{job_id}.json", "edge")
        assert place
        return place

    def ask(what: str, look: Callable[[], object]) -> None:
        try:
            found[what] = repr(look())[:120]
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is asked
            found[what] = f"{type(error).__name__}({_name(error)})"

    def silly(folder: Path) -> list[str]:
        return [name for name in _names(folder) if name.startswith(".nfs")]

    # 1. Somebody on this client reads a file of the claimed folder while it is replaced: the client leaves .nfs<number>.
    for verb in ("prepare", "publish"):
        place = claimed()
        spool.write_progress(place, Progress(step=1, steps=2))
        with (place.path / "progress.json").open("rb"):
            spool.write_progress(place, Progress(step=2, steps=2))
            found[f"{verb}: silly names before"] = len(silly(place.path))
            if verb == "prepare":
                ask("prepare with a silly name", lambda place=place: spool.prepare(place, Record(id=place.id)))
            ask(
                f"{verb}: publish with a silly name",
                lambda place=place: spool.publish(place, Record(id=place.id), "done").state,
            )
            shown = spool.root / "done" / place.id
            if not shown.exists():
                ask(
                    f"{verb}: rename of the whole folder with a silly name",
                    lambda place=place, shown=shown: place.path.rename(shown),
                )
        found[f"{verb}: names in done at the end"] = sorted(_names(shown)) if shown.exists() else None

    # 2. A stale handle: the folder is published and removed through the other mount while this one has it open.
    place = claimed()
    spool.prepare(place, Record(id=place.id))
    with (place.path / "job.json").open("rb") as file:
        descriptor = os.open(place.path, os.O_RDONLY | os.O_DIRECTORY)
        through = Place(place.id, "claimed", other.claimed / "edge" / place.id, "edge")
        shown = other.publish(through, Record(id=place.id), "done")
        assert shown
        shutil.rmtree(shown.path)
        for what, look in (
            ("read of an open file", lambda: file.read()),
            ("listing of an open folder", lambda: _names(descriptor)),
            ("read_record", lambda: spool.read_record(place)),
            ("read_job", lambda: spool.read_job(place)),
            ("prepare", lambda: spool.prepare(place, Record(id=place.id))),
            ("publish", lambda: spool.publish(place, Record(id=place.id), "done")),
            ("find", lambda: spool.find(place.id)),
        ):
            ask(what, look)
        os.close(descriptor)

    # 3. A rename that another mount did first, with this one's caches warm: source seen, but gone.
    job_id = spool.submit(b'{"prompt": "edge"}')
    assert spool.find(job_id)
    assert f"{job_id}.json" in _names(spool.pending)
    (other.claimed / "peer").mkdir(exist_ok=True)
    taken = other.claim(f"{job_id}.json", "peer")
    found["claimed by the other mount"] = bool(taken)
    ask("claim of what another has", lambda: spool.claim(f"{job_id}.json", "edge"))
    found["left of it"] = sorted(n for n in _names(spool.claimed / "edge") if n.startswith(job_id))
    return found


def full(spool: Spool, prefix: str) -> dict[str, Any]:
    """Submit pictures until it fails; then see what is there; make room, and submit again."""
    raw = json.dumps({"prompt": f"{prefix} " + "x" * 3000}).encode()
    given: list[str] = []
    errors: Counter[str] = Counter()
    before = set(_names(spool.pending))
    for number in range(200):
        try:
            given.append(spool.submit(raw, inputs={f"{number}.png": os.urandom(700_000)} if number % 2 else None))
        except OSError as error:
            errors[f"{_name(error)} at {_where(error)}"] += 1
            if sum(errors.values()) > 5:
                break
    waiting = {entry.name.removesuffix(".json"): entry for entry in spool.pending.iterdir() if entry.name not in before}
    sizes = [(entry / "job.json" if entry.is_dir() else entry).stat().st_size for entry in waiting.values()]
    odd = {
        job_id: {str(path.relative_to(spool.pending)): path.stat().st_size for path in (entry, *entry.rglob("*"))}
        for job_id, entry in waiting.items()
        if job_id not in given
    }
    left = [entry.name for entry in spool.tmp.iterdir() if entry.name != ".gitignore"]
    lost = sorted(set(given) - set(waiting))
    for job_id in given[: len(given) // 2]:
        path = waiting[job_id]
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    try:
        after = bool(spool.submit(raw))
    except OSError as error:
        after = _name(error) == ""
        errors[f"after room was made: {_name(error)}"] += 1
    return {
        "given": len(given),
        "errors": errors,
        "lost": lost,
        "of 0 bytes or cut": sum(size != len(raw) for size in sizes),
        "unacknowledged": odd,
        "left in tmp": left,
        "after": after,
    }


def probe(spool: Spool) -> dict[str, Any]:
    """What a spool says at its start, and at a submit, that cannot be used."""
    found: dict[str, Any] = {}
    for what, do in (("create", lambda: spool.create()), ("submit", lambda: spool.submit(b'{"prompt": "x"}'))):
        try:
            found[what] = repr(do())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is asked
            found[what] = f"{type(error).__name__}: {error}"
    return found


def _where(error: BaseException) -> str:
    """The innermost function of the spool that raised it."""
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)][-1]


def _names(folder: Path | str | int) -> list[str]:
    return os.listdir(folder)  # noqa: PTH208 - the names alone, and of an open folder too


def _name(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, str(error.errno))
    return type(error).__name__


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb")
    parser.add_argument("path", type=Path, nargs="?", default=Path("/"))
    parser.add_argument("--stop", type=Path, default=Path("/share/stop"))
    parser.add_argument("--name", default="one")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--wait", type=float, default=0.0)
    parser.add_argument("--said", type=Path, default=Path("/share/said"))
    parser.add_argument("--mounts", nargs="*", default=[])
    parser.add_argument("--other", type=Path)
    to = parser.parse_args()
    spool = Spool(to.path)
    match to.verb:
        case "intake":
            found = intake(spool, to.count, to.name, to.pause, to.stop)
        case "spooler":
            found = spooler(spool, to.name, to.pause, to.stop)
        case "hold":
            found = hold(to.path, to.said, to.stop)
        case "attempt":
            found = attempt(to.path, to.wait)
        case "scan":
            found = scan(to.mounts, to.name, to.pause, to.stop)
        case "edges":
            found = edges(spool, Spool(to.other))
        case "full":
            found = full(spool, to.name)
        case "probe":
            found = probe(spool)
        case _:
            raise SystemExit(f"no such verb: {to.verb}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
