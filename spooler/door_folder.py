"""The client's way without a server: the spool's own folders, by the spool's own verbs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spooler import client, durable, edit, pictures, retention
from spooler.batch_file import lay_over
from spooler.batches import Batches
from spooler.catalogue import Catalogue, Sizes, merged
from spooler.changes import Changes, Seen
from spooler.client import BatchView, ChangeView, JobView, ProgressView, Verb
from spooler.dropped import owner_of
from spooler.ids import is_id, new_id
from spooler.job import Job, encode, from_fields
from spooler.mistakes import JobError, Mistake, show
from spooler.place import Place
from spooler.reader import RESULT
from spooler.record import Image, Record
from spooler.spool import Spool, SpoolError, TakenError
from spooler.states import ENDS, STATE, STATUS, State, Status
from spooler.status import Progress

#: The states that mean that a verb was done.
DONE: dict[Verb, frozenset[State]] = {
    "cancel": frozenset({"cancelled", "claimed"}),
    "hold": frozenset({"held"}),
    "release": frozenset({"pending"}),
    "top": frozenset({"pending", "held"}),
    "retry": frozenset({"pending"}),
    "star": frozenset(ENDS),
    "unstar": frozenset(ENDS),
}
#: Seconds between two looks at a job, short at first.
SOON_S, LATER_S, PATIENT_AFTER_S = 0.05, 0.25, 5.0


class FolderDoor:
    def __init__(self, root: Path):
        if not (root / "pending").is_dir():
            raise client.UnreachableError(f"There is no spool at {root}.")
        self._spool = Spool(root)

    def submit(self, job: dict[str, Any], job_id: str | None, inputs: Mapping[str, bytes]) -> str:
        job_id = job_id or new_id()
        with _told():
            if not is_id(job_id):
                raise JobError(Mistake("id", f"`id` must be letters, digits, dots and dashes, but is {show(job_id)}."))
            made = from_fields(job)
            sizes = self._given(made, inputs)
            self._check(made, sizes)
            return self._spool.submit(encode(made), job_id, {name: inputs[name] for name in made.inputs})

    @staticmethod
    def _given(job: Job, inputs: Mapping[str, bytes]) -> Sizes:
        mistakes = [
            Mistake("image", f"`{name}`, which the job names, must be given, but is not.")
            for name in job.inputs
            if name not in inputs
        ]
        unknown = [name for name in inputs if name not in job.inputs]
        mistakes += [Mistake("image", f"{show(name)} is a picture that the job does not name.") for name in unknown]
        if mistakes:
            raise JobError(*mistakes)
        try:
            return {name: pictures.check_bytes(inputs[name], name) for name in job.inputs}
        except pictures.InputError as error:
            raise JobError(Mistake("image", str(error))) from error

    def _check(self, job: Job, sizes: Sizes | None = None) -> None:
        """Raise JobError for what no spooler offers, as far as any told."""
        catalogue = self.models()
        if catalogue.models:
            catalogue.check(job, sizes)

    def submit_batch(self, jobs: list[dict[str, Any]], key: str) -> BatchView:
        with _told():
            rows: list[Job] = []
            mistakes: list[Mistake] = []
            for number, fields in enumerate(jobs, 1):
                try:
                    rows.append(from_fields(fields))
                    self._check(rows[-1])
                    if rows[-1].inputs:
                        raise JobError(Mistake("image", "A batch brings no pictures along: submit each such job by itself."))
                except JobError as error:
                    mistakes += [Mistake(each.field, f"line {number}: {each.message}") for each in error.mistakes]
            if mistakes or not rows:
                raise JobError(*mistakes or [Mistake("", "A batch must have at least one job, but has none.")])
            batch = Batches(self._spool).submit(rows, key, owner_of(os.geteuid()))
        return BatchView(id=batch.id, jobs=batch.jobs)

    def batch(self, batch_id: str) -> BatchView:
        batch = Batches(self._spool).read(batch_id) if is_id(batch_id) else None
        if batch is None:
            raise client.NoSuchJobError(f"There is no batch {show(batch_id)}.")
        return BatchView(id=batch.id, jobs=batch.jobs)

    def job(self, job_id: str) -> JobView:
        for _ in range(10):  # RACE: it may move on between the look for it and the look at it
            place = self._spool.find(job_id)
            if place is None:
                break
            try:
                return self._view(place)
            except FileNotFoundError:
                continue
            except (JobError, durable.UnreadableError, PermissionError) as error:
                raise client.NoSuchJobError(f"The job {show(job_id)} cannot be read: {error}") from error
        if row := Batches(self._spool).coming(job_id):  # accepted, and not in the queue yet
            return JobView(id=job_id, status="waiting", job=row)
        raise client.NoSuchJobError(f"There is no job {show(job_id)}.")

    def jobs(self, status: Status | None, owner: str | None, limit: int) -> list[JobView]:
        found: list[JobView] = []
        states: tuple[State, ...] = (STATE[status],) if status else ("claimed", "pending", "held", *ENDS)
        for state in states:
            for place in self._spool.places(state):
                if len(found) >= limit:
                    return found
                try:
                    view = self._view(place)
                except (FileNotFoundError, JobError, durable.UnreadableError, PermissionError):
                    continue  # it moved on, is no job, or closed to us
                if owner is None or view.job.owner == owner:
                    found.append(view)
        return found

    def looks(self, job_id: str, timeout_s: float | None) -> Iterator[JobView]:
        began = time.monotonic()
        last: JobView | None = None
        while True:
            view = self.job(job_id)
            if view != last:
                yield view
            last = view
            waited = time.monotonic() - began
            if view.ended or (timeout_s is not None and waited >= timeout_s):
                return
            time.sleep(SOON_S if waited < PATIENT_AFTER_S else LATER_S)

    def watch(self, timeout_s: float | None) -> Iterator[ChangeView | None]:
        end = None if timeout_s is None else time.monotonic() + timeout_s
        changes = Changes(self._seen(), self._status)
        yield None
        while end is None or time.monotonic() < end:
            began = time.monotonic()
            told = changes.look(self._seen())
            yield from [None] if told is None else told
            # A long queue takes a while to list: it is looked at in a tenth of the time.
            now = time.monotonic()
            rest_s = max(LATER_S, 9 * (now - began))
            time.sleep(rest_s if end is None else max(0.0, min(rest_s, end - now)))

    def _seen(self) -> Seen:
        # In the order of a job's way: one that goes on meanwhile is seen in two places, not in none.
        waiting = frozenset(place.id for place in self._spool.walk("pending"))
        held = frozenset(place.id for place in self._spool.walk("held"))
        running = {place.id: _view_of(self._spool.read_progress(place) or Progress()) for place in self._spool.walk("claimed")}
        return Seen(waiting, held, running)

    def _status(self, job_id: str) -> Status | None:
        place = self._spool.find_by_name(job_id) or self._spool.find(job_id)
        return place.status if place else None

    def act(self, job_id: str, verb: Verb) -> None:
        place = self._find(job_id)
        after: Place | None
        with _told():
            if verb == "delete":
                if place.state not in ENDS or not retention.delete(self._spool, place.state, place.id):
                    starred = durable.exists(place.path / "starred")
                    raise client.WrongStateError(
                        "The job has a star: take the star away first." if starred else _not_for(verb, place)
                    )
                return
            if verb == "cancel":
                after = place if place.state in ENDS else self._spool.cancel(job_id)
                if place.state in ENDS:
                    raise client.WrongStateError(_not_for(verb, place))
            elif verb == "retry":
                after = self._spool.retry(job_id)
            elif verb == "top":
                after = self._spool.set_priority(job_id, "top")
            elif verb in ("star", "unstar"):
                after = self._spool.star(job_id, verb == "star")
            else:
                after = self._spool.hold(job_id) if verb == "hold" else self._spool.release(job_id)
        if after is None or after.state not in DONE[verb]:
            raise client.WrongStateError(_not_for(verb, after or place))

    def edit(self, job_id: str, changes: dict[str, Any]) -> None:
        place = self._spool.settled(job_id) or self._find(job_id)

        def change(before: Job) -> Job:
            after = from_fields(lay_over(before.model_dump(exclude_unset=True), changes))
            if new := [name for name in after.inputs if name not in before.inputs]:
                raise JobError(Mistake("image", f"The job came without the picture {show(new[0])}."))
            self._check(after)
            return after

        if place.state not in ("pending", "held"):
            raise client.WrongStateError(_not_for("edit", place))
        with _told():
            try:
                changed = change(self._spool.read_job(place)) != self._spool.read_job(place)
            except FileNotFoundError:  # RACE: claimed since
                changed = True
            if changed and not edit.apply(self._spool, change, [place]):
                raise client.WrongStateError(_not_for("edit", self._find(job_id)))

    def again(self, job_id: str, changes: dict[str, Any], new_id: str) -> str:
        place = self._find(job_id)
        if place.state not in ENDS:
            raise client.WrongStateError(_not_for("again", place))
        with _told():
            try:
                before = self._spool.read_job(place)
                given = before.model_dump(exclude_unset=True)
                after = from_fields(lay_over(given, {"batch": None} | changes))
                inputs = {
                    name: durable.read_small(self._spool.input_file(place, name), pictures.MAX_FILE_BYTES)
                    for name in after.inputs
                    if name in before.inputs
                }
            except FileNotFoundError as error:  # RACE: removed, or sent back to the queue
                raise client.WrongStateError("The job has moved on since.") from error
            self._check(after, self._given(after, inputs))
            return self._spool.submit(encode(after), new_id, inputs)

    def priority(self, job_id: str, value: int | None) -> None:
        if value is not None and abs(value) > 100:
            rule = f"`priority` must be a whole number from -100 to 100, or null, but is {value}."
            raise client.RefusedError(rule, [Mistake("priority", rule)])
        place = self._spool.set_priority(self._find(job_id).id, value)
        if place is None or place.state not in DONE["top"]:
            raise client.WrongStateError(_not_for("priority", place or self._find(job_id)))

    def image(self, job_id: str, image: Image) -> bytes:
        if RESULT.fullmatch(image.file):
            for _ in range(3):  # RACE: the folder may move from claimed/ to done/
                path = self._find(job_id).path / image.file
                if path.is_symlink():
                    break
                if path.is_file():
                    return path.read_bytes()
        raise client.NoSuchJobError(f"The job {show(job_id)} has no picture {show(image.file)}.")

    def models(self) -> Catalogue:
        told = sorted(self._spool.spoolers(), key=lambda pair: not pair[1])
        return merged([status.catalogue for status, _ in told])

    def pause(self, paused: bool) -> None:
        self._spool.pause() if paused else self._spool.resume()

    def _find(self, job_id: str) -> Place:
        place = self._spool.find(job_id)
        if place is None:
            Batches(self._spool).bring_in([job_id])  # it may be accepted, and not in the queue yet
            place = self._spool.find(job_id)
        if place is None:
            raise client.NoSuchJobError(f"There is no job {show(job_id)}.")
        return place

    def _view(self, place: Place) -> JobView:
        """Raises FileNotFoundError when it moved on, JobError or UnreadableError for what is no job."""
        spool = self._spool
        job = spool.read_job(place)
        record = spool.read_record(place) or Record(id=place.id)
        progress = spool.read_progress(place) if place.state == "claimed" else None
        if not place.job_file.exists():
            raise FileNotFoundError(place.job_file)
        images = () if place.state in ("pending", "held") else progress.images if progress else record.images
        return JobView(
            id=place.id,
            status=place.status,
            job=job,
            parameters=record.parameters,
            progress=_view_of(progress) if progress else None,
            images=tuple(image for image in images if image.file),
            starred=place.state in ENDS and (place.path / "starred").exists(),
            failure=record.failure,
            queued=record.queued or spool.queued_at(place),
            started=record.started,
            completed=record.completed,
        )


def _view_of(progress: Progress) -> ProgressView:
    return ProgressView(**progress.model_dump(), fraction_done=round(progress.fraction, 4))


def _not_for(verb: str, place: Place) -> str:
    return f"`{verb}` is not for a job that is {STATUS[place.state]}."


@contextmanager
def _told() -> Iterator[None]:
    """The spool's errors as the client's."""
    try:
        yield
    except JobError as error:
        raise client.RefusedError(str(error), error.mistakes) from error
    except TakenError as error:
        raise client.WrongStateError(str(error)) from error
    except SpoolError as error:
        raise client.UnreachableError(str(error)) from error
    except OSError as error:
        raise client.BusyError(f"The spool cannot be used just now: {error}", 10.0) from error
