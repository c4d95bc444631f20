"""Queues that keep their jobs in files, one way to use them all: fill, claim. For `./run.sh bench spool`.

`./run.sh bench peers NAME FOLDER NUMBER` fills NAME in FOLDER with 200 jobs and claims and ends NUMBER of them: for strace.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from spooler import durable, job
from spooler.pending import Pending
from spooler.place import Place
from spooler.spool import Spool

RAW = b'{"prompt": "a large red circle on a blue background", "negative_prompt": "blurry", "steps": 20, "seed": 7}'
#: As the service's settings have it.
RESCAN_S, LOOK_S, OVERTAKE_S, GRACE_S = 5.0, 0.2, 60.0, 10.0


class Contender(Protocol):
    """A queue in a folder of its own, filled once. Raises ImportError when its package is not installed."""

    about: str  #: how it is used here, and what a claim leaves on the disk
    is_peer: bool  #: whether it is file-based and not ours: the best of these is what ours is held against

    def __init__(self, folder: Path): ...

    def fill(self, number: int) -> None: ...

    def claim(self) -> bytes:
        """The bytes of the next job, which nobody else gets then."""

    def end(self) -> None:
        """What is to be done with the job before the next claim: not timed."""


class Ours:
    """The spool as the service claims: the index says which, and looks once more; `Spool.claim_many` takes it."""

    about = "index, `Queue.pick`, `Spool.claim_many` of one; the job is in `claimed/` after a power cut"
    is_peer = False
    at_once = 1

    def __init__(self, folder: Path):
        self.spool = Spool(folder / "spool")
        self.spool.create()
        durable.make_folder(self.spool.claimed / "me", exist_ok=True)
        self.pending = Pending(self.spool)
        self._made = 0
        self._claimed: deque[bytes] = deque()

    def drop(self) -> str:
        """Put one more into pending/, as somebody does with `mv`."""
        name = f"job-{self._made:07}.json"
        self._made += 1
        (self.spool.tmp / name).write_bytes(RAW)
        (self.spool.tmp / name).rename(self.spool.pending / name)
        return name

    def fill(self, number: int) -> None:
        for _ in range(number):
            self.drop()
        while not self.pending.refresh(time.monotonic(), rescan_s=RESCAN_S):
            pass
        assert len(self.pending) == number

    def look(self, name: str) -> None:
        """What a turn of the service does before it claims, when it heard of a new job."""
        self.pending.hint(name, whole=True)
        self.pending.refresh(time.monotonic(), LOOK_S, RESCAN_S)

    def claim(self) -> bytes:
        if not self._claimed:
            self._claimed.extend(self._claim_some())
        return self._claimed.popleft()

    def _claim_some(self) -> Iterator[bytes]:
        names = list(islice(self._chosen(), self.at_once))
        for name, place in zip(names, self.spool.claim_many(names, "me", still=self.pending.is_same), strict=True):
            self.pending.forget(name)
            assert isinstance(place, Place)
            yield durable.read_small(place.job_file, job.MAX_BYTES)

    def _chosen(self) -> Iterator[str]:
        now = time.monotonic()
        while waiting := self.pending.queue.pick({}, "none", "none", now, OVERTAKE_S):
            assert self.pending.may_be_claimed(waiting, now, GRACE_S)
            self.pending.queue.remove(waiting.name)
            yield waiting.name

    def end(self) -> None:
        pass


class OursInOneGo(Ours):
    """As a spooler claims for an engine that takes eight jobs at once: what eight take, shared between them."""

    about = "`Queue.pick` eight times, then one `Spool.claim_many`; a claim is an eighth of that; in `claimed/` as above"
    at_once = 8


class OursUnsynced(Ours):
    """To tell what durability costs: no product does this."""

    about = "the same with its fsyncs left out, to tell what they cost; the product never does this"

    def claim(self) -> bytes:
        sync, os.fsync = os.fsync, lambda fd: None  # type: ignore[assignment]
        try:
            return super().claim()
        finally:
            os.fsync = sync


class Huey:
    """huey's FileStorage, as its consumer's worker calls it."""

    about = "`FileStorage.dequeue`: lists and sorts the folder for each; the job's file is gone from then on"
    is_peer = True

    def __init__(self, folder: Path):
        from huey.storage import FileStorage

        folder.mkdir(exist_ok=True)
        self._queue = FileStorage("bench", str(folder))

    def fill(self, number: int) -> None:
        for _ in range(number):
            self._queue.enqueue(RAW)

    def claim(self) -> bytes:
        return bytes(self._queue.dequeue())

    def end(self) -> None:
        pass


class Dirq:
    """python-dirq with a look at the folder for each claim, so that what came a moment ago takes part."""

    about = "`QueueSimple`, iterated anew for each: lists and sorts the folder, then `lock` (a link) and `get`"
    is_peer = True

    def __init__(self, folder: Path):
        from dirq.QueueSimple import QueueSimple

        self._queue = QueueSimple(str(folder / "dirq"))
        self._name = ""

    def fill(self, number: int) -> None:
        for _ in range(number):
            self._queue.add(RAW)

    def claim(self) -> bytes:
        iter(self._queue)  # it is its own iterator, which begins from the start then, with a new listing
        return self._next()

    def _next(self) -> bytes:
        while not self._queue.lock(name := next(self._queue)):
            pass
        self._name = name
        return bytes(self._queue.get(name))

    def end(self) -> None:
        self._queue.remove(self._name)


class DirqSnapshot(Dirq):
    """As the example in its documentation: one iteration over what there was when it began."""

    about = "`QueueSimple`, one iteration as in its example: one listing for all, then `lock` and `get`; no order but that"
    is_peer = True

    def fill(self, number: int) -> None:
        super().fill(number)
        iter(self._queue)

    def claim(self) -> bytes:
        return self._next()


class Lite:
    """litequeue: a table in SQLite."""

    about = "`LiteQueue.pop`: SQLite in WAL mode with `synchronous = NORMAL`; a power cut may take claims and jobs back"
    is_peer = False  # a database

    def __init__(self, folder: Path):
        from litequeue import LiteQueue

        folder.mkdir(exist_ok=True)
        self._queue: Any = LiteQueue(str(folder / "queue.sqlite3"))

    def fill(self, number: int) -> None:
        for _ in range(number):
            self._queue.put(RAW.decode())

    def claim(self) -> bytes:
        return str(self._queue.pop().data).encode()

    def end(self) -> None:
        pass


CONTENDERS: dict[str, type[Contender]] = {
    "sdspool": Ours,
    "sdspool, eight in one go": OursInOneGo,
    "sdspool, no fsync": OursUnsynced,
    "huey": Huey,
    "dirq, a look each": Dirq,
    "dirq, one iteration": DirqSnapshot,
    "litequeue": Lite,
}


class RawLoop:
    """What a durable submit cannot do without: create, write, fsync, rename, fsync of the folder.

    In a spool's own folders and with names as long as its own: where a file system puts a folder, and what lies in it, is a
    fifth of the time.
    """

    def __init__(self, spool: Spool):
        self._tmp, self._pending = str(spool.tmp), str(spool.pending)
        self._made = 0

    def submit(self) -> None:
        self._made += 1
        draft = f"{self._tmp}/{self._made:031}"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, RAW)
        os.fsync(fd)
        os.close(fd)
        os.rename(draft, f"{self._pending}/{self._made:030}.json")  # noqa: PTH104
        fd = os.open(self._pending, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)


def main() -> None:
    name, folder, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    if name in ("raw submit", "submit"):
        spool = Spool(folder / "spool")
        spool.create()
        raw = RawLoop(spool)
        for _ in range(number):
            raw.submit() if name == "raw submit" else spool.submit(RAW)
    else:
        contender = CONTENDERS[name](folder)
        contender.fill(200)  # the same in each run: what a claim adds is the difference of two
        for _ in range(number):
            contender.claim()
            contender.end()


if __name__ == "__main__":
    main()
