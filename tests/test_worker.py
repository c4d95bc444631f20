"""What the engine promises the spooler for each job, without a spool between them."""

from __future__ import annotations

import errno
import shutil
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL.Image import Image as Picture

from bench.direct import Direct, Nobody
from spooler import library, messages
from spooler.engine.safety import Safety, Verdict

CIRCLE = {"prompt": "a large red circle on a blue background", "seed": 5, "steps": 2}


class Slow(Nobody):
    """A layer that looks at each picture for long, and the commands that cancel the job as soon as it looks at the first."""

    def __init__(self) -> None:
        self.seen: list[Picture] = []
        self.judged: list[Picture] = []
        self.begun = threading.Event()
        self.over = threading.Event()

    def judge(self, picture: Picture) -> Verdict | None:
        self.seen.append(picture)
        self.begun.set()
        self.over.wait(2)  # less, when the engine says too early that the job is over
        self.judged.append(picture)
        return None

    def unwanted(self, job_id: str) -> bool:
        return self.begun.is_set()


def test_no_picture_is_written_after_a_job_was_said_to_be_over(tmp_path: Path) -> None:
    engine, slow = Direct(tmp_path, batch=1, preview_s=0), Slow()
    engine.engine._safety, engine.engine._commands = Safety((slow,), "withhold"), slow  # type: ignore[assignment]
    folder = engine.run(CIRCLE | {"count": 6})
    still_looking, there = len(slow.seen) - len(slow.judged), sorted(path.name for path in folder.iterdir())
    slow.over.set()
    assert isinstance(engine.ended, messages.Failed) and engine.ended.code == "cancelled"
    assert still_looking == 0
    told = [message.image.file for message in engine.said if isinstance(message, messages.ImageDone)]
    assert there == sorted([*told, "inputs"]) and 0 < len(told) < 6
    engine.engine._files.shutdown()
    assert sorted(path.name for path in folder.iterdir()) == there
    engine.close()


def test_a_full_disk_is_told_as_such_takes_no_room_and_is_no_matter_of_the_others(tmp_path: Path) -> None:
    """Linux answers ENOSPC to whoever writes to /dev/full: the draft of the first job's picture leads there."""
    engine = Direct(tmp_path)
    runs = [engine._ordered(CIRCLE | {"seed": seed}, {}, f"job{seed}") for seed in (1, 2)]
    draft = Path(runs[0].folder) / ".0.png"
    draft.symlink_to("/dev/full")
    full, well = engine.engine.run_all(runs)
    assert isinstance(full, messages.Failed) and (full.code, full.errno) == ("no_space", errno.ENOSPC)
    assert isinstance(well, messages.Finished)
    assert not draft.is_symlink() and sorted(path.name for path in Path(runs[1].folder).iterdir()) == ["0.png", "inputs"]
    engine.close()


def test_the_hash_is_that_of_the_weights_that_drew(tmp_path: Path) -> None:
    model = tmp_path / "models" / "mine"
    shutil.copytree(library.DEMO, model)
    engine = Direct(tmp_path, model="mine")
    (first,) = engine.draw(**CIRCLE)
    weights = next((model / "unet").glob("*.safetensors"))
    weights.write_bytes(next((model / "vae").glob("*.safetensors")).read_bytes())
    for _ in range(2):
        (again,) = engine.draw(**CIRCLE)
        assert again.tobytes() == first.tobytes()
        assert isinstance(engine.ended, messages.Finished) and engine.ended.facts.hash == engine.facts.hash
        model.rename(tmp_path / "gone")
        model = tmp_path / "gone"
    engine.close()


def test_add_ons_that_no_job_names_any_more_are_let_go_and_first_of_all_when_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcde":
        shutil.copytree(library.DEMO / "vae", tmp_path / "models" / "vaes" / name)
    engine = Direct(tmp_path)
    model = engine.engine._residents.get("demo")
    alone = model.bytes()
    vae = sum(each.numel() * each.element_size() for each in model.pipeline("txt2img").vae.parameters())
    (plain,) = engine.draw(**CIRCLE)
    for name in "abcade":
        (drawn,) = engine.draw(**CIRCLE, vae=name)
        assert drawn.tobytes() == plain.tobytes()
    assert model.bytes() == alone + 3 * vae, "the one of the job and two more"

    forward, calls = model.backbone.forward, count()

    def short(*given: Any, **more: Any) -> Any:
        if next(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(*given, **more)

    monkeypatch.setattr(model.backbone, "forward", short)
    for kind in ({}, {"hires": {"scale": 1.5, "strength": 0.0}}):  # with others, and alone
        calls = count()
        assert engine.draw(**CIRCLE, vae="e", **kind)
        assert next(calls) >= 3 and isinstance(engine.ended, messages.Finished) and engine.ended.facts.rung is None
        assert model.bytes() == alone + vae
        engine.draw(**CIRCLE, vae="a")
    engine.close()
