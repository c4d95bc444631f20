"""Jobs of one key (spooler/company.py) that are drawn together, in whichever way: company.py and party.py."""

from __future__ import annotations

from spooler.engine.knee import Knee
from spooler.engine.model import Model
from spooler.engine.work import Work


class Group:
    """It is `closed` to further jobs when somebody waits who is of another key."""

    def __init__(self, key: str, model: Model, knee: Knee, most_jobs: int, most_pictures: int):
        """`most_jobs` that are drawn together, `most_pictures` of one job at once."""
        self.key = key
        self.model = model
        self.works: list[Work] = []  # those that have pictures to be drawn, or that are being drawn, the oldest first
        self.closed = False
        self._knee = knee
        self._most_jobs = most_jobs
        self._most_pictures = most_pictures

    def admit(self, work: Work) -> None:
        self.works.append(work)
