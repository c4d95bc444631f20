"""The index of finished jobs, over real folders and a real database."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from house import ROOT, wait_for

from spooler.job import JobError
from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import create_app
from webui.index import Index
from webui.listings import Listing
from webui.search import ENDED, Search, match_expression, number

WORDS = ("red circle", "blue ring", "green star", "café noir")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.create()
    return made


@pytest.fixture
def index(spool: Spool, tmp_path: Path) -> Iterator[Index]:
    made = Index(spool, tmp_path / "cache")
    yield made
    made.close()


def finish(spool: Spool, name: str, at: int, state: str = "done", **fields: Any) -> Path:
    """A finished job's folder, made elsewhere and moved in by one rename. `at` is the second in which it ended."""
    draft = spool.tmp / f"draft-{name}"
    draft.mkdir()
    job = {"prompt": WORDS[at % 4], "seed": at, "width": 64, "height": 64} | fields
    record = {
        "id": name,
        "started": f"2026-11-21T10:{at // 60:02d}:{at % 60:02d}.000Z",
        "completed": f"2026-11-21T10:{at // 60:02d}:{at % 60:02d}.500Z",
        "parameters": job,
        "images": [{"file": "0.png", "seed": at, "width": 64, "height": 64}] if state == "done" else [],
        "failure": None if state == "done" else {"code": "engine_error", "reason": "It broke."},
    }
    (draft / "job.json").write_text(json.dumps(job))
    (draft / "record.json").write_text(json.dumps(record))
    (draft / "0.png").write_bytes(b"x" * 100)
    return draft.rename(spool.root / state / name)


def up_to_date(index: Index) -> Index:
    wait_for(lambda: index.refresh(1), "the index to be up to date", 60)
    return index


def ids(index: Index, **wanted: Any) -> tuple[str, ...]:
    return index.page(("done",), Search(**wanted)).ids


def db(index: Index) -> Path:
    return index.folder / "index.db"


def test_pages_are_newest_first_and_stay_where_they_are_while_jobs_arrive(spool: Spool, index: Index) -> None:
    for at in range(25):
        finish(spool, f"job{at}", at)
    first = up_to_date(index).page(("done",), limit=10)
    assert first.ids == tuple(f"job{at}" for at in range(24, 14, -1))
    assert (first.total, first.previous_cursor, first.note) == (25, None, None)
    finish(spool, "late", 100)
    second = up_to_date(index).page(("done",), cursor=first.next_cursor, limit=10)
    assert second.ids == tuple(f"job{at}" for at in range(14, 4, -1)) and second.total == 26
    last = index.page(("done",), cursor=second.next_cursor, limit=10)
    assert last.ids == tuple(f"job{at}" for at in range(4, -1, -1)) and last.next_cursor is None
    assert index.page(("done",), cursor=last.previous_cursor, limit=10).ids == second.ids
    back = index.page(("done",), cursor=second.previous_cursor, limit=10)
    assert back.ids == first.ids and back.previous_cursor, "one newer job is left for a page before it"
    top = index.page(("done",), cursor=back.previous_cursor, limit=10)
    assert top.ids[0] == "late" and len(top.ids) == 10 and top.previous_cursor is None
    assert index.page(("done",), limit=10, offset=11).ids == second.ids


@pytest.mark.parametrize(
    "cursor", ["x", "older-", "older--1", "older-99999999999999999999", "newer-9223372036854775807", "older-1;"]
)
def test_a_cursor_that_no_page_gave_is_told(index: Index, cursor: str) -> None:
    with pytest.raises(JobError, match="`cursor` must be one that a page gave"):
        index.page(("done",), cursor=cursor)


def test_states_are_merged_by_time_and_counted(spool: Spool, index: Index) -> None:
    for at, state in enumerate(("done", "failed", "cancelled", "failed", "done")):
        finish(spool, f"job{at}", at, state)
    page = up_to_date(index).page(ENDED, limit=3)
    assert page.ids == ("job4", "job3", "job2") and page.total == 5
    assert index.page(ENDED, limit=3, offset=1).ids == ("job3", "job2", "job1")
    assert index.page(ENDED, cursor=page.next_cursor).ids == ("job1", "job0")
    assert [place.state for place in page.places] == ["done", "failed", "cancelled"]
    assert index.counts() == {"done": 2, "failed": 2, "cancelled": 1}
    real = sum(path.stat().st_size for path in (spool.root / "done").rglob("*") if path.is_file())
    assert index.sizes()["done"] == real


def test_words_and_filters_find(spool: Spool, index: Index) -> None:
    for at in range(8):
        owner = "Ann O'Hara" if at % 2 else "bob"
        finish(
            spool, f"job-{at}", at, owner=owner, model="demo" if at < 6 else "xl", batch="list" if at < 3 else "", width=8 * at
        )
    finish(spool, "broken", 9, "failed")
    up_to_date(index)
    assert ids(index, query="ring") == ids(index, query="  BLU  rin ") == ("job-5", "job-1")
    assert ids(index, query="cafe") == ids(index, query="Café") == ("job-7", "job-3")
    assert ids(index, query="job-4") == ("job-4",) and ids(index, query="hara star") == ()
    assert ids(index, query="ann", model="xl") == ids(index, owner="Ann O'Hara", model="xl") == ("job-7",)
    assert index.page(("done",), Search(query="ring"), limit=1).total == 2
    assert [place.id for place in index.find_batch("list")] == ["job-0", "job-1", "job-2"] == sorted(ids(index, batch="list"))
    assert index.find_batch("") == [] and ids(index, owner="nobody") == ()
    assert index.page(("failed",), Search(query="ring")).ids == ("broken",)
    assert index.page(("failed", "done"), Search(query="ring")).ids == ("broken", "job-5", "job-1")


@pytest.mark.parametrize(
    "query",
    [
        '"',
        "'",
        "AND",
        "red AND",
        "NEAR(",
        "prompt:",
        "-red",
        "^red",
        "*",
        "(",
        "red*)",
        "\x00",
        "a\x00b",
        "\ud800",
        "{id}:x",
        "+",
        "; --",
    ],
)
def test_what_a_person_types_is_never_syntax(spool: Spool, index: Index, query: str) -> None:
    finish(spool, "job", 0, prompt="red and near")
    page = up_to_date(index).page(("done",), Search(query=query, owner=query if query == "\ud800" else None))
    assert page.note is None and page.ids in ((), ("job",))
    assert len(match_expression("x " * 10_000)) < 300


def test_what_goes_comes_back_or_gets_a_star_is_noticed(spool: Spool, index: Index) -> None:
    paths = {name: finish(spool, name, at) for at, name in enumerate(("kept", "pruned", "moved"))}
    up_to_date(index)
    for path in paths["pruned"].iterdir():
        path.unlink()
    paths["pruned"].rmdir()
    paths["moved"].rename(spool.root / "failed" / "moved")
    (paths["kept"] / "starred").touch()
    wait_for(lambda: up_to_date(index).counts() == {"done": 1, "failed": 1, "cancelled": 0}, "the changes to be noticed", 60)
    wait_for(lambda: up_to_date(index) and ids(index, starred=True) == ("kept",), "the walk to find the star", 60)
    assert ids(index, query="red") == ("kept",) and ids(index, query="blue") == (), "the words of what went are gone too"
    assert index.sizes()["done"] == sum(path.stat().st_size for path in paths["kept"].iterdir())
    (paths["kept"] / "starred").unlink()
    index.note("kept")
    index.refresh(1)
    assert ids(index, starred=True) == ()


def test_p5_a_folder_that_is_no_job_stops_nothing_and_is_tried_again(spool: Spool, index: Index) -> None:
    done = spool.root / "done"
    finish(spool, "good", 5)
    (done / "empty").mkdir()
    (done / "a folder of mine").mkdir()
    (done / "file.json").write_text("{}")
    (done / "link").symlink_to(spool.tmp)
    for name, record in (("torn", b'{"id'), ("list", b"[]"), ("wild", b'{"completed": 7, "images": [3], "parameters": "x"}')):
        (finish(spool, name, 3) / "record.json").write_bytes(record)
    (finish(spool, "linked", 1) / "record.json").unlink()
    (done / "linked" / "record.json").symlink_to("/etc/passwd")
    huge = {"prompt": "x", "seed": 10**30, "width": -(10**30), "height": True}
    finish(spool, "huge", 2, **huge)
    up_to_date(index)
    assert set(ids(index)) == {"good", "torn", "list", "wild", "huge"} and ids(index, query="ring") == ("good",)
    assert {place.id for place, _ in index.odd()} == {"empty", "linked"}
    (done / "empty" / "job.json").write_text('{"prompt": "filled later"}')
    wait_for(lambda: up_to_date(index) and ids(index, query="filled") == ("empty",), "it to be looked at again", 60)


def test_a_state_that_cannot_be_listed_does_not_stop_the_others(spool: Spool, index: Index) -> None:
    finish(spool, "broken", 1, "failed")
    up_to_date(index)
    (spool.root / "failed").rename(spool.root / "elsewhere")
    finish(spool, "good", 2)
    wait_for(lambda: index.refresh(1) or index.page(("done",)).ids, "the other state's job", 60)
    assert index.page(("failed",)).ids == ("broken",), "a folder that is away has not lost its jobs"
    assert "may be missing" in (index.page(("failed",)).note or "") and index.page(("done",)).note is None


def overwrite_start(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"no database" * 10)


def overwrite_all(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def older_schema(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.executescript("CREATE TABLE job (id); PRAGMA user_version = 9999;")
    connection.close()


def lost_table(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE folder")
    connection.close()


@pytest.mark.parametrize("harm", [overwrite_start, overwrite_all, truncate, older_schema, lost_table, Path.unlink])
@pytest.mark.parametrize("open_", [True, False], ids=["in use", "between two lives"])
def test_a_damaged_database_is_made_again(spool: Spool, tmp_path: Path, harm: Callable[[Path], None], open_: bool) -> None:
    for at in range(30):
        finish(spool, f"job{at}", at, prompt=f"word{at} " * 50)
    first = Index(spool, tmp_path / "cache")
    up_to_date(first)
    first.close()  # everything is in the one file now
    index = Index(spool, tmp_path / "cache") if not open_ else up_to_date(first)
    harm(db(index))
    finish(spool, "late", 40)
    for _ in range(2):
        assert len(index.page(("done",)).ids) >= 30, "a page is answered whatever the file is like"

    def whole() -> bool:
        index.refresh(1)
        return (
            index.page(("done",)).ids[0] == "late" and ids(index, query="word7") == ("job7",) and index.counts()["done"] == 31
        )

    def whole_or_unusable() -> bool:
        try:
            return whole()
        except sqlite3.Error:
            return False

    wait_for(whole_or_unusable, "the index to be made again", 60)
    index.close()


def test_before_the_first_listing_is_through_a_part_of_the_folder_is_shown(
    spool: Spool, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webui.index.NAMES", 1)
    monkeypatch.setattr("webui.index.MAX_PLAIN", 3)
    for at in range(5):
        finish(spool, f"job{at}", at)
    assert index.refresh(0) is False
    page = index.page(("done",))
    assert len(page.ids) == 3 and page.total is None and page.note and "index is being made" in page.note
    assert "no searching" in (index.page(("done",), Search(query="red")).note or "")
    assert len(up_to_date(index).page(("done",)).ids) == 5


def test_without_a_cache_the_gallery_is_a_plain_listing_with_a_sentence(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    for at in range(3):
        os.utime(finish(spool, f"job{at}", at), (at, at))
    index = Index(spool, tmp_path / "cache")
    assert index.refresh(1) is False
    page = index.page(("done",), limit=2)
    assert page.ids == ("job2", "job1") and page.total == 3
    assert index.page(("done",), cursor=page.next_cursor).ids == ("job0",)
    searched = index.page(("done",), Search(query="ring"))
    assert (
        searched.ids == () and searched.note and "no searching just now" in searched.note and "Not a directory" in searched.note
    )


def test_a_full_disk_under_the_cache_keeps_what_is_there_and_goes_on_later(spool: Spool, index: Index) -> None:
    finish(spool, "first", 1)
    up_to_date(index)
    pages = index._store._db.execute("PRAGMA page_count").fetchone()[0]
    index._store._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to be full
    for at in range(40):
        finish(spool, f"job{at}", at, prompt=f"{'long ' * 500}{at}")
    wait_for(lambda: not index.refresh(0) and "full" in (index.page(("done",)).note or ""), "the sentence", 60)
    assert ids(index) == ("first",)
    wait_for(lambda: index.refresh(1) and index.counts()["done"] == 41, "the rest to be taken in", 60)


def test_another_program_s_lock_is_waited_out(spool: Spool, index: Index) -> None:
    finish(spool, "first", 1)
    up_to_date(index)
    other = sqlite3.connect(db(index), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    finish(spool, "second", 2)
    assert index.refresh(1) is False and ids(index) == ("first",), "readers do not wait"
    other.execute("ROLLBACK")
    other.close()
    wait_for(lambda: index.refresh(1) and ids(index) == ("second", "first"), "the second job", 60)


def test_two_processes_share_one_cache_and_one_takes_over_from_the_other(spool: Spool, tmp_path: Path) -> None:
    script = (
        "import sys, threading; from pathlib import Path; from spooler.spool import Spool; from webui.index import Index\n"
        "index = Index(Spool(Path(sys.argv[1])), Path(sys.argv[2])); stop = threading.Event()\n"
        "thread = threading.Thread(target=index.run, args=(stop,)); thread.start()\n"
        "print('runs', flush=True); sys.stdin.read(); stop.set(); thread.join()"
    )
    command = [sys.executable, "-c", script, str(spool.root), str(tmp_path / "cache")]
    both = [subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True, cwd=ROOT) for _ in range(2)]
    reader = Index(spool, tmp_path / "cache")
    try:
        for at in range(200):
            finish(spool, f"job{at}", at)
        wait_for(lambda: len(reader.page(("done",), Search(query="red"), limit=200).ids) == 50, "all to be found", 60)
        both[0].kill()
        both[0].wait()
        finish(spool, "late", 300)
        wait_for(lambda: reader.page(("done",), Search(query="late")).ids == ("late",), "the other to have taken over", 60)
    finally:
        ended = [each.communicate(timeout=60)[1] for each in both]
    assert both[1].returncode == 0 and ended == ["", ""]
    with sqlite3.connect(db(reader)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.execute("INSERT INTO words (words) VALUES ('integrity-check')")
    connection.close()


def test_every_write_may_be_the_last(spool: Spool, tmp_path: Path) -> None:
    """SIGKILL at any moment of a build: the next life ends with the same index."""
    for at in range(300):
        finish(spool, f"job{at}", at)
    script = (
        "import sys; from pathlib import Path; from spooler.spool import Spool; from webui import index\n"
        "index.READ = 7; it = index.Index(Spool(Path(sys.argv[1])), Path(sys.argv[2])); print('begins', flush=True)\n"
        "while not it.refresh(0.01): print('.', end='', flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(spool.root), str(tmp_path / "cache")]
    for pieces in (1, 3, 9):
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout
            process.stdout.read(7 + pieces)
            process.kill()
    index = up_to_date(Index(spool, tmp_path / "cache"))
    assert index.counts()["done"] == 300 and len(index.page(("done",), Search(query="ring"), limit=200).ids) == 75
    index.close()


def test_a_job_that_leaves_claimed_is_seen_without_a_listing(
    spool: Spool, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webui.index.RESTS", 1e9)  # as after a listing that took very long
    finish(spool, "first", 1)
    up_to_date(index)
    claimed = spool.claimed / "me" / "second"
    claimed.mkdir(parents=True)
    (claimed / "job.json").write_text('{"prompt": "x"}')
    index.refresh(1)
    finish(spool, "unseen", 2)
    claimed.rename(spool.root / "done" / "second")
    assert index.refresh(1) is False, "it knows that there is something that it has not listed"
    assert ids(index) == ("second", "first") and "may be" not in (index.page(("done",)).note or "")


@pytest.mark.parametrize(
    ("mtime", "now", "due"),
    [(7, 100.1, False), (8, 100.1, False), (8, 101.1, True), (7, 101.1, False), (7, 102.1, True), (7, 701.0, True)],
)
def test_when_a_folder_is_listed_again(mtime: int, now: float, due: bool) -> None:
    """The mtime was first seen at 100 s, when it was listed at once: it has to stand for a tick to be believed."""
    assert Listing(mtime_ns=7, seen_at=100.0, began=100.0, ended=100.0, rest_s=1.0).is_due(mtime, now) is due
    settled = Listing(mtime_ns=7, seen_at=90.0, began=100.0, ended=100.0, rest_s=1.0)
    assert settled.is_due(mtime, now) is (due and (mtime != 7 or now > 700))


def test_jobs_of_one_moment_all_have_a_place(spool: Spool, index: Index) -> None:
    for name in range(60):
        finish(spool, f"job{name}", 7)
    same = {number(1, "a"), number(1, "b"), number(1, "a", 1), number(1, "a", 2), number(10**30, "x", 99), number(-5, "x")}
    assert len(same) == 6 and max(same) < 2**63 and min(same) >= 0
    seen: list[str] = []
    cursor = None
    for _ in range(7):
        page = up_to_date(index).page(("done",), cursor=cursor, limit=10)
        seen += page.ids
        cursor = page.next_cursor
        if not cursor:
            break
    assert len(seen) == len(set(seen)) == 60


# -- through the web app -----------------------------------------------------------------------------------------------


@pytest.fixture
def client(spool: Spool, tmp_path: Path) -> FlaskClient:
    return create_app(Settings(spool=spool.root, cache=tmp_path / "cache")).test_client()


def test_the_api_finds_by_words_filters_and_cursor(client: FlaskClient, spool: Spool) -> None:
    for at in range(12):
        finish(spool, f"job{at}", at, owner="ann" if at % 2 else "bob", model="demo")
    finish(spool, "broken", 20, "failed", owner="ann")

    def get(query: str) -> Any:
        return client.get(f"/api/v1/jobs?{query}").json

    first = get("status=done&limit=5")
    assert [job["id"] for job in first["jobs"]] == [f"job{at}" for at in range(11, 6, -1)] and first["total"] == 12
    finish(spool, "late", 60)
    # At once, unless it came within the same tick of the file system's clock as the listing before it.
    wait_for(lambda: get("status=done")["jobs"][0]["id"] == "late", "a job that was just published")
    assert get(f"status=done&limit=5&cursor={first['next_cursor']}")["jobs"][0]["id"] == "job6"
    assert get("status=done&limit=5&offset=6")["jobs"][0]["id"] == "job6"
    assert {job["id"] for job in get("q=blue+ring")["jobs"]} == {"job1", "job5", "job9"}
    assert [job["id"] for job in get("owner=ann&limit=2")["jobs"]] == ["broken", "job11"]
    assert get("status=failed&model=demo")["total"] == 0 and get("batch=none")["jobs"] == []
    assert get("limit=3&offset=11")["total"] == 14
    for query, field in (("cursor=x&status=done", "cursor"), ("starred=true&status=waiting", "starred")):
        answer = client.get(f"/api/v1/jobs?{query}")
        assert answer.status_code == 400 and field in answer.json["error"]["fields"]  # type: ignore[index]


def test_the_gallery_searches_without_a_script(client: FlaskClient, spool: Spool) -> None:
    for at in range(60):
        finish(spool, f"job{at}", at)
    page = client.get("/gallery?q=red").text
    assert page.count("<img") == 15 and 'value="red"' in page and "15 jobs" in page
    assert "No job has that." in client.get("/gallery?q=nothing").text
    assert "&lt;b&gt;" in client.get("/gallery?q=<b>&owner=<b>").text
    first = client.get("/gallery").text
    older = first.split('rel="next"')[0].rsplit('href="', 1)[1].split('"')[0]
    assert 'rel="prev"' in client.get(older).text and client.get("/gallery?cursor=x").status_code == 404


def test_a_thread_keeps_it_up_to_date(spool: Spool, index: Index, tmp_path: Path) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=index.run, args=(stop,))
    thread.start()
    try:
        finish(spool, "job", 1)
        reader = Index(spool, tmp_path / "cache")
        wait_for(lambda: reader.page(("done",), Search(query="blue")).ids == ("job",), "the thread to find it", 60)
    finally:
        stop.set()
        thread.join()
