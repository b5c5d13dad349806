"""The playground in chromium: answers as they stream, and why each token is what it is."""

from __future__ import annotations

from urllib.request import urlopen

import pytest
from playground_site import (
    ARMS,
    MINUS,
    NONE,
    STEER,
    WORDS,
    column,
    ended,
    ran,
)

expect = pytest.importorskip("playwright.sync_api", reason="pip install playwright").expect


def test_settings_stream_side_by_side_and_say_what_each_alone_would(opened, alone) -> None:
    page = opened()
    page.get_by_label("prompt", exact=True).fill(WORDS)
    column(page, 1).get_by_label("a, exactly").fill("0.9")
    for number in (0, 1):
        column(page, number).get_by_label("tokens").fill("40")
        column(page, number).get_by_label("seed").fill("11")
    page.keyboard.press("Control+Enter")
    page.wait_for_function("document.querySelectorAll('.setting[aria-busy=true]').length == 2")
    for number in (0, 1):
        column(page, number).locator(".token >> nth=2").wait_for()
    ended(page)
    assert {one["model"] for one in ran(page)} == {"arms", "steer"}
    for number, formula, a in ((0, ARMS, 0.5), (1, STEER, 0.9)):
        [expected] = alone(formula).generate(
            WORDS, params={"a": a}, max_new_tokens=40, temperature=0.7, seed=11
        )
        assert column(page, number).locator(".told").text_content() == expected.text
        said = column(page, number).locator(".meta").inner_text()
        assert f"{len(expected.token_ids)} tokens" in said and "seed 11" in said
    assert "A: 40 tokens" in page.inner_text("#status") or "B:" in page.inner_text("#status")


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
        with urlopen(f"{site.url}/metrics") as answer:
            if "descant_num_requests_running 0.0" in answer.read().decode():
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


def test_what_the_server_refuses_is_said_where_it_was_asked(opened) -> None:
    page = opened(refusals=1)
    page.get_by_label("prompt", exact=True).fill(WORDS)
    column(page).get_by_label("tokens").fill("5000")
    column(page).get_by_role("button", name="Run").click()
    column(page).locator(".told .problem").wait_for()
    assert "at most 1024" in column(page).locator(".told").inner_text()
    assert column(page).get_by_role("button", name="Run").is_visible()


def test_another_prompt_runs_every_setting_again(opened) -> None:
    page = opened()
    page.get_by_label("prompt", exact=True).fill("Hello")
    page.get_by_label("run as I change things").check()
    page.wait_for_timeout(600)
    assert not ran(page), "nothing has changed since"
    page.get_by_label("prompt", exact=True).fill(WORDS)
    for number in (0, 1):
        column(page, number).locator(".token").first.wait_for()
    ended(page)
    assert [one["prompt"] for one in ran(page)] == [WORDS] * 2


def test_without_a_prompt_it_says_so_and_asks_nobody(opened) -> None:
    page = opened()
    page.wait_for_selector(".setting")
    for button in (page.locator("#run"), column(page, 1).get_by_role("button", name="Run")):
        button.click()
        expect(page.locator("#notice")).to_have_text("Write a prompt first.")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "prompt"
        page.keyboard.type("x")
        expect(page.locator("#notice")).to_be_hidden()
        page.get_by_label("prompt", exact=True).fill("")
    assert not ran(page)


def test_a_search_comes_in_one_piece_and_has_no_speed(opened) -> None:
    page = opened()
    page.get_by_label("prompt", exact=True).fill(WORDS)
    area = column(page).get_by_label("formula", exact=True)
    area.fill("base | best_of(reward_help, n=4)")
    column(page).get_by_label("tokens").fill("8")
    column(page).get_by_role("button", name="Run").click()
    expect(column(page).locator(".meta")).to_contain_text("8 tokens")
    ended(page)
    assert "/s" not in column(page).locator(".meta").inner_text()
    hint = column(page).locator(".result > .hint")
    assert "to see why it was chosen" in hint.inner_text()
    column(page).locator(".token").first.hover()
    expect(column(page).locator(".why")).to_contain_text("chose this text among others")
    assert hint.is_hidden()


def test_a_step_that_fails_is_shown_at_its_place_and_others_go_on(opened) -> None:
    page = opened()
    page.get_by_label("prompt", exact=True).fill(WORDS)
    area = column(page).get_by_label("formula", exact=True)
    area.fill("top_k(base, 1) + top_k(-1*base, 1)")
    page.click("#run")
    ended(page)
    said = column(page).locator(".told .problem").inner_text()
    assert "every token is excluded" in said and "^^^" in said
    assert "24 tokens" in column(page, 1).locator(".meta").inner_text()


def test_a_server_that_goes_away_in_the_middle(opened, site) -> None:
    page = opened(cuts=True)
    page.get_by_label("prompt", exact=True).fill(WORDS)
    column(page).get_by_label("formula", exact=True).fill("wicked")
    column(page).get_by_label("tokens").fill("900")
    column(page).get_by_role("button", name="Run").click()
    column(page).locator(".token >> nth=3").wait_for()
    page.route("**", lambda route: route.abort("connectionrefused"))
    for connection in [*site.process.server_state.connections]:
        connection.loop.call_soon_threadsafe(connection.transport.abort)
    problem = column(page).locator(".told .problem")
    expect(problem).to_have_text("the server went away before the end")
    assert column(page).locator(".token").count() > 3, "what came stays"
    column(page).get_by_label("formula", exact=True).fill("base")
    expect(page.locator("#notice")).to_have_text("the server cannot be reached")
    column(page).locator("summary").click()
    expect(column(page).locator(".plan")).to_have_text("the server cannot be reached")
    site.wait(lambda: not site.server.busy)
