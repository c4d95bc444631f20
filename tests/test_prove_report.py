"""The proofs' figures: the page says what was measured, and nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.prove import report
from tests.prove.report import Figure

HELD = Figure("kill", "points", "0", 0, True, "a note", "2026-01-01", "a machine", "abc")
FAILED = Figure("errno_", "calls", "0", 2, False, "", "2026-01-01", "a machine", "abc")
NOT_RUN = Figure("nfs", "lost", "0", None, None, "no qemu here", "2026-01-01", "another", "abc")


def test_the_page_has_the_table_of_the_figures() -> None:
    figures = json.loads(report.JSON.read_text())
    page = report.PAGE.read_text()
    assert report.with_table(page, report.table(figures)) == page
    assert all(figure["name"] in report.proofs() for figure in figures)


def test_what_cannot_be_run_says_so_and_is_not_counted() -> None:
    made = report.table([asdict(each) for each in (HELD, FAILED, NOT_RUN)])
    assert "1 of 2 figures hold; 1 could not be measured" in made
    assert "| not run: no qemu here |" in made
    assert "| FAILS |" in made
    assert "Machine 2: another." in made


def test_a_proof_that_was_run_anew_takes_the_place_of_its_old_figures() -> None:
    old = [asdict(each) for each in (FAILED, HELD, HELD)]
    new = [asdict(HELD) | {"value": 7}]
    assert [(each["name"], each["value"]) for each in report.merged(old, new)] == [("errno_", 2), ("kill", 7)]


@pytest.mark.parametrize(("figures", "status"), [([HELD, NOT_RUN], 0), ([HELD, FAILED], 1)])
def test_the_exit_status_tells_of_a_violation(figures: list[Figure], status: int, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert report.main(lambda short: figures, ["--json", str(file)]) == status
    assert [Figure(**each) for each in json.loads(file.read_text())] == figures


def test_a_figure_is_printed_and_kept_with_its_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    report.report("kill", "points", ">= 1,000", 1234, True, "", file, tmp_path)
    report.cannot_run("nfs", "lost", "0", "no qemu here", file)
    assert capsys.readouterr().out == "kill: points: 1,234 (target >= 1,000) holds\nnfs: lost: not run: no qemu here\n"
    kept = [Figure(**each) for each in json.loads(file.read_text())]
    assert [each.value for each in kept] == [1234, None]
    assert all("cores" in each.machine and each.date for each in kept)
