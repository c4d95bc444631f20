"""The form in a real browser, over the real spooler and the demo model: what the tests of it share."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import console, served
from house import ROOT, Spooler, spooler, wait_for, wait_state
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from spooler.catalogue import Catalogue, ModelCard
from spooler.job import Job
from spooler.record import utc_now
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.status import SpoolerStatus
from webui.app import create_app

RED = "a large red circle on a blue background"
#: What another spooler offers, so that there is more to choose from than the demo model.
OTHERS = Catalogue(
    models=(
        ModelCard(name="big", family="sdxl", width=1024, height=768, steps=30, guidance_scale=5.5, vocabulary="clip"),
        ModelCard(name="flux", family="flux", width=1024, height=1024, steps=28, guidance_scale=3.5),
    ),
    controlnets=("canny", "depth"),
    vaes=("soft",),
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Spooler, str]]:
    """A warm spooler with a LoRA, and the address of a web app over its spool."""
    root = tmp_path_factory.mktemp("form")
    (root / "models" / "loras").mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "loras" / "green-ground.safetensors", root / "models" / "loras")
    spool = Spool(root / "spool")
    spool.create()
    (spool.claimed / "other").mkdir()
    now = utc_now()
    spool.write_status(SpoolerStatus(spooler="other", host="h", started=now, beat=now, state="ready", catalogue=OTHERS))
    app = create_app(Settings(spool=spool.root, cache=root / "cache"))
    with (
        served(app) as address,
        spooler(spool, f"--models={root / 'models'}", "--together=1") as running,  # one runs, another waits
    ):
        yield running, address


@pytest.fixture
def page(browser: Chrome, house: tuple[Spooler, str]) -> Iterator[Chrome]:
    """The form, open and ready. Nothing may have been complained of in the end."""
    browser.get(house[1])
    is_ready(browser)
    yield browser
    assert console(browser) == []


def is_ready(browser: Chrome) -> None:
    wait_for(lambda: browser.execute_script("return document.documentElement.classList.contains('js')"), "the script")


def field(browser: Chrome, name: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, f'.create [name="{name}"]')


def one(browser: Chrome, part: str) -> WebElement:
    return in_view(browser, displayed(browser, By.CSS_SELECTOR, f'[data-part="{part}"]'))


def labelled(browser: Chrome, words: str) -> WebElement:
    """The button, the label or the summary with those words."""
    return in_view(
        browser, displayed(browser, By.XPATH, f"//*[self::button or self::label or self::summary][contains(., '{words}')]")
    )


def displayed(browser: Chrome, by: str, path: str) -> WebElement:
    """The first such element that can be seen."""
    return wait_for(lambda: next((each for each in browser.find_elements(by, path) if each.is_displayed()), None), path)


def in_view(browser: Chrome, element: WebElement) -> WebElement:
    """The element, in the middle of the window: where it is needed only, a driver leaves it under the foot of the form."""
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    return element


def value(browser: Chrome, name: str) -> str:
    return str(browser.execute_script("return document.querySelector('.create').elements.namedItem(arguments[0])?.value", name))


def fill(browser: Chrome, **values: Any) -> None:
    for name, text in values.items():
        each = field(browser, name)
        each.clear()
        each.send_keys(str(text))


def choose(browser: Chrome, name: str, wanted: str) -> None:
    """A radio, a switch or an option, as a click on its label makes it."""
    script = """const form = document.querySelector('.create'), each = form.elements.namedItem(arguments[0]);
        if (each.tagName === 'SELECT') { each.value = arguments[1]; each.dispatchEvent(new Event('change', {bubbles: true})); }
        else (each instanceof RadioNodeList ? [...each].find(one => one.value === arguments[1]) : each).click();"""
    browser.execute_script(script, name, wanted)


def says(browser: Chrome) -> str:
    return str(browser.execute_script("return document.querySelector('[data-part=stage-says]').textContent"))


def toast(browser: Chrome) -> str:
    script = "const it = document.querySelector('[data-part=toast]'); return it.hidden ? '' : it.firstElementChild.textContent"
    return str(browser.execute_script(script))


def sent(browser: Chrome, spool: Spool, act: Any) -> tuple[Job, Path]:
    """The job that `act` submits, and its folder when it has ended."""
    before = ids(spool)
    act()
    job_id = wait_for(
        lambda: next(iter(ids(spool) - before), None), f"a job; the page says {says(browser)!r} {toast(browser)!r}"
    )
    place = wait_state(spool, job_id, "done", "failed", "cancelled")
    assert place.state == "done", spool.read_record(place)
    return spool.read_job(place), place.path


def ids(spool: Spool) -> set[str]:
    return {place.id for state in ("pending", "claimed", "done", "failed", "cancelled") for place in spool.walk(state)}  # type: ignore[arg-type]


def generate(browser: Chrome) -> None:
    """Send the form, when the page is done with what was sent before: until then it takes a click for a double one."""
    idle = "[data-part=generate]:not([aria-busy])"
    wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, idle), "the page to be done with the last job")
    browser.execute_script("document.querySelector('[data-part=generate]').click()")


def png(size: tuple[int, int] = (128, 128), color: str = "blue", **texts: str) -> bytes:
    info, out = PngInfo(), io.BytesIO()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    Image.new("RGB", size, color).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def carry(browser: Chrome, kind: str, target: str, data: bytes, mime: str = "image/png") -> None:
    """Drop (kind drop) or paste (kind paste) a file on an element."""
    script = """const [kind, css, text, mime] = arguments, target = document.querySelector(css);
        const bytes = Uint8Array.from(atob(text), each => each.charCodeAt(0)), carrier = new DataTransfer();
        carrier.items.add(new File([bytes], 'a picture.png', {type: mime}));
        const options = {bubbles: true, cancelable: true, dataTransfer: carrier, clipboardData: carrier};
        if (kind === 'paste') target.dispatchEvent(new ClipboardEvent('paste', options));
        else for (const name of ['dragenter', 'dragover', 'drop']) target.dispatchEvent(new DragEvent(name, options));"""
    browser.execute_script(script, kind, target, base64.b64encode(data).decode(), mime)


def pictured(browser: Chrome, slot: str) -> None:
    script = f"return document.querySelector('[data-slot=\"{slot}\"] img').naturalWidth > 0"
    wait_for(lambda: browser.execute_script(script), f"the picture of {slot} to be seen")
