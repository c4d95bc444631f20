"""The spooler's side of a cluster: a real Redis, and no worker but the one that a test makes up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster import Redis
from house import wait_for

from spooler import messages
from spooler.child import Child, Gone
from spooler.job import Job
from spooler.record import Image
from spooler.remote.broker import WORKERS, beat_key, channel, key, result_key
from spooler.remote.dispatch import Dispatch
from spooler.remote.store import Store
from spooler.remote.wire import Beat, Made, Name, Result
from spooler.settings import Settings
from tests.prove.restart import FACTS

JOB = Job(prompt="x", model="demo", seed=1)
Message = messages.FromEngine | Gone


class Stage:
    """The spooler's side, and a worker that is nobody but what a test writes into Redis."""

    def __init__(self, folder: Path, redis: Redis):
        self.folder, self.redis = folder, redis
        self.heard: list[Message] = []
        self.beats = 0
        self.store = Store(f"file://{folder}/store")
        (folder / "job").mkdir(parents=True)
        (folder / "spool" / "tmp").mkdir(parents=True)
        where = {"dispatch": redis.url, "dispatch_password_file": str(redis.password_file), "store": self.store.url}
        settings = Settings(spool=folder / "spool", spooler="me", **where)
        redis.client.flushall()
        self.dispatch = Dispatch(settings, lambda child, said: self.hear(child, said))
        self.beat()
        wait_for(lambda: self.told(messages.Ready), "the worker to be seen")

    def hear(self, child: Child, said: Message) -> None:
        self.heard.append(said)

    def told(self, *kinds: type[Any]) -> list[Any]:
        return [each for each in self.heard if isinstance(each, kinds)]

    @property
    def ends(self) -> list[Any]:
        return self.told(messages.Finished, messages.Failed, messages.Lost)

    def beat(self, **changes: Any) -> None:
        self.beats += 1
        beat = Beat(worker="w", number=self.beats, host="h", slots=1, facts=FACTS).model_dump(mode="json") | changes
        self.redis.client.set(beat_key("w"), json.dumps(beat))
        self.redis.client.sadd(WORKERS, "w")

    def send(self, job: Job = JOB, attempt: int = 1) -> str:
        """A job goes out; the name of its try."""
        run = messages.Run(id="cat", folder=str(self.folder / "job"), job=job, cells=(job,), attempt=attempt)
        self.dispatch.send(run)

        def name() -> str | None:
            task = str(self.redis.client.get(key("me", "cat"))).partition("|")[0]
            return task if task.startswith(f"cat.{attempt}.") else None

        return wait_for(name, "the job to be sent")

    def put(self, task: str, index: int, data: bytes = b"png") -> Made:
        """A picture of that try, in the store."""
        image = Image(file=f"{index}.png", index=index, seed=1 + index, width=8, height=8)
        return Made(image=image, file=self.store.put(Name.parse(task).folder("me"), image.file, data))

    def answer(self, task: str, result: dict[str, Any] | str, status: str = "SUCCESS") -> Any:
        """The worker's result; what the spooler is told of it."""
        raw = result if isinstance(result, str) else json.dumps({"status": status, "result": result})
        self.redis.client.set(result_key(task), raw)
        self.redis.client.publish(channel("me"), json.dumps({"task": task, "ended": True}))
        return wait_for(lambda: self.ends[-1:], "the end of the job")[0]

    def say(self, task: str, **said: Any) -> None:
        self.redis.client.publish(channel("me"), json.dumps({"task": task} | said))

    def goes_on(self) -> None:
        """It still hears: of a worker that is ailing now."""
        self.beat(trouble="it rains")
        wait_for(lambda: any("it rains" in (each.reason or "") for each in self.told(messages.Trouble)), "the worker's trouble")
        assert not self.told(Gone), self.told(Gone)


def finished(*made: Made, **changes: Any) -> dict[str, Any]:
    """The result of a try that made these."""
    end = messages.Finished(id="cat", timings={"denoise": 1.0}, facts=FACTS)  # type: ignore[arg-type]
    images, files = tuple(each.image for each in made), tuple(each.file for each in made if each.file)
    return json.loads(Result(worker="w", end=end, images=images, files=files).model_dump_json()) | changes
