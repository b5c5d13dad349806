"""ARGS' own class, called as its README calls it: its own outputs, and its rule in plain code."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from checkpoints import BOS, EOS, tokenizer
from reference_rules import args as rules
from reference_rules.plain import logprobs, reward
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import descant
from descant.compat.args import ARGS
from descant.compat.refused import Untranslatable


@pytest.fixture(scope="module")
def theirs(reference):
    folder = reference / "models"
    return ARGS(
        llm_path=str(folder / "base"), rm_path=str(folder / "rm"), llm_dev="cpu", rm_dev="cpu",
        torch_dtype=torch.float32,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["args_greedy_k10_w1.5", "args_greedy_k10_w0"])
def test_tokens_of_its_own_code(reference, theirs, name):
    """Token for token; ARGS' own code goes on past an end of text."""
    said = json.loads((reference / "cases" / f"{name}.json").read_text())
    weight = said["original"]["weight"]
    for one in said["prompts"].values():
        asked = {"topk": 10, "weight": weight, "max_new_token": 48}
        found = theirs.generate(one["text"], method="greedy", stop_at_eos=False, **asked)
        assert found.tolist() == [one["prompt_ids"] + one["generated"]]
        [text] = theirs.tokens_to_text(found)
        assert text.startswith(one["text"])


def test_its_stochastic_method_draws_from_its_probabilities(reference, theirs):
    """At each of the reference's first steps: its candidates, as often as its code draws them."""
    import numpy as np

    name = "args_stochastic_k10_w1.5_t0.7"
    said = json.loads((reference / "cases" / f"{name}.json").read_text())["prompts"]["p1_short"]
    probs = np.load(reference / "cases" / f"{name}.npz")["p1_short/probs"][0]
    expected = dict(zip(said["candidates"][0], probs.tolist(), strict=True))
    torch.manual_seed(0)
    for _ in range(5):
        found = theirs.generate(
            said["text"], topk=10, weight=1.5, max_new_token=1, method="topk", temperature=0.7
        )
        assert found[0, :-1].tolist() == said["prompt_ids"] and int(found[0, -1]) in expected
    many = theirs.decoder.generate(
        said["text"], params={"topk": 10, "weight": 1.5}, temperature=0.7, max_new_tokens=1,
        num_return_sequences=400, seed=0, progress=False,
    )  # fmt: skip
    drawn = [one.token_ids[0] for one in many]
    assert sum(abs(drawn.count(one) / 400 - p) for one, p in expected.items()) / 2 < 0.1


def test_plain_rule(zoo):
    """A prompt that is empty, candidates and weights per call, one decoder for all."""
    base = AutoModelForCausalLM.from_pretrained(zoo.path("base"))
    judge = AutoModelForSequenceClassification.from_pretrained(zoo.path("rm"))
    searcher = ARGS(zoo.path("base"), zoo.path("rm"), "cpu", "cpu", torch.float32)
    for prompt, k, w in (("", 3, 1.0), ("a small stone", 6, 0.7), ("the fox", 1, 2.0)):
        ids = tokenizer()(prompt)["input_ids"]
        assert ids[0] == BOS and searcher.get_input_ids(prompt).tolist() == [ids]
        expected = rules.greedy(base, judge, ids, k, w, 8, EOS)
        found = searcher.generate(prompt, weight=w, topk=k, max_new_token=8)
        assert found.tolist() == [ids + expected]
    ids = tokenizer()("a small")["input_ids"]
    whole = rules.greedy(base, judge, ids, 10, 5.0, 20, None)
    assert EOS in whole[:-1]
    asked = {"weight": 5.0, "topk": 10, "max_new_token": 20}
    for method in ("greedy", "greedy_large"):
        found = searcher.generate("a small", method=method, **asked)
        assert found.tolist() == [ids + whole[: whole.index(EOS) + 1]]
    past = searcher.generate("a small", stop_at_eos=False, **asked)
    assert past.tolist() == [ids + whole]
    ids = tokenizer()("the fox")["input_ids"]
    again = rules.candidates(logprobs(base, ids), lambda text: reward(judge, text), ids, 6, 0.7)
    row = searcher.decoder.scores(ids, [], params={"topk": 6, "weight": 0.7})[0]
    assert {t: row[t].item() for t in again} == pytest.approx(again, abs=1e-4)


def drawn(searcher: ARGS, seed: int) -> Any:
    torch.manual_seed(seed)
    return searcher.generate("a small", topk=8, method="topk", temperature=2.0).tolist()


def test_the_rest_of_the_class(zoo, capsys):
    searcher = ARGS(zoo.path("base"), zoo.path("rm"), "cpu", "cpu", torch.float32)
    assert str(searcher) == searcher.formula == "llm | rerank(rm, k=topk, w=weight)"
    assert searcher.tokenizer.eos_token == "</s>"
    assert drawn(searcher, 1) == drawn(searcher, 1) != drawn(searcher, 2)
    texts = ["a small stone", "the fox"]
    params = {"topk": 4, "weight": [1.0, 2.0]}
    many = searcher.decoder.generate(texts, params=params, max_new_tokens=6)
    for text, weight, one in zip(texts, (1.0, 2.0), many, strict=True):
        alone = searcher.generate(text, weight=weight, topk=4, max_new_token=6)
        assert alone[0].tolist()[-len(one.token_ids) :] == one.token_ids
    with pytest.raises(ValueError, match="Invalid method 'beam'"):
        searcher.generate("a", method="beam")
    with pytest.warns(UserWarning, match="the models read 2048: None"):
        assert searcher.generate("a small stone " * 1000) is None
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"run on cuda:0, and there are 0 GPUs.*rm_dev=: cpu"):
            ARGS(zoo.path("base"), zoo.path("rm"))
    for name, cure in (("LLM", "scores"), ("RM", "score"), ("generate_step", "stream")):
        with pytest.raises(Untranslatable, match=f"ARGS.{name} is not here\n.*{cure}"):
            getattr(searcher, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        searcher.nothing  # noqa: B018
    assert capsys.readouterr().out == ""
    assert descant.compile(searcher.formula, searcher.models, params={"topk": 1, "weight": 0})
