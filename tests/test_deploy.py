"""What lies in deploy/: units that systemd takes, an image whose every word leads somewhere, a backup of a spool at work."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import npm
import pytest
import yaml
from house import ROOT, SLEEPER, missing, spooler, wait_for, wait_state
from test_api import Web

from spooler import fsck
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.states import ENDS
from spooler.warden import STOP_WAIT_S

DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
KNOWN = {word.split("=")[0].removeprefix("--").replace("-", "_").upper() for word in Settings().arguments()}
INSTRUCTION = re.compile(r"^([A-Z]+) (.*)", re.DOTALL)


# -- systemd ---------------------------------------------------------------------------------------------------------------


def directives(unit: Path) -> list[tuple[str, str]]:
    lines = (line.partition("=") for line in unit.read_text().splitlines() if "=" in line and not line.startswith("#"))
    return [(name, value) for name, _, value in lines]


def analyze(*arguments: str) -> str:
    if not shutil.which("systemd-analyze"):
        missing("systemd-analyze")
    ended = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and not ended.stderr.strip(), ended.stdout + ended.stderr
    return ended.stdout


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for unit in (DEPLOY / "systemd").glob("sdspool*.[st]*"):
        if unit.suffix in (".service", ".target"):
            (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/sdspool/.venv/bin/python", sys.executable))
    assert len(list(tmp_path.iterdir())) == 4
    analyze("verify", "--man=no", *map(str, sorted(tmp_path.iterdir())))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_may_do_little(unit: Path) -> None:
    """systemd's own measure, 0 to 10 in tenths: below 2.5 for both, of which sending through the network is the most."""
    analyze("security", "--offline=yes", "--threshold=25", "--no-pager", str(unit))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_runs_a_half_with_settings_that_there_are(unit: Path) -> None:
    told = directives(unit)
    (command,) = (value for name, value in told if name == "ExecStart")
    python, *arguments = command.split()
    is_worker = unit.stem == "sdspool-worker"
    assert python == "/opt/sdspool/.venv/bin/python"
    assert arguments == (["-m", "spooler.cli", "worker"] if is_worker else ["-m", arguments[1]])
    env = dict(value.split("=", 1) for name, value in told if name == "Environment")
    assert is_worker or Settings.parse([], "x", env).spool == Path("/var/lib/sdspool/spool")
    assert subprocess.run([sys.executable, *arguments, "--help"], cwd=ROOT, capture_output=True, check=False).returncode == 0
    settings = dict(told)
    assert settings["RestartPreventExitStatus"] == "2" and settings["Restart"] == "always"
    assert float(settings["TimeoutStopSec"]) > STOP_WAIT_S
    assert "sdspool" in settings["StateDirectory"].split(), "what may be written is where the spool lies"


def test_every_group_that_a_unit_has_is_made() -> None:
    """systemd starts no unit one of whose groups there is not (216/GROUP); a small Debian has no `render`."""
    lines = (DEPLOY / "systemd" / "sdspool.sysusers").read_text().splitlines()
    made = {line.split()[1] for line in lines if line.startswith(("g ", "u "))}
    wanted = {"User", "Group", "SupplementaryGroups"}
    named = {each for unit in UNITS for name, value in directives(unit) if name in wanted for each in value.split()}
    assert named == made


def test_every_setting_in_deploy_is_one() -> None:
    for file in [*DEPLOY.rglob("*"), ROOT / "docs" / "operations.md"]:
        if file.is_file():
            named = set(re.findall(r"\bSDSPOOL_([A-Z_]+)", file.read_text()))
            assert named <= KNOWN, (file.name, named - KNOWN)


# -- the image -------------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Containerfile").read_text())
    found = [INSTRUCTION.match(line) for line in text.splitlines() if line and not line.startswith("#")]
    assert all(found)
    return [(each[1], each[2]) for each in found if each]


def of(name: str) -> list[str]:
    return [value for instruction, value in instructions() if instruction == name]


def test_a_linter_has_nothing_to_say_of_the_container_file() -> None:
    tool = npm.package("dockerfile-utils", "0.16.3") / "node_modules" / ".bin" / "dockerfile-utils"
    ended = subprocess.run(["node", tool, "lint", DEPLOY / "Containerfile"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.strip(), ended.stderr.strip()) == (0, "", "")


def test_the_image_copies_what_there_is_and_runs_as_nobody_in_particular() -> None:
    taken = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [source for value in of("COPY") for source in value.split()[:-1]]
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source.rstrip("/"), line[1:]) for line in taken), f"{source} is kept out by .dockerignore"
    wanted = {"pyproject.toml", "README.md", "LICENSE", "constraints.txt", "webui/", "spooler/"}
    assert set(copied) == wanted, "what pip reads, and the two halves"
    (user,) = of("USER")
    assert user == "sdspool" and f"useradd --uid 10001 --user-group --no-create-home --home-dir /cache {user}" in of("RUN")[0]
    env = dict(pair.split("=", 1) for value in of("ENV") for pair in value.split())
    parsed = Settings.parse([], "x", env)
    (volumes,) = map(json.loads, of("VOLUME"))
    assert {str(parsed.spool), str(parsed.cache), str(parsed.keys.parent)} == set(volumes)
    assert of("EXPOSE") == [str(parsed.port)] and parsed.open == "off"


def test_the_image_s_commands_run_and_its_health_check_tells_the_living_from_the_dead(spool: Spool) -> None:
    (command,) = of("CMD")
    services = compose()["services"]
    for words in (json.loads(command), services["spooler"]["command"]):
        asked = [sys.executable, *words[1:], "--help"]
        assert words[0] == "python" and subprocess.run(asked, cwd=ROOT, capture_output=True, check=False).returncode == 0
    (check,) = of("HEALTHCHECK")
    python, flag, script = json.loads(check.partition("CMD ")[2])
    assert python == "python" and str(Settings().port) in script
    web = Web(spool)

    def healthy() -> bool:
        env = os.environ | {"SDSPOOL_PORT": str(web.port)}
        return subprocess.run([sys.executable, flag, script], env=env, capture_output=True, check=False).returncode == 0

    assert healthy()
    web.stop()
    assert not healthy()


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def test_the_composition_shares_the_spool_and_nothing_that_is_one_half_s() -> None:
    told = compose()
    web, worker = told["services"]["web"], told["services"]["spooler"]
    assert (DEPLOY / web["build"]["context"] / web["build"]["dockerfile"]).resolve() == DEPLOY / "Containerfile"
    mounts = [dict(each.rsplit(":", 1) for each in half["volumes"] if "models" not in each) for half in (web, worker)]
    assert set(mounts[0]) & set(mounts[1]) == {"spool"} and "keys" not in mounts[1]
    assert set(mounts[0]) | set(mounts[1]) == set(told["volumes"])
    assert all(each.startswith("127.0.0.1:") for each in web["ports"]) and "ports" not in worker
    for half in (web, worker):
        assert half["read_only"] and half["cap_drop"] == ["ALL"] and half["security_opt"] == ["no-new-privileges:true"]
        assert int(half["stop_grace_period"].removesuffix("s")) > STOP_WAIT_S


# -- the backup ------------------------------------------------------------------------------------------------------------


def back_up(spool: Path, copy: Path) -> None:
    if not shutil.which("rsync"):
        missing("rsync")
    subprocess.run([sys.executable, DEPLOY / "backup.py", spool, copy], check=True)


SMALL = b'{"prompt": "a small red circle", "steps": 1, "width": 64, "height": 64}'


def test_p2_a_copy_of_a_spool_at_work_has_every_job_once_and_goes_on(spool: Spool, tmp_path: Path) -> None:
    """As docs/operations.md says: nothing is stopped, jobs run and people move them about while it is copied."""
    copy, stop = Spool(tmp_path / "copy"), threading.Event()
    submitted: list[str] = []

    def people() -> None:
        while not stop.wait(0.1):
            submitted.append(spool.submit(SMALL))
            job_id = submitted[len(submitted) * 5 // 7]
            for move in (spool.hold, spool.release, spool.cancel, spool.retry)[: 1 + len(submitted) % 4]:
                move(job_id)

    with spooler(spool, "--max-waiting", "0", "--sleep-s", "0.2", program=SLEEPER) as running:
        spool.submit(SMALL, "first")
        wait_state(spool, "first", "done")
        busy = threading.Thread(target=people)
        busy.start()
        try:
            wait_for(lambda: len(submitted) > 20, "some jobs")
            for _ in range(3):  # the later ones over the earlier copy
                acknowledged = submitted[:-1]
                back_up(spool.root, copy.root)
        finally:
            stop.set()
            busy.join()
        running.stop()
    assert list(fsck.examine(copy, deep=True)) == []
    places = [copy.find_by_name(job_id) for job_id in acknowledged]
    assert None not in places, "every job that was acknowledged before the copy began is in it"
    assert len(acknowledged) >= 20 and copy.find_by_name("first")

    for path in copy.walk("held"):
        copy.release(path.id)
    with spooler(copy, name="restored", program=SLEEPER):
        wait_for(lambda: not any(copy.walk("pending")) and not any(copy.walk("claimed")), "the restored queue to be empty")
    ended = [place.id for state in ENDS for place in copy.walk(state)]
    assert len(ended) == len(set(ended)) and not [each for each in ended if each.endswith("-2")], "none runs twice"
    assert set(acknowledged) <= set(ended)


def test_a_copy_tells_by_the_job_file_where_a_job_is(spool: Spool, tmp_path: Path) -> None:
    """What rsync may have seen: the same job in two places is one; two jobs of one name are two."""
    copy = tmp_path / "copy"
    for name in ("moved", "named"):
        spool.submit(SMALL, name)
        place = spool.claim(f"{name}.json", "me")
        assert place
        (spool.claimed / "me" / name).rename(spool.root / "done" / name)
    shutil.copy2(spool.root / "done" / "moved" / "job.json", spool.pending / "moved.json")
    (spool.pending / "named.json").write_bytes(SMALL)
    spool.submit(SMALL, "drawn")
    assert spool.claim("drawn.json", "me")
    shutil.copy2(spool.claimed / "me" / "drawn" / "job.json", spool.pending / "drawn.json")
    (spool.claimed / "me" / "half").mkdir()
    (spool.root / "PAUSE").touch()
    back_up(spool.root, copy)
    assert sorted(path.name for path in (copy / "pending").iterdir()) == ["drawn", "named.json"]
    assert sorted(path.name for path in (copy / "done").iterdir()) == ["moved", "named"]
    assert list((copy / "claimed" / "me").iterdir()) == [] and (copy / "PAUSE").exists()


def test_the_backup_says_what_it_needs(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, DEPLOY / "backup.py", tmp_path, tmp_path / "x"], capture_output=True, check=False)
    assert ended.returncode == 2 and b"must have a folder pending/" in ended.stderr
