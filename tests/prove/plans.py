"""Which traces there are: each format by each writer, cut off and gone on with after each byte, right and wrong."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator

from spooler.batch_file import read_rows
from spooler.mistakes import JobError
from tests.prove import writers
from tests.prove.editors import EDITORS, GROWING
from tests.prove.folder_writers import FOLDER_WRITERS, with_overrides
from tests.prove.samples import FOLDERS, OVERRIDES, SAMPLES, WRONG
from tests.prove.turned import Desk
from tests.prove.writing import ANY, APPEND, NEW, OPEN, SHUT, Steps, Whole, Work

#: Makes a trace in the folder of a desk, under a stem of its own.
Make = Callable[[Desk, str, random.Random], tuple[Work, Steps]]


def plans(seeds: int, prefix_step: int) -> Iterator[tuple[str, bool, Make]]:
    """Label, whether byte by byte, and how it is made: each kind of trace `seeds` times."""
    for suffix, samples in SAMPLES.items():
        for number, data in enumerate(samples):
            for at in range(0, len(data) + 1, prefix_step):
                yield f"{suffix} {number} stops after {at} bytes and goes on", False, _goes_on(suffix, data, at)
                yield f"{suffix} {number} ends after {at} bytes", False, _ends(suffix, data, at)
            for write in _writers_of(suffix):
                yield f"{suffix} {number} byte by byte by {write.__name__}", True, _plain(suffix, data, write)
    for overrides_at in range(0, len(OVERRIDES), prefix_step):
        yield f"overrides stop after {overrides_at} bytes and go on", False, _overrides(overrides_at)
    for suffix, wrong in WRONG.items():
        for data in wrong:
            for write in (writers.dies, writers.mv, writers.touched, writers.samba, writers.kate):
                yield f"{suffix} wrong {data[:20]!r} by {write.__name__}", False, _wrong(suffix, data, write)
    for whole in FOLDERS:
        for write in FOLDER_WRITERS:
            yield f"folder {list(whole)[1]} by {write.__name__}", True, _folder(whole, write)
    for _ in range(seeds):
        for suffix, samples in SAMPLES.items():
            for write in _writers_of(suffix):
                for number, data in enumerate(samples):
                    yield f"{suffix} {number} by {write.__name__}", False, _plain(suffix, data, write)
        for whole in FOLDERS:
            for write in FOLDER_WRITERS:
                yield f"folder {list(whole)[1]} by {write.__name__}", False, _folder(whole, write)
        for _ in range(10):
            yield "png with overrides", False, _overrides(None)


def _writers_of(suffix: str) -> tuple[Callable[[Work], Steps], ...]:
    editors = EDITORS if suffix != ".png" else ()
    return (*writers.FILE_WRITERS, *editors, *(GROWING if suffix in (".jsonl", ".csv", ".txt") else ()))


def _plain(suffix: str, data: bytes, write: Callable[[Work], Steps]) -> Make:
    def make(desk: Desk, stem: str, rng: random.Random) -> tuple[Work, Steps]:
        work = Work(stem, suffix, data, rng, desk.spool.pending, desk.spool.tmp)
        return work, write(work)

    return make


def _goes_on(suffix: str, data: bytes, at: int) -> Make:
    """The first bytes, a pause, the others: through one descriptor, or two, or by a rename of the whole over the half."""

    def make(desk: Desk, stem: str, rng: random.Random) -> tuple[Work, Steps]:
        work = Work(stem, suffix, data, rng, desk.spool.pending, desk.spool.tmp)

        def steps() -> Steps:
            fd = os.open(work.path, NEW, 0o644)
            if at == len(data):
                work.declare(data)
            if suffix == ".json" and at >= len(data.rstrip()):
                work.declare(data[:at])
            os.write(fd, data[:at])
            yield OPEN
            if rng.random() < 0.3:
                if at < len(data):
                    work.declare(data)
                os.write(fd, data[at:])
                yield OPEN
                os.close(fd)
                return
            os.close(fd)
            if at == len(data):
                return
            yield SHUT
            if suffix == ".json" and at >= len(data.rstrip()):  # it ended with its brace, and was taken perhaps
                return
            work.declare(data)
            if rng.random() < 0.5:
                fd = os.open(work.path, APPEND, 0o644)
                os.write(fd, data[at:])
                os.close(fd)
            else:
                draft = work.tmp / work.name
                draft.write_bytes(data)
                draft.rename(work.path)

        return work, steps()

    return make


def _ends(suffix: str, data: bytes, at: int) -> Make:
    """The first bytes, and no more: half a JSON file is set aside; half a list of prompts may be a list of prompts."""

    def make(desk: Desk, stem: str, rng: random.Random) -> tuple[Work, Steps]:
        work = Work(stem, suffix, data[:at], rng, desk.spool.pending, desk.spool.tmp)
        if _is_valid(suffix, data[:at]):
            work.declare(data[:at])
        else:
            work.invalid = data[:at]
        return work, writers.dies(work)

    return make


def _is_valid(suffix: str, data: bytes) -> bool:
    if suffix == ".json":
        try:
            return isinstance(json.loads(data.decode("utf-8-sig")), dict)
        except ValueError:
            return False
    try:
        return bool(read_rows(f"x{suffix}", data))
    except JobError:
        return False


def _wrong(suffix: str, data: bytes, write: Callable[[Work], Steps]) -> Make:
    def make(desk: Desk, stem: str, rng: random.Random) -> tuple[Work, Steps]:
        work = Work(stem, suffix, data or b"", rng, desk.spool.pending, desk.spool.tmp, invalid=data)
        return work, write(work) if data else _touch(work)

    return make


def _touch(work: Work) -> Steps:
    work.path.touch()
    yield ANY


def _folder(whole: Whole, write: Callable[[Work], Steps]) -> Make:
    def make(desk: Desk, stem: str, rng: random.Random) -> tuple[Work, Steps]:
        work = Work(stem, "", b"", rng, desk.spool.pending, desk.spool.tmp, wholes=[whole])
        return work, write(work)

    return make


def _overrides(at: int | None) -> Make:
    """A picture with overrides; `at`: these stop after so many bytes, the picture comes, and then the rest of them."""

    def make(desk: Desk, stem: str, rng: random.Random) -> tuple[Work, Steps]:
        data = SAMPLES[".png"][0]
        work = Work(stem, ".png", data, rng, desk.spool.pending, desk.spool.tmp, overrides=OVERRIDES)

        def steps() -> Steps:
            path = work.pending / f"{work.name}.overrides.json"
            path.write_bytes(OVERRIDES[:at])
            yield SHUT
            work.declare(data)
            work.path.write_bytes(data)
            yield SHUT
            with path.open("ab") as file:
                file.write(OVERRIDES[at:])

        return work, with_overrides(work) if at is None else steps()

    return make
