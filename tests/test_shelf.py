"""Models of every family on one shelf: pictures of several seeds, the switch from one to another, and what is not taken."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from house import ROOT
from studio import BASE, DRAWING, FAMILIES, Desk, apart, asked, desk, options, patches, shelf

from bench.direct import Direct
from spooler import messages

__all__ = ["desk", "shelf"]


@pytest.mark.parametrize("family", DRAWING)
def test_p8_count_equals_single_seeds(desk: Desk, family: str) -> None:
    together = desk.draw(**BASE | {"model": family, "seed": 11, "count": 3})
    assert [image.seed for image in together.record.images] == [11, 12, 13]
    for seed, image in zip((11, 12, 13), together.images, strict=True):
        assert apart(image, desk.draw(**BASE | {"model": family, "seed": seed}).image) <= 1
    assert apart(together.images[0], together.images[1]) > 1


def test_models_are_switched_and_counted(desk: Desk, shelf: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dressed = {
        "loras": [{"name": "sd1-lora"}],
        "prompt": "a sd1-word circle on a blue background",
        "vae": "other",
        "controls": [{"model": "sd1-control", "image": "other.png"}],
    }
    jobs = [{"model": "sd1"} | dressed, {"model": "flux", "loras": [{"name": "flux-lora"}]}, asked("refiner", "sdxl")] * 2

    # 1. Room for one: the last one goes whenever another comes, whatever was laid over it.
    caplog.set_level(logging.INFO)
    narrow, drawn, swaps = Direct(tmp_path, models=shelf, model="sd1", keep_gib=0.00001), [], []
    inputs = {"other.png": patches(2)}
    for job in jobs:
        drawn += narrow.draw(inputs if "controls" in job else None, **BASE | job)
        assert isinstance(narrow.ended, messages.Finished)
        swaps.append(narrow.ended.facts.swaps)
    log = caplog.text
    narrow.close()
    assert swaps[0] == 0 and all(before < after for before, after in itertools.pairwise(swaps)), swaps
    assert log.count(": loaded, ") == swaps[-1] + 1
    assert log.count("dropped, all its memory came back") == swaps[-1] and "still held" not in log

    # 2. Room for all: each is loaded once, and draws the same.
    for job, one in zip(jobs, drawn, strict=True):
        assert apart(desk.draw(**BASE | job).image, np.asarray(one)) <= 1
    names = [line.split()[3] for line in desk.running.log.splitlines() if ": loaded, " in line]
    assert {"sd1:", "flux:", "sdxl:", "sdxl-refiner:"} <= set(names) and len(names) == len(set(names))
    assert "dropped" not in desk.running.log


def test_p9_a_pickle_in_models_is_refused_with_the_reason(desk: Desk, shelf: Path, tmp_path: Path) -> None:
    reason = "x.ckpt is a pickle, which runs whatever code is in it: only safetensors files are loaded."
    assert f"not taken: {reason}" in desk.running.log
    command = [sys.executable, "-m", "spooler.cli", "doctor", "--json", "--spool", str(tmp_path / "spool")]
    told = subprocess.run(
        [*command, *options(shelf, tmp_path / "cache")], capture_output=True, text=True, cwd=ROOT, check=False
    )
    findings = json.loads(told.stdout)
    assert [each["text"] for each in findings if each["subject"] == "not taken"] == [reason]
    assert {f"model {name}" for name in (*FAMILIES, "single")} <= {each["subject"] for each in findings}
    assert "must be one of" in desk.refused(**BASE, model="x")


def test_a_single_file_draws_what_its_folder_draws(desk: Desk) -> None:
    status = desk.running.status()
    card = status.catalogue.card("single") if status else None
    assert card and card.family == "sd1"
    drawn = desk.draw(**BASE, model="single")
    assert drawn.record.engine and drawn.record.engine.family == "sd1"
    assert apart(drawn.image, desk.plainly("sd1")) <= 1
