"""The spooler's side of Celery: it stands where an engine's process would, and sends what it is given to workers elsewhere.

What was sent is held here, and compared every second with what Redis has: heartbeats, the key of each try, and results.

| what is seen of a try                             | what is done                                                           |
|---------------------------------------------------|------------------------------------------------------------------------|
| its result                                        | pictures fetched, checked, written whole; told as an engine would      |
| nobody has begun it, and its queue has no hearer, | sent again, into the queue of all: who takes it is decided by the key, |
|   or a worker with room does not take it          |   so a second message of it is drawn by nobody                         |
| nobody has begun it, and its key is gone          | sent again under another name: Redis has forgotten it                  |
| a worker has it, its key is gone                  | the key is made anew                                                   |
| it was begun, and no living worker has it         | Lost: blamed on the job when its worker died, else on the way there    |
| a result of another try                           | nothing: its name is not known here (P2)                               |

All that is sent to the store and fetched goes by other threads than the spooler's, which never waits.
"""

from __future__ import annotations

import base64
import binascii
import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from spooler import durable, messages
from spooler.child import Child, Gone
from spooler.messages import FromEngine, ToEngine
from spooler.reader import RESULT
from spooler.record import Image
from spooler.remote import broker as redises
from spooler.remote.broker import BROKER_ERRORS, Broker, BrokerError
from spooler.remote.store import DamagedError, Store, StoreAddressError, StoreError
from spooler.remote.wire import Beat, Name, Result, Said, Task
from spooler.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")
POLL_S = 1.0
HEAR_S = 0.2
RETRY_S = 1.0
#: Seconds that Redis must have said so before a worker is taken for dead or a try for gone: after a restart the heartbeats come
#: back one by one.
UNSEEN_S = 5.0
#: Seconds that a worker with room may leave a task where it is: its message is then in nobody's hands.
STRANDED_S = 20.0
FETCHES = 3
AT_ONCE = 8
#: What the disk lacks room for is tried again when there is some.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class _Meta(BaseModel):
    """What Celery keeps of a task that ended."""

    model_config = ConfigDict(extra="ignore")

    status: str
    result: Any = None


class UnwantedError(Exception):
    """The try ended otherwise meanwhile: met by a thread that still worked for it."""


@dataclass(eq=False)
class Sent:
    """A try that was given here and has not ended."""

    run: messages.Run
    name: Name
    queue: str = ""
    #: outgoing: on its way to Redis · waiting: for a worker · taken: a worker has it · ending: its result is being fetched
    state: Literal["outgoing", "waiting", "taken", "ending"] = "outgoing"
    worker: str = ""
    cancelling: bool = False
    since: float | None = None  # monotonic seconds: since when what is seen of it is not as it should be

    @property
    def id(self) -> str:
        return str(self.name)

    def wrong_for(self, now: float) -> float:
        """Seconds for which it has been so, as it is seen to be once more."""
        self.since = now if self.since is None else self.since
        return now - self.since


@dataclass
class Crew:
    """The workers that live, as far as known."""

    beats: dict[str, Beat] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)  # monotonic seconds

    def see(self, beats: list[Beat], now: float) -> None:
        for beat in beats:
            self.beats[beat.worker], self.seen[beat.worker] = beat, now
        for worker in [worker for worker, seen in self.seen.items() if now - seen > UNSEEN_S]:
            log.warning("worker %s: gone", worker)
            del self.beats[worker], self.seen[worker]

    def excuse(self, now: float) -> None:
        """Nobody could be heard of until now."""
        self.seen = dict.fromkeys(self.seen, now)

    @property
    def able(self) -> list[Beat]:
        return [beat for beat in self.beats.values() if beat.facts]

    def holder(self, task: str) -> str | None:
        return next((beat.worker for beat in self.beats.values() if task in beat.tasks), None)

    def queues(self) -> set[str]:
        return {redises.queue_of(beat.facts.model) for beat in self.able if beat.facts}


class Dispatch(Child):
    """In the place of an engine's process. `hear` is called from several threads with each message, at the end with Gone."""

    is_remote = True

    def __init__(self, settings: Settings, hear: Callable[[Child, FromEngine | Gone], None]):
        self._settings = settings
        self._hear = hear
        self._lock = threading.RLock()  # holds everything below
        self._sent: dict[str, Sent] = {}  # by the jobs' ids
        self._crew = Crew()
        self._heard = 0
        self._told_room = (0, 0)
        self._troubles: dict[str, str] = {}
        self._told_trouble: str | None = None
        self._ready = False
        self._look_now = False
        self._closed = threading.Event()
        self._files = ThreadPoolExecutor(AT_ONCE, "dispatch")  # there and back: each may wait until the store answers
        self._post = ThreadPoolExecutor(1, "dispatch post")  # to Redis
        self._errands = ThreadPoolExecutor(1, "dispatch errands")  # what nobody waits for
        self._thread = threading.Thread(target=self._work, name="dispatch", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        return os.getpid()

    def send(self, message: ToEngine) -> None:
        match message:
            case messages.Run():
                with self._lock:
                    self._heard += 1
                    sent = self._sent[message.id] = Sent(message, Name.new(message.id, message.attempt))
                self._submit(self._files if message.job.inputs else self._post, self._go_out, sent)
            case messages.Cancel():
                with self._lock:
                    if found := self._sent.get(message.id):
                        found.cancelling, self._look_now = True, True
                        if found.state == "outgoing":
                            self._end(found, _cancelled(found))
            case messages.Stop():
                self._closed.set()

    def kill(self) -> None:
        self._closed.set()

    def wait(self, timeout_s: float) -> None:
        self._closed.set()
        self._thread.join(timeout_s)

    # -- the thread that looks -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._broker, self._store = Broker.of(self._settings), Store(self._settings.store)
        except (BrokerError, StoreAddressError) as error:
            self._tell(messages.Refused(reason=str(error)))
            self._tell(Gone("it cannot work as configured"))
            return
        self._redis = self._broker.client()
        self._app = self._broker.celery(redises.deadline_s(self._settings))
        self._swap, self._drop = self._redis.register_script(redises.SWAP), self._redis.register_script(redises.DROP)
        log.info("jobs go to workers by %s, pictures by %s", self._broker.shown, self._store.url)
        try:
            self._watch()
        except Exception as error:
            log.exception("the jobs that were sent are given up")
            self._tell(Gone(f"it stumbled: {error!r}"))
        else:
            self._leave()

    def _watch(self) -> None:
        """Hear and look until it is told to stop."""
        ears, next_poll, was_well = None, 0.0, True
        while not self._closed.is_set():
            try:
                if ears is None:
                    ears = self._redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
                    ears.subscribe(redises.channel(self._settings.spooler))
                if said := ears.get_message(timeout=HEAR_S):
                    self._hear_said(str(said["data"]))
                now = time.monotonic()
                if now >= next_poll or self._look_now:
                    self._look_now = False
                    if not was_well:
                        self._forgive(now)
                    self._look(now)
                    next_poll, was_well = now + POLL_S, True
                    self._trouble("broker", None)
            except BROKER_ERRORS as error:
                was_well = False
                self._trouble("broker", f"Redis at {self._broker.shown} cannot be used just now: {error}")
                if ears:
                    ears.close()
                ears = None
                self._closed.wait(RETRY_S)

    def _leave(self) -> None:
        """Have the workers stop what nobody will hear of."""
        for pool in (self._files, self._post, self._errands):
            pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            left, self._sent = list(self._sent.values()), {}
        try:
            for sent in left:
                self._set_key(sent, "cancel", only_if_there=True)
        except BROKER_ERRORS as error:
            log.info("Redis was not told that this spooler stops: %s", error)
        self._tell(Gone("it was told to stop"))

    def _forgive(self, now: float) -> None:
        """Redis answers again: what was not seen meanwhile says nothing."""
        with self._lock:
            self._crew.excuse(now)
            for sent in self._sent.values():
                sent.since = None

    def _look(self, now: float) -> None:
        """Compare what was sent with what Redis has."""
        with self._lock:
            sent = [each for each in self._sent.values() if each.state in ("waiting", "taken")]
        workers = sorted(map(str, self._redis.smembers(redises.WORKERS)))
        with self._redis.pipeline(transaction=False) as pipe:
            for names in (
                [redises.beat_key(worker) for worker in workers],
                [redises.key(self._settings.spooler, each.run.id) for each in sent],
                [redises.result_key(each.id) for each in sent],
            ):
                if names:
                    pipe.mget(names)
            answers = iter(pipe.execute())
        beats = next(answers) if workers else []
        keys, results = (next(answers), next(answers)) if sent else ([], [])
        if gone := [worker for worker, beat in zip(workers, beats, strict=True) if beat is None]:
            self._redis.srem(redises.WORKERS, *gone)
        with self._lock:
            self._crew.see([found for beat in beats if beat and (found := _beat(beat))], now)
            for each, key, result in zip(sent, keys, results, strict=True):
                if self._is_current(each) and each.state != "ending":
                    self._mind(each, key, result, now)
            self._tell_state()

    def _mind(self, sent: Sent, key: str | None, result: str | None, now: float) -> None:
        """See to one try; the table at the top of this file."""
        if result is not None:
            sent.state = "ending"
            self._submit(self._files, self._bring_home, sent, result)
            return
        state, _, worker = (key or "").removeprefix(f"{sent.id}|").partition("|")
        is_ours = bool(key and key.startswith(f"{sent.id}|"))
        holder = self._crew.holder(sent.id)
        if sent.cancelling and is_ours and state != "cancel":
            self._submit(self._errands, self._cancel, sent)
        elif is_ours and state == "waiting" and not holder:
            self._mind_waiting(sent, now)
        elif holder:
            sent.state, sent.worker, sent.since = "taken", holder, None
            if key is None:
                self._submit(self._errands, self._set_key, sent, "taken", holder)
        elif key is None and sent.state == "waiting":
            if sent.wrong_for(now) > UNSEEN_S:
                if sent.cancelling:
                    self._end(sent, _cancelled(sent))
                else:
                    log.warning("job %s: Redis has forgotten it, it is sent again", sent.run.id)
                    sent.name, sent.state, sent.since = Name.new(sent.run.id, sent.run.attempt), "outgoing", None
                    self._submit(self._files, self._go_out, sent)
        else:
            sent.state, sent.worker = "taken", (worker if is_ours else "") or sent.worker
            is_dead = sent.worker not in self._crew.beats
            if sent.wrong_for(now) > UNSEEN_S and sent.cancelling:
                self._end(sent, _cancelled(sent))
            elif sent.wrong_for(now) > UNSEEN_S:
                how = f"its worker {sent.worker or ''} is gone" if is_dead else "what came of it is gone from Redis"
                self._end(sent, messages.Lost(id=sent.run.id, how=how, alone=self._was_alone(sent), blame=is_dead and is_ours))

    def _was_alone(self, sent: Sent) -> bool:
        """Whether its worker had no other job of ours."""
        return not any(other.worker == sent.worker and other is not sent for other in self._sent.values())

    def _mind_waiting(self, sent: Sent, now: float) -> None:
        """Nobody has begun it: see to it that somebody may."""
        hears = redises.COMMON if sent.queue == redises.COMMON or sent.queue in self._crew.queues() else None
        if hears is None and self._crew.able:
            log.info("job %s: nobody has its model warm any more, it is for all workers", sent.run.id)
        elif any(beat.free for beat in self._crew.able):
            if sent.wrong_for(now) < STRANDED_S:
                return
            log.warning("job %s: no worker takes it, it is sent again", sent.run.id)
        else:
            sent.since = None
            return
        sent.since, sent.queue = None, redises.COMMON
        self._submit(self._files, self._publish_again, sent)

    def _cancel(self, sent: Sent) -> None:
        """Cancel what a worker may have begun: one that nobody has ends here, any other when the worker says so. When Redis
        does not answer it is tried again, by the next look."""
        key = redises.key(self._settings.spooler, sent.run.id)
        if self._swap(keys=[key], args=[f"{sent.id}|waiting|", f"{sent.id}|cancel|"]):
            self._end(sent, _cancelled(sent))
            self._app.control.revoke(sent.id)  # only so that nobody fetches what is nobody's
        else:
            self._set_key(sent, "cancel", only_if_there=True)

    def _set_key(self, sent: Sent, state: str, worker: str = "", only_if_there: bool = False) -> None:
        key = redises.key(self._settings.spooler, sent.run.id)
        self._redis.set(key, f"{sent.id}|{state}|{worker}", ex=redises.KEY_TTL_S, xx=only_if_there)

    def _hear_said(self, raw: str) -> None:
        try:
            said = Said.model_validate_json(raw)
        except ValidationError as error:
            log.warning("a worker said what is no message: %s", ascii(str(error))[:300])
            return
        with self._lock:
            sent = next((each for each in self._sent.values() if each.id == said.task), None)
            if sent is None or sent.state == "ending":
                return
            self._look_now |= said.ended
            if said.progress:
                self._tell(said.progress.model_copy(update={"id": sent.run.id}))
            if said.preview:
                self._submit(self._errands, self._show, sent, said.preview)

    def _show(self, sent: Sent, preview: str) -> None:
        if not self._is_current(sent) or sent.state == "ending":  # its folder is no longer ours to write to
            return
        try:
            durable.replace_lightly(Path(sent.run.folder) / "preview.jpg", base64.b64decode(preview, validate=True))
        except (OSError, binascii.Error) as error:
            log.info("job %s: no preview: %s", sent.run.id, error)

    # -- there and back ------------------------------------------------------------------------------------------------------

    def _submit(self, pool: ThreadPoolExecutor, do: Callable[..., Any], *given: Any) -> None:
        def harmless() -> None:
            try:
                do(*given)
            except UnwantedError:
                return
            except Exception as error:
                if pool is self._errands and isinstance(error, BROKER_ERRORS):
                    log.info("left undone: %s", error)
                    return
                log.exception("what was to be done for a remote job went wrong")
                if given and isinstance(given[0], Sent):
                    how = "the spooler stumbled over it"
                    self._end(given[0], messages.Lost(id=given[0].run.id, how=how))

        try:
            pool.submit(harmless)
        except RuntimeError:  # it is told to stop
            return

    def _go_out(self, sent: Sent) -> None:
        """Put the job's pictures into the store, and send its task."""
        name = sent.name
        task = self._task(sent)
        # One thread sends all: those that need no picture leave in the order in which they came.
        self._submit(self._post, self._post_it, sent, name, task)

    def _post_it(self, sent: Sent, name: Name, task: Task) -> None:
        run = sent.run
        with self._lock:
            warm = redises.queue_of(run.cells[0].model if run.cells else run.job.model)
            sent.queue = warm if warm in self._crew.queues() else redises.COMMON

        def publish() -> None:
            self._set_key(sent, "waiting")
            self._publish(sent, task)

        self._patiently("broker", publish, sent)
        with self._lock:
            if self._is_current(sent) and sent.name == name:
                sent.state = "waiting"
                return
        self._drop_key(sent, str(name))  # cancelled meanwhile

    def _task(self, sent: Sent) -> Task:
        """The try as a message, with its pictures in the store. Raises UnwantedError."""
        run, files = sent.run, []
        folder = f"{sent.name.folder(self._settings.spooler)}/inputs"
        for name in run.job.inputs:
            try:
                data = (Path(run.folder) / "inputs" / name).read_bytes()
            except FileNotFoundError:  # RACE: adopted; the spooler sees it
                raise UnwantedError from None
            files.append(self._patiently("store", lambda name=name, data=data: self._store.put(folder, name, data), sent))  # type: ignore[misc]
        return Task(spooler=self._settings.spooler, run=run.model_copy(update={"folder": ""}), inputs=tuple(files))

    def _publish(self, sent: Sent, task: Task) -> None:
        self._app.send_task(
            redises.TASK,
            args=[task.model_dump(mode="json")],
            task_id=sent.id,
            queue=sent.queue,
            priority=redises.task_priority(sent.run.job.priority),
            argsrepr=sent.run.id,  # nothing of a prompt where Celery's tools show tasks
        )

    def _publish_again(self, sent: Sent) -> None:
        task = self._task(sent)
        self._patiently("broker", lambda: self._publish(sent, task), sent)

    def _bring_home(self, sent: Sent, raw: str) -> None:
        """Fetch what a worker made, and tell of it as an engine here would."""
        run = sent.run
        try:
            meta = _Meta.model_validate_json(raw)
            if meta.status != "SUCCESS":
                raise ValueError(f"Celery has it as {meta.status}: {meta.result}")
            result = Result.model_validate(meta.result)
            if result.end.id != run.id:
                raise ValueError(f"it is of job {result.end.id!a}")
            if isinstance(result.end, messages.Finished):
                _check_files(result, result.end)
        except ValueError as error:  # pydantic's too
            log.error("job %s: a worker's result that is none: %s", run.id, ascii(str(error))[:500])
            self._end(sent, messages.Lost(id=run.id, how="its worker sent back what is no result"))
            return
        if isinstance(result.end, messages.Failed):  # what else it says is of the worker's own process and disk
            self._end(sent, result.end.model_copy(update={"fatal": False, "no_room": False}))
            return
        if isinstance(result.end, messages.Lost):
            self._end(sent, result.end)
            return
        try:
            self._write_down(sent, result)
        except UnwantedError:
            if sent.cancelling:
                reason = "Cancelled while its pictures were on their way."
                self._end(sent, messages.Failed(id=run.id, code="cancelled", reason=reason))
        except DamagedError as error:
            self._end(sent, messages.Lost(id=run.id, how=str(error)))
        except FileNotFoundError:  # RACE: adopted; the spooler sees it
            self._end(sent, None)
        except OSError as error:
            reason = f"The pictures of this job could not be written: {error}"
            self._end(sent, messages.Failed(id=run.id, code="no_space", reason=reason, no_room=error.errno in NO_ROOM))
        else:
            folder = sent.name.folder(self._settings.spooler)
            images = [_with_address(image, self._store, folder) for image in result.images]
            self._end(sent, result.end, images)

    def _write_down(self, sent: Sent, result: Result) -> None:
        """Have the job's folder hold its pictures, whole and for good."""
        folder, target = sent.name.folder(self._settings.spooler), Path(sent.run.folder)
        for file in result.files:
            for number in range(FETCHES):
                try:
                    data = self._patiently("store", lambda file=file: self._store.get(folder, file), sent)  # type: ignore[misc]
                    break
                except DamagedError:
                    if number == FETCHES - 1:
                        raise
            (target / file.name).unlink(missing_ok=True)
            durable.write_new(target / file.name, data)
        durable.sync_folder(target)

    def _patiently(self, what: str, do: Callable[[], T], sent: Sent) -> T:
        """Do it, and again as long as Redis or the store does not answer. Raises UnwantedError when it need not be done."""
        name = sent.name
        while True:
            with self._lock:
                unwanted = not self._is_current(sent) or sent.name != name or self._closed.is_set()
                if unwanted or (sent.cancelling and sent.state == "ending"):
                    raise UnwantedError
            try:
                done = do()
            except FileNotFoundError:
                raise
            except (*BROKER_ERRORS, StoreError) as error:
                said = str(error) if what == "store" else f"Redis at {self._broker.shown} cannot be used just now: {error}"
                self._trouble(what, said)
            else:
                self._trouble(what, None)
                return done
            self._closed.wait(RETRY_S)

    # -- telling -------------------------------------------------------------------------------------------------------------

    def _is_current(self, sent: Sent) -> bool:
        return self._sent.get(sent.run.id) is sent

    def _end(
        self, sent: Sent, end: messages.Finished | messages.Failed | messages.Lost | None, images: list[Image] | None = None
    ) -> None:
        """Nothing more is to be heard of this try: `end`, or nothing when the spooler knows better by now."""
        with self._lock:
            if not self._is_current(sent):
                return
            del self._sent[sent.run.id]
            if isinstance(end, messages.Finished | messages.Failed):
                end = end.model_copy(update={"grown_bytes": 0})  # of another process, whose worker sees to it
            for image in images or ():
                self._tell(messages.ImageDone(id=sent.run.id, image=image))
            if end:
                self._tell(end)
            self._tell_state()
        is_done = isinstance(end, messages.Finished)
        self._submit(self._errands, self._tidy, sent, is_done)

    def _tidy(self, sent: Sent, is_done: bool) -> None:
        """Leave nothing behind but a done job's pictures. What cannot be removed now costs its room, and no more."""
        folder = sent.name.folder(self._settings.spooler)
        try:
            if is_done:
                self._drop_key(sent, sent.id)
            else:  # a worker that has it yet is to stop
                self._set_key(sent, "cancel", only_if_there=True)
            if sent.run.job.inputs or not is_done:
                self._store.remove(f"{folder}/inputs" if is_done else folder)
        except (*BROKER_ERRORS, StoreError) as error:
            log.info("job %s: something of it is left behind: %s", sent.run.id, error)

    def _drop_key(self, sent: Sent, task: str) -> None:
        self._drop(keys=[redises.key(self._settings.spooler, sent.run.id)], args=[f"{task}|"])

    def _trouble(self, what: str, said: str | None) -> None:
        with self._lock:
            if said is None:
                self._troubles.pop(what, None)
            else:
                self._troubles[what] = said
            self._tell_state()

    def _tell_state(self) -> None:
        """Tell what has changed: that there are workers, what room they have, what keeps them from working."""
        able = self._crew.able
        if not self._ready and able and able[0].facts:
            self._ready = True
            self._tell(messages.Ready(facts=able[0].facts))
        ailing = [beat.trouble for beat in able if beat.trouble]
        if not able and "broker" not in self._troubles:
            self._troubles["workers"] = f"No worker is there that draws what goes by {self._broker.shown}."
        elif ailing and len(ailing) == len(able):
            self._troubles["workers"] = f"The workers wait: {ailing[0]}"
        else:
            self._troubles.pop("workers", None)
        trouble = " ".join(self._troubles[what] for what in sorted(self._troubles)) or None
        if trouble != self._told_trouble:
            self._told_trouble = trouble
            log.log(logging.WARNING if trouble else logging.INFO, "%s", trouble or "jobs go to workers again")
            self._tell(messages.Trouble(reason=trouble))
        seats = 0 if trouble else sum(beat.slots + self._settings.dispatch_window for beat in able)
        room = self._heard, max(0, seats - len(self._sent))
        if room != self._told_room:
            self._told_room = room
            self._tell(messages.Room(heard=room[0], jobs=room[1]))

    def _tell(self, message: FromEngine | Gone) -> None:
        self._hear(self, message)


def _beat(raw: str) -> Beat | None:
    try:
        return Beat.model_validate_json(raw)
    except ValidationError as error:
        log.warning("a heartbeat that is none: %s", ascii(str(error))[:300])
        return None


def _cancelled(sent: Sent) -> messages.Failed:
    return messages.Failed(id=sent.run.id, code="cancelled", reason="Cancelled before a worker began it.")


def _check_files(result: Result, end: messages.Finished) -> None:
    """Raises ValueError unless the files are those of the pictures and the sheet that it tells of, under our own names."""
    told = {image.file for image in result.images if image.file} | ({end.sheet} if end.sheet else set())
    sent = {file.name for file in result.files}
    if told != sent or not all(RESULT.fullmatch(name) for name in told):
        raise ValueError(f"it has the files {sorted(sent)}, and tells of {sorted(told)}")


def _with_address(image: Image, store: Store, folder: str) -> Image:
    return image.model_copy(update={"stored": store.address(folder, image.file)}) if image.file else image
