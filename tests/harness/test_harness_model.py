"""Formulas in lm-evaluation-harness, against its own ``hf`` model and plain computations."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from doc_pages import Page
from typer.testing import CliRunner

import descant
from descant import TableModel
from descant.cli import app
from descant.extras import pip_install
from descant.inputs.runfile import RunFileError

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from descant.harness.model import DescantLM  # noqa: E402

ROOT = Path(__file__).parents[2]
RUN = "examples/evaluation/formulas.yaml"
TASKS = ["descant_helpful", "descant_steps", "descant_replies"]


@pytest.fixture
def here(monkeypatch, tmp_path_factory) -> None:
    """At the repository's root, and with a cache of datasets that is thrown away."""
    import datasets

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


def evaluated(model: Any, tasks: list[str] = TASKS, **more: Any) -> Any:
    manager = TaskManager(include_path="examples/evaluation", include_defaults=False)
    return lm_eval.simple_evaluate(
        model, tasks=tasks, task_manager=manager, bootstrap_iters=0, **more
    )


def numbers(results: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in results.items() if isinstance(value, float)}


def test_one_model_is_the_harness_own_model(here) -> None:
    """On three tasks: every metric, every likelihood, every answer."""
    ours = evaluated(DescantLM(RUN, formula="base", batch_size=8))
    hf = HFLM("descant/demo/weights/base", dtype="float32", device="cpu", batch_size=8)
    theirs = evaluated(hf)
    for task in TASKS:
        mine, other = numbers(ours["results"][task]), numbers(theirs["results"][task])
        assert mine and mine == pytest.approx(other, rel=1e-5)
        for one, two in zip(ours["samples"][task], theirs["samples"][task], strict=True):
            assert one["arguments"] == two["arguments"]
            for [said], [expected] in zip(one["resps"], two["resps"], strict=True):
                if isinstance(said, str):
                    assert said == expected
                elif isinstance(said, float):
                    assert said == pytest.approx(expected, abs=1e-3)
                else:
                    assert said[0] == pytest.approx(expected[0], abs=1e-4)
                    assert said[1] == expected[1]
    assert ours["results"]["descant_helpful"]["acc,none"] > 0
    assert ours["config"]["formula"] == "base"


def test_two_models_are_the_sum(here) -> None:
    """The example's other formula, each reply scored by plain forwards of peft and transformers."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from descant.demo import WEIGHTS

    ours = evaluated(DescantLM(RUN, formula="helpful", a=1.5, batch_size=6), TASKS[:1], limit=8)
    base, arm = (
        AutoModelForCausalLM.from_pretrained(WEIGHTS / "base", dtype=torch.float32).eval()
        for _ in range(2)
    )
    arm = PeftModel.from_pretrained(arm, WEIGHTS / "arm_help").eval()
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / "base")
    compared = 0
    for sample in ours["samples"]["descant_helpful"]:
        for (context, reply), [said] in zip(sample["arguments"], sample["resps"], strict=True):
            before = tokenizer(context.rstrip())["input_ids"]  # the harness moves spaces on
            ids = tokenizer(context + reply)["input_ids"]
            with torch.no_grad():
                one, two = (torch.log_softmax(m(torch.tensor([ids])).logits[0], -1)
                            for m in (base, arm))  # fmt: skip
            spread = torch.log_softmax(one + 1.5 * two, -1)[len(before) - 1 : -1]
            after = torch.tensor(ids[len(before) :])
            assert said[0] == pytest.approx(float(spread.gather(1, after[:, None]).sum()), abs=1e-3)
            assert said[1] == bool((spread.argmax(-1) == after).all())
            compared += 1
    assert compared == 16


def test_the_page_says_what_happens(here) -> None:
    page = Page("docs/evaluation.md")
    [(_, out)] = page.run("import lm_eval")
    assert out.strip().endswith("1.0")
    for formula, column in (("base", 3), ("helpful", 4)):
        found = evaluated(DescantLM(RUN, formula=formula, batch_size=8))["results"]
        for task, metric in (
            ("descant_helpful", "acc_norm,none"), ("descant_steps", "exact_match,number"),
            ("descant_replies", "word_perplexity,none"),
        ):  # fmt: skip
            [row] = [line for line in page.text.splitlines() if line.startswith(f"| `{task}`")]
            said = float(row.split("|")[column])
            assert found[task][metric] == pytest.approx(said, abs=0.005)


PAIRS = [
    ("the river goes", " on"), ("the river goes", " to"), ("the river goes", " on to the sea"),
    ("the river goes ", "on"), ("", "a small stone"), ("", " the"), ("<s>the river", " goes"),
    ("the quick brown fox jumps over the lazy dog; " * 5, "the dog sleeps on"),
    ("x", " the quick brown fox jumps over the lazy dog;" * 3), ("a\n\n", "def add(one, two):"),
]  # fmt: skip
LONG = "the quick brown fox jumps over the lazy dog; the dog sleeps on and the river goes "


def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]


@pytest.mark.parametrize(
    "settings", [{}, {"max_length": 80}, {"add_bos_token": False}, {"prefix_token_id": 2}]
)
def test_contexts_and_windows_are_those_of_the_harness(zoo, settings) -> None:
    """Spaces at a seam, no context, one that is too long, texts of several windows."""
    path = zoo.path("base")
    hf = HFLM(path, dtype="float32", device="cpu", batch_size=4, **settings)
    ours = DescantLM(descant.compile("base", {"base": path}), batch_size=3, **settings)
    assert (ours.max_length, ours.prefix_token_id) == (hf.max_length, hf.prefix_token_id)
    requests = asked("loglikelihood", *PAIRS)
    mine, theirs = (model.loglikelihood(requests, disable_tqdm=True) for model in (ours, hf))
    for one, two in zip(mine, theirs, strict=True):
        assert one[0] == pytest.approx(two[0], abs=1e-3, rel=1e-5) and one[1] == two[1]
    sizes = ((80, 3), (33, 1), (80, 4), (1, 1), (70, 7))
    texts = asked("loglikelihood_rolling", *((LONG[:n] * k,) for n, k in sizes))
    mine, theirs = (m.loglikelihood_rolling(texts, disable_tqdm=True) for m in (ours, hf))
    assert mine == pytest.approx(theirs, abs=1e-3, rel=1e-5)


def test_every_length_of_a_last_window(zoo) -> None:
    path = zoo.path("base")
    hf = HFLM(path, dtype="float32", device="cpu", batch_size=8, max_length=8)
    ours = DescantLM(descant.compile("base", {"base": path}), batch_size=8, max_length=8)
    texts = asked("loglikelihood_rolling", *((LONG[:n],) for n in range(5, 60, 3)))
    mine, theirs = (m.loglikelihood_rolling(texts, disable_tqdm=True) for m in (ours, hf))
    assert mine == pytest.approx(theirs, abs=1e-3, rel=1e-5)


def test_answers_are_those_of_the_harness(zoo) -> None:
    """Stops, lengths of answers, and contexts that lose their beginning."""
    path = zoo.path("base")
    hf = HFLM(path, dtype="float32", device="cpu", batch_size=1)
    ours = DescantLM(descant.compile("base", {"base": path}), batch_size=4)
    greedy = {"until": ["e", "\n"], "max_gen_toks": 12, "do_sample": False}
    settings = [greedy, {**greedy, "until": "zz", "temperature": 0.0, "top_p": 0.5},
                {"until": [], "max_gen_toks": 100}]  # fmt: skip
    requests = asked("generate_until", *((text, dict(one)) for one in settings for text in
                                         ("the river", "a", LONG, "<s>def")))  # fmt: skip
    mine = ours.generate_until(requests, disable_tqdm=True)
    assert mine == hf.generate_until(requests, disable_tqdm=True)
    assert len(set(mine)) > 6


def test_draws_have_a_seed(compiled) -> None:
    decoder = compiled("base + 0.5*arm")
    draw = {"until": ["\n"], "do_sample": True, "temperature": 1.0, "max_gen_toks": 8}
    requests = asked("generate_until", *[("the river", draw)] * 3)
    one, two, other = (
        DescantLM(decoder, batch_size=size, seed=seed).generate_until(requests, disable_tqdm=True)
        for size, seed in ((1, 0), (3, 0), (3, 9))
    )
    assert one == two != other and len(set(one)) == 3
    fields = {"top_p": 0.6, "repetition_penalty": 1.4, "top_k": 0}
    with_fields = asked("generate_until", ("the river", {**draw, **fields}))
    [found] = DescantLM(decoder, seed=0).generate_until(with_fields, disable_tqdm=True)
    settings = {"max_new_tokens": 8, "stop_strings": ["\n"], "seed": 0, "temperature": 1.0}
    [expected] = decoder.generate("the river", **settings, top_p=0.6, repetition_penalty=1.4)
    assert found == expected.text != one[0]
    full = asked("generate_until", ("the river", {**draw, "max_gen_toks": 128}))
    with pytest.raises(ValueError, match="max_gen_toks is 128 and texts have at most 128"):
        DescantLM(decoder).generate_until(full)


def test_components_are_drawn_where_a_task_asks_for_it(compiled) -> None:
    decoder, seeds = compiled("mix(0.6: base, 0.4: arm)"), [0, 1, 2]
    draw = {"until": ["\n"], "do_sample": True, "temperature": 1.0, "max_gen_toks": 8}
    task = asked("generate_until", *[("the river", {**draw, "sample_components": True})] * 3)
    found = DescantLM(decoder).generate_until(task, disable_tqdm=True)
    settings = {"max_new_tokens": 8, "stop_strings": ["\n"], "seed": seeds}
    expected = decoder.generate(["the river"] * 3, sample_components=True, **settings)
    assert found == [one.text for one in expected]
    cold = {**draw, "do_sample": False, "sample_components": True}
    greedy = asked("generate_until", ("x", cold))
    with pytest.raises(ValueError, match="at temperature 1, and not at 0"):
        DescantLM(decoder).generate_until(greedy, disable_tqdm=True)


@pytest.mark.parametrize("draft", ["arm", "base | top_k(9)", "prompt", "auto"])
def test_drafts_change_no_answer(compiled, draft) -> None:
    draw = {"until": ["e"], "do_sample": True, "temperature": 0.7, "max_gen_toks": 12}
    tasks = [draw, {**draw, "do_sample": False}, {**draw, "draft": draft, "draft_length": 2}]
    requests = [asked("generate_until", *[("the river", task)] * 3) for task in tasks[:2]]
    decoder, plain = compiled("base + 0.5*arm"), DescantLM(compiled("base + 0.5*arm"), batch_size=2)
    model = DescantLM(decoder, batch_size=2, draft=draft, draft_length=3)
    for each in requests:
        assert model.generate_until(each, True) == plain.generate_until(each, True)
    pairs = asked("loglikelihood", *PAIRS)
    assert model.loglikelihood(pairs, True) == plain.loglikelihood(pairs, True)
    assert "drafted  " not in str(decoder.plan)
    own = DescantLM(decoder, batch_size=2)
    said = own.generate_until(asked("generate_until", *[("the river", tasks[2])] * 3), True)
    assert said == plain.generate_until(requests[0], True)
    assert ("drafted  " in str(decoder.plan)) or draft in ("prompt", "auto")


def test_drafts_that_cannot_be_are_refused_at_once(compiled) -> None:
    with pytest.raises(descant.FormulaError, match="did you mean arm"):
        DescantLM(compiled("base + 0.5*arm"), draft="armm")
    with pytest.raises(ValueError, match="give draft, too"):
        DescantLM(compiled("base"), draft_length=3)


def test_a_search_has_answers_and_no_likelihood(compiled) -> None:
    model = DescantLM(compiled("base | best_of(rm, n=3)"), batch_size=2)
    [made] = model.generate_until(
        asked("generate_until", ("the river", {"until": ["zz"], "max_gen_toks": 6})), True
    )
    assert made
    for verb, arguments in (("loglikelihood", PAIRS[0]), ("loglikelihood_rolling", ("the",))):
        with pytest.raises(ValueError, match=r"best_of: it chooses among whole texts; generate"):
            getattr(model, verb)(asked(verb, arguments))


def test_chat_templates(zoo, compiled) -> None:
    hf = HFLM(zoo.path("base"), dtype="float32", device="cpu")
    ours = DescantLM(compiled("base"))
    chat = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "the river"}]
    begun = [*chat, {"role": "assistant", "content": "goes"}]
    for messages, prompt in ((chat, True), (begun, False)):
        assert ours.apply_chat_template(messages, prompt) == hf.apply_chat_template(
            messages, prompt
        )
    assert ours.chat_template(True) == hf.chat_template(True)
    assert ours.tokenizer_name == hf.tokenizer_name


def test_each_model_may_have_its_own_template(zoo) -> None:
    """A context is a prompt, or messages, that every model and variant renders for itself."""
    base = {"path": zoo.path("base")}
    decoder = descant.compile(
        'base + 0.5*other@"be kind" - 0.3*base@none',
        {"base": base, "other": {"path": zoo.path("arm"), "template": "{system}|Q: {prompt} A:"}},
    )
    with pytest.raises(ValueError, match=r"another system prompt(.*\n)+.*templates=True"):
        DescantLM(decoder)
    model = DescantLM(decoder, templates=True, batch_size=2)
    chat = [{"role": "user", "content": "the river"}]
    contexts = ["the river", model.apply_chat_template(chat)]
    found = model.loglikelihood(asked("loglikelihood", *((c, " goes on") for c in contexts)), True)
    ids = decoder.tokenizer(" goes on", add_special_tokens=False)["input_ids"]
    for prompt, (total, _) in zip(("the river", chat), found, strict=True):
        spread = torch.log_softmax(decoder.scores(prompt, ids), -1)
        assert total == pytest.approx(sum(float(spread[i, t]) for i, t in enumerate(ids)), abs=1e-3)
    [made] = model.generate_until(
        asked("generate_until", (contexts[1], {"until": ["zz"], "max_gen_toks": 5})), True
    )
    assert made == decoder.generate([chat], max_new_tokens=5)[0].text


def test_the_harness_text_is_raw_and_no_warning(compiled, caplog) -> None:
    """Contexts are token ids; with templates of their own, models that have none are named."""
    settings = {"until": ["zz"], "max_gen_toks": 3}
    decoder = compiled("base")
    for templates in (False, True):
        model = DescantLM(decoder, templates=templates)
        model.loglikelihood(asked("loglikelihood", ("the river", " goes on")), True)
        model.loglikelihood_rolling(asked("loglikelihood_rolling", ("the sea",)), True)
        assert not caplog.messages
        model.generate_until(asked("generate_until", ("the", settings)), True)
    [warning] = caplog.messages
    assert warning.startswith("base: text is read as it is")


def test_what_was_said_is_kept_at_once(compiled) -> None:
    kept: list[Any] = []

    class Hook:
        def add_partial(self, *given: Any) -> None:
            kept.append(given)

    model = DescantLM(compiled("base"))
    model.set_cache_hook(Hook())
    [said] = model.loglikelihood(asked("loglikelihood", PAIRS[0]), True)
    [whole] = model.loglikelihood_rolling(asked("loglikelihood_rolling", ("the sea",)), True)
    settings = {"until": ["zz"], "max_gen_toks": 3}
    [made] = model.generate_until(asked("generate_until", ("the", settings)), True)
    assert kept == [
        ("loglikelihood", PAIRS[0], said), ("loglikelihood_rolling", ("the sea",), whole),
        ("generate_until", ("the", settings), made),
    ]  # fmt: skip


@pytest.mark.slow  # the harness reads all of its tasks
def test_the_command_line(here, tmp_path) -> None:
    """The example as its first lines say, with options of the harness passed on to it."""
    found = CliRunner().invoke(app, [
        "eval", RUN, "--include_path", "examples/evaluation", "--tasks", "descant_steps",
        "--model_args", "formula=helpful", "a=1.5", "--batch_size", "8", "--limit", "4",
        "--output_path", str(tmp_path), "--log_samples",
    ])  # fmt: skip
    assert found.exit_code == 0, found.output
    [file] = tmp_path.rglob("results_*.json")
    said = json.loads(file.read_text())
    assert said["config"]["formula"] == "base + a*arm_help"
    assert said["config"]["params"] == {"a": 1.5}
    assert said["results"]["descant_steps"]["exact_match,number"] == 1.0
    [samples] = tmp_path.rglob("samples_*.jsonl")
    assert len(samples.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((RUN,), "has several formulas .base, helpful.; choose one with formula="),
        ((RUN, "helpfull"), "there is no formula helpfull; did you mean helpful"),
        (("nowhere.yaml",), "there is no run file"),
    ],
)
def test_what_is_wrong_with_a_run_file(here, arguments, says) -> None:
    with pytest.raises(RunFileError, match=says):
        DescantLM(*arguments)


def test_what_is_wrong_otherwise(here, compiled) -> None:
    with pytest.raises(ValueError, match="has no parameter b; known here: a"):
        DescantLM(compiled("base + a*arm", params={"a": 1}), b=1)
    with pytest.raises(ValueError, match="these models have no tokenizer"):
        DescantLM(descant.compile("base", {"base": TableModel.random(5, seed=0)}))
    with pytest.raises(ValueError, match="a decoder has its own"):
        DescantLM(compiled("base"), formula="base")
    with pytest.raises(ValueError, match="leaves no room for a context"):
        DescantLM(compiled("base"), max_length=2).loglikelihood(asked("loglikelihood", PAIRS[2]))
    found = CliRunner().invoke(app, ["eval", RUN, "--model", "hf", "--tasks", "x"])
    assert "leave --model out" in str(found.exception)
    found = CliRunner().invoke(app, ["eval", "nowhere.yaml", "--tasks", "x"])
    assert "there is no run file nowhere.yaml" in str(found.exception)


def test_without_the_harness_the_command_says_what_it_needs(here, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", None)
    found = CliRunner().invoke(app, ["eval", RUN, "--tasks", "x"])
    assert pip_install("eval") in str(found.exception)
