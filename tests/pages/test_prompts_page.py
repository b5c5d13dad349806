"""``descant explain --render`` and ``Decoder.rendered`` show what the models read of a prompt."""

from __future__ import annotations

import io
import json
import re

import pytest
import vocabularies
from chat_templates import LLAMA2, SAFE_RLHF
from checkpoints import llama, reward, tokenizer
from doc_pages import descant as command
from rich.console import Console

import descant
from descant.show.explain import ExplainRequest, rendering
from descant.show.token_boundaries import separated, show

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well,"}]


@pytest.fixture(scope="module")
def models(zoo) -> dict[str, dict]:
    """A base, a model of another vocabulary, and rewards that read tokens, and text."""
    own = vocabularies.llama_like(chat_template=LLAMA2)
    return {
        "base": {"path": zoo.path("base")},
        "other": {"model": llama(vocab_size=len(own)).eval(), "tokenizer": own},
        "rm": {"path": zoo.path("rm"), "template": "Q: {prompt} A:"},
        "judge": {
            "model": reward(vocab_size=len(own)).eval(), "tokenizer": own, "template": SAFE_RLHF,
        },
    }  # fmt: skip


FORMULA = "mix(0.5: base, 0.5: align(other)) - 0.1*base@none | rerank(rm + judge, k=3)"


def test_every_model_is_shown_in_the_order_of_the_formula(models) -> None:
    shown = descant.compile(FORMULA, models).rendered(CHAT)
    assert [one.term for one in shown] == ["base", "align(other)", "base@none", "rm", "judge"]
    assert [one.text for one in shown] == [
        "<s>[user]hi\n[assistant]Well,",
        "<s> [INST] hi [/INST] Well,",
        "<s>",
        "<s>Q: hi A:Well,",
        "BEGINNING OF CONVERSATION: USER: hi ASSISTANT:Well,",
    ]
    assert shown[-1].tokens is None and shown[-1].ids == []


def test_what_is_shown_is_what_is_read(models) -> None:
    decoder = descant.compile(FORMULA, models)
    shown = {one.term: one for one in decoder.rendered("a stone 日")}
    decoder.generate("a stone 日", max_new_tokens=1)
    lanes = decoder.session.bound.lanes
    for bound_term in decoder.session.bound.all_terms:
        if shown[str(bound_term.term)].tokens is not None:
            request = decoder.session.builder.requests("a stone 日")[0]
            read = [*request.prompts, *request.rewards[None, 0]]
            assert shown[str(bound_term.term)].ids in [
                ids for ids in read if not isinstance(ids, str)
            ]
    assert len(lanes) == 4
    base = shown["base"]
    assert base.ids == tokenizer()("a stone 日")["input_ids"]
    assert [token.special for token in base.tokens] == [True] + [False] * (len(base.ids) - 1)
    assert base.text == "<s>a stone 日" and "<0xE6>" in [token.text for token in base.tokens]


def test_tables_show_their_ids() -> None:
    tables = {"a": descant.TableModel.random(8, 1)}
    [one] = descant.compile("a", tables).rendered([3, 1])
    assert (one.text, one.ids) == ("3 1", [3, 1])


def test_a_run_file_is_shown(tmp_path, zoo) -> None:
    (tmp_path / "run.yaml").write_text(
        f"formula: base@kind\nmodels: {{base: {zoo.path('base')}}}\nprompts: {{kind: Be kind.}}\n"
        "data: {path: data.jsonl, field: chat}\n"
    )
    lines = [{"chat": CHAT[:1]}, {"chat": "never"}]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    file = str(tmp_path / "run.yaml")
    [one] = rendering(ExplainRequest(file), None)
    assert one.text == "<s>[system]Be kind.\n[user]hi\n[assistant]"
    out = command("explain", file, "--render-first").stdout
    assert out.startswith('base@"Be kind."') and "«<s>»|[|" in out
    (tmp_path / "chat.json").write_text(json.dumps(CHAT))
    [one] = rendering(ExplainRequest(file), str(tmp_path / "chat.json"))
    assert one.text.endswith("[assistant]Well,")
    [one] = rendering(ExplainRequest(file), "hello")
    assert one.text == "<s>Be kind.\nhello"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["base", "--render-first"], "there is no run file with data here"),
        (["base", "--render", "none.json"], "there is no prompt file none.json"),
        (["base", "--render", ""], "the prompt is empty"),
    ],
)
def test_what_cannot_be_shown(arguments, problem) -> None:
    done = command("explain", *arguments)
    assert done.returncode == 2 and problem in done.stderr


def test_a_prompt_file_that_is_not_json(tmp_path) -> None:
    (tmp_path / "chat.json").write_text("{")
    with pytest.raises(ValueError, match=r"chat\.json, line 1, is not JSON"):
        rendering(ExplainRequest("base"), str(tmp_path / "chat.json"))


def test_strokes_and_colours(models) -> None:
    shown = descant.compile("base + base@none | rerank(judge, k=2)", models).rendered("a|b\n[bold]")
    plain, bright = io.StringIO(), io.StringIO()
    show(Console(file=plain, width=200), shown)
    assert "  «<s>»|a|\\||b|\\n|[|" in plain.getvalue() and "\x1b" not in plain.getvalue()
    assert "judge  text, " in plain.getvalue() and "base@none  1 token\n" in plain.getvalue()
    show(Console(file=bright, force_terminal=True, width=200, color_system="standard"), shown)
    colours = re.findall(r"\x1b\[([\d;]+)m", bright.getvalue())
    assert len(set(colours)) >= 3
    bare = re.sub(r"\x1b\[[\d;]+m", "", bright.getvalue())
    assert "  <s>a|b\\n\n  [bold]" in bare
    assert len(re.findall(r"(?<!\\)\|", separated(shown[0].tokens))) == len(shown[0].ids) - 1
