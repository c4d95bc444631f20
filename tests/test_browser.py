"""What a person does, in a real browser, over the real two processes and the demo model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import console, phone, screenshot, served
from house import Spooler, drop, picture, spooler, wait_for, wait_running, wait_state
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from bench.shape_checker import look
from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import create_app

LONG = {"prompt": "a large green square on a white background", "steps": 150, "count": 9, "seed": 1}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Spooler, str]]:
    """A warm spooler and the address of a web app over its spool."""
    spool = Spool(tmp_path_factory.mktemp("house") / "spool")
    spool.create()
    app = create_app(Settings(spool=spool.root, cache=spool.root.parent / "cache"))
    with served(app) as address, spooler(spool, "--together=1") as running:  # a queue is looked at
        yield running, address


def seen(browser: Chrome, css: str) -> str:
    """The text of the first such element; "" while there is none. One call, for the page may reload at any moment."""
    return str(browser.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", css)).strip()


def test_type_a_prompt_see_the_picture(browser: Chrome, house: tuple[Spooler, str]) -> None:
    running, address = house
    browser.get(address)
    prompt = browser.switch_to.active_element
    assert prompt.get_attribute("name") == "prompt", "the cursor is where the typing begins"
    prompt.send_keys("a large red circle on a blue background")
    browser.find_element(By.NAME, "seed").send_keys("5")
    prompt.send_keys(Keys.CONTROL + Keys.ENTER)
    wait_for(lambda: browser.find_elements(By.LINK_TEXT, "Open"), "the job, beside the form")[0].click()
    wait_for(lambda: "/jobs/" in browser.current_url, "the job's page")
    wait_for(lambda: seen(browser, "[data-part=badge]") == "done", "the page to show that it is done, by itself")
    shown = wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, "figure img"), "the picture")[0]
    assert browser.execute_script("return arguments[0].naturalWidth", shown) == 128
    place = wait_state(running.spool, browser.current_url.rsplit("/", 1)[1], "done")
    drawn = look(picture(place.path / "0.png"))
    assert (drawn.colour, drawn.shape, drawn.background) == ("red", "circle", "blue")
    again = browser.find_element(By.LINK_TEXT, "Reuse everything").get_attribute("href")
    assert again and again.endswith(f"/?from={place.id}&image=0&as=same")
    assert console(browser) == []


def test_see_the_place_in_the_queue_then_progress_then_cancel(browser: Chrome, house: tuple[Spooler, str]) -> None:
    running, address = house
    drop(running.spool, "before.json", LONG)
    wait_running(running.spool, "before")
    drop(running.spool, "between.json", LONG)
    wait_for(lambda: running.spool.find("between"), "the second job")
    browser.get(f"{address}/?steps=150&count=9")
    browser.find_element(By.NAME, "prompt").send_keys("a small yellow star on a black background")
    browser.find_element(By.CSS_SELECTOR, "button.main").click()
    wait_for(lambda: browser.find_elements(By.LINK_TEXT, "Open"), "the job, beside the form")[0].click()
    wait_for(lambda: seen(browser, "[data-part=doing]") == "Number 2 in line", "the position")
    mine = browser.current_url

    browser.get(f"{address}/queue")
    wait_for(lambda: len(browser.find_elements(By.CSS_SELECTOR, "[data-job]")) == 3, "one running and two waiting")
    running.spool.cancel("between")
    wait_for(lambda: len(browser.find_elements(By.CSS_SELECTOR, "[data-job]")) == 2, "the queue to follow")
    browser.get(mine)
    wait_for(lambda: seen(browser, "[data-part=doing]") == "Next in line", "the position to move up")
    running.spool.cancel("before")
    wait_for(lambda: "step" in seen(browser, "[data-part=doing]"), "the progress, by itself")
    wait_for(lambda: browser.execute_script("return document.querySelector('progress').value > 0"), "the bar")
    browser.find_element(By.XPATH, "//button[.='Cancel']").click()
    wait_for(lambda: seen(browser, "[data-part=badge]") == "cancelled", "the page to show that it is cancelled")
    assert seen(browser, ".reason") == "Cancelled while it ran."
    assert console(browser) == []


def test_the_whole_way_without_javascript(no_script_browser: Chrome, house: tuple[Spooler, str]) -> None:
    browser, (_, address) = no_script_browser, house
    browser.get(address)
    browser.find_element(By.NAME, "steps").send_keys("0")
    browser.find_element(By.NAME, "prompt").send_keys("a white ring on a purple background")
    browser.find_element(By.CSS_SELECTOR, "button.main").click()
    mistake = wait_for(lambda: browser.find_elements(By.CLASS_NAME, "mistake"), "the form to come back with its mistake")[0]
    assert mistake.text == "“Steps” must be greater than or equal to 1, but is 0."
    steps = browser.find_element(By.NAME, "steps")
    steps.clear()
    steps.send_keys("20")
    browser.find_element(By.CSS_SELECTOR, "button.main").click()
    wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, ".badge.done"), "the page to refresh itself until it is done")
    wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, "figure img"), "the picture")


def test_every_page_fits_a_desktop_and_a_phone(browser: Chrome, house: tuple[Spooler, str], tmp_path: Path) -> None:
    running, address = house
    for number, prompt in enumerate(
        ("a large red ring on a white background", "a blue star on a yellow background", "x" * 5000)
    ):
        drop(running.spool, f"shown{number}.json", {"prompt": prompt, "count": number + 1, "seed": number, "steps": 4})
    drop(running.spool, "a file with a very long name that is no job at all and goes on and on.json", b"[]")
    for number in range(3):
        wait_state(running.spool, f"shown{number}", "done")
    wait_for(running.spool.rejected, "the bad file to be set aside")
    for width in ("desktop", "phone"):
        if width == "phone":
            phone(browser)
        for name in ("", "queue", "gallery", "failed", "jobs/shown1", "jobs/shown2", "nowhere"):
            browser.get(f"{address}/{name}")
            page, window = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
            assert page <= window, f"{name} scrolls sideways on a {width}"
            taken = screenshot(browser, tmp_path / f"{width}-{name.replace('/', '-') or 'create'}.png", whole=False)
            assert taken.stat().st_size > 1000


def test_log_in_make_a_job_and_log_out(browser: Chrome, tmp_path: Path) -> None:
    """Of a page that asks for a key: in, as oneself, and out, after which going back shows nothing."""
    (tmp_path / "keys").write_text("ann owner a-secret-0123456789\n")
    (tmp_path / "keys").chmod(0o600)
    app = create_app(Settings(spool=tmp_path / "spool", cache=tmp_path / "cache", keys=tmp_path / "keys"))
    with served(app) as address:
        browser.get(f"{address}/queue")
        assert browser.current_url == f"{address}/login?next=%2Fqueue"
        # A page for strangers asks for nothing that they may not have: each answer would lead to the login, for ever.
        assert browser.execute_script("return document.body.dataset.live ?? null") is None and seen(browser, ".tabs") == ""
        for secret in ("wrong", "a-secret-0123456789"):
            name = browser.find_element(By.NAME, "name")
            name.clear()
            name.send_keys("ann")
            browser.find_element(By.NAME, "key").send_keys(secret + Keys.ENTER)
            if secret == "wrong":  # noqa: S105
                wait_for(lambda: "do not go together" in seen(browser, "[role=alert]"), "the page to say that it is wrong")
                console(browser)  # the browser tells of the 403
                screenshot(browser, tmp_path / "login.png")
        wait_for(lambda: browser.current_url == f"{address}/queue", "the page that was asked for")
        assert seen(browser, ".signed span") == "Signed in as ann."
        browser.get(f"{address}/")
        browser.find_element(By.NAME, "prompt").send_keys("a ring")
        browser.find_element(By.CSS_SELECTOR, "button.main").click()
        spool = Spool(tmp_path / "spool")
        (job,) = wait_for(lambda: spool.places("pending"), "the job")
        assert spool.read_job(job).owner == "ann"
        mine = f"{address}/jobs/{job.id}"
        browser.get(mine)
        phone(browser)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        browser.find_element(By.CSS_SELECTOR, ".prefs summary").click()
        browser.find_element(By.CSS_SELECTOR, ".prefs .signed button").click()
        wait_for(lambda: browser.current_url == f"{address}/login", "the login")
        browser.back()
        wait_for(lambda: browser.current_url.startswith(f"{address}/login?next="), "the login in the place of the job's page")
        browser.get(mine)
        assert "/login" in browser.current_url and console(browser) == []
