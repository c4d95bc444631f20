"""A cluster on this machine, to look at: the web app and a spooler, Redis, an S3 server, and workers with the demo model.

./run.sh demo-cluster [--workers 2] [--port 7860]

Everything is real and everything is thrown away at the end (Ctrl-C): Debian's redis-server, moto's S3 server, `sdspool worker`.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from cluster import Cluster, cluster

from spooler.spool import Spool


def serve(folder: Path, made: Cluster, workers: int, port: int, stop: threading.Event) -> None:
    """Start everything, say where it is, and wait until told to stop, or until a half ends."""
    spool = Spool(folder / "spool")
    spool.create()
    common = [f"--spool={spool.root}", f"--cache={folder / 'cache'}"]
    env = {**os.environ, **made.s3.env}
    commands = [["-m", "webui", f"--port={port}", *common], ["-m", "spooler", "--spooler=intake", *made.options, *common]]
    halves = [subprocess.Popen([sys.executable, *command], cwd=ROOT, env=env) for command in commands]
    try:
        started = [made.add_worker() for _ in range(workers)]
        for worker in started:
            made.ready(worker)
            print(f"worker {worker.name}: process {worker.process.pid}, log {worker.log_path}", flush=True)
        print(f"page http://127.0.0.1:{port} · drop folder {spool.pending}", flush=True)
        print(f"Redis {made.redis.url}, its password in {made.redis.password_file} · store {made.s3.url}", flush=True)
        print("Kill what you like: each job still ends once. Ctrl-C ends it all.", flush=True)
        while not stop.wait(0.5) and all(half.poll() is None for half in halves):
            pass
    finally:
        for half in halves:
            half.terminate()
        for half in halves:
            half.wait(30)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--port", type=int, default=7860)
    given = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # the store's, with each request
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with tempfile.TemporaryDirectory(prefix="sdspool-cluster-") as folder, cluster(Path(folder)) as made:
        serve(Path(folder), made, given.workers, given.port, stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
