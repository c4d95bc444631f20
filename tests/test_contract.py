"""What a spool does with the jobs that are put into it, wherever the engine is: here, or at a worker behind Redis and a store.

The same tests, unchanged, for a spooler with an engine of its own and for one that sends its jobs on by Celery (docs/scale.md):
a real Redis, a real worker, a store that both reach. What is asked of the engine here alone says so: its fixture is `local`.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster import Cluster, cluster
from house import ROOT, Spooler, drop, listing, picture, wait_for, wait_running, wait_state
from PIL import Image

from bench.shape_checker import look
from spooler import moments
from spooler.place import Place
from spooler.record import Record
from spooler.remote.broker import key
from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import create_app

RED_ON_BLUE = {"prompt": "a large red circle on a blue background", "seed": 5}
#: Long enough to be met in the middle.
LONG = {"prompt": "a large green square on a white background", "steps": 100, "seed": 1}
#: To be cancelled: one that takes its time, and one whose first pictures come soon and the last ones never.
SLOW = LONG | {"width": 192, "height": 192, "steps": 150}
MANY = LONG | {"steps": [2, 150], "count": 9}
#: Of the spooler, and of the worker: each heeds its own. No job is sent on that no worker has room for, as with an engine here.
OPTIONS = (
    *("--together=2", "--batch=1", "--preview-s=0.2", "--drop-grace-s=2", "--max-attempts=1", "--stall-s=20"),
    "--dispatch-window=0",
)


OVER = RED_ON_BLUE | {"image": "start.png", "strength": 0.9, "steps": 12, "seed": 4}
WHITE = Image.new("RGB", (128, 128), "white")


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


class Service:
    """A spool and its spooler, with the engine in a process of the spooler's own."""

    def __init__(self, folder: Path):
        self.spool = Spool(folder / "spool")
        self.spool.create()
        self._options = (*OPTIONS, f"--cache={folder / 'cache'}")
        self._env: dict[str, str] = {}

    def start(self, *options: str, name: str = "test") -> Spooler:
        self.spooler = Spooler(self.spool, *self._options, *options, name=name, env=self._env)
        return self.spooler.ready()

    def engine_pid(self) -> int:
        return self.spooler.engine_pid()

    def at_work(self, job_id: str) -> Callable[[], bool]:
        """Whether what draws the job now is still at it, to be asked later."""
        process = Path(f"/proc/{self.engine_pid()}/status")
        return process.exists

    def first_outcome(self, job_id: str) -> str | None:
        """How the first attempt ended of a job that may be moving on; None while it runs."""
        record = wait_for(lambda: (place := self.spool.find(job_id)) and self.spool.read_record(place), "its record")
        return record.attempts[0].outcome

    def record(self, place: Place) -> Record:
        record = self.spool.read_record(place)
        assert record
        return record

    def attempts(self, place: Place) -> list[str | None]:
        return [attempt.outcome for attempt in self.record(place).attempts]

    def ended(self, job_id: str) -> Place:
        return wait_state(self.spool, job_id, "done", "failed", "cancelled")

    def done(self, name: str, job: dict[str, Any]) -> Place:
        """Where a job is that is dropped now and must be done."""
        drop(self.spool, f"{name}.json", job)
        place = self.ended(name)
        assert place.state == "done", self.record(place)
        return place

    def drop_folder(self, name: str, job: dict[str, Any], **pictures: Image.Image) -> None:
        """A job with its pictures, each under its name and `.png`."""
        folder = self.spool.tmp / name
        folder.mkdir()
        (folder / "job.json").write_text(json.dumps(job))
        for stem, image in pictures.items():
            (folder / f"{stem}.png").write_bytes(png(image))
        folder.rename(self.spool.pending / name)


class Remote(Service):
    """... or with the engine at a worker."""

    def __init__(self, folder: Path, made: Cluster):
        super().__init__(folder)
        self._cluster = made
        self._options, self._env = (*self._options, *made.options), made.env
        self._worker = made.add_worker(*OPTIONS, f"--cache={folder / 'worker-cache'}")

    def start(self, *options: str, name: str = "test") -> Spooler:
        self._cluster.ready(self._worker)
        return super().start(*options, name=name)

    def engine_pid(self) -> int:
        return self._worker.engine_pid()

    def at_work(self, job_id: str) -> Callable[[], bool]:
        task = str(self._cluster.redis.client.get(key(self.spooler.name, job_id))).partition("|")[0]
        return lambda: any(task in beat.tasks for beat in self._cluster.beats().values())


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("local"))
    made.start()
    yield made
    made.spooler.stop()


@pytest.fixture(scope="module")
def celery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("celery")
    with cluster(folder / "cluster", store=f"file://{folder / 'store'}") as parts:
        made = Remote(folder, parts)
        made.start()
        yield made
        made.spooler.stop()


@pytest.fixture(scope="module", params=["local", "celery"])
def service(request: pytest.FixtureRequest) -> Service:
    found: Service = request.getfixturevalue(request.param)
    return found


# -- what comes of a job -------------------------------------------------------------------------------------------------------


def test_a_dropped_file_becomes_the_picture_that_it_asks_for(service: Service) -> None:
    raw = (ROOT / "examples" / "star.json").read_bytes()
    drop(service.spool, "star.json", raw)
    place = service.ended("star")
    assert place.path == service.spool.root / "done" / "star"
    assert (place.path / "job.json").read_bytes() == raw
    seen = look(picture(place.path / "0.png"))
    assert (seen.colour, seen.shape, seen.background) == ("yellow", "star", "black")


def test_the_record_tells_what_happened(service: Service) -> None:
    drop(service.spool, "circle two.json", RED_ON_BLUE | {"count": 2, "steps": 8})
    place = service.ended("circle-two")
    record = service.record(place)
    assert record.given_name == "circle two.json"
    assert [(image.file, image.seed, image.width) for image in record.images] == [("0.png", 5, 128), ("1.png", 6, 128)]
    assert record.parameters and record.parameters.steps == 8
    drawn = ("width", "height", "steps", "guidance_scale", "sampler", "scheduler")
    assert None not in [getattr(record.parameters, name) for name in drawn]
    assert record.queued and record.started and record.completed and record.queued <= record.started <= record.completed
    assert record.timings.denoise > 0 and record.timings.decode > 0 and record.timings.encode >= 0
    assert record.engine and record.engine.model == "demo" and len(record.engine.hash) == 64
    assert {"torch", "diffusers", "transformers"} <= set(record.engine.versions)
    assert service.attempts(place) == ["done"]
    assert sorted(path.name for path in place.path.iterdir()) == ["0.png", "1.png", "job.json", "record.json"]


def test_a_picture_carries_the_text_that_other_tools_read(service: Service) -> None:
    job = RED_ON_BLUE | {"steps": 6, "negative_prompt": "ünscharf", "sampler": "Euler", "scheduler": "Karras"}
    image = picture(service.done("text", job).path / "0.png")
    lines = str(image.info["parameters"]).split("\n")  # type: ignore[attr-defined]
    assert lines[0] == RED_ON_BLUE["prompt"] and lines[1] == "Negative prompt: ünscharf"
    assert lines[2].startswith("Steps: 6, Sampler: Euler, Schedule type: Karras, CFG scale: ")
    assert "Seed: 5, Size: 128x128, Model hash: " in lines[2] and ", Model: demo, " in lines[2]
    assert "prompt" not in image.info, "readers would take it for ComfyUI's"


def test_a_sweep_has_a_picture_for_each_combination_and_a_sheet_of_them(service: Service) -> None:
    place = service.done("sweep", RED_ON_BLUE | {"steps": [1, 2], "guidance_scale": [1, 3]})
    record = service.record(place)
    assert [image.cell for image in record.images] == [(0, 0), (1, 0), (0, 1), (1, 1)] and record.sheet == "sheet.png"
    whole = ["0.png", "1.png", "2.png", "3.png", "job.json", "record.json", "sheet.png"]
    assert sorted(path.name for path in place.path.iterdir()) == whole
    assert picture(place.path / "sheet.png").width > 2 * 128


def test_p8_same_job_same_picture_and_another_seed_another(service: Service) -> None:
    job = RED_ON_BLUE | {"seed": 11, "steps": 6}
    # One after the other: whoever is drawn alone is drawn to the bit.
    one, two = (service.done(name, job).path / "0.png" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    for name, seed in (("beside", 11), ("other", 12)):
        drop(service.spool, f"{name}.json", job | {"seed": seed})
    first, beside, other = (
        np.asarray(picture(service.ended(name).path / "0.png"), dtype=int) for name in ("one", "beside", "other")
    )
    # Whoever else is in the queue: they may have shared steps, and then the last digit may differ.
    assert abs(first - beside).max() <= 1 and (first != other).any()


def test_p8_wherever_it_is_drawn_it_is_the_same_file(local: Service, celery: Service) -> None:
    start, mask = Image.new("RGB", (128, 128), "green"), Image.linear_gradient("L").resize((128, 128))
    over = OVER | {"steps": 6}
    for service in (local, celery):
        service.done("plain", RED_ON_BLUE | {"steps": 6, "count": 2})
        service.drop_folder("over", over, start=start)
        service.ended("over")
        service.drop_folder("masked", over | {"mask": "mask.png"}, start=start, mask=mask)
        service.ended("masked")
    for file in ("plain/0.png", "plain/1.png", "over/0.png", "masked/0.png"):
        here, there = (service.spool.root / "done" / file for service in (local, celery))
        assert here.read_bytes() == there.read_bytes(), file


def test_what_is_black_on_the_mask_stays_as_it_was(service: Service) -> None:
    start, mask = Image.linear_gradient("L").resize((128, 128)).convert("RGB"), Image.new("L", (128, 128), 0)
    mask.paste(255, (64, 0, 128, 128))
    job = RED_ON_BLUE | {"image": "start.png", "mask": "mask.png", "mask_blur": 0, "strength": 1.0, "steps": 6}
    service.drop_folder("repaint", job, start=start, mask=mask)
    place = service.ended("repaint")
    assert sorted(path.name for path in (place.path / "inputs").iterdir()) == ["mask.png", "start.png"]
    before, after = (np.asarray(each.convert("RGB")) for each in (start, picture(place.path / "0.png")))
    assert (before[:, :64] == after[:, :64]).all() and (before[:, 64:] != after[:, 64:]).any()


def test_results_do_not_overwrite_an_input_of_their_name(service: Service) -> None:
    service.drop_folder("clash", OVER | {"image": "0.png", "steps": 4}, **{"0": WHITE})
    place = service.ended("clash")
    assert place.state == "done"
    assert (place.path / "inputs" / "0.png").read_bytes() == png(WHITE) != (place.path / "0.png").read_bytes()


def test_a_job_has_its_picture_and_still_has_it_when_it_is_tried_again(service: Service) -> None:
    assert service.spool.submit(json.dumps(OVER).encode(), "again", {"start.png": png(WHITE)}) == "again"
    first = service.ended("again")
    assert first.state == "done"
    assert sorted(path.name for path in first.path.iterdir()) == ["0.png", "inputs", "job.json", "record.json"]
    assert (first.path / "inputs" / "start.png").read_bytes() == png(WHITE)
    assert look(picture(first.path / "0.png")).background == "blue"
    first.path.rename(service.spool.root / "failed" / "again")  # as if it had failed
    assert service.spool.retry("again")
    assert service.ended("again").state == "done"


# -- while it is drawn ---------------------------------------------------------------------------------------------------------


def test_waiting_jobs_are_drawn_together_each_with_its_own_progress_preview_and_cancel(
    service: Service, tmp_path: Path
) -> None:
    spool, names = service.spool, ("run0", "run1")
    # One after another by `--batch=1`: for minutes, however quick the machine, and cancelled at the end.
    for seed, name in enumerate(names):
        drop(spool, f"{name}.json", SLOW | {"seed": seed, "count": 16})
    places = [wait_running(spool, name) for name in names]
    drop(spool, "wait.json", SLOW)
    for place in places:
        wait_for((place.path / "preview.jpg").exists, "its preview")
    wait_for(lambda: (told := service.spooler.status()) and set(told.running) == set(names), "both to be told of")
    client = create_app(Settings(spool=spool.root, cache=tmp_path)).test_client()
    [told] = client.get("/api/v1/status").get_json()["spoolers"]
    assert set(told["running"]) == set(names)
    for name in names:
        report = client.get(f"/api/v1/jobs/{name}").get_json()
        assert report["status"] == "running" and 0 < report["progress"]["step"] <= report["progress"]["steps"]
        wait_for(lambda name=name: name in client.get("/status").text, "its worker's next sign of life")
    assert 'sdspool_spooler_running_jobs{spooler="test"} 2.0' in client.get("/metrics").text

    def is_cancelled(name: str) -> bool:
        place = service.ended(name)
        return place.state == "cancelled" and service.attempts(place) == ["cancelled"] and not service.record(place).images

    assert spool.cancel("wait").state == "cancelled"  # type: ignore[union-attr]
    assert spool.cancel("run1") == places[1] and is_cancelled("run1")
    late = service.record(service.done("late", SLOW | {"steps": 8}))
    assert late.engine and late.engine.shared == 2, "it joined, and left when it was done"
    assert spool.cancel("run0") == places[0] and is_cancelled("run0")


def test_pictures_are_shown_as_they_are_made(service: Service) -> None:
    drop(service.spool, "album.json", MANY)
    place = wait_running(service.spool, "album")
    told = wait_for(lambda: (now := service.spool.read_progress(place)) and len(now.images) > 1 and now, "two pictures")
    assert told.count == 18 and [image.file for image in told.images][:2] == ["0.png", "1.png"]
    for image in told.images:
        assert picture(place.path / image.file).width == image.width
    assert service.spool.find("album") == place, "it runs"
    service.spool.cancel("album")
    ended = service.ended("album")
    assert ended.state == "cancelled" and not service.record(ended).images


def test_pause_stops_claiming_and_its_removal_goes_on(service: Service) -> None:
    pause, status = service.spool.root / "PAUSE", service.spooler.status
    pause.touch()
    wait_for(lambda: (told := status()) and told.paused, "the spooler to see PAUSE")
    drop(service.spool, "paused.json", RED_ON_BLUE | {"steps": 4})
    beats = {wait_for(status, "a beat").beat}
    wait_for(lambda: beats.add(status().beat) or len(beats) > 2, "two more beats")  # type: ignore[union-attr, func-returns-value]
    assert service.spool.find("paused").state == "pending"  # type: ignore[union-attr]
    pause.unlink()
    assert service.ended("paused").state == "done"


def test_p7_what_is_not_drawn_together_is_drawn_one_at_a_time(local: Service) -> None:
    """Of an engine here: of one elsewhere the record tells when the job was sent to it."""
    names = [f"many{number}" for number in range(6)]
    for number, name in enumerate(names):
        drop(local.spool, f"{name}.json", RED_ON_BLUE | {"steps": 3, "count": 2, "width": 64 + 8 * number})
    records = [local.record(local.ended(name)) for name in names]
    tries = sorted((attempt.started, attempt.ended or "") for record in records for attempt in record.attempts)
    assert len(tries) == 6
    for (_, ended), (began, _) in zip(tries, tries[2:], strict=False):
        assert ended <= began, "the engine has one to draw, and at most the next"
    drawing_s = sum(record.timings.denoise + record.timings.decode for record in records)
    assert drawing_s <= moments.seconds(max(ended for _, ended in tries)) - moments.seconds(tries[0][0])


# -- what is put into pending/ -------------------------------------------------------------------------------------------------


def test_p5_bad_drops_are_set_aside_with_their_reasons_and_nothing_else_is_disturbed(service: Service) -> None:
    pending, rejected = service.spool.pending, service.spool.rejected_folder
    keep = service.done("keep", RED_ON_BLUE | {"steps": 4})
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
        drop(service.spool, name, raw)
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
    service.done("after", RED_ON_BLUE | {"steps": 4})


def test_a_half_written_drop_is_waited_for(service: Service) -> None:
    raw = json.dumps(RED_ON_BLUE | {"steps": 4}).encode()
    path = service.spool.pending / "slow.json"
    with path.open("wb", buffering=0) as file:
        for number, start in enumerate(range(0, len(raw), 30)):
            file.write(raw[start : start + 30])
            # A scan that sets this one aside has looked at the other one too.
            drop(service.spool, f"canary{number}.json", b"[]")
            canary = service.spool.rejected_folder / f"canary{number}.json"
            wait_for(canary.exists, "a scan after each piece")
    assert service.ended("slow").state == "done"
    assert not (service.spool.rejected_folder / "slow.json").exists()


def test_a_dropped_folder_waits_for_its_picture(service: Service) -> None:
    folder = service.spool.pending / "slow folder"
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(OVER | {"steps": 4}))
    drop(service.spool, "early.json", b"[]")
    wait_for((service.spool.rejected_folder / "early.json").exists, "a scan that saw the folder without its picture")
    assert folder.exists()
    (folder / "start.png").write_bytes(png(WHITE)[:70])  # half of it
    drop(service.spool, "late.json", b"[]")
    wait_for((service.spool.rejected_folder / "late.json").exists, "a scan that saw half a picture")
    (folder / "start.png").write_bytes(png(WHITE))
    place = service.ended("slow-folder")
    assert place.state == "done" and (place.path / "inputs" / "start.png").read_bytes() == png(WHITE)


def test_p5_dropped_jobs_whose_pictures_do_not_come_are_set_aside(service: Service) -> None:
    folder = service.spool.pending / "lonely"
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(OVER))
    drop(service.spool, "flat.json", OVER)
    for name, part in (("lonely", "`start.png` must lie beside job.json"), ("flat.json", "must be a folder in pending/")):
        reason = service.spool.rejected_folder / f"{name}.reason.txt"
        wait_for(reason.exists, f"{name} to be set aside")
        assert part in reason.read_text()


def test_the_command_line_submits_waits_and_prints_the_pictures(service: Service) -> None:
    command = [sys.executable, "-m", "spooler.cli", "submit", "a small yellow star on a black background", "--seed", "3"]
    spool_option, options = ["--spool", str(service.spool.root)], ["--count", "2", "--steps", "12", "--wait"]
    done = subprocess.run([*command, *options, *spool_option], capture_output=True, text=True, cwd=ROOT, check=True)
    pictures = [Path(line) for line in done.stdout.splitlines()]
    assert len(pictures) == 2 and all(look(picture(path)).background == "black" for path in pictures)
    wrong = subprocess.run([*command, "--steps", "none", *spool_option], capture_output=True, text=True, cwd=ROOT, check=False)
    assert wrong.returncode == 2 and '`steps` must be a whole number, but is "none".' in wrong.stderr


def test_the_command_line_sends_the_file_of_a_path(service: Service, tmp_path: Path) -> None:
    (tmp_path / "start.png").write_bytes(png(WHITE))
    command = [sys.executable, "-m", "spooler.cli", "submit", str(OVER["prompt"]), "--spool", str(service.spool.root)]
    options = ["--image", str(tmp_path / "start.png"), "--strength", "0.9", "--steps", "12", "--wait"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert look(picture(Path(done.stdout.strip()))).background == "blue"
    gone = subprocess.run([*command, "--image", "gone.png"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert gone.returncode == 2 and "`gone.png` must be given along" in gone.stderr


def test_a_second_spooler_of_that_name_refuses_to_start(service: Service) -> None:
    second = Spooler(service.spool, name=service.spooler.name)
    assert second.ended() == 2
    assert f"a spooler named {service.spooler.name} is running on this spool" in second.log
    assert service.spooler.status()


# -- whatever is killed --------------------------------------------------------------------------------------------------------


def test_p2_p4_whatever_dies_no_job_is_lost_and_one_that_keeps_killing_the_engine_fails(service: Service) -> None:
    spool = service.spool
    drop(spool, "poison.json", LONG)
    drop(spool, "companion.json", LONG | {"seed": 2})

    # 1. The engine dies under both: nobody knows which of them it was, none is blamed, and each is tried alone.
    for place in [wait_running(spool, name) for name in ("poison", "companion")]:
        assert service.attempts(place) == [None]
    os.kill(service.engine_pid(), signal.SIGKILL)
    wait_for(lambda: service.first_outcome("poison"), "the attempt to be ended")
    assert service.first_outcome("poison") == "company-died: killed by SIGKILL"

    # 2. A hung kernel: alive, and silent. That was the last attempt of the one that it ran, and the queue goes on.
    wait_running(spool, "poison")
    os.kill(service.engine_pid(), signal.SIGSTOP)
    failed = service.ended("poison")
    record = service.record(failed)
    assert failed.state == "failed" and record.failure and record.failure.code == "worker-died"
    assert "no sign of life" in record.failure.reason and record.attempts_used == 1
    companion = service.ended("companion")
    assert companion.state == "done" and service.attempts(companion) == ["company-died: killed by SIGKILL", "done"]
    assert service.record(companion).engine.shared == 1  # type: ignore[union-attr]

    # 3. Sent back by somebody, it has its attempts anew. SIGTERM of the spooler: the job stays, the attempt does not count.
    assert spool.retry("poison")
    place = wait_running(spool, "poison")
    assert service.spooler.stop() == 0
    assert service.attempts(place)[2:] == ["stopped"]

    # 4. kill -9 of the spooler. What draws for it ends, too: here at once, elsewhere at the latest with the job.
    service.start("--max-attempts=2")
    wait_for(lambda: len(service.attempts(place)) == 4, "the next attempt")
    wait_running(spool, "poison")
    is_drawn = service.at_work("poison")
    service.spooler.kill()
    assert spool.find("poison").state == "claimed"  # type: ignore[union-attr]

    # 5. A spooler of another name takes the dead one's job over.
    heir = service.start("--max-attempts=2", name="heir")
    done = service.ended("poison")
    assert done.state == "done", heir.log
    assert service.attempts(done)[3:] == ["worker-died: the spooler died", "done"]
    assert sorted(path.name for path in done.path.iterdir()) == ["0.png", "job.json", "record.json"]
    assert service.record(done).parameters.seed == 1  # type: ignore[union-attr]
    wait_for(lambda: not is_drawn(), "what drew for the dead one to have ended")
