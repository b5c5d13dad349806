"""The report as a reader meets it: in chromium, by mouse and by keys, on a phone, dark, printed."""

from __future__ import annotations

from pathlib import Path

import pytest
from results_folder import HOSTILE, inspected, made, with_inspection

from descant import report
from descant.inputs.sections import Table

DESKTOP, PHONE = {"width": 1200, "height": 850}, {"width": 375, "height": 700}
MINUS, NONE = "\N{MINUS SIGN}", "\N{EN DASH}"
TABS = ("front", "table", "effects", "prompts", "cost", "why")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = with_inspection(tmp_path_factory.mktemp("sweep") / "first")
    report.write(made(hostile=True), place)
    return place


@pytest.fixture
def opened(chromium):
    """``opened(file, place, **context)``: a page; at the end it has asked for nothing else."""
    contexts, asked, wrong, files = [], [], [], []

    def open_(file: Path, place: str = "", **settings):
        contexts.append(chromium.new_context(**{"viewport": DESKTOP, **settings}))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        files.append(file.as_uri())
        page.goto(f"{file.as_uri()}#{place}")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert {url.partition("#")[0] for url in asked} <= set(files), asked
    assert not wrong, wrong


def test_nothing_that_a_model_wrote_runs(opened, folder) -> None:
    page = opened(folder / "report.html")
    for tab in TABS:
        page.goto(f"{(folder / 'report.html').as_uri()}#{tab}")
    page.goto(f"{(folder / 'report.html').as_uri()}#prompts/0")
    assert page.evaluate("window.broken") is None
    assert HOSTILE in page.inner_text("#panel-prompts .asked")
    assert HOSTILE in page.inner_text("#panel-prompts .across .text >> nth=0")
    assert HOSTILE in page.inner_text("header .formulas")
    assert page.locator("main img").count() == 0


def test_the_policy_of_the_page_lets_nothing_else_run_or_load(intruded, folder) -> None:
    asked, failed, refused = intruded((folder / "report.html").as_uri())
    assert failed == [(url, "csp") for url in asked], "refused before it is sent"
    assert len(refused) == 2 and all("Content Security Policy" in text for text in refused)


def test_a_point_is_told_by_hover_and_read_by_a_click(opened, folder) -> None:
    page = opened(folder / "report.html")
    points = made(hostile=True).points
    for number in (3, 20):
        shape = page.locator("svg .point .shape").nth(number).bounding_box()
        x, y = shape["x"] + shape["width"] / 2, shape["y"] + shape["height"] / 2
        page.mouse.move(x, y)
        tip, row = page.inner_text(".tip:visible"), points.iloc[number]
        assert f"{row['formula']}, a = {row['param_a']:g}" in tip
        assert f"{row['help']:.3f}".replace("-", MINUS) in tip
        page.mouse.click(x, y)
    page.mouse.move(5, 5)
    assert page.locator(".tip:visible").count() == 0
    assert page.locator("#panel-front .chip").count() == 2
    first = page.locator("#panel-front .prompt").first
    assert first.locator(".answer").count() == 2
    table = made(hostile=True).table
    said = table[(table["formula"] == "arms") & (table["point"] == 3) & (table["id"] == 0)]
    assert said["text"].iloc[0] in first.locator(".answer .text").first.inner_text()
    page.click("#panel-front .chip button >> nth=0")
    assert page.locator("#panel-front .chip").count() == 1


def test_everything_can_be_done_by_keys(opened, folder) -> None:
    page = opened(folder / "report.html")
    page.focus("#tab-front")
    for tab in TABS[1:]:
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.id") == f"tab-{tab}"
        assert page.locator(f"#panel-{tab}").is_visible()
    page.keyboard.press("Home")
    page.keyboard.press("Tab")
    while "point" not in page.evaluate("document.activeElement.getAttribute('class') || ''"):
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.point") == "2"
    assert page.locator(".tip:visible").count() == 1
    page.keyboard.press("Escape")
    assert page.locator(".tip:visible").count() == 0
    page.keyboard.press("Enter")
    assert "a = 0.2" in page.inner_text("#panel-front .chip")


def test_tables_sort(opened, folder) -> None:
    page = opened(folder / "report.html", "table")
    head = page.locator("#panel-table th").nth(2)
    points = made(hostile=True).points["help"]

    def shown() -> list[str]:
        cells = page.locator("#panel-table tbody tr td:nth-child(3)").all_inner_texts()
        return [cell.split()[0].replace(MINUS, "-") for cell in cells]

    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert shown() == [f"{value:.3f}" for value in sorted(points, reverse=True)]
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert shown() == [f"{value:.3f}" for value in sorted(points)]


def test_a_prompt_across_the_points(opened, folder) -> None:
    page = opened(folder / "report.html", "prompts/3")
    assert "plant number 3," in page.inner_text("#panel-prompts .asked")
    assert page.locator("#panel-prompts .across .text").count() == 33
    page.get_by_role("button", name="next").click()
    assert "plant number 4," in page.inner_text("#panel-prompts .asked")
    assert page.url.endswith("#prompts/4")
    page.fill("#panel-prompts input", "number 11,")
    assert "plant number 11," in page.inner_text("#panel-prompts .asked")
    assert page.locator("#panel-prompts option").count() == 1


@pytest.mark.slow
def test_thousands_of_completions_are_made_as_they_are_read(opened, tmp_path) -> None:
    report.write(made(prompts=300), tmp_path)
    page = opened(tmp_path / "report.html", "table")
    for number in (0, 5):
        page.get_by_role("button", name="read the completions of arms").nth(number).click()
        page.click("#tab-table")
    page.click("#tab-front")
    page.wait_for_selector("#panel-front .prompt")
    few = page.locator("#panel-front .prompt").count()
    assert 0 < few < 60
    page.mouse.move(600, 400)
    for _ in range(10):
        page.mouse.wheel(0, 2000)
        page.wait_for_timeout(50)
    assert few < page.locator("#panel-front .prompt").count() < 300


def test_a_phone_sees_all_of_it_without_scrolling_sideways(opened, folder) -> None:
    page = opened(folder / "report.html", viewport=PHONE, has_touch=True, is_mobile=True)
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for tab in TABS:
        page.click(f"#tab-{tab}")
        assert page.evaluate(wide) == 0, tab
    page.click("#tab-front")
    page.locator("svg .point .shape").nth(4).scroll_into_view_if_needed()
    shape = page.locator("svg .point .shape").nth(4).bounding_box()
    page.touchscreen.tap(shape["x"] + shape["width"] / 2, shape["y"] + shape["height"] / 2)
    assert page.locator("#panel-front .chip").count() == 1
    assert page.evaluate(wide) == 0


def test_light_and_dark(opened, folder) -> None:
    seen = []
    for scheme in ("light", "dark"):
        page = opened(folder / "report.html", color_scheme=scheme)
        seen += [page.evaluate(f"getComputedStyle(document.body).{what}")
                 for what in ("backgroundColor", "color")]  # fmt: skip
    light, ink, dark, chalk = (sum(numbers(one)) for one in seen)
    assert light > 700 and dark < 120 and ink < 120 and chalk > 600


def numbers(text: str) -> list[int]:
    """The numbers of ``rgb(1, 2, 3)``."""
    return [int(one) for one in text[4:-1].split(",")]


def test_tables_of_the_run_file_sort_and_are_text(opened, tmp_path) -> None:
    results = made(formulas=2, points=3, prompts=2)
    results.run.tables[HOSTILE] = Table(rows="a", columns="formula", values="help")
    report.write(results, tmp_path)
    page = opened(tmp_path / "report.html", "table")
    assert page.locator("#panel-table h2").all_inner_texts() == [HOSTILE, "Every point"]
    assert page.evaluate("window.broken") is None
    table = page.locator("#panel-table table").first
    heads = [head.strip() for head in table.locator("th").all_inner_texts()]
    assert heads == ["a", "help, formula = arms", "help, formula = soup"]

    def shown() -> list[list[str]]:
        rows = table.locator("tbody tr").all()
        return [row.locator("td").all_inner_texts() for row in rows]

    points = results.points.set_index(["formula", "point"])["help"]
    assert [row[0] for row in shown()] == ["0", "0.5", "1"]
    for point, row in enumerate(shown()):
        for cell, name in zip(row[1:], ("arms", "soup"), strict=True):
            assert cell.startswith(f"{points[name, point]:.3f} [".replace("-", MINUS))
    table.locator("th button").nth(1).click()
    order = [["0", "0.5", "1"][i] for i in points["arms"].argsort()[::-1]]
    assert [row[0] for row in shown()] == order


def test_print_has_the_parts_one_after_the_other_and_no_controls(opened, folder) -> None:
    page = opened(folder / "report.html", color_scheme="dark")
    page.emulate_media(media="print")
    for tab in ("front", "table", "effects", "cost"):
        assert page.locator(f"#panel-{tab}").is_visible()
    for hidden in ("#tabs", "#panel-prompts", "#panel-front select"):
        assert not page.locator(hidden).first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf(format="A4")[:5] == b"%PDF-"


def test_why_a_token_by_mouse_and_keys(opened, tmp_path) -> None:
    found = inspected()
    file = tmp_path / "inspect.html"
    file.write_text(report.inspection_page(found), encoding="utf-8")
    page = opened(file, "why/2")
    tokens = page.locator(".token")
    assert tokens.count() == len(found.tokens)
    for number, choice in enumerate(found.tokens):
        assert ("changed" in tokens.nth(number).get_attribute("class")) == choice.changed
        assert ("noise" in tokens.nth(number).get_attribute("class")) == choice.by_noise
    tokens.nth(4).click()
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".why h3").startswith("Token 6:")
    rows = page.locator(".candidates tbody tr")
    choice = found.tokens[5]
    assert rows.count() == len(choice.candidates)
    for number, one in enumerate(choice.candidates):
        cells = rows.nth(number).locator("td").all_inner_texts()
        said = [NONE if v is None else f"{v:.3f}".replace("-", MINUS)
                for v in (*one.contributions, one.score)]  # fmt: skip
        assert cells[3 : 3 + len(said)] == said
        assert (one.removed_by or "") in cells[1]


def test_one_objective_and_none(opened, tmp_path) -> None:
    report.write(made(formulas=1, objectives=("help",)), tmp_path / "one")
    page = opened(tmp_path / "one" / "report.html")
    assert page.locator("svg .point").count() == 11
    report.write(made(scored=False), tmp_path / "none")
    page = opened(tmp_path / "none" / "report.html")
    assert page.locator("svg").count() == 0 and page.locator("#panel-front").is_visible()
