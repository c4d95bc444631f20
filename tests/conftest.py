"""What holds for all tests."""

from __future__ import annotations

import os

from browser import browser, no_script_browser
from hypothesis import settings

__all__ = ["browser", "no_script_browser"]

# A test starts from the defaults, whatever the shell that runs it has set.
for name in [name for name in os.environ if name.startswith("SDSPOOL_")]:
    del os.environ[name]

# The same examples in every run, kept nowhere; nothing is timed. The long form of a proof draws its own.
settings.register_profile("suite", deadline=None, derandomize=True, database=None)
settings.load_profile("suite")
