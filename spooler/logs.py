"""Log lines that are what they seem: what a stranger wrote begins no line and moves no cursor (S9).

Plain, a line is a sentence for people. As JSON it is an object for programs: time, level, logger, program, message, and what
`event` put beside it (job, owner, seconds, ...). docs/operations.md has the events.
No line has a key, nor more of a prompt than the 60 characters that a mistake in it quotes.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from spooler.mistakes import printable, show
from spooler.record import iso

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
#: What is known beside a line that tells an event: in the web app, who asked and through which door.
Around = Callable[[], Mapping[str, str]]


def begin(program: str, form: str = "plain", around: Around = dict) -> None:
    """Have the process log to standard error in that form, `plain` or `json`, each line with the program's name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(program, around) if form == "json" else Lines(f"sdspool {program}: %(message)s", around))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if form == "json":  # so that what nobody caught, and what a library warns of, is an object too
        logging.captureWarnings(True)
        sys.excepthook = lambda kind, error, trace: _uncaught((kind, error, trace))
        threading.excepthook = lambda told: _uncaught((told.exc_type, told.exc_value or told.exc_type(), told.exc_traceback))


def event(name: str, **fields: Any) -> dict[str, Any]:
    """The `extra` of a line that tells an event: log.info("job %s: done", job, extra=event("done", job=job, seconds=1.5)).

    A field that is None is left out.
    """
    return {"event": name, "about": {field: value for field, value in fields.items() if value is not None}}


def whose(owner: str) -> str:
    """The owner as the tail of a sentence; it is a stranger's text, so it stands in quotes."""
    return f", for {show(owner)}" if owner else ""


class Lines(logging.Formatter):
    """One line a message, whatever is in it. A traceback has lines of its own, each indented: none passes for a message."""

    def __init__(self, form: str, around: Around = dict):
        super().__init__(form)
        self._around = around

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_text:  # the traceback as another handler wrote it
            record = logging.makeLogRecord(vars(record))
            record.exc_text = None
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        around = " ".join(f"{name}={value}" for name, value in self._around().items()) if hasattr(record, "event") else ""
        return printable(super().formatMessage(record) + (f" [{around}]" if around else ""))

    def formatException(self, ei: ExcInfo) -> str:
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return _indented(super().formatStack(stack_info))


class JsonLines(logging.Formatter):
    """One JSON object a line, in ASCII: a traceback is a field of it."""

    def __init__(self, program: str, around: Around = dict):
        super().__init__()
        self._program = program
        self._around = around

    def format(self, record: logging.LogRecord) -> str:
        if line := getattr(record, "line", None):
            return str(line)
        told: dict[str, Any] = {
            "time": iso(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "program": self._program,
            "message": record.getMessage(),
        }
        if name := getattr(record, "event", None):
            told |= {"event": name, **self._around(), **record.about}  # type: ignore[attr-defined] # `event` gave both
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        # A file's name that is no UTF-8 has halves of characters, which not every reader of JSON takes.
        return json.dumps({name: _whole(value) for name, value in told.items()}, default=str)


def pass_on(line: bytes) -> None:
    """Log what another process of ours wrote to its standard error: its own lines as they are, anything else as a message.

    So a library that prints, or the last words of one that crashes, breaks no line of JSON.
    """
    text = line.decode(errors="backslashreplace").rstrip("\n")
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    if isinstance(told, dict) and "program" in told:
        logging.getLogger(__name__).info("", extra={"line": text})
    elif text:
        logging.getLogger(__name__).warning("the engine: %s", text)


def _whole(value: Any) -> Any:
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _uncaught(error: ExcInfo) -> None:
    logging.getLogger("spooler").critical("nobody expected this", exc_info=error)


def _indented(text: str) -> str:
    return "\n".join("  " + printable(line) for line in text.split("\n"))
