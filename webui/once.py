"""A request that may come twice makes one job: its Idempotency-Key is hashed into the job's id."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from flask import request

from spooler.job import Job
from spooler.mistakes import JobError, Mistake, show
from spooler.spool import TakenError
from webui.office import office
from webui.people import person


def key_id(what: str = "") -> str | None:
    """The id that this request's key stands for; None without a key. One person's key is nobody else's."""
    key = request.headers.get("Idempotency-Key")
    if not key:
        return None
    whose = person().name
    return "key-" + hashlib.sha256(f"{what}{whose}\n{key}".encode() if what or whose else key.encode()).hexdigest()[:40]


def accept(job: Job, wanted_id: str | None = None, inputs: Mapping[str, bytes] | None = None) -> tuple[str, bool]:
    """The job's id, and whether it is new: False when this request's key made it before. Raises as `Office.accept`."""
    keyed = key_id()
    if keyed and wanted_id:
        rule = "`id` must not be given beside an Idempotency-Key, of which the job's id is made"
        raise JobError(Mistake("id", f"{rule}, but is {show(wanted_id)}."))
    if keyed and office().spool.find(keyed):
        return keyed, False
    try:
        return office().accept(job, keyed or wanted_id, inputs), True
    except TakenError:
        # RACE: another request with the same key was faster, which is what the key is for.
        if keyed and office().spool.find(keyed):
            return keyed, False
        raise
