"""The examples, run as they are against the real web app, a real spooler and the demo model."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import ROOT, missing, picture, spooler
from test_api import Web

from bench.shape_checker import look
from spooler.spool import Spool


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    made = Spool(tmp_path_factory.mktemp("examples") / "spool")
    made.create()
    with spooler(made):
        web = Web(made)
        web.spool = made  # type: ignore[attr-defined]
        yield web
        web.stop()


def run(*command: str) -> list[str]:
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.split("\n")


def seen(path: str) -> tuple[str, str, str]:
    found = look(picture(Path(path)).convert("RGB"))
    return found.colour, found.shape, found.background


def test_curl(served: Web, tmp_path: Path) -> None:
    if not shutil.which("curl"):
        missing("curl")
    lines = run(str(ROOT / "examples" / "curl.sh"), f"http://127.0.0.1:{served.port}", str(tmp_path))
    (path,) = [line for line in lines if line.startswith(str(tmp_path))]
    assert seen(path) == ("red", "circle", "blue")
    assert any(line.startswith(f"http://127.0.0.1:{served.port}/api/v1/jobs/") for line in lines)


@pytest.mark.parametrize("way", ["http", "folder"])
def test_python(served: Web, tmp_path: Path, way: str) -> None:
    where = f"http://127.0.0.1:{served.port}" if way == "http" else str(served.spool.root)  # type: ignore[attr-defined]
    lines = run(sys.executable, str(ROOT / "examples" / "client.py"), where, str(tmp_path))
    paths = [line for line in lines if line.startswith(str(tmp_path))]
    assert [seen(path) for path in paths] == [("red", "circle", "blue")] * 2
    assert sum(line.endswith(" done") for line in lines) == 2 and any(line.startswith("steps - ") for line in lines)


def test_javascript(served: Web, tmp_path: Path) -> None:
    if not shutil.which("node"):
        missing("node")
    lines = run("node", str(ROOT / "examples" / "fetch.mjs"), f"http://127.0.0.1:{served.port}", str(tmp_path))
    (path,) = [line for line in lines if line.startswith(str(tmp_path))]
    assert seen(path) == ("red", "circle", "blue") and any("invalid_job" in line for line in lines)
