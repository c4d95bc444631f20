"""The repository keeps its own rules: style, types, pins, examples."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from house import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from spooler import job

#: torch chooses these itself, for its CUDA build only.
CUDA = ("nvidia-", "cuda-", "triton", "setuptools")


@pytest.mark.parametrize("tool", [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)], ids=" ".join)
def test_tool(tool: tuple[str, ...]) -> None:
    ended = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ended.returncode == 0, f"{' '.join(tool)}:\n{ended.stdout}"


def test_constraints_pin_every_package_that_is_needed() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    needed: dict[str, str] = {}
    to_see = [("sdspool", frozenset({"engine", "dev"}))]
    seen = set(to_see)
    while to_see:
        package, extras = to_see.pop()
        for requirement in map(Requirement, requires(package) or []):
            name = canonicalize_name(requirement.name)
            if name == "sdspool":  # one extra that takes in others
                if (found := (name, frozenset(requirement.extras))) not in seen:
                    seen.add(found)
                    to_see.append(found)
                continue
            marker = requirement.marker
            if name.startswith(CUDA) or (marker and not any(marker.evaluate({"extra": extra}) for extra in (*extras, ""))):
                continue
            needed[name] = version(name).partition("+")[0]
            if (found := (name, frozenset(requirement.extras))) not in seen:
                seen.add(found)
                to_see.append(found)
    assert needed == {name: pin for name, pin in pinned.items() if name in needed}
    assert set(pinned) == set(needed), "a pin that nothing needs, or a package without a pin"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.json")), ids=lambda path: path.name)
def test_examples_are_jobs(path: Path) -> None:
    job.decode(path.read_bytes())
