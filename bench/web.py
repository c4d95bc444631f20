"""What the web process costs, and what it bears: `./run.sh bench web` (`--quick`, `--json FILE`, `--scratch FOLDER`).

    start    from the start of the process to its first answer, its memory when idle, and whether torch was loaded
    submits  durable submits a second over HTTP from 8 clients, on tmpfs and on the scratch folder's disk, there beside the
             spool's own rate from as many threads and from one, in alternate blocks
    batches  the same on the disk for jobs that come a hundred in a request
    pages    200 open pages, each asking as static/live.js does while a job runs: the time of an answer, and of a submit
             beside them and without them

Clients are processes of their own and speak plain sockets, so that they take little of the machine. The scratch folder
should be on the disk that a spool would be on. Exit status: 1 when a figure misses its target.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from spooler.catalogue import Catalogue, ModelCard
from spooler.job import Job, encode
from spooler.life import Life
from spooler.place import Place
from spooler.record import utc_now
from spooler.spool import Spool
from spooler.status import Progress, SpoolerStatus

#: Figures to reach.
START_S, RSS_MIB, SUBMITS_S, OF_THE_SPOOL, POLL_MS = 1.0, 80.0, 300.0, 0.8, 50.0
CLIENTS, PAGES, BATCH = 8, 200, 100
TMPFS = Path("/dev/shm")  # noqa: S108
JOB = encode(Job(prompt="a large red circle on a blue background", steps=20, seed=1))


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    starts: int = 7
    blocks: int = 5
    block_s: float = 4.0
    pages_s: float = 40.0


QUICK = Scale(starts=3, blocks=2, block_s=2.0, pages_s=12.0)


@dataclass
class Figures:
    """What was measured, printed as it comes, and what missed its target."""

    rows: dict[str, float] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)

    def add(self, name: str, value: float, unit: str, target: str = "", is_met: bool = True) -> None:
        self.rows[f"{name} [{unit}]"] = round(value, 3)
        told = f"   {target}: {'yes' if is_met else 'NO'}" if target else ""
        print(f"  {name:<58} {value:>10,.2f} {unit}{told}", flush=True)
        if not is_met:
            self.missed.append(name)


class Web:
    """The real web app in a process of its own."""

    def __init__(self, spool: Spool, cache: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "webui", f"--spool={spool.root}", f"--cache={cache}", f"--port={self.port}"]
        began = time.perf_counter()
        self.process = subprocess.Popen([*command, "--max-waiting=0"], cwd=ROOT, stderr=subprocess.DEVNULL)
        while True:
            with contextlib.suppress(OSError):
                if b" 200 " in talk(self.port, get("/healthz")):
                    break
            time.sleep(0.002)
        self.start_s = time.perf_counter() - began

    def rss_mib(self) -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024

    def has_torch(self) -> bool:
        return "libtorch" in Path(f"/proc/{self.process.pid}/maps").read_text()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def get(path: str, etag: str = "") -> bytes:
    condition = f"If-None-Match: {etag}\r\n" if etag else ""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{condition}\r\n".encode()


SUBMIT = (
    f"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(JOB)}\r\n\r\n"
).encode() + JOB


ROWS = b"[" + b",".join([JOB] * BATCH) + b"]"
SUBMIT_BATCH = (
    f"POST /api/v1/batches HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(ROWS)}\r\n\r\n"
).encode() + ROWS


def talk(port: int, request: bytes) -> bytes:
    """One request on a connection of its own; the answer whole."""
    with socket.create_connection(("127.0.0.1", port), 30) as link:
        link.sendall(request)
        return _answer(link)


def _answer(link: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = link.recv(65536)
        if not piece:
            raise ConnectionError("the server hung up")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:"), 0)
    while len(body) < length:
        body += link.recv(65536)
    return head + b"\r\n\r\n" + body


# -- the clients -----------------------------------------------------------------------------------------------------------


def submitter(port: int, request: bytes, block_s: float, pipe: Connection) -> None:
    """A client's process: at each word of the pipe, send the request for a block; tell the seconds that each took."""
    with socket.create_connection(("127.0.0.1", port), 30) as link:
        while pipe.recv():
            seconds = []
            end = time.perf_counter() + block_s
            while (began := time.perf_counter()) < end:
                link.sendall(request)
                answer = _answer(link)
                assert b" 201 " in answer[:16], answer[:300]
                seconds.append(time.perf_counter() - began)
            pipe.send(seconds)


async def _page(port: int, end: float, seconds: list[float], offset_s: float) -> None:
    """One open page, as static/live.js polls: its own pace of a running job, the server's wish, a few percent of chance."""
    await asyncio.sleep(offset_s)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    etag, wait_s = "", 0.7
    while time.perf_counter() < end:
        began = time.perf_counter()
        writer.write(get("/api/v1/live", etag))
        head = await reader.readuntil(b"\r\n\r\n")
        fields = {
            line[: line.find(b":")].lower(): line[line.find(b":") + 1 :].strip() for line in head.split(b"\r\n")[1:] if line
        }
        if length := int(fields.get(b"content-length", b"0")):
            await reader.readexactly(length)
        seconds.append(time.perf_counter() - began)
        etag = fields[b"etag"].decode()
        wait_s = 0.7 if b" 200 " in head[:16] else min(wait_s * 1.25, 5.0)
        await asyncio.sleep(max(wait_s, int(fields[b"poll-after-ms"]) / 1000) * random.uniform(0.9, 1.1))
    writer.close()


def pages(port: int, number: int, for_s: float, pipe: Connection) -> None:
    """The pages' process: they are opened within two seconds; what each answer took once they all are open is told."""

    async def all_of_them() -> list[float]:
        seconds: list[float] = []
        end = time.perf_counter() + for_s
        crowd = [asyncio.create_task(_page(port, end, seconds, random.uniform(0, 2))) for _ in range(number)]
        await asyncio.sleep(3)
        seconds.clear()
        pipe.send(None)
        await asyncio.gather(*crowd)
        return seconds

    pipe.send(asyncio.run(all_of_them()))


# -- the measurements ------------------------------------------------------------------------------------------------------


def start(spool: Spool, cache: Path, scale: Scale, figures: Figures) -> None:
    seconds, rss, torch = [], 0.0, False
    for _ in range(scale.starts):
        web = Web(spool, cache)
        try:
            seconds.append(web.start_s)
            talk(web.port, get("/"))
            time.sleep(2)
            rss, torch = max(rss, web.rss_mib()), torch or web.has_torch()
        finally:
            web.stop()
    median = statistics.median(seconds)
    figures.add(f"start to the first answer, median of {len(seconds)}", median, "s", f"under {START_S:g} s", median < START_S)
    figures.add("resident after a page, idle", rss, "MiB", f"under {RSS_MIB:g} MiB", rss < RSS_MIB)
    figures.add("torch loaded", float(torch), "", "no torch", not torch)


@contextlib.contextmanager
def clients(port: int, request: bytes, block_s: float) -> Iterator[list[Connection]]:
    context = multiprocessing.get_context("fork")
    ends, processes = [], []
    for _ in range(CLIENTS):
        ours, theirs = context.Pipe()
        process = context.Process(target=submitter, args=(port, request, block_s, theirs))
        process.start()
        ends.append(ours)
        processes.append(process)
    try:
        yield ends
    finally:
        for end in ends:
            end.send(False)
        for process in processes:
            process.join(30)


def block(ends: list[Connection]) -> list[float]:
    for end in ends:
        end.send(True)
    return [each for end in ends for each in end.recv()]


def direct(spool: Spool, block_s: float, threads: int) -> int:
    """Submits of the spool itself in a block, from so many threads."""

    def work(_: int) -> int:
        done, end = 0, time.perf_counter() + block_s
        while time.perf_counter() < end:
            spool.submit(JOB)
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, range(threads)))


def submits(folder: Path, name: str, scale: Scale, figures: Figures, compare: bool, rows: int = 1) -> None:
    """Jobs that are accepted in a second, `rows` in a request; `compare`: beside what the spool itself takes."""
    spool, beside = Spool(folder / f"web-{name}"), Spool(folder / f"direct-{name}")
    spool.create()
    beside.create()
    web = Web(spool, folder / f"cache-{name}")
    requests, served_s, waits = 0, 0.0, list[float]()
    own: dict[int, list[float]] = {CLIENTS: [], 1: []}  # threads -> jobs a second, block by block
    ratios: dict[int, list[float]] = {CLIENTS: [], 1: []}
    try:
        with clients(web.port, SUBMIT if rows == 1 else SUBMIT_BATCH, scale.block_s) as ends:
            block(ends)  # warm
            for _ in range(scale.blocks):
                began = time.perf_counter()
                seconds = block(ends)
                took_s = time.perf_counter() - began  # a batch that was begun within the block may end after it
                requests, served_s, waits = requests + len(seconds), served_s + took_s, waits + seconds
                for threads in own if compare else ():
                    own[threads].append(direct(beside, scale.block_s, threads) / scale.block_s)
                    ratios[threads].append(len(seconds) * rows / took_s / own[threads][-1])
    finally:
        web.stop()
    what, rate = "submits" if rows == 1 else f"jobs in batches of {rows}", requests * rows / served_s
    is_tmpfs = name == "tmpfs"
    target = f"at least {SUBMITS_S:g}" if is_tmpfs else ""
    figures.add(f"{what} over HTTP from {CLIENTS} clients, {name}", rate, "/s", target, not is_tmpfs or rate >= SUBMITS_S)
    figures.add(f"one {'of them' if rows == 1 else 'batch'}, p99, {name}", sorted(waits)[int(len(waits) * 0.99)] * 1000, "ms")
    for threads in own if compare else ():
        whose = f"the spool's own, {threads} {'threads' if threads > 1 else 'thread'}"
        figures.add(f"{whose}, {name}", statistics.median(own[threads]), "/s")
        median = statistics.median(ratios[threads])
        target = "" if is_tmpfs else f"at least {OF_THE_SPOOL:g}"
        figures.add(f"{what} / {whose}, {name}", median, "", target, is_tmpfs or median >= OF_THE_SPOOL)
    shutil.rmtree(spool.root)
    shutil.rmtree(beside.root)


@contextlib.contextmanager
def at_work(spool: Spool) -> Iterator[None]:
    """A spooler that lives and tells of a job's progress twice a second, without an engine that would take the processors."""
    life = Life.begin(spool, "bench")
    card = ModelCard(name="demo", family="sd1", width=512, height=512, steps=20, guidance_scale=7)
    now = utc_now()
    status = SpoolerStatus(
        spooler="bench", host="h", started=now, beat=now, state="ready", speeds={"demo": 0.5},
        catalogue=Catalogue(models=(card,), default="demo"),
    )  # fmt: skip
    spool.write_status(status)
    place = spool.claim(f"{spool.submit(JOB)}.json", "bench")
    assert place
    stop = threading.Event()

    def tell(place: Place) -> None:
        for step in range(10**6):
            spool.write_progress(place, Progress(phase="denoise", count=4, step=step % 20, steps=20))
            if stop.wait(0.5):
                return

    teller = threading.Thread(target=tell, args=(place,))
    teller.start()
    try:
        yield
    finally:
        stop.set()
        teller.join()
        life.end()


def open_pages(folder: Path, scale: Scale, figures: Figures) -> None:
    spool = Spool(folder / "pages")
    spool.create()
    for _ in range(50):
        spool.submit(JOB)
    web = Web(spool, folder / "cache-pages")
    context = multiprocessing.get_context("fork")
    try:
        with at_work(spool):
            alone = _slow_submits(web.port, scale.pages_s / 4)
            ours, theirs = context.Pipe()
            crowd = context.Process(target=pages, args=(web.port, PAGES, scale.pages_s, theirs))
            crowd.start()
            ours.recv()  # they are all open
            beside = _slow_submits(web.port, scale.pages_s / 4)
            seconds = sorted(ours.recv())
            crowd.join(30)
    finally:
        web.stop()
    p99 = seconds[int(len(seconds) * 0.99)] * 1000
    figures.add(f"polls of {PAGES} open pages", len(seconds) / (scale.pages_s - 3), "/s")
    figures.add("a poll, p50", seconds[len(seconds) // 2] * 1000, "ms")
    figures.add(f"a poll, p99 of {len(seconds)}", p99, "ms", f"under {POLL_MS:g} ms", p99 < POLL_MS)
    for name, found in (("nobody else there", alone), (f"beside {PAGES} pages", beside)):
        figures.add(f"a submit, {name}, p50 of {len(found)}", statistics.median(found) * 1000, "ms")
        figures.add(f"a submit, {name}, p99", sorted(found)[int(len(found) * 0.99)] * 1000, "ms")
    shutil.rmtree(spool.root)


def _slow_submits(port: int, for_s: float) -> list[float]:
    """One person's submits, ten a second."""
    found, end = [], time.perf_counter() + for_s
    with socket.create_connection(("127.0.0.1", port), 30) as link:
        while time.perf_counter() < end:
            began = time.perf_counter()
            link.sendall(SUBMIT)
            assert b" 201 " in _answer(link)[:16]
            found.append(time.perf_counter() - began)
            time.sleep(0.1)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench web", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short form, to see that it works")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="folder on the disk to be measured")
    parser.add_argument("--only", default="start,submits,batches,pages", help="what to measure (default %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    scale, figures, only = QUICK if options.quick else Scale(), Figures(), options.only.split(",")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was made is removed then, too
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, "
          f"Python {platform.python_version()}; {os.getloadavg()[0]:.1f} processes at work here.")  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="sdspool-web-", dir=options.scratch) as disk:
        folder = Path(disk)
        if "start" in only:
            spool = Spool(folder / "start")
            spool.create()
            start(spool, folder / "cache", scale, figures)
        if "submits" in only:
            with tempfile.TemporaryDirectory(prefix="sdspool-web-", dir=TMPFS) as memory:
                submits(Path(memory), "tmpfs", scale, figures, compare=True)
            submits(folder, "disk", scale, figures, compare=True)
        if "batches" in only:
            submits(folder, "disk", scale, figures, compare=True, rows=BATCH)
        if "pages" in only:
            open_pages(folder, scale, figures)
    if options.json:
        options.json.write_text(json.dumps(figures.rows, indent=2) + "\n")
    print(f"\nMissed: {', '.join(figures.missed) or 'nothing'}")
    return 1 if figures.missed else 0


if __name__ == "__main__":
    sys.exit(main())
