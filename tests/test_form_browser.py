"""The form in a real browser, over the real spooler and the demo model: each thing that a person does with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from axe import violations
from browser import console, phone, screenshot
from formbrowser import (
    RED,
    carry,
    choose,
    field,
    fill,
    generate,
    house,
    ids,
    in_view,
    is_ready,
    labelled,
    one,
    page,
    pictured,
    png,
    says,
    sent,
    toast,
    value,
)
from house import Spooler, wait_for, wait_state
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

__all__ = ["house", "page"]

# -- generate --------------------------------------------------------------------------------------------------------------


def test_ctrl_enter_draws_a_picture_beside_the_form_and_its_seed_can_be_used_again(
    page: Chrome, house: tuple[Spooler, str]
) -> None:
    spool, address = house[0].spool, page.current_url
    prompt = page.switch_to.active_element
    assert prompt.get_attribute("name") == "prompt", "the cursor is where the typing begins"
    prompt.send_keys(RED)
    job, folder = sent(page, spool, lambda: prompt.send_keys(Keys.CONTROL + Keys.ENTER))
    assert job.prompt == RED and page.current_url == address
    shown = wait_for(lambda: page.find_elements(By.CSS_SELECTOR, "[data-part=stage-pictures] figure a img"), "the picture")[0]
    wait_for(lambda: says(page).startswith("Done in"), "the page to say that it is done")
    wait_for(lambda: page.execute_script("return arguments[0].naturalWidth", shown) == 128, "the picture to be there whole")
    one(page, "recycle").click()
    record = json.loads((folder / "record.json").read_bytes())
    assert value(page, "seed") == str(record["images"][0]["seed"])
    page.refresh()
    is_ready(page)
    wait_for(lambda: page.find_elements(By.CSS_SELECTOR, "[data-part=stage-pictures] img"), "the picture again after a reload")
    assert value(page, "prompt") == RED


def test_escape_cancels_the_last_job_and_only_that(page: Chrome, house: tuple[Spooler, str]) -> None:
    spool = house[0].spool
    fill(page, prompt="a green square", steps=150, count=9)
    before = ids(spool)
    generate(page)
    first = wait_for(lambda: next(iter(ids(spool) - before), None), "the first job")
    wait_for(lambda: "tep" in says(page), "its progress beside the form")
    wait_for(lambda: page.find_elements(By.CSS_SELECTOR, ".stage progress:not([hidden])"), "the bar")
    generate(page)
    second = wait_for(lambda: next(iter(ids(spool) - before - {first}), None), "the second job")
    wait_for(lambda: "more of yours" in says(page), "the second to be counted")
    field(page, "prompt").send_keys(Keys.ESCAPE)
    wait_state(spool, second, "cancelled")
    assert spool.find(first).state == "claimed"  # type: ignore[union-attr]
    field(page, "prompt").send_keys(Keys.ESCAPE)
    wait_state(spool, first, "cancelled")
    wait_for(lambda: says(page) == "Cancelled", "the page to say so")


def test_the_count_of_one_s_jobs_follows_while_the_first_stays_as_it_is(page: Chrome, house: tuple[Spooler, str]) -> None:
    spool = house[0].spool
    spool.pause()
    try:
        fill(page, prompt="a green square", steps=1)
        before = ids(spool)
        for number in range(1, 4):
            generate(page)
            wait_for(lambda number=number: len(ids(spool) - before) == number, "the job")
        wait_for(lambda: says(page) == "Next in line · and 2 more of yours", "all of them to be counted")
        field(page, "prompt").send_keys(Keys.ESCAPE)
        wait_for(lambda: says(page) == "Next in line · and 1 more of yours", "one less to be counted")
    finally:
        spool.resume()
    for job in ids(spool) - before:
        wait_for(lambda job=job: spool.find(job).state in ("done", "cancelled"), "the end of the job")  # type: ignore[union-attr]


def test_a_held_job_does_not_keep_the_next_ones_from_being_seen(page: Chrome, house: tuple[Spooler, str]) -> None:
    spool = house[0].spool
    fill(page, prompt="a green square", steps=1)
    before = ids(spool)
    page.execute_script("document.querySelector('[name=held]').click()")
    generate(page)
    held = wait_for(lambda: next((place.id for place in spool.walk("held")), None), "the held job")
    wait_for(lambda: says(page).startswith("Held"), "the page to say so")
    page.execute_script("document.querySelector('[name=held]').click()")
    for _ in range(2):
        _job, folder = sent(page, spool, lambda: generate(page))
        picture = f"[data-part=stage-pictures] a[href*='{folder.name}'] img"
        wait_for(lambda picture=picture: page.find_elements(By.CSS_SELECTOR, picture), "its picture")
        wait_for(lambda: says(page).startswith("Done in"), "its end, which stays to be seen")
    assert len(ids(spool) - before) == 2
    spool.release(held)
    wait_state(spool, held, "done")
    wait_for(lambda: page.find_elements(By.CSS_SELECTOR, f"[data-part=stage-pictures] a[href*='{held}'] img"), "its picture")


def test_a_mistake_is_shown_beside_its_field_gone_to_and_nothing_is_lost(page: Chrome, house: tuple[Spooler, str]) -> None:
    choose(page, "kind", "img2img")
    carry(page, "drop", '[data-slot="image"] .drop', png())
    fill(page, prompt=RED, steps=0, clip_skip=99) if field(page, "clip_skip").is_displayed() else fill(
        page, prompt=RED, steps=0
    )
    generate(page)
    told = wait_for(lambda: page.find_elements(By.CSS_SELECTOR, ".mistake"), "the mistake")
    assert told[0].text == "“Steps” must be greater than or equal to 1, but is 0."
    assert page.switch_to.active_element.get_attribute("name") == "steps"
    assert field(page, "steps").get_attribute("aria-describedby") == "steps-mistake"
    fill(page, steps=3)
    job, folder = sent(page, house[0].spool, lambda: generate(page))
    assert job.kind == "img2img" and (folder / "inputs" / "image.png").exists(), "the picture was kept"
    wait_for(lambda: not page.find_elements(By.CSS_SELECTOR, ".mistake"), "the mistake to go")
    assert [entry for entry in console(page) if "422" not in entry] == []


# -- fields ----------------------------------------------------------------------------------------------------------------


def test_defaults_shapes_and_what_cannot_be_done_follow_the_model(page: Chrome) -> None:
    assert field(page, "width").get_attribute("placeholder") == "128"
    choose(page, "model", "big")
    assert [field(page, name).get_attribute("placeholder") for name in ("width", "height", "steps")] == ["1024", "768", "30"]
    labelled(page, "16:9").click()
    assert (value(page, "width"), value(page, "height")) == ("1184", "664")
    one(page, "swap").click()
    assert (value(page, "width"), value(page, "height")) == ("664", "1184")
    assert labelled(page, "9:16").get_attribute("aria-pressed") == "true"
    choose(page, "model", "flux")
    assert not field(page, "negative_prompt").is_enabled() and not field(page, "sampler").is_enabled()
    choose(page, "model", "demo")
    assert field(page, "negative_prompt").is_enabled()
    choose(page, "sampler", "LCM")
    assert (
        page.execute_script("return [...document.querySelector('[name=scheduler]').options].filter(o => !o.disabled).length")
        == 2
    )


def test_dice_and_arrow_keys(page: Chrome) -> None:
    one(page, "dice").click()
    assert 0 <= int(value(page, "seed")) < 2**32
    fill(page, steps=20)
    field(page, "steps").send_keys(Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_DOWN)
    field(page, "width").send_keys(Keys.ARROW_UP)
    field(page, "guidance_scale").send_keys(Keys.ARROW_DOWN)
    assert (value(page, "steps"), value(page, "width"), value(page, "guidance_scale")) == ("21", "136", "1.5")


def test_tokens_are_counted_while_one_types(page: Chrome) -> None:
    fill(page, prompt=RED)
    counted = "return document.querySelector('#prompt-tokens').textContent"
    wait_for(lambda: page.execute_script(counted) == "8/75", "the count")
    choose(page, "model", "flux")
    wait_for(lambda: page.execute_script(counted) == "", "no count where none is known")


def test_weights_by_ctrl_and_the_arrow_keys(page: Chrome) -> None:
    fill(page, prompt="a red circle, <lora:ink:0.5>")
    prompt = field(page, "prompt")
    up, down = Keys.CONTROL + Keys.ARROW_UP, Keys.CONTROL + Keys.ARROW_DOWN
    page.execute_script("arguments[0].setSelectionRange(2, 12)", prompt)
    for keys, text in ((up, "(red circle:1.1)"), (up, "(red circle:1.2)"), (down, "(red circle:1.1)"), (down, "red circle")):
        prompt.send_keys(keys)
        assert value(page, "prompt") == f"a {text}, <lora:ink:0.5>"
    page.execute_script("arguments[0].setSelectionRange(4, 4)", prompt)
    prompt.send_keys(down)
    assert value(page, "prompt") == "a (red:0.9) circle, <lora:ink:0.5>"
    page.execute_script("arguments[0].setSelectionRange(26, 26)", prompt)
    prompt.send_keys(up)
    assert value(page, "prompt") == "a (red:0.9) circle, <lora:ink:0.55>"


def test_a_lora_and_a_sweep_are_drawn(page: Chrome, house: tuple[Spooler, str]) -> None:
    fill(page, prompt=RED, seed=5)
    in_view(page, page.find_element(By.CSS_SELECTOR, "[data-part=loras] summary")).click()
    choose(page, "loras.0.name", "green-ground")
    fill(page, **{"loras.0.weight": "0.8"})
    choose(page, "sweep.on", "on")
    fill(page, sweep="steps: 2, 4")
    job, folder = sent(page, house[0].spool, lambda: generate(page))
    assert job.loras[0].name == "green-ground" and job.loras[0].weight == 0.8 and job.sweep == {"steps": [2, 4]}
    assert (folder / "sheet.png").exists()
    wait_for(
        lambda: len(page.find_elements(By.CSS_SELECTOR, "[data-part=stage-pictures] img")) == 3, "the sheet and the pictures"
    )
    labelled(page, "Another LoRA").click()
    assert field(page, "loras.1.name").is_displayed()


def test_hires_fix_variation_and_enlarging_are_drawn(page: Chrome, house: tuple[Spooler, str]) -> None:
    fill(page, prompt=RED, steps=2)
    for switch in ("hires", "variation", "upscale"):
        choose(page, f"{switch}.on", "on")
    fill(page, **{"hires.scale": "1.5", "variation_strength": "0.2", "upscale.scale": "2"})
    job, folder = sent(page, house[0].spool, lambda: generate(page))
    assert job.hires and job.variation_strength == 0.2 and job.upscale
    with Image.open(folder / "0.png") as picture:
        assert picture.size == (384, 384)


# -- memory, links, styles -------------------------------------------------------------------------------------------------


def test_settings_survive_a_reload_until_they_are_reset(page: Chrome) -> None:
    fill(page, prompt="kept", steps=7)
    choose(page, "hires.on", "on")
    fill(page, **{"hires.scale": "3"})
    choose(page, "sampler", "Heun")
    in_view(page, page.find_element(By.CSS_SELECTOR, "[data-part=loras] summary")).click()
    choose(page, "loras.0.name", "green-ground")
    page.refresh()
    is_ready(page)
    kept = {name: value(page, name) for name in ("prompt", "steps", "hires.scale", "sampler", "loras.0.name")}
    assert kept == {"prompt": "kept", "steps": "7", "hires.scale": "3", "sampler": "Heun", "loras.0.name": "green-ground"}
    assert field(page, "hires.on").is_selected()
    labelled(page, "Reset").click()
    assert (value(page, "prompt"), value(page, "steps"), field(page, "hires.on").is_selected()) == ("", "", False)
    labelled(page, "Undo").click()
    assert value(page, "prompt") == "kept" and field(page, "hires.on").is_selected()


def test_a_link_carries_the_whole_form_and_gives_one_s_own_back(page: Chrome, house: tuple[Spooler, str]) -> None:
    page.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
    fill(page, prompt="a & b", steps=9, owner="ann") if field(page, "owner").is_displayed() else fill(
        page, prompt="a & b", steps=9
    )
    choose(page, "sweep.on", "on")
    fill(page, sweep="guidance_scale: 1, 2")
    labelled(page, "Copy link").click()
    wait_for(lambda: "clipboard" in toast(page), "the page to say so")
    link = page.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert link.startswith(f"{house[1]}/?") and "hires" not in link
    page.execute_script("localStorage.clear()")
    fill(page, prompt="mine")
    page.get(link)
    is_ready(page)
    assert (value(page, "prompt"), value(page, "steps"), value(page, "sweep")) == ("a & b", "9", "guidance_scale: 1, 2")
    labelled(page, "Take mine back").click()
    assert value(page, "prompt") == "mine"


def test_styles_are_saved_laid_over_and_removed(page: Chrome, house: tuple[Spooler, str]) -> None:
    fill(page, prompt="{prompt} on white", negative_prompt="blur")
    in_view(page, page.find_element(By.CSS_SELECTOR, "[data-part=styles] summary")).click()
    page.find_element(By.ID, "style-name").send_keys("on white", Keys.ENTER)
    chip = wait_for(lambda: page.find_elements(By.CSS_SELECTOR, ".chosen input"), "the style")[0]
    chip.click()
    fill(page, prompt="a red ring", negative_prompt="", steps=2)
    job, _ = sent(page, house[0].spool, lambda: generate(page))
    assert (job.prompt, job.negative_prompt) == ("a red ring on white", "blur")
    one(page, "apply-styles").click()
    wait_for(lambda: value(page, "prompt") == "a red ring on white", "the style to be written into the prompt")
    page.find_element(By.CSS_SELECTOR, ".chosen input").click()
    one(page, "remove-style").click()
    wait_for(lambda: not page.find_elements(By.CSS_SELECTOR, ".chosen input"), "the style to be gone")


# -- for everybody ---------------------------------------------------------------------------------------------------------


def test_a_question_mark_lists_the_shortcuts(page: Chrome) -> None:
    fill(page, prompt="what?")
    assert value(page, "prompt") == "what?", "in a text it is a letter"
    page.execute_script("document.activeElement.blur()")
    page.find_element(By.TAG_NAME, "body").send_keys("?")
    dialog = one(page, "shortcuts")
    assert "Ctrl Enter" in dialog.text and "Cancel your last job" in dialog.text
    dialog.find_element(By.XPATH, ".//button").click()
    assert not dialog.is_displayed()


@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_axe_finds_nothing_and_nothing_scrolls_sideways(
    browser: Chrome, house: tuple[Spooler, str], tmp_path: Path, width: str
) -> None:
    if width == "phone":
        phone(browser)
    queries = (
        "",
        "prompt=x&hires.scale=2&variation_strength=0.2&sweep=a&refiner.model=big&controls.0.model=canny&vae=soft&after=x",
    )
    for number, query in enumerate((*queries, "kind=inpaint", "kind=upscale", "model=flux")):
        browser.get(f"{house[1]}/?{query}")
        is_ready(browser)
        if query.startswith("prompt"):
            browser.execute_script("document.querySelectorAll('.create details').forEach(each => { each.open = true; })")
            generate(browser)
            wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, ".mistake"), "mistakes")
        if query == "kind=inpaint":
            carry(browser, "drop", '[data-slot="image"] .drop', png())
            pictured(browser, "image")
        assert violations(browser) == [], query
        inside, window = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert inside <= window, f"{query} scrolls sideways"
        assert screenshot(browser, tmp_path / f"{number}.png", whole=False).stat().st_size > 1000
    browser.execute_script("document.querySelector('[data-part=help]').click()")
    assert violations(browser) == []


def test_on_a_phone_what_is_touched_is_large_enough(page: Chrome) -> None:
    phone(page)
    page.refresh()
    is_ready(page)
    script = """return [...document.querySelectorAll('.create button, .create select, .create summary, .kinds label, .switch')]
        .filter(each => each.checkVisibility())
        .map(each => [each.textContent.trim().slice(0, 20), each.getBoundingClientRect().height])
        .filter(([, height]) => height < 44)"""
    assert page.execute_script(script) == []


def test_without_a_script_the_kinds_and_switches_show_what_belongs_to_them(
    no_script_browser: Chrome, house: tuple[Spooler, str]
) -> None:
    browser = no_script_browser
    browser.get(house[1])
    assert not field(browser, "image").is_displayed() and not field(browser, "hires.scale").is_displayed()
    labelled(browser, "Hires fix").click()
    assert field(browser, "hires.scale").is_displayed()
    labelled(browser, "Picture to picture").click()
    assert field(browser, "image").is_displayed() and not field(browser, "hires.scale").is_displayed()
    labelled(browser, "Enlarge").click()
    assert field(browser, "upscale.scale").is_displayed() and not field(browser, "prompt").is_displayed()
