"""The engine at its worst, through the real spooler: what runs out, breaks, hangs or leaks there costs a job at most, never
the queue, and no wrong picture is ever shown for a right one. The faults are those of faults/sitecustomize.py."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from house import Spooler, drop, picture, spooler, wait_for, wait_state

from bench.direct import Direct
from bench.shape_checker import look
from spooler import library, messages, service
from spooler.child import Child
from spooler.denylist import DenyList
from spooler.engine import device as devices
from spooler.engine import memory
from spooler.engine.memory import Rung, Tricks
from spooler.job import Job
from spooler.place import Place
from spooler.record import EngineFacts, Record
from spooler.service import FAILED_START_WAIT_S, Service
from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import create_app

FAULTS = Path(__file__).parent / "faults"
CIRCLE = {"prompt": "a large red circle on a blue background", "seed": 5, "steps": 8}
#: A size that no test brings out of memory.
QUICK = CIRCLE | {"steps": 2, "width": 72, "height": 72}
#: A hang is found after this long: far above what a step takes here, however busy the machine is.
STALL_S = 10.0
END = ("done", "failed", "cancelled")


@dataclass
class Patient:
    """A spooler whose engine has the faults that a file names."""

    running: Spooler
    file: Path
    cache: Path
    jobs: int = 0

    @property
    def spool(self) -> Spool:
        return self.running.spool

    @property
    def struck(self) -> list[str]:
        """The faults that came true since `infect`."""
        file = self.file.with_name("fault.struck")
        return file.read_text().splitlines() if file.exists() else []

    def infect(self, faults: str) -> None:
        self.heal()
        self.file.write_text(faults)

    def heal(self) -> None:
        self.file.unlink(missing_ok=True)
        self.file.with_name("fault.struck").unlink(missing_ok=True)

    def drop(self, **fields: Any) -> str:
        self.jobs += 1
        drop(self.spool, f"job{self.jobs}.json", CIRCLE | fields)
        return f"job{self.jobs}"

    def ended(self, job_id: str) -> tuple[Place, Record]:
        place = wait_state(self.spool, job_id, *END)
        record = self.spool.read_record(place)
        assert record
        return place, record

    def run(self, **fields: Any) -> tuple[Place, Record]:
        return self.ended(self.drop(**fields))

    def draw(self, **fields: Any) -> tuple[list[np.ndarray], Record]:
        """The pictures of a job that must be done, as (height, width, 3)."""
        place, record = self.run(**fields)
        assert place.state == "done", self.running.log
        return pixels(place), record


def pixels(place: Place) -> list[np.ndarray]:
    paths = sorted(place.path.glob("*.png"), key=lambda path: int(path.stem))
    return [np.asarray(picture(path).convert("RGB"), dtype=int) for path in paths]


def furthest(ones: list[np.ndarray], others: list[np.ndarray]) -> int:
    """The greatest difference between two pixels' channels, of 255."""
    assert len(ones) == len(others) > 0
    return max(int(abs(one - other).max()) for one, other in zip(ones, others, strict=True))


def outcomes(record: Record) -> list[str | None]:
    return [attempt.outcome for attempt in record.attempts]


@contextmanager
def patient(folder: Path, *options: str) -> Iterator[Patient]:
    spool = Spool(folder / "spool")
    spool.create()
    env = {"PYTHONPATH": str(FAULTS), "FAULT": str(folder / "fault")}
    with spooler(spool, "--cache", str(folder / "cache"), *options, env=env) as running:
        yield Patient(running, folder / "fault", folder / "cache")


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patient]:
    """One spooler for most tests, with a second model whose sampler has no Karras schedule."""
    folder = tmp_path_factory.mktemp("ward")
    shutil.copytree(library.DEMO, folder / "models" / "ancestral")
    card = {"family": "sd1", "width": 128, "height": 128, "steps": 4, "sampler": "Euler a"}
    (folder / "models" / "ancestral" / "sdspool.json").write_text(json.dumps(card))
    options = f"--memory full --models {folder / 'models'} --stall-s {STALL_S} --drop-grace-s 2 --recycle-gib 1"
    with patient(folder, *options.split()) as made:
        yield made


@pytest.fixture
def ill(ward: Patient) -> Iterator[Patient]:
    yield ward
    ward.heal()


# -- too little memory -------------------------------------------------------------------------------------------------------


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


# -- memory modes ------------------------------------------------------------------------------------------------------------

#: Options; what the record says of them; the most that a channel of a pixel may differ from --memory full, and the mean of all,
#: of 255. Measured: at most 1 where the arithmetic only changes its order, 4 and 0.05 with int8, 54 and 0.39 with fp8: at the
#: circle's edge, for a float of three bits' mantissa moves it by a part of a pixel.
MODES: dict[str, tuple[str, int, float]] = {
    "--memory tiled --attention sliced": ("full, vae_tiling, vae_slicing, sliced", 2, 0.01),
    "--memory offload --channels-last on": ("offload, vae_tiling, vae_slicing, channels_last", 2, 0.01),
    "--memory group --vae-slicing off": ("group, vae_tiling", 2, 0.01),
    "--memory sequential": ("sequential, vae_tiling, vae_slicing", 2, 0.01),
    "--weights fp8": ("full, vae_slicing, fp8", 90, 0.8),
    "--weights int8": ("full, vae_slicing, int8", 10, 0.1),
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[tuple[Place, Record]]]]:
    """A job in each mode, each in a spooler of its own, two at a time."""

    def draw(options: str) -> tuple[Place, Record]:
        with patient(tmp_path_factory.mktemp("mode"), *options.split()) as made:
            return made.run(count=2)

    with ThreadPoolExecutor(2) as pool:
        yield {options: pool.submit(draw, options) for options in MODES}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("options", MODES)
def test_every_memory_mode_draws_the_same_picture(
    ill: Patient, drawn: dict[str, Future[tuple[Place, Record]]], options: str
) -> None:
    memory, most, mean = MODES[options]
    expected, record = ill.draw(count=2)
    assert record.engine and record.engine.memory == "full, vae_slicing"
    place, record = drawn[options].result()
    assert place.state == "done" and record.engine and record.engine.memory == memory and record.engine.rung is None
    seen = look(picture(place.path / "0.png"))
    assert (seen.shape, seen.colour, seen.background) == ("circle", "red", "blue")
    assert furthest(pixels(place), expected) <= most
    assert np.mean([abs(one - other) for one, other in zip(pixels(place), expected, strict=True)]) <= mean


def test_an_attention_without_its_package_is_refused_at_the_start(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.create()
    refused = Spooler(spool, "--cache", str(tmp_path / "cache"), "--attention", "xformers")
    assert refused.ended() == 2
    assert "The model 'demo' cannot be run as configured: `attention` xformers does not work here:" in refused.log


def test_weights_that_cannot_be_moved_layer_by_layer_are_refused_at_the_start() -> None:
    with pytest.raises(devices.UnusableError, match="`weights` int8 does not work with `memory` sequential; fp8 does"):
        Direct(memory="sequential", weights="int8")


# -- never wrong silently ----------------------------------------------------------------------------------------------------


def test_a_vae_that_gives_nan_once_costs_nothing(ill: Patient) -> None:
    expected, _ = ill.draw(count=2)
    ill.infect("nan-vae*1")
    drawn, record = ill.draw(count=2)
    assert ill.struck == ["nan-vae"] and outcomes(record) == ["done"]
    assert furthest(drawn, expected) == 0


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [("nan-vae", "The decoded picture is not finite, in float32 too."), ("nan-latents", "The denoised latents are not finite")],
)
def test_a_picture_that_is_not_finite_is_a_failure_not_a_black_picture(ill: Patient, fault: str, sentence: str) -> None:
    ill.infect(fault)
    place, record = ill.run(count=2)
    assert fault in ill.struck and place.state == "failed" and record.failure
    assert record.failure.code == "not_finite" and sentence in record.failure.reason
    assert not list(place.path.glob("*.png")) and not (ill.spool.root / "done" / place.id).exists()
    ill.heal()
    assert ill.run(**QUICK)[0].state == "done"


@pytest.mark.parametrize("mode", ["full", "tiled", "offload", "group", "sequential"])
def test_half_precision_that_overflows_in_the_vae_is_decoded_again_in_float32_in_every_mode(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Direct(memory=mode, precision="bfloat16")
    [expected] = engine.draw(**CIRCLE)
    decode, overflows = AutoencoderTiny.decode, []

    def overflow(vae: Any, latents: Any, *args: Any, **kwargs: Any) -> Any:
        result = decode(vae, latents, *args, **kwargs)
        if latents.dtype != torch.float32:
            overflows.append(latents.dtype)
            result[0].fill_(float("inf"))
        return result

    monkeypatch.setattr(AutoencoderTiny, "decode", overflow)
    engine = Direct(memory=mode, precision="bfloat16")
    overflows.clear()
    for _ in range(2):
        [drawn] = engine.draw(**CIRCLE)
        assert look(drawn).shape == "circle"
        # Measured: 3, which is what bfloat16 is off.
        assert furthest([np.asarray(drawn, dtype=int)], [np.asarray(expected, dtype=int)]) <= 6
    assert len(overflows) == 2, "the second decode was in half precision again"


# -- an engine that dies, hangs or leaks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [("abort*1", "worker-died: killed by SIGABRT"), ("hang*1", f"no sign of life for {STALL_S:g} s")],
)
def test_an_engine_that_dies_or_hangs_costs_an_attempt(ill: Patient, fault: str, outcome: str) -> None:
    expected, _ = ill.draw()
    engine = ill.running.engine_pid()
    ill.infect(fault)
    drawn, record = ill.draw()
    assert ill.struck == [fault.removesuffix("*1")]
    lost, done = outcomes(record)
    assert lost and lost.startswith("worker-died: ") and outcome in lost and done == "done"
    assert ill.running.engine_pid() != engine and furthest(drawn, expected) == 0


def test_after_a_sticky_cuda_error_another_engine_goes_on(ill: Patient) -> None:
    engine, before = ill.running.engine_pid(), len(ill.running.log)
    ill.infect("cuda-error*1")
    broken, quick = ill.drop(), ill.drop(**QUICK)
    place, record = ill.ended(broken)
    assert place.state == "failed" and record.failure and record.failure.code == "engine_error"
    assert "illegal memory access" in record.failure.reason and outcomes(record) == ["engine_error"]
    assert "Traceback" in (place.path / "error.txt").read_text()
    place, record = ill.ended(quick)
    assert place.state == "done" and outcomes(record) == ["done"]
    assert ill.running.engine_pid() != engine
    assert f"engine {engine}: killed, it met an error that no later job would survive" in ill.running.log[before:]


def test_an_engine_that_could_not_free_a_model_is_started_anew_between_two_jobs(ill: Patient) -> None:
    engine, before = ill.running.engine_pid(), len(ill.running.log)
    ill.infect("no-free*1 oom-unless:offload")
    first, second = ill.drop(width=168), ill.drop(**QUICK)
    for job_id in (first, second):
        place, record = ill.ended(job_id)
        assert place.state == "done" and outcomes(record) == ["done"], ill.running.log
        ill.heal()
    log = ill.running.log[before:]
    assert "dropped, but 1 of its" in log and f"engine {engine}: ended between two jobs, to give its memory back" in log
    assert ill.running.engine_pid() != engine


def test_an_engine_that_grew_too_much_is_started_anew_between_two_jobs(ill: Patient) -> None:
    ill.draw(count=4)
    engine, before = ill.running.engine_pid(), len(ill.running.log)
    ill.draw()
    assert ill.running.engine_pid() == engine, "what it needs anyway is no growth"
    ill.infect("leak:1200*1")
    first, second = ill.drop(), ill.drop()
    for job_id in (first, second):
        place, record = ill.ended(job_id)
        assert place.state == "done" and outcomes(record) == ["done"]
    assert ill.struck == ["leak"] and ill.running.engine_pid() != engine
    log = ill.running.log[before:]
    assert f"engine {engine}: ended between two jobs, to give its memory back" in log and "gone" not in log


# -- the service by itself, with a clock that can be turned --------------------------------------------------------------------


def make_service(folder: Path, start_engine: Callable[[Service], Child], **more: Any) -> Service:
    given = {"spool": folder / "spool", "cache": folder / "cache", "models": folder / "models", "spooler": "test"} | more
    settings = Settings.parse([f"--{name.replace('_', '-')}={value}" for name, value in given.items()], "test", env={})
    spool = Spool(settings.spool)
    spool.create()
    (spool.claimed / "test").mkdir()
    catalogue = library.scan(settings.models, settings.model).catalogue()
    return Service(settings, spool, catalogue, DenyList(), start_engine)


def test_an_engine_that_does_not_start_is_told_of_and_jobs_wait_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = tmp_path / "fault"
    fault.write_text("exit-at-start")
    monkeypatch.setenv("PYTHONPATH", str(FAULTS))
    monkeypatch.setenv("FAULT", str(fault))
    made = make_service(tmp_path, service._start_engine)
    client = create_app(made.settings).test_client()
    ahead = 0.0

    def turned(condition: Callable[[], Any]) -> Callable[[], Any]:
        def turn() -> Any:
            made.turn(time.monotonic() + ahead)
            return condition()

        return turn

    with made.spool.life_lock("test"):
        # 1. Three starts, then one a minute.
        wait_for(turned(lambda: client.get("/readyz").json["spoolers"][0]["state"] == "failing"), "three failed starts")  # type: ignore[index]
        answer = client.get("/readyz")
        assert answer.status_code == 503 and "it ended while it loaded (exit status 1)" in answer.json["reason"]  # type: ignore[index]
        job_id = client.post("/api/v1/jobs", json=CIRCLE).json["id"]  # type: ignore[index]
        ahead = FAILED_START_WAIT_S / 2
        beats: set[str] = set()
        wait_for(turned(lambda: beats.add(made.spool.spoolers()[0][0].beat) or len(beats) > 2), "two more beats")  # type: ignore[func-returns-value]
        assert (tmp_path / "fault.struck").read_text().count("exit-at-start") == 3
        assert made.spool.find(job_id).state == "pending"  # type: ignore[union-attr]

        # 2. Mended, it starts at the next try.
        fault.unlink()
        ahead = FAILED_START_WAIT_S + 1
        place = wait_for(turned(lambda: (found := made.spool.find(job_id)) and found.state in END and found), "the job's end")
        assert place.state == "done" and client.get("/readyz").status_code == 200
        made.close()


class Silent:
    """Stands for the engine's process: hears everything, and says only what the test puts into the inbox."""

    pid = 1

    def __init__(self) -> None:
        self.heard: list[messages.ToEngine] = []
        self.killed = False

    def send(self, message: messages.ToEngine) -> None:
        self.heard.append(message)

    def kill(self) -> None:
        self.killed = True

    def wait(self, timeout_s: float) -> None: ...


@pytest.mark.parametrize(("step_s", "patience_s"), [(None, 30.0), (0.5, 30.0), (10.0, 200.0)])
def test_an_engine_of_slow_steps_is_given_more_time(tmp_path: Path, step_s: float | None, patience_s: float) -> None:
    child = Silent()
    made = make_service(tmp_path, lambda service: cast(Child, child), stall_s=30)
    facts = EngineFacts(
        model="demo", hash="", family="sd1", device="cpu", device_name="", precision="float32", versions={}, load_seconds=0
    )

    def hear(message: messages.FromEngine, now: float) -> None:
        made.inbox.put((cast(Child, child), message))
        made.turn(now)

    now = 0.0
    made.turn(now)
    drop(made.spool, "slow.json", CIRCLE)
    made.inbox.put(None)
    hear(messages.Ready(facts=facts), now)
    assert [type(message) for message in child.heard] == [messages.Run]
    for step in range(6 if step_s else 0):
        hear(messages.Progress(id="slow", phase="denoise", image=0, step=step, steps=8), now := now + (step_s or 0))
    made.turn(now + patience_s - 1)
    assert not child.killed
    made.turn(now + patience_s + 1)
    assert child.killed and made._killed_for == f"it gave no sign of life for {patience_s:g} s"
    made.close()


# -- jobs that once ended the spooler ------------------------------------------------------------------------------------------


def test_files_with_impossible_names_are_jobs_too(ill: Patient) -> None:
    process = ill.running.process.pid
    names = [b"caf\xe9.json", b"\xff\xfe.json", b"x" * 250 + b".json", "\u202e\U0001f3a8.json".encode(), b"-.json", b"....json"]
    for folder, raw in (("done", json.dumps(QUICK).encode()), ("rejected", b"[]")):
        before = len(list((ill.spool.root / folder).glob("*[!t]")))  # in rejected/ without the reasons
        for number, name in enumerate(names):
            draft = ill.spool.tmp / f"odd{number}"
            draft.write_bytes(raw)
            os.rename(draft, os.path.join(os.fsencode(ill.spool.pending), name))  # noqa: PTH104, PTH118 - a Path has no bytes
        wait_for(lambda: not list(ill.spool.pending.glob("[!.]*")), "all to be taken, but the hidden one")
        (ill.spool.pending / "....json").unlink()
        ill.run(**QUICK)
        made = len(list((ill.spool.root / folder).glob("*[!t]"))) - before - (folder == "done")
        assert made == len(names) - 1, folder
    records = [ill.spool.read_record(place) for place in ill.spool.places("done")]
    assert {"caf\\xe9.json", f"{'x' * 250}.json"} <= {record.given_name for record in records if record}
    assert ill.run(**QUICK)[0].state == "done" and ill.running.process.poll() is None
    assert ill.running.process.pid == process and ill.running.log.count("spooler test on") == 1


def ended(spool: Spool) -> list[Place]:
    return [place for state in ("done", "failed", "cancelled") for place in spool.places(state)]


def test_a_schedule_that_the_model_s_own_sampler_has_not_is_refused(ill: Patient) -> None:
    drop(ill.spool, "karras.json", {"prompt": "x", "model": "ancestral", "scheduler": "Karras"})
    drop(ill.spool, "named.json", QUICK | {"model": "ancestral", "sampler": "Euler", "scheduler": "Karras"})
    reason = ill.spool.rejected_folder / "karras.json.reason.txt"
    wait_for(lambda: reason.exists() and (ill.spool.rejected_folder / "karras.json").exists(), "the job to be refused")
    assert "`scheduler` must be one of Automatic, Uniform, SGM Uniform with the model's sampler Euler a" in reason.read_text()
    assert ill.ended("named")[0].state == "done"


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 2**31, 2**64, 10**40, 0.0, -0.5, 1e308, 5e-324),
    *("", " ", "x", "red", "\ud800", "\x00", "../../etc/passwd", "%s%n{0}", "((((", "<lora:none:1>", "漢字 🎨", "1" * 4000),
    *([], [[]], [None], [1, 2], ["a", 1], {}, {"a": {"b": []}}, {"name": "none"}, {"scale": 1.5}, {"steps": [1, 2]}),
)
FIT: dict[str, tuple[Any, ...]] = {
    "prompt": ("a red circle", "(a:1.3) [b] BREAK c", ["a", "b"]),
    "negative_prompt": ("green", ""),
    "steps": (1, 2, [1, 2]),
    "width": (64, 72),
    "height": (64, 80),
    "count": (1, 2),
    "seed": (-1, 0, 2**32 - 1),
    "guidance_scale": (0, 1, 30, [2, 3.5]),
    "sampler": ("Euler", "euler a", "DPM++ 2M Karras", "PLMS", ["Euler", "DDIM"]),
    "scheduler": ("Karras", "Automatic", "SGM Uniform"),
    "model": ("", "demo", "ancestral", ["demo", "ancestral"]),
    "clip_skip": (1, 2),
    "hires": ({"scale": 1.5}, {"scale": 1.5, "upscaler": "Latent", "strength": 0.5}),
    "upscale": ({"scale": 1.5},),
    "variation_strength": (0.5, 1),
    "variation_seed": (3,),
    "priority": (-100, 100),
    "owner": ("ann", "bob"),
}


def test_two_hundred_random_objects_end_somewhere_and_so_does_the_good_job_behind_them(ill: Patient) -> None:
    rng = random.Random(20)
    fields = [*Job.model_fields, "cfg_scale", "n_iter", "batch_size", "sampler_name", "id", "no such field"]
    before = len(ended(ill.spool)) + len(ill.spool.rejected())
    for number in range(200):
        chosen = rng.sample(fields, rng.randint(0, 6))
        job: dict[str, Any] = {"prompt": "x", "steps": 1, "width": 64, "height": 64, "owner": str(number % 3)}
        for name in chosen:
            odd = number % 2 == 0 and rng.random() < 0.4
            job[name] = rng.choice(ODD if odd or name not in FIT else FIT[name])
        if number % 10 == 0:
            job.pop("prompt")
        drop(ill.spool, f"fuzz{number}.json", job)
    good = ill.drop(**QUICK, priority=-100)
    place, _ = ill.ended(good)
    assert place.state == "done"
    wait_for(lambda: len(ended(ill.spool)) + len(ill.spool.rejected()) == before + 201, "an end of each of them")
    assert ill.running.process.poll() is None and list(ill.spool.pending.iterdir()) == []
    states = [place.state for number in range(200) if (place := ill.spool.find(f"fuzz{number}"))]
    assert states.count("done") > 20 and len(states) < 180, "some were jobs, some were not"
    failed = [place for place in ill.spool.places("failed") if place.id.startswith("fuzz")]
    assert [(place.path / "record.json").read_text() for place in failed] == []
