"""run.sh: the set-up and the two halves. venv and pip are the real ones, on a tree that needs nothing from a network."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from urllib.error import URLError

import pytest
from house import ROOT, listing, missing, wait_for

import spooler
from spooler import settings, vacancy
from spooler.life import Life
from spooler.spool import Spool

RUN = ROOT / "run.sh"
#: In the environment of everything that these tests start, engines in process groups of their own included.
#: Without the checkout that these tests are of: the halves of a tree are its own.
HERE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
MARK = {"SDSPOOL_TEST_MARK": uuid.uuid4().hex}

# A build backend that needs nothing to be installed. It takes as long as there is a file `hold`.
BACKEND = """
import pathlib, time, zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    with open("builds", "a") as builds:
        builds.write("one more\\n")
    while pathlib.Path("hold").exists():
        time.sleep(0.05)
    info = "sdspool-0.dist-info/"
    with zipfile.ZipFile(pathlib.Path(folder, "sdspool-0-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("sdspool.pth", str(pathlib.Path.cwd()))
        extras = "Provides-Extra: engine\\nProvides-Extra: dev\\n"
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: sdspool\\nVersion: 0\\n" + extras)
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return "sdspool-0-py3-none-any.whl"
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""

# A half that does what the file `<its name>.orders` says: a line for each start, the last one for all later starts.
HALF = """
import os, pathlib, signal, sys, time
name = pathlib.Path(__file__).parent.name
tree = pathlib.Path(__file__).parents[1]
with open(tree / f"{name}.starts", "a") as starts:
    starts.write("one more\\n")
orders = (tree / f"{name}.orders").read_text().split("\\n")
order = orders[min(len((tree / f"{name}.starts").read_text().split()) // 2, len(orders)) - 1]
if order.startswith("exit"):
    sys.exit(int(order.split()[1]))
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN if order == "stay" else lambda *_: os._exit(0))
(tree / f"{name}.up").touch()
while True:
    time.sleep(60)
"""


class Tree:
    """A small checkout: the real run.sh and settings, and halves that do as they are told."""

    def __init__(self, root: Path):
        self.root = root
        (root / "webui").mkdir(parents=True)
        (root / "spooler").mkdir()
        script = RUN.read_text()
        assert "\nstop_s=20 " in script
        (root / "run.sh").write_text(script.replace("\nstop_s=20 ", "\nstop_s=2 "))
        (root / "run.sh").chmod(0o755)
        (root / "pyproject.toml").write_text(PYPROJECT)
        (root / "constraints.txt").touch()
        (root / "backend.py").write_text(BACKEND)
        for module in (spooler, settings, vacancy):
            shutil.copy(str(module.__file__), root / "spooler")
        (root / "webui" / "__init__.py").touch()
        for half in ("webui", "spooler"):
            (root / half / "__main__.py").write_text(HALF)

    @property
    def builds(self) -> int:
        """How often pip was at work here."""
        return count_lines(self.root / "builds")

    @property
    def is_finished(self) -> bool:
        return (self.root / ".venv" / "made-from").exists() and not (self.root / ".venv.unfinished").exists()

    def starts(self, half: str) -> int:
        return count_lines(self.root / f"{half}.starts")

    def orders(self, webui: str, spooler: str) -> None:
        for half, orders in (("webui", webui), ("spooler", spooler)):
            for old in ("starts", "up"):
                (self.root / f"{half}.{old}").unlink(missing_ok=True)
            (self.root / f"{half}.orders").write_text(orders)

    def wait_up(self, *halves: str) -> None:
        wait_for(lambda: all((self.root / f"{half}.up").exists() for half in halves), "the halves to be up")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return start(self.root / "run.sh", *arguments)

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        return finish(start(self.root / "run.sh", *arguments, environment=environment))


def start(
    run: Path, *arguments: str, cwd: Path = Path("/"), environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [run, *arguments],
        cwd=cwd,
        env=HERE | MARK | {"PIP_NO_INDEX": "1"} | (environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end: the exit status and what was printed."""
    output = process.communicate(timeout=180)[0]
    return process.returncode, output


def count_lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def left_over() -> list[str]:
    """The processes that these tests have started and that still run."""
    mark = "=".join(*MARK.items()).encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # ended meanwhile, or another user's
            continue
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    try:
        wait_for(lambda: not left_over(), "every process to end")
    except AssertionError as error:
        raise AssertionError(f"{error}: {left_over()}") from None


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A small checkout that is set up, in a folder with spaces."""
    made = Tree(tmp_path_factory.mktemp("run") / "a house with rooms")
    status, output = made.run("setup")
    assert status == 0, output
    assert "Set up in" in output
    return made


# -- options -------------------------------------------------------------------------------------------------------------------


def test_help_names_every_setting(tmp_path: Path) -> None:
    (tmp_path / "run.sh").symlink_to(RUN)
    status, output = finish(start(tmp_path / "run.sh", "--help", cwd=tmp_path))
    assert status == 0
    assert "./run.sh test" in output
    for row in fields(settings.Settings):
        assert settings.option(row.name) in output
        assert settings.variable(row.name) in output


def test_every_way_in_tells_its_version_and_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "run.sh").symlink_to(RUN)
    told = (0, f"sdspool {spooler.__version__}\n")
    assert finish(start(tmp_path / "run.sh", "--version", cwd=tmp_path)) == told
    assert [each.name for each in tmp_path.iterdir()] == ["run.sh"]
    for module in ("spooler.cli", "spooler", "webui"):
        command = [sys.executable, "-m", module, "--version"]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stdout) == told


def test_a_wrong_option_is_one_sentence_and_starts_nothing(tree: Tree) -> None:
    tree.orders("serve", "serve")
    status, output = tree.run("--prot", "7861")
    assert status == 2
    assert output.count("unrecognized arguments: --prot 7861") == 1
    assert tree.starts("webui") == tree.starts("spooler") == 0


def test_a_fresh_checkout_tells_of_a_wrong_option_and_an_old_python_before_it_sets_up(tmp_path: Path) -> None:
    fresh = Tree(tmp_path / "tree")
    status, output = fresh.run("--port", "none")
    assert (status, "--port" in output) == (2, True), output

    old = tmp_path / "bin" / "python3"
    old.parent.mkdir()
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit\nexit 1\n')
    old.chmod(0o755)
    for arguments in (["setup"], ["test"], []):
        status, output = fresh.run(*arguments, PATH=f"{old.parent}:{os.environ['PATH']}")
        assert status == 1
        assert output == "sdspool: Python must be 3.11 or newer, but python3 is: Python 3.9.2\n"
    assert not (fresh.root / ".venv").exists()


def test_a_second_one_in_the_same_place_says_only_why_it_cannot_be(tree: Tree, tmp_path: Path) -> None:
    """It starts neither half, prints no address and no key, and leaves the first one alone."""
    tree.orders("serve", "serve")
    spool = Spool(tmp_path / "spool")
    spool.create()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        status, output = tree.run("--spool", str(spool.root), "--port", str(port), "--spooler", "one")
    told = f"sdspool: cannot listen on 127.0.0.1:{port}: something else does. Is it running already?\n"
    assert (status, output) == (2, told)

    life = Life.begin(spool, "one")
    try:
        status, output = tree.run("--spool", str(spool.root), "--port", str(port), "--spooler", "one")
        assert (status, output.count("\n")) == (2, 1) and f"a spooler 'one' works on {spool.root} already" in output
        assert spool.alive("one") and tree.starts("webui") == tree.starts("spooler") == 0
        process = tree.start("--spool", str(spool.root), "--port", str(port), "--spooler", "two")
        tree.wait_up("webui", "spooler")
        process.terminate()
        assert finish(process) == (0, "")
    finally:
        life.end()


def test_the_look_at_a_spooler_s_lock_takes_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    here = settings.Settings(spool=spool.root, port=free_port(), spooler="one")
    assert vacancy.taken(here) is None and not spool.root.exists(), "what is not there is free, and is not made"
    spool.create()
    Life.begin(spool, "one").end()
    before = listing(spool.root)
    assert vacancy.taken(here) is None and listing(spool.root) == before
    Life.begin(spool, "one", wait_s=0).end()


# -- set-up --------------------------------------------------------------------------------------------------------------------


def test_the_set_up_is_done_once_and_again_when_the_pins_changed(tree: Tree) -> None:
    builds = tree.builds
    assert tree.run("setup") == (0, "")
    assert tree.builds == builds

    (tree.root / "constraints.txt").write_text("# another word\n")
    status, output = tree.run("setup")
    assert (status, "up to date" in output) == (0, True), output
    assert tree.builds == builds + 1

    (tree.root / "constraints.txt").write_text("no requirement at all\n")
    status, output = tree.run("setup")
    assert (status, "no requirement at all" in output) == (1, True), output
    assert "Traceback" not in output
    (tree.root / "constraints.txt").write_text("# another word\n")
    assert tree.run("setup") == (0, ""), "a failed update leaves what worked"
    assert tree.is_finished


def test_an_interrupted_set_up_is_begun_anew_by_one_of_two(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "tree")
    (tree.root / "hold").touch()
    first = tree.start("setup")
    wait_for(lambda: tree.builds, "pip to be at work")
    os.killpg(first.pid, signal.SIGKILL)
    finish(first)
    wait_for(lambda: not left_over(), "the set-up to be dead")
    assert not tree.is_finished
    broken = tree.root / ".venv" / "broken"
    broken.touch()

    one = tree.start("setup")
    wait_for(lambda: tree.builds == 2, "pip to be at work")
    two = tree.start("setup")
    assert two.stdout
    assert two.stdout.readline() == "sdspool: Another run.sh is setting up; waiting for it.\n"
    (tree.root / "hold").unlink()
    assert finish(one)[0] == finish(two)[0] == 0
    assert tree.builds == 2
    assert tree.is_finished
    assert not broken.exists()


def test_ctrl_c_ends_a_set_up(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "tree")
    (tree.root / "hold").touch()
    process = tree.start("setup")
    wait_for(lambda: tree.builds, "pip to be at work")
    os.killpg(process.pid, signal.SIGINT)
    status, output = finish(process)
    assert status == 130
    assert "Traceback" not in output
    assert not tree.is_finished


def test_what_the_tests_need_is_installed_before_they_run(tree: Tree, tmp_path: Path) -> None:
    for module in ("spandrel", "einops"):
        (tree.root / f"{module}.py").touch()
    (tree.root / "pytest.py").write_text("import sys; print('pytest', *sys.argv[1:])")
    asked = tmp_path / "asked"
    scripts = {"apt-get": f'echo "$*" >> "{asked}"; [ ! -e "{asked}.refuse" ]', "sudo": 'shift; exec "$@"'}
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"

    # The tree's Python has no Pillow to find a font with, so something is missing on every machine.
    status, output = tree.run("test", "-x", PATH=path)
    assert (status, output.splitlines()[-1]) == (0, "pytest -x")
    wanted = {"chromium", "chromium-driver", "strace", "fonts-dejavu-core", "rsync", "systemd", "redis-server"}
    assert any(wanted <= set(line.split()) for line in asked.read_text().splitlines())

    (tmp_path / "asked.refuse").touch()
    status, output = tree.run("test", PATH=path)
    assert (status, output.splitlines()[-1]) == (0, "pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder")
    assert set(output.partition("As root: apt-get install ")[2].splitlines()[0].split()) == wanted


def test_keys_are_made_by_the_same_script(tree: Tree) -> None:
    (tree.root / "spooler" / "cli.py").write_text("import sys; print('sdspool', *sys.argv[1:])")
    assert tree.run("key", "add", "ann", "--operator") == (0, "sdspool key add ann --operator\n")
    (tree.root / "spooler" / "cli.py").unlink()


# -- the two halves ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [True, False], ids=["Ctrl-C", "SIGTERM"])
def test_when_told_to_stop_it_stops_both_halves(tree: Tree, group: bool) -> None:
    tree.orders("serve", "serve")
    process = tree.start()
    tree.wait_up("webui", "spooler")
    if group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    assert finish(process) == (0, "")
    assert not left_over()


def test_a_half_that_does_not_stop_is_killed(tree: Tree) -> None:
    tree.orders("serve", "stay")
    process = tree.start()
    tree.wait_up("webui", "spooler")
    process.terminate()
    status, output = finish(process)
    assert status == 1
    assert output == "sdspool: A half did not stop within 2 s and was killed.\n"


@pytest.mark.parametrize("webui, spooler", [("serve", "exit 2"), ("exit 2", "serve"), ("exit 2", "exit 2")])
def test_a_half_that_cannot_work_ends_both(tree: Tree, webui: str, spooler: str) -> None:
    tree.orders(webui, spooler)
    assert tree.run() == (2, "")
    assert max(tree.starts("webui"), tree.starts("spooler")) == 1


def test_a_half_that_dies_is_started_again_alone(tree: Tree) -> None:
    """P6. A status of 2 is no reason to give up on what had been running before."""
    tree.orders("serve", "exit 1\nexit 2\nserve")
    process = tree.start()
    tree.wait_up("webui", "spooler")
    process.terminate()
    status, output = finish(process)
    assert status == 0
    assert output.splitlines() == [
        "sdspool: spooler ended with status 1; starting it again.",
        "sdspool: spooler ended with status 2; starting it again.",
    ]
    assert (tree.starts("webui"), tree.starts("spooler")) == (1, 3)


def test_the_real_halves(tmp_path: Path) -> None:
    """From another folder, through a link, with spaces: it serves, mends a killed spooler, and leaves nothing behind."""
    if not (ROOT / ".venv" / "made-from").exists():
        missing("a .venv that run.sh has set up")
    link = tmp_path / "my tools" / "sdspool"
    link.parent.mkdir()
    link.symlink_to(RUN)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    process = start(link, "--spool", "my jobs", "--port", str(port), "--device", "cpu", "--spooler", "one", cwd=tmp_path)
    spooler_json = tmp_path / "my jobs" / "claimed" / "one" / "spooler.json"

    def listens() -> bool:
        assert process.poll() is None, finish(process)
        try:
            with urllib.request.urlopen(f"{address}/healthz", timeout=120) as answer:
                return bool(answer.status == 200)
        except URLError:
            return False

    def ready_since() -> str | None:
        """When the spooler that is ready was started."""
        assert process.poll() is None, finish(process)
        status = json.loads(spooler_json.read_bytes()) if spooler_json.exists() else {}
        return str(status["started"]) if status.get("state") == "ready" else None

    def spooler_pid() -> int | None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return next((int(pid) for pid in children if b"\0spooler\0" in Path(f"/proc/{pid}/cmdline").read_bytes()), None)

    try:
        wait_for(listens, "the web app to listen")
        first = wait_for(ready_since, "the spooler to be ready")
        os.kill(wait_for(spooler_pid, "the spooler's process"), signal.SIGKILL)
        wait_for(lambda: (ready_since() or first) != first, "another spooler to be ready")
    finally:
        process.terminate()
        status, output = finish(process)
    assert status == 0, output
    assert f"sdspool web: {address}\n" in output
    assert "sdspool: spooler ended with status 137; starting it again.\n" in output
    assert "Traceback" not in output
    assert not left_over()
