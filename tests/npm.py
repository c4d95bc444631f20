"""Packages of npm for the tests: one folder a package and version, fetched once and kept in the cache of the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from house import missing

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sdspool-tests"


def package(name: str, version: str) -> Path:
    """The folder whose node_modules/ has that package: scripts that import it run there. Ends the test where npm cannot."""
    folder = CACHE / f"npm-{name.replace('/', '-').strip('@')}-{version}"
    if (folder / "node_modules").is_dir():
        return folder
    if not shutil.which("npm") or not shutil.which("node"):
        missing("node and npm")
    CACHE.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=CACHE))
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(draft), f"{name}@{version}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if ended.returncode:
        shutil.rmtree(draft)
        missing(f"the npm package {name} {version} ({ended.stderr.strip()[-200:]})")
    try:
        draft.rename(folder)  # whole, or not at all: other tests may be at it
    except OSError:  # RACE: another was faster
        shutil.rmtree(draft)
    return folder


def run(folder: Path, script: str, *arguments: str) -> str:
    """What the ES module `script` writes when node runs it beside the packages; fails the test when it fails."""
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".mjs") as file:
        file.write(script)
        file.flush()
        ended = subprocess.run(["node", file.name, *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
