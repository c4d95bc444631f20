"""A client of sdspool for Python programs: the same calls over HTTP, or straight on the folder of a spool. No torch.

    from spooler.client import Client

    client = Client("http://gpu-box:7860", key="...")    # or Client("/srv/sdspool/spool")
    job_id = client.submit({"prompt": "a large red circle on a blue background"})
    client.wait(job_id)
    client.save(job_id, "pictures")

What a call does in the folder is what the web app does with it, but for what is the web app's own: its keys, its deny list and
its bounds on how many jobs may wait. A job is submitted once, however often the network breaks: the id is made here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from spooler.catalogue import Catalogue
from spooler.ids import new_id
from spooler.job import Job, encode
from spooler.mistakes import Mistake
from spooler.record import Failure, Image
from spooler.states import ENDS, Status
from spooler.strict_json import parse_object

ENDED: frozenset[Status] = frozenset(ENDS)
Verb = Literal["cancel", "hold", "release", "top", "retry", "star", "unstar", "delete"]
#: A job as its fields, or as the record of `spooler.job`.
AnyJob = Mapping[str, Any] | Job
#: The pictures that a job names, by their names: their bytes, or where they are.
Inputs = Mapping[str, bytes | Path]


class ClientError(RuntimeError):
    """A call that did not do what it was asked: the sentence says why."""


class RefusedError(ClientError):
    """A job, or a value, that is not accepted: met by whoever made it, with every mistake in `mistakes`."""

    def __init__(self, message: str, mistakes: Sequence[Mistake] = ()):
        super().__init__(message)
        self.mistakes = tuple(mistakes)


class NoSuchJobError(ClientError):
    """There is no job, or batch, of that id."""


class WrongStateError(ClientError):
    """The job's state does not allow it, or its id is taken: met by whoever was too late."""


class ForbiddenError(ClientError):
    """The key is missing, wrong, or not the job's owner's."""


class BusyError(ClientError):
    """The server takes nothing more just now (a full queue, a full disk): try again after `retry_s` seconds."""

    def __init__(self, message: str, retry_s: float):
        super().__init__(message)
        self.retry_s = retry_s


class UnreachableError(ClientError):
    """Nobody answers there, or nothing that can be understood."""


class WaitError(ClientError):
    """The job did not end in time. It goes on."""


class ProgressView(BaseModel):
    """How far a running job is."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    phase: str = ""
    step: int = 0
    steps: int = 0
    fraction_done: float = Field(0.0, description="From 0 to 1.")


class JobView(BaseModel):
    """What is known of a job."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    status: Status
    job: Job = Field(description="What was asked for.")
    parameters: Job | None = Field(None, description="What is run: every default and the seed filled in.")
    progress: ProgressView | None = None
    images: tuple[Image, ...] = ()
    starred: bool = False
    failure: Failure | None = None
    queued: str | None = None
    started: str | None = None
    completed: str | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class ChangeView(BaseModel):
    """Something that happened to a job: it came (`was` is null), went on, ended, or is gone (`status` is null)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    status: Status | None = Field(description="How it is now; null: it was removed.")
    was: Status | None = Field(description="How it was told to be before; null: it came just now.")
    progress: ProgressView | None = Field(None, description="Of a running job.")


class BatchView(BaseModel):
    """A batch: its id, and the ids of its jobs in their order."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    jobs: tuple[str, ...]


class Door(Protocol):
    """A way to the jobs: over HTTP (door_http.py), or the folder itself (door_folder.py)."""

    def submit(self, job: dict[str, Any], job_id: str | None, inputs: Mapping[str, bytes]) -> str: ...
    def submit_batch(self, jobs: list[dict[str, Any]], key: str) -> BatchView: ...
    def batch(self, batch_id: str) -> BatchView: ...
    def job(self, job_id: str) -> JobView: ...
    def jobs(self, status: Status | None, owner: str | None, limit: int) -> list[JobView]: ...
    def looks(self, job_id: str, timeout_s: float | None) -> Iterator[JobView]: ...
    def watch(self, timeout_s: float | None) -> Iterator[ChangeView | None]: ...
    def act(self, job_id: str, verb: Verb) -> None: ...
    def edit(self, job_id: str, changes: dict[str, Any]) -> None: ...
    def again(self, job_id: str, changes: dict[str, Any], new_id: str) -> str: ...
    def priority(self, job_id: str, value: int | None) -> None: ...
    def image(self, job_id: str, image: Image) -> bytes: ...
    def models(self) -> Catalogue: ...
    def pause(self, paused: bool) -> None: ...


class Client:
    """The jobs of one server, or of one spool. Safe for many threads: it keeps no connection and no state."""

    def __init__(self, where: str | Path, key: str | None = None, timeout_s: float = 60.0):
        """`where`: the server's address, or the spool's folder. `timeout_s`: for one answer of the server."""
        from spooler.door_folder import FolderDoor
        from spooler.door_http import HttpDoor

        over_http = isinstance(where, str) and where.startswith(("http://", "https://"))
        self._door: Door = HttpDoor(str(where), key, timeout_s) if over_http else FolderDoor(Path(where))

    # -- in ------------------------------------------------------------------------------------------------------------------

    def submit(self, job: AnyJob | str, *, id: str | None = None, inputs: Inputs | None = None) -> str:
        """Put a job into the queue, for good, and return its id; a text is a job's prompt.

        Raises RefusedError, WrongStateError for an id that is taken, BusyError, UnreachableError.
        """
        given = {name: data if isinstance(data, bytes) else data.read_bytes() for name, data in (inputs or {}).items()}
        return self._door.submit(_fields(job), id, given)

    def submit_batch(self, jobs: Iterable[AnyJob | str]) -> BatchView:
        """Put many jobs into the queue: all of them, or, if this raises RefusedError, none."""
        return self._door.submit_batch([_fields(job) for job in jobs], new_id())

    # -- looking -------------------------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> JobView:
        """Raises NoSuchJobError."""
        return self._door.job(job_id)

    def jobs(self, status: Status | None = None, owner: str | None = None, limit: int = 50) -> list[JobView]:
        """Jobs of one status, or of all; of those that ended the newest first, of those that wait the next to run first (over
        HTTP), or the first that came (in a folder, where nobody keeps the line)."""
        return self._door.jobs(status, owner, limit)

    def batch(self, batch_id: str) -> BatchView:
        return self._door.batch(batch_id)

    def events(self, job_id: str, timeout_s: float | None = None) -> Iterator[JobView]:
        """The job now and at each change, until it ended or `timeout_s` seconds are over."""
        return self._door.looks(job_id, timeout_s)

    def watch(self, timeout_s: float | None = None) -> Iterator[ChangeView | None]:
        """What happens to all the jobs, until `timeout_s` seconds are over.

        None, first of all and whenever something may have been missed, means: what you know of the jobs may be old, so list
        them now. Raises BusyError when the server has no seat.
        """
        return self._door.watch(timeout_s)

    def wait(self, job_id: str, timeout_s: float | None = None) -> JobView:
        """The job when it has ended. Raises WaitError when that takes longer than `timeout_s` seconds, NoSuchJobError."""
        last: JobView | None = None
        for last in self._door.looks(job_id, timeout_s):
            if last.ended:
                return last
        raise WaitError(f"The job {job_id} did not end within {timeout_s:g} s; it is {last.status if last else 'unknown'}.")

    def images(self, job_id: str) -> list[bytes]:
        """The finished pictures of a job, as PNG."""
        return [self._door.image(job_id, image) for image in self._door.job(job_id).images if image.file]

    def save(self, job_id: str, folder: str | Path) -> list[Path]:
        """Write the finished pictures into the folder as <id>-0.png and so on; returns where they are."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        paths = []
        for image in self._door.job(job_id).images:
            if image.file:
                paths.append(target / f"{job_id}-{image.file}")
                paths[-1].write_bytes(self._door.image(job_id, image))
        return paths

    def models(self) -> Catalogue:
        """What a job may name."""
        return self._door.models()

    # -- changing: each raises NoSuchJobError, WrongStateError, ForbiddenError ---------------------------------------------

    def cancel(self, job_id: str) -> None:
        """A waiting job is cancelled at once, a running one at its next step."""
        self._door.act(job_id, "cancel")

    def hold(self, job_id: str) -> None:
        self._door.act(job_id, "hold")

    def release(self, job_id: str) -> None:
        self._door.act(job_id, "release")

    def top(self, job_id: str) -> None:
        """To the top of the queue."""
        self._door.act(job_id, "top")

    def retry(self, job_id: str) -> None:
        """A failed or cancelled job goes back to the queue."""
        self._door.act(job_id, "retry")

    def star(self, job_id: str) -> None:
        """Spare a finished job from retention and deletion."""
        self._door.act(job_id, "star")

    def unstar(self, job_id: str) -> None:
        self._door.act(job_id, "unstar")

    def delete(self, job_id: str) -> None:
        """Remove a job that has ended, with its pictures, for good."""
        self._door.act(job_id, "delete")

    def edit(self, job_id: str, **changes: Any) -> JobView:
        """Give a waiting job other values; None takes a field away. Raises RefusedError, too."""
        self._door.edit(job_id, changes)
        return self._door.job(job_id)

    def again(self, job_id: str, **changes: Any) -> str:
        """Submit a job that has ended once more, with other values, as a new one: its id. Raises RefusedError, too."""
        return self._door.again(job_id, changes, new_id())

    def priority(self, job_id: str, value: int | None) -> None:
        """Give a waiting job another priority than its own; None takes that back."""
        self._door.priority(job_id, value)

    def pause(self) -> None:
        """Nothing more is begun; what runs is finished."""
        self._door.pause(True)

    def resume(self) -> None:
        self._door.pause(False)


def _fields(job: AnyJob | str) -> dict[str, Any]:
    if isinstance(job, str):
        return {"prompt": job}
    return parse_object(encode(job)) if isinstance(job, Job) else dict(job)
