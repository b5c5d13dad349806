"""The playground in chromium, however it is met: by keys, on a phone, dark, still, and unsafe."""

from __future__ import annotations

import pytest
from playground_site import (
    HOSTILE,
    PHONE,
    WIDE,
    WORDS,
    column,
    ended,
)

expect = pytest.importorskip("playwright.sync_api", reason="pip install playwright").expect


def test_everything_can_be_done_by_keys(opened) -> None:
    page = opened()
    page.wait_for_selector(".setting")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the way past the head of the page
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "prompt"
    page.keyboard.type(WORDS)
    page.keyboard.press("Control+Enter")
    column(page).locator(".token").first.wait_for()
    ended(page)
    for _ in range(40):
        page.keyboard.press("Tab")
        if "token" in (page.evaluate("document.activeElement.className") or ""):
            break
    column(page).locator(".why table").wait_for()
    assert column(page).locator(".why h3").inner_text().startswith("Token 1:")
    assert "token" in page.evaluate("document.activeElement.className"), "the focus stays"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert column(page).locator(".why h3").inner_text().startswith("Token 3:")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    page.keyboard.press("End")
    assert column(page).locator(".why h3").inner_text().startswith("Token 24:")


def test_a_phone_sees_all_of_it_without_scrolling_sideways(opened) -> None:
    page = opened(viewport=PHONE, has_touch=True, is_mobile=True, color_scheme="dark")
    page.get_by_label("prompt", exact=True).fill(WORDS)
    assert page.evaluate(WIDE) == 0
    page.tap("#run")
    ended(page)
    token = column(page, 1).locator(".token").nth(4)
    token.scroll_into_view_if_needed()
    token.tap()
    column(page, 1).locator(".why table").wait_for()
    column(page, 1).locator("summary").tap()
    column(page).get_by_label("formula", exact=True).fill("base + " * 40 + "nothing")
    expect(column(page).locator(".wrong")).to_have_text("nothing")
    page.get_by_label("chat").check()
    page.tap("#share")
    assert page.evaluate(WIDE) == 0
    sizes = page.locator("button:visible, .sampling input:visible").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 28, "large enough for a finger"


def test_light_and_dark(opened) -> None:
    seen = []
    for scheme in ("light", "dark"):
        page = opened(color_scheme=scheme)
        page.wait_for_selector(".setting")
        for what in ("body", ".setting .behind"):
            look = page.locator(what).first.evaluate(
                "one => [getComputedStyle(document.body).backgroundColor, "
                "getComputedStyle(one).color]"
            )
            seen.append([sum(int(n) for n in one[4:-1].split(",")) for one in look])
    for paper, ink in seen[:2]:
        assert paper > 700 and ink < 120
    for paper, ink in seen[2:]:
        assert paper < 120 and ink > 600


def luminance(colour: str) -> float:
    """As WCAG has it, of ``rgb(…)``."""
    parts = [int(one) / 255 for one in colour[4:-1].split(",")]
    low = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * low[0] + 0.7152 * low[1] + 0.0722 * low[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_filled_in_and_read_stands_out(opened, scheme) -> None:
    page = opened(color_scheme=scheme)
    column(page).get_by_label("formula", exact=True).fill("base + a*'x' | top_k(3) + nobody")
    column(page).locator(".wrong").first.wait_for()
    pairs = page.evaluate(
        "() => { const paper = getComputedStyle(document.body).backgroundColor, found = [];"
        "const add = (all, what, least) => { for (const one of document.querySelectorAll(all))"
        " found.push([all, getComputedStyle(one)[what], paper, least]); };"
        "add('.editor, .setting input[type=number], .setting select', 'borderTopColor', 3);"
        "add('.behind span, .facts, .meta, label, h1, h2, .problem, .cure', 'color', 4.5);"
        "return found; }"
    )
    assert len(pairs) > 20
    for where, *colours, least in pairs:
        dark, light = sorted(map(luminance, colours))
        assert (light + 0.05) / (dark + 0.05) >= least, (where, colours)
    placeholder = page.locator("#prompt textarea").evaluate(
        "one => getComputedStyle(one, '::placeholder').opacity"
    )
    assert placeholder == "1"


def test_at_four_hundred_percent_nothing_is_beside_the_page(opened) -> None:
    page = opened(viewport={"width": 320, "height": 256})  # WCAG 1.4.10: 1280 by 1024, at 400 %
    page.get_by_label("prompt", exact=True).fill(WORDS)
    page.click("#run")
    ended(page)
    column(page).locator(".token").first.hover()
    column(page).locator(".why table").wait_for()
    assert page.evaluate(WIDE) == 0


def test_who_hears_the_page_is_told_what_belongs_together(opened) -> None:
    page = opened()
    area = column(page, 1).get_by_label("formula", exact=True)
    area.fill("base + 0.5*arm_hel")
    error = column(page, 1).locator(".error")
    expect(error).to_contain_text("did you mean arm_help?")
    assert area.get_attribute("aria-describedby") == error.get_attribute("id")
    assert page.locator("[id]").evaluate_all("all => new Set(all.map(one => one.id)).size") == (
        page.locator("[id]").count()
    )
    names = page.locator(".told, .why").evaluate_all(
        "all => all.map(one => one.getAttribute('aria-label'))"
    )
    assert names == ["answer of setting A", "why, setting A",
                     "answer of setting B", "why, setting B"]  # fmt: skip


def test_who_wants_no_motion_gets_none(opened) -> None:
    page = opened(reduced_motion="reduce")
    page.get_by_label("prompt", exact=True).fill(WORDS)
    column(page).get_by_label("tokens").fill("200")
    column(page).get_by_role("button", name="Run").click()
    column(page).locator(".token").first.wait_for()
    moving = "getComputedStyle(document.querySelector('.told'), '::after').animationName"
    assert page.evaluate(moving) == "none"
    page.keyboard.press("Escape")


def test_nothing_that_a_model_or_a_link_says_runs(opened) -> None:
    page = opened()
    page.get_by_label("prompt", exact=True).fill(HOSTILE[1])
    column(page).get_by_label("formula", exact=True).fill(f"base + '{HOSTILE[0]}' {HOSTILE[1]}")
    column(page).locator(".wrong").first.wait_for()
    column(page, 1).get_by_label("formula", exact=True).fill("wicked")
    column(page, 1).get_by_label("temperature").fill("1")
    column(page, 1).get_by_role("button", name="Run").click()
    ended(page)
    told = column(page, 1).locator(".told")
    for piece in HOSTILE:
        assert piece in told.text_content()
    column(page, 1).locator(".token").nth(2).hover()
    column(page, 1).locator(".why table").wait_for()
    assert any(piece in column(page, 1).locator(".why").text_content() for piece in HOSTILE)
    assert page.evaluate("window.broken") is None
    assert page.locator("main img, main script, main svg, main b:not(td b)").count() == 0


def test_the_policy_of_the_page_lets_nothing_else_run_or_load(intruded, site) -> None:
    asked, failed, refused = intruded(site.url)
    foreign = [(url, "csp") for url in asked if "example.org" in url]
    assert foreign and foreign == failed, "refused before it is sent"
    assert len([text for text in refused if "Content Security Policy" in text]) == 2
