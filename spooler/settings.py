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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from spooler import __version__


def _row(
    default: Any,
    sentence: str,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
    bare: str | None = None,
    form: tuple[str, str] | None = None,
) -> Any:
    """One setting. A number must be above 0 unless `least` says from where on it is allowed, and at most `most`. `bare`: the
    option's value when it stands alone. `form`: the regular expression of a text, and the same in words."""
    about = {"sentence": sentence, "choices": choices, "least": least, "most": most, "bare": bare, "form": form}
    return field(default=default, metadata=about)


def _host_name() -> str:
    """This host's short name, in the letters that a folder of claimed/ may have."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname().partition(".")[0]).strip("-")[:64] or "spooler"


@dataclass(frozen=True)
class Settings:
    """The settings of one process. Times are seconds, sizes are bytes."""

    spool: Path = _row(Path("spool"), "The folder that holds the jobs; all of it on one file system.")
    host: str = _row("127.0.0.1", "Address that the web app listens on; 0.0.0.0: all, so that the LAN reaches it, with keys.")
    port: int = _row(7860, "TCP port that the web app listens on.", most=65535)
    keys: Path = _row(
        Path("~/.config/sdspool/keys"),
        "File of the keys that let people in, one line each (`sdspool key add NAME`); nobody but its owner may read it.",
    )
    open: str = _row(
        "off",
        "Let everybody in without a key, also from the LAN; without effect where the file has keys. `--open` alone means on.",
        ("off", "on"),
        bare="on",
    )
    allowed_hosts: str = _row(
        "", "Further host names that people reach the web app by, separated by commas: those of a reverse proxy, for example."
    )
    trusted_proxies: str = _row(
        "",
        "Addresses or networks of reverse proxies (127.0.0.1, 10.0.0.0/8), separated by commas, who are believed what they say "
        "of their clients; with any, people need keys on loopback too.",
    )
    prefix: str = _row("", "Path under which a reverse proxy has the web app, /sd for example; docs/proxy.md tells the rest.")
    client_submits: int = _row(
        6000,
        "Jobs that one person may submit in a minute, or one address where nobody needs a key (this machine's own always may); "
        "0: no bound.",
        least=0,
    )
    client_requests: int = _row(
        24, "Requests of one person, or address, that the web app answers at the same time, likewise; 0: no bound.", least=0
    )
    web_threads: int = _row(
        32,
        "Number of requests that the web app answers at the same time; half of them may be such that wait for a job, "
        "and of those three quarters one person's.",
    )
    wait_s: float = _row(
        3600.0, "Seconds that a request may wait for its job in the end, whatever the API; the job goes on when they are over."
    )
    models: Path = _row(
        Path("models"), "The folder of the models, LoRAs, VAEs and so on; its layout is told in docs/engine.md."
    )
    model: str = _row(
        "demo", "The default model: `demo`, which is shipped, a name in the folder of models, or the path of a model."
    )
    device: str = _row("auto", "`cuda`, `cuda:1`, `cpu`, or `auto`: the first GPU; without one, the CPU, for `demo` only.")
    devices: str = _row(
        "", "Devices of several engines under one spooler, separated by commas (`cuda:0,cuda:1`); empty: one, on --device."
    )
    precision: str = _row(
        "auto",
        "Number format of the computation; auto: float16 on a GPU (bfloat16 for the families that need it), float32 on a CPU.",
        ("auto", "float32", "float16", "bfloat16"),
    )
    memory: str = _row(
        "auto",
        "Memory mode: full (all on the GPU), tiled (VAE in tiles), offload (one part at a time), group (layers after "
        "each other), sequential (one layer at a time), or auto, by the free memory and the size of the model.",
        ("auto", "full", "tiled", "offload", "group", "sequential"),
    )
    vae_tiling: str = _row("auto", "Decode in tiles, for large pictures; auto: as the memory mode says.", ("auto", "on", "off"))
    vae_slicing: str = _row("auto", "Decode a batch one by one; auto: on.", ("auto", "on", "off"))
    attention: str = _row(
        "sdpa",
        "Attention: PyTorch's own (sdpa), sliced (slower, less memory without sdpa), or xformers.",
        ("sdpa", "sliced", "xformers"),
    )
    weights: str = _row(
        "full",
        "How weights are kept: full, fp8 (cast to the precision layer by layer), or int8 (torchao): half the memory, "
        "nearly the same pictures.",
        ("full", "fp8", "int8"),
    )
    batch: int = _row(4, "Most pictures of one job that are drawn at once; fewer when memory is short.")
    together: int = _row(
        8, "Most jobs that are drawn together, as far as more of them are faster; 1: one job at a time, each as if alone."
    )
    compile: str = _row(
        "off",
        "torch.compile in the background, while uncompiled code already serves; regional: the repeated blocks only.",
        ("off", "regional", "full"),
    )
    channels_last: str = _row("auto", "Memory layout of convolutions; auto: on with a GPU.", ("auto", "on", "off"))
    tf32: str = _row("on", "Let float32 matrix products on a GPU use TF32.", ("on", "off"))
    keep_gib: float = _row(
        0.0,
        "GiB that loaded models may take together, the least recently used goes first; 0: nine tenths of what is there.",
        least=0,
    )
    recycle_gib: float = _row(
        8.0, "GiB by which the engine's resident memory may grow before it is started anew between two jobs."
    )
    preview_s: float = _row(1.0, "Seconds between previews of the picture at work; 0 makes none.", least=0)
    deny_list: str = _row("", "File of words and /patterns/ that no prompt may have, one a line.")
    safety_checker: str = _row("off", "The model's own safety checker; with on, a model without one is refused.", ("off", "on"))
    classifier: str = _row("", "Image classifier over each picture: nudenet, or the folder of an image-classification model.")
    classifier_labels: str = _row(
        "", "Labels of the classifier that are not wanted, separated by commas; empty: nudenet's own choice."
    )
    classifier_threshold: float = _row(0.5, "Score from which a label counts, 0 to 1.", most=1)
    flagged: str = _row("withhold", "What becomes of a picture that a filter flags.", ("withhold", "blur"))
    cancel_abandoned: str = _row(
        "off", "Cancel a job whose caller waited for it in a request of the A1111 API and hung up.", ("off", "on")
    )
    cache: Path = _row(
        Path("~/.cache/sdspool"),
        "Folder for what can be made again: hashes of weights, what fitted into memory, compiled code.",
    )
    dispatch: str = _row(
        "",
        "Redis by which jobs go to workers on other hosts (redis://host:6379/0, rediss:// with TLS) instead of to an engine "
        "here; docs/scale.md tells the rest.",
    )
    dispatch_password_file: str = _row(
        "", "File of that Redis's password, so that no command line has it; nobody but its owner may be allowed to read it."
    )
    dispatch_window: int = _row(
        2, "Jobs for each worker that may be sent beyond what the workers have at the same time, so that none waits.", least=0
    )
    store: str = _row(
        "",
        "Object store by which pictures go to the workers and back: s3://bucket/prefix, gs://bucket/prefix, or file:///folder.",
    )
    spooler: str = _row(
        _host_name(),
        "Name of this spooler, its folder in claimed/; the default is the host's name.",
        form=(
            r"(?!edit_)[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
            "1 to 64 letters, digits, dots, dashes and underscores, begin with a letter or digit, and not with edit_",
        ),
    )
    max_attempts: int = _row(3, "Number of times a job is tried when the engine dies under it, before it ends in failed/.")
    drop_grace_s: float = _row(
        10.0, "Seconds that a dropped file must stay unchanged and unreadable before it goes to rejected/."
    )
    rescan_s: float = _row(5.0, "Seconds between full scans of pending/; file events only make a scan happen sooner.")
    stall_s: float = _row(
        300.0,
        "Seconds without a sign of life, or twenty of its usual steps if that is longer, after which an engine at work is "
        "killed and its job tried again.",
    )
    load_s: float = _row(
        900.0, "Seconds that the engine may take to start and load the model before it is killed and restarted."
    )
    overtake_s: float = _row(60.0, "Seconds that jobs for the loaded model may overtake a waiting job for another model.")
    max_waiting: int = _row(
        10_000, "Jobs that may wait before the web app answers 429; 0: no bound. Dropped files are never refused.", least=0
    )
    owner_waiting: int = _row(
        0,
        "Jobs of one owner that may wait before the web app answers 429; dropped ones beyond it cannot be raised. 0: no bound.",
        least=0,
    )
    owner_running: int = _row(
        0, "Jobs of one owner that may run at the same time, on all spoolers together; 0: no bound.", least=0
    )
    floor_mib: float = _row(
        512.0, "MiB that the disk must have free: below it no job is begun, and the web app answers 507.", least=0
    )
    webhook: str = _row(
        "", "Addresses (http or https, separated by commas) that are told of each job's end; docs/notifications.md says how."
    )
    webhook_secret_file: str = _row(
        "", "File of the secret that signs what a webhook is told; nobody but its owner may be allowed to read it."
    )
    notify_command: str = _row(
        "", "Command line that is run at each job's end, without a shell, with the notice as JSON on standard input."
    )
    notify_on: str = _row("done,failed", "Ends that are told of, separated by commas: done, failed, cancelled.")
    notify_timeout_s: float = _row(30.0, "Seconds that a webhook may take to answer, or the command to end.")
    notify_give_up_s: float = _row(
        86_400.0, "Seconds of waiting between tries, all together, after which a notice that nobody takes is given up."
    )
    keep_days: float = _row(0.0, "Days that an ended job is kept; 0: no bound. Starred ones are always kept.", least=0)
    keep_jobs: int = _row(0, "Number of ended jobs that are kept, the oldest goes first; 0: no bound.", least=0)
    keep_disk_gib: float = _row(
        0.0, "GiB of disk that ended jobs may take together, the oldest goes first; 0: no bound.", least=0
    )
    log_format: str = _row(
        "plain", "Form of the log on standard error: plain sentences, or a JSON object a line.", ("plain", "json")
    )
    tmp_max_age_s: float = _row(129_600.0, "Seconds after which a file in tmp/ is taken for abandoned and removed.")

    @classmethod
    def parse(cls, argv: Sequence[str], prog: str, env: Mapping[str, str] = os.environ, about: str = "") -> Settings:
        """The settings from the command line, then the environment, then the defaults. A bad value ends the process with 2."""
        parser = argparse.ArgumentParser(prog=prog, description=about, allow_abbrev=False)
        parser.add_argument("--version", action="version", version=f"sdspool {__version__}")
        cls.add_options(parser, env)
        return cls.from_options(parser.parse_args(argv))

    @classmethod
    def add_options(
        cls,
        parser: argparse.ArgumentParser,
        env: Mapping[str, str] = os.environ,
        only: Collection[str] | None = None,
        told: Collection[str] | None = None,
    ) -> None:
        """Give `parser` one option a setting, or those of `only`. argparse checks a default that is text, so a bad variable is
        named too. `told`: those that the help tells of; the others are taken all the same."""
        for row in fields(cls):
            if only is not None and row.name not in only:
                continue
            shown = str(row.default)
            about = row.metadata
            parser.add_argument(
                option(row.name),
                **({"nargs": "?", "const": about["bare"]} if about["bare"] else {}),
                default=env.get(variable(row.name), shown),
                type=_checked(
                    type(row.default), about["choices"], about["least"], about["most"], row.default == "", about["form"]
                ),
                metavar=row.name.upper(),
                help=f"{about['sentence']} ({variable(row.name)}, default {shown or 'empty'})".replace("%", "%%")
                if told is None or row.name in told
                else argparse.SUPPRESS,
            )

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> Settings:
        return cls(**{row.name: getattr(options, row.name) for row in fields(cls)})

    @property
    def recycle_bytes(self) -> float:
        return self.recycle_gib * (1 << 30)

    def of_lanes(self) -> list[Settings]:
        """These settings for each engine that the spooler is to have: with one device. What sends jobs elsewhere is one."""
        if self.dispatch:
            return [replace(self, device="celery", devices="")]
        names = [name.strip() for name in self.devices.split(",") if name.strip()]
        return [replace(self, device=name, devices="") for name in names] or [self]

    def arguments(self) -> list[str]:
        """The command line that gives these settings again."""
        return [f"{option(row.name)}={getattr(self, row.name)}" for row in fields(self)]


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    return "SDSPOOL_" + name.upper()


def _checked(
    kind: type,
    choices: tuple[str, ...],
    least: float | None,
    most: float | None,
    optional: bool,
    form: tuple[str, str] | None,
) -> Any:
    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            rule = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {rule}, but is {text!a}") from None
        if isinstance(value, (int, float)) and not (0 < value < 1e9 or (value == 0 and least == 0)):
            rule = "a number above 0" if least is None else f"a number from {least:g} on"
            raise argparse.ArgumentTypeError(f"must be {rule}, but is {text}")
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"must be at most {most:g}, but is {text}")
        if issubclass(kind, Path):
            return value.expanduser().absolute()
        if choices and value not in choices:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(choices)}, but is {text}")
        if not text and not optional:
            raise argparse.ArgumentTypeError("must not be empty")
        if form and not re.fullmatch(form[0], text):
            raise argparse.ArgumentTypeError(f"must be {form[1]}, but is {text!a}")
        return value

    return convert


def markdown_table() -> str:
    """The settings as the table of docs/settings.md."""
    rows = ["| option | variable | default | what it sets |", "|---|---|---|---|"]
    for row in fields(Settings):
        default = "this host's name" if row.name == "spooler" else str(row.default) or " "
        rows.append(f"| `{option(row.name)}` | `{variable(row.name)}` | `{default}` | {row.metadata['sentence']} |")
    return "\n".join(rows) + "\n"
