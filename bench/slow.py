"""Whether slow senders keep the others waiting: `./run.sh bench slow` (`--connections 2000`, `--seconds 20`, `--json FILE`).

It starts the real web app and measures a good GET of /healthz and of the queue's page, each on a new connection, while nobody
else is there. It opens so many connections, of which a third is silent, a third drips a request's head byte by byte, and a
third drips a body; and measures the same again. A connection that is closed is opened anew, so that as many stay. The figure is
the p99 during over the p99 before.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import random
import resource
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.figures import percentile

#: The figure to reach, ms.
P99_MS = 100.0
#: Seconds between two bytes of one connection.
DRIP_S = 5.0
HEAD = b"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
BODY = HEAD + b"Content-Length: 100000\r\n\r\n"
KINDS = ("silent", "head", "body")


class Slow:
    """One connection that is never done."""

    def __init__(self, port: int, kind: str):
        self.kind = kind
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        if kind == "body":
            self.socket.sendall(BODY)
        self.socket.setblocking(False)
        self.next = time.monotonic() + random.random() * DRIP_S

    def drip(self) -> None:
        self.next = time.monotonic() + DRIP_S
        self.socket.send(b" " if self.kind == "body" else b"X")


def hold(port: int, wanted: int, is_open: Synchronized[int], opened: Synchronized[int]) -> None:
    """Keep so many connections open, each dripping, until killed."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], wanted + 500),) * 2)
    watched, there, again = selectors.EpollSelector(), set[Slow](), []

    def lose(slow: Slow) -> None:
        with contextlib.suppress(KeyError, ValueError):
            watched.unregister(slow.socket)
        slow.socket.close()
        there.discard(slow)
        again.append((time.monotonic() + 1, slow.kind))

    again += [(0.0, KINDS[number % 3]) for number in range(wanted)]
    while True:
        now = time.monotonic()
        due, again = [kind for at, kind in again if at <= now], [each for each in again if each[0] > now]
        for kind in due:
            try:
                slow = Slow(port, kind)
            except OSError:
                again.append((now + 1, kind))
                continue
            there.add(slow)
            opened.value += 1
            watched.register(slow.socket, selectors.EVENT_READ, slow)
        for key, _ in watched.select(0.01):  # nobody answers half a request: it was closed
            lose(key.data)
        for slow in list(there):
            if slow.kind != "silent" and slow.next <= now:
                try:
                    slow.drip()
                except OSError:
                    lose(slow)
        is_open.value = len(there)


def measure(port: int, path: str, seconds: float) -> list[float]:
    """Milliseconds of GETs one after the other, each on a connection of its own, sorted."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        assert answer.status == 200, answer.status
        found.append((time.perf_counter() - began) * 1000)
        time.sleep(0.005)
    return sorted(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sdspool-slow-") as folder:
        figures = bench(Path(folder), options.connections, options.seconds)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if all(value < P99_MS for name, value in figures.items() if name.endswith("during, p99 [ms]")) else 1


def bench(folder: Path, connections: int, seconds: float) -> dict[str, Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "webui", "--port", str(port), "--keys", str(folder / "keys")]
    command += ["--spool", str(folder / "spool"), "--cache", str(folder / "cache")]
    figures: dict[str, Any] = {}

    def add(name: str, value: float) -> None:
        figures[name] = round(value, 2)
        print(f"  {name:<60} {value:>12,.2f}", flush=True)

    web = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    is_open, opened = multiprocessing.Value("i", 0), multiprocessing.Value("i", 0)
    slow = multiprocessing.Process(target=hold, args=(port, connections, is_open, opened), daemon=True)
    try:
        assert web.stderr
        web.stderr.readline()
        measure(port, "/queue", 1)
        before = {path: measure(port, path, seconds / 2) for path in ("/healthz", "/queue")}
        slow.start()
        end = time.monotonic() + 60
        while opened.value < connections and time.monotonic() < end:
            time.sleep(0.1)
        add("connections opened", opened.value)
        for path in ("/healthz", "/queue"):
            during = measure(port, path, seconds / 2)
            for part, name in ((0.5, "p50"), (0.99, "p99")):
                add(f"GET {path} before, {name} [ms]", percentile(before[path], part))
                add(f"GET {path} during, {name} [ms]", percentile(during, part))
                add(f"GET {path} during over before, {name}", percentile(during, part) / percentile(before[path], part))
        add("connections open in the end", is_open.value)
        add("connections opened in all", opened.value)
        status = Path(f"/proc/{web.pid}/status").read_text()
        add("resident in the end [MB]", int(status.partition("VmRSS:")[2].split()[0]) / 1000)
    finally:
        slow.kill()
        web.send_signal(signal.SIGTERM)
        web.wait(30)
    return figures


if __name__ == "__main__":
    sys.exit(main())
