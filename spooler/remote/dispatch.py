"""The spooler's side of Celery: it stands where an engine's process would, and sends what it is given to workers elsewhere.

What was sent is held here, and compared every second with what Redis has (sent.py).

All that is sent to the store and fetched goes by other threads than the spooler's, which never waits.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from spooler import durable, messages
from spooler.child import Child, Gone
from spooler.messages import FromEngine, ToEngine
from spooler.record import Image
from spooler.remote import broker as redises
from spooler.remote.broker import BROKER_ERRORS, Broker, BrokerError
from spooler.remote.crew import MAX_WORKERS, Crew
from spooler.remote.freight import End, Freight, UnwantedError
from spooler.remote.sent import Sent, Verdict, judge
from spooler.remote.store import DamagedError, Store, StoreAddressError, StoreError
from spooler.remote.wire import MAX_BEAT_BYTES, MAX_KEY_BYTES, MAX_RESULT_BYTES, Made, Name, Said, Task
from spooler.settings import Settings
from spooler.status import LaneStatus

log = logging.getLogger(__name__)

T = TypeVar("T")
POLL_S = 1.0
HEAR_S = 0.2
RETRY_S = 1.0
AT_ONCE, AHEAD_AT_ONCE = 8, 2


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
        self._told_crew: tuple[LaneStatus, ...] = ()
        self._troubles: dict[str, str] = {}
        self._told_trouble: str | None = None
        self._ready = False
        self._due: set[str] = set()  # jobs that are to be looked at before all are
        self._closed = threading.Event()
        self._files = ThreadPoolExecutor(AT_ONCE, "dispatch")  # there and back: each may wait until the store answers
        self._post = ThreadPoolExecutor(1, "dispatch post")  # to Redis
        self._errands = ThreadPoolExecutor(1, "dispatch errands")  # what nobody waits for
        self._early = ThreadPoolExecutor(AHEAD_AT_ONCE, "dispatch early")  # pictures of jobs that are still being drawn
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
                        found.cancelling = True
                        self._due.add(found.run.id)
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
        self._freight = Freight(self._settings.spooler, self._store, lambda do, sent: self._patiently("store", do, sent))
        self._redis = self._broker.client()
        self._app = self._broker.celery(redises.deadline_s(self._settings))
        self._swap, self._drop, self._read = map(self._redis.register_script, (redises.SWAP, redises.DROP, redises.READ))
        log.info("jobs go to workers by %s, pictures by %s", self._broker.shown, self._store.url)
        try:
            self._watch()
        except Exception as error:
            log.exception("the jobs that were sent are given up")
            with self._lock:
                self._sent = {}  # what still comes of them is nobody's
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
                is_poll = now >= next_poll or not was_well
                if is_poll or self._due:
                    if not was_well:
                        self._forgive(now)
                    self._look(now, is_poll)
                    next_poll, was_well = now + POLL_S if is_poll else next_poll, True
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
        for pool in (self._files, self._post, self._errands, self._early):
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
                sent.is_well()

    def _look(self, now: float, at_all: bool) -> None:
        """Compare what was sent with what Redis has: all of it, and who is there, or only what is due."""
        with self._lock:
            due, self._due = self._due, set()
            sent = [
                each for each in self._sent.values() if each.state in ("waiting", "taken") and (at_all or each.run.id in due)
            ]
        # Of false members there may be any number: no more are looked at than there can be workers.
        workers = sorted(map(str, self._redis.srandmember(redises.WORKERS, MAX_WORKERS) or ())) if at_all else []
        bounds = {redises.beat_key(worker): MAX_BEAT_BYTES for worker in workers}
        bounds |= {redises.key(self._settings.spooler, each.run.id): MAX_KEY_BYTES for each in sent}
        bounds |= {redises.result_key(each.id): MAX_RESULT_BYTES for each in sent}
        found = self._read(keys=list(bounds), args=list(bounds.values())) if bounds else []
        first, last = len(workers), len(workers) + len(sent)
        beats, keys, results = found[:first], found[first:last], found[last:]
        if gone := [worker for worker, beat in zip(workers, beats, strict=True) if beat is None]:
            self._redis.srem(redises.WORKERS, *gone)
        with self._lock:
            read = (self._crew.read(worker, raw) for worker, raw in zip(workers, beats, strict=True) if raw is not None)
            self._crew.see([beat for beat in read if beat], now)
            for each, key, result in zip(sent, keys, results, strict=True):
                if self._is_current(each) and each.state != "ending":
                    self._mind(each, key, result, now)
            self._tell_state()

    def _mind(self, sent: Sent, key: str | None, result: str | None, now: float) -> None:
        """See to one try."""
        run = sent.run
        match judge(sent, key, result is not None, self._crew, now):
            case Verdict.FETCH:
                sent.state = "ending"
                self._submit(self._files, self._bring_home, sent, result)
            case Verdict.CANCEL:
                self._submit(self._errands, self._cancel, sent)
            case Verdict.KEY_ANEW:
                self._submit(self._errands, self._set_key, sent, "taken", sent.worker)
            case Verdict.FOR_ALL:
                log.info("job %s: nobody who listens to its queue takes it, it is for all workers now", run.id)
                sent.queue = redises.COMMON
                self._submit(self._files, self._publish_again, sent)
            case Verdict.ANEW:
                log.warning("job %s: Redis has forgotten it, it is sent again", run.id)
                sent.name, sent.state = Name.new(run.id, run.attempt), "outgoing"
                sent.is_well()
                self._submit(self._files, self._go_out, sent)
            case Verdict.CANCELLED:
                self._end(sent, _cancelled(sent))
            case Verdict.ABANDONED:
                how = f"its worker {sent.worker} is gone"
                self._end(sent, messages.Lost(id=run.id, how=how, alone=self._was_alone(sent)))
            case Verdict.MISLAID:
                how = "what came of it is gone from Redis"
                self._end(sent, messages.Lost(id=run.id, how=how, alone=self._was_alone(sent), blame=False))
            case Verdict.NOTHING:
                pass

    def _was_alone(self, sent: Sent) -> bool:
        """Whether its worker had no other job of ours."""
        return not any(other.worker == sent.worker and other is not sent for other in self._sent.values())

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
            job = Name.parse(said.task).job
        except ValueError as error:  # pydantic's too
            log.warning("a worker said what is no message: %s", ascii(str(error))[:300])
            return
        with self._lock:
            sent = self._sent.get(job)
            if sent is None or sent.id != said.task or sent.state == "ending":
                return
            if said.ended:
                self._due.add(sent.run.id)
            for made in said.made:
                if made.image.index not in sent.ahead and made.fits(sent.run):
                    sent.ahead.add(made.image.index)
                    self._submit(self._early, self._bring_ahead, sent, sent.name, made)
            if said.progress:
                self._tell(said.progress.model_copy(update={"id": sent.run.id}))
            if said.preview:
                is_due, sent.preview = sent.preview is None, said.preview
                if is_due:
                    self._submit(self._errands, self._show, sent)

    def _show(self, sent: Sent) -> None:
        with self._lock:
            preview, sent.preview = sent.preview, None
            if not preview or not self._is_current(sent) or sent.state == "ending":  # its folder is no longer ours to write to
                return
        try:
            durable.replace_lightly(Path(sent.run.folder) / "preview.jpg", base64.b64decode(preview, validate=True))
        except (OSError, binascii.Error) as error:
            log.info("job %s: no preview: %s", sent.run.id, error)

    def _bring_ahead(self, sent: Sent, name: Name, made: Made) -> None:
        """Show a picture of a job that is still being drawn. One that does not come now comes with the result."""

        def is_wanted() -> bool:  # an earlier try's must not get among a later one's, nor one that comes late into a result
            is_same = self._is_current(sent) and sent.name == name and sent.state != "ending"
            return is_same and not sent.cancelling and not self._closed.is_set()

        with self._lock:
            if not is_wanted():
                return
        draft = None
        try:
            draft = self._freight.fetch_ahead(name, made, self._settings.spool / "tmp")
            with self._lock:  # whoever ends the try waits for the rename, and no more
                if is_wanted():
                    if draft:
                        draft.replace(Path(sent.run.folder) / made.image.file)
                    self._tell(messages.ImageDone(id=sent.run.id, image=self._freight.with_address(made.image, sent)))
        except (OSError, DamagedError) as error:
            log.info("job %s: picture %d comes at its end: %s", sent.run.id, made.image.index, error)
        finally:
            if draft:
                draft.unlink(missing_ok=True)

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
        task = self._freight.pack(sent)
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
        task = self._freight.pack(sent)
        self._patiently("broker", lambda: self._publish(sent, task), sent)

    def _bring_home(self, sent: Sent, raw: str) -> None:
        """Fetch what a worker made, and tell of it as an engine here would."""
        try:
            home = self._freight.unpack(sent, raw)
        except UnwantedError:
            if sent.cancelling:
                reason = "Cancelled while its pictures were on their way."
                self._end(sent, messages.Failed(id=sent.run.id, code="cancelled", reason=reason))
        else:
            self._end(sent, home.end if home else None, home.images if home else ())

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

    def _end(self, sent: Sent, end: End | None, images: Sequence[Image] = ()) -> None:
        """Nothing more is to be heard of this try: `end`, or nothing when the spooler knows better by now."""
        with self._lock:
            if not self._is_current(sent):
                return
            del self._sent[sent.run.id]
            if isinstance(end, messages.Finished | messages.Failed):
                end = end.model_copy(update={"grown_bytes": 0})  # of another process, whose worker sees to it
            for image in images:
                self._tell(messages.ImageDone(id=sent.run.id, image=image))
            if end:
                self._tell(end)
            self._tell_state()
        is_done = isinstance(end, messages.Finished)
        self._submit(self._errands, self._tidy, sent, is_done)

    def _tidy(self, sent: Sent, is_done: bool) -> None:
        """Leave nothing behind but a done job's pictures. What cannot be removed now costs its room, and no more."""
        try:
            if is_done:
                self._drop_key(sent, sent.id)
            else:  # a worker that has it yet is to stop
                self._set_key(sent, "cancel", only_if_there=True)
            self._freight.discard(sent, is_done)
        except (*BROKER_ERRORS, StoreError) as error:
            log.info("job %s: something of it is left behind: %s", sent.run.id, error)

    def _drop_key(self, sent: Sent, task: str) -> None:
        self._drop(keys=[redises.key(self._settings.spooler, sent.run.id)], args=[f"{task}|"])

    def _trouble(self, what: str, said: str | None) -> None:
        with self._lock:
            if self._troubles.get(what) == said:
                return
            if said is None:
                self._troubles.pop(what, None)
            else:
                self._troubles[what] = said
            self._tell_state()

    def _tell_state(self) -> None:
        """Tell what has changed: which workers there are, what room they have, what keeps them from working."""
        able = self._crew.able
        if (workers := self._crew.told({each.id: each.run.id for each in self._sent.values()})) != self._told_crew:
            self._told_crew = workers
            self._tell(messages.Crew(workers=workers))
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


def _cancelled(sent: Sent) -> messages.Failed:
    return messages.Failed(id=sent.run.id, code="cancelled", reason="Cancelled before a worker began it.")
