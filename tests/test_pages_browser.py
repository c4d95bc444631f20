"""What a person does on the result, the gallery, the queue and the status, in a real browser; axe-core, light and dark, phone.

The pictures are real PNGs in a spool that the tests fill by themselves: no engine runs here, so nothing has to be waited for
that a slow machine could make late. tests/test_browser.py goes the whole way with the engine.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from axe import violations
from browser import console, phone, screenshot
from house import listing, wait_for
from PIL import Image, ImageDraw
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.interaction import POINTER_TOUCH
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from test_pages import finish
from waitress.server import create_server

from spooler.batches import Batches
from spooler.catalogue import Catalogue, ModelCard
from spooler.job import Job
from spooler.life import Life
from spooler.record import EngineFacts, Record, Timings, utc_now
from spooler.record import Image as Picture
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.status import Progress, SpoolerStatus
from webui.app import create_app

ENGINE = EngineFacts(
    model="demo", hash="ab" * 32, family="sd1", device="cpu", device_name="CPU", precision="float32", versions={},
    load_seconds=1,
)  # fmt: skip


class Desk:
    """A spool with a spooler that lives but draws nothing, and a web app over it."""

    def __init__(self, folder: Path):
        self.spool = Spool(folder / "spool")
        app = create_app(Settings(spool=folder / "spool", cache=folder / "cache"))
        self._server: Any = create_server(app, host="127.0.0.1", port=0, threads=8)
        self.address = f"http://127.0.0.1:{self._server.effective_port}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._life = Life.begin(self.spool, "me")
        self.tell()

    def tell(self, **told: Any) -> None:
        """Have the spooler say how it is: ready, unless told otherwise."""
        card = ModelCard(name="demo", family="sd1", width=128, height=128, steps=20, guidance_scale=3)
        now = utc_now()
        fields = {"state": "ready", "speeds": {"demo": 30.0}, "engine": ENGINE, **told}
        catalogue = Catalogue(models=(card,), default="demo")
        self.spool.write_status(SpoolerStatus(spooler="me", host="h", started=now, beat=now, catalogue=catalogue, **fields))

    def _run(self) -> None:
        try:
            self._server.run()
        except OSError:  # its sockets were closed under it, which is how it is ended
            return

    def close(self) -> None:
        self._life.end()
        self._server.close()

    def submit(self, name: str, **fields: Any) -> str:
        return self.spool.submit(json.dumps({"prompt": f"a {name}", **fields}).encode(), name)

    def done(self, name: str, count: int = 1, **fields: Any) -> None:
        self.submit(name, count=count, **fields)
        place = self.spool.claim(f"{name}.json", "me")
        assert place
        job = self.spool.read_job(place).model_copy(update={"seed": 7, "steps": 20, "width": 128, "height": 128})
        record = Record(id=name, queued=utc_now())
        self.spool.prepare(place, record)
        for number in range(count):
            image = Image.new("RGB", (128, 128), ("#204060", "#802020", "#206020", "#806010")[number % 4])
            ImageDraw.Draw(image).ellipse((20, 20, 108, 108), fill=("#ffd040", "#f0f0f0", "#a0c0ff", "#101010")[number % 4])
            image.save(place.path / f"{number}.png")
        pictures = tuple(Picture(file=f"{n}.png", index=n, seed=7 + n, width=128, height=128) for n in range(count))
        record = record.model_copy(update={"parameters": job, "started": utc_now()})
        assert self.spool.publish(place, record.finish(pictures, Timings(queue=1, denoise=2)), "done")

    def batch(self, name: str) -> None:
        Batches(self.spool).submit([Job(prompt="a ring"), Job(prompt="a star")], name, "ann")

    def end(self, place: Any) -> None:
        """Cancel a running job, as its spooler does."""
        record = self.spool.read_record(place) or Record(id=place.id, queued=utc_now())
        assert self.spool.publish(place, record.fail("cancelled", "Cancelled while it ran."), "cancelled")

    def running(self, name: str) -> Any:
        self.submit(name, count=2)
        place = self.spool.claim(f"{name}.json", "me")
        assert place
        self.spool.write_progress(place, Progress(phase="denoise", count=2, step=4, steps=20))
        return place


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with closing(Desk(tmp_path)) as made:
        yield made


def one(browser: Chrome, css: str) -> WebElement:
    found = wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, css), css)
    return found[0]


def seen(browser: Chrome, css: str) -> str:
    return str(browser.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", css)).strip()


def focused(browser: Chrome) -> str:
    return str(
        browser.execute_script("return document.activeElement.closest('figure')?.id ?? document.activeElement.textContent")
    )


def order(browser: Chrome) -> list[str]:
    script = "return [...document.querySelectorAll('[data-part=waiting] > [data-job]')].map(each => each.dataset.job)"
    return list(browser.execute_script(script))


# -- the result ------------------------------------------------------------------------------------------------------------


def test_the_pictures_alone_by_keyboard(browser: Chrome, desk: Desk) -> None:
    desk.done("four", count=4)
    browser.get(f"{desk.address}/jobs/four")
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.ARROW_RIGHT)
    assert focused(browser) == "picture-0"
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT, Keys.ENTER).perform()
    wait_for(lambda: seen(browser, "[data-part=caption]") == "2 / 4 · seed 8", "the second picture")
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT).perform()
    assert seen(browser, "[data-part=caption]") == "1 / 4 · seed 7", "round the end"
    ActionChains(browser).send_keys("z").perform()
    assert one(browser, "[data-part=zoom]").get_attribute("aria-pressed") == "true"
    ActionChains(browser).send_keys("-", Keys.ESCAPE).perform()
    wait_for(lambda: not browser.execute_script("return document.querySelector('dialog').open"), "the box to close")
    wait_for(lambda: focused(browser) == "picture-0", "the focus to be where it was left")  # it moves after the box has closed
    assert console(browser) == []


def test_what_one_does_with_a_picture(browser: Chrome, desk: Desk) -> None:
    desk.done("cat", count=2)
    desk.done("dog")
    browser.get(f"{desk.address}/jobs/cat")
    links = {each.get_attribute("href") for each in browser.find_elements(By.CSS_SELECTOR, "#picture-1 a")}
    wanted = {f"{desk.address}/?from=cat&image=1&as={way}" for way in ("seed", "same", "vary", "img2img", "inpaint", "upscale")}
    assert wanted <= links and any("/compare?" in (link or "") for link in links)
    one(browser, "[data-copy]").click()
    wait_for(lambda: seen(browser, "[data-part=said]") == "Copied", "the word that it was copied")
    browser.find_element(By.XPATH, "//button[contains(., 'Star')]").click()
    wait_for(lambda: (desk.spool.root / "done" / "cat" / "starred").exists(), "the star")
    browser.get(f"{desk.address}/jobs/dog")
    one(browser, ".danger summary").click()
    one(browser, ".danger button").click()
    wait_for(lambda: browser.current_url.endswith("/gallery") and desk.spool.find("dog") is None, "the job to be gone")
    assert console(browser) == []


def test_two_pictures_are_compared_by_slider_pointer_and_keyboard(browser: Chrome, desk: Desk) -> None:
    desk.done("two", count=2)
    browser.get(f"{desk.address}/compare?a=two/0&b=two/1")
    at = "return document.querySelector('[data-part=layers]').style.getPropertyValue('--at')"
    assert browser.execute_script(at) == "50%"
    one(browser, "[data-part=slider]").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert browser.execute_script(at) == "52%"
    layers = one(browser, "[data-part=layers]")
    ActionChains(browser).move_to_element(layers).click_and_hold().move_by_offset(
        -layers.size["width"] // 4, 0
    ).release().perform()
    assert 20 <= int(browser.execute_script(at).rstrip("%")) <= 30
    assert console(browser) == []


def test_a_page_that_is_opened_again_in_mid_job_shows_it_all_and_follows_to_the_end(browser: Chrome, desk: Desk) -> None:
    place = desk.running("long")
    for _ in range(2):  # the second time as by a browser that was closed
        browser.get(f"{desk.address}/jobs/long")
        wait_for(lambda: seen(browser, "[data-part=doing]") == "Picture 1 of 2, step 4 of 20", "the progress")
        browser.get("about:blank")
    browser.get(f"{desk.address}/jobs/long")
    Image.new("RGB", (128, 128), "red").save(place.path / "0.png")
    first = Picture(file="0.png", seed=1, width=128, height=128)
    desk.spool.write_progress(place, Progress(phase="denoise", image=1, count=2, step=9, steps=20, images=(first,)))
    wait_for(lambda: browser.find_elements(By.ID, "picture-0"), "the first picture")
    wait_for(lambda: seen(browser, "[data-part=doing]") == "Picture 2 of 2, step 9 of 20", "the second one's progress")
    record = Record(id="long", queued=utc_now()).finish((first,), Timings())
    assert desk.spool.publish(place, record, "done")
    wait_for(lambda: seen(browser, "[data-part=badge]") == "done", "the end, by itself")
    assert console(browser) == []


# -- the gallery -----------------------------------------------------------------------------------------------------------


def test_the_gallery_has_no_end_and_its_selection_is_made_by_keyboard(browser: Chrome, desk: Desk) -> None:
    for number in range(60):
        desk.done(f"job{number:02}")
    browser.get(f"{desk.address}/gallery")
    count = "return document.querySelectorAll('[data-part=thumbs] > li').length"
    wait_for(lambda: browser.execute_script("scrollTo(0, 1e6);" + count) == 60, "all of them")
    assert not browser.find_elements(By.CSS_SELECTOR, "[rel=next]")
    browser.execute_script("scrollTo(0, 0)")
    boxes = browser.find_elements(By.NAME, "job")
    assert not one(browser, ".bulk").is_displayed()
    browser.execute_script("arguments[0].focus()", boxes[0])
    ActionChains(browser).send_keys(Keys.SPACE).perform()
    assert one(browser, ".bulk").is_displayed() and seen(browser, "[data-part=picked]") == "1 selected"
    ActionChains(browser).key_down(Keys.SHIFT).click(boxes[4]).key_up(Keys.SHIFT).perform()
    assert seen(browser, "[data-part=picked]") == "5 selected"
    one(browser, ".bulk [value=star]").click()
    wait_for(lambda: len(list(desk.spool.root.glob("done/*/starred"))) == 5, "five stars")
    browser.get(f"{desk.address}/gallery?starred=1")
    wait_for(lambda: browser.execute_script(count) == 5, "the starred ones")
    broken = "return [...document.images].filter(each => each.complete && !each.naturalWidth).length"
    assert browser.execute_script(broken) == 0
    assert console(browser) == []


def test_deleting_many_without_javascript_asks_first(no_script_browser: Chrome, desk: Desk) -> None:
    browser = no_script_browser
    for name in ("cat", "dog", "cow"):
        desk.done(name)
    browser.get(f"{desk.address}/gallery")
    for each in browser.find_elements(By.NAME, "job")[:2]:
        ActionChains(browser).move_to_element(each).click(each).perform()
    one(browser, ".bulk [value=delete]").click()
    wait_for(lambda: "Delete 2 jobs for good?" in seen(browser, "h1"), "the question")
    assert len(list(desk.spool.root.glob("done/*/job.json"))) == 3
    one(browser, "[name=sure]").click()
    wait_for(lambda: len(list(desk.spool.root.glob("done/*/job.json"))) == 1, "two to be gone")


# -- the queue -------------------------------------------------------------------------------------------------------------


def test_the_queue_is_moved_by_keyboard_and_by_drag(browser: Chrome, desk: Desk) -> None:
    for name in "abcd":
        desk.submit(name)
    browser.get(f"{desk.address}/queue")
    assert order(browser) == ["a", "b", "c", "d"]
    ActionChains(browser).move_to_element(one(browser, "[data-job=d] a")).perform()
    browser.execute_script("arguments[0].focus()", one(browser, "[data-job=d] a"))
    ActionChains(browser).key_down(Keys.ALT).send_keys(Keys.ARROW_UP).key_up(Keys.ALT).perform()
    wait_for(lambda: order(browser) == ["a", "b", "d", "c"], "d to be before c")
    wait_for(lambda: seen(browser, "[data-part=said]") == "It is number 3 now.", "the word to those who hear the page")
    assert browser.execute_script("return document.activeElement.closest('[data-job]')?.dataset.job") == "d"
    grip, target = one(browser, "[data-job=c] [data-part=grip]"), one(browser, "[data-job=a]")
    chain = ActionChains(browser, duration=50).move_to_element(grip).click_and_hold()
    for _ in range(8):
        chain.move_by_offset(0, -(grip.rect["y"] - target.rect["y"] + 40) // 8)
    chain.release().perform()
    wait_for(lambda: order(browser) == ["c", "a", "b", "d"], "c to be the first")
    wait_for(lambda: seen(browser, "[data-part=said]") == "It is number 1 now.", "the server to know it")
    browser.refresh()
    assert order(browser) == ["c", "a", "b", "d"], "which is the server's truth"
    assert console(browser) == []


def test_a_quick_drag_passes_many_rows_at_once(browser: Chrome, desk: Desk) -> None:
    for name in "abcdef":
        desk.submit(name)
    browser.get(f"{desk.address}/queue")
    grip, target = one(browser, "[data-job=f] [data-part=grip]"), one(browser, "[data-job=b]")
    chain = ActionChains(browser, duration=0).move_to_element(grip).click_and_hold()
    chain.move_by_offset(0, round(target.rect["y"] - grip.rect["y"])).release().perform()
    wait_for(lambda: order(browser) == ["a", "f", "b", "c", "d", "e"], "f to be the second")
    wait_for(lambda: seen(browser, "[data-part=said]") == "It is number 2 now.", "the server to know it")


def test_a_drag_to_the_edge_scrolls_the_queue(browser: Chrome, desk: Desk) -> None:
    names = [f"job{number:02}" for number in range(30)]
    for name in names:
        desk.submit(name)
    browser.get(f"{desk.address}/queue")
    height = browser.execute_script("return innerHeight")
    assert one(browser, "[data-job=job29]").rect["y"] > height, "the last one is out of sight"
    grip = one(browser, "[data-job=job00] [data-part=grip]").rect
    pointer = ActionBuilder(browser, duration=0)
    left = round(grip["x"] + grip["width"] / 2)
    pointer.pointer_action.move_to_location(left, round(grip["y"] + grip["height"] / 2)).pointer_down()
    pointer.pointer_action.move_to_location(left, height - 10)
    pointer.perform()
    wait_for(lambda: order(browser) == [*names[1:], "job00"], "it to be the last")
    drop = ActionBuilder(browser, duration=0)
    drop.pointer_action.move_to_location(left, height // 2).pointer_up()
    drop.perform()
    wait_for(lambda: "It is number" in seen(browser, "[data-part=said]"), "the server to know it")
    assert 5 < order(browser).index("job00") < 29 and console(browser) == []


def test_the_queue_is_moved_by_a_finger_on_a_phone(browser: Chrome, desk: Desk) -> None:
    for name in "abcd":
        desk.submit(name)
    phone(browser)
    browser.get(f"{desk.address}/queue")
    grip, target = one(browser, "[data-job=d] [data-part=grip]"), one(browser, "[data-job=b]").rect
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", grip)
    at = "const {x, y, width, height} = arguments[0].getBoundingClientRect(); return [x + width / 2, y + height / 2]"
    x, y = map(round, browser.execute_script(at, grip))
    away = round(grip.rect["y"] - target["y"])
    finger = ActionBuilder(browser, PointerInput(POINTER_TOUCH, "finger"), duration=20)
    finger.pointer_action.move_to_location(x, y).pointer_down()
    for part in (0.25, 0.5, 0.75, 1.0):
        finger.pointer_action.move_to_location(x, y - round(part * away))
    finger.pointer_action.pointer_up()
    finger.perform()
    wait_for(lambda: order(browser) == ["a", "d", "b", "c"], "d to be the second")
    wait_for(lambda: seen(browser, "[data-part=said]") == "It is number 2 now.", "the server to know it")
    assert console(browser) == []


def test_the_queue_follows_by_itself_and_cancels_many(browser: Chrome, desk: Desk) -> None:
    desk.running("now")
    for name in "abc":
        desk.submit(name)
    browser.get(f"{desk.address}/queue")
    assert "step 4 of 20" in seen(browser, "[data-part=doing]") and "starts in about" in seen(browser, "[data-job=a]")
    desk.submit("later")
    wait_for(lambda: order(browser) == ["a", "b", "c", "later"], "the new one")
    for name in ("a", "c"):
        one(browser, f"[data-job={name}] input").click()
    one(browser, ".bulk [value=cancel]").click()
    wait_for(lambda: order(browser) == ["b", "later"], "the two to be gone")
    one(browser, "[data-fresh=title] button").click()
    wait_for(lambda: desk.spool.paused and "is paused" in seen(browser, ".banner"), "the pause")
    assert console(browser) == []


# -- for everybody ---------------------------------------------------------------------------------------------------------


def test_the_theme_is_switched_at_once_and_remembered(browser: Chrome, desk: Desk) -> None:
    browser.get(f"{desk.address}/queue")
    paper = "return getComputedStyle(document.documentElement).backgroundColor"
    light = browser.execute_script(paper)
    one(browser, ".prefs summary").click()
    browser.find_element(By.CSS_SELECTOR, ".prefs button[value=dark]").click()
    assert browser.execute_script(paper) != light
    wait_for(lambda: browser.get_cookie("theme"), "the cookie")
    browser.get(f"{desk.address}/gallery")
    assert browser.execute_script(paper) != light and console(browser) == []


@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_axe_finds_nothing_and_nothing_scrolls_sideways(browser: Chrome, desk: Desk, tmp_path: Path, width: str) -> None:
    if width == "phone":
        phone(browser)
    desk.done("cat", count=3, owner="ann")
    desk.done("dog", count=1)
    desk.submit("failed")
    finish(desk.spool, "failed", "failed")
    desk.running("running")
    for name in ("first", "second", "third"):
        desk.submit(name, owner="ann")
    desk.submit("later", not_before="2100-01-01T00:00:00Z")
    desk.submit("held")
    desk.spool.hold("held")
    Batches(desk.spool).submit([Job(prompt=f"a ring {number}") for number in range(60)], "many", "ann")
    finish(desk.spool, "many.0001")
    finish(desk.spool, "many.0002", "failed")
    (desk.spool.pending / "bad.json").write_bytes(b"[]")
    desk.spool.reject(desk.spool.pending / "bad.json", "It is no job.")
    pages = (
        "queue", "queue?of=mine", "gallery", "gallery?q=nothing&starred=1", "failed", "status", "jobs/cat", "jobs/dog",
        "jobs/failed", "jobs/running", "jobs/first", "jobs/held", "jobs/first/edit", "compare?a=cat/0&b=cat/1",
        "batches/many", "nowhere",
    )  # fmt: skip
    browser.get(f"{desk.address}/queue")
    browser.add_cookie({"name": "owner", "value": "ann"})
    found: list[str] = []
    for number, path in enumerate(pages):
        browser.get(f"{desk.address}/{path}")
        wait_for(lambda: browser.execute_script("return document.readyState") == "complete", "the page")
        browser.execute_script("document.querySelectorAll('details:not(.menu)').forEach(each => { each.open = true; })")
        if path == "gallery":
            browser.execute_script("document.querySelector('[name=job]').click()")
        found += [f"{path}: {each}" for each in violations(browser)]
        for direction in ("ltr", "rtl"):
            browser.execute_script("document.documentElement.dir = arguments[0]", direction)
            page, window = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
            if page > window:
                found.append(f"{path} scrolls sideways, {direction}: {page} > {window}")
        assert screenshot(browser, tmp_path / f"{number}.png", whole=False).stat().st_size > 1000
    for opener in (".prefs summary", ".tools summary", ".danger summary", "a[data-zoom]"):
        browser.get(f"{desk.address}/jobs/cat")
        one(browser, opener).click()
        found += [f"{opener}: {each}" for each in violations(browser)]
    browser.get(f"{desk.address}/gallery")
    browser.execute_script(
        "document.querySelector('[name=job]').click(); document.querySelector('.bulk [value=delete]').click()"
    )
    wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, ".sure"), "the question")
    found += [f"sure: {each}" for each in violations(browser)]
    assert not found, "\n".join(found)


def test_looking_changes_nothing(browser: Chrome, desk: Desk) -> None:
    desk.done("cat")
    desk.submit("dog")
    before = listing(desk.spool.root)
    for path in ("queue", "gallery", "status", "jobs/cat", "jobs/dog", "jobs/dog/edit", "failed", "compare?a=cat/0&b=cat/0"):
        browser.get(f"{desk.address}/{path}")
    assert listing(desk.spool.root) == before
