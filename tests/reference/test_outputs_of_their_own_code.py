"""The methods' published implementations gave these tokens, scores and rewards; so do we.

The outputs are those of language-model-arithmetic, ARGS and proxy-tuning on small checkpoints; what
each case holds is in the README beside them. Without that folder the tests are skipped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import descant

EOS, TOLERANCE = 2, 1e-4
ARITHMETIC = [
    "ma_base",
    "ma_gpt2",
    "ma_proxy",
    "ma_base_p_1.0xarm1",
    "ma_base_p_0.5xarm1_p_0.5xarm2",
    "ma_base_m_0.6xarm1",
    "ma_union",
    "ma_intersection",
    "ma_selfdebias",
    "ma_topk10_p_arm1",
    "ma_classifier",
]
READS_TEXT = {"ma_classifier": "clf2"}  # the reference decodes, and encodes again
GREEDY = [
    *ARITHMETIC,
    "dexperts_a1.0",
    "args_greedy_k10_w1.5",
    "args_greedy_k10_w0",
]
ARGS = ["args_greedy_k10_w1.5", "args_greedy_k10_w0", "args_stochastic_k10_w1.5_t0.7"]


class Case:
    """One case: what was asked, and what came out."""

    def __init__(self, folder: Path, name: str) -> None:
        self.said: dict[str, Any] = json.loads((folder / "cases" / f"{name}.json").read_text())
        self.arrays = dict(np.load(folder / "cases" / f"{name}.npz"))
        self.models = {
            one: {"path": str(folder / "models" / one), "read": "text" if text else None}
            for one in self.said["models"]
            for text in [READS_TEXT.get(name) == one]
        }
        self.prompts: dict[str, Any] = self.said["prompts"]

    def decoder(self, formula: str | None = None) -> descant.Decoder:
        return descant.compile(formula or self.said["formula"], self.models, dtype="float32")

    def generated(self, prompt: str) -> list[int]:
        """The reference's tokens, up to the first EOS, at which ours stops."""
        tokens = self.prompts[prompt]["generated"]
        return tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens


def logprobs(values: np.ndarray) -> torch.Tensor:
    return torch.log_softmax(torch.from_numpy(values).double(), -1).float()


@pytest.mark.parametrize("name", GREEDY)
def test_tokens(reference, name) -> None:
    case = Case(reference, name)
    ids = [said["prompt_ids"] for said in case.prompts.values()]
    decoder = case.decoder()
    for batch_size in (1, len(ids)):
        found = decoder.generate(ids, max_new_tokens=48, batch_size=batch_size)
        for prompt, one in zip(case.prompts, found, strict=True):
            assert one.token_ids == case.generated(prompt), prompt


@pytest.mark.parametrize("name", ARITHMETIC)
def test_vectors_of_language_model_arithmetic(reference, name) -> None:
    case = Case(reference, name)
    assert case.arrays
    for prompt, expected in case.arrays.items():
        made = case.generated(prompt)[: len(expected) - 1]
        found = case.decoder().scores(case.prompts[prompt]["prompt_ids"], made)
        for row, one in zip(found, expected, strict=False):
            kept = torch.from_numpy(one) > -1e7
            assert torch.equal(row > -torch.inf, kept)
            difference = torch.log_softmax(row, -1)[kept] - logprobs(one)[kept]
            assert difference.abs().max() < TOLERANCE


def test_logits_of_proxy_tuning(reference) -> None:
    case = Case(reference, "dexperts_a1.0")
    formulas = {
        "logits_dexperts": case.said["formula"],
        "logits_base": "strong",
        "logits_expert": "arm1",
        "logits_antiexpert": "base",
    }
    assert {key.split("/")[1] for key in case.arrays} == set(formulas)
    for key, expected in case.arrays.items():
        prompt, which = key.split("/")
        made = case.generated(prompt)[: len(expected) - 1]
        decoder = case.decoder(formulas[which])
        found = decoder.scores(case.prompts[prompt]["prompt_ids"], made)
        difference = torch.log_softmax(found, -1) - logprobs(expected)[: len(found)]
        assert difference.abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ARGS)
def test_candidates_and_scores_of_args(reference, name) -> None:
    """Logits, rewards and scores of every step, the reference's own tokens being forced."""
    case = Case(reference, name)
    formula = case.said["formula"]
    weight = float(formula.split("w=")[1].rstrip(")"))
    decoder = case.decoder()
    bare = case.decoder(formula.split("|")[0])
    for prompt, said in case.prompts.items():
        made, arrays = case.generated(prompt), case.arrays
        found = decoder.scores(said["prompt_ids"], made[:-1])
        plain = bare.scores(said["prompt_ids"], made[:-1])
        for step, row in enumerate(found):
            ids = said["candidates"][step]
            assert set(row.isfinite().nonzero()[:, 0].tolist()) == set(ids)
            at = lambda key: torch.as_tensor(arrays[f"{prompt}/{key}"][step])  # noqa: B023, E731
            raw = plain[step][ids] + at("logsumexp")
            torch.testing.assert_close(raw, at("logits"), atol=TOLERANCE, rtol=0)
            scores = row[ids] + at("logsumexp")
            torch.testing.assert_close(scores, at("scores"), atol=TOLERANCE, rtol=0)
            if weight:
                rewards = (row[ids] - plain[step][ids]) / weight
                torch.testing.assert_close(rewards, at("rewards"), atol=TOLERANCE, rtol=0)
            if case.said["temperature"]:
                drawn = torch.softmax(row / case.said["temperature"], -1)[ids]
                torch.testing.assert_close(drawn, at("probs"), atol=TOLERANCE, rtol=0)


def test_the_comparison_can_fail(reference) -> None:
    """Another formula gives other tokens, and a batch of absolute positions needs them explicit."""
    case = Case(reference, "args_greedy_k10_w1.5")
    ids = [said["prompt_ids"] for said in case.prompts.values()]
    found = case.decoder("base | rerank(rm, k=10, w=1.2)").generate(ids, max_new_tokens=48)
    expected = [case.generated(prompt) for prompt in case.prompts]
    assert [one.token_ids for one in found] != expected


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_absolute_positions_in_a_batch(reference, name) -> None:
    """Left padding without positions changes 7 of 8 texts here; rows of their own lengths none."""
    prompts = [said["prompt_ids"] for said in Case(reference, "ma_gpt2").prompts.values()]
    assert len({len(ids) for ids in prompts}) > 2
    decoder = descant.compile(name, {name: str(reference / "models" / name)}, dtype="float32")
    together = decoder.generate(prompts, max_new_tokens=32)
    alone = [decoder.generate(ids, max_new_tokens=32)[0] for ids in prompts]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]


def test_the_reward_of_a_final_eos(reference) -> None:
    """With padding = EOS, transformers' head gives the EOS candidate the bare prefix's reward."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = str(reference / "models" / "rm")
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    model.config.pad_token_id = EOS
    spec = {"model": model, "tokenizer": AutoTokenizer.from_pretrained(folder)}
    models = {"base": str(reference / "models" / "base"), "rm": spec}
    decoder = descant.compile("base | rerank(rm, k=1600, w=1)", models, dtype="float32")
    prompt = Case(reference, "ma_base").prompts["p1_short"]["prompt_ids"]
    lm = descant.compile("base", {"base": models["base"]}, dtype="float32").scores(prompt, [])
    rewards = (decoder.scores(prompt, []) - lm)[0]
    with torch.no_grad():
        hidden = model.model(input_ids=torch.tensor([[*prompt, EOS]])).last_hidden_state
        own, before = model.score(hidden)[0, -1].item(), model.score(hidden)[0, -2].item()
    assert rewards[EOS].item() == pytest.approx(own, abs=1e-4)
    assert rewards[EOS].item() != pytest.approx(before, abs=1e-2)
