"""The folders of a worker's tasks: locked while the worker lives, and swept by the next one when it was killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from house import ROOT

from spooler.remote import scratch
from spooler.remote.scratch import PREFIX, Scratch, sweep


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "YOUNG_S", 0.0)
    return tmp_path


def test_a_folder_of_a_worker_that_lives_stays_and_one_of_a_killed_worker_goes(folder: Path) -> None:
    script = "import sys\nfrom spooler.remote.scratch import Scratch\n"
    script += "(Scratch().path / '0.png').write_bytes(b'x')\nprint('made', flush=True)\nsys.stdin.read()"
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    killed = subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1, env=environment, text=True)
    assert killed.stdout and killed.stdout.readline() == "made\n"
    mine = Scratch()
    (mine.path / "0.png").write_bytes(b"x")
    [other] = set(folder.iterdir()) - {mine.path}
    sweep()
    assert (mine.path / "0.png").exists() and (other / "0.png").exists(), "both workers live"
    killed.kill()
    killed.communicate()
    sweep()
    assert (mine.path / "0.png").exists() and not other.exists()
    mine.remove()
    mine.remove()
    assert not list(folder.iterdir())


def test_what_another_host_has_in_a_shared_folder_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its locks are not seen here: NFS keeps those of folders to each host."""
    shutil.copytree(Scratch().path, folder / f"{PREFIX.removesuffix('.')}-2.abcdefgh")
    sweep()
    assert len(list(folder.iterdir())) == 2


def test_what_was_made_just_now_and_what_is_no_such_folder_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"{PREFIX}x").mkdir()
    (folder / "another").mkdir()
    (folder / f"{PREFIX}file").write_bytes(b"x")
    (folder / f"{PREFIX}link").symlink_to(folder / "another")
    monkeypatch.setattr(scratch, "YOUNG_S", 60.0)
    sweep()
    assert len(list(folder.iterdir())) == 4
    monkeypatch.setattr(scratch, "YOUNG_S", 0.0)
    sweep()
    assert sorted(path.name for path in folder.iterdir()) == ["another", f"{PREFIX}file", f"{PREFIX}link"]


def test_without_a_temporary_folder_nothing_is_swept_and_none_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    sweep()
    with pytest.raises(FileNotFoundError):
        Scratch()
