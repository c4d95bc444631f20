"""The verb for GPU hosts that have no spool: worker."""

from __future__ import annotations

import argparse

from spooler.commands.common import WRONG, Verbs, add_verb, tell
from spooler.settings import Settings

#: What a worker heeds. It takes all settings, as every program does; the others are the page's, the spool's and the spooler's.
HEEDED = (
    "dispatch", "dispatch_password_file", "store", "models", "model", "device", "precision", "memory", "vae_tiling",
    "vae_slicing", "attention", "weights", "batch", "together", "compile", "channels_last", "tf32", "keep_gib", "recycle_gib",
    "preview_s", "safety_checker", "classifier", "classifier_labels", "classifier_threshold", "flagged", "cache", "stall_s",
    "load_s", "log_format",
)  # fmt: skip


def add(verbs: Verbs) -> None:
    about = "Draw jobs that spoolers on other hosts send through Celery (docs/scale.md)."
    worker = add_verb(verbs, "worker", _worker, about)
    Settings.add_options(worker, told=HEEDED)
    worker.add_argument(
        "--broker", dest="dispatch", default=argparse.SUPPRESS, help="the same as --dispatch: the Redis that the jobs come by"
    )


def _worker(options: argparse.Namespace) -> int:
    try:
        from spooler.remote import worker
    except ImportError as error:
        tell(f"A worker needs more packages ({error}): pip install 'sdspool[engine,celery]'.")
        return WRONG
    return worker.serve(Settings.from_options(options))
