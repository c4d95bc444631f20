"""A real browser for the tests of the pages: headless Chromium, which reaches nothing but this machine."""

from __future__ import annotations

import base64
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from flask import Flask
from house import missing
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from werkzeug.serving import BaseWSGIServer, make_server

DESKTOP = (1280, 900)
PHONE = (390, 844)

SWITCHES = (
    "--headless=new",
    "--no-sandbox",  # tests run as root, where Chromium's sandbox does not
    "--disable-gpu",
    "--disable-dev-shm-usage",  # /dev/shm is tiny in a container
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--force-prefers-reduced-motion",
    f"--window-size={DESKTOP[0]},{DESKTOP[1]}",
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """The browser of a file's tests; each has it as if it were new: see `browser`."""
    with open_browser(tmp_path_factory.mktemp("chromium") / "profile") as opened:
        yield opened


@pytest.fixture
def browser(chromium: Chrome) -> Chrome:
    """A browser that knows nothing of what it did before, with one tab of 1280 x 900 pixels."""
    before = chromium.window_handles
    chromium.switch_to.new_window("tab")
    fresh = chromium.current_window_handle
    for handle in before:
        chromium.switch_to.window(handle)
        chromium.close()
    chromium.switch_to.window(fresh)
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    chromium.execute_cdp_cmd("Network.clearBrowserCache", {})
    chromium.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": "*", "storageTypes": "all"})
    chromium.execute_cdp_cmd("Browser.resetPermissions", {})
    _set_viewport(chromium, *DESKTOP, mobile=False)
    console(chromium)
    return chromium


@pytest.fixture
def no_script_browser(tmp_path: Path) -> Iterator[Chrome]:
    """A browser with JavaScript switched off."""
    with open_browser(tmp_path / "no-script-profile", scripts=False) as opened:
        yield opened


@contextmanager
def open_browser(profile: Path, scripts: bool = True, switches: Sequence[str] = ()) -> Iterator[Chrome]:
    """A browser with that profile folder, and more switches: of two, the last counts.

    Without Chromium the test is skipped; in CI it fails.
    """
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        missing("chromium with chromedriver")
    options = ChromeOptions()
    options.binary_location = str(chromium)
    for switch in (*SWITCHES, f"--user-data-dir={profile}", *switches):
        options.add_argument(switch)
    if not scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = Chrome(options=options, service=ChromeService(driver))
    try:
        opened.set_page_load_timeout(180)
        _set_viewport(opened, *DESKTOP, mobile=False)
        yield opened
    finally:
        opened.quit()


@contextmanager
def served(app: Flask) -> Iterator[str]:
    """The app behind a real socket, each request in a thread of its own; its address."""
    server: BaseWSGIServer = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def phone(browser: Chrome) -> None:
    """Make the viewport a phone's: 390 x 844 pixels at three dots a pixel, with touch. A window cannot be made that narrow."""
    _set_viewport(browser, *PHONE, mobile=True)


def unfold(browser: Chrome) -> None:
    """Make the window as high as the page, so that what sticks to its foot is at the foot of the page too."""
    wide, mobile = browser.execute_script("return [innerWidth, matchMedia('(pointer: coarse)').matches]")
    _set_viewport(browser, *(PHONE if mobile else DESKTOP), mobile=mobile)  # a page is never less high than its window
    high = browser.execute_script("return document.documentElement.scrollHeight")
    size = {"width": wide, "height": max(high, (PHONE if mobile else DESKTOP)[1]), "deviceScaleFactor": 0, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def _set_viewport(browser: Chrome, width: int, height: int, mobile: bool) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 3 if mobile else 1, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": mobile})


def console(browser: Chrome) -> list[str]:
    """What the page complained of since the last call: script errors, refused or missing files."""
    entries: list[dict[str, str]] = browser.execute("getLog", {"type": "browser"})["value"]
    return [entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE")]


def screenshot(browser: Chrome, path: Path, whole: bool = True) -> Path:
    """Save the page as a PNG file: with what lies below the window, or the window alone for a fifth of the work."""
    how = {"captureBeyondViewport": True} if whole else {"optimizeForSpeed": True}
    taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", **how})
    path.write_bytes(base64.b64decode(taken["data"]))
    return path
