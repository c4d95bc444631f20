"""Memory that runs out: the ladder that a job goes down, what is remembered of it, and its end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from ward import CIRCLE, QUICK, Patient, furthest, outcomes

from bench.direct import Direct
from bench.shape_checker import look
from spooler.engine import device as devices
from spooler.engine import memory
from spooler.engine.memory import Rung, Tricks


#: For each rung a size of its own, for what fitted is remembered. Last, the most that a channel of a pixel may differ from the
#: picture without the fault, of 255. Measured: 7 on a picture of two tiles, 1 on the others.
@pytest.mark.parametrize(
    ("faults", "fields", "rung", "mode", "most"),
    [
        ("oom-unless:vae_tiling as:torch", {"width": 576}, "vae_tiling", "full, vae_tiling, vae_slicing", 16),
        ("oom-unless:batch=2 as:cublas", {"width": 136, "count": 5}, "batch 2", "full, vae_tiling, vae_slicing", 2),
        ("oom-unless:batch=1 as:cpu", {"width": 144, "count": 3}, "batch 1", "full, vae_tiling, vae_slicing", 2),
        ("oom-unless:offload as:python", {"width": 152}, "offload", "offload, vae_tiling, vae_slicing", 2),
        ("oom-unless:sequential", {"width": 160, "count": 2}, "sequential", "sequential, vae_tiling, vae_slicing", 2),
    ],
    ids=["vae_tiling", "batch 2", "batch 1", "offload", "sequential"],
)
def test_a_job_that_does_not_fit_goes_down_to_the_rung_where_it_does_and_the_next_one_starts_there(
    ill: Patient, faults: str, fields: dict[str, Any], rung: str, mode: str, most: int
) -> None:
    expected, record = ill.draw(**fields)
    assert record.engine and (record.engine.rung, record.engine.memory) == (None, "full, vae_slicing")
    assert record.engine.peak_bytes

    # 1. It goes down.
    ill.infect(faults)
    before = len(ill.running.log)
    drawn, record = ill.draw(**fields)
    assert set(ill.struck) == {"oom"} and f"again with {rung}" in ill.running.log[before:]
    assert record.engine and (record.engine.rung, record.engine.memory) == (rung, mode)
    assert record.engine.peak_bytes and outcomes(record) == ["done"]
    assert [image.seed for image in record.images] == [5 + index for index in range(fields.get("count", 1))]
    assert furthest(drawn, expected) <= most

    # 2. The next one of that size starts there.
    assert {each["name"] for key, each in fits(ill).items() if f"| {fields['width']}x128 |" in key} == {rung}
    ill.infect(faults)
    before = len(ill.running.log)
    drawn, record = ill.draw(**fields)
    assert ill.struck == [] and "out of memory" not in ill.running.log[before:]
    assert record.engine and (record.engine.rung, record.engine.memory) == (rung, mode)
    assert furthest(drawn, expected) <= most

    # 3. Another size starts at the top.
    ill.heal()
    _, record = ill.draw(**QUICK)
    assert record.engine and (record.engine.rung, record.engine.memory) == (None, "full, vae_slicing")


def fits(patient: Patient) -> dict[str, dict[str, Any]]:
    return cast(dict[str, dict[str, Any]], json.loads((patient.cache / "fits.json").read_text()))


def test_after_the_last_rung_the_job_fails_with_what_would_fit_and_the_queue_goes_on(ill: Patient) -> None:
    # The first of these is smaller than all that fitted before, the second is larger.
    ill.infect("oom-unless:vae_tiling")
    ill.run(width=520, height=64)
    known = fits(ill)
    ill.infect("oom-above:120x128")
    small, large, quick = ill.drop(width=128), ill.drop(width=264, height=256), ill.drop(**QUICK)
    for job_id, advice in ((small, "64x64 needs about a quarter of it"), (large, r"x\d+ fitted with this model before")):
        place, record = ill.ended(job_id)
        assert place.state == "failed" and record.failure and record.failure.code == "out_of_memory"
        assert record.failure.reason.startswith("There is too little memory for ")
        assert "with the thriftiest settings too" in record.failure.reason
        assert re.search(advice, record.failure.reason), record.failure.reason
        assert not list(place.path.glob("*.png"))
        assert record.engine and record.engine.rung == "sequential" and record.engine.peak_bytes
    assert ill.struck == ["oom"] * 8, "all as configured, tiled, offloaded, layer by layer; one picture is no batch to halve"
    assert ill.ended(quick)[0].state == "done"
    assert fits(ill) == known


def test_memory_that_runs_out_while_the_model_is_loaded_is_met_by_the_ladder_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place, too_much = memory.place, {"none", "model"}

    def full(pipe: Any, offload: memory.Offload, device: torch.device) -> None:
        if offload in too_much:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        place(pipe, offload, device)

    monkeypatch.setattr(memory, "place", full)
    started = Direct(tmp_path / "one")
    assert started.facts.rung == "sequential" and started.facts.memory.startswith("sequential, vae_tiling")
    assert look(started.draw(**CIRCLE)[0]).colour == "red"
    too_much.add("sequential")
    with pytest.raises(devices.UnusableError, match="needs more memory than there is, with the thriftiest settings too: CUDA"):
        Direct(tmp_path / "two")


@pytest.mark.parametrize(
    ("error", "short", "fatal"),
    [
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might ..."), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True, False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True, False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False, True),
        (RuntimeError("CUDA error: device-side assert triggered"), False, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False, True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False, False),
    ],
)
def test_an_error_is_told_by_what_helps_against_it(error: Exception, short: bool, fatal: bool) -> None:
    assert (devices.is_out_of_memory(error), devices.is_fatal(error)) == (short, fatal)


def test_the_ladder_ends_for_each_way_to_start() -> None:
    def names(rung: Rung | None) -> Iterator[str | None]:
        while rung := rung.lower() if rung else None:
            yield rung.name

    assert list(names(Rung(Tricks(), 4))) == ["vae_tiling", "batch 2", "batch 1", "offload", "sequential"]
    assert list(names(Rung(Tricks(), 1))) == ["vae_tiling", "offload", "sequential"]
    assert list(names(Rung(Tricks(offload="group", vae_tiling=True), 1))) == ["offload", "sequential"]
    assert list(names(Rung(Tricks(offload="sequential", vae_tiling=True), 1))) == []
    assert list(names(Rung(Tricks(weights="int8"), 1))) == ["vae_tiling", "offload"]  # see memory.prepare
