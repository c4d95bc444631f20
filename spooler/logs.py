"""Log lines that are what they seem: what a stranger wrote begins no line and moves no cursor (S9)."""

from __future__ import annotations

import logging
import sys
from types import TracebackType

from spooler.mistakes import printable

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def begin(program: str) -> None:
    """Have the process log to standard error, each line with the program's name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(f"sdspool {program}: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class Lines(logging.Formatter):
    """One line a message, whatever is in it. A traceback has lines of its own, each indented: none passes for a message."""

    def format(self, record: logging.LogRecord) -> str:
        own = logging.makeLogRecord(vars(record))
        own.exc_text = None  # the traceback as another handler wrote it
        return super().format(own)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: ExcInfo) -> str:
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return _indented(super().formatStack(stack_info))


def _indented(text: str) -> str:
    return "\n".join("  " + printable(line) for line in text.split("\n"))
