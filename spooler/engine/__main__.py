"""`python -m spooler.engine`: the engine's process. It speaks the language of messages.py on its standard input and output."""

from __future__ import annotations

import argparse
import os
import sys

from spooler import messages
from spooler.models import ModelError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m spooler.engine", description="Started by the spooler.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", required=True)
    options = parser.parse_args()

    # 1. Keep the spooler's pipe for messages: what a library prints goes to the log.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    # 2. Listen before the slow imports: a spooler that dies meanwhile takes this process along.
    from spooler.engine.worker import Commands

    commands = Commands(sys.stdin.buffer)

    # 3. Load once.
    try:
        from spooler.engine.pipeline import Pipeline, UnusableError
    except ImportError as error:
        reason = f"The engine's packages are not installed ({error}): pip install 'sdspool[engine]'."
        out.write(messages.Refused(reason=reason).line())
        return 2
    try:
        pipeline = Pipeline.load(options.model, options.device)
    except (UnusableError, ModelError) as error:
        out.write(messages.Refused(reason=str(error)).line())
        return 2

    # 4. Serve until told to stop.
    from spooler.engine.worker import Worker

    Worker(pipeline, commands, out).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
