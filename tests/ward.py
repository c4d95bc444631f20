"""A real spooler whose engine has faults at will, those of faults/sitecustomize.py, and what the tests of them share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from house import Spooler, drop, picture, spooler, wait_state

from spooler import library
from spooler.record import Record
from spooler.spool import Place, Spool

FAULTS = Path(__file__).parent / "faults"
CIRCLE = {"prompt": "a large red circle on a blue background", "seed": 5, "steps": 8}
#: A size that no test brings out of memory.
QUICK = CIRCLE | {"steps": 2, "width": 72, "height": 72}
#: A hang is found after this long: far above what a step takes here, however busy the machine is.
STALL_S = 15.0
END = ("done", "failed", "cancelled")


@dataclass
class Patient:
    """A spooler whose engine has the faults that a file names."""

    running: Spooler
    file: Path
    cache: Path
    jobs: int = 0

    @property
    def spool(self) -> Spool:
        return self.running.spool

    @property
    def struck(self) -> list[str]:
        """The faults that came true since `infect`."""
        file = self.file.with_name("fault.struck")
        return file.read_text().splitlines() if file.exists() else []

    def infect(self, faults: str) -> None:
        self.heal()
        self.file.write_text(faults)

    def heal(self) -> None:
        self.file.unlink(missing_ok=True)
        self.file.with_name("fault.struck").unlink(missing_ok=True)

    def drop(self, **fields: Any) -> str:
        self.jobs += 1
        drop(self.spool, f"job{self.jobs}.json", CIRCLE | fields)
        return f"job{self.jobs}"

    def ended(self, job_id: str) -> tuple[Place, Record]:
        place = wait_state(self.spool, job_id, *END)
        record = self.spool.read_record(place)
        assert record
        return place, record

    def run(self, **fields: Any) -> tuple[Place, Record]:
        return self.ended(self.drop(**fields))

    def draw(self, **fields: Any) -> tuple[list[np.ndarray], Record]:
        """The pictures of a job that must be done, as (height, width, 3)."""
        place, record = self.run(**fields)
        assert place.state == "done", self.running.log
        return pixels(place), record


def pixels(place: Place) -> list[np.ndarray]:
    paths = sorted(place.path.glob("*.png"), key=lambda path: int(path.stem))
    return [np.asarray(picture(path).convert("RGB"), dtype=int) for path in paths]


def furthest(ones: list[np.ndarray], others: list[np.ndarray]) -> int:
    """The greatest difference between two pixels' channels, of 255."""
    assert len(ones) == len(others) > 0
    return max(int(abs(one - other).max()) for one, other in zip(ones, others, strict=True))


def outcomes(record: Record) -> list[str | None]:
    return [attempt.outcome for attempt in record.attempts]


@contextmanager
def patient(folder: Path, *options: str) -> Iterator[Patient]:
    spool = Spool(folder / "spool")
    spool.create()
    env = {"PYTHONPATH": str(FAULTS), "FAULT": str(folder / "fault")}
    with spooler(spool, "--cache", str(folder / "cache"), *options, env=env) as running:
        yield Patient(running, folder / "fault", folder / "cache")


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patient]:
    """One spooler for most tests, with a second model whose sampler has no Karras schedule."""
    folder = tmp_path_factory.mktemp("ward")
    shutil.copytree(library.DEMO, folder / "models" / "ancestral")
    card = {"family": "sd1", "width": 128, "height": 128, "steps": 4, "sampler": "Euler a"}
    (folder / "models" / "ancestral" / "sdspool.json").write_text(json.dumps(card))
    options = f"--memory full --models {folder / 'models'} --stall-s {STALL_S} --drop-grace-s 2 --recycle-gib 1"
    with patient(folder, *options.split()) as made:
        yield made


@pytest.fixture
def ill(ward: Patient) -> Iterator[Patient]:
    yield ward
    ward.heal()
