"""One target of the parser's proof under atheris: `python -m tests.prove.parser_atheris TARGET TALLY [libFuzzer argument ...]`.

A process of its own, because the code must be instrumented while it is imported, and because libFuzzer ends the process.
"""

from __future__ import annotations

import faulthandler
import json
import random
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["spooler"]):
    from tests.prove import hostile, parser

#: Runs between two notes of the tally, in case that the process is ended.
NOTED_EVERY = 5_000


def main() -> None:
    target, told, *libfuzzer = sys.argv[1:]
    tally = parser.Tally()
    rng = random.Random(0)
    runs = next(int(each.removeprefix("-atheris_runs=")) for each in libfuzzer if each.startswith("-atheris_runs="))

    def note() -> None:
        Path(told).write_text(json.dumps(asdict(tally)))

    def one(data: bytes) -> None:
        if tally.inputs % 10_000 == 0:
            faulthandler.dump_traceback_later(parser.STUCK_S, exit=True)
        # Of a picture every other input is the text in it: by chance no checksum would ever be right.
        tally.judge(target, hostile.png_of(rng, data) if target == ".png" and len(data) % 2 else data)
        if tally.inputs % NOTED_EVERY == 0 or tally.inputs >= runs:
            note()
        if tally.inputs >= runs:
            signal.setitimer(signal.ITIMER_REAL, 0)  # libFuzzer's: it may outlive its handler when the process ends

    atheris.Setup([sys.argv[0], *libfuzzer], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
