"""What schemathesis is told of this server: ids of jobs that there are, so that not every question is about a job that is not.

Loaded by schemathesis itself (SCHEMATHESIS_HOOKS), in its own process.
"""

from __future__ import annotations

import hashlib
from typing import Any

import schemathesis

#: Jobs that `fuzz` puts into the spool before: two that ended well, one that failed, one that waits, one that is held.
KNOWN = ("done", "starred", "failed", "wait", "held")
#: Of which each second request is about one.
_PLACES = ("job_id",)


@schemathesis.hook
def map_path_parameters(context: Any, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    for name in _PLACES:
        if parameters and isinstance(text := parameters.get(name), str):
            number = hashlib.blake2b(text.encode(errors="replace"), digest_size=2).digest()[0]
            if number % 2:
                parameters[name] = KNOWN[number // 2 % len(KNOWN)]
    return parameters
