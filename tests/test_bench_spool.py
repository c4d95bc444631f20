"""The benchmark of the spool runs whole, with tiny numbers: each part has figures or a reason. Nothing is timed."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from bench import peers, spool

TINY = spool.Scale(
    submit_blocks=1, claim_blocks=1, claim_block=3, waiting=30, depths=(10, 40), depth_blocks=1, drops=3, traced=3
)


def test_each_part_has_figures_or_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "QUICK", TINY)
    monkeypatch.setattr(spool, "calls", lambda folder, name, scale: "not counted")  # that takes twenty processes
    out = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["spool.py", "--quick", f"--json={out}", f"--scratch={tmp_path}"])
    assert spool.main() in (0, 1)  # on a machine with other work to do a target may be missed
    told = json.loads(out.read_bytes())
    assert {"date", "commit", "machine"} <= set(told["head"])
    assert {row["group"] for row in told["rows"]} == {"submits", "claims", "depths", "start", "latency"}
    for row in told["rows"]:
        assert row["reason"] or (math.isfinite(row["value"]) and (row["value"] > 0 or row["unit"] == "bytes")), row["figure"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_each_queue_gives_every_job_once(tmp_path: Path) -> None:
    for name, kind in peers.CONTENDERS.items():
        try:
            queue = kind(tmp_path / name)
        except ImportError:
            assert not issubclass(kind, peers.Ours)
            continue
        queue.fill(9)
        for _ in range(9):
            assert queue.claim() == peers.RAW, name
            queue.end()
        with pytest.raises((AssertionError, IndexError, StopIteration, TypeError, AttributeError)):
            queue.claim()


def test_strace_is_read() -> None:
    table = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000300           3       100           fsync
 40.00    0.000200           2        50         7 newfstatat
------ ----------- ----------- --------- --------- ----------------
100.00    0.000500           2       150         7 total
"""
    assert spool.counted(table) == {"fsync": 100, "newfstatat": 50}


def test_the_table_takes_its_place_in_the_page() -> None:
    page = spool.PAGE.read_text()
    rows = [spool.Row("a", "b | c", 1.0, "s", "<= 2", True, about="d"), spool.Row("a", "e", None, reason="f")]
    made = spool.with_table(page, spool.table(rows, {"date": "D", "commit": "C", "machine": "M"}))
    assert "| e | not measured: f |  |  |" in made and made.count(spool.BEGIN) == made.count(spool.END) == 1


@pytest.mark.parametrize("wrong", [["--only", "gpu"], ["--write", "--quick"]], ids=" ".join)
def test_a_wrong_option_is_refused(wrong: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["spool.py", *wrong])
    with pytest.raises(SystemExit) as ended:
        spool.main()
    assert ended.value.code == 2
