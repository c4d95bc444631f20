"""A figure of a proof: the line that it prints, its JSON, and the table of docs/reliability.md.

`./run.sh prove` merges what the proofs wrote into docs/reliability.json and makes the table from it; nothing else writes there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spooler.mounts import file_system

ROOT = Path(__file__).parents[2]
JSON = ROOT / "docs" / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- The table is made by ./run.sh prove from reliability.json. -->"
END = "<!-- The end of the table. -->"

#: What a measurement may be; None when this machine cannot make it.
Value = str | int | float | None


@dataclass(frozen=True)
class Figure:
    """One measurement of a proof, with all that is needed to judge and to repeat it."""

    name: str  #: of the proof: `./run.sh prove <name>` measures it again
    figure: str  #: what was measured, with its unit
    target: str
    value: Value
    ok: bool | None  #: None: this machine cannot run it, `details` says why, and it is not counted
    details: str = ""
    date: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d}")
    machine: str = ""
    commit: str = ""

    @property
    def verdict(self) -> str:
        return {True: "holds", False: "FAILS", None: "not run"}[self.ok]

    @property
    def line(self) -> str:
        measured = "" if self.value is None else f" {_number(self.value)} (target {self.target})"
        return f"{self.name}: {self.figure}:{measured} {self.verdict}{f': {self.details}' if self.details else ''}"


def report(
    name: str,
    figure: str,
    target: str,
    value: Value,
    ok: bool | None,
    details: str = "",
    json_path: Path | None = None,
    folder: Path | None = None,
) -> Figure:
    """Print the figure's line, and add it to the JSON list in `json_path`. `folder` is where it was measured."""
    made = Figure(name, figure, target, value, ok, details, machine=machine(folder), commit=commit())
    print(made.line, flush=True)
    if json_path:
        known = json.loads(json_path.read_text() or "[]") if json_path.exists() else []
        json_path.write_text(json.dumps([*known, asdict(made)], indent=2) + "\n")
    return made


def cannot_run(name: str, figure: str, target: str, reason: str, json_path: Path | None = None) -> Figure:
    """A proof that this machine cannot make: the table says so with the reason, and it is not counted."""
    return report(name, figure, target, None, None, reason, json_path)


def machine(folder: Path | None = None) -> str:
    """The machine in words: CPU, cores, memory, kernel, and the file system of the folder in which it was measured."""
    cpu = next((line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    parts = [cpu or platform.machine(), f"{os.cpu_count()} cores", f"{memory_gib:.0f} GiB", f"Linux {platform.release()}"]
    if folder:
        parts.append(file_system(folder) or "an unknown file system")
    return ", ".join(parts)


def commit() -> str:
    """The commit that is checked out, with a + when files differ from it; empty outside a checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=10", "--exclude=*", "--dirty=+"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return described.stdout.strip()


def main(prove: Callable[[bool], Iterable[Figure]], arguments: Sequence[str] | None = None) -> int:
    """The command line of one proof. Returns the exit status: 1 when a figure fails its target."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="the shortened form, as in the test suite")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args(arguments)
    figures = list(prove(options.short))
    if options.json:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")
    return int(any(figure.ok is False for figure in figures))


# -- all of them, and the page -----------------------------------------------------------------------------------------------


def proofs() -> list[str]:
    """The modules here that have a `prove(short)`, without importing them: one may need what this machine has not."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if "\ndef prove(" in path.read_text())


def merged(known: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The known figures with those of the proofs that were run anew in their place; sorted by proof, else in their order."""
    names = {figure["name"] for figure in new}
    return sorted([*(figure for figure in known if figure["name"] not in names), *new], key=lambda figure: str(figure["name"]))


def table(figures: Sequence[dict[str, Any]]) -> str:
    """The figures as Markdown, one row each; below it the machines and the details, numbered."""
    machines: list[str] = []
    rows = ["| `./run.sh prove` | figure | target | measured | | date, commit, machine |", "|---|---|---|---|---|---|"]
    notes = []
    for each in figures:
        made = Figure(**each)
        if made.machine not in machines:
            machines.append(made.machine)
        number = machines.index(made.machine) + 1
        value = "" if made.value is None else _number(made.value)
        verdict = f"not run: {made.details}" if made.ok is None else made.verdict
        cells = (f"`{made.name}`", made.figure, made.target, value, verdict, f"{made.date}, {made.commit}, {number}")
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
        if made.details and made.ok is not None:
            notes.append(f"- `{made.name}`, {made.figure}: {made.details}")
    counted = [each for each in figures if each["ok"] is not None]
    held = sum(each["ok"] for each in counted)
    not_run = len(figures) - len(counted)
    rows += ["", f"{held} of {len(counted)} figures hold; {not_run} could not be measured and are not counted."]
    rows += ["", *(f"Machine {number}: {text}." for number, text in enumerate(machines, 1))]
    return "\n".join([*rows, "", *notes] if notes else rows).strip()


def write_page(figures: Sequence[dict[str, Any]]) -> None:
    JSON.write_text(json.dumps(figures, indent=2) + "\n")
    PAGE.write_text(with_table(PAGE.read_text(), table(figures)))


def with_table(page: str, made: str) -> str:
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def run_all(arguments: Sequence[str] | None = None) -> int:
    """Run the named proofs, or all, one after another, each in its own process; then write the page anew."""
    names = proofs()
    parser = argparse.ArgumentParser(prog="./run.sh prove", description="The proofs: " + ", ".join(names) + ".")
    parser.add_argument("names", nargs="*", metavar="name", help="only these")
    parser.add_argument("--short", action="store_true", help="the shortened forms; the page is left as it is")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(names)):
        parser.error(f"no such proof: {', '.join(unknown)}; there are {', '.join(names)}")
    status, figures = 0, []
    for name in options.names or names:
        with tempfile.NamedTemporaryFile("w+", suffix=".json") as file:
            short = ["--short"] if options.short else []
            ended = subprocess.run([sys.executable, "-m", f"tests.prove.{name}", *short, "--json", file.name], cwd=ROOT)
            found = json.loads(Path(file.name).read_text() or "[]")
            if ended.returncode:
                status = 1
                print(f"{name}: ended with status {ended.returncode}", file=sys.stderr)
            figures += found if isinstance(found, list) else [found]
    if not options.short:
        write_page(merged(json.loads(JSON.read_text()) if JSON.exists() else [], figures))
    return status


def _number(value: Value) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}" if isinstance(value, float) else str(value)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
