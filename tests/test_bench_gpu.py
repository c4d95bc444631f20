"""The benchmark of the GPU, where there is none: every row has figures or a reason, and nobody can take them for real ones."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from house import ROOT

from bench import gpu

ROWS = {
    *("full", "tiled", "offload", "group", "sequential"),
    *("attention sliced", "attention xformers", "weights fp8", "weights int8", "float32"),
    *("batch 1", "batch 4", "vae float16", "vae float32", "compile regional", "compile full"),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What it printed, and what it wrote."""
    out = tmp_path_factory.mktemp("gpu") / "out.json"
    ended = subprocess.run(
        [sys.executable, "bench/gpu.py", "--quick", "--families", "sdxl", "--json", str(out)],
        cwd=ROOT,
        # Where there is a GPU, it is not for a test to take it for minutes.
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, json.loads(out.read_bytes())


def test_every_row_has_figures_or_a_reason(ran: tuple[str, dict[str, Any]]) -> None:
    printed, written = ran
    found = {(row["family"], row["row"]): row for row in written["rows"]}
    xl = {"base + refiner", "saturated bf16", "saturated fp8", "one bf16", "one compiled", "restart"}
    assert set(found) == {("sdxl", row) for row in ROWS | xl}
    scale = gpu.Scale.chosen(gpu=False, quick=True, steps=None)
    assert {row.name for row in gpu.rows("sd1", scale)} == ROWS | {"saturated"}, "the same code"
    for (family, name), row in found.items():
        assert row["reason"] or (row["s"] > 0 and row["gib"] > 0 and math.isfinite(row["s"])), name
        assert any(line.startswith(f"| {family} ") and f"| {name} " in line for line in printed.splitlines()), name


def test_what_needs_no_package_and_no_gpu_is_measured(ran: tuple[str, dict[str, Any]]) -> None:
    failed = {row["row"]: row["reason"] for row in ran[1]["rows"] if row["reason"]}
    assert set(failed) <= {"attention xformers", "weights int8"}, failed


def test_a_claim_stands_beside_what_was_measured(ran: tuple[str, dict[str, Any]]) -> None:
    claims = [row for row in ran[1]["rows"] if row["claim"]]
    assert {row["row"] for row in claims} == {name for name, (claim, _) in gpu.CLAIMS.items() if claim} - {"saturated"}
    for row in claims:
        assert row["measured"] or row["reason"], row["row"]


def test_it_says_first_and_last_that_it_is_the_tiny_mode(ran: tuple[str, dict[str, Any]]) -> None:
    printed, written = ran
    lines = printed.splitlines()
    assert lines[0] == lines[-1] == gpu.TINY
    assert written["tiny"] is True
    assert {"device", "driver", "torch", "diffusers", "date", "commit"} <= set(written["head"])


@pytest.mark.parametrize("wrong", [["--families", "sd3"], ["--steps", "0"]], ids=" ".join)
def test_a_wrong_option_is_refused(wrong: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", *wrong])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2


def test_the_random_weights_are_a_safetensors_file(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import load_file

    shapes = {"conv.weight": (8, 4, 3, 3), "conv.bias": (8,), "norm.weight": (8,)}
    gpu._write(tmp_path / "a.safetensors", shapes, np.random.default_rng(0), 0.02)
    read = load_file(tmp_path / "a.safetensors")
    assert {name: value.shape for name, value in read.items()} == shapes
    assert {value.dtype for value in read.values()} == {np.dtype(np.float16)}
    assert 0.015 < read["conv.weight"].std() < 0.025 and not read["conv.bias"].any() and (read["norm.weight"] == 1).all()


def test_a_row_that_fails_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale = gpu.Scale.chosen(gpu=False, quick=True, steps=1)
    kept = [gpu.Row("full"), gpu.Row("broken", how="bad"), gpu.Row("tiled", {"memory": "tiled"})]
    monkeypatch.setattr(gpu, "rows", lambda family, scale: kept)
    monkeypatch.setitem(gpu.MEASURES, "bad", lambda *_: 1 / 0)
    full, broken, tiled = gpu.measure("sd1", gpu.Shelf(tmp_path / "models", scale), scale)
    assert full.s and tiled.s and not broken.s
    assert broken.reason == "division by zero"
