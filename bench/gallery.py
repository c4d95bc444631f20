"""How the gallery does with a million finished jobs: `./run.sh bench gallery` (`--jobs 100000,1000000`, `--json FILE`).

It makes that many real finished jobs, each a folder with a record.json of its own and a job.json and a picture that are hard
links, on a fresh ext4 file system in a sparse file (as root; else in a plain folder), starts the real web app over them, and
measures what a person and the web host notice. Beside it, in the same run: a plain listing and sorting of the folder, which is
what a page cost before there was an index. What it made is removed in the end. A million jobs take 9 GB of disk and 10 to 30
minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.figures import percentile
from spooler import durable
from spooler.job import Job
from spooler.record import EngineFacts, Image, Record, Timings, iso
from spooler.spool import Spool

#: Figures to reach, in ms.
FIRST_PAGE_MS = 100.0
#: Files that are hard-linked into the jobs; ext4 allows 65,000 links to one.
LINKED = 64
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Figures:
    """What was measured, printed as it comes."""

    rows: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float, unit: str) -> None:
        self.rows[f"{name} [{unit}]"] = round(value, 3)
        print(f"  {name:<66} {value:>12,.2f} {unit}", flush=True)

    def times(self, name: str, seconds: list[float]) -> None:
        for label, part in (("p50", 0.5), ("p99", 0.99)):
            self.add(f"{name}, {label} of {len(seconds)}", percentile(seconds, part) * 1000, "ms")


class Fabric:
    """Makes finished jobs in a spool, quickly."""

    def __init__(self, spool: Spool, words: int = 5000):
        self.spool = spool
        self.made = 0
        self._random = random.Random(7)
        self._words = [self._word() for _ in range(words)]
        # As words are in prompts: a few of them are everywhere.
        self._weights = list(itertools.accumulate(1 / rank for rank in range(1, words + 1)))
        parameters = Job(prompt="PROMPT", negative_prompt="blurry", steps=20, guidance_scale=2.0, width=128, height=128, seed=1)
        parameters = parameters.model_copy(
            update={"sampler": "DPM++ 2M", "scheduler": "Automatic", "owner": "OWNER", "model": "demo"}
        )
        engine = EngineFacts(
            model="demo", hash="ab" * 32, family="sd1", device="cuda:0", device_name="GPU", precision="float16",
            versions={"torch": "2.13.0", "diffusers": "0.42.1", "transformers": "5.0.0", "sdspool": "0.1.0"},
            load_seconds=4.2, memory="full", peak_bytes=3 << 30,
        )  # fmt: skip
        record = Record(id="JOB-ID", spooler="gpu-host", queued=iso(BEGAN)).begin_attempt(parameters, engine)
        picture = Image(file="0.png", seed=1, width=128, height=128, pixels="cd" * 32)
        self._record = (
            record.finish((picture,), Timings(queue=1, load=0, denoise=1.5, decode=0.1, encode=0.05)).encode().decode()
        )
        self._ended = json.loads(self._record)["completed"]
        self._begun = json.loads(self._record)["started"]
        self._templates = spool.root.parent / "templates"
        self._templates.mkdir()
        for number in range(LINKED):
            (self._templates / f"{number}.json").write_text(json.dumps({"prompt": self.prompt()}))
            (self._templates / f"{number}.png").write_bytes(_PNG)

    def _word(self) -> str:
        return "".join(self._random.choice(pair) for pair in ("bcdfglmnprstvw", "aeiou", "lmnrstvx", "aeiou", "lnrst"))

    def prompt(self) -> str:
        return " ".join(self._random.choices(self._words, cum_weights=self._weights, k=15))

    def word(self, rank: int) -> str:
        return self._words[rank]

    def job_id(self, number: int) -> str:
        at = BEGAN + timedelta(seconds=10 * number)
        return f"{at:%Y%m%d-%H%M%S}-{number % 1000:03d}-{self._random.getrandbits(40):010x}"

    def make(self, folder: Path, job_id: str, number: int) -> None:
        at = BEGAN + timedelta(seconds=10 * number)
        text = self._record.replace("PROMPT", self.prompt()).replace("OWNER", f"owner{number % 20}").replace("JOB-ID", job_id)
        text = text.replace(self._begun, iso(at)).replace(self._ended, iso(at + timedelta(seconds=2)))
        path = f"{folder}/{job_id}"
        os.mkdir(path)  # noqa: PTH102 - a million times
        fd = os.open(f"{path}/record.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, text.encode())
        os.close(fd)
        os.link(f"{self._templates}/{number % LINKED}.json", f"{path}/job.json")
        os.link(f"{self._templates}/{number % LINKED}.png", f"{path}/0.png")

    def fill(self, upto: int) -> None:
        """Finished jobs in done/, until there are so many."""
        done = self.spool.root / "done"
        while self.made < upto:
            self.make(done, self.job_id(self.made), self.made)
            self.made += 1

    def draft(self, folder: Path) -> Path:
        """One more finished job, newer than all others, in another folder: a rename will publish it."""
        folder.mkdir(exist_ok=True, parents=True)
        job_id = self.job_id(self.made)
        self.make(folder, job_id, self.made)
        self.made += 1
        return folder / job_id


class Web:
    """The real web app in a process of its own."""

    def __init__(self, spool: Spool, cache: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "webui", f"--spool={spool.root}", f"--cache={cache}", f"--port={self.port}"]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        while True:
            with contextlib.suppress(OSError):
                self.get("/healthz")
                return
            time.sleep(0.02)

    def get(self, path: str, connection: http.client.HTTPConnection | None = None) -> bytes:
        link = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        link.request("GET", path)
        answer = link.getresponse()
        body = answer.read()
        assert answer.status == 200, (path, answer.status, body[:300])
        if not connection:
            link.close()
        return body

    def page(self, query: str) -> Any:
        return json.loads(self.get(f"/api/v1/jobs?{query}"))

    def timed(self, path: str, times: int) -> list[float]:
        found = []
        for _ in range(times):
            begin = time.perf_counter()
            self.get(path)
            found.append(time.perf_counter() - begin)
        return found

    def memory_mib(self, name: str) -> float:
        line = next(line for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) / 1024

    def cpu_s(self) -> float:
        parts = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@contextlib.contextmanager
def disk(scratch: Path, jobs: int) -> Iterator[Path]:
    """A folder for so many jobs: a fresh ext4 in a sparse file where this may be mounted, else a plain folder."""
    scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="sdspool-gallery-", dir=scratch))
    image, mounted = folder / "disk.img", folder / "disk"
    mounted.mkdir()
    is_mounted = False
    try:
        if os.geteuid() == 0 and shutil.which("mkfs.ext4"):
            with image.open("wb") as file:
                file.truncate(jobs * 12 * 1024 + (2 << 30))
            subprocess.run(["mkfs.ext4", "-q", "-N", str(2 * jobs + 200_000), image], check=True)
            is_mounted = subprocess.run(["mount", "-o", "loop", image, mounted], check=False).returncode == 0
        print(f"On {'a fresh ext4 in a sparse file' if is_mounted else 'a plain folder'}, {folder}.")
        yield mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", mounted], check=True)
        shutil.rmtree(folder)


def one_folder(fabric: Fabric, figures: Figures) -> None:
    """What the flat folder costs the file system: rename into it, lookup in it, listing it."""
    spool, done = fabric.spool, fabric.spool.root / "done"
    drafts = [fabric.draft(spool.tmp / "drafts") for _ in range(300)]
    bare, durably = [], []
    for number, draft in enumerate(drafts):
        begin = time.perf_counter()
        if number % 2:
            draft.rename(done / draft.name)
        else:
            durable.rename(draft, done / draft.name)
        (bare if number % 2 else durably).append(time.perf_counter() - begin)
    figures.times("rename into done/", bare)
    figures.times("rename into done/, both folders synced (as publish does)", durably)
    for label, names in (("", [draft.name for draft in drafts]), (" that is not there", [f"{d.name}-2" for d in drafts])):
        seconds = []
        for name in names:
            begin = time.perf_counter()
            os.path.lexists(done / name)
            seconds.append(time.perf_counter() - begin)
        figures.times(f"lookup of a name{label}", seconds)
    begin = time.perf_counter()
    with os.scandir(done) as entries:
        many = sum(1 for _ in entries)
    figures.add("listing of the names", time.perf_counter() - begin, "s")
    assert many == fabric.made
    begin = time.perf_counter()
    spool.places("done")[:24]
    figures.rows["plain"] = time.perf_counter() - begin
    figures.add("plain listing, sorted by time, for one page", figures.rows.pop("plain"), "s")


def gallery(fabric: Fabric, cache: Path, figures: Figures) -> bool:
    """What the gallery costs. Returns whether its first page is as quick as it is to be."""
    spool, total = fabric.spool, fabric.made
    newest = max(os.listdir(spool.root / "done"))  # noqa: PTH208 - names sort by time here
    begin = time.perf_counter()
    web = Web(spool, cache)
    try:
        seconds_to_first, during = 0.0, []
        while True:
            asked = time.perf_counter()
            web.get("/gallery")
            during.append(time.perf_counter() - asked)
            page = web.page("status=done&limit=1")
            if page["jobs"] and page["jobs"][0]["id"] == newest and not seconds_to_first:
                seconds_to_first = time.perf_counter() - begin
            if (
                page["note"] is None
                and page["total"] == total
                and len(web.page(f"status=done&offset={total - 1}")["jobs"]) == 1
            ):
                break
            time.sleep(0.2)
        figures.add("from nothing to a right first page", seconds_to_first, "s")
        figures.add("from nothing to a whole index", time.perf_counter() - begin, "s")
        figures.add("the same: CPU of the web app", web.cpu_s(), "s")
        figures.times("first page while the index is made", during)
        figures.add("memory of the web app (RSS), most so far", web.memory_mib("VmHWM"), "MiB")
        size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        figures.add("size of the index", size / 2**20, "MiB")

        begin_cpu = web.cpu_s()
        figures.times("first page, nobody else there", web.timed("/gallery", 100))
        figures.add("the same: CPU of the web app for a page", (web.cpu_s() - begin_cpu) * 10, "ms")
        page = web.page("status=done&limit=24")
        words = {
            "a common word": fabric.word(0),
            "two common words": f"{fabric.word(0)} {fabric.word(1)}",
            "a rare word": fabric.word(4000),
        }
        for label, path in {
            **{f"search for {label}": f"/gallery?q={quote(word)}" for label, word in words.items()},
            "search for one letter": f"/gallery?q={fabric.word(0)[0]}",
            "search for an id": f"/gallery?q={page['jobs'][0]['id']}",
            "one owner's": "/gallery?owner=owner3",
            "second page by cursor": f"/gallery?cursor={page['next_cursor']}",
            "last page by offset": f"/api/v1/jobs?status=done&limit=24&offset={total - 30}",
        }.items():
            figures.times(label, web.timed(path, 20))

        quick = under_load(fabric, web, figures)
        one_more(fabric, web, figures)
        figures.add("memory of the web app (RSS), most in all", web.memory_mib("VmHWM"), "MiB")
        figures.add("memory of the web app (RSS), at the end", web.memory_mib("VmRSS"), "MiB")
        begin_cpu, begin = web.cpu_s(), time.perf_counter()
        time.sleep(10)
        figures.add(
            "CPU of the web app when nothing happens", (web.cpu_s() - begin_cpu) / (time.perf_counter() - begin) * 100, "%"
        )
    finally:
        web.stop()
    begin = time.perf_counter()
    web = Web(spool, cache)
    try:
        web.get("/gallery")
        figures.add("a restart, to its first page", time.perf_counter() - begin, "s")
    finally:
        web.stop()
    return quick


def under_load(fabric: Fabric, web: Web, figures: Figures) -> bool:
    """Three people who click all the time and about a job a second that ends, for 20 s, beside the one who is measured."""
    stop = threading.Event()
    lock = threading.Lock()
    others: list[float] = []

    def person(paths: list[str]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=120)
        while not stop.is_set():
            for path in paths:
                begin = time.perf_counter()
                web.get(path, connection)
                others.append(time.perf_counter() - begin)
                stop.wait(0.2)
        connection.close()

    def spooler() -> None:
        while not stop.is_set():
            with lock:
                place = fabric.draft(fabric.spool.claimed / "gpu-host")
            stop.wait(2)
            durable.rename(place, fabric.spool.root / "done" / place.name)

    paths = ["/gallery", f"/gallery?q={fabric.word(3)}", "/api/v1/jobs?status=done", "/gallery?page=3"]
    threads = [threading.Thread(target=person, args=(paths[turn:] + paths[:turn],)) for turn in range(3)]
    threads += [threading.Thread(target=spooler) for _ in range(2)]
    for each in threads:
        each.start()
    seconds, end = [], time.monotonic() + 20
    while time.monotonic() < end:
        seconds += web.timed("/gallery", 1)
        time.sleep(0.05)
    stop.set()
    for each in threads:
        each.join()
    figures.times("first page under load", seconds)
    figures.times("the others' pages and searches", others)
    return sorted(seconds)[int(0.99 * len(seconds))] * 1000 < FIRST_PAGE_MS


def publish(fabric: Fabric) -> str:
    """As a spooler does: a job is in claimed/ for a while, then one rename. Returns its id."""
    place = fabric.draft(fabric.spool.claimed / "gpu-host")
    time.sleep(1.2)
    durable.rename(place, fabric.spool.root / "done" / place.name)
    return place.name


def one_more(fabric: Fabric, web: Web, figures: Figures) -> None:
    """From the rename of one job to its being on the first page: as a spooler ends it, and as somebody moves it in by hand."""

    def until_seen(job_id: str) -> float:
        begin = time.perf_counter()
        while web.page("status=done&limit=1")["jobs"][0]["id"] != job_id:
            time.sleep(0.01)
        return time.perf_counter() - begin

    figures.times("a job ends: until it is on the first page", [until_seen(publish(fabric)) for _ in range(10)])
    by_hand, cpu = [], []
    for _ in range(2):
        place = fabric.draft(fabric.spool.tmp / "drafts")
        time.sleep(5)
        before = web.cpu_s()
        place.rename(fabric.spool.root / "done" / place.name)
        by_hand.append(until_seen(place.name))
        cpu.append(web.cpu_s() - before)
    figures.add("a job is moved in by hand: until it is on the first page, longest", max(by_hand), "s")
    figures.add("the same: CPU of the web app, the asking included", max(cpu), "s")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench gallery", description=__doc__)
    parser.add_argument("--jobs", default="100000,1000000", help="numbers of finished jobs, ascending (default %(default)s)")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="folder with room for them")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was made is removed then, too
    steps = [int(text) for text in options.jobs.split(",")]
    told: dict[str, dict[str, float]] = {}
    quick = True
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, "
          f"Python {platform.python_version()}.")  # fmt: skip
    with disk(options.scratch, steps[-1]) as mounted:
        spool = Spool(mounted / "spool")
        spool.create()
        fabric = Fabric(spool)
        for number in (1000, *steps):
            begin = time.perf_counter()
            before = fabric.made
            fabric.fill(number)
            figures = Figures()
            made_us = (time.perf_counter() - begin) / (number - before) * 1e6
            print(f"\n{number:,} finished jobs, each made in {made_us:.0f} us; {os.getloadavg()[0]:.1f} processes at work here")
            one_folder(fabric, figures)
            if number in steps:
                plain_s = figures.rows["plain listing, sorted by time, for one page [s]"]
                quick = gallery(fabric, mounted / f"cache-{number}", figures) and quick
                first_ms = next(
                    value for name, value in figures.rows.items() if name.startswith("first page, nobody else there, p50")
                )
                figures.add("plain listing / first page", plain_s * 1000 / first_ms, "times")
            told[str(number)] = figures.rows
    print(f"\nFirst page under load, p99 under {FIRST_PAGE_MS:g} ms: {'yes' if quick else 'NO'}")
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n")
    return 0 if quick else 1


_PNG = b"\x89PNG\r\n\x1a\n" + bytes(20_000)


if __name__ == "__main__":
    sys.exit(main())
