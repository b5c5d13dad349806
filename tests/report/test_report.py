"""The report's page and figures from a sweep's results, before any browser has seen them."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser

import pytest
from results_folder import FORMULAS, HOSTILE, inspected, made, with_inspection

from descant import report
from descant.report.content import content_of
from descant.report.page import embedded


class Elements(HTMLParser):
    """The elements of a page, and the text of its data."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        if self.found[-1:] == [("script", {"type": "application/json", "id": "data"})]:
            self.data += data


def test_text_of_users_is_never_markup(tmp_path) -> None:
    results = made(points=3, prompts=2, hostile=True)
    report.write(results, with_inspection(tmp_path / HOSTILE.replace("/", "")))
    [page] = tmp_path.glob("*/report.html")
    read = Elements(page.read_text(encoding="utf-8"))
    assert [tag for tag, _ in read.found].count("script") == 2
    assert not [tag for tag, _ in read.found if tag == "img"]
    said = json.loads(read.data)["report"]
    assert said["completions"]["rows"][0][3].startswith(HOSTILE)
    assert said["prompts"][0]["text"].startswith(HOSTILE)


def test_nothing_in_the_page_is_somewhere_else(tmp_path) -> None:
    report.write(made(points=2, prompts=2), tmp_path)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    for tag, attributes in Elements(html).found:
        links = [attributes[key] for key in ("src", "href", "action") if key in attributes]
        assert all(link.startswith(("#", "data:")) for link in links), (tag, links)
        assert not [key for key in attributes if key.startswith("on")], (tag, attributes)
    assert "@import" not in html and "url(" not in html


def test_the_content_is_the_results() -> None:
    results = made(points=4, prompts=3)
    data = content_of(results, "first").data
    assert [one["name"] for one in data["formulas"]] == list(FORMULAS)
    assert (data["params"], data["objectives"]) == (["a"], ["help", "harm"])
    for point, (_, row) in zip(data["points"], results.points.iterrows(), strict=True):
        name = data["formulas"][point["f"]]["name"]
        assert (name, point["point"]) == (row["formula"], row["point"])
        assert point["scores"]["help"] == [row["help"], row["help_low"], row["help_high"]]
        assert point["front"] == (row["point"] in results.front["formulas"][name]["front"])
    rows = data["completions"]["rows"]
    assert len(rows) == len(results.table)
    for place, prompt, sample, text, tokens, finish, *scores in rows:
        point = data["points"][place]
        mask = results.table["formula"] == data["formulas"][point["f"]]["name"]
        mask &= results.table["point"] == point["point"]
        [(_, row)] = results.table[mask & (results.table["id"] == prompt)].iterrows()
        assert (row["text"], row["tokens"], row["finish_reason"]) == (text, tokens, finish)
        assert scores == pytest.approx([row["help"], row["harm"], row["distinct_1"]], rel=1e-4)
        assert sample == 0
    effects = data["effects"]
    assert (effects["against"], effects["scores"]) == ("arms:0", ["help", "harm"])
    assert len(effects["rows"]) == len(results.effects) == 2 * (len(data["points"]) - 1)
    for row, (_, effect) in zip(effects["rows"], results.effects.iterrows(), strict=True):
        point = data["points"][row["at"]]
        assert (data["formulas"][point["f"]]["name"], point["point"]) == tuple(effect[:2])
        assert row["p_holm"] == effect["p_holm"] and row["difference"] == effect["difference"]
    cost = data["formulas"][0]["cost"]
    arms = results.table[results.table["formula"] == "arms"]
    assert cost["tokens"] == arms["tokens"].sum() and cost["completions"] == len(arms)


def test_prompts_may_be_messages_or_ids_and_scores_may_be_missing() -> None:
    results = made(formulas=1, points=2, prompts=2)
    table = results.table.astype({"prompt": object})
    for i, id in enumerate(table["id"]):
        said = [[{"role": "user", "content": "Hi"}], [1, 5, 7]][id]
        table.at[i, "prompt"] = said
    table.loc[0, "help"] = float("nan")
    object.__setattr__(results, "table", table)
    object.__setattr__(results, "meta", {})
    data = content_of(results, "x").data
    assert [one["text"] for one in data["prompts"]] == ["user: Hi", "[1, 5, 7]"]
    assert data["completions"]["rows"][0][6] is None
    assert "NaN" not in embedded(data)


def test_a_smaller_the_better_objective_says_so() -> None:
    data = content_of(made(objectives=("help", "-harm")), "x").data
    assert data["objectives"] == ["help", "harm"]
    assert data["scores"][1]["label"] == "harm (smaller is better)"


@pytest.mark.parametrize("objectives", [("help", "harm"), ("help", "harm", "-toxic")])
def test_figures(tmp_path, objectives) -> None:
    pytest.importorskip("matplotlib")
    results = made(points=5, objectives=objectives)
    kept = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        page, *figures = report.write(results, folder)
        names = [figure.name for figure in figures]
        kinds = ["front", "scores", "effects"]
        assert names == [f"{kind}.{end}" for kind in kinds for end in ("png", "pdf")]
        assert page.name == "report.html"
        kept.append([figure.read_bytes() for figure in figures])
        for png, pdf in zip(kept[-1][::2], kept[-1][1::2], strict=True):
            assert png[:4] == b"\x89PNG" and pdf[:5] == b"%PDF-"
    assert kept[0] == kept[1]


def test_without_scores_or_matplotlib_there_is_the_page_alone(tmp_path, monkeypatch) -> None:
    assert [file.name for file in report.write(made(scored=False), tmp_path)] == ["report.html"]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert [file.name for file in report.write(made(), tmp_path)] == ["report.html"]


def test_an_inspection_that_is_none_is_refused(tmp_path) -> None:
    (tmp_path / "inspect.json").write_text('{"schema": 7}')
    with pytest.raises(ValueError, match="is not what descant inspect writes"):
        report.write(made(points=2, prompts=1), tmp_path)


def test_the_page_of_one_completion() -> None:
    read = Elements(report.inspection_page(inspected()))
    said = json.loads(read.data)
    assert said["inspection"]["formula"].startswith("base + 0.5*arm") and "report" not in said


def test_a_formula_without_the_parameter_and_one_that_is_merged(tmp_path) -> None:
    results = made(points=2, prompts=2)
    for table in (results.table, results.points):
        table.loc[table["formula"] == "rerank", "param_a"] = float("nan")
    object.__setattr__(results.run, "merge", {"soup": "0.5*arm_help + 0.5*arm_harm"})
    content = content_of(results, "x")
    said = {
        content.data["formulas"][one["f"]]["name"]: one["params"] for one in content.data["points"]
    }
    assert said == {"arms": {"a": 1.0}, "soup": {"a": 1.0}, "rerank": {}}
    texts = [one["text"] for one in content.formulas]
    assert texts[1] == "soup + a*arm_harm; soup = 0.5*arm_help + 0.5*arm_harm"
    assert report.write(results, tmp_path)
