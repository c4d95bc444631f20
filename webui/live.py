"""What moves, told to the open pages: one small JSON answer with an ETag, which costs the same however many pages are open.

A page asks `GET /api/v1/live` again and again. The spool is looked at for all of them together, at most four times a second, by
one of their threads while the others answer from the look before. An answer holds numbers that a page can show as they are
(progress, places) and versions: when one has changed, the page fetches its own HTML anew, so nothing is drawn twice.

Each answer says after how many milliseconds to ask again (`Poll-After-Ms`, on a 304 too): however many pages there are, they
ask `MOST_A_SECOND` times a second together, so that they cannot slow a submit.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass
from itertools import islice
from typing import Any

from flask import Blueprint, Flask, Response, current_app, request
from pydantic import BaseModel, Field

from spooler.ids import ID
from spooler.schedule import Waiting
from spooler.states import STATUS, Status
from spooler.status import Progress
from webui.office import Office, office
from webui.reports import why_not

blueprint = Blueprint("live", __name__)

#: Seconds for which one look serves everybody.
LOOK_S = 0.25
#: Answers a second that the open pages get together, and the bounds of what each is told to wait, in seconds.
MOST_A_SECOND = 80
LEAST_S, MOST_S = 0.5, 15.0
#: Seconds over which the askers are counted.
COUNTED_S = 1.0
#: Waiting and held jobs whose coming, going and moving change the queue page's version.
SHOWN = 200
MAX_HELD = 10_000


class LiveRun(BaseModel):
    """A job at work: the numbers of its progress."""

    id: str
    fraction_done: float = Field(description="From 0 to 1.")
    ends_in_s: int | None = Field(description="Seconds that it probably still needs; null when unknown.")
    preview: str | None = Field(description="URL of a preview of the picture at work.")
    phase: str
    image: int = Field(0, description="Index of the picture at work.")
    batch: int = 1
    count: int = 1
    step: int = 0
    steps: int = 0
    images: int = Field(description="Pictures that are finished.")


class LiveJob(BaseModel):
    """How the job is that was asked for with `?job=`."""

    status: Status
    version: str = Field(description="Another one when there is more to see than numbers.")
    position: int | None = Field(description="Place in the queue, 1 is next.")


class LiveReport(BaseModel):
    """What moves, for a page that shows it."""

    queue: str = Field(description="Another one whenever the list of running, waiting and held jobs is another.")
    ready: bool = Field(description="Whether a job submitted now would run now.")
    reason: str | None = Field(description="Why not, in a sentence.")
    paused: bool
    waiting: int
    held: int
    running: tuple[LiveRun, ...]
    job: LiveJob | None = Field(None, description="Null when there is no such job; absent unless asked for.")


@dataclass(frozen=True)
class Look:
    """What was seen of the queue at one moment."""

    at: float  # monotonic
    shared: dict[str, Any]  # what every page is told
    waiting: dict[str, int]  # place in the line from 1
    running: dict[str, dict[str, Any]]
    held: frozenset[str]
    paused: bool
    line: list[Waiting]


def install(app: Flask) -> None:
    app.extensions["live"] = Live()
    app.register_blueprint(blueprint)


class Pace:
    """How long the pages are to wait between two questions, from how many there seem to be. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = 0.0
        self._asked = 0
        self.wait_s = LEAST_S

    def next(self, now: float) -> float:
        """Count a question, at monotonic seconds; the seconds to wait for the next."""
        with self._lock:
            self._asked += 1
            if (passed := now - self._began) >= COUNTED_S:
                # Each page asks once in wait_s: so many of them there are. After a silence it is begun anew.
                pages = self._asked / passed * self.wait_s
                self.wait_s = min(MOST_S, max(LEAST_S, pages / MOST_A_SECOND))
                self._began, self._asked = now, 0
            return self.wait_s


class Live:
    """The looks at one spool. Safe for many threads."""

    def __init__(self) -> None:
        self.pace = Pace()
        self._lock = threading.Lock()
        self._look: Look | None = None

    def look(self, desk: Office) -> Look:
        """A look that is at most LOOK_S old, or the one before while somebody else looks."""
        look = self._look
        if look is not None and time.monotonic() - look.at < LOOK_S:
            return look
        if not self._lock.acquire(blocking=look is None):
            return look  # type: ignore[return-value]  # it is only taken without waiting when there is one
        try:
            if self._look is None or time.monotonic() - self._look.at >= LOOK_S:
                self._look = _look(desk, self._look)
            return self._look
        finally:
            self._lock.release()


def _look(desk: Office, before: Look | None) -> Look:
    spool, told = desk.spool, desk.spool.spoolers()
    line = desk.line.jobs(told)
    running = {}
    for place in spool.walk("claimed"):
        progress = spool.read_progress(place)
        left_s = desk.line.left_s(place, told)
        running[place.id] = {
            "id": place.id,
            "fraction_done": round(progress.fraction, 3) if progress else 0.0,
            "ends_in_s": None if left_s is None else round(left_s),
            "preview": desk.reports.url(place.id, "preview") if spool.has_preview(place) else None,
            **(progress or Progress()).model_dump(exclude={"images"}),
            "images": len(progress.images) if progress else 0,
        }
    held = frozenset(place.id for place in islice(spool.walk("held"), MAX_HELD))
    reason = why_not([status for status, lives in told if lives])
    rows = [(each.id, each.priority, each.top > 0) for each in line[:SHOWN]]
    seen = [rows, sorted(held)[:SHOWN], sorted(running), spool.paused, reason]
    version = hashlib.blake2b(repr(seen).encode(), digest_size=8).hexdigest()
    shared = {
        "queue": version,
        "ready": reason is None,
        "reason": reason,
        "paused": spool.paused,
        "waiting": len(line),
        "held": len(held),
        "running": list(running.values()),
    }
    is_same = before is not None and before.line is line  # a long line is put into order less often than it is looked at
    places = before.waiting if before and is_same else {each.id: number for number, each in enumerate(line, 1)}
    return Look(time.monotonic(), shared, places, running, held, spool.paused, line)


def told_of(job_id: str, look: Look, desk: Office) -> dict[str, Any] | None:
    """How the job of a job's page is; None: there is none. Only one that neither runs nor waits is looked for on the disk."""
    if at_work := look.running.get(job_id):
        return {"status": "running", "version": f"running-{at_work['images']}", "position": None}
    if (place := look.waiting.get(job_id)) is not None:
        return {"status": "waiting", "version": "waiting", "position": place}
    if job_id in look.held:
        return {"status": "held", "version": "held", "position": None}
    found = desk.spool.find_by_name(job_id)
    status = STATUS[found.state] if found else None
    return {"status": status, "version": status, "position": None} if status else None


@blueprint.get("/api/v1/live")
def tell() -> Response:
    """What moves: 304 while it is as the caller's ETag says. `?job=<id>` tells of that job too."""
    desk = office()
    live: Live = current_app.extensions["live"]
    wait_s = live.pace.next(time.monotonic())
    look = live.look(desk)
    body = look.shared
    job_id = request.args.get("job")
    if job_id is not None:
        body = {**body, "job": told_of(job_id, look, desk) if ID.fullmatch(job_id) else None}
    raw = json.dumps(body, separators=(",", ":"))
    etag = hashlib.blake2b(raw.encode(), digest_size=12).hexdigest()
    if request.headers.get("If-None-Match", "").strip('W/"') == etag:
        response = Response(status=304)
    else:
        response = Response(raw, mimetype="application/json")
    response.set_etag(etag)
    response.headers["Cache-Control"] = "no-cache"
    response.headers["Poll-After-Ms"] = str(round(wait_s * 1000))
    return response
