"""Nothing that comes into pending/ is missed, and each is noticed within 2 s, whatever happens to the folder or to inotify.

A real process listens (listener.py) while this one drops files, half of them by rename, half by writing them in place, and does
to the folder what operators and systems do. Both read the same monotonic clock. The listener runs in a user namespace, whose
inotify limits are its own (namespaces(7)), as a root that may not read what modes forbid. The shortened form counts what is
lost, not what is late, for the machine may be busy.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from spooler.watch import Hint, Watch
from tests.prove.report import ROOT, Figure, cannot_run, main, report

NOTICED_S = 2.0
#: A name that is not known by then is lost.
DEADLINE_S = 30.0
FOLDERS = ("tmp", "pending", "held", "claimed/me", "done")
NAMESPACE = ("unshare", "--user", "--map-root-user")
WITHOUT_OVERRIDE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


class Listener:
    """A listening process and its spool. `overlay`: it sees the spool through an overlay, of which it gets no events."""

    #: What is dropped.
    raw = b""

    def __init__(self, folder: Path, overlay: bool = False):
        self.root = folder / ("upper" if overlay else "spool")
        self.count = 0
        for name in FOLDERS:
            (self.root / name).mkdir(parents=True)
        self._begin(folder, overlay)
        try:
            self.wait_mode("events")
        except RuntimeError:
            self.close()  # or its threads go on for ever
            raise

    def _begin(self, folder: Path, overlay: bool) -> None:
        self._log = folder / "log"
        self._log.touch()
        seen = self.root
        namespace: tuple[str, ...] = NAMESPACE
        if overlay:
            seen = folder / "seen"
            for path in (seen, folder / "lower", folder / "work"):
                path.mkdir()
            options = f"lowerdir={folder}/lower,upperdir={self.root},workdir={folder}/work,userxattr"
            mount = f'mount -t overlay overlay -o {options} {seen} && exec "$@"'
            namespace = (*NAMESPACE, "--mount", "sh", "-c", mount, "sh")
        command = [*namespace, *WITHOUT_OVERRIDE, sys.executable, "-m", "tests.prove.listener", str(seen), str(self._log)]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)

    def drop(self, number: int, whole: Callable[[int], bool] = lambda index: index % 2 == 0) -> dict[str, float]:
        """Put so many files into pending/; when each was there."""
        arrived = {}
        for index in range(number):
            name = f"{self.count}.json"
            self.count += 1
            target = self.root / "pending" / name
            if whole(index):
                draft = self.root / "tmp" / name
                _write(draft, self.raw)
                draft.rename(target)
            else:
                _write(target, self.raw)
            arrived[name] = time.monotonic()
        return arrived

    def claim(self, names: dict[str, float]) -> None:
        """Rename them out of pending/, into folders that are then renamed into done/."""
        for name in names:
            folder = self.root / "claimed/me" / name
            folder.mkdir()
            (self.root / "pending" / name).rename(folder / "job.json")
            folder.rename(self.root / "done" / name)

    def noted(self, kind: str) -> list[tuple[float, str]]:
        lines = [
            line.rstrip("\n").split(" ", 2) for line in self._log.read_text().splitlines(keepends=True) if line[-1] == "\n"
        ]
        return [(float(when), what) for found, when, what in lines if found == kind]

    def wait_names(self, names: dict[str, float]) -> dict[str, float]:
        """When each was known, as soon as all are, or at the deadline."""
        end = time.monotonic() + DEADLINE_S
        while True:
            known = {name: when for when, name in self.noted("name")}
            if not names.keys() - known.keys() or time.monotonic() > end:
                return known
            time.sleep(0.1)

    def wait_mode(self, mode: str, since: float = 0.0) -> None:
        end = time.monotonic() + 90
        while not any(when >= since and each == mode for when, each in self.noted("mode")):
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError(f"the listener never came to {mode}: {self.noted('mode')}")
            time.sleep(0.05)

    def limit(self, name: str, value: int) -> None:
        """Set a limit of the listener's user namespace."""
        command = ["nsenter", "--user", "--preserve-credentials", f"--target={self.process.pid}"]
        subprocess.run([*command, "sh", "-c", f"echo {value} >/proc/sys/user/{name}"], check=True)

    def watches(self) -> list[str]:
        """What the kernel watches for it, from proc(5): the folders by their paths, and the inodes that are nowhere."""
        inodes = {
            path.stat().st_ino: str(path.relative_to(self.root)) for path in [self.root, *self.root.rglob("*")] if path.is_dir()
        }
        found = []
        for info in Path(f"/proc/{self.process.pid}/fdinfo").iterdir():
            with contextlib.suppress(OSError):
                inotify = [line.split() for line in info.read_text().splitlines() if line.startswith("inotify wd:")]
                numbers = [int(word[4:], 16) for words in inotify for word in words if word.startswith("ino:")]
                found += [f"{inodes.get(number, number)} in {info.name}" for number in numbers]
        return sorted(found)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class RealSpooler(Listener):
    """The spooler itself. What is dropped is JSON but no job, and is known when it lies in rejected/."""

    raw = b'{"nonsense": 1}'

    def _begin(self, folder: Path, overlay: bool) -> None:
        self._notes: dict[str, list[tuple[float, str]]] = {"name": [], "mode": []}
        options = ["--spool", str(self.root), "--spooler", "me", "--model", "demo", "--device", "cpu"]
        command = [*NAMESPACE, *WITHOUT_OVERRIDE, sys.executable, "-m", "spooler", *options]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=log, stdout=log, start_new_session=True)
        self._ended = threading.Event()
        self._looker = threading.Thread(target=self._look)
        self._looker.start()

    def _look(self) -> None:
        seen: set[str] = set()
        while not self._ended.wait(0.01):
            with contextlib.suppress(OSError, ValueError):  # the spool is away; the note is just being replaced
                for name in set(os.listdir(self.root / "rejected")) - seen:  # noqa: PTH208
                    seen.add(name)
                    self._notes["name"].append((time.monotonic(), name))
                mode = json.loads((self.root / "claimed/me/spooler.json").read_bytes())["watching"]
                if [mode] != [each for _, each in self._notes["mode"]][-1:]:
                    self._notes["mode"].append((time.monotonic(), mode))

    def noted(self, kind: str) -> list[tuple[float, str]]:
        return list(self._notes[kind])

    def waiting(self) -> int:
        """How many jobs it says that wait."""
        return int(json.loads((self.root / "claimed/me/spooler.json").read_bytes())["waiting"])

    def close(self) -> None:
        self._ended.set()
        self._looker.join()
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            super().close()


def _write(path: Path, raw: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    if raw:
        os.write(fd, raw)
    os.close(fd)


Arrivals = dict[str, float]


def burst(listener: Listener, short: bool) -> Arrivals:
    """As fast as one process can, while others are claimed."""
    first = listener.drop(100)
    claimer = threading.Thread(target=listener.claim, args=(first,))
    claimer.start()
    arrived = listener.drop(3_000 if short else 40_000, lambda index: index % 10 == 0)
    claimer.join()
    return arrived


def overflow(listener: Listener, short: bool) -> Arrivals:
    """The listener is stopped meanwhile, so the kernel's queue (16,384 events by default) certainly runs over."""
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    os.kill(listener.process.pid, signal.SIGSTOP)
    arrived = listener.drop(max(queue // 2 + 1_000, 0 if short else 40_000), lambda index: False)
    os.kill(listener.process.pid, signal.SIGCONT)
    return dict.fromkeys(arrived, time.monotonic())


def renamed(listener: Listener, short: bool) -> Arrivals:
    """pending/ is renamed, and a new one made."""
    arrived = {}
    for number in range(2 if short else 20):
        arrived |= listener.drop(10)
        _settle(listener, arrived)
        pending = listener.root / "pending"
        pending.rename(listener.root / f"aside-{number}")
        pending.mkdir()
        arrived |= listener.drop(10)
        time.sleep(0.05 * (number % 3))
        arrived |= listener.drop(10)
    return arrived


def replaced(listener: Listener, short: bool) -> Arrivals:
    """pending/ is deleted and made anew (its inode may be the same), or another with files in it is put in its place."""
    arrived = {}
    for number in range(1 if short else 20):
        pending = listener.root / "pending"
        _settle(listener, arrived)
        shutil.rmtree(pending)
        pending.mkdir()
        arrived |= listener.drop(10)
        _settle(listener, arrived)
        fresh = listener.root / f"fresh-{number}"
        fresh.mkdir()
        _write(fresh / f"in-{number}.json", listener.raw)
        pending.rename(listener.root / f"aside-{number}")
        fresh.rename(pending)
        arrived[f"in-{number}.json"] = time.monotonic()
        arrived |= listener.drop(10)
    return arrived


def moved_away(listener: Listener, short: bool) -> Arrivals:
    """The whole spool is renamed and comes back with more in it."""
    arrived = {}
    for _ in range(1 if short else 10):
        _settle(listener, arrived)
        aside = listener.root.with_name("aside")
        listener.root.rename(aside)
        time.sleep(1.5)
        _write(aside / "pending" / f"away-{listener.count}.json", listener.raw)
        aside.rename(listener.root)
        arrived[f"away-{listener.count}.json"] = time.monotonic()
        arrived |= listener.drop(10)
    return arrived


def unreadable(listener: Listener, short: bool) -> Arrivals:
    """pending/ may not be listed for a while (a drop box, 0300), and then again. What came meanwhile counts from then on."""
    arrived = {}
    for number in range(1 if short else 8):
        _settle(listener, arrived)
        pending = listener.root / "pending"
        pending.chmod(0o300)
        meanwhile = listener.drop(10)
        time.sleep((0.2, 2.5, 5.0, 1.0)[number % 4])
        meanwhile |= listener.drop(10)
        pending.chmod(0o700)
        arrived |= dict.fromkeys(meanwhile, time.monotonic())
        arrived |= listener.drop(10)
    return arrived


def exhausted(listener: Listener, short: bool) -> Arrivals:
    """pending/ is replaced when no inotify instance, or no watch, is left; later there are some again."""
    arrived = {}
    for limit in ("max_inotify_watches", "max_inotify_instances")[: 1 if short else 2]:
        for number in range(1 if short else 2):
            before = time.monotonic()
            listener.limit(limit, 0)
            (listener.root / "pending").rename(listener.root / f"{limit}-{number}")
            (listener.root / "pending").mkdir()
            arrived |= listener.drop(10)
            listener.wait_mode("polling", before)
            arrived |= listener.drop(10)
            _settle(listener, arrived)
            listener.limit(limit, 1_000)
            arrived |= listener.drop(10)
            listener.wait_mode("events", before)
            arrived |= listener.drop(10)
            _settle(listener, arrived)
    return arrived


def silent(listener: Listener, short: bool) -> Arrivals:
    """A file system that sends no events, and does not look like one: what is put under an overlay."""
    arrived = {}
    end = time.monotonic() + (DEADLINE_S if short else 2 * DEADLINE_S)
    while time.monotonic() < end and not (short and listener.noted("mode")[-1][1] == "polling"):
        arrived |= listener.drop(10)
        time.sleep(0.9)
    listener.wait_mode("polling")
    return arrived


def _settle(listener: Listener, names: Arrivals) -> None:
    """Wait until these are known: what goes away before anybody looked was never in the queue."""
    listener.wait_names(names)


SCENARIOS: tuple[Callable[[Listener, bool], Arrivals], ...] = (
    burst,
    overflow,
    renamed,
    replaced,
    moved_away,
    unreadable,
    exhausted,
    silent,
)


#: Through the spooler itself, which takes its time over each file: those with few. The shortened form has the first two.
SPOOLER_SCENARIOS = (moved_away, replaced, renamed, unreadable, exhausted)


def prove(short: bool) -> Iterator[Figure]:
    try:
        subprocess.run([*NAMESPACE, *WITHOUT_OVERRIDE, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield cannot_run("watch", "names not noticed within 2 s", "0", "no user namespaces here")
        return
    with ThreadPoolExecutor(len(SCENARIOS) if short else 1) as pool:  # they mostly wait, but who times does so alone
        yield from pool.map(lambda scenario: _run(scenario, short), SCENARIOS)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        yield from _through_the_spooler(Path(name), short)
    with tempfile.TemporaryDirectory() as name:
        yield _cost(Path(name), 500 if short else 20_000)
    with tempfile.TemporaryDirectory() as name:
        yield _latency(Path(name), short)


def _run(scenario: Callable[[Listener, bool], Arrivals], short: bool) -> Figure:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        listener = Listener(Path(name), overlay=scenario is silent)
        try:
            arrived = scenario(listener, short)
            known = listener.wait_names(arrived)
        finally:
            listener.close()
        return _judged(scenario.__name__, arrived, known, listener.noted("mode"), Path(name), short)


def _through_the_spooler(folder: Path, short: bool) -> Iterator[Figure]:
    spooler = RealSpooler(folder)
    try:
        for scenario in SPOOLER_SCENARIOS[: 2 if short else None]:
            before = len(spooler.noted("mode"))
            arrived = scenario(spooler, short)
            known = spooler.wait_names(arrived)
            yield _judged(f"the spooler, {scenario.__name__}", arrived, known, spooler.noted("mode")[before:], folder, short)
        if not short:
            yield _depth(spooler, folder)
    finally:
        spooler.close()


def _depth(spooler: RealSpooler, folder: Path) -> Figure:
    """A burst of real jobs: the number that the spooler says that wait, when it has read them all."""
    (spooler.root / "PAUSE").touch()
    spooler.raw = b'{"prompt": "a large red circle on a blue background"}'
    spooler.drop(40_000)
    before = time.monotonic()
    while spooler.waiting() < 40_000 and time.monotonic() < before + 10 * DEADLINE_S:
        time.sleep(0.05)
    lost = 40_000 - spooler.waiting()
    details = f"all were read {time.monotonic() - before:.1f} s after the last was dropped"
    return report("watch", "the spooler, 40,000 jobs at once: jobs lost", "0", lost, lost == 0, details, folder=folder)


def _judged(
    scenario: str,
    arrived: Arrivals,
    known: dict[str, float],
    modes: list[tuple[float, str]],
    folder: Path,
    short: bool,
) -> Figure:
    delays = sorted(known[name] - when for name, when in arrived.items() if name in known)
    lost = len(arrived) - len(delays)
    late = sum(delay > NOTICED_S for delay in delays)
    middle, last = (delays[int(len(delays) * part)] if delays else 0.0 for part in (0.5, 0.99))
    slowest = delays[-1] if delays else 0.0
    details = f"{len(arrived)} files, {lost} lost, {late} late; p50 {middle:.3f} s, p99 {last:.3f} s, slowest {slowest:.3f} s; "
    details += f"watched, and polled {sum(mode == 'polling' for _, mode in modes)} times meanwhile"
    what, missed = ("lost", lost) if short else ("not noticed within 2 s", lost + late)
    figure = f"{scenario.replace('_', ' ')}: names {what}"
    return report("watch", figure, "0", missed, missed == 0 and bool(arrived), details, folder=folder)


def _cost(folder: Path, done: int) -> Figure:
    """Watches that stay with so many jobs in done/, half of them published while it was watched."""
    listener = Listener(folder)
    try:
        for number in range(done // 2):
            (listener.root / f"done/old-{number}").mkdir()
        (listener.root / "held").rename(listener.root / "aside")  # so that it begins to watch anew
        (listener.root / "held").mkdir()
        listener.claim(listener.drop(done // 2))
        arrived = listener.drop(1)
        listener.wait_names(arrived)
        end = time.monotonic() + DEADLINE_S  # when the queue ran over, its next tick finds out
        while len(watches := listener.watches()) != 4 and time.monotonic() < end:
            time.sleep(0.1)
    finally:
        listener.close()
    what = f"inotify watches with {done:,} jobs in done/"
    return report("watch", what, "4", len(watches), len(watches) == 4, ", ".join(watches), folder=folder)


def _latency(folder: Path, short: bool) -> Figure:
    """From a rename into pending/ to its hint, 200 times, each claimed by a rename out of pending/ before the next comes."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    came, heard = threading.Event(), [0.0]

    def hint(hint: Hint) -> None:
        if hint.whole:
            heard[0] = time.perf_counter()
            came.set()

    watch = Watch(folder, "me", hint)
    watch.keep()
    taken = []
    try:
        for number in range(200):
            (folder / "tmp/draft").touch()
            came.clear()
            before = time.perf_counter()
            (folder / "tmp/draft").rename(folder / f"pending/{number}.json")
            if came.wait(DEADLINE_S):
                taken.append(1000 * (heard[0] - before))
            (folder / f"claimed/me/{number}").mkdir()
            (folder / f"pending/{number}.json").rename(folder / f"claimed/me/{number}/job.json")
            (folder / f"claimed/me/{number}").rename(folder / f"done/{number}")
    finally:
        watch.stop()
    taken.sort()
    last = taken[197] if len(taken) == 200 else float("inf")
    details = f"200 renames, each claimed before the next; p50 {taken[len(taken) // 2]:.3f} ms, slowest {taken[-1]:.3f} ms"
    ok = len(taken) == 200 and (short or last < 20)
    return report("watch", "rename into pending/ to hint, p99 in ms", "< 20", last, ok, details, folder=folder)


if __name__ == "__main__":
    sys.exit(main(prove))
