"""The engine at its worst, through the real spooler: what breaks, hangs or leaks there costs a job at most, never
the queue, and no wrong picture is ever shown for a right one. The faults are those of faults/sitecustomize.py."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from house import drop, wait_for
from ward import CIRCLE, END, FAULTS, QUICK, STALL_S, Patient, furthest, outcomes

from bench.direct import Direct
from bench.shape_checker import look
from spooler import library, messages, serve
from spooler.child import Child
from spooler.denylist import DenyList
from spooler.job import Job
from spooler.life import Life
from spooler.place import Place
from spooler.record import EngineFacts
from spooler.service import Service
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.warden import FAILED_START_WAIT_S
from spooler.watch import Hint
from webui.app import create_app

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
    first, second = ill.drop(), ill.drop(**QUICK)  # of another size: one after the other
    for job_id in (first, second):
        place, record = ill.ended(job_id)
        assert place.state == "done" and outcomes(record) == ["done"]
    assert ill.struck == ["leak"] and ill.running.engine_pid() != engine
    log = ill.running.log[before:]
    assert f"engine {engine}: ended between two jobs, to give its memory back" in log and "gone" not in log


# -- the service by itself, with a clock that can be turned --------------------------------------------------------------------


def make_service(folder: Path, start_engine: Callable[[Service, Settings], Child], **more: Any) -> Service:
    given = {"spool": folder / "spool", "cache": folder / "cache", "models": folder / "models", "spooler": "test"} | more
    settings = Settings.parse([f"--{name.replace('_', '-')}={value}" for name, value in given.items()], "test")
    spool = Spool(settings.spool)
    spool.create()
    catalogue = library.scan(settings.models, settings.model).catalogue()
    return Service(settings, spool, catalogue, DenyList(), Life.begin(spool, settings.spooler), start_engine)


def test_an_engine_that_does_not_start_is_told_of_and_jobs_wait_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = tmp_path / "fault"
    fault.write_text("exit-at-start")
    monkeypatch.setenv("PYTHONPATH", str(FAULTS))
    monkeypatch.setenv("FAULT", str(fault))
    made = make_service(tmp_path, serve.start_engine)
    client = create_app(made.settings).test_client()
    ahead = 0.0

    def turned(condition: Callable[[], Any]) -> Callable[[], Any]:
        def turn() -> Any:
            made.turn(time.monotonic() + ahead)
            return condition()

        return turn

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

    is_remote = False

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
    made = make_service(tmp_path, lambda service, settings: cast(Child, child), stall_s=30)
    facts = EngineFacts(
        model="demo", hash="", family="sd1", device="cpu", device_name="", precision="float32", versions={}, load_seconds=0
    )

    def hear(message: messages.FromEngine, now: float) -> None:
        made.inbox.put((cast(Child, child), message))
        made.turn(now)

    now = 0.0
    made.turn(now)
    drop(made.spool, "slow.json", CIRCLE)
    made.inbox.put(Hint())
    hear(messages.Ready(facts=facts), now)
    assert [type(message) for message in child.heard] == [messages.Run]
    for step in range(6 if step_s else 0):
        hear(messages.Progress(id="slow", phase="denoise", image=0, step=step, steps=8), now := now + (step_s or 0))
    made.turn(now + patience_s - 1)
    assert not child.killed
    made.turn(now + patience_s + 1)
    assert child.killed and made.lanes[0].warden._killed_for == f"it gave no sign of life for {patience_s:g} s"
    made.close()


# -- jobs that once ended the spooler ------------------------------------------------------------------------------------------


def test_p5_files_with_impossible_names_are_jobs_too(ill: Patient) -> None:
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
    "guidance_cutoff": (0.5, 1),
    "deepcache_interval": (1, 3),
    "hires": ({"scale": 1.5}, {"scale": 1.5, "upscaler": "Latent", "strength": 0.5}),
    "upscale": ({"scale": 1.5},),
    "variation_strength": (0.5, 1),
    "variation_seed": (3,),
    "priority": (-100, 100),
    "owner": ("ann", "bob"),
}


def test_p5_two_hundred_random_objects_end_somewhere_and_so_does_the_good_job_behind_them(ill: Patient) -> None:
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
