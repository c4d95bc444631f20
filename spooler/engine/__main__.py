"""`python -m spooler.engine`: the engine's process. It speaks the language of messages.py on its standard input and output."""

from __future__ import annotations

import gc
import logging
import os
import sys

from spooler import logs, messages
from spooler.engine.commands import Commands
from spooler.library import ModelError, scan
from spooler.settings import Settings


def main() -> int:
    settings = Settings.parse(sys.argv[1:], "python -m spooler.engine", about="Started by the spooler.")
    logs.begin("engine", settings.log_format)

    # 1. Keep the spooler's pipe for messages: what a library prints goes to the log.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    # Compiled code outlives the process; the library reads this when it is imported.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.cache / "inductor"))

    def refuse(reason: str) -> int:
        out.write(messages.Refused(reason=reason).line())
        return 2

    # 2. Listen before the slow imports: a spooler that dies meanwhile takes this process along. Confirm the device before the
    # slowest of them.
    commands = Commands(sys.stdin.buffer)
    gc.disable()  # imports make a million objects that stay: to look among them for garbage is a fifth of the time
    try:
        from spooler.engine.device import UnusableError, choose

        device = choose(settings.device, settings.model)
        from spooler.engine.safety import SafetyError
        from spooler.engine.worker import Engine
    except ImportError as error:
        return refuse(f"The engine's packages are not installed ({error}): pip install 'sdspool[engine]'.")
    except UnusableError as error:
        return refuse(str(error))
    gc.freeze()
    gc.enable()

    # 3. Load once; let the filters say now if they cannot work.
    try:
        library = scan(settings.models, settings.model)
        engine = Engine.make(settings, library, device, commands, out)
        facts = engine.warm_up()
    except (UnusableError, ModelError, SafetyError) as error:
        return refuse(str(error))

    # 4. Serve until told to stop.
    engine.serve(facts)
    return 0


if __name__ == "__main__":
    try:
        status = main()
    except BaseException:
        logging.critical("the engine's process ends", exc_info=True)
        status = 1
    sys.stderr.flush()
    # Not sys.exit: a thread still reads standard input, and the interpreter's end would be an abort that hides the error.
    os._exit(status)
