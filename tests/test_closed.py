"""A stranger's folder that its owner closes to us (chmod 000), wherever it lies: it is no matter of the other jobs (P5).

Nothing is closed to root, which tests may run as: so the calls that touch the folder answer as they do to others.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from desk import Desk
from house import drop

from spooler import fsck
from spooler.record import Image, Record, Timings, utc_now
from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import create_app

CAT = {"prompt": "a cat"}


@pytest.fixture
def close(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Closes a folder: what is in it can neither be seen nor read, and it cannot be moved."""
    closed: list[str] = []

    def guarded(module: Any, name: str) -> None:
        real = getattr(module, name)

        def asked(path: Any, *more: Any, **named: Any) -> Any:
            text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
            if any(text.startswith(f"{each}/") or (name == "rename" and text == each) for each in closed):
                raise PermissionError(errno.EACCES, "Permission denied", text)
            return real(path, *more, **named)

        monkeypatch.setattr(module, name, asked)

    for name in ("lstat", "stat", "open", "rename", "scandir", "unlink"):
        guarded(os, name)
    return lambda folder: closed.append(os.fspath(folder))


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.create()
    return made


def claimed(spool: Spool, name: str, spooler: str = "me") -> Path:
    (spool.claimed / spooler).mkdir(exist_ok=True)
    drop(spool, f"{name}.json", CAT)
    place = spool.claim(f"{name}.json", spooler)
    assert place
    return place.path


def test_p5_one_that_was_claimed_keeps_no_spooler_from_going_on(spool: Spool, close: Callable[[Path], None]) -> None:
    close(claimed(spool, "theirs"))
    claimed(spool, "cat")
    made = Desk(spool.root)
    try:
        for _ in range(3):
            made.turn()
        assert (made.state(), made.runs()) == ("claimed", 1)
        assert (spool.claimed / "me" / "theirs").is_dir()
    finally:
        made.close()


def test_p5_one_of_a_dead_spooler_keeps_no_other_from_being_taken_over(
    spool: Spool, close: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    close(claimed(spool, "a-theirs", "dead"))
    claimed(spool, "cat", "dead")
    (spool.claimed / "me").mkdir()
    refused: list[PermissionError] = []
    assert [place.id for place in spool.recover("me", closed=refused)] == ["cat"] and len(refused) == 1
    with pytest.raises(PermissionError):
        spool.recover("me")
    made = Desk(spool.root)
    try:
        for _ in range(3):
            made.turn()
        assert made.runs() == 1 and caplog.text.count("cannot be taken up") == 1
    finally:
        made.close()


def test_p5_one_that_has_a_waiting_job_s_id_keeps_that_one_alone_waiting(spool: Spool, close: Callable[[Path], None]) -> None:
    close(claimed(spool, "cat", "dead"))
    for name in ("cat", "dog"):
        drop(spool, f"{name}.json", CAT)
    made = Desk(spool.root)
    try:
        for _ in range(3):
            made.turn()
        assert [each.id for each in made.engine.heard] == ["dog"]  # type: ignore[union-attr]
        assert (spool.pending / "cat.json").exists()
    finally:
        made.close()


def test_p5_one_that_another_job_waits_for_keeps_nobody_waiting(spool: Spool, close: Callable[[Path], None]) -> None:
    close(claimed(spool, "theirs", "dead"))
    drop(spool, "later.json", CAT | {"after": ["theirs"]})
    made = Desk(spool.root)
    try:
        made.turn()
        drop(spool, "cat.json", CAT)
        made.turn()
        assert made.runs() == 1 and (spool.pending / "later.json").exists()
    finally:
        made.close()


def test_p5_one_is_told_by_fsck(spool: Spool, close: Callable[[Path], None]) -> None:
    ends = claimed(spool, "ended")
    place = spool.find("ended")
    assert place
    (ends / "0.png").write_bytes(b"x")
    record = Record(id="ended", queued=utc_now()).finish((Image(file="0.png", seed=0, width=8, height=8),), Timings())
    assert spool.publish(place, record, "done")
    close(spool.root / "done" / "ended")
    close(claimed(spool, "taken"))
    told = {str(each.path.relative_to(spool.root)) for each in fsck.examine(spool) if "closed" in each.sentence}
    assert told == {"done/ended/job.json", "claimed/me/taken/job.json"}


def test_p5_one_at_work_is_told_of_to_nobody_who_looks_at_the_others(spool: Spool, close: Callable[[Path], None]) -> None:
    close(claimed(spool, "theirs"))
    drop(spool, "cat.json", CAT)
    client = create_app(Settings(spool=spool.root, cache=spool.root.parent / "cache", floor_mib=0.0)).test_client()
    for path in (
        "/queue",
        "/gallery",
        "/status",
        "/api/v1/jobs",
        "/api/v1/live",
        "/api/v1/queue",
        "/metrics",
        "/sdapi/v1/progress",
    ):
        assert client.get(path).status_code == 200, path
    assert client.get("/api/v1/jobs/theirs").status_code == 404, "what is not to be seen is no job"
    assert client.post("/api/v1/jobs", json=CAT | {"id": "theirs"}).status_code == 409, "but nobody else's either"
    assert client.post("/api/v1/jobs", json=CAT).status_code == 201
