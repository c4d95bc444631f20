"""No benchmark: `sdspool worker` whose engine only sleeps; everything else is the real one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from spooler.child import Child, Gone
from spooler.messages import FromEngine
from spooler.remote import worker
from spooler.settings import Settings
from tests.prove.restart import FACTS
from tests.prove.sleeper import Sleeper


def main() -> int:
    sleep_s = float(sys.argv[1])
    facts = FACTS.model_copy(update={"model": "demo"})

    def start(settings: Settings, hear: Callable[[Child, FromEngine | Gone], None]) -> Child:
        return Sleeper(hear, sleep_s, facts)

    return worker.serve(Settings.parse(sys.argv[2:], "sleeping_worker"), start)


if __name__ == "__main__":
    sys.exit(main())
