"""What is done under the claim lock, and that a lock is the kernel's or none."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path
from typing import Any

import pytest
from filelock import Timeout
from house import drop, listing

from spooler import moves
from spooler.batches import Batches
from spooler.life import Life
from spooler.record import Record, Timings
from spooler.spool import Spool
from tests.prove.operations import operations

#: Of the operations of the proofs, those that take no claim lock: a wished id, a claim, and whatever goes back, take it.
FREE = {
    "submit", "submit, pictures", "gather pictures", "cancel, running", "set priority", "star", "begin an epoch", "recover",
    "prune", "prune, starred", "reap tmp",
}  # fmt: skip
#: Of what goes on without it first, and needs it then.
BOTH = {"restart after a crash", "publish, name taken"}


def is_free(name: str) -> bool:
    return name in FREE or name.startswith(("prepare", "publish"))


def test_who_may_only_read_the_spool_cannot_hold_its_locks(tmp_path: Path) -> None:
    """flock(2) asks for no right to write: whoever could open a lock to read it could stop every claim."""
    spool = Spool(tmp_path / "spool")
    spool.create()
    locks = (spool.root / ".claim.lock", spool.claimed / "me" / ".lock")

    def modes(spool: Spool) -> list[int]:
        life = Life.begin(spool, "me")
        with spool.claim_lock():
            life.end()
        return [lock.stat().st_mode & 0o777 for lock in locks]

    assert modes(spool) == [0o600, 0o600]
    for lock in locks:
        lock.chmod(0o644)  # as earlier versions made them
    spool.create()
    assert modes(spool) == [0o600, 0o600]
    for lock in locks:
        lock.unlink()
    spool.root.chmod(0o775)
    assert modes(Spool(spool.root)) == [0o660, 0o660]


@pytest.mark.parametrize("operation", [each for each in operations() if each.name not in BOTH], ids=lambda each: each.name)
def test_what_could_meet_a_claim_waits_for_the_claim_lock_and_nothing_else_does(
    operation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool")
    operation.stage(spool)
    monkeypatch.setattr(moves, "CLAIM_LOCK_WAIT_S", 0.01)
    if is_free(operation.name):
        with spool.claim_lock(), operation.ready(spool):
            operation.deed(spool)
        return
    before = {name for name in listing(spool.root) if not name.startswith(("tmp", "claimed/edit_"))}
    with spool.claim_lock(), operation.ready(spool), pytest.raises(Timeout):
        operation.deed(spool)
    after = {name for name in listing(spool.root) if not name.startswith(("tmp", "claimed/edit_"))}
    assert {name for name in after ^ before if not name.endswith(".lock")} == set()


def test_what_ends_under_its_own_name_waits_for_nobody(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims take the lock all the time. Only where there is something of that name already it has to be known whose it is."""
    monkeypatch.setattr(moves, "CLAIM_LOCK_WAIT_S", 0.01)
    (spool.claimed / "me").mkdir(exist_ok=True)
    for name in ("cat", "dog"):
        drop(spool, f"{name}.json", {"prompt": "a cat"})
    cat, dog = (spool.claim(f"{name}.json", "me") for name in ("cat", "dog"))
    assert cat and dog
    (spool.root / "done" / "dog").mkdir()
    with spool.claim_lock():
        assert spool.publish(cat, Record(id="cat").finish((), Timings()), "done")
        with pytest.raises(Timeout):
            spool.publish(dog, Record(id="dog").finish((), Timings()), "done")


def test_n7_a_lock_is_the_kernel_s_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system has no locks nobody may work on: a file that says "locked" would outlive who made it."""
    spool = Spool(tmp_path / "spool")
    spool.create()
    (spool.claimed / "me").mkdir()

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    for lock in (spool.claim_lock(), spool.life_lock("me")):
        with pytest.raises(OSError, match="not implemented"):
            lock.acquire(timeout=0.01)


def test_nobody_takes_apart_a_batch_that_another_is_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "spool")
    spool.create()
    (spool.batches / "two").mkdir()  # its taker has come so far
    monkeypatch.setattr(moves, "CLAIM_LOCK_WAIT_S", 0.01)
    with spool.claim_lock(), pytest.raises(Timeout):
        Batches(spool).unfinished()
    assert (spool.batches / "two").is_dir()
    assert Batches(spool).unfinished() == [] and not (spool.batches / "two").exists()
