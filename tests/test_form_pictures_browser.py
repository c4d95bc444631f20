"""Pictures in the form in a real browser: dropped, pasted, taken from a finished job, and masks that are painted on them."""

from __future__ import annotations

from pathlib import Path

from browser import console, phone
from formbrowser import (
    RED,
    carry,
    choose,
    fill,
    generate,
    house,
    in_view,
    is_ready,
    labelled,
    one,
    page,
    pictured,
    png,
    sent,
    toast,
    value,
)
from house import Spooler, wait_for
from PIL import Image
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

__all__ = ["house", "page"]


def test_a_png_dropped_anywhere_gives_its_settings(page: Chrome) -> None:
    fill(page, prompt="before")
    text = "a cat\nNegative prompt: dog\nSteps: 11, Sampler: Euler a, CFG scale: 6, Seed: 77, Size: 256x192, Model: nowhere"
    carry(page, "drop", "main", png(parameters=text))
    wait_for(lambda: "Settings taken from A1111" in toast(page), "the page to say whose settings they are")
    taken = {name: value(page, name) for name in ("prompt", "negative_prompt", "steps", "sampler", "seed", "width", "height")}
    assert list(taken.values()) == ["a cat", "dog", "11", "Euler a", "77", "256", "192"]
    assert "model nowhere" in toast(page) and value(page, "model") == "demo"
    page.find_element(By.XPATH, "//*[@data-part='toast']//button[.='Undo']").click()
    assert value(page, "prompt") == "before" and value(page, "steps") == ""
    carry(page, "drop", "main", png())
    wait_for(lambda: "has no text at all" in toast(page), "the page to say that it tells nothing")
    labelled(page, "Start from this picture").click()
    pictured(page, "image")
    assert [entry for entry in console(page) if "400" not in entry] == []


def test_a_picture_from_the_clipboard_is_started_from(page: Chrome, house: tuple[Spooler, str]) -> None:
    fill(page, prompt=RED, steps=3)
    carry(page, "paste", "#prompt", png(color="green"))
    pictured(page, "image")
    job, folder = sent(page, house[0].spool, lambda: generate(page))
    assert job.kind == "img2img" and (folder / "inputs" / "image.png").read_bytes() == png(color="green")
    one(page, "drop-picture").click()
    assert page.execute_script("return document.querySelector('#image').files.length") == 0


def painted(folder: Path) -> Image.Image:
    with Image.open(folder / "inputs" / "mask.png") as mask:
        return mask.convert("L")


def easel(page: Chrome, address: str) -> WebElement:
    choose(page, "kind", "inpaint")
    carry(page, "drop", '[data-slot="image"] .drop', png())
    pictured(page, "image")
    fill(page, prompt=RED, steps=3)
    canvas = wait_for(
        lambda: next((e for e in page.find_elements(By.CSS_SELECTOR, "canvas") if e.is_displayed()), None), "the easel"
    )
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    return canvas


def test_a_mask_is_painted_with_the_mouse(page: Chrome, house: tuple[Spooler, str]) -> None:
    canvas = easel(page, house[1])
    stroke = ActionChains(page, duration=20).move_to_element_with_offset(canvas, -60, -60).click_and_hold()
    stroke.move_by_offset(60, 0).move_by_offset(60, 0).release().perform()
    job, folder = sent(page, house[0].spool, lambda: generate(page))
    mask = painted(folder)
    assert job.kind == "inpaint" and mask.size == (128, 128)
    assert mask.getpixel((64, 100)) == 0, "what was not painted stays"
    white = sum(mask.histogram()[200:])
    assert 50 < white < 128 * 128 / 3

    one(page, "undo").click()
    generate(page)
    wait_for(lambda: page.find_elements(By.ID, "mask-mistake"), "the page to ask for a mask")
    ActionChains(page).move_to_element(in_view(page, canvas)).click().perform()
    one(page, "invert").click()
    _, folder = sent(page, house[0].spool, lambda: generate(page))
    assert painted(folder).getpixel((64, 64)) == 0 and painted(folder).getpixel((5, 5)) == 255
    one(page, "eraser").click()
    assert one(page, "eraser").get_attribute("aria-pressed") == "true"
    one(page, "clear").click()
    assert not one(page, "clear").is_enabled()
    assert [entry for entry in console(page) if "422" not in entry] == []


def test_a_mask_is_painted_with_a_finger_and_with_the_keyboard(page: Chrome, house: tuple[Spooler, str]) -> None:
    phone(page)
    canvas = easel(page, house[1])
    box = page.execute_script(
        "const b = arguments[0].getBoundingClientRect(); return [b.left, b.top, b.width, b.height]", canvas
    )

    def touch(kind: str, *points: tuple[float, float]) -> None:
        page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    touch("touchStart", (box[0] + box[2] / 2, box[1] + box[3] / 4))
    touch("touchMove", (box[0] + box[2] / 2, box[1] + box[3] / 2))
    touch("touchEnd")
    _, folder = sent(page, house[0].spool, lambda: generate(page))
    assert painted(folder).getpixel((64, 48)) == 255 and painted(folder).getpixel((64, 120)) == 0
    one(page, "clear").click()
    canvas.send_keys(Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.SPACE, Keys.ARROW_DOWN, Keys.SPACE, Keys.CONTROL + "z")
    _, folder = sent(page, house[0].spool, lambda: generate(page))
    assert 20 < sum(painted(folder).histogram()[200:]) < 128 * 16


def test_a_finished_picture_is_inpainted_and_its_mask_comes_along(page: Chrome, house: tuple[Spooler, str]) -> None:
    canvas = easel(page, house[1])
    ActionChains(page).move_to_element(canvas).click().perform()
    _, folder = sent(page, house[0].spool, lambda: generate(page))
    page.get(f"{house[1]}/?from={folder.name}&image=0&as=same")
    is_ready(page)
    pictured(page, "image")
    pictured(page, "mask")
    again, second = sent(page, house[0].spool, lambda: generate(page))
    assert again.kind == "inpaint" and painted(second).getpixel((64, 64)) == 255 and painted(second).getpixel((5, 5)) == 0
    page.get(f"{house[1]}/?from={folder.name}&image=0&as=upscale")
    is_ready(page)
    pictured(page, "image")
    larger, third = sent(page, house[0].spool, lambda: generate(page))
    assert larger.kind == "upscale"
    with Image.open(third / "0.png") as picture:
        assert picture.size == (256, 256)
