"""The spooler's handle on the engine's process.

That process is expendable: nothing but ending it cures a sticky CUDA error or a hung kernel.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, ClassVar

from pydantic import ValidationError

from spooler import logs
from spooler.messages import FromEngine, ToEngine, from_engine
from spooler.settings import Settings

log = logging.getLogger(__name__)

#: A longer line of the engine's log is told in pieces.
MAX_LINE_BYTES = 64 << 10

OFFLINE = {"HF_HUB_OFFLINE": "1"}
#: What the libraries say at their import is of packages that are optional to them; their errors are enough in our log.
ENVIRONMENT = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}


@dataclass(frozen=True)
class Gone:
    """The last thing heard of a child: its process ended."""

    how: str


class Child:
    """One engine process. `hear` is called from a thread with each message, and with Gone at the end, exactly once."""

    def __init__(self, settings: Settings, hear: Callable[[Child, FromEngine | Gone], None], threads: int | None = None):
        """`threads`: of the CPU that it may compute on; None: as many as there are cores."""
        command = [sys.executable, "-m", "spooler.engine", *settings.arguments()]
        self._hear = hear
        # A group of its own: Ctrl-C in the terminal is for the spooler, which then tells the engine. All other file
        # descriptors, the life lock's among them, are closed in it.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # What its libraries print is no JSON, so it passes through here: the last words of a crash too.
            stderr=subprocess.PIPE if settings.log_format == "json" else None,
            process_group=0,
            env=ENVIRONMENT | ({"OMP_NUM_THREADS": str(threads)} if threads else {}) | os.environ | OFFLINE,
        )
        if self._process.stderr:
            threading.Thread(target=_pass_on, args=(self._process.stderr,), name="engine log", daemon=True).start()
        assert self._process.stdin and self._process.stdout  # noqa: S101 - for the type checker: both are pipes
        self._stdin: IO[bytes] = self._process.stdin
        self._stdout: IO[bytes] = self._process.stdout
        threading.Thread(target=self._listen, name="engine listener", daemon=True).start()

    #: Whether it draws each job somewhere else: jobs of any model at a time, and it tells itself of one that is lost.
    is_remote: ClassVar[bool] = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: ToEngine) -> None:
        # A child that is dying is heard of by Gone; there is nothing else to do about it here.
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._stdin.write(message.line())
            self._stdin.flush()

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout_s: float) -> None:
        """Wait for the process to end by itself, and end it when it does not."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        for line in self._stdout:
            try:
                message = from_engine.validate_json(line)
            except ValidationError:
                log.warning("the engine said what is no message: %r", line[:200])
                continue
            self._hear(self, message)
        status = self._process.wait()
        self._stdout.close()
        with contextlib.suppress(BrokenPipeError):  # what it did not read any more
            self._stdin.close()
        self._hear(self, Gone(describe_exit(status)))


def _pass_on(stream: IO[bytes]) -> None:
    with stream:
        while line := stream.readline(MAX_LINE_BYTES):
            logs.pass_on(line)


def describe_exit(status: int) -> str:
    """A subprocess's return code in words: "killed by SIGKILL" or "exit status 1"."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
