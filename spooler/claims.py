"""Claiming jobs that wait, one or several in one go, and giving them back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spooler import durable
from spooler.ids import clean_id, versions
from spooler.moves import Moves, forget
from spooler.place import Place
from spooler.reader import PRIORITY


class Claims(Moves):
    """The verbs between pending/ or held/ and claimed/."""

    def claim(
        self,
        name: str,
        spooler: str,
        state: Literal["pending", "held"] = "pending",
        still: Callable[[str], bool] = lambda name: True,
        to_edit: bool = False,
    ) -> Place | None:
        """As `claim_many`, one: its place, or None for a lost race. Raises the OSError that kept it from being claimed."""
        (answer,) = self.claim_many([name], spooler, state, still, to_edit)
        if isinstance(answer, OSError):
            raise answer
        return answer

    def claim_many(
        self,
        names: Sequence[str],
        spooler: str,
        state: Literal["pending", "held"] = "pending",
        still: Callable[[str], bool] = lambda name: True,
        to_edit: bool = False,
    ) -> list[Place | OSError | None]:
        """Take these out of pending/ for this spooler in one go: one hold of the claim lock, one fsync for all their folders,
        one for all their moves.

        The answer to each: its place. None when somebody else was faster, or took it away: a lost race. Or the OSError that
        kept this one from being claimed: it is where it was. What keeps all of them from it is raised, and then none was moved;
        but after an UnsyncedError some were, and a power cut may take that back: recovery finds those that are in claimed/.

        `still` says of a name, right before its move, whether it is what was looked at: else it is a lost race, too.

        What is claimed out of held/, to be edited, is marked: whoever takes it over from the dead gives it back. `to_edit`: it
        will be given back, so the priority that somebody gave it stays.
        """
        queue, mine = f"{self.root}/{state}", f"{self.claimed}/{spooler}"
        answers: list[Place | OSError | None] = []
        with self.claim_lock():
            ids = self.free_ids(map(clean_id, names))
            wanted = [
                each if isinstance(each, PermissionError) else _Claim(f"{queue}/{name}", f"{mine}/{each}")
                for name, each in zip(names, ids, strict=True)
            ]
            claims = [each for each in wanted if isinstance(each, _Claim)]
            moved: list[_Claim] = []
            try:
                failed = {each: error for each in claims if (error := self._make_room(each, state))}
                if any(each.is_file for each in claims):
                    # First of all: what is moved into a folder would be lost with its name. And a spooler that has no folder of
                    # its own, where none could be made, hears so here: it has not lost a race.
                    durable.sync_folder(mine)
                for name, each in zip(names, wanted, strict=True):
                    if isinstance(each, PermissionError):
                        answers.append(each)
                        continue
                    try:
                        if error := failed.get(each):
                            raise error
                        if not still(name):
                            raise FileNotFoundError(name)
                        self._take(each, state)
                    except FileNotFoundError:  # RACE: claimed by another spooler, cancelled, or moved away by hand
                        answers.append(None)
                    except OSError as error:
                        answers.append(error)
                    else:
                        moved.append(each)
                        folder = Path(each.folder)
                        answers.append(Place(folder.name, "claimed", folder, spooler))
                if moved:
                    # A new folder's own fsync comes with the first record, before which nothing is begun.
                    durable.sync_moves(queue, mine if any(not each.is_file for each in moved) else None)
            finally:
                for each in claims:
                    if each not in moved:
                        self._clear(each)
        for answer in answers:
            if isinstance(answer, Place) and not to_edit:
                forget(f"{self.pending}/{answer.id}{PRIORITY}")
        return answers

    def _make_room(self, claim: _Claim, state: str) -> OSError | None:
        """Make the folder that a file is moved into, or see to it that there is none where a folder is moved to.

        If there is one, it has no job.json, for the id is free: left by one that was killed. Returns what kept it from that.
        """
        try:
            if claim.is_file:
                try:
                    os.mkdir(claim.folder)  # noqa: PTH102
                except FileExistsError:
                    self._discard(Path(claim.folder))
                    os.mkdir(claim.folder)  # noqa: PTH102
                if state == "held":
                    durable.write_new_if_missing(Path(claim.folder) / "hold", b"")
            elif durable.exists(claim.folder):
                self._discard(Path(claim.folder))
        except OSError as error:
            return error
        return None

    def _take(self, claim: _Claim, state: str) -> None:
        """The move itself; the caller has the disk keep it."""
        if not claim.is_file:
            hold = Path(claim.source) / "hold"
            if state == "held":
                durable.write_new_if_missing(hold, b"")
            elif durable.exists(hold):
                hold.unlink()  # an editor's that died: it was released since
        self.move("claim", claim.source, f"{claim.folder}/job.json" if claim.is_file else claim.folder, synced=False)

    def _clear(self, claim: _Claim) -> None:
        """Remove the folder of a claim that came to nothing, unless the job is in it after all."""
        with contextlib.suppress(OSError):
            if durable.exists(claim.folder) and not durable.exists(f"{claim.folder}/job.json"):
                self._discard(Path(claim.folder))

    def give_back(self, place: Place, to: Literal["pending", "held"] = "pending") -> Place | None:
        """Put a claimed job back where it waits, as a folder. None: it was adopted by another meanwhile."""
        for name in os.listdir(place.path):  # noqa: PTH208 - the names alone
            if name in ("progress.json", "preview.jpg"):
                forget(place.path / name)
        with self.claim_lock():
            for job_id in versions(place.id):
                target = self.root / to / job_id
                if not durable.exists(target):
                    try:
                        self.move("give back", place.path, target)
                    except FileNotFoundError:  # RACE: we were taken for dead, and another has it
                        return None
                    forget(target / "hold")
                    return Place(job_id, to, target)
        raise AssertionError("unreachable")


@dataclass(frozen=True, slots=True)
class _Claim:
    """One job that is being claimed: where it waits, and the folder that it will have. In text, as `durable.StrPath` says."""

    source: str
    folder: str

    @property
    def is_file(self) -> bool:
        return self.source.endswith(".json")
