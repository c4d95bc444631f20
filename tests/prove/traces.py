"""Drop traces: programs write into pending/ as they really do, and the real spooler looks in between, after every step.

Several writers (tests/prove/writers.py) at once, in the order of a seed; the service is the real one (its index, its doorman,
its watch with the kernel's own events), turned by hand on a clock that is held here, with an engine that answers at once or
later. In three ways: the events are read before each look; now and then; and there are none (no inotify instance is left).

The oracle knows what each writer meant: what is taken is whole, what is valid is taken once, what is not is set aside with a
reason, a temporary name is let alone, and of versions of one file the last is taken.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from spooler import inotify, messages
from spooler.batch_file import read_rows
from spooler.child import Child
from spooler.denylist import DenyList
from spooler.life import Life
from spooler.mistakes import JobError
from spooler.record import Timings
from spooler.service import Service
from spooler.settings import Settings
from spooler.spool import Spool
from tests.prove import writers
from tests.prove.report import ROOT, Figure, main, report
from tests.prove.restart import FACTS, draw
from tests.prove.sleeper import CATALOGUE
from tests.prove.writers import SETTLE_S, Steps, Whole, Work

NAME = "traces"
Mode = Literal["events", "late", "polling"]
MODES: tuple[Mode, ...] = ("events", "late", "polling")
#: Writers at once in one folder.
AT_ONCE = 6


class HeldFD(inotify.InotifyFD):
    """watchdog's inotify without its thread: the events are read when the proof says so."""

    none_left = False
    made: HeldFD

    def __init__(self) -> None:
        if HeldFD.none_left:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        super().__init__()
        HeldFD.made = self

    def start(self) -> None:
        pass

    def is_alive(self) -> bool:
        return True

    def join(self, timeout: float | None = None) -> None:
        pass

    def pump(self) -> None:
        """Hand on every event that the kernel has."""
        assert self._poller
        while not self._closed and self._poller.poll(0):
            for event in self.read_events():
                self.handle_event(event)


class Engine(Child):
    """In the place of the engine's process: it answers when it is told to, in the same thread."""

    def __init__(self, service: Service):
        self._service = service
        self.orders: deque[messages.Run] = deque()
        self.heard: dict[str, bytes] = {}  # id -> job.json, as it was when the engine heard of it
        service.inbox.put((self, messages.Ready(facts=FACTS)))

    @property
    def pid(self) -> int:
        return 0

    def send(self, message: messages.ToEngine) -> None:
        if isinstance(message, messages.Run):
            self.heard[message.id] = (Path(message.folder) / "job.json").read_bytes()
            self.orders.append(message)

    def kill(self) -> None:
        pass

    def wait(self, timeout_s: float) -> None:
        pass

    def answer(self) -> None:
        while self.orders:
            order = self.orders.popleft()
            for image in draw(Path(order.folder), 1, order.job.pictures):
                self._service.inbox.put((self, messages.ImageDone(id=order.id, image=image)))
            self._service.inbox.put((self, messages.Finished(id=order.id, timings=Timings(), facts=FACTS)))


@dataclass
class Desk:
    """One real service, turned by hand on a clock that stands still between."""

    root: Path
    mode: Mode
    rng: random.Random
    now: float = 1000.0
    looks: int = 0
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        self.spool = Spool(self.root)
        self.spool.create()
        self.life = Life.begin(self.spool, "s")
        settings = Settings(spool=self.root, spooler="s", floor_mib=0.0, drop_grace_s=SETTLE_S, max_attempts=3)
        HeldFD.none_left = self.mode == "polling"
        self.service = Service(settings, self.spool, CATALOGUE, DenyList(), self.life, self._start)
        self.turn()
        self.fd = None if self.mode == "polling" else HeldFD.made

    def _start(self, service: Service, settings: Settings) -> Child:
        self.engine = Engine(service)
        return self.engine

    def look(self) -> None:
        """One turn of the spooler, now."""
        if self.fd and (self.mode == "events" or self.rng.random() < 0.4):
            self.fd.pump()
        if self.rng.random() < 0.6:
            self.engine.answer()
        self.turn()

    def wait(self, seconds: float) -> None:
        """Let time pass: a spooler turns once a second at least."""
        while seconds > 0:
            step = min(seconds, self.rng.uniform(0.5, 1.0))
            self.now += step
            seconds -= step
            if seconds > 0:
                self.look()

    def turn(self) -> None:
        self.looks += 1
        self.service.turn(self.now)

    def settle(self) -> None:
        """Let the settle time pass, and everything run to its end."""
        for _ in range(30):
            self.now += 0.51
            if self.fd:
                self.fd.pump()
            self.engine.answer()
            self.turn()
        for _ in range(400):
            self.engine.answer()
            self.turn()
            if not (self.service.running or self.service.intake.pending.waiting or self.service.intake.busy):
                return
            self.now += 0.3

    def close(self) -> None:
        self.service.close()
        self.life.end()


@dataclass
class Trace:
    """A writer at work."""

    label: str
    seed: int
    work: Work
    steps: Steps
    until: float = 0.0  # when it has to go on
    failed: str = ""  # the error that it met

    def judge(self, found: Found, heard: dict[str, bytes]) -> Iterator[str]:
        """What is wrong in the end with what became of it."""
        work = self.work
        if self.failed:
            yield f"the writer failed: {self.failed}"
        rejected = {name: data for name, data in found.rejected.items() if _is_of(name, work.stem)}
        taken = [whole for job_id, whole in found.taken.items() if _is_of(job_id, work.stem)]
        for whole in taken:
            if whole not in work.wholes:
                yield f"taken half: {whole}, where whole were {work.wholes}"
        if work.invalid is not None:
            if rejected != {work.name: work.invalid}:
                yield f"to be set aside: {work.invalid!r}; but set aside are {rejected}, taken {taken}"
            elif not found.reasons[work.name].strip():
                yield "set aside without a reason"
            return
        if rejected:
            yield f"wrongly rejected: {[(name, data, found.reasons[name]) for name, data in rejected.items()]}"
        if not work.wholes or work.wholes[-1] not in taken:
            yield f"not taken: {work.wholes[-1:]}, but {taken}; left in pending/ are {found.left}"
        if twice := [whole for whole in taken if taken.count(whole) > work.wholes.count(whole)]:
            yield f"taken twice: {twice[0]}"


@dataclass
class Found:
    """What lies in the spool in the end."""

    taken: dict[str, Whole]
    rejected: dict[str, bytes]
    reasons: dict[str, str]
    left: set[str]
    broken: list[str]

    @classmethod
    def of(cls, desk: Desk) -> Found:
        spool, broken = desk.spool, []
        taken: dict[str, Whole] = {}
        rows: set[str] = set()
        for folder in spool.batches.iterdir():
            batch = json.loads((folder / "batch.json").read_bytes())
            taken[folder.name] = {
                path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("batch.json", "queued")
            }
            rows |= set(batch["jobs"])
            extra = taken[folder.name].get(f"{batch['file']}.overrides.json")
            wanted = [row.job.prompt for row in read_rows(batch["file"], taken[folder.name][batch["file"]], extra)]
            got = [_prompt(spool.root / "done" / job_id) for job_id in batch["jobs"]]
            if wanted != got:
                broken.append(f"batch {folder.name}: rows {wanted}, jobs in done/ {got}")
        for folder in (spool.root / "done").iterdir():
            data = (folder / "job.json").read_bytes()
            if data != desk.engine.heard.get(folder.name):
                broken.append(f"{folder.name}: the engine heard {desk.engine.heard.get(folder.name)!r}, done/ has {data!r}")
            if folder.name not in rows:
                inputs = folder / "inputs"
                pictures = {f"inputs/{each.name}": each.read_bytes() for each in inputs.iterdir()} if inputs.is_dir() else {}
                taken[folder.name] = {"job.json": data, **pictures}
        for state in ("failed", "cancelled"):
            broken += [f"{state}: {each.name}" for each in (spool.root / state).iterdir()]
        broken += [f"claimed: {each}" for each in spool.walk("claimed")]
        files = {each.name for each in spool.rejected_folder.iterdir()}
        rejected = {name for name in files if not name.endswith(".reason.txt")}
        return cls(
            taken=taken,
            rejected={name: _bytes(spool.rejected_folder / name) for name in rejected},
            reasons={name: (spool.rejected_folder / f"{name}.reason.txt").read_text() for name in rejected},
            left={each.name for each in spool.pending.iterdir()},
            broken=broken,
        )


def _prompt(folder: Path) -> object:
    try:
        return json.loads((folder / "job.json").read_bytes())["prompt"]
    except FileNotFoundError:
        return None


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b"a folder of " + b", ".join(sorted(map(os.fsencode, _names(path))))


def _is_of(name: str, stem: str) -> bool:
    return name == stem or name.startswith((f"{stem}.", f"{stem}-"))


def clear(spool: Spool) -> None:
    for name in ("pending", "done", "failed", "cancelled", "rejected", "batches", "tmp"):
        for entry in (spool.root / name).iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def run_together(desk: Desk, traces: Sequence[Trace], every_step: bool) -> list[str]:
    """Let the writers work in turns, with looks in between; returns what went wrong."""
    rng, active = desk.rng, list(traces)
    paused = desk.spool.root / "PAUSE"
    if rng.random() < 0.3:
        paused.touch()
    for trace in traces:
        trace.until = desk.now + writers.ANY
    while active:
        soonest = min(active, key=lambda trace: trace.until)
        slack = soonest.until - desk.now
        if rng.random() < 0.3:
            desk.wait(rng.choice((0.0, 0.004, 0.05, 0.3, 1.0, rng.random() * slack)) if slack > 1.2 else 0.0)
            slack = soonest.until - desk.now
        chosen = soonest if slack < 1.2 else rng.choice(active)
        try:
            limit = next(chosen.steps)
            chosen.until = desk.now + (writers.SHUT if limit == writers.OPEN and chosen.work.seems_whole else limit)
        except StopIteration:
            active.remove(chosen)
        except OSError as error:  # its file was taken from under it
            chosen.failed = str(error)
            active.remove(chosen)
        if every_step or rng.random() < 0.6:
            for _ in range(rng.choice((1, 1, 2))):
                desk.look()
        if rng.random() < 0.03:
            paused.unlink(missing_ok=True)
    paused.unlink(missing_ok=True)
    desk.settle()
    found = Found.of(desk)
    wrong = list(found.broken)
    known: set[str] = set()
    for trace in traces:
        wrong += [f"{trace.label} seed {trace.seed} ({desk.mode}): {each}" for each in trace.judge(found, desk.engine.heard)]
        known |= trace.work.litter
    stems = [trace.work.stem for trace in traces]
    strangers = [name for name in (*found.taken, *found.rejected) if not any(_is_of(name, stem) for stem in stems)]
    wrong += [f"a temporary name was taken or set aside: {name}" for name in strangers]
    wrong += [f"left in pending/: {name}" for name in found.left - known if not name.startswith(".")]
    clear(desk.spool)
    desk.engine.heard.clear()
    if desk.fd:
        desk.fd.pump()
    desk.turn()
    return wrong


# -- which traces --------------------------------------------------------------------------------------------------------------

#: Makes a trace in the folder of a desk, under a stem of its own.
Make = Callable[[Desk, str, random.Random], tuple[Work, Steps]]


def plans(seeds: int, prefix_step: int) -> Iterator[tuple[str, bool, Make]]:
    """Label, whether byte by byte, and how it is made: each kind of trace `seeds` times."""
    for suffix, samples in writers.SAMPLES.items():
        for number, data in enumerate(samples):
            for at in range(0, len(data) + 1, prefix_step):
                yield f"{suffix} {number} stops after {at} bytes and goes on", False, _goes_on(suffix, data, at)
                yield f"{suffix} {number} ends after {at} bytes", False, _ends(suffix, data, at)
            for write in _writers_of(suffix):
                yield f"{suffix} {number} byte by byte by {write.__name__}", True, _plain(suffix, data, write)
    for overrides_at in range(0, len(writers.OVERRIDES), prefix_step):
        yield f"overrides stop after {overrides_at} bytes and go on", False, _overrides(overrides_at)
    for suffix, wrong in writers.WRONG.items():
        for data in wrong:
            for write in (writers.dies, writers.mv, writers.touched, writers.samba, writers.kate):
                yield f"{suffix} wrong {data[:20]!r} by {write.__name__}", False, _wrong(suffix, data, write)
    for whole in writers.FOLDERS:
        for write in writers.FOLDER_WRITERS:
            yield f"folder {list(whole)[1]} by {write.__name__}", True, _folder(whole, write)
    for _ in range(seeds):
        for suffix, samples in writers.SAMPLES.items():
            for write in _writers_of(suffix):
                for number, data in enumerate(samples):
                    yield f"{suffix} {number} by {write.__name__}", False, _plain(suffix, data, write)
        for whole in writers.FOLDERS:
            for write in writers.FOLDER_WRITERS:
                yield f"folder {list(whole)[1]} by {write.__name__}", False, _folder(whole, write)
        for _ in range(10):
            yield "png with overrides", False, _overrides(None)


def _writers_of(suffix: str) -> tuple[Callable[[Work], Steps], ...]:
    editors = writers.EDITORS if suffix != ".png" else ()
    return (*writers.FILE_WRITERS, *editors, *(writers.GROWING if suffix in (".jsonl", ".csv", ".txt") else ()))


def _plain(suffix: str, data: bytes, write: Callable[[Work], Steps]) -> Make:
    def make(desk: Desk, stem: str, rng: random.Random) -> tuple[Work, Steps]:
        work = Work(stem, suffix, data, rng, desk.spool.pending, desk.spool.tmp)
        return work, write(work)

    return make


def _goes_on(suffix: str, data: bytes, at: int) -> Make:
    """The first bytes, a pause, the others: through one descriptor, or two, or by a rename of the whole over the half."""

    def make(desk: Desk, stem: str, rng: random.Random) -> tuple[Work, Steps]:
        work = Work(stem, suffix, data, rng, desk.spool.pending, desk.spool.tmp)

        def steps() -> Steps:
            fd = os.open(work.path, writers.NEW, 0o644)
            if at == len(data):
                work.declare(data)
            if suffix == ".json" and at >= len(data.rstrip()):
                work.declare(data[:at])
            os.write(fd, data[:at])
            yield writers.OPEN
            if rng.random() < 0.3:
                if at < len(data):
                    work.declare(data)
                os.write(fd, data[at:])
                yield writers.OPEN
                os.close(fd)
                return
            os.close(fd)
            if at == len(data):
                return
            yield writers.SHUT
            if suffix == ".json" and at >= len(data.rstrip()):  # it ended with its brace, and was taken perhaps
                return
            work.declare(data)
            if rng.random() < 0.5:
                fd = os.open(work.path, writers.APPEND, 0o644)
                os.write(fd, data[at:])
                os.close(fd)
            else:
                draft = work.tmp / work.name
                draft.write_bytes(data)
                draft.rename(work.path)

        return work, steps()

    return make


def _ends(suffix: str, data: bytes, at: int) -> Make:
    """The first bytes, and no more: half a JSON file is set aside; half a list of prompts may be a list of prompts."""

    def make(desk: Desk, stem: str, rng: random.Random) -> tuple[Work, Steps]:
        work = Work(stem, suffix, data[:at], rng, desk.spool.pending, desk.spool.tmp)
        if _is_valid(suffix, data[:at]):
            work.declare(data[:at])
        else:
            work.invalid = data[:at]
        return work, writers.dies(work)

    return make


def _is_valid(suffix: str, data: bytes) -> bool:
    if suffix == ".json":
        try:
            return isinstance(json.loads(data.decode("utf-8-sig")), dict)
        except ValueError:
            return False
    try:
        return bool(read_rows(f"x{suffix}", data))
    except JobError:
        return False


def _wrong(suffix: str, data: bytes, write: Callable[[Work], Steps]) -> Make:
    def make(desk: Desk, stem: str, rng: random.Random) -> tuple[Work, Steps]:
        work = Work(stem, suffix, data or b"", rng, desk.spool.pending, desk.spool.tmp, invalid=data)
        return work, write(work) if data else _touch(work)

    return make


def _touch(work: Work) -> Steps:
    work.path.touch()
    yield writers.ANY


def _folder(whole: Whole, write: Callable[[Work], Steps]) -> Make:
    def make(desk: Desk, stem: str, rng: random.Random) -> tuple[Work, Steps]:
        work = Work(stem, "", b"", rng, desk.spool.pending, desk.spool.tmp, wholes=[whole])
        return work, write(work)

    return make


def _overrides(at: int | None) -> Make:
    """A picture with overrides; `at`: these stop after so many bytes, the picture comes, and then the rest of them."""

    def make(desk: Desk, stem: str, rng: random.Random) -> tuple[Work, Steps]:
        data = writers.SAMPLES[".png"][0]
        work = Work(stem, ".png", data, rng, desk.spool.pending, desk.spool.tmp, overrides=writers.OVERRIDES)

        def steps() -> Steps:
            path = work.pending / f"{work.name}.overrides.json"
            path.write_bytes(writers.OVERRIDES[:at])
            yield writers.SHUT
            work.declare(data)
            work.path.write_bytes(data)
            yield writers.SHUT
            with path.open("ab") as file:
                file.write(writers.OVERRIDES[at:])

        return work, writers.with_overrides(work) if at is None else steps()

    return make


# -- the proof -----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def held_events() -> Iterator[None]:
    """inotify's events are read when the proof says so."""
    real = inotify.InotifyFD
    inotify.InotifyFD = HeldFD  # type: ignore[misc]
    try:
        yield
    finally:
        inotify.InotifyFD = real  # type: ignore[misc]


def run_mode(mode: Mode, seed: int, seeds: int, prefix_step: int, part: float = 1.0) -> tuple[int, int, list[str]]:
    """All traces in one way of hearing, or a random `part` of them.

    Returns how many there were, how many looks, and what went wrong.
    """
    rng = random.Random(f"{seed} {mode}")
    todo = list(plans(seeds, prefix_step))
    todo = rng.sample(todo, round(len(todo) * part))
    wrong: list[str] = []
    count = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder, held_events():
        desk = Desk(Path(folder) / "spool", mode, rng)
        try:
            while todo:
                group = [todo.pop() for _ in range(min(len(todo), rng.randint(1, AT_ONCE)))]
                traces = []
                for label, byte_by_byte, make in group:
                    count += 1
                    own = rng.getrandbits(32)
                    work, steps = make(desk, f"t{count:06d}", random.Random(own))
                    work.byte_by_byte = byte_by_byte
                    traces.append(Trace(label, own, work, steps))
                wrong += run_together(desk, traces, every_step=any(byte_by_byte for _, byte_by_byte, _ in group))
        finally:
            desk.close()
    return count, desk.looks, wrong


# -- real programs, and the real process ---------------------------------------------------------------------------------------

#: Label -> a shell command that brings $src into pending/ as $dst; its first word, or the one given, must be installed.
PROGRAMS: dict[str, tuple[str, str]] = {
    "cp": ("cp", 'cp "$src" "$dst"'),
    "cp -p": ("cp", 'cp -p "$src" "$dst"'),
    "mv": ("mv", 'cp "$src" "$tmp/$name" && mv "$tmp/$name" "$dst"'),
    "mv from another file system": ("mv", 'mv "$src" "$dst"'),
    "ln": ("ln", 'cp "$src" "$tmp/$name" && ln "$tmp/$name" "$dst" && rm "$tmp/$name"'),
    "install": ("install", 'install -m 640 "$src" "$dst"'),
    "rsync": ("rsync", 'rsync -a "$src" "$dst"'),
    "rsync --inplace": ("rsync", 'rsync -a --inplace "$src" "$dst"'),
    "dd bs=1": ("dd", 'dd bs=1 if="$src" of="$dst" status=none'),
    "tee": ("tee", '(head -c 9 "$src"; sleep 0.3; tail -c +10 "$src") | tee "$dst" >/dev/null'),
    ">>": ("sh", 'head -c 9 "$src" >> "$dst"; sleep 0.5; tail -c +10 "$src" >> "$dst"'),
    "touch, cat": ("sh", 'touch "$dst"; sleep 0.5; cat "$src" > "$dst"'),
    "fallocate, dd": ("fallocate", 'fallocate -l "$size" "$dst"; dd bs=7 conv=notrunc if="$src" of="$dst" status=none'),
    "curl -o": ("curl", 'curl -s -o "$dst" "file://$src"'),
    "sftp": ("sftp", 'printf "put %s %s\\n" "$src" "$dst" | sftp -q -D /usr/lib/openssh/sftp-server >/dev/null'),
    "sftp, rename": (
        "sftp",
        'printf "put %s %s.filepart\\nrename -l %s.filepart %s\\n" "$src" "$dst" "$dst" "$dst"'
        " | sftp -q -D /usr/lib/openssh/sftp-server >/dev/null",
    ),
    "vim": ("vim", 'vim -es -u NONE -N -c "w $dst" -c qa! "$src"'),
    "emacs": (
        "emacs",
        'emacs -Q --batch --eval "(progn (find-file \\"$dst\\") (insert-file-contents \\"$src\\") (save-buffer))" 2>&1',
    ),
    "sed -i": ("sed", 'cp "$src" "$tmp/$name" && sed -i "s/x/x/" "$tmp/$name" && cp "$tmp/$name" "$dst"'),
    "python": ("python3", "python3 -c \"f = open('$dst', 'wb', 0)\nfor c in open('$src', 'rb').read(): f.write(bytes([c]))\""),
}
#: Jobs that end with a line feed, as editors have it.
REAL_SAMPLES = ((".json", 1), (".jsonl", 0), (".csv", 0), (".txt", 0))


def real(rounds: int) -> tuple[int, list[str]]:
    """Real programs with a real spooler process; returns how many there were, and what went wrong."""
    wrong, count = [], 0
    with tempfile.TemporaryDirectory() as outside, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        spool = Spool(Path(folder) / "spool")
        spool.create()
        with (Path(outside) / "log").open("wb") as log:
            options = ["--spool", str(spool.root), "--spooler", "s", "--drop-grace-s", "3", "--floor-mib", "0"]
            service = subprocess.Popen([sys.executable, "-m", "tests.prove.sleeper", *options], cwd=ROOT, stderr=log)
            try:
                expected: dict[str, tuple[str, str, bytes]] = {}
                for label, (needs, command) in PROGRAMS.items():
                    if not shutil.which(needs):
                        continue
                    for suffix, number in REAL_SAMPLES * rounds:
                        count += 1
                        stem = f"r{count:04d}"
                        data = writers.SAMPLES[suffix][number]
                        source = Path(outside) / f"{stem}{suffix}"
                        source.write_bytes(data)
                        expected[stem] = (label, suffix, data)
                        names = {"src": source, "dst": spool.pending / source.name, "tmp": spool.tmp, "name": source.name}
                        env = {**os.environ, **{key: str(value) for key, value in names.items()}, "size": str(len(data))}
                        ended = subprocess.run(["sh", "-c", command], env=env, capture_output=True, cwd=outside)
                        if ended.returncode and label != "vim":  # which ends with 1 without a terminal
                            wrong.append(f"{label}: {ended.stderr.decode(errors='replace')[:200]}")
                wrong += _ended_well(spool, expected)
            finally:
                service.terminate()
                service.wait(60)
    return count, wrong


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def _ended_well(spool: Spool, expected: dict[str, tuple[str, str, bytes]]) -> list[str]:
    """Wait until nothing waits any more; what is not in done/ as it was given."""
    end = time.monotonic() + 120

    def busy() -> bool:
        names = [each for each in _names(spool.pending) if each[0] != "." and not each.endswith("~")]
        return bool(names) or any(True for _ in spool.walk("claimed"))

    quiet = 0
    while time.monotonic() < end and quiet < 5:
        quiet = 0 if busy() else quiet + 1
        time.sleep(0.1)
    wrong = [f"set aside: {each.name}: {each.reason}" for each in spool.rejected()]
    wrong += [f"left in pending/: {name}" for name in _names(spool.pending)]
    done = Counter(each.name for each in (spool.root / "done").iterdir())
    for stem, (label, suffix, data) in expected.items():
        kept = spool.root / "done" / stem / "job.json" if suffix == ".json" else spool.batches / stem / f"{stem}{suffix}"
        rows = [stem] if suffix == ".json" else [f"{stem}.{1 + n:04d}" for n in range(len(read_rows(f"x{suffix}", data)))]
        if not kept.exists() or kept.read_bytes() != data:
            wrong.append(f"{label} {suffix}: {kept.read_bytes() if kept.exists() else None!r}, was {data!r}")
        if missing := [row for row in rows if not done.pop(row, 0)]:
            wrong.append(f"{label} {suffix}: not in done/: {missing}")
    return wrong + [f"in done/ too often: {name}" for name in done]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of thousands of files that are set aside on purpose."""
    logger = logging.getLogger("spooler")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def prove(short: bool) -> list[Figure]:
    seed = 20261121
    total, looks, wrong = 0, 0, list[str]()
    for mode in MODES:
        with quiet():
            count, seen, found = run_mode(
                mode, seed, seeds=1 if short else 10, prefix_step=7 if short else 1, part=0.15 if short else 1
            )
        total, looks, wrong = total + count, looks + seen, wrong + found
    kinds = Counter(each.split(": ")[1] if ": " in each else each for each in wrong)
    for each in wrong[:20]:
        print(each[:1000], file=sys.stderr)
    details = f"seed {seed}, {looks} looks" + (f"; {dict(kinds.most_common(5))}" if wrong else "")
    ok_count = total >= (100 if short else 10_000)
    return [
        report(NAME, "drop traces", ">= 10,000", total, ok_count, f"{looks} looks in between; seed {seed}"),
        report(NAME, "drop traces taken half, wrongly rejected, lost or taken twice", "0", len(wrong), not wrong, details),
        *([] if short else [_real_figure()]),
    ]


def _real_figure() -> Figure:
    count, wrong = real(rounds=3)
    for each in wrong[:20]:
        print(each[:1000], file=sys.stderr)
    left_out = sorted({needs for needs, _ in PROGRAMS.values() if not shutil.which(needs)})
    details = f"{count} files by {len(PROGRAMS)} programs, to the end in done/"
    details += f"; not installed: {', '.join(left_out)}" if left_out else ""
    figure = "of real programs' files under a real spooler, not done with their exact bytes"
    return report(NAME, figure, "0", len(wrong), not wrong and count >= 100, details)


if __name__ == "__main__":
    sys.exit(main(prove))
