"""How the server is: its spoolers and their engines, the disk, the queue, and the last day. A page, and the same as JSON."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from typing import Any, Literal

from flask import Blueprint, Flask, Response, current_app, render_template, request
from pydantic import BaseModel, ConfigDict, Field

from spooler.record import EngineFacts
from spooler.status import SpoolerStatus
from webui import plots
from webui.day import DAY_S, Day, Piece, Spread, day
from webui.frame import around
from webui.office import Office, office

blueprint = Blueprint("status", __name__)

#: Jobs of the last day that are counted.
MOST = 50_000
#: Seconds for which one count serves everybody.
KEPT_S = 5.0


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Warm(_Told):
    """What a warm engine tells of itself; nothing before it is warm."""

    device_name: str | None
    model: str | None
    precision: str | None
    memory: str | None = Field(description="How the model is kept: whole on the device, or in parts.")
    peak_bytes: int | None = Field(description="Most memory in use during its last job: of the GPU, else of the process.")
    load_seconds: float | None
    swaps: int | None = Field(description="Models loaded since its start, after the first.")


class EngineReport(_Warm):
    """One engine of a spooler, on a device of its own, or a worker elsewhere."""

    name: str = Field(description="The worker's; an engine of the spooler's own has none.")
    device: str
    state: str = Field(description="starting, ready or failing.")
    reason: str | None
    running: tuple[str, ...] = Field(description="Ids of the jobs on its device.")


class SpoolerReport(_Warm):
    """A spooler, and the engines that it has; what is told of one of them is of the first that works."""

    name: str
    host: str
    alive: bool = Field(description="By its lock, which dies with it.")
    state: str
    reason: str | None
    paused: bool
    started: str = Field(description="UTC, ISO 8601.")
    beat: str = Field(description="When it last told of itself.")
    running: tuple[str, ...] = Field(description="Ids of the jobs on the device: those that are drawn together.")
    device: str | None
    engines: tuple[EngineReport, ...] = Field(description="Each of them: one, one for each device, or each worker elsewhere.")


class QueueDepth(_Told):
    """How much there is to do."""

    paused: bool
    waiting: int
    held: int
    running: int
    lying: tuple[str, ...] = Field(description="Names of entries of pending/ that nobody will take, the first few.")
    last_starts_in_s: float | None = Field(description="Seconds until the last of the line is thought to start.")


class Disk(_Told):
    """The spool's file system, and what the ended jobs take of it. Bytes."""

    total: int
    free: int
    floor: int = Field(description="Below it nothing is begun and nothing accepted.")
    jobs: dict[str, int] = Field(description="Of the files of all ended jobs, by state; empty while there is no index.")


class StatusReport(_Told):
    """How the server is."""

    ready: bool
    reason: str | None = Field(description="Why a job would not run now, in a sentence.")
    spoolers: tuple[SpoolerReport, ...]
    queue: QueueDepth
    disk: Disk
    day: Day


class Counts:
    """The last day, counted at most every few seconds. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[float, Day] | None = None

    def day(self, desk: Office) -> Day:
        with self._lock:
            if self._kept is None or time.monotonic() - self._kept[0] > KEPT_S:
                now_ms = int(time.time() * 1000)
                ended = desk.index.since(now_ms - int(DAY_S * 1000), MOST + 1)
                self._kept = (time.monotonic(), day(ended[:MOST], now_ms, is_whole=len(ended) <= MOST))
            return self._kept[1]


def install(app: Flask) -> None:
    app.extensions["counts"] = Counts()
    app.register_blueprint(blueprint)


def report() -> StatusReport:
    desk = office()
    spool, told = desk.spool, desk.spool.spoolers()
    ready = desk.reports.ready()
    space = shutil.disk_usage(spool.root)
    desk.index.glance()
    counts: Counts = current_app.extensions["counts"]
    return StatusReport(
        ready=ready.ready,
        reason=ready.reason,
        spoolers=tuple(_spooler(status, alive) for status, alive in sorted(told, key=lambda pair: not pair[1])),
        queue=QueueDepth(
            paused=spool.paused,
            waiting=len(desk.line.jobs(told)),
            held=sum(1 for _ in spool.walk("held")),
            running=sum(1 for _ in spool.walk("claimed")),
            lying=desk.reports.lying(),
            last_starts_in_s=desk.line.last_start_s(told),
        ),
        disk=Disk(total=space.total, free=space.free, floor=int(desk.settings.floor_mib * (1 << 20)), jobs=_sizes(desk)),
        day=counts.day(desk),
    )


def _sizes(desk: Office) -> dict[str, int]:
    try:
        return {str(state): size for state, size in desk.index.sizes().items()}
    except sqlite3.Error:
        return {}


def _spooler(status: SpoolerStatus, alive: bool) -> SpoolerReport:
    names = ("host", "state", "reason", "paused", "started", "beat", "running")
    told: dict[str, Any] = {name: getattr(status, name) for name in names}
    engines = tuple(
        EngineReport(
            name=each.name,
            device=each.device,
            state=each.state,
            reason=each.reason,
            running=each.running,
            **_facts(each.engine),
        )
        for each in status.engines
    )
    device = status.engine.device if status.engine else None
    return SpoolerReport(name=status.spooler, alive=alive, device=device, engines=engines, **told, **_facts(status.engine))


def _facts(engine: EngineFacts | None) -> dict[str, Any]:
    return {name: getattr(engine, name, None) for name in _Warm.model_fields}


@blueprint.get("/api/v1/status")
def tell() -> Response:
    """How the server is; 304 when it is as the caller's ETag says."""
    response = Response(report().model_dump_json(), mimetype="application/json")
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    response.make_conditional(request)
    return response


@blueprint.app_template_filter("ended")
def ended(piece: Piece) -> int:
    """The jobs that ended in that half hour."""
    return piece.done + piece.failed + piece.cancelled


@blueprint.app_template_filter("spread")
def spread(piece: Piece, field: Literal["waited", "ran"], part: Literal["p50_s", "p95_s"]) -> float | None:
    """One number of a half hour's spread, for a plot; None where there is nothing."""
    found: Spread | None = getattr(piece, field)
    return None if found is None else float(getattr(found, part))


@blueprint.get("/status")
def page() -> str:
    return render_template("status.html", told=report(), plots=plots, **around())
