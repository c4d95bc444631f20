"""Which half loads what, and whether the documents are true."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import LONGEST
from house import ROOT

from spooler import cli, families, samplers, settings, states
from spooler.commands.working import HEEDED
from spooler.place import EDITOR

MODULES = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
    for half in ("webui", "spooler")
    for path in (ROOT / half).rglob("*.py")
    if "engine" not in path.parts and path.name != "__main__.py"
)


def test_no_module_but_the_engine_loads_torch() -> None:
    script = f"import sys, importlib\nfor name in {MODULES}: importlib.import_module(name)\n"
    script += "sys.exit(', '.join({'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


@pytest.mark.parametrize("table", [families.markdown_table(), samplers.markdown_table()], ids=["families", "samplers"])
def test_the_engine_page_has_the_code_s_tables(table: str) -> None:
    assert table in (ROOT / "docs" / "engine.md").read_text()


def test_the_settings_page_has_the_code_s_table() -> None:
    assert settings.markdown_table() in (ROOT / "docs" / "settings.md").read_text()


def test_the_spool_page_has_the_code_s_table_of_moves_and_all_its_folders() -> None:
    page = (ROOT / "docs" / "spool.md").read_text()
    assert states.markdown_table() in page
    assert all(f"    {folder}/" in page for folder in states.FOLDERS)


def test_the_readme_s_tree_is_there() -> None:
    tree = re.search(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree
    named = [line.split()[0] for line in tree[1].splitlines() if line.strip()]
    assert len(named) > 8
    for name in named:
        assert (ROOT / name).exists(), name
    for path in ROOT.iterdir():
        if path.is_dir() and path.name[0] != "." and not path.name.endswith(".egg-info"):
            assert f"{path.name}/" in named or any(each.startswith(f"{path.name}/") for each in named), path.name


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_options_win_over_the_environment_and_bad_values_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    env = {"SDSPOOL_PORT": "8000", "SDSPOOL_HOST": "::1"}
    read = settings.Settings.parse(["--port", "9000"], "x", env)
    assert (read.port, read.host) == (9000, "::1")
    with pytest.raises(SystemExit) as ended:
        settings.Settings.parse([], "x", {"SDSPOOL_DROP_GRACE_S": "-3"})
    assert ended.value.code == 2
    assert "--drop-grace-s: must be a number above 0, but is -3" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        settings.Settings.parse(["--port", "65536"], "x", {})
    assert "--port: must be at most 65535, but is 65536" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "..", "../up", "a/b", ".hidden", f"{EDITOR}box", "two words", "x" * 65])
def test_a_spooler_s_name_is_one_folder_and_no_editor_s(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit):
        settings.Settings.parse(["--spooler", name], "x", {})
    assert "--spooler: must" in capsys.readouterr().err
    assert settings.Settings.parse(["--spooler", "gpu_1.lan-2"], "x", {}).spooler == "gpu_1.lan-2"
    with pytest.raises(SystemExit):
        settings.Settings.parse(["--classifier-threshold", "1.5"], "x", {})
    assert "--classifier-threshold: must be at most 1, but is 1.5" in capsys.readouterr().err
    assert all(row.metadata["sentence"].endswith(".") for row in fields(settings.Settings))


def test_the_help_of_a_worker_tells_what_a_worker_heeds_and_it_takes_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["worker", "--help"])
    told = capsys.readouterr().out
    assert ended.value.code == 0 and "default empty" in told and "default )" not in told
    named = {row.name for row in fields(settings.Settings) if f" {settings.option(row.name)} " in told}
    assert named == set(HEEDED)
    made = argparse.ArgumentParser()
    settings.Settings.add_options(made, {}, told=HEEDED)
    everything = settings.Settings.parse([], "x", {})
    assert settings.Settings.from_options(made.parse_args(everything.arguments())) == everything


def test_the_files_that_begin_first_are_there() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / f"test_{name}.py").exists()] == []
