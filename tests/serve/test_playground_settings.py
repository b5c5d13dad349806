"""The playground in chromium: what is set, and what is said of it while it is typed."""

from __future__ import annotations

import pytest
from playground_site import (
    ARMS,
    STEER,
    WORDS,
    column,
    ended,
    ran,
)
from servers import KEYS

expect = pytest.importorskip("playwright.sync_api", reason="pip install playwright").expect


def test_it_opens_with_the_formulas_of_the_run_file(opened) -> None:
    page = opened()
    expect(column(page, 1).get_by_label("a, exactly")).to_have_value("0.5")
    areas = page.locator(".setting .formula textarea")
    assert [areas.nth(i).input_value() for i in (0, 1)] == [ARMS, STEER]
    assert column(page).locator("select").input_value() == "arms"
    assert column(page).get_by_label("temperature").input_value() == "0.7"
    assert column(page).get_by_label("tokens").input_value() == "24"
    expect(column(page).get_by_label("a, exactly")).to_have_value("0.5")
    assert "wicked" in page.inner_text("#facts")
    assert not ran(page) and page.locator("#key").is_hidden()


def test_what_is_wrong_is_said_under_the_place_as_one_types(opened) -> None:
    page = opened()
    area = column(page).get_by_label("formula", exact=True)
    area.fill("base + 0.5*arm_hel\n + arm_harm")
    wrong, error = column(page).locator(".wrong"), column(page).locator(".error")
    wrong.wait_for()
    assert wrong.inner_text() == "arm_hel"
    assert "arm_hel is not declared" in error.inner_text()
    assert "did you mean arm_help?" in error.inner_text()
    assert area.get_attribute("aria-invalid") == "true"
    # The underline stands where the text area itself has these letters.
    shapes = area.evaluate(
        "area => { const style = getComputedStyle(area), pen = document.createElement('canvas')"
        ".getContext('2d'); pen.font = `${style.fontSize} ${style.fontFamily}`; "
        "return [area.getBoundingClientRect().x + "
        "parseFloat(style.paddingLeft) + pen.measureText('base + 0.5*').width, "
        "pen.measureText('arm_hel').width]; }"
    )
    box = wrong.bounding_box()
    assert [box["x"], box["width"]] == pytest.approx(shapes, abs=1)
    assert area.evaluate("a => a.scrollHeight - a.clientHeight") == 0
    area.press("End")
    area.fill("\N{GRINNING FACE}base")
    expect(wrong).to_have_text("\N{GRINNING FACE}")
    area.fill("base +")
    expect(wrong).to_have_text("+")
    expect(error).to_contain_text("nothing on its right")
    area.fill("base | rerank(reward_help, k=2.5)")
    expect(wrong).to_have_text("2.5")
    area.fill("base")
    expect(error).to_be_empty()
    expect(wrong).to_have_count(0)
    assert area.get_attribute("aria-invalid") is None
    assert not ran(page)


def test_a_name_can_be_made_a_parameter(opened) -> None:
    page = opened()
    area = column(page).get_by_label("formula", exact=True)
    area.fill("base + b*arm_help")
    column(page).get_by_role("button", name="make b a parameter").click()
    slider = column(page).get_by_role("slider", name="b")
    slider.wait_for()
    assert slider.input_value() == "0.5" and column(page).locator(".wrong").count() == 0
    page.get_by_role("button", name="remove this setting").nth(1).click()
    page.get_by_label("prompt", exact=True).fill(WORDS)
    column(page).get_by_label("b, exactly").fill("0.25")
    page.click("#run")
    ended(page)
    assert ran(page)[-1]["params"] == {"b": 0.25}
    assert "24 tokens" in column(page).locator(".meta").inner_text()
    column(page).get_by_role("button", name="b is no parameter").click()
    column(page).locator(".wrong").wait_for()


def test_sliders_have_the_range_of_what_they_set(opened) -> None:
    page = opened()
    column(page).get_by_label("formula", exact=True).fill("base + a*arm_help | top_p(a)")
    slider = column(page).get_by_role("slider", name="a")
    expect(slider).to_have_attribute("min", "0.01")
    expect(slider).to_have_attribute("max", "1")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert column(page).get_by_label("a, exactly").input_value() == "0.51"
    column(page).get_by_label("a, exactly").fill("1.5")
    expect(column(page).locator(".error")).to_contain_text("must be at most 1")
    expect(column(page).locator(".wrong")).to_have_text("a")
    box = slider.bounding_box()
    page.mouse.click(box["x"] + 2, box["y"] + box["height"] / 2)
    expect(column(page).locator(".wrong")).to_have_count(0)
    assert float(column(page).get_by_label("a, exactly").input_value()) < 0.05


def test_the_plan_and_its_cost(opened) -> None:
    page = opened()
    column(page, 1).get_by_text("The plan and its cost").click()
    plan = column(page, 1).locator(".plan")
    expect(plan).to_contain_text("rerank(k=10, w=1.5)")
    expect(plan).to_contain_text("per token   2 forwards")
    column(page, 1).get_by_label("formula", exact=True).fill("base")
    expect(plan).to_contain_text("per token   1 forward,")
    column(page, 1).get_by_label("formula", exact=True).fill("base +")
    expect(plan).to_have_text("the formula has a mistake")


def test_a_link_holds_it_all_and_starts_nothing(opened) -> None:
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    page.get_by_label("prompt", exact=True).fill("Caf\u00e9 \N{GRINNING FACE} </script>")
    column(page).get_by_label("formula", exact=True).fill("base + b*arm_help")
    column(page).get_by_role("button", name="make b a parameter").click()
    column(page).get_by_label("b, exactly").fill("0.125")
    column(page, 1).get_by_label("a, exactly").fill("0.75")
    column(page, 1).get_by_label("seed").fill("")
    column(page, 1).get_by_label("temperature").fill("0")
    page.get_by_role("button", name="Duplicate").nth(1).click()
    page.click("#share")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.input_value("#link") == page.url and "#" in link
    other = opened(link.partition("/#")[2] and f"#{link.partition('#')[2]}")
    expect(column(other, 2).get_by_label("a, exactly")).to_have_value("0.75")
    assert (
        other.get_by_label("prompt", exact=True).input_value()
        == "Caf\u00e9 \N{GRINNING FACE} </script>"
    )
    expect(column(other).get_by_label("b, exactly")).to_have_value("0.125")
    assert column(other).get_by_role("slider", name="b").input_value() in ("0.12", "0.13", "0.125")
    for number in (1, 2):
        expect(column(other, number).get_by_label("a, exactly")).to_have_value("0.75")
        assert column(other, number).get_by_label("seed").input_value() == ""
        assert column(other, number).get_by_label("temperature").input_value() == "0"
        assert column(other, number).locator("select").input_value() == "steer"
    assert other.url == link and not ran(other)
    assert all("#" not in one.url and "Caf" not in one.url for one in other.asked)
    other.evaluate("location.hash = 'e30'")
    other.locator("#notice").wait_for()
    assert "cannot be read: it is not of this page" in other.inner_text("#notice")
    other.evaluate("location.hash = '!!!'")
    expect(other.locator("#notice")).to_contain_text("it is damaged")
    assert column(other, 1).is_visible()


def test_a_key_is_asked_for_and_kept_out_of_the_link(opened, strict) -> None:
    page = opened(address=strict.url, refusals=2)
    page.locator("#key-text").wait_for()
    assert "wants an API key" in page.inner_text("#notice")
    assert column(page).count() == 0
    page.fill("#key-text", "another")
    with page.expect_response("**/playground/known"):
        page.keyboard.press("Enter")
    expect(page.locator("#key-text")).to_be_visible()
    page.fill("#key-text", KEYS[1])
    page.keyboard.press("Enter")
    column(page).wait_for()
    assert page.locator("#notice").is_hidden()
    # Without --allow-formulas there are the named ones, and nothing is typed.
    area = column(page).get_by_label("formula", exact=True)
    assert area.get_attribute("readonly") is not None
    assert "your own" not in column(page).locator("select").inner_text()
    column(page).locator("select").select_option("safe")
    assert area.input_value() == strict.server.run.named["safe"]
    page.get_by_label("prompt", exact=True).fill(WORDS)
    column(page).get_by_role("button", name="Run").click()
    ended(page)
    assert ran(page)[-1]["model"] == "safe"
    assert column(page).locator(".told").inner_text()
    page.click("#share")
    assert "secret" not in page.url and page.evaluate("Object.keys(localStorage).length") == 0
    page.reload()
    column(page).wait_for()
    assert page.get_by_label("prompt", exact=True).input_value() == WORDS
