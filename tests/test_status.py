"""The last day in numbers, the plots made of them, and the page that shows both."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from test_pages import finish, spool, text

from spooler import reader
from spooler.record import utc_now
from spooler.spool import Spool
from webui import plots
from webui.day import PIECES, day, spread
from webui.store import Outcome

__all__ = ["spool"]

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000


def ended(ago_ms: int, state: str = "done", pictures: int = 1, waited: float | None = 2.0, seconds: float = 5.0) -> Outcome:
    return Outcome(NOW_MS - ago_ms, state, pictures, waited, seconds, "engine_error" if state == "failed" else "")  # type: ignore[arg-type]


def test_a_day_is_counted_by_half_hours() -> None:
    told = day(
        [
            ended(0, pictures=4),
            ended(-5000),  # of a host whose clock is ahead
            ended(HOUR_MS - 1, "failed"),
            ended(23 * HOUR_MS, "cancelled", waited=None),
            ended(24 * HOUR_MS),  # yesterday's
        ],
        NOW_MS,
    )
    assert (told.pictures, told.pictures_last_hour, told.done, told.failed, told.cancelled) == (5, 5, 2, 1, 1)
    assert len(told.pieces) == PIECES and told.pieces[-1].done == 2 and told.pieces[-2].failed == 1 and told.pieces[1].cancelled
    assert told.failures == {"engine_error": 1} and told.waited and told.waited.count == 3 and told.ran and told.ran.p50_s == 5


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert spread([]) is None
    found = spread([float(n) for n in range(1, 101)])
    assert found and (found.p50_s, found.p95_s, found.count) == (50, 95, 100)
    assert (one := spread([3.0])) and one.p50_s == one.p95_s == 3


@pytest.mark.parametrize(
    ("values", "end"), [([], 1), ([None], 1), ([0.2], 1), ([1], 1), ([3], 5), ([7], 10), ([50], 50), ([51], 100)]
)
def test_an_axis_ends_at_a_round_number(values: list[float | None], end: float) -> None:
    assert plots.top(values) == end


def test_a_plot_is_one_picture_with_a_title_and_nothing_in_it_is_markup_of_a_stranger() -> None:
    drawn = plots.bars("x", "<script>alert(1)</script>", (("s1", [1, 0, 2]), ("s2", [1, 0, 0])), 4)
    svg = ET.fromstring(drawn)  # noqa: S314 - our own
    assert (
        svg.get("role") == "img"
        and svg[0].text == "<script>alert(1)</script>"
        and svg.get("aria-labelledby") == svg[0].get("id")
    )
    bars = [each for each in svg if each.tag == "rect"]
    assert [float(each.get("height", "")) for each in bars] == [25, 25, 50] and float(bars[1].get("y", "")) == 50


def test_a_line_has_gaps_where_nothing_was() -> None:
    svg = ET.fromstring(plots.lines("x", "t", (("s1", [1, 2, None, 4]),), 4))  # noqa: S314 - our own
    paths = [each.get("d", "") for each in svg if each.get("class") == "s1"]
    assert len(paths) == 2 and paths[0] == "M0.50 75.00L1.50 50.00" and "L" in paths[1]


def test_the_page_and_the_json_tell_the_same(app: Flask, client: FlaskClient, spool: Spool) -> None:
    for name, state in (("one", "done"), ("two", "failed")):
        spool.submit(b'{"prompt": "x"}', name)
        finish(spool, name, state)
    answer = client.get("/api/v1/status")
    told = answer.json
    assert told and told["day"]["done"] == 1 and told["day"]["failures"] == {"engine_error": 1} and told["disk"]["free"] > 0
    assert told["spoolers"][0]["name"] == "me" and not told["spoolers"][0]["alive"] and told["queue"]["waiting"] == 0
    page = text(client, "/status")
    assert "The engine failed" in page and page.count('class="plot"') == 4 and "<table" in page and "style=" not in page


def test_a_status_without_any_job_or_spooler_is_a_page_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    from spooler.settings import Settings
    from webui.app import create_app

    folder = tmp_path_factory.mktemp("empty")
    page = text(create_app(Settings(spool=folder / "spool", cache=folder / "cache")).test_client(), "/status")
    assert "None has ever worked on this spool." in page and "None in the last 24 hours." in page


ENGINE = {
    "model": "m", "hash": "", "family": "sd1", "device": "cpu", "device_name": "", "precision": "", "versions": {},
    "load_seconds": 1,
}  # fmt: skip
HUGE = 10**400


@pytest.mark.parametrize(
    "wrong",
    [
        {"started": "yesterday"},
        {"waiting": HUGE},
        {"engine": {**ENGINE, "load_seconds": HUGE}},
        {"engine": {**ENGINE, "peak_bytes": HUGE}},
        {"engine": {**ENGINE, "swaps": HUGE}},
    ],
)
def test_p5_a_note_that_cannot_be_reckoned_with_is_none(client: FlaskClient, spool: Spool, wrong: dict[str, Any]) -> None:
    now = utc_now()
    note = {"spooler": "me", "host": "h", "started": now, "beat": now, "state": "ready", **wrong}
    (spool.claimed / "me" / "spooler.json").write_text(json.dumps(note))
    for path in ("/", "/status", "/metrics", "/api/v1/status", "/api/v1/live", "/readyz"):
        assert client.get(path).status_code in (200, 503), path


@pytest.mark.parametrize("kind", ["FIFO", "folder", "link", "huge"])
@pytest.mark.parametrize("name", ["spooler.json", "progress.json"])
def test_p5_a_note_that_is_no_small_file_is_none_and_holds_nobody(
    client: FlaskClient, spool: Spool, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_RECORD_BYTES", 1 << 16)
    spool.submit(b'{"prompt": "x"}', "one")
    place = spool.claim("one.json", "me")
    assert place
    note = place.path / name if name == "progress.json" else spool.claimed / "me" / name
    note.unlink(missing_ok=True)
    match kind:
        case "FIFO":
            os.mkfifo(note)
        case "folder":
            note.mkdir()
        case "link":
            note.symlink_to("/dev/zero")
        case _:
            note.write_bytes(b'{"spooler": "me", "x": "' + bytes(1 << 17))
    for path in ("/", "/status", "/metrics", "/api/v1/status", "/api/v1/live", "/api/v1/jobs/one", "/readyz"):
        assert client.get(path).status_code in (200, 503), path
    assert spool.read_progress(place) is None


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"count": -1}, {"steps": HUGE, "step": HUGE}, {"image": HUGE}, {"batch": HUGE}, {"step": -1}]
)
def test_p5_a_progress_that_cannot_be_reckoned_with_is_none(client: FlaskClient, spool: Spool, wrong: dict[str, Any]) -> None:
    spool.submit(b'{"prompt": "x"}', "one")
    place = spool.claim("one.json", "me")
    assert place
    (place.path / "progress.json").write_text(json.dumps({"image": 0, **wrong}))
    for path in ("/", "/queue", "/jobs/one", "/api/v1/live", "/api/v1/jobs", "/sdapi/v1/progress"):
        assert client.get(path).status_code == 200, path
    assert spool.read_progress(place) is None
