"""What the engine promises the spooler for each job, without a spool between them."""

from __future__ import annotations

import threading
from pathlib import Path

from PIL.Image import Image as Picture

from bench.direct import Direct, Nobody
from spooler import messages
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
