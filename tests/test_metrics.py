"""/metrics and /readyz: what Prometheus and a load balancer are told, of a real spool and a real spooler."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import SLEEPER, drop, spooler, wait_for, wait_state
from people import bearer
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from test_api import Web

from spooler.place import Place
from spooler.record import Failure, Image, Record, utc_now
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.status import SpoolerStatus
from spooler.tally import BOUNDS, MAX_CODES, TALLY, Spread, Tally
from webui.app import create_app
from webui.keys import KeyFile
from webui.metrics import buckets

#: Every family and its type: who watches them must hear of a change.
FAMILIES = {
    **dict.fromkeys(("sdspool_http_requests", "sdspool_jobs_submitted", "sdspool_wrong_keys"), "counter"),
    **dict.fromkeys(("sdspool_jobs_ended", "sdspool_jobs_failed", "sdspool_attempts", "sdspool_attempts_broken"), "counter"),
    **dict.fromkeys(("sdspool_files_rejected", "sdspool_pictures", "process_cpu_seconds"), "counter"),
    **dict.fromkeys(("sdspool_job_wait_seconds", "sdspool_job_run_seconds"), "histogram"),
    **dict.fromkeys(("sdspool_jobs", "sdspool_ready", "sdspool_paused", "sdspool_spooler_up"), "gauge"),
    **dict.fromkeys(("sdspool_disk_free_bytes", "sdspool_disk_size_bytes", "sdspool_disk_floor_bytes"), "gauge"),
    **dict.fromkeys(("sdspool_spooler_ready", "sdspool_spooler_running_jobs", "sdspool_engine_info"), "gauge"),
    **dict.fromkeys(("sdspool_engine_ready", "sdspool_engine_running_jobs", "sdspool_queue_seconds"), "gauge"),
    **dict.fromkeys(("sdspool_engine_peak_memory_bytes", "sdspool_engine_load_seconds"), "gauge"),
    **dict.fromkeys(("sdspool_engine_model_swaps", "sdspool_batch_pictures", "process_start_time_seconds"), "gauge"),
    **dict.fromkeys(("process_virtual_memory_bytes", "process_resident_memory_bytes"), "gauge"),
    **dict.fromkeys(("process_open_fds", "process_max_fds"), "gauge"),
}
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
SMALL = {"prompt": "a small red circle", "steps": 2, "width": 64, "height": 64}


def read(text: str) -> tuple[dict[str, str], Series]:
    """The families with their types, each of which must have a sentence, and the value of each series."""
    types: dict[str, str] = {}
    series: Series = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation.endswith("."), family.name
        assert family.name not in types
        types[family.name] = family.type
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in series
            series[key] = sample.value
    return types, series


def value(series: Series, name: str, **labels: str) -> float | None:
    return series.get((name, tuple(sorted(labels.items()))))


@pytest.fixture
def web(spool: Spool) -> Iterator[Web]:
    made = Web(spool)
    yield made
    made.stop()


def scrape(web: Web) -> tuple[dict[str, str], Series]:
    with urllib.request.urlopen(f"http://127.0.0.1:{web.port}/metrics", timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        return read(answer.read().decode())


def ready(web: Web) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{web.port}/readyz", timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_scrape_tells_of_real_jobs_and_no_counter_goes_down(web: Web, spool: Spool) -> None:
    types, before = scrape(web)
    assert types == FAMILIES
    assert value(before, "sdspool_ready") == 0 == value(before, "sdspool_jobs", status="waiting")
    assert ready(web) == 503
    with spooler(spool, name="gpu") as running:
        assert ready(web) == 200
        (spool.root / "PAUSE").touch()
        assert web.request("/api/v1/jobs", SMALL | {"count": 2, "id": "drawn"})[0] == 201
        wait_for(lambda: value(scrape(web)[1], "sdspool_jobs", status="waiting") == 1, "the job to be counted")
        wait_for(lambda: value(scrape(web)[1], "sdspool_paused") == 1 and ready(web) == 503, "the pause")
        assert value(scrape(web)[1], "sdspool_jobs_ended_total", spooler="gpu", status="done") in (None, 0)
        (spool.root / "PAUSE").unlink()
        assert web.request("/api/v1/jobs", SMALL | {"expires_at": "2020-01-01T00:00:00Z", "id": "late"})[0] == 201
        drop(spool, "bad.json", {"prompt": "x", "steps": "many"})
        wait_state(spool, "drawn", "done")
        wait_state(spool, "late", "failed")

        def all_told() -> Series | None:
            _, now = scrape(web)
            counted = (
                value(now, "sdspool_jobs", status="done"),
                value(now, "sdspool_jobs", status="failed"),  # of the index, which is a moment behind
                value(now, "sdspool_jobs_ended_total", spooler="gpu", status="done"),
                value(now, "sdspool_jobs_failed_total", spooler="gpu", code="condition"),
                value(now, "sdspool_files_rejected_total", spooler="gpu"),
            )
            return now if counted == (1, 1, 1, 1, 1) else None

        after = wait_for(all_told, "the ends to be counted")
        assert value(after, "sdspool_pictures_total", spooler="gpu") == 2
        assert value(after, "sdspool_jobs", status="failed") == 1
        assert value(after, "sdspool_jobs_submitted_total", door="own") == 2
        assert value(after, "sdspool_spooler_up", spooler="gpu") == 1 == value(after, "sdspool_ready")
        assert value(after, "sdspool_job_wait_seconds_count", spooler="gpu") == 1
        assert value(after, "sdspool_job_run_seconds_bucket", spooler="gpu", le="+Inf") == 1
        assert (value(after, "sdspool_job_run_seconds_sum", spooler="gpu") or 0) > 0
        assert (value(after, "sdspool_engine_peak_memory_bytes", spooler="gpu", engine="0") or 0) > 0
        assert value(after, "sdspool_batch_pictures", spooler="gpu") == 2
        assert value(before, "sdspool_queue_seconds") is None and value(after, "sdspool_queue_seconds") == 0
        assert (value(after, "sdspool_http_requests_total", route="probe", status="200") or 0) >= 4
        _no_less(before, after)
        running.stop()
    _, dead = scrape(web)
    assert value(dead, "sdspool_spooler_up", spooler="gpu") == 0 == value(dead, "sdspool_ready")
    _no_less(after, dead)
    with spooler(spool, name="gpu", program=SLEEPER):  # what it counted goes on where it was
        assert web.request("/api/v1/jobs", SMALL | {"id": "again"})[0] == 201
        wait_state(spool, "again", "done")
        wait_for(
            lambda: value(scrape(web)[1], "sdspool_jobs_ended_total", spooler="gpu", status="done") == 2, "the count to go on"
        )
        _no_less(dead, scrape(web)[1])


def _no_less(before: Series, after: Series) -> None:
    for (name, labels), number in before.items():
        if name.endswith(("_total", "_count", "_sum", "_bucket")):
            assert after[(name, labels)] >= number, (name, labels)


def test_who_is_let_in_may_read_it_and_nobody_else(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys")
    secret = keys.add("prometheus")
    app = create_app(Settings(spool=tmp_path / "spool", cache=tmp_path / "cache", keys=tmp_path / "keys"))
    client = app.test_client()
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers=bearer("wrong-key-0123456789")).status_code == 401
    assert client.post("/metrics", headers=bearer(secret)).status_code in (403, 405)
    answer = client.get("/metrics", headers=bearer(secret))
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"
    assert value(read(answer.text)[1], "sdspool_wrong_keys_total") == 1
    modern = client.get("/metrics", headers=bearer(secret) | {"Accept": "application/openmetrics-text; version=1.0.0"})
    assert {family.name for family in openmetrics.text_string_to_metric_families(modern.text)} >= {"sdspool_jobs"}
    assert client.get("/healthz").status_code == 200 and client.get("/readyz").status_code == 503


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"[]", b'{"ended": {"done": -1}}', b'{"waited": {"bounds": [2, 1]}}', b'{"attempts": 1e999}',
        b'{"attempts": 1%s}' % (b"0" * 400), b'{"failures": {"x": 1%s}}' % (b"0" * 400),
    ],
)  # fmt: skip
def test_p5_a_file_that_is_no_tally_stops_neither_the_scrape_nor_the_spooler(spool: Spool, tmp_path: Path, raw: bytes) -> None:
    hostile = 'gpu"} 1\nsdspool_forged 1\n'
    for name in (hostile, "copy"):
        (spool.claimed / name).mkdir()
    (spool.claimed / "me" / TALLY).write_bytes(raw)
    for folder, name in (("me", "me"), ("copy", "me"), (hostile, hostile)):
        status = SpoolerStatus(spooler=name, host=hostile, started=utc_now(), beat=utc_now(), state="ready")
        (spool.claimed / folder / "spooler.json").write_bytes(status.model_dump_json().encode())
    assert spool.tally("me") == Tally()
    client = create_app(Settings(spool=spool.root, cache=tmp_path / "cache")).test_client()
    answer = client.get("/metrics")
    assert answer.status_code == 200
    _, series = read(answer.text)
    assert value(series, "sdspool_spooler_up", spooler=hostile) == 0 == value(series, "sdspool_spooler_up", spooler="me")
    assert not [name for name, _ in series if "forged" in name]


def test_readyz_is_shut_when_the_queue_is_full_or_the_disk_is(spool: Spool, tmp_path: Path) -> None:
    status = SpoolerStatus(spooler="me", host="x", started=utc_now(), beat=utc_now(), state="ready")
    spool.write_status(status)
    with spool.life_lock("me"):
        for options, part in (({"max_waiting": 1}, "may wait"), ({"floor_mib": 9e8}, "MiB free"), ({}, None)):
            app = create_app(Settings(spool=spool.root, cache=tmp_path / "cache", **options))  # type: ignore[arg-type]
            client = app.test_client()
            client.post("/api/v1/jobs", json={"prompt": "x"})
            app.extensions["office"].reports.waiting()
            answer = client.get("/readyz")
            assert answer.status_code == (503 if part else 200), options
            assert (part or "") in ((answer.json or {})["reason"] or "")
        spool.write_status(status.model_copy(update={"reason": "The disk was full."}))
        answer = client.get("/readyz")
        assert answer.status_code == 503 and (answer.json or {})["reason"] == "The disk was full."


def test_the_tally_is_a_sum() -> None:
    spread = Spread()
    for seconds in (0.0, 0.5, 0.6, 1e9):
        spread = spread.add(seconds)
    assert spread.counts[:2] == (2, 1) and spread.counts[-1] == 1 and sum(spread.counts) == 4
    told = buckets(spread)
    assert [bound for bound, _ in told] == [*map(str, BOUNDS), "+Inf"]
    assert [number for _, number in told] == sorted(number for _, number in told) and told[-1][1] == 4

    tally, record = Tally(), Record(id="x", images=(Image(file="0.png", seed=1, width=8, height=8),) * 3)
    for number in range(MAX_CODES + 10):
        failure = Failure(code=f"code{number}", reason="x")
        tally = tally.with_end(record.model_copy(update={"failure": failure}), "failed")
    assert len(tally.failures) == MAX_CODES + 1 and tally.failures["other"] == 10
    tally = tally.with_end(record, "done", batch=2).with_end(record, "cancelled").with_rejected(3).with_broken()
    assert (tally.pictures, tally.batch, tally.rejected, tally.broken) == (3, 2, 3, 1)
    assert tally.ended == {"failed": MAX_CODES + 10, "done": 1, "cancelled": 1}
    assert Tally.model_validate_json(tally.model_dump_json()) == tally


def test_what_a_scrape_reads_does_not_grow_with_the_finished_jobs(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(Settings(spool=spool.root, cache=tmp_path / "cache"))
    client = app.test_client()
    index = app.extensions["office"].index

    def read_files() -> int:
        opened: list[str] = []
        kept = Place.job_file.fget
        assert kept
        monkeypatch.setattr(Place, "job_file", property(lambda self: opened.append(self.id) or kept(self)))
        assert client.get("/metrics").status_code == 200
        monkeypatch.undo()
        return len(opened)

    for number in range(40):
        spool.submit(b'{"prompt": "x"}', f"job{number}")
        place = spool.claim(f"job{number}.json", "me")
        assert place and spool.publish(place, Record(id=place.id).finish((), Record(id="x").timings), "done")
    while not index.refresh(1.0):
        pass
    assert read_files() == 0
    assert value(read(client.get("/metrics").text)[1], "sdspool_jobs", status="done") == 40
