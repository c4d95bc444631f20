"""What the tests share: real processes over a real spool, and waiting for something to become true."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
from PIL import Image

from spooler.catalogue import Catalogue, ModelCard
from spooler.place import Place
from spooler.record import utc_now
from spooler.spool import Spool
from spooler.status import SpoolerStatus

T = TypeVar("T")
ROOT = Path(__file__).parent.parent
#: Generous: nothing is timed, a slow machine only waits longer. It is the deadline of a test that would fail anyway.
DEADLINE_S = 180.0
#: A spooler like the real one whose engine only sleeps: for what is about the spool, and not about a picture.
SLEEPER = "tests.prove.sleeper"
#: The demo model alone.
DEMO = Catalogue(
    models=(ModelCard(name="demo", family="sd1", width=128, height=128, steps=20, guidance_scale=3),), default="demo"
)


def wait_for(condition: Callable[[], T | None], what: str, deadline_s: float = DEADLINE_S) -> T:
    """The first true value of the condition; fails the test when there is none in time."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {deadline_s:g} s in vain for {what}")


def missing(needs: str) -> NoReturn:
    """End a test that cannot run here. In CI, where everything is to be there, it fails; elsewhere it is skipped.

    `needs` names what is missing: "strace", "the font DejaVu Sans".
    """
    sentence = f"needs {needs}: `./run.sh test` installs it where it may"
    pytest.fail(sentence) if os.environ.get("CI") == "true" else pytest.skip(sentence)


class Spooler:
    """A real spooler process, `python -m spooler`, on a spool of its own or a shared one."""

    def __init__(
        self,
        spool: Spool,
        *options: str,
        name: str = "test",
        env: Mapping[str, str] | None = None,
        program: str = "spooler",
    ):
        self.spool = spool
        self.name = name
        self.log_path = spool.root.parent / f"spooler-{name}.log"
        command = [sys.executable, "-m", program, "--spool", str(spool.root), "--spooler", name, *options]
        self._log = self.log_path.open("ab")
        environment = {**os.environ, **(env or {})}
        self.process = subprocess.Popen(
            command, stderr=self._log, stdout=self._log, cwd=ROOT, start_new_session=True, env=environment
        )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def status(self) -> SpoolerStatus | None:
        return next((status for status, alive in self.spool.spoolers() if alive and status.spooler == self.name), None)

    def ready(self) -> Spooler:
        def is_ready() -> bool:
            assert self.process.poll() is None, f"the spooler ended:\n{self.log}"
            status = self.status()
            return bool(status and status.state == "ready")

        wait_for(is_ready, "the engine to be ready")
        return self

    def engine_pids(self) -> list[int]:
        """The process numbers of its engines, those started first at the top."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(child) for child in children.split()]

    def engine_pid(self) -> int:
        """The process number of the engine, the spooler's only child."""

        def child() -> int | None:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            return int(children[0]) if children else None

        return wait_for(child, "the engine's process")

    def ended(self) -> int:
        """Wait for it to end by itself; the exit status."""
        try:
            return self.process.wait(DEADLINE_S)
        finally:
            self._log.close()

    def kill(self) -> None:
        """kill -9, and wait until the kernel has buried it."""
        self.process.kill()
        self.ended()

    def stop(self) -> int:
        """SIGTERM, as run.sh does, unless it has ended; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(DEADLINE_S)
        finally:
            self._log.close()


@contextmanager
def spooler(
    spool: Spool, *options: str, name: str = "test", env: Mapping[str, str] | None = None, program: str = "spooler"
) -> Iterator[Spooler]:
    made = Spooler(spool, *options, name=name, env=env, program=program)
    try:
        yield made.ready()
    finally:
        made.stop()


def offer(spool: Spool, catalogue: Catalogue = DEMO) -> None:
    """As if a spooler that has these models had been here."""
    now = utc_now()
    spool.write_status(SpoolerStatus(spooler="me", host="h", started=now, beat=now, state="ready", catalogue=catalogue))


def drop(spool: Spool, name: str, job: dict[str, Any] | bytes) -> Path:
    """What a careful person does: write elsewhere on the same file system, then mv into pending/."""
    raw = job if isinstance(job, bytes) else json.dumps(job).encode()
    draft = spool.tmp / f"drop-{os.getpid()}-{name}"
    draft.write_bytes(raw)
    return draft.rename(spool.pending / name)


def wait_state(spool: Spool, job_id: str, *states: str) -> Place:
    def there() -> Place | None:
        place = spool.find(job_id)
        return place if place and place.state in states else None

    return wait_for(there, f"the job {job_id} to be in {' or '.join(states)}")


def wait_running(spool: Spool, job_id: str) -> Place:
    """Wait until the engine is in the middle of the job's denoising."""

    def at_work() -> Place | None:
        place = spool.find(job_id)
        progress = spool.read_progress(place) if place and place.state == "claimed" else None
        return place if progress and progress.step > 0 else None

    return wait_for(at_work, f"the job {job_id} to be denoised")


def picture(path: Path) -> Image.Image:
    """The picture of the file, read whole."""
    with Image.open(path) as image:
        image.load()
        return image


def listing(root: Path) -> dict[str, bytes | None]:
    """Every file below the folder with its bytes, locks and drafts left out: to see that nothing else was disturbed."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in sorted(root.rglob("*"))
        if path.name not in (".lock", ".claim.lock", "spooler.json")
    }
