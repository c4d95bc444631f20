"""Retention: which ended jobs go, that nothing else ever does, and that no job is shown half removed."""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from house import ROOT, drop, listing

from spooler import cli, retention
from spooler.batches import Batches
from spooler.commands import prune
from spooler.job import Job
from spooler.record import Record, iso
from spooler.retention import DAY_S, GIB, Ended, Retention, Rules, Survey, ended, plan, remove
from spooler.settings import Settings
from spooler.spool import Spool, SpoolError
from spooler.states import ENDS, End

NOW = 1.8e9  # some time in 2027


def job(name: str, days_old: float | None, size: int = 0, starred: bool = False, state: End = "done") -> Ended:
    return Ended(name, state, None if days_old is None else NOW - days_old * DAY_S, size, starred)


def names(removals: list[retention.Removal]) -> list[tuple[str, str]]:
    return [(each.job.id, each.rule) for each in removals]


# -- the decision --------------------------------------------------------------------------------------------------------


def test_the_oldest_go_first_each_with_its_rule() -> None:
    jobs = [job("new", 1, GIB), job("old", 40, GIB), job("older", 50, GIB), job("mid", 20, GIB), job("young", 10, GIB)]
    assert names(plan(jobs, Rules(keep_days=30), NOW)) == [("older", "keep_days"), ("old", "keep_days")]
    assert names(plan(jobs, Rules(keep_days=30, keep_jobs=2), NOW)) == [
        ("older", "keep_days"), ("old", "keep_days"), ("mid", "keep_jobs")
    ]  # fmt: skip
    assert names(plan(jobs, Rules(keep_days=45, keep_jobs=4, keep_gib=1.5), NOW)) == [
        ("older", "keep_days"), ("old", "keep_disk_gib"), ("mid", "keep_disk_gib"), ("young", "keep_disk_gib")
    ]  # fmt: skip
    assert plan(jobs, Rules(), NOW) == []


def test_starred_and_undated_jobs_neither_go_nor_count() -> None:
    jobs = [job("kept", 900, 9 * GIB, starred=True), job("undated", None, 9 * GIB), job("a", 2, GIB), job("b", 1, GIB)]
    assert plan(jobs, Rules(keep_days=30, keep_jobs=2, keep_gib=2), NOW) == []
    assert names(plan(jobs, Rules(keep_jobs=1), NOW)) == [("a", "keep_jobs")]


@pytest.mark.parametrize("jump_days", [1 / 24, 3650, -1 / 24, -3650])
def test_a_clock_that_jumps_removes_nothing_by_age(jump_days: float) -> None:
    """N12 and the issue's clock jumps: an hour and ten years either way."""
    jobs = [job(str(day), day) for day in range(30)]
    assert plan(jobs, Rules(keep_days=31), NOW + jump_days * DAY_S) == []
    assert plan(jobs, Rules(keep_days=10), NOW + jump_days * DAY_S, clock_steady=False) == []


def test_an_idle_server_keeps_its_last_jobs() -> None:
    jobs = [job("a", 400), job("b", 401)]
    survey = Survey(NOW)
    for each in jobs:
        survey.add(each)
    assert survey.plan(Rules(keep_days=30)) == []
    assert "newest" in (survey.no_age(Rules(keep_days=30)) or "")
    assert names(plan([*jobs, job("c", 1)], Rules(keep_days=30), NOW)) == [("b", "keep_days"), ("a", "keep_days")]
    assert plan([*jobs, job("future", -4000)], Rules(keep_days=30), NOW) == [], "a time in the future proves nothing"


def test_a_clock_that_is_behind_does_not_remove_what_was_just_made() -> None:
    """The clock fell back ten years: what ends now looks older than all, and would be the first to go."""
    jobs = [job(f"right-{number}", -3650 - number) for number in range(5)] + [job("just now", 0.01)]
    assert plan(jobs, Rules(keep_jobs=5), NOW) == []
    assert names(plan([*jobs, job("older", 2)], Rules(keep_jobs=5), NOW)) == [("older", "keep_jobs")]


def oracle(jobs: list[Ended], rules: Rules, now: float, steady: bool) -> list[tuple[str, str]]:
    """The same decision in another way: one job after the other is taken from a list, and all sums are made anew each time."""
    left = sorted((each for each in jobs if not each.starred and each.completed is not None), key=lambda each: each.key)
    past = [each.completed for each in jobs if each.completed is not None and each.completed <= now]
    aged = bool(steady and rules.keep_days and past and max(past) >= now - rules.keep_days * DAY_S)
    behind = any(each.completed is not None and each.completed > now + 3600 for each in jobs)
    gone = []
    while left:
        first = left[0]
        assert first.completed is not None
        if aged and first.completed < now - rules.keep_days * DAY_S:
            rule = "keep_days"
        elif behind and first.completed > now - DAY_S:
            break
        elif rules.keep_jobs and len(left) > rules.keep_jobs:
            rule = "keep_jobs"
        elif rules.keep_gib and sum(each.bytes for each in left) > rules.keep_gib * GIB:
            rule = "keep_disk_gib"
        else:
            break
        gone.append((left.pop(0).id, rule))
    return gone


def test_random_plans_keep_every_rule() -> None:
    """3,000 seeded spools against a second way to decide, and the rules themselves looked at one by one."""
    seen = set()
    for seed in range(3000):
        rng = random.Random(seed)
        jobs = [
            Ended(
                f"{number:03}",
                rng.choice(ENDS),
                None if rng.random() < 0.05 else NOW - rng.choice([rng.uniform(-5, 100), 30.0]) * DAY_S,
                rng.randrange(GIB),
                rng.random() < 0.1,
            )
            for number in range(rng.randrange(60))
        ]
        days = rng.choice([0, 1, 30, 60])
        rules = Rules(days, rng.choice([0, 1, 10, 40]), rng.choice([0, 0.5, 5, 20]))
        now = NOW + rng.choice([0, 0, 3600, -3600, 3.15e8, -3.15e8])
        steady = rng.random() < 0.8
        at_most = rng.choice([1, 2, 7, 10_000])
        removals = plan(iter(rng.sample(jobs, len(jobs))), rules, now, steady, at_most)
        assert names(removals) == oracle(jobs, rules, now, steady)[:at_most], seed
        by_id = {each.id: each for each in jobs}
        for removal in removals:
            gone = by_id[removal.job.id]
            assert not gone.starred
            assert gone.completed is not None
            if removal.rule == "keep_days":
                assert steady
                assert days
                assert gone.completed < now - days * DAY_S
        whole = plan(jobs, rules, now, steady)
        left = [each for each in jobs if each.id not in {removal.job.id for removal in whole}]
        assert plan(left, rules, now, steady) == [] or max(
            (each.completed or 0 for each in jobs if (each.completed or NOW * 9) <= now), default=0
        ) in {removal.job.completed for removal in whole}, f"{seed}: a second plan has nothing to do, unless the newest went"
        seen |= {rule for _, rule in names(removals)}
    assert seen == {"keep_days", "keep_jobs", "keep_disk_gib"}


def test_any_number_of_jobs_is_planned_in_bounded_memory() -> None:
    """The figure of docs/retention.md: of jobs that come one by one, at most twice 10,000 are kept in memory."""
    rng = random.Random(1)

    def jobs() -> Iterator[Ended]:
        for number in range(60_000):
            yield Ended(f"20270115-{number:012}-{rng.getrandbits(64):016x}", "done", NOW - rng.random() * 1e7, 1 << 20, False)

    tracemalloc.start()
    try:
        removals = plan(jobs(), Rules(keep_jobs=1000), NOW)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(removals) == retention.AT_MOST
    assert peak < 8 << 20


# -- the shell -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.create()
    return made


def put(spool: Spool, name: str, days_old: float, state: End = "done", size: int = 8192) -> Path:
    """An ended job on disk, as a spooler leaves it."""
    folder = spool.root / state / name
    (folder / "inputs").mkdir(parents=True)
    (folder / "job.json").write_text('{"prompt": "x"}')
    (folder / "0.png").write_bytes(b"p" * size)
    (folder / "inputs" / "in.png").write_bytes(b"p" * 4096)
    when = iso(datetime.now(UTC) - timedelta(days=days_old))
    (folder / "record.json").write_bytes(Record(id=name, completed=when).encode())
    return folder


def test_jobs_are_read_with_their_size_star_and_time(spool: Spool, tmp_path: Path) -> None:
    put(spool, "a", 1)
    (put(spool, "b", 2, "failed") / "starred").touch()
    (put(spool, "c", 3, "cancelled") / "record.json").write_bytes(b"{not json")
    (spool.root / "done" / "empty").mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "big").write_bytes(bytes(1 << 20))
    (spool.root / "done" / "link").symlink_to(outside)
    (spool.root / "done" / "a" / "link").symlink_to(outside)
    (spool.root / "done" / "file.json").write_text("{}")
    (spool.root / "done" / ".hidden").mkdir()
    found = {each.id: each for each in ended(spool.root)}
    assert set(found) == {"a", "b", "c", "empty"}
    assert 8192 + 4096 <= found["a"].bytes < 1 << 19
    assert (found["b"].starred, found["b"].state) == (True, "failed")
    assert found["c"].completed is None
    assert found["empty"].completed is None
    age_s = time.time() - (found["a"].completed or 0)
    assert abs(age_s - DAY_S) < 3600


def test_removing_follows_no_link_and_spares_what_changed(spool: Spool, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    for name in ("a", "b", "c", "d", "e"):
        (put(spool, name, 1) / "out").symlink_to(outside)
    found = {each.id: each for each in ended(spool.root)}
    (spool.root / "done" / "b" / "starred").touch()
    (spool.root / "done" / "c").rename(spool.root / "held" / "c")
    (spool.root / "done" / "d" / "record.json").write_bytes(Record(id="d", completed="2020-01-01T00:00:00.000Z").encode())
    (spool.root / "done" / "e").rename(outside / "e")
    (spool.root / "done" / "e").symlink_to(outside / "e")
    assert {name: remove(spool, found[name]) for name in found} == {"a": True, "b": False, "c": False, "d": False, "e": False}
    assert not (spool.root / "done" / "a").exists()
    assert (outside / "precious").read_text() == "x"
    assert (outside / "e" / "0.png").exists()
    assert [each.name for each in spool.tmp.iterdir() if each.name != ".gitignore"] == []
    for bad in ("..", "../held/c", ".", "", "/etc"):
        with pytest.raises(ValueError, match="must be a name"):
            remove(spool, replace(found["a"], id=bad))


def test_killed_at_any_moment_a_job_is_there_whole_or_gone(spool: Spool) -> None:
    """P2: never part of a result is shown, however often the removal is killed."""
    for number in range(100):
        put(spool, f"job-{number}", 1)
    rng = random.Random(4)
    kills = 0
    while list(ended(spool.root)):
        read, write = os.pipe()
        if (life := os.fork()) == 0:
            os.write(write, b"go")
            for each in ended(spool.root):
                remove(spool, each)
            os._exit(0)
        os.read(read, 2)
        os.close(read)
        os.close(write)
        time.sleep(rng.uniform(0, 0.02))  # not a wait for something: the moment of the kill
        os.kill(life, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(life, 0)[1])
        for folder in os.scandir(spool.root / "done"):
            there = {*os.listdir(folder), *os.listdir(Path(folder) / "inputs")}  # noqa: PTH208 - the names alone
            assert there == {"job.json", "record.json", "0.png", "inputs", "in.png"}, folder
    assert kills > 1
    spool.reap_tmp(0.0)
    assert [each.name for each in spool.tmp.iterdir() if each.name != ".gitignore"] == []


def passes(keeper: Retention, budget_s: float = 0.0) -> int:
    """Let it go on until it has no more to do; the number of turns."""
    turns = 1
    while keeper.turn(budget_s):
        turns += 1
        assert turns < 10_000
    return turns


def test_retention_goes_on_in_slices_and_keeps_to_the_bounds(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for number in range(30):
        put(spool, f"job-{number:02}", number + 0.5, ENDS[number % 3])
    (spool.root / "done" / "job-27" / "starred").touch()
    keeper = Retention(spool, replace(Settings(), keep_days=20.0, keep_jobs=12), first_pass_s=0)
    assert passes(keeper) >= 30, "one job a turn, when there is no time"
    assert sorted(each.id for each in ended(spool.root)) == [f"job-{number:02}" for number in (*range(12), 27)]
    assert "removed 17 jobs" in caplog.text
    assert not keeper.turn(10), "the next pass is an hour away"


def test_what_a_job_is_to_run_after_stays_until_that_one_has_ended(spool: Spool) -> None:
    for number in range(4):
        put(spool, f"job-{number}", number + 0.5, ENDS[number % 3])
    for name, state in (("waits", "pending"), ("held", "held"), ("claimed", "pending")):
        after = {"waits": "job-3", "held": "job-2", "claimed": "job-1"}[name]
        spool.submit(json.dumps({"prompt": "a circle", "after": [after]}).encode(), name, to=state)  # type: ignore[arg-type]
    drop(spool, "no-job.json", {"after": ["job-0"], "prompt": 5})
    (spool.claimed / "me").mkdir()
    assert spool.claim("claimed.json", "me")
    settings = replace(Settings(), keep_jobs=0, keep_days=0.1)
    put(spool, "new", 0.01)
    passes(Retention(spool, settings, first_pass_s=0))
    assert {each.id for each in ended(spool.root)} == {"job-1", "job-2", "job-3", "new"}
    assert spool.cancel("waits")
    assert cli.main(["prune", "--keep-days", "0.1", "--yes", "--spool", str(spool.root)]) == 0
    assert {each.id for each in ended(spool.root)} == {"job-1", "job-2", "new", "waits"}


def test_a_batch_goes_when_none_of_its_jobs_is_left(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    """What was dropped would else lie in batches/ for ever: no bound is on it, and no page leads there any more."""
    batches = Batches(spool)
    for name in ("spent", "waits", "begun"):
        made = batches.submit([Job(prompt="a ring"), Job(prompt="a star")], name, "anna")
        for each in made.jobs:
            (spool.pending / f"{each}.json").unlink()
    put(spool, "waits.0001", 1, "failed")
    (spool.batches / "begun" / "queued").unlink()  # whoever submits its rows was killed
    put(spool, "new", 0.01)
    passes(Retention(spool, replace(Settings(), keep_days=30.0), first_pass_s=0))
    assert sorted(batches.ids()) == ["begun", "waits"]
    assert not list(spool.tmp.iterdir())
    assert cli.main(["prune", "--keep-days", "0.5", "--spool", str(spool.root)]) == 0
    assert sorted(batches.ids()) == ["begun", "waits"], "it was only to tell"
    assert cli.main(["prune", "--keep-days", "0.5", "--yes", "--spool", str(spool.root)]) == 0
    assert batches.ids() == ["begun"] and "1 batch of which no job is left" in capsys.readouterr().err


def test_without_a_bound_or_a_change_no_job_is_looked_at(spool: Spool) -> None:
    put(spool, "a", 100)
    put(spool, "b", 1)
    idle = Retention(spool, Settings(), first_pass_s=0)
    assert passes(idle) == 1
    keeper = Retention(spool, replace(Settings(), keep_jobs=5, keep_days=200.0), first_pass_s=0)
    assert passes(keeper) > 1
    keeper._next_pass = 0.0
    assert passes(keeper) == 1, "nothing changed"
    put(spool, "c", 1)
    keeper._next_pass = 0.0
    assert passes(keeper) > 1
    keeper.close()


def test_when_the_clock_is_not_to_be_trusted_nothing_goes_by_age(spool: Spool) -> None:
    put(spool, "a", 100)
    put(spool, "b", 1)
    before = listing(spool.root)
    settings = replace(Settings(), keep_days=30.0)
    keeper = Retention(spool, settings, first_pass_s=0)
    while keeper.turn(0.0, clock_steady=False):
        pass
    assert listing(spool.root) == before
    jumped = Retention(spool, settings, first_pass_s=0)
    jumped._clock._ahead -= 3.15e8  # as if it had been ten years earlier when it began
    passes(jumped)
    assert listing(spool.root) == before
    passes(Retention(spool, settings, first_pass_s=0))
    assert [each.id for each in ended(spool.root)] == ["b"]


def test_two_spoolers_that_keep_one_spool_do_not_stumble_over_each_other(spool: Spool) -> None:
    for number in range(50):
        put(spool, f"job-{number:02}", number)
    settings = replace(Settings(), keep_jobs=10)
    keepers = [Retention(spool, settings, first_pass_s=0) for _ in range(2)]
    busy = [True, True]
    while any(busy):
        for index, keeper in enumerate(keepers):
            busy[index] = busy[index] and keeper.turn(0.0)
    assert sorted(each.id for each in ended(spool.root)) == [f"job-{number:02}" for number in range(10)]


# -- sdspool prune -------------------------------------------------------------------------------------------------------


def run_prune(spool: Spool, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spooler.cli", "prune", "--spool", str(spool.root), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **env})


def test_prune_tells_first_and_removes_when_told_to(spool: Spool) -> None:
    for number in range(6):
        put(spool, f"job-{number}", number * 10 + 1)
    before = listing(spool.root)
    told = run_prune(spool, "--keep-days", "35")
    assert told.returncode == 0, told.stderr
    assert [line.split()[0] for line in told.stdout.splitlines()] == ["done/job-5", "done/job-4", "2"]
    assert "--yes" in told.stdout
    assert listing(spool.root) == before
    by_variable = run_prune(spool, "--dry-run", "--json", SDSPOOL_KEEP_JOBS="1")
    answer = json.loads(by_variable.stdout)
    assert (answer["dry_run"], answer["jobs"], answer["removals"][0]["id"]) == (True, 5, "job-5")
    assert answer["removals"][0]["rule"] == "keep_jobs"
    assert listing(spool.root) == before
    done = run_prune(spool, "--keep-days", "35", "--yes", "--json")
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert (answer["dry_run"], answer["jobs"]) == (False, 2)
    assert sorted(each.id for each in ended(spool.root)) == [f"job-{number}" for number in range(4)]


def test_prune_says_what_it_does_not_do_and_why(spool: Spool, tmp_path: Path) -> None:
    put(spool, "\x1b[31mred", 100)
    told = run_prune(spool, "--keep-days", "30", "--yes")
    assert told.returncode == 0
    assert "even the newest job is older" in told.stderr
    told = run_prune(spool, "--keep-disk-gib", "0.000001")
    assert "\x1b" not in told.stdout
    assert "keep_disk_gib" in told.stdout
    assert run_prune(spool).returncode == 2
    assert "--keep-days" in run_prune(spool).stderr
    assert run_prune(spool, "--keep-days", "-1").returncode == 2
    assert run_prune(spool, "--keep-days", "3", "--yes", "--dry-run").returncode == 2
    assert run_prune(Spool(tmp_path / "none"), "--keep-days", "3").returncode == 2
    assert not (tmp_path / "none").exists()


def test_prune_goes_on_past_what_one_plan_holds(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(retention, "AT_MOST", 7)
    monkeypatch.setattr(prune, "Survey", lambda now: Survey(now, 7))
    for number in range(30):
        put(spool, f"job-{number:02}", number)
    options = argparse.Namespace(spool=spool.root, keep_days=0.0, keep_jobs=4, keep_disk_gib=0.0, yes=True, json=False)
    assert prune.prune(options) == 0
    assert sorted(each.id for each in ended(spool.root)) == [f"job-{number:02}" for number in range(4)]
    assert "26 jobs" in capsys.readouterr().out
    with pytest.raises(SpoolError):
        prune.prune(argparse.Namespace(spool=spool.root, keep_days=0.0, keep_jobs=0, keep_disk_gib=0.0, yes=True, json=False))
