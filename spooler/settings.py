"""Every setting, one row each: name, default, sentence.

`--help` and the table in docs/settings.md are made from these rows (`sdspool settings`), and a test holds the page to them.
Each setting is an option (`--drop-grace-s 5`) and an environment variable (`SDSPOOL_DROP_GRACE_S=5`); the option wins. All
programs take all settings, so that run.sh can pass the same line to both halves.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


def _row(default: Any, sentence: str) -> Any:
    return field(default=default, metadata={"sentence": sentence})


def _host_name() -> str:
    """This host's short name, in the letters that a folder of claimed/ may have."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname().partition(".")[0]).strip("-") or "spooler"


@dataclass(frozen=True)
class Settings:
    """The settings of one process. Times are seconds, sizes are bytes."""

    spool: Path = _row(Path("spool"), "The folder that holds the jobs; all of it on one file system.")
    host: str = _row("127.0.0.1", "Address that the web app listens on; 0.0.0.0 lets the whole LAN in, without a password.")
    port: int = _row(7860, "TCP port that the web app listens on.")
    web_threads: int = _row(8, "Number of requests that the web app answers at the same time.")
    model: str = _row(
        "demo", "The model: `demo`, which is shipped, or the path of a diffusers folder with safetensors weights."
    )
    device: str = _row("auto", "`cuda`, `cuda:1`, `cpu`, or `auto`: the first GPU; without one, the CPU, for `demo` only.")
    spooler: str = _row(_host_name(), "Name of this spooler, its folder in claimed/; the default is the host's name.")
    max_attempts: int = _row(3, "Number of times a job is tried when the engine dies under it, before it ends in failed/.")
    drop_grace_s: float = _row(
        10.0, "Seconds that a dropped file must stay unchanged and unreadable before it goes to rejected/."
    )
    rescan_s: float = _row(5.0, "Seconds between full scans of pending/; file events only make a scan happen sooner.")
    stall_s: float = _row(
        300.0, "Seconds without a sign of life after which an engine at work is killed and its job tried again."
    )
    load_s: float = _row(
        900.0, "Seconds that the engine may take to start and load the model before it is killed and restarted."
    )
    overtake_s: float = _row(60.0, "Seconds that jobs for the loaded model may overtake a waiting job for another model.")
    tmp_max_age_s: float = _row(129_600.0, "Seconds after which a file in tmp/ is taken for abandoned and removed.")

    @classmethod
    def parse(cls, argv: Sequence[str], prog: str, env: Mapping[str, str] = os.environ, about: str = "") -> Settings:
        """The settings from the command line, then the environment, then the defaults. A bad value ends the process with 2."""
        parser = argparse.ArgumentParser(prog=prog, description=about, allow_abbrev=False)
        cls.add_options(parser, env)
        return cls.from_options(parser.parse_args(argv))

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser, env: Mapping[str, str] = os.environ) -> None:
        """Give `parser` one option a setting. argparse checks a default that is text, so a bad variable is named too."""
        for row in fields(cls):
            shown = str(row.default)
            parser.add_argument(
                option(row.name),
                default=env.get(variable(row.name), shown),
                type=_checked(type(row.default)),
                metavar=row.name.upper(),
                help=f"{row.metadata['sentence']} ({variable(row.name)}, default {shown})".replace("%", "%%"),
            )

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> Settings:
        return cls(**{row.name: getattr(options, row.name) for row in fields(cls)})


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    return "SDSPOOL_" + name.upper()


def _checked(kind: type) -> Any:
    def convert(text: str) -> Any:
        value = kind(text)
        if isinstance(value, (int, float)) and not 0 < value < 1e9:
            raise argparse.ArgumentTypeError(f"must be a number above 0, but is {text}")
        if issubclass(kind, Path):
            return value.expanduser().absolute()
        if not text:
            raise argparse.ArgumentTypeError("must not be empty")
        return value

    convert.__name__ = "number" if kind in (int, float) else "value"
    return convert


def markdown_table() -> str:
    """The settings as the table of docs/settings.md."""
    rows = ["| option | variable | default | what it sets |", "|---|---|---|---|"]
    for row in fields(Settings):
        default = "this host's name" if row.name == "spooler" else str(row.default)
        rows.append(f"| `{option(row.name)}` | `{variable(row.name)}` | `{default}` | {row.metadata['sentence']} |")
    return "\n".join(rows) + "\n"
