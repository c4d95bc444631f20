"""`sdspool worker`: an ordinary Celery worker around one local engine. It needs no spool, and no way to one.

A task runs in a thread of Celery's, as many at the same time as the engine can draw together: it takes the try (one swap of one
key: a task that Celery delivers twice is drawn once), fetches the pictures, has the engine draw, puts what it made into the
store, and returns wire.Result, which says what there is with its checksums. Another thread tells every second that the worker
lives and what it has, how far its jobs are, and hears which of them nobody wants any more. A third puts pictures into the store
whose jobs are still being drawn.
"""

from __future__ import annotations

import base64
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from celery import Celery
from celery import Task as CeleryTask
from celery.exceptions import Ignore, Reject
from celery.signals import setup_logging
from celery.worker import WorkController
from celery.worker.request import Request as CeleryRequest
from celery.worker.state import reserved_requests

from spooler import library, logs, messages
from spooler.catalogue import Catalogue
from spooler.child import Child
from spooler.durable import PASSING
from spooler.remote import broker as redises
from spooler.remote.bench import Bench, Seat, Start
from spooler.remote.broker import BROKER_ERRORS, Broker, BrokerError
from spooler.remote.scratch import Scratch, sweep
from spooler.remote.store import DamagedError, Store, StoreAddressError, StoreError
from spooler.remote.wire import MAX_MADE, MAX_PREVIEW_BYTES, MAX_SLOTS, MAX_TROUBLE, Beat, File, Made, Name, Result, Said, Task
from spooler.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")
TELL_S = 0.5
RETRY_S = 1.0
#: Seconds for which a worker with an unusable disk keeps a job from coming straight back.
DISK_REST_S = 5.0
#: Seconds for which what is drawn stands back for the next task, for which the engine waits: both need the one interpreter.
FIRST_S = 0.01


class UnwantedError(Exception):
    """Nobody waits for this try any more: met where it would have gone on."""


class Request(CeleryRequest):  # type: ignore[misc]
    """A message in hand. Celery's tools are told of it by its job's id, which the spooler sends for that, without a prompt."""

    def info(self, safe: bool = False) -> dict[str, Any]:
        told: dict[str, Any] = super().info(safe=True)
        return told


@dataclass
class Held:
    """A task that this worker has."""

    task: Task
    id: str
    seat: Seat
    scratch: Scratch
    told: messages.Progress | None = None
    is_drawn: bool = False  # only its way home is left
    made: list[Made] = field(default_factory=list)  # pictures that went to the store before all were drawn
    told_made: int = 0  # ... and how many of them were told of
    is_behind: bool = False  # whether some could not go there, as was logged
    storing: threading.Lock = field(default_factory=threading.Lock)  # had by whoever puts its pictures there
    previewed: float = 0.0  # time of change of the preview that was told last
    trouble: str | None = None  # why it cannot go on just now

    @property
    def folder(self) -> Path:
        return self.scratch.path


class Worker:
    """One worker's life."""

    def __init__(self, settings: Settings, broker: Broker, store: Store, catalogue: Catalogue, start: Start = Child):
        self._settings = settings
        self._store = store
        self._models = {card.name for card in catalogue.models}
        self._redis = broker.client()
        self._swap = self._redis.register_script(redises.SWAP)
        self._bench = Bench(_engine_settings(settings), start)
        self._name = f"{_host()}.{secrets.token_hex(4)}"
        self._held: dict[str, Held] = {}  # by the tasks' ids
        self._queue = ""
        self._beats = 0
        self._closed = threading.Event()
        self._disk_trouble: str | None = None
        self._begun = threading.Event()  # a task, since the engine had done with the last one
        self._app = broker.celery(redises.deadline_s(settings), self._has_room)
        self._celery: WorkController | None = None
        self._add_task(self._app)

    @property
    def _node(self) -> str:
        return f"sdspool@{self._name}"

    def run(self) -> int:
        """Work until SIGTERM, which lets the jobs at work end first. Returns the exit status: 2 when it cannot work here."""
        sweep()
        self._bench.start()
        try:
            if not self._is_warm():
                return self._farewell()
            assert self._bench.facts  # noqa: S101 - it is warm
            self._queue = redises.queue_of(self._bench.facts.model)
            self._beat()
            threading.Thread(target=self._tell_on, name="beat", daemon=True).start()
            threading.Thread(target=self._store_on, name="store", daemon=True).start()
            log.info("worker %s: ready for %s", self._name, self._bench.facts.model)
            worker = self._celery = self._app.Worker(
                hostname=self._node,
                pool="threads",
                concurrency=2 * self._settings.together,  # as many again may be on their way home, see _has_room
                queues=[self._queue, redises.COMMON],
                without_mingle=True,
                without_gossip=True,
                quiet=True,
            )
            worker.start()
            return self._farewell() or worker.exitcode or 0
        finally:
            self._closed.set()
            self._bench.close()
            for held in list(self._held.values()):
                self._drop(held)
            self._part()

    def _is_warm(self) -> bool:
        """Wait until the engine is warm; False when it never will be, or the worker is stopped."""
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        while not (self._bench.facts or self._bench.over or stopped.wait(0.1)):
            pass
        return bool(self._bench.facts) and not stopped.is_set()

    def _farewell(self) -> int:
        if not self._bench.over:
            return 0
        log.error("%s", self._bench.over)
        return 2 if self._bench.refused else 1

    def _part(self) -> None:
        """Say that it is gone, so that nobody waits for its next heartbeat."""
        try:
            self._redis.delete(redises.beat_key(self._name))
            self._redis.srem(redises.WORKERS, self._name)
        except BROKER_ERRORS as error:
            log.info("Redis was not told that this worker ended: %s", error)

    def _has_room(self) -> bool:
        """Whether one more task may be fetched: while the engine has seats that no task in hand is for.

        What is drawn needs none, so that pictures go to the store while the next ones are drawn. And none is fetched before it
        can be begun: another worker may have room for it.
        """
        fetched = {request.id for request in list(reserved_requests)} | set(self._held)
        return sum(not (held := self._held.get(task)) or not held.is_drawn for task in fetched) < self._settings.together

    def _rise(self, held: Held) -> None:
        """The engine has done with it: Celery is to look at once whether there is another task."""
        held.is_drawn = True
        self._begun.clear()
        if self._celery and (hub := self._celery.hub):
            hub.call_soon(lambda: None)

    # -- a task --------------------------------------------------------------------------------------------------------------

    def _add_task(self, app: Celery) -> None:
        of_it = {"name": redises.TASK, "Request": Request, "after_return": self._after_return}

        @app.task(bind=True, **of_it)  # type: ignore[untyped-decorator]
        def draw(task: CeleryTask, payload: dict[str, Any]) -> dict[str, Any]:
            return self._draw(str(task.request.id), payload)

    def _draw(self, task_id: str, payload: dict[str, Any]) -> dict[str, Any]:
        """One try at a job, from the key to the result. Raises Ignore for one that is not wanted."""
        try:
            task, name = Task.model_validate(payload), Name.parse(task_id)
            if (task.run.id, task.run.attempt) != (name.job, name.attempt):
                raise ValueError(f"task {task_id!a} is not of job {task.run.id!a}, attempt {task.run.attempt}")
        except ValueError as error:  # pydantic's too
            log.error("a task that no spooler wrote: %s", ascii(str(error))[:500])
            raise Ignore from None
        scratch = self._make_scratch(name)
        held = Held(task, task_id, Seat(task.run.model_copy(update={"folder": str(scratch.path)})), scratch)
        if self._held.setdefault(task_id, held) is not held:  # the key could not tell the two apart
            scratch.remove()
            log.info("job %s: attempt %d is at work here already", name.job, name.attempt)
            raise Ignore
        try:
            is_ours = self._take(held)
        except UnwantedError:  # nobody's yet: whoever gets it next finds in its key whether it is wanted
            self._drop(held)
            raise Reject("the worker was stopped, or the job cancelled, before it had it", requeue=True) from None
        if not is_ours:
            self._drop(held)
            log.info("job %s: attempt %d is not wanted any more, or another worker has it", name.job, name.attempt)
            raise Ignore
        log.info("job %s: attempt %d", name.job, name.attempt)
        end, files = self._tried(held, name.folder(task.spooler))
        if held.seat.unwanted:
            self._take_back(held, name.folder(task.spooler))
            if isinstance(end, messages.Finished):
                end, files = _cancelled(held), ()
        log.info("job %s: %s", name.job, end.type)
        return Result(worker=self._name, end=end, images=tuple(held.seat.images), files=files).model_dump(mode="json")

    def _make_scratch(self, name: Name) -> Scratch:
        try:
            scratch = Scratch()
        except OSError as error:
            self._disk_trouble = f"a worker's disk: {error}"[:MAX_TROUBLE]
            log.error("job %s: not begun: %s", name.job, self._disk_trouble)
            self._closed.wait(DISK_REST_S)
            raise Reject(self._disk_trouble, requeue=True) from None  # for whoever has a better disk
        self._disk_trouble = None
        return scratch

    def _after_return(self, status: str, value: Any, task_id: str, *rest: Any) -> None:
        """Celery has stored the result: say that it is there, and only then that the worker no longer has the task."""
        if not (held := self._held.get(task_id)):
            return
        said = Said(task=task_id, ended=True)
        try:
            self._redis.publish(redises.channel(held.task.spooler), said.model_dump_json())
        except BROKER_ERRORS as error:
            log.info("job %s: its end is found a little later: %s", held.task.run.id, error)
        self._drop(held)

    def _drop(self, held: Held) -> None:
        self._held.pop(held.id, None)
        held.scratch.remove()

    def _take(self, held: Held) -> bool:
        """Make the try this worker's; False when it is another's, or nobody's."""
        key = redises.key(held.task.spooler, held.task.run.id)
        before, after = f"{held.id}|waiting|", f"{held.id}|taken|{self._name}"

        def swap() -> bool:
            if self._swap(keys=[key], args=[before, after]):
                return True
            # It may have been done and its answer lost: then the key says so. One that was drawn is only delivered once more.
            return self._redis.get(key) == after and not self._redis.exists(redises.result_key(held.id))

        return self._patiently(swap, held)

    def _tried(self, held: Held, folder: str) -> tuple[messages.Finished | messages.Failed | messages.Lost, tuple[File, ...]]:
        run, files = held.seat.run, ()
        try:
            named = {run.job.model, *(cell.model for cell in run.cells)}
            if unknown := named - self._models:
                reason = f"This worker has no model {sorted(unknown)[0]!a}: all workers and the spooler need the same models."
                return messages.Failed(id=run.id, code="invalid", reason=reason), files
            if [file.name for file in held.task.inputs] != run.job.inputs:
                reason = "The task has other pictures than its job names."
                return messages.Failed(id=run.id, code="invalid", reason=reason), files
            self._fetch(held, folder)
            self._begun.set()
            end = self._bench.draw(held.seat)
            self._rise(held)
            if isinstance(end, messages.Failed) and end.errno in PASSING:
                raise OSError(end.errno, os.strerror(end.errno))
            self._begun.wait(FIRST_S)
            with held.storing:  # nothing goes there once its end is told: it would stay for good
                if isinstance(end, messages.Finished):
                    return end, self._keep(held, folder, end)
            return end.model_copy(update={"fatal": False}) if isinstance(end, messages.Failed) else end, files
        except UnwantedError:
            if not held.seat.unwanted:  # it is this worker that goes
                return messages.Lost(id=run.id, how="the worker was stopped", blame=False), files
            return _cancelled(held), files
        except DamagedError as error:
            return messages.Lost(id=run.id, how=str(error)), files
        except StoreError as error:
            return messages.Lost(id=run.id, how=str(error), blame=False), files
        except OSError as error:  # its own disk
            held.trouble = f"a worker's disk: {error}"[:MAX_TROUBLE]
            self._closed.wait(DISK_REST_S)
            return messages.Lost(id=run.id, how=f"a worker's disk: {error}", blame=False), files

    def _fetch(self, held: Held, folder: str) -> None:
        """Bring the job's pictures here."""
        inputs = held.folder / "inputs"
        for file in held.task.inputs:
            inputs.mkdir(exist_ok=True)
            (inputs / file.name).write_bytes(self._patiently(lambda file=file: self._store.get(f"{folder}/inputs", file), held))  # type: ignore[misc]

    def _keep(self, held: Held, folder: str, end: messages.Finished) -> tuple[File, ...]:
        """Put what the engine made into the store, but for what is there already."""
        kept = {made.file.name: made.file for made in held.made if made.file}
        names = [*(image.file for image in held.seat.images), end.sheet]
        for name in [name for name in names if name and name not in kept]:
            data = (held.folder / name).read_bytes()
            kept[name] = self._patiently(lambda name=name, data=data: self._store.put(folder, name, data), held)  # type: ignore[misc]
        return tuple(kept.values())

    def _take_back(self, held: Held, folder: str) -> None:
        """Leave nothing in the store of a try that nobody wants: who sent it may have cleared up before its last picture came
        there, or be dead."""
        try:
            with held.storing:
                self._store.remove(folder)
        except StoreError as error:
            log.info("job %s: something of it is left behind: %s", held.task.run.id, error)

    def _store_on(self) -> None:
        """Put pictures into the store while others of their jobs are being drawn."""
        while not self._closed.wait(TELL_S):
            for held in list(self._held.values()):
                if not held.storing.acquire(blocking=False):  # all of it goes there now
                    continue
                try:
                    self._store_ahead(held)
                except (OSError, ValueError) as error:
                    if not held.is_behind:
                        log.info("job %s: its pictures wait for its end: %s", held.task.run.id, error)
                    held.is_behind = True
                finally:
                    held.storing.release()

    def _store_ahead(self, held: Held) -> None:
        """Once, without patience: what does not go now goes a little later, or when all are drawn."""
        folder = Name.parse(held.id).folder(held.task.spooler)
        for image in held.seat.images[len(held.made) :]:
            if held.is_drawn or held.seat.unwanted:
                return
            file = self._store.put(folder, image.file, (held.folder / image.file).read_bytes()) if image.file else None
            held.made.append(Made(image=image, file=file))

    def _patiently(self, do: Callable[[], T], held: Held) -> T:
        """Do it, and again as long as Redis or the store does not answer. Raises UnwantedError when the try is not wanted."""
        until = time.monotonic() + redises.STORE_PATIENCE_S
        while True:
            try:
                done = do()
            except (*BROKER_ERRORS, StoreError) as error:
                if time.monotonic() > until and isinstance(error, StoreError):
                    raise
                if held.trouble is None:
                    log.warning("job %s: waits: %s", held.task.run.id, error)
                held.trouble = str(error)[:MAX_TROUBLE]
            else:
                held.trouble = None
                return done
            if held.seat.unwanted or self._closed.wait(RETRY_S):
                raise UnwantedError

    # -- signs of life -------------------------------------------------------------------------------------------------------

    def _tell_on(self) -> None:
        next_beat, well = 0.0, True
        while not self._closed.wait(TELL_S):
            try:
                self._tell()
                if time.monotonic() >= next_beat:
                    self._beat()
                    next_beat = time.monotonic() + redises.BEAT_S - TELL_S / 2
                well = True
            except BROKER_ERRORS as error:
                if well:
                    log.warning("Redis cannot be reached just now: %s", error)
                well = False
            if self._bench.over:
                log.error("%s", self._bench.over)
                os.kill(os.getpid(), signal.SIGTERM)  # Celery lets its tasks tell that they are lost, and ends
                return

    def _beat(self) -> None:
        self._beats += 1
        beat = Beat(
            worker=self._name,
            number=self._beats,
            host=_host(),
            slots=min(self._settings.together, MAX_SLOTS),
            tasks=tuple(self._held),
            facts=self._bench.facts,
            trouble=self._disk_trouble or next((each.trouble for each in list(self._held.values()) if each.trouble), None),
        )
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(redises.beat_key(self._name), beat.model_dump_json(), ex=redises.BEAT_TTL_S)
            pipe.sadd(redises.WORKERS, self._name)
            pipe.execute()
        if beat.facts and (queue := redises.queue_of(beat.facts.model)) != self._queue:
            before, self._queue = self._queue, queue
            self._app.control.add_consumer(queue, destination=[self._node])
            self._app.control.cancel_consumer(before, destination=[self._node])

    def _tell(self) -> None:
        """Tell how far the jobs are, and hear which of them are not wanted any more."""
        held = list(self._held.values())
        if not held:
            return
        with self._redis.pipeline(transaction=False) as pipe:
            for each in held:
                if said := self._news(each):
                    pipe.publish(redises.channel(each.task.spooler), said.model_dump_json())
            pipe.mget([redises.key(each.task.spooler, each.task.run.id) for each in held])
            keys = pipe.execute()[-1]
        for each, key in zip(held, keys, strict=True):
            # Without a key Redis has forgotten all: whoever sent the task sees that we have it, and makes the key anew.
            if key and not key.startswith((f"{each.id}|waiting|", f"{each.id}|taken|{self._name}")):
                self._bench.cancel(each.seat)

    def _news(self, held: Held) -> Said | None:
        """What is new of a job; nothing for one that is as it was."""
        progress = held.seat.progress
        preview, path = None, held.folder / "preview.jpg"
        try:
            changed = path.stat().st_mtime
            if changed != held.previewed:
                held.previewed = changed
                data = path.read_bytes()
                preview = base64.b64encode(data).decode() if len(data) <= MAX_PREVIEW_BYTES else None
        except FileNotFoundError:
            pass
        made = tuple(held.made[held.told_made : held.told_made + MAX_MADE])
        if progress is held.told and not preview and not made:
            return None
        held.told, held.told_made = progress, held.told_made + len(made)
        return Said(task=held.id, progress=progress, made=made, preview=preview)


def _cancelled(held: Held) -> messages.Failed:
    reason = "Cancelled while its pictures were on their way."
    return messages.Failed(id=held.task.run.id, code="cancelled", reason=reason)


def _engine_settings(settings: Settings) -> Settings:
    """What the engine's process gets: not where Redis and the store are, which `ps` would show."""
    return replace(settings, dispatch="", dispatch_password_file="", store="")


def _host() -> str:
    return "".join(c if c.isalnum() else "-" for c in socket.gethostname().partition(".")[0]) or "host"


def serve(settings: Settings, start: Start = Child) -> int:
    """Run a worker around the engine that `start` starts, until it is told to stop.

    Returns the exit status: 0, or 2 when it cannot work as configured.
    """
    logs.begin("worker", settings.log_format)
    setup_logging.connect(_leave_logging, weak=False)
    for wordy in ("celery.app.trace", "celery.worker.strategy"):  # each job, with the whole of its result
        logging.getLogger(wordy).setLevel(logging.WARNING)
    logging.getLogger("celery.backends.base").setLevel(logging.ERROR)  # each second, while Redis is away
    try:
        broker, store = Broker.of(settings), Store(settings.store)
        found = library.scan(settings.models, settings.model)
    except (BrokerError, StoreAddressError, library.ModelError, OSError) as error:
        log.error("%s", error)
        return 2
    for reason in found.refused:
        log.warning("not taken: %s", reason)
    log.info("worker at %s, store %s, process %d", broker.shown, store.url, os.getpid())
    return Worker(settings, broker, store, found.catalogue(), start).run()


def _leave_logging(**_: Any) -> None:
    """Celery asks who sets up the log: it is as we have it."""
