"""The watch: what it hints at, what it does not watch, and how it finds out that it went deaf (reliability.md 3.1)."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from house import ROOT, wait_for

from spooler.watch import DEAF_S, EVERYTHING, RETRY_S, Hint, Watch, _Silence

MAX_QUEUED = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


class Heard:
    """The hints that came."""

    def __init__(self) -> None:
        self.hints: list[Hint] = []

    def __call__(self, hint: Hint) -> None:
        self.hints.append(hint)

    def wait(self, hint: Hint) -> None:
        wait_for(lambda: hint in self.hints, f"{hint} among {self.hints}")

    def names(self) -> list[str | None]:
        return [hint.name for hint in self.hints]


#: The inotify instances that were there before the test: what another file's test left behind is not counted.
OTHERS: set[str] = set()


@pytest.fixture(autouse=True)
def others() -> None:
    gc.collect()
    links = {}
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of this listing
            links[path.name] = str(path.readlink())
    OTHERS.clear()
    OTHERS.update(name for name, target in links.items() if "inotify" in target)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("tmp", "pending", "held", "claimed/me", "done"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def heard() -> Heard:
    return Heard()


@contextlib.contextmanager
def watching(root: Path, hint: Callable[[Hint], None], spooler: str | None = "me") -> Iterator[Watch]:
    watch = Watch(root, spooler, hint)
    try:
        watch.keep()
        assert (watch.mode, watch.reason) == ("events", "")
        yield watch
    finally:
        watch.stop()


def kernel_watches() -> int:
    """How many inotify watches this process has, from proc(5)."""
    found = 0
    for info in Path("/proc/self/fdinfo").iterdir():
        if info.name in OTHERS:
            continue
        with contextlib.suppress(FileNotFoundError):
            found += sum(line.startswith("inotify wd:") for line in info.read_text().splitlines())
    return found


# -- what it hints at ---------------------------------------------------------------------------------------------------------


def test_begins_with_a_look_at_everything(root: Path, heard: Heard) -> None:
    """Files that were there before have no event: the watch begins, then comes the scan."""
    with watching(root, heard):
        assert heard.hints == [EVERYTHING]


def test_a_rename_into_pending_is_whole(root: Path, heard: Heard) -> None:
    (root / "tmp/draft").write_text("{}")
    with watching(root, heard):
        (root / "tmp/draft").rename(root / "pending/cat.json")
        heard.wait(Hint("cat.json", whole=True))
        (root / "tmp/folder").mkdir()
        (root / "tmp/folder").rename(root / "pending/folder")
        heard.wait(Hint("folder", whole=True))


def test_a_written_file_is_not_whole(root: Path, heard: Heard) -> None:
    with watching(root, heard):
        with (root / "pending/cat.json").open("w") as file:
            heard.wait(Hint("cat.json"))
            heard.hints.clear()
            file.write("{}")
        heard.wait(Hint("cat.json", whole=False))  # closed: whatever it was before
        assert Hint("cat.json", whole=True) not in heard.hints


def test_a_link_a_mode_and_what_leaves_are_told_by_name(root: Path, heard: Heard) -> None:
    """A hard link gives one IN_CREATE and nothing else (L: sftp's rename is one)."""
    (root / "tmp/draft").write_text("{}")
    (root / "pending/gone.json").touch()
    (root / "pending/left.json").touch()
    (root / "pending/shut.json").touch()
    (root / "pending/own.priority").touch()
    steps = {
        "linked.json": lambda: os.link(root / "tmp/draft", root / "pending/linked.json"),
        "shut.json": lambda: (root / "pending/shut.json").chmod(0),
        "gone.json": lambda: (root / "pending/gone.json").unlink(),
        "left.json": lambda: (root / "pending/left.json").rename(root / "held/left.json"),
        "own.priority": lambda: (root / "pending/own.priority").write_text("top"),
    }
    ended, left = ("gone.json", "left.json", "own.priority"), ("gone.json", "left.json")  # what came whole is so no more
    with watching(root, heard):
        for name, step in steps.items():
            heard.hints.clear()
            step()
            heard.wait(Hint(name, whole=False if name in ended else None, left=name in left))


def test_what_comes_into_a_folder_that_was_made_is_told_of_at_once(root: Path, heard: Heard) -> None:
    folder = root / "pending/cat"
    with watching(root, heard):
        folder.mkdir()
        heard.wait(Hint("cat"))
        for step in (lambda: (folder / "job.json").write_text("{}"), lambda: (folder / "job.json").rename(folder / "a.png")):
            heard.hints.clear()
            step()
            heard.wait(Hint("cat"))
        folder.rename(root / "claimed/me/cat")
        heard.wait(Hint("cat", whole=False, left=True))
        heard.hints.clear()
        (root / "claimed/me/cat/progress.json").touch()
        (root / "pending/after.json").touch()
        heard.wait(Hint("after.json"))
        assert heard.hints == [Hint("after.json")] or "cat" not in heard.names()


def test_reading_is_no_hint(root: Path, heard: Heard) -> None:
    (root / "pending/cat.json").touch()
    with watching(root, heard):
        (root / "pending/cat.json").read_text()
        assert list((root / "pending").iterdir()) == [root / "pending/cat.json"]
        (root / "pending/after.json").touch()
        heard.wait(Hint("after.json"))
        assert "cat.json" not in heard.names()


def test_a_name_that_is_no_text(root: Path, heard: Heard) -> None:
    name = os.fsdecode(b"\xff\xfe.json")
    with watching(root, heard):
        (root / "pending" / name).touch()
        heard.wait(Hint(name))


@pytest.mark.parametrize("path", ["PAUSE", "held/cat.json", "claimed/me/old/cancel", "claimed/me/new/cancel"])
def test_what_wants_a_look_at_everything(root: Path, heard: Heard, path: str) -> None:
    (root / "claimed/me/old").mkdir()
    with watching(root, heard):
        (root / "claimed/me/new").mkdir()
        wait_for(lambda: kernel_watches() == 6, "the new folder to be watched too")
        heard.hints.clear()
        (root / path).touch()
        heard.wait(EVERYTHING)
        heard.hints.clear()
        (root / path).rename(root / "tmp/aside")  # PAUSE is taken away, a held job released
        if not path.endswith("cancel"):
            heard.wait(EVERYTHING)


def test_what_we_write_ourselves_is_no_hint(root: Path, heard: Heard) -> None:
    """The lock of each claim, the status each second, progress and pictures: none may wake us."""
    (root / "claimed/me/job").mkdir()
    with watching(root, heard):
        heard.hints.clear()
        for name in (".claim.lock", "claimed/me/.spooler.json.1", "claimed/me/job/.progress.json.1", "claimed/me/job/0.png"):
            (root / name).write_text("x")
        (root / "claimed/me/.spooler.json.1").rename(root / "claimed/me/spooler.json")
        (root / "claimed/me/job/.progress.json.1").rename(root / "claimed/me/job/progress.json")
        (root / "claimed/me/job").rename(root / "done/job")
        (root / "pending/after.json").mkdir()
        heard.wait(Hint("after.json"))
        assert heard.names() == ["after.json"]


def test_without_a_spooler_nothing_claimed_is_watched(root: Path, heard: Heard) -> None:
    (root / "claimed/me/job").mkdir()
    with watching(root, heard, spooler=None):
        assert kernel_watches() == 3
        (root / "pending/cat.json").touch()
        heard.wait(Hint("cat.json"))


# -- what it costs ------------------------------------------------------------------------------------------------------------


def test_done_is_never_watched(root: Path, heard: Heard) -> None:
    """A watch follows a renamed folder: it has to be given back when a job is published, or done/ is watched after all."""
    for number in range(50):
        (root / f"done/{number}").mkdir()
        (root / f"claimed/me/{number}-old").mkdir()
    with watching(root, heard):
        assert kernel_watches() == 4 + 50
        for number in range(50):
            (root / f"claimed/me/{number}-new").mkdir()
        wait_for(lambda: kernel_watches() == 4 + 100, "the claimed folders to be watched")
        for folder in (root / "claimed/me").iterdir():
            folder.rename(root / "done" / folder.name)
        wait_for(lambda: kernel_watches() == 4, "the published folders to be watched no more")
        assert (heard.hints, [path.name for path in (root / "claimed/me").iterdir()]) == ([EVERYTHING], [])


def test_stop_gives_everything_back(root: Path, heard: Heard) -> None:
    before = (len(list(Path("/proc/self/fd").iterdir())), threading.active_count())
    for _ in range(5):
        with watching(root, heard) as watch:
            pass
        watch.stop()
        assert watch.mode == "polling"
    assert (len(list(Path("/proc/self/fd").iterdir())), threading.active_count()) == before
    assert set(heard.hints) == {EVERYTHING} and len(heard.hints) == 5


# -- how it goes deaf, and finds out ------------------------------------------------------------------------------------------


def _rename_away(folder: Path) -> None:
    folder.rename(folder.with_name("aside"))
    folder.mkdir()


def _make_anew(folder: Path) -> None:
    """Its inode number may be the old one's."""
    folder.rmdir()
    folder.mkdir()


def _put_in_place(folder: Path) -> None:
    fresh = folder.with_name("fresh")
    fresh.mkdir()
    folder.rename(folder.with_name("aside"))
    fresh.rename(folder)


@pytest.mark.parametrize("replace", [_rename_away, _make_anew, _put_in_place])
@pytest.mark.parametrize("name", ["pending", "held", "claimed/me"])
def test_a_replaced_folder_is_told_at_once_and_watched_again(
    root: Path, heard: Heard, name: str, replace: Callable[[Path], None]
) -> None:
    with watching(root, heard) as watch:
        heard.hints.clear()
        replace(root / name)
        heard.wait(EVERYTHING)  # before any keep: whoever is told calls it
        watch.keep()
        assert watch.mode == "events"
        assert kernel_watches() == 4
        heard.hints.clear()
        if name == "claimed/me":
            (root / name / "job").mkdir()
            wait_for(lambda: kernel_watches() == 5, "the claimed folder to be watched")
            (root / name / "job/cancel").touch()
            heard.wait(EVERYTHING)
        else:
            (root / name / "cat.json").touch()
            heard.wait(Hint("cat.json") if name == "pending" else EVERYTHING)


def test_a_replaced_spool_is_watched_again(root: Path, heard: Heard) -> None:
    spool = root / "spool"
    for name in ("pending", "held", "claimed/me"):
        (spool / name).mkdir(parents=True)
    with watching(spool, heard) as watch:
        heard.hints.clear()
        spool.rename(root / "aside")
        heard.wait(EVERYTHING)
        watch.keep()
        assert watch.mode == "polling" and "No such file" in watch.reason
        (root / "aside").rename(spool)  # the folders are the same, but nothing else tells of them
        watch.keep()
        assert watch.mode == "events"
        (spool / "pending/cat.json").touch()
        heard.wait(Hint("cat.json"))


def test_a_hint_that_fails_does_not_end_the_watch(root: Path, heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a handler would end watchdog's thread without a word."""

    def hint(hint: Hint) -> None:
        if hint.name == "bad.json":
            raise RuntimeError("a mistake in whoever is hinted")
        heard(hint)

    with watching(root, hint), caplog.at_level(logging.ERROR):
        (root / "pending/bad.json").touch()
        (root / "pending/good.json").touch()
        heard.wait(Hint("good.json"))
    assert "a hint was lost" in caplog.text


def test_lost_events_are_told_as_everything(root: Path, heard: Heard) -> None:
    """The kernel's queue runs over while the reader is held up: the watch lives on, and a job that left unheard is let go."""
    go_on = threading.Event()

    def hint(hint: Hint) -> None:
        heard(hint)
        go_on.wait()

    go_on.set()
    (root / "claimed/me/job").mkdir()
    with watching(root, hint) as watch:
        assert kernel_watches() == 5
        heard.hints.clear()
        go_on.clear()
        try:
            for number in range(MAX_QUEUED):
                (root / f"pending/{number}.json").touch()
            (root / "claimed/me/job").rename(root / "done/job")  # unheard
        finally:
            go_on.set()
        heard.wait(EVERYTHING)
        (root / "pending/after.json").touch()
        heard.wait(Hint("after.json"))
        assert kernel_watches() == 5
        watch.keep()
        assert watch.mode == "events" and heard.hints.count(EVERYTHING) < 100
        assert kernel_watches() == 4
        (root / "pending/later.json").touch()
        heard.wait(Hint("later.json"))


def test_a_dead_thread_is_found(root: Path, heard: Heard) -> None:
    with watching(root, heard) as watch:
        assert watch._ears
        watch._ears._inotify._fd.stop()
        watch._ears._inotify._fd.join()
        watch.keep()
        assert watch.mode == "events"
        (root / "pending/cat.json").touch()
        heard.wait(Hint("cat.json"))


def test_a_watch_that_is_alive_but_hears_nothing_is_found(root: Path, heard: Heard) -> None:
    """The kernel is told to send nothing of pending/ any more: all threads live, the folder is the same."""
    with watching(root, heard) as watch:
        watch.keep(now=0.0)
        assert watch._ears
        only_unmount = 0x2000
        assert ctypes.CDLL(None).inotify_add_watch(
            watch._ears._inotify._fd._inotify_fd, os.fsencode(root / "pending"), only_unmount
        )
        (root / "pending/cat.json").touch()
        watch.keep(now=1.0)
        heard.hints.clear()
        watch.keep(now=1.0 + DEAF_S / 2)
        assert not heard.hints  # an event may be a little late
        watch.keep(now=1.0 + DEAF_S)
        assert heard.hints == [EVERYTHING]
        assert watch.mode == "events"
        (root / "pending/dog.json").touch()
        heard.wait(Hint("dog.json"))


def test_silence() -> None:
    """The canary as a pure decision: the folder's time moved, and nothing was heard for a second."""
    silence = _Silence()
    assert not silence.is_deaf(heard=0, mtime_ns=100, now=0)
    assert not silence.is_deaf(heard=0, mtime_ns=100, now=99)  # nothing happened, nothing was heard
    assert not silence.is_deaf(heard=0, mtime_ns=200, now=100)
    assert not silence.is_deaf(heard=1, mtime_ns=200, now=100 + DEAF_S)  # late, but it came
    assert not silence.is_deaf(heard=1, mtime_ns=300, now=102)
    assert not silence.is_deaf(heard=1, mtime_ns=400, now=102 + DEAF_S / 2)  # further changes do not set the clock back
    assert silence.is_deaf(heard=1, mtime_ns=500, now=102 + DEAF_S)
    assert not silence.is_deaf(heard=2, mtime_ns=500, now=200)


def test_ordinary_traffic_is_not_taken_for_deafness(root: Path, heard: Heard) -> None:
    with watching(root, heard) as watch:
        for number in range(200):
            (root / f"tmp/{number}").touch()
            (root / f"tmp/{number}").rename(root / f"pending/{number}.json")
            (root / f"claimed/me/{number}").mkdir()
            (root / f"pending/{number}.json").rename(root / f"claimed/me/{number}/job.json")
            (root / f"claimed/me/{number}").rename(root / f"done/{number}")
            watch.keep()
        heard.wait(Hint("199.json", whole=True))
        assert heard.hints.count(EVERYTHING) == 1


# -- what it cannot watch: in a process of its own, as a user who has no rights or no watches left ----------------------------

CHILD = """
import os, sys, tempfile
from pathlib import Path
from spooler.watch import Watch
root = Path(os.environ["SPOOL"])
hints = []
watch = Watch(root, "me", hints.append)
"""


def run_child(code: str, root: Path, *wrapper: str) -> None:
    command = [*wrapper, sys.executable, "-W", "error", "-c", CHILD + code]
    environment = {**os.environ, "SPOOL": str(root), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr


def test_a_folder_that_cannot_be_read_is_polled_until_it_can(root: Path) -> None:
    """watchdog raises nothing for it, and all its threads live."""
    for path in (root, *root.rglob("*")):
        path.chmod(0o777)
    code = """
watch.keep()  # all is imported, which somebody else may not be allowed to
watch.stop()
os.chdir(root)
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
root = Path(".")
mine = root / "mine"
mine.mkdir()
for name in ("pending", "held", "claimed/me"):
    (mine / name).mkdir(parents=True)
watch.stop()
watch = Watch(mine, "me", hints.append)
watch.keep(now=0.0)
assert watch.mode == "events", watch.reason
(mine / "pending").chmod(0o300)  # a drop box: files may be put in, not be listed
watch.keep(now=1.0)
assert (watch.mode, watch.reason) == ("polling", "mine/pending: Permission denied"), watch.reason
watch.keep(now=1.5)
assert watch.mode == "polling"
(mine / "pending").chmod(0o700)
hints.clear()
watch.keep(now=1.6)  # long before the next try was due
assert watch.mode == "events" and len(hints) == 1, watch.reason
mine.chmod(0)
watch.keep(now=2.0)
assert watch.mode == "polling" and "Permission denied" in watch.reason, watch.reason
mine.chmod(0o700)
watch.keep(now=2.1)
assert watch.mode == "events", watch.reason
"""
    run_child(code, root)


@pytest.mark.parametrize(("limit", "few"), [("max_inotify_instances", 0), ("max_inotify_watches", 2)])
def test_without_inotify_instances_or_watches_it_polls_and_tries_again(root: Path, limit: str, few: int) -> None:
    """In a user namespace of its own, whose limits are its own (namespaces(7), user.max_inotify_*)."""
    code = f"""
limit = Path("/proc/sys/user/{limit}")
limit.write_text("{few}")
tries = []
for second in range(200):
    before = watch._failures
    watch.keep(now=float(second))
    assert watch.mode == "polling" and "see fs.inotify in sysctl" in watch.reason, watch.reason
    if watch._failures > before:
        tries.append(second)
assert tries == [0, 1, 2, 5, 12, 27, 58, 118, 178], tries
assert not hints
limit.write_text("100")
watch.keep(now=200.0)
assert watch.mode == "polling"
watch.keep(now=178.0 + {RETRY_S})
assert watch.mode == "events" and len(hints) == 1, watch.reason
if "{limit}" == "max_inotify_watches":
    limit.write_text("4")
    (root / "claimed/me/job").mkdir()  # the one watch too many
    import time
    end = time.monotonic() + 60
    while not watch._ears._broken and time.monotonic() < end:
        time.sleep(0.02)
    watch.keep(now=239.0)
    assert watch.mode == "polling" and "claimed/me/job" in watch.reason, watch.reason
"""
    run_child(code, root, "unshare", "--user", "--map-root-user")
