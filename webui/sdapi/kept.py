"""What the web app keeps in memory for this API: the options that a client has set, and the jobs of task ids.

They are of one web process and gone with it: the options start from the server's own, and a task is found by its id alone.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import cast

from flask import current_app

MOST_TASKS = 1000


@dataclass(frozen=True)
class Options:
    """What is drawn with where a request does not say: the names of the model and the VAE ("": the server's, the model's
    own), and the layer of the text encoder, from the last."""

    model: str = ""
    vae: str = ""
    clip_skip: int = 1


class Kept:
    """Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._options: dict[str, Options] = {}
        self._tasks: OrderedDict[tuple[str, str], str] = OrderedDict()

    def options(self, who: str) -> Options:
        """Those of the person of that name; where nobody needs a key, all are one, of no name."""
        return self._options.get(who, Options())

    def change(self, who: str, options: dict[str, str | int]) -> None:
        with self._lock:
            self._options[who] = replace(self.options(who), **options)  # type: ignore[arg-type]

    def note_task(self, who: str, task: str, job_id: str) -> None:
        """A job of that person began under a task's id, which A1111's clients may use again, and others too."""
        with self._lock:
            self._tasks.pop((who, task), None)
            self._tasks[who, task] = job_id
            if len(self._tasks) > MOST_TASKS:
                self._tasks.popitem(last=False)

    def job_of(self, who: str, task: str) -> str:
        """The id of the person's task's last job; its own where nothing else is known."""
        with self._lock:
            return self._tasks.get((who, task), task)


def kept() -> Kept:
    """What the app that serves this request keeps."""
    return cast(Kept, current_app.extensions["sdapi"])
