"""The spooler and its engine, as real processes with the demo model on the CPU: what goes in comes out, whatever is killed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from house import ROOT, Spooler, drop, listing, picture, spooler, wait_for, wait_running, wait_state

from bench.shape_checker import look
from spooler.place import Place
from spooler.spool import Spool

RED_ON_BLUE = {"prompt": "a large red circle on a blue background", "seed": 5}
#: Long enough to be met in the middle.
LONG = {"prompt": "a large green square on a white background", "steps": 150, "seed": 1}
#: A job has two attempts, and an engine that says nothing is ended soon.
MORTAL = ("--max-attempts", "2", "--stall-s", "15")


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spooler]:
    """A spooler whose engine is warm, for all tests of this file: the last one ends it."""
    spool = Spool(tmp_path_factory.mktemp("warm") / "spool")
    spool.create()
    with spooler(spool, "--drop-grace-s", "2", *MORTAL) as running:
        yield running


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.create()
    return made


def attempts(spool: Spool, place: Place) -> list[str | None]:
    record = spool.read_record(place)
    assert record
    return [attempt.outcome for attempt in record.attempts]


def test_a_dropped_file_becomes_the_picture_that_it_asks_for(warm: Spooler) -> None:
    raw = (ROOT / "examples" / "star.json").read_bytes()
    drop(warm.spool, "star.json", raw)
    place = wait_state(warm.spool, "star", "done", "failed")
    assert place.path == warm.spool.root / "done" / "star"
    assert (place.path / "job.json").read_bytes() == raw
    seen = look(picture(place.path / "0.png"))
    assert (seen.colour, seen.shape, seen.background) == ("yellow", "star", "black")


def test_the_record_tells_what_happened(warm: Spooler) -> None:
    drop(warm.spool, "circle two.json", RED_ON_BLUE | {"count": 2, "steps": 8})
    place = wait_state(warm.spool, "circle-two", "done", "failed")
    record = warm.spool.read_record(place)
    assert record and record.given_name == "circle two.json"
    assert [(image.file, image.seed, image.width) for image in record.images] == [("0.png", 5, 128), ("1.png", 6, 128)]
    assert record.parameters and record.parameters.steps == 8
    drawn = ("width", "height", "steps", "guidance_scale", "sampler", "scheduler")
    assert None not in [getattr(record.parameters, name) for name in drawn]
    assert record.queued and record.started and record.completed and record.queued <= record.started <= record.completed
    assert record.timings.denoise > 0 and record.timings.decode > 0 and record.timings.encode >= 0
    assert record.engine and record.engine.model == "demo" and len(record.engine.hash) == 64
    assert {"torch", "diffusers", "transformers"} <= set(record.engine.versions)
    assert attempts(warm.spool, place) == ["done"]
    assert sorted(path.name for path in place.path.iterdir()) == ["0.png", "1.png", "job.json", "record.json"]


def test_a_picture_carries_the_text_that_other_tools_read(warm: Spooler) -> None:
    drop(
        warm.spool,
        "text.json",
        RED_ON_BLUE | {"steps": 6, "negative_prompt": "ünscharf", "sampler": "Euler", "scheduler": "Karras"},
    )
    place = wait_state(warm.spool, "text", "done", "failed")
    image = picture(place.path / "0.png")
    lines = str(image.info["parameters"]).split("\n")  # type: ignore[attr-defined]
    assert lines[0] == RED_ON_BLUE["prompt"] and lines[1] == "Negative prompt: ünscharf"
    assert lines[2].startswith("Steps: 6, Sampler: Euler, Schedule type: Karras, CFG scale: ")
    assert "Seed: 5, Size: 128x128, Model hash: " in lines[2] and ", Model: demo, " in lines[2]
    assert "prompt" not in image.info, "readers would take it for ComfyUI's"


def test_p8_same_job_same_picture_and_another_seed_another(warm: Spooler) -> None:
    for name, seed in (("one", 11), ("two", 11), ("three", 12)):
        drop(warm.spool, f"{name}.json", RED_ON_BLUE | {"seed": seed, "steps": 6})
    one, two, three = (
        np.asarray(picture(wait_state(warm.spool, name, "done", "failed").path / "0.png"), dtype=int)
        for name in ("one", "two", "three")
    )
    # Whoever else is in the queue: they may have shared steps, and then the last digit may differ.
    assert abs(one - two).max() <= 1 and (one != three).any()


def test_p7_what_is_not_drawn_together_is_drawn_one_at_a_time(warm: Spooler) -> None:
    names = [f"many{number}" for number in range(6)]
    for number, name in enumerate(names):
        drop(warm.spool, f"{name}.json", RED_ON_BLUE | {"steps": 3, "count": 2, "width": 72 if number % 2 else 80})
    records = [warm.spool.read_record(wait_state(warm.spool, name, "done", "failed")) for name in names]
    tries = [
        [(attempt.started, attempt.ended or "") for record in records[first::2] if record for attempt in record.attempts]
        for first in (0, 1)
    ]
    assert [len(each) for each in tries] == [3, 3]
    for (began, ended), (other_began, other_ended) in itertools.product(*tries):
        assert ended <= other_began or other_ended <= began


def test_p5_bad_drops_are_set_aside_with_their_reasons_and_nothing_else_is_disturbed(warm: Spooler) -> None:
    pending, rejected = warm.spool.pending, warm.spool.rejected_folder
    drop(warm.spool, "keep.json", RED_ON_BLUE | {"steps": 4})
    keep = wait_state(warm.spool, "keep", "done", "failed")
    before = listing(keep.path.parent)
    bad = {
        "text.json": (b"not json at all", "must be JSON"),
        "half.json": (b'{"prompt": "a ri', "must be JSON"),
        "empty.json": (b"", "this is empty"),
        "array.json": (b'["prompt"]', "this is an array"),
        "types.json": (b'{"prompt": 3, "steps": "many"}', "`steps` must be a whole number"),
        "nan.json": (b'{"prompt": "x", "guidance_scale": NaN}', "this has NaN"),
        "range.json": (b'{"prompt": "x", "steps": 9999}', "less than or equal to 150, but is 9999"),
        "width.json": (b'{"prompt": "x", "width": 100}', "multiple of 8, but is 100"),
        "blank.json": (b'{"steps": 9}', "`prompt` is required"),
        "long.json": (b'{"prompt": "' + b"x" * 1_000_000 + b'"}', "at most 10000 characters"),
        "model.json": (b'{"prompt": "x", "model": "dmo"}', "did you mean demo?"),
        "field.json": (b'{"prompt": "x", "promt": "y"}', "did you mean prompt?"),
        "latin.json": ('{"prompt": "ü"}'.encode("latin-1"), "must be UTF-8"),
        "deep.json": (b'{"a":' * 20_000, "nests too deep"),
    }
    for name, (raw, _) in bad.items():
        drop(warm.spool, name, raw)
    os.mkfifo(pending / "fifo.json")
    (pending / "folder.json").mkdir()
    (pending / "folder.json" / "inside.txt").write_text("kept")
    (pending / "link.json").symlink_to("/etc/hostname")
    reasons = {name: part for name, (_, part) in bad.items()}
    reasons |= {"fifo.json": "is a FIFO", "folder.json": "is a folder", "link.json": "symbolic link"}
    wait_for(lambda: all(os.path.lexists(rejected / name) for name in reasons), "all bad files to be set aside")
    for name, part in reasons.items():
        assert part in (rejected / f"{name}.reason.txt").read_text(), name
    for name, (raw, _) in bad.items():
        assert (rejected / name).read_bytes() == raw, name
    assert (rejected / "link.json").is_symlink() and (rejected / "folder.json" / "inside.txt").read_text() == "kept"
    assert [path.name for path in pending.iterdir() if path.suffix == ".json"] == []
    assert listing(keep.path.parent) == before
    drop(warm.spool, "after.json", RED_ON_BLUE | {"steps": 4})
    assert wait_state(warm.spool, "after", "done", "failed").state == "done"


def test_a_half_written_drop_is_waited_for(warm: Spooler) -> None:
    raw = json.dumps(RED_ON_BLUE | {"steps": 4}).encode()
    path = warm.spool.pending / "slow.json"
    with path.open("wb", buffering=0) as file:
        for number, start in enumerate(range(0, len(raw), 30)):
            file.write(raw[start : start + 30])
            # A scan that sets this one aside has looked at the other one too.
            drop(warm.spool, f"canary{number}.json", b"[]")
            canary = warm.spool.rejected_folder / f"canary{number}.json"
            wait_for(canary.exists, "a scan after each piece")
    assert wait_state(warm.spool, "slow", "done", "failed").state == "done"
    assert not (warm.spool.rejected_folder / "slow.json").exists()


def test_a_waiting_and_a_running_job_can_be_cancelled(warm: Spooler) -> None:
    drop(warm.spool, "run.json", LONG | {"count": 9})
    drop(warm.spool, "wait.json", LONG | {"width": 72})  # of another size: it cannot join the one that runs
    running = wait_running(warm.spool, "run")
    assert warm.spool.cancel("wait").state == "cancelled"  # type: ignore[union-attr]
    assert warm.spool.cancel("run") == running
    place = wait_state(warm.spool, "run", "cancelled", "done", "failed")
    assert place.state == "cancelled" and attempts(warm.spool, place) == ["cancelled"]
    drop(warm.spool, "next.json", RED_ON_BLUE | {"steps": 4})
    assert wait_state(warm.spool, "next", "done", "failed").state == "done"


def test_pause_stops_claiming_and_its_removal_goes_on(warm: Spooler) -> None:
    pause = warm.spool.root / "PAUSE"
    pause.touch()
    wait_for(lambda: (status := warm.status()) and status.paused, "the spooler to see PAUSE")
    drop(warm.spool, "paused.json", RED_ON_BLUE | {"steps": 4})
    beats = {wait_for(lambda: warm.status(), "a beat").beat}
    wait_for(lambda: beats.add(warm.status().beat) or len(beats) > 2, "two more beats")  # type: ignore[union-attr, func-returns-value]
    assert warm.spool.find("paused").state == "pending"  # type: ignore[union-attr]
    pause.unlink()
    assert wait_state(warm.spool, "paused", "done", "failed").state == "done"


def test_the_command_line_submits_waits_and_prints_the_pictures(warm: Spooler) -> None:
    command = [sys.executable, "-m", "spooler.cli", "submit", "a small yellow star on a black background", "--seed", "3"]
    spool_option = ["--spool", str(warm.spool.root)]
    done = subprocess.run(
        [*command, "--count", "2", "--wait", *spool_option], capture_output=True, text=True, cwd=ROOT, check=True
    )
    pictures = [Path(line) for line in done.stdout.splitlines()]
    assert len(pictures) == 2 and all(look(picture(path)).background == "black" for path in pictures)
    wrong = subprocess.run([*command, "--steps", "none", *spool_option], capture_output=True, text=True, cwd=ROOT, check=False)
    assert wrong.returncode == 2 and '`steps` must be a whole number, but is "none".' in wrong.stderr


def test_a_second_spooler_of_that_name_refuses_to_start(warm: Spooler) -> None:
    second = Spooler(warm.spool, name=warm.name)
    assert second.ended() == 2
    assert "a spooler named test is running on this spool" in second.log
    assert warm.status()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--model", "/nowhere"), "but '/nowhere' is none"),
        (("--device", "cuda:7"), "'cuda:7' is not"),
    ],
)
def test_the_engine_refuses_to_start_without_weights_or_device(spool: Spool, options: tuple[str, ...], sentence: str) -> None:
    refused = Spooler(spool, *options)
    assert refused.ended() == 2
    assert sentence in refused.log


def test_p9_pickled_weights_are_no_weights(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "model" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (tmp_path / "model" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    refused = Spooler(spool, "--model", str(tmp_path / "model"))
    assert refused.ended() == 2
    assert "pickles are not loaded" in refused.log


def test_p2_p4_a_job_survives_the_death_of_engine_and_spooler_and_one_that_keeps_killing_the_engine_fails(
    warm: Spooler,
) -> None:
    """The last test: it ends the warm spooler."""
    spool = warm.spool
    drop(spool, "poison.json", LONG)
    drop(spool, "victim.json", RED_ON_BLUE | {"steps": 4, "width": 72})  # not in its company: see test_company.py

    # 1. The engine dies: the spooler starts another and the job runs again.
    place = wait_running(spool, "poison")
    os.kill(warm.engine_pid(), signal.SIGSEGV)
    wait_for(lambda: attempts(spool, place)[0], "the attempt to be counted")
    assert attempts(spool, place) == ["worker-died: killed by SIGSEGV"]
    wait_for(lambda: len(attempts(spool, place)) == 2, "the second attempt")

    # 2. A hung kernel: alive, and silent. That was its last attempt, and the queue goes on.
    wait_running(spool, "poison")
    os.kill(warm.engine_pid(), signal.SIGSTOP)
    failed = wait_state(spool, "poison", "failed", "done")
    record = spool.read_record(failed)
    assert record and record.failure and record.failure.code == "worker-died"
    assert "2 times" in record.failure.reason and "no sign of life" in record.failure.reason
    assert wait_state(spool, "victim", "done", "failed").state == "done"

    # 3. Sent back by somebody, it has its attempts anew. SIGTERM of the spooler: the job stays, the attempt does not count.
    assert spool.retry("poison")
    place = wait_running(spool, "poison")
    assert warm.stop() == 0
    assert attempts(spool, place)[2:] == ["stopped"]

    # 4. kill -9 of the spooler: its engine ends too.
    second = Spooler(spool, *MORTAL).ready()
    wait_for(lambda: len(attempts(spool, place)) == 4, "the next attempt")
    wait_running(spool, "poison")
    engine = second.engine_pid()
    second.kill()
    wait_for(lambda: not Path(f"/proc/{engine}/status").exists(), "the engine to follow its spooler")
    assert spool.find("poison").state == "claimed"  # type: ignore[union-attr]

    # 5. A spooler of another name takes the dead one's job over.
    with spooler(spool, *MORTAL, name="heir") as heir:
        done = wait_state(spool, "poison", "done", "failed")
        assert done.state == "done", heir.log
        assert attempts(spool, done)[3:] == ["worker-died: the spooler died", "done"]
        assert sorted(path.name for path in done.path.iterdir()) == ["0.png", "job.json", "record.json"]
        assert spool.read_record(done).parameters.seed == 1  # type: ignore[union-attr]
