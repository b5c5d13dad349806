"""The page of questions: its run files are read, and its anchors are those of the errors."""

from __future__ import annotations

import copy
import re
from typing import get_args

import pytest
from doc_pages import ROOT, Page

import descant
from descant import FormulaError, ModelError
from descant.demo import models
from descant.grammar.tree import Span
from descant.inputs.runfile import validated
from descant.inputs.yaml import load_yaml
from descant.models import errors
from descant.show import pages

PAGE = Page("docs/how-do-i.md")
NAMES = re.findall(r'^<a id="([a-z-]+)"></a>\n\n## ', PAGE.text, re.M)
QUESTIONS = [
    "vocabulary",
    "two-reward-models",
    "functions",
    "negative-prompts",
    "system-prompts",
    "per-request-weights",
    "sampling-fields",
    "gptq",
    "tokenizers",
    "memory",
    "speed",
    "seeds",
    "chat-models",
    "chat-templates",
    "adapters",
    "sweeps",
    "comparing",
    "asyncio",
    "adding-models",
    "bugs",
    "citing",
    "json",
    "extending",
]


def test_the_run_files_are_read():
    blocks = PAGE.code("yaml")
    assert len(blocks) == 2
    for block in blocks:
        said = load_yaml(block)
        validated({"formula": "+".join(said["models"]), **said}, "here")


def test_every_question_has_an_anchor_that_stays():
    assert NAMES == QUESTIONS


def test_links_within_the_page_lead_somewhere():
    links = re.findall(r"\]\(#([^)]+)\)", PAGE.text)
    assert set(links) == set(NAMES) and len(links) > len(NAMES)


def test_errors_name_anchors_of_this_page():
    assert PAGE.file == pages.FOLDER / f"{errors.PAGE.removeprefix('descant docs ')}.md"
    assert set(get_args(errors.Topic)) <= set(NAMES)


def test_every_place_that_code_names_is_on_the_page():
    from descant.formula.checking.checker import EXTENDING, PROMPTS
    from descant.formula.checking.rewards import REWARDS

    assert {place.partition("#")[0] for place in (PROMPTS, REWARDS)} == {errors.PAGE}
    for place in (PROMPTS, REWARDS, EXTENDING):
        assert place.partition("#")[2] in NAMES


def test_every_topic_is_some_errors():
    """And each is raised with a topic that there is, which mypy checks as well."""
    files = [*(ROOT / "models").rglob("*.py"), *(ROOT / "runtime").rglob("*.py")]
    code = [file.read_text(encoding="utf-8") for file in files]
    code = [text for text in code if "Topic = Literal" not in text]
    for topic in get_args(errors.Topic):
        assert any(f'"{topic}"' in text for text in code), topic


def last_line(call) -> str:
    with pytest.raises((FormulaError, ModelError)) as caught:
        call()
    return str(caught.value).splitlines()[-1]


def test_an_error_says_where_more_is_said(compiled, zoo):
    def fails(spec):
        return lambda: compiled("base + x", {"x": spec})

    other = {"path": zoo.path("arm"), "tokenizer": models()["base"]["path"]}
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    asking = {"path": zoo.path("base"), "template": "{prompt}"}
    plain = compiled("base", {"base": asking}).generate
    page = "more: descant docs how-do-i#"
    assert last_line(fails(zoo.path("other"))) == f"{page}vocabulary"
    assert last_line(fails(other)) == f"{page}tokenizers"
    assert last_line(lambda: plain(turns)) == f"{page}chat-templates"
    for formula, topic in (
        ("base | rerank(mix(1: rm, 1: rm))", "two-reward-models"),
        ("base | no_pair_again(3)", "extending"),
        ("base@rude", "negative-prompts"),
    ):
        assert last_line(lambda formula=formula: compiled(formula)) == f"{page}{topic}"
    assert last_line(lambda: compiled("base | rrank(rm)")) == "did you mean rerank?"
    assert last_line(lambda: plain("")) == "give it text, messages or token ids"


def test_errors_can_be_copied_whole():
    """A process pool sends them to another process."""
    for error in (
        ModelError("one", "two", "three", "memory"),
        FormulaError("one", "base", Span(0, 4), "two", "docs"),
    ):
        assert str(copy.copy(error)) == str(error)


def test_the_citation_is_of_this_package():
    said = load_yaml((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert said["title"].startswith("descant") and said["license"] == "MIT"
    assert said["authors"] == [{"name": "The descant authors"}]
    assert said["version"] == descant.__version__
    assert {"cff-version", "message", "type"} <= set(said)
