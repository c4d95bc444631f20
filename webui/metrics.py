"""/metrics: how the server is, in the text that Prometheus reads.

What a scrape reads does not grow with the jobs that ended: the line that is kept in memory, the names in held/ and claimed/,
three rows of the index, two small files of each spooler. No label has an owner, a job or a prompt: they would be without
number. Whoever is let in may read it; docs/operations.md has the settings of Prometheus, and what each figure is good for.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence

from flask import Blueprint, Flask, Response, current_app, g, request
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from spooler.states import ENDS, STATUS
from spooler.status import SpoolerStatus
from spooler.tally import Spread, Tally
from webui.errors import shape
from webui.meter import Meter, meter
from webui.office import Office

blueprint = Blueprint("metrics", __name__)

#: Routes that are asked for by programs that look whether the server is well.
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
#: Most names that are counted in a folder.
MOST = 100_000


def install(app: Flask) -> None:
    made = Meter()
    made.registry.register(Truth(app.extensions["office"]))
    app.extensions["meter"] = made
    app.register_blueprint(blueprint)
    app.after_request(_count)


@blueprint.get("/metrics")
def metrics() -> Response:
    """The figures, as the text format or as OpenMetrics, whichever the caller prefers."""
    encode, kind = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(meter().registry), headers={"Content-Type": kind, "Cache-Control": "no-store"})


def _count(response: Response) -> Response:
    made: Meter = current_app.extensions["meter"]
    made.answered(_route(), response.status_code).inc()
    if accepted := g.get("accepted"):
        made.submitted.labels(shape()).inc(accepted)
    if g.get("wrong_key"):
        made.wrong_keys.inc()
    return response


def _route() -> str:
    if request.path in PROBES:
        return "probe"
    return "static" if request.endpoint == "static" else shape()


class Truth(Collector):
    """What the spool holds and its spoolers told, read anew for each scrape."""

    def __init__(self, desk: Office):
        self._desk = desk

    def collect(self) -> Iterator[Metric]:
        spool = self._desk.spool
        # One of each name, a living one before a copy of its folder: one series twice, and Prometheus takes none of them. Only
        # names that a folder has, for what a file says of itself may be a path.
        there = {folder.name for folder in spool.spooler_folders()}
        by_name = {each[0].spooler: each for each in sorted(spool.spoolers(), key=lambda pair: pair[1])}
        told = [each for name, each in by_name.items() if name in there]
        yield from self._spool(told)
        yield from _spoolers(told)
        yield from _tallies([(status.spooler, spool.tally(status.spooler)) for status, _ in told])

    def _spool(self, told: list[tuple[SpoolerStatus, bool]]) -> Iterator[Metric]:
        desk, spool = self._desk, self._desk.spool
        jobs = GaugeMetricFamily("sdspool_jobs", "Jobs, by their status.", labels=["status"])
        jobs.add_metric(["waiting"], len(desk.line))
        jobs.add_metric(["held"], _number(spool.walk("held")))
        jobs.add_metric(["running"], _number(spool.walk("claimed")))
        try:
            for state, number in desk.index.counts().items():
                jobs.add_metric([STATUS[state]], number)
        except sqlite3.Error:  # there is no index yet: then the series are not there, and no zero says what is not so
            pass
        yield jobs
        ready = desk.reports.ready().ready and desk.closed() is None
        yield _gauge("sdspool_ready", "Whether a job submitted now would run now, as /readyz has it.", ready)
        work = GaugeMetricFamily("sdspool_queue_seconds", "What all that waits and runs would take one engine.")
        if (work_s := desk.line.work_s(told)) is not None:
            work.add_metric([], work_s)
        yield work
        yield _gauge("sdspool_paused", "Whether the queue is paused.", spool.paused)
        space = shutil.disk_usage(spool.root)
        yield _gauge("sdspool_disk_free_bytes", "What the spool's file system has left.", space.free)
        yield _gauge("sdspool_disk_size_bytes", "Size of the spool's file system.", space.total)
        floor = int(desk.settings.floor_mib * (1 << 20))
        yield _gauge("sdspool_disk_floor_bytes", "What must be free for a job to be accepted or begun.", floor)


def _spoolers(told: Sequence[tuple[SpoolerStatus, bool]]) -> Iterator[Metric]:
    """What each spooler last told of itself and of its engine; of a dead one only that it is dead, and what it was."""
    up = _family("sdspool_spooler_up", "Whether the spooler lives, by its lock, which dies with it.")
    ready = _family("sdspool_spooler_ready", "Whether its engine is warm and may be given a job.")
    info = InfoMetricFamily("sdspool_engine", "What the engine draws with.", labels=["spooler", "engine"])
    working = _family("sdspool_engine_ready", "Whether the engine is warm.", "engine")
    peak = _family(
        "sdspool_engine_peak_memory_bytes", "Most memory in use in its last job: of the GPU, else of the process.", "engine"
    )
    load = _family("sdspool_engine_load_seconds", "Seconds that it took to load the model that ran last.", "engine")
    swaps = _family("sdspool_engine_model_swaps", "Models that this engine loaded since its start, after the first.", "engine")
    at_work = _family("sdspool_engine_running_jobs", "Jobs that this engine or worker has now.", "engine")
    running = _family("sdspool_spooler_running_jobs", "Jobs on its devices now.")
    for status, alive in told:
        name = [status.spooler]
        up.add_metric(name, alive)
        ready.add_metric(name, alive and status.takes_jobs)
        running.add_metric(name, len(status.running) if alive else 0)
        for number, lane in enumerate(status.engines if alive else ()):
            of, engine = [*name, lane.name or str(number)], lane.engine
            at_work.add_metric(of, len(lane.running))
            working.add_metric(of, lane.state == "ready")
            if not engine:
                continue
            facts = {field: str(getattr(engine, field)) for field in ("model", "family", "device", "device_name", "precision")}
            info.add_metric(of, facts)
            load.add_metric(of, engine.load_seconds)
            swaps.add_metric(of, engine.swaps)
            if engine.peak_bytes is not None:
                peak.add_metric(of, engine.peak_bytes)
    yield from (up, ready, running, info, working, at_work, peak, load, swaps)


def _tallies(tallies: Iterable[tuple[str, Tally]]) -> Iterator[Metric]:
    """What each spooler counted, dead or alive, so that nothing goes down when one ends."""
    ended = _counter("sdspool_jobs_ended", "Jobs that ended, by status.", "status")
    failures = _counter("sdspool_jobs_failed", "Jobs that failed, by the code of the reason.", "code")
    attempts = _counter("sdspool_attempts", "Attempts at jobs, each time that the engine was given one.")
    broken = _counter("sdspool_attempts_broken", "Attempts after which the job is tried again: the engine died, or no room.")
    rejected = _counter("sdspool_files_rejected", "Dropped files that were no valid job.")
    pictures = _counter("sdspool_pictures", "Pictures of the jobs that were done.")
    batch = _family("sdspool_batch_pictures", "Most pictures that were drawn together in the job that was done last.")
    waited = _histogram("sdspool_job_wait_seconds", "Seconds from a job's submission, or its retry, to its first attempt.")
    ran = _histogram("sdspool_job_run_seconds", "Seconds from the start of the last attempt to the end of a job that was done.")
    for name, tally in tallies:
        for end in ENDS:
            ended.add_metric([name, STATUS[end]], tally.ended.get(end, 0))
        for code, number in tally.failures.items():
            failures.add_metric([name, code], number)
        attempts.add_metric([name], tally.attempts)
        broken.add_metric([name], tally.broken)
        rejected.add_metric([name], tally.rejected)
        pictures.add_metric([name], tally.pictures)
        if tally.batch:
            batch.add_metric([name], tally.batch)
        waited.add_metric([name], buckets(tally.waited), tally.waited.sum)
        ran.add_metric([name], buckets(tally.ran), tally.ran.sum)
    yield from (ended, failures, attempts, broken, rejected, pictures, batch, waited, ran)


def buckets(spread: Spread) -> list[tuple[str, float]]:
    """The counts as Prometheus has them: each bucket holds all that are not longer than its bound."""
    found: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*map(str, spread.bounds), "+Inf"), spread.counts, strict=True):
        total += count
        found.append((bound, total))
    return found


def _gauge(name: str, sentence: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, sentence, value=value)


def _family(name: str, sentence: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, sentence, labels=["spooler", *labels])


def _counter(name: str, sentence: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, sentence, labels=["spooler", *labels])


def _histogram(name: str, sentence: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, sentence, labels=["spooler"])


def _number(things: Iterable[object]) -> int:
    return sum(1 for _ in zip(things, range(MOST), strict=False))
