"""`sdspool doctor`: what this machine can do for sdspool, and what to change. It changes nothing itself."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from spooler import durable, mounts
from spooler.denylist import DenyList, DenyListError
from spooler.library import ModelError, scan
from spooler.settings import Settings
from spooler.states import FOLDERS

Level = Literal["good", "note", "bad"]
MARKS: dict[Level, str] = {"good": "ok  ", "note": "note", "bad": "BAD "}
GIB = 1 << 30
#: Below this, a few big pictures fill the disk.
DISK_FLOOR = 2 * GIB


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `advice` says what to change; "bad" is what keeps jobs from being drawn."""

    level: Level
    subject: str
    text: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{MARKS[self.level]}  {self.subject}: {self.text}" + (f"\n      -> {self.advice}" if self.advice else "")


def run(options: argparse.Namespace) -> int:
    """Print the findings; 1 when one of them is bad."""
    findings = examine(Settings.from_options(options))
    if options.json:
        print(json.dumps([asdict(each) for each in findings], indent=2))  # noqa: T201 - a command's answer
    else:
        for each in findings:
            print(each)  # noqa: T201
    return 1 if any(each.level == "bad" for each in findings) else 0


def examine(settings: Settings) -> list[Finding]:
    """Look at everything that the settings name."""
    facts = _engine_facts()
    return [*_device(settings, facts), *_packages(facts), *_models(settings, facts), *_spool(settings), *_filters(settings)]


def _engine_facts() -> dict[str, Any] | str:
    """What torch tells of this machine, from a process of its own; or why it cannot be asked."""
    ended = subprocess.run([sys.executable, "-m", "spooler.engine.facts"], capture_output=True, text=True, check=False)
    try:
        found: dict[str, Any] = json.loads(ended.stdout)
    except ValueError:
        return (ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1]
    return found


def _device(settings: Settings, facts: dict[str, Any] | str) -> list[Finding]:
    if isinstance(facts, str):
        return [
            Finding("bad", "device", f"torch cannot be used: {facts}", "pip install 'sdspool[engine]', or run ./run.sh setup")
        ]
    memory = psutil.virtual_memory()
    threads = facts["cpu_threads"]
    machine = f"{threads} thread{'s' if threads != 1 else ''}, "
    machine += f"{memory.total / GIB:.1f} GiB of memory, {memory.available / GIB:.1f} free"
    if not facts["gpus"]:
        allowed = settings.device == "cpu" or (settings.device == "auto" and settings.model == "demo")
        advice = (
            "A GPU needs its driver and a CUDA build of torch; this torch is a CPU build."
            if facts["cuda"] is None
            else "torch is a CUDA build, but the driver shows no GPU: see whether nvidia-smi lists one."
        )
        if not allowed:
            advice += " Or give --device cpu: minutes for a picture."
        return [Finding("note" if allowed else "bad", "device", f"no GPU; the CPU has {machine}; precision float32", advice)]
    found = [Finding("note", "processor", machine)]
    for gpu in facts["gpus"]:
        text = f"{gpu['device']} {gpu['name']}, {gpu['free_bytes'] / GIB:.1f} of {gpu['total_bytes'] / GIB:.1f} GiB free"
        text += f", CUDA {facts['cuda']}, compute capability {gpu['capability']}, precision float16"
        text += ", bfloat16 too" if gpu["bfloat16"] else "; no bfloat16"
        crowded = gpu["free_bytes"] < 0.7 * gpu["total_bytes"]
        found.append(
            Finding("good", "device", text, "Another program holds part of its memory: see nvidia-smi." if crowded else "")
        )
    return found


def _packages(facts: dict[str, Any] | str) -> list[Finding]:
    if isinstance(facts, str):
        return []
    there = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    missing = ", ".join(name for name, version in facts["versions"].items() if not version)
    return [Finding("good", "packages", there, f"Not there, each for one feature only: {missing}." if missing else "")]


def _models(settings: Settings, facts: dict[str, Any] | str) -> list[Finding]:
    try:
        library = scan(settings.models, settings.model)
    except ModelError as error:
        return [Finding("bad", "models", str(error), "Give --model another model, or mend this one.")]
    findings = []
    gpus = facts["gpus"] if isinstance(facts, dict) else []
    free = max((gpu["free_bytes"] for gpu in gpus), default=0)
    for name, entry in library.models.items():
        card = entry.card
        text = (
            f"{card.family}, {card.width}x{card.height}, about {card.weight_bytes / GIB:.1f} GiB of weights at half precision"
        )
        text += ", the default" if name == library.default else ""
        fits = _fits(card.weight_bytes, card.width * card.height, free) if gpus else ""
        findings.append(Finding("good", f"model {name}", text, fits))
    findings += [Finding("good", kind, ", ".join(sorted(found))) for kind, found in library.add_ons.items() if found]
    findings += [Finding("note", "not taken", reason) for reason in library.refused]
    if not settings.models.is_dir():
        findings.append(
            Finding("note", "models", f"{settings.models} is not there", "Put models into it: docs/engine.md says how.")
        )
    return findings


def _fits(weights: int, pixels: int, free: int) -> str:
    """Which memory mode `auto` would come to, in words; empty when all fits at once."""
    working = int(0.2 * GIB + 1.8 * GIB * pixels / 1024**2)
    if weights + working < free:
        return ""
    if 0.75 * weights + working < free:
        return "Too large for the free GPU memory at once: it will be drawn with --memory offload, somewhat slower."
    return "Far too large for the free GPU memory: it will be drawn with --memory sequential, several times slower."


def _spool(settings: Settings) -> list[Finding]:
    root = settings.spool
    there = root
    while not there.exists():
        there = there.parent
    mount = mounts.of(there)
    kind = mount.kind or "an unknown file system"
    usage = shutil.disk_usage(there)
    findings = []
    findings.append(
        Finding(
            "note" if mount.network else "good",
            "spool",
            f"{root} on {kind}" + ("" if root.exists() else ", to be made at the first start"),
            "A shared file system: new jobs are found by polling." if mount.network else "",
        )
    )
    findings += [Finding("note", "mount", f"{kind} at {mount.point}", sentence) for sentence in mounts.advice(mount)]
    if (root / "tmp").is_dir():
        findings += [_clock(root / "tmp"), _lock(root / "tmp")]
    low = usage.free < DISK_FLOOR
    free = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free"
    findings.append(Finding("bad" if low else "good", "disk", free, "Free some space, or move the spool." if low else ""))
    for folder in [root / name for name in FOLDERS if (root / name).is_dir()] or [there]:
        if problem := _unwritable(folder):
            owner = f"the user {os.getuid()} needs to read, write and enter {folder}"
            findings.append(Finding("bad", "permissions", problem, owner))
    if not any(each.subject == "permissions" for each in findings):
        findings.append(Finding("good", "permissions", "files can be made, synced, renamed and removed"))
    if (root / "PAUSE").exists():
        findings.append(Finding("note", "queue", "paused", f"rm {root / 'PAUSE'}"))
    return findings


def _clock(folder: Path) -> Finding:
    try:
        skew_s = mounts.clock_skew_s(folder)
    except OSError as error:
        return Finding("note", "clock", f"it cannot be compared with the spool's: {error}")
    if abs(skew_s) <= mounts.SKEW_S:
        return Finding("good", "clock", "it agrees with the spool's")
    way = "ahead of" if skew_s > 0 else "behind"
    text = f"the spool's is {abs(skew_s):.0f} s {way} this machine's"
    return Finding("note", "clock", text, "No job is lost by that, but times are shown wrong: set both by NTP.")


def _lock(folder: Path) -> Finding:
    advice = "Spoolers need locks that work, or they run each other's jobs: see docs/nfs.md."
    try:
        works = mounts.lock_works(folder)
    except OSError as error:
        return Finding("bad", "locks", f"there are none: {error}", advice)
    return Finding("good", "locks", "one process keeps another out") if works else Finding("bad", "locks", "no use", advice)


def _unwritable(folder: Path) -> str | None:
    """Try all that the spool does to a folder; the reason when it cannot be done."""
    probe = folder / f".doctor-{durable.unique_name()}"
    try:
        durable.write_new(probe, b"")
        renamed = probe.with_suffix(".renamed")
        durable.rename(probe, renamed)
        renamed.unlink()
        os.listdir(folder)  # noqa: PTH208 - read permission is what is tried
    except OSError as error:
        return f"{folder}: {error.strerror}"
    return None


def _filters(settings: Settings) -> list[Finding]:
    findings = []
    if settings.deny_list:
        try:
            many = len(DenyList.read(Path(settings.deny_list)).rules)
            findings.append(Finding("good", "deny list", f"{many} entries"))
        except DenyListError as error:
            findings.append(Finding("bad", "deny list", str(error)))
    if settings.classifier and settings.classifier != "nudenet" and not Path(settings.classifier).expanduser().is_dir():
        findings.append(
            Finding("bad", "classifier", f"{settings.classifier} is no folder", "Give --classifier nudenet or a folder.")
        )
    return findings
