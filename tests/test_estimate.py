"""When a waiting job is thought to start: from measured speeds, what runs now, and whether anything starts at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from house import drop

from spooler import estimate
from spooler.record import utc_now
from spooler.spool import Spool
from spooler.status import Progress, SpoolerStatus
from webui.line import Line

JOB = {"prompt": "x", "steps": 10, "width": 1000, "height": 1000}  # ten megapixel-steps


def test_the_job_that_warmed_the_engine_up_is_soon_forgotten() -> None:
    speeds = estimate.learn({}, "m", 300.0, 1.0)
    assert estimate.learn(speeds, "m", 2.0, 1.0) == {"m": 2.0}
    assert estimate.learn({"m": 2.0}, "m", 3.0, 1.0) == {"m": pytest.approx(2.3)}


def test_what_runs_is_waited_for_and_a_paused_queue_starts_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.create()
    (spool.claimed / "me").mkdir()
    for name in ("a", "b", "c"):
        drop(spool, f"{name}.json", JOB)
    place = spool.claim("a.json", "me")
    assert place
    progress = Progress(phase="denoise", step=5, steps=10)
    (place.path / "progress.json").write_text(progress.model_dump_json())
    now = utc_now()
    status = SpoolerStatus(spooler="me", host="h", started=now, beat=now, state="ready", speeds={"m": 2.0})
    line, told = Line(spool), [(status, True)]
    left_s = 20.0 * (1 - progress.fraction)
    assert 0 < left_s < 20
    assert line.standing("b", told).starts_in_s == pytest.approx(left_s)
    assert line.standing("c", told).starts_in_s == pytest.approx(left_s + 20.0)
    spool.pause()
    assert line.standing("b", told).starts_in_s is None and line.standing("b", told).position == 1
