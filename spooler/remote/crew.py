"""The workers that live, as far as their heartbeats tell."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from spooler.remote import broker as redises
from spooler.remote.wire import Beat
from spooler.status import LaneStatus

log = logging.getLogger(__name__)

#: Seconds that Redis must have said so before a worker is taken for dead or a try for gone: after a restart the heartbeats come
#: back one by one.
UNSEEN_S = 5.0
#: Workers that are reckoned with: more make what is told of them larger than its readers take.
MAX_WORKERS = 1024


@dataclass
class Crew:
    """Of each worker its last heartbeat. Times are monotonic seconds of this process."""

    beats: dict[str, Beat] = field(default_factory=dict)
    _seen: dict[str, float] = field(default_factory=dict)  # when Redis had a heartbeat last, which it keeps for a while
    _beaten: dict[str, float] = field(default_factory=dict)  # when the last new one was found
    _false: dict[str, str] = field(default_factory=dict)  # whose are none, as was told, with the reason

    def read(self, worker: str, raw: str) -> Beat | None:
        """What Redis has as that worker's heartbeat; None for what is none."""
        try:
            beat = Beat.model_validate_json(raw)
            if beat.worker != worker:
                raise ValueError(f"it is of worker {beat.worker!a}")
        except ValueError as error:  # pydantic's too
            why = ascii(str(error))[:300]
            if self._false.get(worker) != why:  # or there would be a line each second
                log.warning("worker %a: a heartbeat that is none: %s", worker[:100], why)
                if len(self._false) >= MAX_WORKERS:
                    self._false.clear()
                self._false[worker] = why
            return None
        self._false.pop(worker, None)
        return beat

    def see(self, beats: list[Beat], now: float) -> None:
        for beat in beats:
            before = self.beats.get(beat.worker)
            if before is None and len(self.beats) >= MAX_WORKERS:
                continue
            if before is None or before.number != beat.number:
                self._beaten[beat.worker] = now
            self.beats[beat.worker], self._seen[beat.worker] = beat, now
        for worker in [worker for worker, seen in self._seen.items() if now - seen > UNSEEN_S]:
            log.warning("worker %s: gone", worker)
            del self.beats[worker], self._seen[worker], self._beaten[worker]

    def excuse(self, now: float) -> None:
        """Nobody could be heard of until now."""
        self._seen = dict.fromkeys(self._seen, now)

    @property
    def able(self) -> list[Beat]:
        return [beat for beat in self.beats.values() if beat.facts]

    def holder(self, task: str) -> str | None:
        """The worker that has the task."""
        return next((beat.worker for beat in self.beats.values() if task in beat.tasks), None)

    def has_beaten_since(self, worker: str, when: float) -> bool:
        """Whether it has told since then what it has: a heartbeat that was on its way at that time does not count."""
        return self._beaten.get(worker, when) > when + redises.BEAT_S

    def told(self, jobs: Mapping[str, str]) -> tuple[LaneStatus, ...]:
        """What readers are told of each. `jobs`: this spooler's, by their tasks' ids; those of others are not its affair."""
        return tuple(_status(self.beats[worker], jobs) for worker in sorted(self.beats))

    def queues(self) -> set[str]:
        return {redises.queue_of(beat.facts.model) for beat in self.able if beat.facts}


def _status(beat: Beat, jobs: Mapping[str, str]) -> LaneStatus:
    # The versions of its libraries are in the record of what it draws; here they would be most of what is told.
    facts = beat.facts and beat.facts.model_copy(update={"versions": {}})
    return LaneStatus(
        name=beat.worker,
        device=facts.device if facts else "",
        state="ready" if facts else "starting",
        reason=beat.trouble,
        running=tuple(jobs[task] for task in beat.tasks if task in jobs),
        engine=facts,
    )
