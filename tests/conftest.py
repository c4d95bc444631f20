"""What holds for all tests."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

import pytest
from browser import browser, chromium, no_script_browser
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import settings
from receivers import receivers, secret_file
from ward import ill, ward

from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import create_app

__all__ = ["browser", "chromium", "ill", "no_script_browser", "receivers", "secret_file", "ward"]

# A test starts from the defaults, whatever the shell that runs it has set.
for name in [name for name in os.environ if name.startswith("SDSPOOL_")]:
    del os.environ[name]

# Nor from the keys of whoever runs it: the default file is in his home.
os.environ["SDSPOOL_KEYS"] = "/nonexistent/keys"

# The tests start some hundred processes of these modules: each would compile them anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Whoever runs the tests in the background may have them ignore Ctrl-C, and so all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Engines of several tests draw at once: one that waits must not spin where another could draw, and one that has more threads
# than cores are free mostly waits for them. A test that is about threads says how many it wants.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run, kept nowhere; nothing is timed. The long form of a proof draws its own.
settings.register_profile("suite", deadline=None, derandomize=True, database=None)
settings.load_profile("suite")


#: Files that take longest, the longest first: no process is to begin one when the others are about to end.
LONGEST = (
    *("contract", "demo_model", "continuous", "follow_browser", "faults", "pages_browser", "company", "cli", "form_browser"),
    *("prove_kill", "prove_errno", "run_sh", "prove_power", "ladder", "sdapi_waits", "pixels", "prove_fuzz", "openai"),
    *("strangers", "kinds", "form_pictures_browser", "shelf", "browser", "style", "prove_mutants", "prove_parser", "examples"),
    *("bench_gpu", "metrics", "deploy", "log_events", "proxy", "prove_traces", "sdapi", "notices", "compiled", "prove_watch"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others as they come; within a file nothing changes."""
    ranks = {f"test_{name}": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


def pytest_collection_finish() -> None:
    """What was imported stays: to look among it for garbage takes half a second, and engines and tests ask for that often."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """An empty spool in which the spooler `me` may claim; a file that needs another has a fixture of its own."""
    made = Spool(tmp_path / "spool")
    made.create()
    (made.claimed / "me").mkdir()
    return made


@pytest.fixture
def app(spool: Spool) -> Flask:
    """The web app over that spool, with no settings but its folders."""
    return create_app(Settings(spool=spool.root, cache=spool.root.parent / "cache"))


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Whoever asks it, without a socket."""
    return app.test_client()
