"""What a page looks like on a phone of 390 pixels, where it can be told in numbers."""

from __future__ import annotations

from browser import phone
from house import wait_for
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from test_pages import finish
from test_pages_browser import Desk, desk, one

__all__ = ["desk"]


def test_a_seed_of_ten_digits_is_seen_whole(browser: Chrome, desk: Desk) -> None:
    phone(browser)
    browser.get(f"{desk.address}/?prompt=x&seed=4123456789&variation_seed=4123456789&variation_strength=0.5")
    for name in ("seed", "variation_seed"):
        field = one(browser, f"#{name}")
        wait_for(field.is_displayed, name)
        assert browser.execute_script("return arguments[0].scrollWidth <= arguments[0].clientWidth", field), name


def test_a_place_for_a_picture_has_words_of_ours_and_is_reached_by_keyboard(browser: Chrome, desk: Desk) -> None:
    phone(browser)
    browser.get(desk.address)
    browser.add_cookie({"name": "tongue", "value": "de"})
    browser.get(f"{desk.address}/?kind=img2img&prompt=x")
    button = wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, "[data-slot=image] label.button"), "the button")[0]
    assert button.is_displayed() and button.text == "Datei wählen"
    for _ in range(200):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        if browser.switch_to.active_element.get_attribute("id") == "image":
            break
    wide, focused, ring = browser.execute_script(
        """const input = document.querySelector('#image');
        return [input.offsetWidth, document.activeElement === input, getComputedStyle(arguments[0]).outlineStyle]""",
        button,
    )
    assert (wide, focused, ring) == (1, True, "solid"), "the browser's own words are out of sight, its focus is not"


def test_the_rows_of_a_batch_begin_below_each_other_and_its_menu_is_on_the_page(browser: Chrome, desk: Desk) -> None:
    phone(browser)
    desk.batch("two")
    finish(desk.spool, "two.0001", "failed")
    browser.get(f"{desk.address}/batches/two")
    begin = "return [...document.querySelectorAll('.row .what')].map(each => Math.round(each.getBoundingClientRect().left))"
    begins = browser.execute_script(begin)
    assert len(begins) == 2 and len(set(begins)) == 1, begins
    summary = one(browser, ".danger summary")
    assert summary.text == "Cancel the 1 that waits"
    summary.click()
    left, right = browser.execute_script(
        "const box = document.querySelector('.danger .sheet-menu').getBoundingClientRect(); return [box.left, box.right]"
    )
    assert left >= 0 and right <= 390


def test_a_dot_between_two_words_is_between_them_or_nowhere(browser: Chrome, desk: Desk) -> None:
    """Where a line begins, its dot lies outside of what the row shows."""
    phone(browser)
    desk.submit("cat", owner="somebody-with-a-long-name", priority=3, count=4, not_before="2100-01-01T00:00:00Z")
    browser.get(f"{desk.address}/queue")
    dots = browser.execute_script("""const meta = document.querySelector('[data-part=waiting] .meta');
        const edge = meta.getBoundingClientRect().left, style = (each, at) => getComputedStyle(each, at);
        return [...meta.children].map(each => [Math.round(each.getBoundingClientRect().left - edge),
          style(each, '::before').insetInlineStart, style(each, '::after').content])""")
    assert len(dots) >= 4 and any(at == 0 for at, _, _ in dots[1:]), "it needs several lines"
    shown = -0.4 * 16  # pixels before the row that are shown, for the ring of the focus
    for at, inset, after in dots[1:]:
        assert after == "none" and (at > 0 or float(inset.removesuffix("px")) + 4 < shown), (at, inset)


def test_fields_beside_each_other_stand_at_one_height_whatever_their_hints(browser: Chrome, desk: Desk) -> None:
    tops = """return [...document.querySelectorAll('.rest .grid input:not([type=checkbox]), .rest .grid select')]
        .filter(each => each.offsetParent).map(each => Math.round(each.getBoundingClientRect().bottom))"""
    for size in (None, phone):
        if size:
            size(browser)
        for tongue in ("en", "de"):
            browser.get(f"{desk.address}/")
            browser.add_cookie({"name": "tongue", "value": tongue})
            browser.refresh()
            browser.execute_script("document.querySelector('.rest').open = true")
            bottoms = browser.execute_script(tops)
            rows = len(set(bottoms))
            assert rows == (6 if size else 5), f"{tongue}: {len(bottoms)} fields end at {bottoms}"


def test_a_date_s_time_of_day_is_seen_on_a_phone(browser: Chrome, desk: Desk) -> None:
    phone(browser)
    browser.get(f"{desk.address}/")
    browser.execute_script("document.querySelector('.rest').open = true")
    wide, name = (one(browser, selector).rect["width"] for selector in ("#not_before", "#priority"))
    assert wide > 1.8 * name
