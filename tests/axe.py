"""What axe-core finds on the page that a browser shows."""

from __future__ import annotations

from typing import Any

import npm
from selenium.webdriver import Chrome

VERSION = "4.14.1"
#: The rules that look at colours.
COLOURS = ["color-contrast", "link-in-text-block"]


def violations(browser: Chrome) -> list[str]:
    """All that it finds when the system asks for light, and what its rules about colours find when it asks for dark."""
    folder = npm.package("axe-core", VERSION) / "node_modules" / "axe-core"
    browser.execute_script((folder / "axe.min.js").read_text())
    return [*_found(browser, "light", {}), *_found(browser, "dark", {"runOnly": COLOURS})]


def _found(browser: Chrome, scheme: str, options: dict[str, Any]) -> list[str]:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    told = browser.execute_async_script(
        "axe.run({...arguments[0], resultTypes: ['violations']}).then(r => arguments[1](r.violations))", options
    )
    return [
        f"{scheme}: {each['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for each in told
        for node in each["nodes"]
    ]
