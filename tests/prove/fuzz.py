"""Requests made from the APIs' own documents, right ones and wrong ones: no server error, and each answer as the document says.

Schemathesis draws them, with all of its checks, against the real web app over a spool in memory. No spooler runs, so jobs only
wait; those that wait in one request are bounded to a moment, and what piles up is withdrawn from pending/ by hand.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image as Pillow

from spooler.reader import mtime_ns
from spooler.record import Image, Record, Timings, utc_now
from spooler.spool import Spool
from spooler.states import End
from tests.prove.report import ROOT, Figure, main, report

NAME = "fuzz"
DOCUMENTS = ("/api/v1/openapi.json", "/v1/openapi.json", "/sdapi/v1/openapi.json")
#: Requests for each operation of a document; operations differ in how many different ones they have.
SHORT_EXAMPLES, LONG_EXAMPLES = 3, 3000
SEED = 20270301
#: Waiting jobs above which the oldest are withdrawn.
PILE = 300
#: How much is shown of what schemathesis has to say when it found something: lines, and characters of each.
LINES, LINE = 200, 1000
#: A document cannot foretell every no: rules between fields, prompts whose brackets do not match, a job in another state
#: or gone. And nothing is ready and nothing ends here: 503 and 504 say so, and are in the documents. What is wrong may be
#: too large as well: then it is 413.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "304", "400", "404", "409", "503", "504"{more}]

[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429", "5xx"]

[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503", "504"{more}]
"""
#: By the A1111 API's contract 422 is its no, and 500 says that no picture was made; a traceback in the log is told apart.
MORE = {"/sdapi/v1/openapi.json": ', "422", "500"'}
#: DELETE of a job cancels it: it is still there to be looked at.
EXCLUDED = "use_after_free,ensure_resource_availability"


def prove(short: bool) -> list[Figure]:
    examples = SHORT_EXAMPLES if short else int(os.environ.get("FUZZ_EXAMPLES", LONG_EXAMPLES))
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        spool = prepared(Path(folder))
        with served(spool) as (url, log), kept_small(spool):
            there = [document for document in DOCUMENTS if is_there(url + document)]
            # Side by side, each in a process of schemathesis' own.
            with ThreadPoolExecutor(len(DOCUMENTS)) as pool:
                done = list(pool.map(lambda document: fuzz(url + document, examples, phases(document, short)), there))
            errors = server_errors(log)
    cases, failures, documents = sum(made for made, _ in done), sum(failed for _, failed in done), len(there)
    target = ">= 100,000" if not short else "some"
    enough = cases >= (100_000 if not short else 100)
    return [
        report(NAME, f"requests drawn from {documents} documents", target, cases, enough),
        report(NAME, "of them answered with a server error, or otherwise than the document says", "0", failures, not failures),
        report(NAME, "tracebacks in the server's log", "0", errors, not errors),
    ]


def phases(document: str, short: bool) -> str:
    """The edges of every rule are some thousand requests: in the suite only those of the smaller documents."""
    return "examples,fuzzing" if short and document == DOCUMENTS[0] else "examples,coverage,fuzzing"


def prepared(folder: Path) -> Spool:
    """A spool with a job in each state, so that the routes have something to tell of."""
    spool = Spool(folder / "spool")
    spool.create()
    (spool.claimed / "me").mkdir()
    ends: tuple[tuple[str, End], ...] = (("done", "done"), ("starred", "done"), ("failed", "failed"))
    for job_id, state in ends:
        spool.submit(b'{"prompt": "a red circle"}', job_id)
        place = spool.claim(f"{job_id}.json", "me")
        assert place
        record = Record(id=job_id, queued=utc_now())
        spool.prepare(place, record)
        picture = Image(file="0.png", seed=1, width=8, height=8)
        if state == "done":
            Pillow.new("RGB", (8, 8), "red").save(place.path / "0.png")
        record = record.finish((picture,), Timings()) if state == "done" else record.fail("engine_error", "It broke.")
        spool.publish(place, record, state)
    spool.star("starred", True)
    spool.submit(b'{"prompt": "a red circle"}', "wait")
    spool.submit(b'{"prompt": "a red circle"}', "held", to="held")
    return spool


@contextmanager
def served(spool: Spool) -> Iterator[tuple[str, Path]]:
    """The real web app, with its address and its log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = spool.root.parent / "web.log"
    command = [sys.executable, "-m", "webui", "--spool", str(spool.root), "--cache", str(spool.root.parent / "cache")]
    command += ["--port", str(port), "--wait-s", "0.02", "--web-threads", "16", "--max-waiting", "0", "--floor-mib", "0"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while not is_there(url + "/healthz"):
            if time.monotonic() > end or process.poll() is not None:
                raise AssertionError(f"the web app does not answer:\n{log.read_text()}")
            time.sleep(0.05)
        yield url, log
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def kept_small(spool: Spool) -> Iterator[None]:
    """Withdraw waiting jobs beyond a pile, as a person with `rm` would: a line of a hundred thousand is another proof's."""
    stop = threading.Event()

    def sweep() -> None:
        while not stop.wait(0.3):
            for folder in (spool.pending, spool.held):
                entries = [(mtime_ns(entry), entry) for entry in folder.iterdir() if entry.stem not in ("wait", "held")]
                for _, entry in sorted(entries)[:-PILE]:  # the oldest: nobody waits for those any more
                    shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)

    thread = threading.Thread(target=sweep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def is_there(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return int(answer.status) == 200
    except OSError:
        return False


def fuzz(document: str, examples: int, phases: str) -> tuple[int, int]:
    """Run schemathesis over one document: how many requests it made, and how many failures it found. Prints those."""
    with tempfile.TemporaryDirectory() as folder:
        return _fuzz(document, examples, phases, Path(folder))


def _fuzz(document: str, examples: int, phases: str, folder: Path) -> tuple[int, int]:
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG.format(more=MORE.get(urlsplit(document).path, "")))
    told = folder / "report.json"
    tool = str(Path(sys.executable).with_name("schemathesis"))
    command = [tool, "--config-file", str(config), "run", document, "--checks", "all", "--exclude-checks", EXCLUDED]
    command += ["--seed", str(SEED), "--max-examples", str(examples), "--phases", phases]
    # One worker: Python 3.11 takes two threads in `ast.parse`, by which hypothesis shows a lambda, for an error of its own.
    command += ["--continue-on-failure", "--no-color", "--generation-database", "none", "--no-shrink", "--workers", "1"]
    command += ["--suppress-health-check", "all", "--warnings", "off", "--report", "json", "--report-json-path", str(told)]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.prove.fuzz_hooks", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    cases = re.search(r"([\d,]+) generated", ended.stdout)
    found = re.search(r"([\d,]+) found (?:[\d,]+) unique failures|([\d,]+) unique failures?", ended.stdout)
    failed = int((found[1] or found[2]).replace(",", "")) if found else 0
    if ended.returncode:
        # A request may have many MB, all on one line: what was found stands before it.
        lines = [line[:LINE] for line in f"{ended.stdout}\n{ended.stderr}".splitlines() if line.strip()]
        print("\n".join(lines[-LINES:]), file=sys.stderr)
        failed = failed or 1
    if not cases:
        raise AssertionError(f"schemathesis told no number of requests:\n{ended.stdout[-3000:]}{ended.stderr[-3000:]}")
    return int(cases[1].replace(",", "")), failed


def server_errors(log: Path) -> int:
    """How many tracebacks the server wrote."""
    return log.read_text(errors="replace").count("Traceback (most recent call last)")


if __name__ == "__main__":
    sys.exit(main(prove))
