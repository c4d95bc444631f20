"""What becomes of a claimed job: it is run, ended, set aside or given back. Decided here, done by the service."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from typing import Literal

from spooler import company, pictures
from spooler.catalogue import Catalogue, ModelCard, resolve_all
from spooler.denylist import DenyList
from spooler.dropped import owner_of
from spooler.durable import UnreadableError
from spooler.intake import Intake
from spooler.job import MAX_SEED, Job
from spooler.mistakes import IncompleteError, JobError
from spooler.place import Place
from spooler.record import Record
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.states import End


@dataclass(frozen=True)
class Runs:
    """Its next attempt may begin."""

    record: Record
    job: Job  # every field filled in
    cells: tuple[Job, ...]
    card: ModelCard
    owner: str
    alone: bool  # it may be what ended the engine: nothing is drawn beside it

    @property
    def key(self) -> str:
        """Of the jobs that it may be drawn with."""
        return company.ALONE if self.alone else company.key_of_all(self.cells, self.card)


@dataclass(frozen=True)
class Ends:
    """It ends here, without another attempt."""

    record: Record
    state: End


@dataclass(frozen=True)
class SetAside:
    """It never was a job."""

    reason: str


@dataclass(frozen=True)
class GoesBack:
    """It is not to be run now."""

    to: Literal["pending", "held"] = "pending"


Verdict = Runs | Ends | SetAside | GoesBack


class Examiner:
    """Looks at claimed jobs. What is run is what was claimed, whatever was seen in pending/."""

    def __init__(self, settings: Settings, spool: Spool, intake: Intake, deny_list: DenyList):
        self._settings = settings
        self._spool = spool
        self._intake = intake
        self._deny_list = deny_list

    def examine(self, place: Place, catalogue: Catalogue, given_name: str) -> Verdict:
        """The verdict on a job in this spooler's folder. Gathers its input pictures. Raises OSError when it cannot be read."""
        record = self._spool.read_record(place) or Record(id=place.id, queued=self._spool.queued_at(place))
        record = record.claimed_by(self._settings.spooler, place.id, given_name)
        record = record.end_attempt("worker-died: the spooler died")  # no effect on an attempt that has its end
        try:
            job, sizes = self._checked(place, catalogue)
        except (JobError, UnreadableError, pictures.InputError) as error:
            if isinstance(error, IncompleteError) and not record.attempts:
                # RACE: somebody began to write to it just as it was claimed: it is looked at again where it was.
                return GoesBack()
            return Ends(record.fail("invalid", str(error)), "failed") if record.attempts else SetAside(str(error))
        if (place.path / "hold").exists():  # somebody died who edited it
            return GoesBack("held")
        if (place.path / "cancel").exists():
            return Ends(record.fail("cancelled", "Cancelled before it started."), "cancelled")
        if not record.attempts and (verdict := self._intake.verdict(place, job)).answer != "ready":
            return Ends(record.fail("condition", verdict.why), "failed") if verdict.answer == "never" else GoesBack()
        if record.attempts_used >= self._settings.max_attempts:
            last = record.attempts[-1].outcome
            reason = f"The engine ended {record.attempts_used} times while it ran this job; the last time: {last}."
            return Ends(record.fail("worker-died", reason), "failed")
        if not job.owner:  # the record says whose it was
            job = job.model_copy(update={"owner": owner_of(place.job_file.stat().st_uid)})
        earlier = record.parameters.seed if record.parameters else None
        seed = secrets.randbelow(MAX_SEED + 1) if earlier is None else earlier
        parameters, cells = resolve_all(job, catalogue, seed, sizes)
        card = catalogue.card(parameters.model)
        assert card  # noqa: S101 - _checked looked
        return Runs(record, parameters, cells, card, job.owner, alone=record.is_suspect)

    def hopeless(self, place: Place, given_name: str, why: str) -> Ends:
        """The end of a job whose conditions can never be met any more."""
        record = self._spool.read_record(place) or Record(id=place.id, queued=self._spool.queued_at(place))
        return Ends(record.claimed_by(self._settings.spooler, place.id, given_name).fail("condition", why), "failed")

    def stumbled(self, place: Place, reason: str) -> Ends:
        """The end of a job that this program stumbled over, its record perhaps."""
        record = None
        with contextlib.suppress(PermissionError):
            record = self._spool.read_record(place)
        record = record or Record(id=place.id, spooler=self._settings.spooler)
        return Ends(record.fail("internal", reason), "failed")

    def _checked(self, place: Place, catalogue: Catalogue) -> tuple[Job, dict[str, tuple[int, int]]]:
        """The job and the sizes of its input pictures. Raises what is wrong with it."""
        job = self._spool.read_job(place)
        self._deny_list.check(job)
        if odd := self._spool.odd_entry(place, job.inputs):
            raise pictures.InputError(odd)
        self._spool.gather_inputs(place, job.inputs)
        sizes = {name: pictures.size(place.path / "inputs" / name) for name in job.inputs}
        catalogue.check(job, sizes)
        return job, sizes
