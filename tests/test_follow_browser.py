"""Open pages follow by themselves what happens elsewhere: the frame of each, and what stands beside the form."""

from __future__ import annotations

import pytest
from browser import console, phone
from house import wait_for
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from test_pages import finish
from test_pages_browser import Desk, desk, one, seen

__all__ = ["desk"]

BANNER = "[data-fresh=banner]"


def light(browser: Chrome) -> str:
    return seen(browser, "[data-fresh=ready]")


def same_page(browser: Chrome) -> bool:
    """Whether it is the page that `mark` marked, and was not loaded anew."""
    return bool(browser.execute_script("return window.marked === true"))


def mark(browser: Chrome) -> None:
    browser.execute_script("window.marked = true")


PATHS = ("", "queue", "gallery", "failed", "status", "jobs/cat", "jobs/waits", "batches/two")


def test_every_page_has_a_frame_that_can_follow(browser: Chrome, desk: Desk) -> None:
    """That it does is looked at on some of them, for an open page asks the less often the less happens."""
    desk.done("cat")
    desk.submit("waits")
    desk.batch("two")
    for path in PATHS:
        browser.get(f"{desk.address}/{path}")
        for selector in (BANNER, "[data-fresh=ready]", "[data-live]"):
            assert len(browser.find_elements(By.CSS_SELECTOR, selector)) == 1, (path, selector)


@pytest.mark.parametrize("path", ["", "gallery", "jobs/waits"])
def test_the_banner_and_the_light_follow_the_spooler(browser: Chrome, desk: Desk, path: str) -> None:
    desk.done("cat")
    desk.submit("waits")
    desk.batch("two")
    browser.get(f"{desk.address}/{path}")
    mark(browser)
    assert not seen(browser, BANNER) and light(browser) == "demo on cpu"
    pause = desk.spool.root / "PAUSE"
    pause.touch()
    wait_for(lambda: "The queue is paused" in seen(browser, BANNER) and light(browser) == "paused", "the pause")
    pause.unlink()
    wait_for(lambda: not seen(browser, BANNER) and light(browser) == "demo on cpu", "the end of the pause")
    desk.tell(state="starting", engine=None)
    wait_for(lambda: "is loading its model" in seen(browser, BANNER) and light(browser) == "not ready", "the loading")
    desk.tell(state="failing", engine=None, reason="no weights.")
    wait_for(lambda: "cannot start: no weights." in seen(browser, BANNER), "another reason, with the light as it was")
    assert same_page(browser) and console(browser) == []


def test_the_page_of_the_form_follows_the_queue(browser: Chrome, desk: Desk) -> None:
    browser.get(desk.address)
    mark(browser)
    prompt = one(browser, "#prompt")
    prompt.send_keys("half a sente")
    now, latest = "[data-fresh=now]", "[data-fresh=latest]"
    assert "Nothing runs, nothing waits." in seen(browser, now) and "Finished pictures appear here." in seen(browser, latest)
    desk.submit("first")
    desk.submit("second")
    wait_for(lambda: "2 jobs wait" in seen(browser, now), "what waits")
    place = desk.running("third")
    wait_for(lambda: "a third" in seen(browser, now) and "2 jobs wait" in seen(browser, now), "what runs")
    finish(desk.spool, "first")
    wait_for(lambda: "a first" in seen(browser, latest) and "1 job waits" in seen(browser, now), "the newest picture")
    desk.spool.cancel("second")
    desk.end(place)
    wait_for(lambda: "Nothing runs, nothing waits." in seen(browser, now), "the end of them")
    assert same_page(browser) and prompt.get_attribute("value") == "half a sente"
    assert browser.switch_to.active_element == prompt and console(browser) == [], "nobody is disturbed in the typing"


def test_without_a_keyboard_no_key_is_named(browser: Chrome, desk: Desk) -> None:
    hints = ".keys, .stage kbd, [data-part=help]"
    browser.get(desk.address)
    wait_for(lambda: browser.execute_script("return document.documentElement.classList.contains('js')"), "the script")
    assert any(each.is_displayed() for each in browser.find_elements(By.CSS_SELECTOR, hints))
    phone(browser)
    assert not any(each.is_displayed() for each in browser.find_elements(By.CSS_SELECTOR, hints))
    tablet = {"width": 1024, "height": 768, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", tablet)
    assert not any(each.is_displayed() for each in browser.find_elements(By.CSS_SELECTOR, hints)), "nor on a tablet"
