"""The playground as people meet it: in chromium, by mouse, keys and touch, on a phone, dark."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import cache
from urllib.request import urlopen

import pytest
from playground_site import ARMS, HOSTILE, STEER, WORDS, run_file, served

import descant
from descant.demo import models as demo

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
expect = playwright.expect
expect.set_options(timeout=20_000)

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
MINUS, NONE = "\N{MINUS SIGN}", "\N{EN DASH}"


@pytest.fixture(scope="module")
def sites(chromium, tmp_path_factory):
    """``sites(**options)``: a server's address, and the server."""
    pytest.importorskip("fastapi", reason="pip install descant[serve]")
    from descant.serve.server import Server

    run = run_file(tmp_path_factory.mktemp("hostile"))
    with ExitStack() as stack:
        made = {}

        def site(**options):
            key = json.dumps(options)
            if key not in made:
                server = Server(run, **options)
                made[key] = stack.enter_context(served(server)), server
            return made[key]

        yield site


@pytest.fixture
def site(sites):
    return sites(allow_formulas=True)


@pytest.fixture
def opened(chromium, site):
    """``opened(place, **context)``: the page; at the end it has asked nobody else, and is well."""
    contexts, asked, wrong, at = [], [], [], [site[0]]

    def open_(place="", address=None, refusals=0, **settings):
        contexts.append(chromium.new_context(**{"viewport": DESKTOP, **settings}))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.asked, left = [], [refusals]

        def told(said):
            if said.type == "error" and left[0] and "status of 4" in said.text:
                left[0] -= 1
            elif said.type == "error":
                wrong.append(said.text)

        page.on("request", lambda request: (asked.append(request.url), page.asked.append(request)))
        page.on("console", told)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        at.append(address or site[0])
        page.goto(f"{at[-1]}/{place}")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert all(url.startswith(tuple(at)) for url in asked), asked
    assert not wrong, wrong


def column(page, number=0):
    return page.locator(".setting").nth(number)


def ended(page):
    page.wait_for_selector("#stop:disabled", state="attached")


def ran(page):
    """What was asked of the server to be completed."""
    return [json.loads(one.post_data) for one in page.asked if "/v1/" in one.url]


@pytest.fixture(scope="module")
def alone():
    """``alone(formula)``: its decoder, that no server knows of."""
    return cache(lambda formula: descant.compile(formula, models=demo(), params={"a": 0.5}))


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


def test_settings_stream_side_by_side_and_say_what_each_alone_would(opened, alone) -> None:
    page = opened()
    page.get_by_label("prompt", exact=True).fill(WORDS)
    column(page, 1).get_by_label("a, exactly").fill("0.9")
    for number in (0, 1):
        column(page, number).get_by_label("tokens").fill("40")
        column(page, number).get_by_label("seed").fill("11")
    page.keyboard.press("Control+Enter")
    for number in (0, 1):
        column(page, number).locator(".token >> nth=2").wait_for()
    assert page.locator(".setting[aria-busy=true]").count() == 2, "both at once"
    ended(page)
    assert {one["model"] for one in ran(page)} == {"arms", "steer"}
    for number, formula, a in ((0, ARMS, 0.5), (1, STEER, 0.9)):
        [expected] = alone(formula).generate(
            WORDS, params={"a": a}, max_new_tokens=40, temperature=0.7, seed=11
        )
        assert column(page, number).locator(".told").text_content() == expected.text
        said = column(page, number).locator(".meta").inner_text()
        assert f"{len(expected.token_ids)} tokens" in said and "seed 11" in said
    assert "A: 40 tokens" in page.inner_text("#said") or "B:" in page.inner_text("#said")


def test_escape_stops_and_frees_the_slots(opened, site) -> None:
    page = opened()
    page.get_by_label("prompt", exact=True).fill(WORDS)
    for number in (0, 1):
        column(page, number).get_by_label("formula", exact=True).fill("wicked")
        column(page, number).get_by_label("tokens").fill("900")
    page.keyboard.press("Control+Enter")
    for number in (0, 1):
        column(page, number).locator(".token >> nth=4").wait_for()
    page.keyboard.press("Escape")
    ended(page)
    for number in (0, 1):
        said = column(page, number).locator(".meta")
        assert "stopped" in said.inner_text()
        assert int(said.inner_text().split()[0]) < 900
    for _ in range(50):
        with urlopen(f"{site[0]}/metrics") as answer:
            if "descant_slots_in_use 0.0" in answer.read().decode():
                break
        page.wait_for_timeout(50)
    else:
        pytest.fail("the slots are in use still")
    page.mouse.move(5, 5)
    column(page).locator(".token").first.hover()
    column(page).locator(".why table").wait_for()


def test_hovering_a_token_says_what_each_term_and_the_reward_said(opened, alone) -> None:
    page = opened()
    page.get_by_label("prompt", exact=True).fill(WORDS)
    column(page, 1).get_by_role("button", name="Run").click()
    ended(page)
    tokens = column(page, 1).locator(".token")
    text = column(page, 1).locator(".told").text_content()
    tokens.nth(3).hover()
    column(page, 1).locator(".why table").wait_for()
    body = ran(page)[-1]

    found = alone(STEER).inspect(
        WORDS, n=8, max_new_tokens=24, temperature=0.7, seed=body["seed"], params={"a": 0.5}
    )
    assert found.completion.text == text
    assert tokens.count() == len(found.tokens)
    for number, choice in enumerate(found.tokens):
        assert ("changed" in tokens.nth(number).get_attribute("class")) == choice.changed
    rows = column(page, 1).locator(".candidates tbody tr")
    for step in (3, 0, 10):
        tokens.nth(step).hover()
        why = column(page, 1).locator(".why h3")
        assert why.inner_text().startswith(f"Token {step + 1}:")
        choice = found.tokens[step]
        for number, one in enumerate(choice.candidates):
            cells = rows.nth(number).locator("td").all_inner_texts()
            said = [
                NONE if v is None else f"{v:.3f}".replace("-", MINUS) for v in one.contributions
            ]
            assert cells[3 : 3 + len(said)] == said
            liked = [one.rewards[0]] if one.rewards else []
            assert all(f"{v:.3f}".replace("-", MINUS) in cells for v in liked if v is not None)
    # A click holds it there; another lets go.
    tokens.nth(5).click()
    tokens.nth(8).hover()
    assert column(page, 1).locator(".why h3").inner_text().startswith("Token 6:")
    tokens.nth(5).click()
    tokens.nth(8).hover()
    assert column(page, 1).locator(".why h3").inner_text().startswith("Token 9:")


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


def test_a_chat_and_an_answer_to_the_answer(opened) -> None:
    page = opened()
    page.get_by_label("prompt", exact=True).fill(WORDS)
    page.get_by_label("chat").check()
    assert page.get_by_label("message 1", exact=True).input_value() == WORDS
    column(page).get_by_role("button", name="Run").click()
    ended(page)
    assert ran(page)[-1]["messages"] == [{"role": "user", "content": WORDS}]
    assert page.asked[-1].url.endswith("/v1/chat/completions")
    said = column(page).locator(".told").text_content()
    column(page).locator(".token").first.hover()
    column(page).locator(".why table").wait_for()
    column(page).get_by_role("button", name="Answer it").click()
    assert page.get_by_label("role of message 2").input_value() == "assistant"
    assert page.get_by_label("message 2", exact=True).input_value() == said
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "message 3"


def test_it_runs_again_as_things_change_where_that_is_asked_for(opened) -> None:
    page = opened()
    page.get_by_label("prompt", exact=True).fill(WORDS)
    page.get_by_label("run as I change things").check()
    slider = column(page).get_by_role("slider", name="a")
    slider.focus()
    page.keyboard.press("End")
    column(page).locator(".token").first.wait_for()
    ended(page)
    page.wait_for_timeout(300)
    assert [one["params"] for one in ran(page)] == [{"a": 1}]


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


def test_the_policy_of_the_page_lets_nothing_else_run_or_load(chromium, site) -> None:
    page = chromium.new_page()
    page.goto(site[0])
    refused, failed, asked = [], [], []
    page.on("console", lambda said: refused.append(said.text))
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: failed.append((request.url, request.failure)))
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        "document.body.append(s); const i = new Image(); i.src = 'https://example.org/x.png';"
        "document.body.append(i); }"
    )
    page.wait_for_timeout(100)
    assert page.evaluate("window.ran") is None
    foreign = [(url, "csp") for url in asked if "example.org" in url]
    assert foreign and foreign == failed, "refused before it is sent"
    assert len([text for text in refused if "Content Security Policy" in text]) == 2
    page.close()


def test_a_key_is_asked_for_and_kept_out_of_the_link(opened, sites) -> None:
    address, _ = sites(keys=["a long secret"])
    page = opened(address=address, refusals=2)
    page.locator("#key-text").wait_for()
    assert "wants an API key" in page.inner_text("#notice")
    assert column(page).count() == 0
    page.fill("#key-text", "another")
    with page.expect_response("**/playground/known"):
        page.keyboard.press("Enter")
    expect(page.locator("#key-text")).to_be_visible()
    page.fill("#key-text", "a long secret")
    page.keyboard.press("Enter")
    column(page).wait_for()
    assert page.locator("#notice").is_hidden()
    # Without --allow-formulas there are the named ones, and nothing is typed.
    area = column(page).get_by_label("formula", exact=True)
    assert area.get_attribute("readonly") is not None
    assert "your own" not in column(page).locator("select").inner_text()
    column(page).locator("select").select_option("steer")
    assert area.input_value() == STEER
    page.get_by_label("prompt", exact=True).fill(WORDS)
    column(page).get_by_role("button", name="Run").click()
    ended(page)
    assert ran(page)[-1]["model"] == "steer"
    assert column(page).locator(".told").inner_text()
    page.click("#share")
    assert "secret" not in page.url and page.evaluate("Object.keys(localStorage).length") == 0
    page.reload()
    column(page).wait_for()
    assert page.get_by_label("prompt", exact=True).input_value() == WORDS


def test_what_the_server_refuses_is_said_where_it_was_asked(opened) -> None:
    page = opened(refusals=1)
    page.get_by_label("prompt", exact=True).fill(WORDS)
    column(page).get_by_label("tokens").fill("5000")
    column(page).get_by_role("button", name="Run").click()
    column(page).locator(".told .problem").wait_for()
    assert "at most 1024" in column(page).locator(".told").inner_text()
    assert column(page).get_by_role("button", name="Run").is_visible()


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
    sizes = page.locator("button:visible, .draws input:visible").evaluate_all(
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


def test_who_wants_no_motion_gets_none(opened) -> None:
    page = opened(reduced_motion="reduce")
    page.get_by_label("prompt", exact=True).fill(WORDS)
    column(page).get_by_label("tokens").fill("200")
    column(page).get_by_role("button", name="Run").click()
    column(page).locator(".token").first.wait_for()
    moving = "getComputedStyle(document.querySelector('.told'), '::after').animationName"
    assert page.evaluate(moving) == "none"
    page.keyboard.press("Escape")
