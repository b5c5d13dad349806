"""The benchmark of drafts: its models are what it says, counts are true, differences are seen."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import descant
from bench import draft_models, draft_report, drafts
from bench.draft_cases import ARM, CASES, arms, ids
from bench.draft_models import TINY

IDS = torch.tensor([ids(12, TINY["vocab_size"], 0)])


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=IDS).logits[0]


def test_a_text_is_neither_certain_nor_flat() -> None:
    logprobs = logits(draft_models.language_model(TINY, 0)).log_softmax(-1)
    nats = torch.special.entr(logprobs.exp()).sum(-1)
    assert 1 < nats.mean() < 4
    assert len(set(logprobs.argmax(-1).tolist())) > 6  # what is likely depends on the text


def test_arms_and_further_layers_say_a_little_more() -> None:
    base = draft_models.language_model(TINY, 0)
    expected = logits(base)
    assert torch.equal(logits(draft_models.arm(base, 0.0, 1)), expected)
    torch.testing.assert_close(logits(draft_models.deeper(base, 5, 0.0, 1)), expected)
    for other in (draft_models.arm(base, ARM, 1), draft_models.deeper(base, 5, 0.03, 1)):
        assert 0 < (logits(other) - expected).std() < 0.5 * expected.std()


@pytest.mark.parametrize("sizes", [TINY, draft_models.SMALL], ids=["tiny", "small"])
def test_a_larger_model_reads_six_times_the_weights(sizes) -> None:
    with torch.device("meta"):
        base = draft_models.LlamaForCausalLM(draft_models.config(sizes))
        layers = draft_models.layers_for(sizes, 6)
        larger = draft_models.LlamaForCausalLM(draft_models.config(sizes, num_hidden_layers=layers))
    ratio = draft_models.bytes_per_step(larger) / draft_models.bytes_per_step(base)
    assert ratio == pytest.approx(6, rel=0.05)


def test_a_draft_agrees_with_itself_and_seldom_with_another() -> None:
    models = arms(0.5, TINY)
    case = replace(CASES["arms"], formula="base", new=24)
    assert drafts.agreement(case, models, 1)["agreed"] == 1
    other = drafts.agreement(replace(case, draft="arm_help"), models, 1)
    assert 0 < other["agreed"] < 0.9 and other["tokens"] == 24


def test_forwards_and_positions_are_counted_per_model() -> None:
    models = arms(ARM, TINY)
    case = replace(CASES["arms"], new=6)
    decoder = descant.compile(case.formula, models)
    found = drafts.run(case, decoder, drafts.names_of(models), "none", 0)
    # 32 tokens of the prompt, whose last gives the first token; then a token each
    assert found["models"] == {name: {"forwards": 6, "positions": 37} for name in models}
    assert len(found["tokens"]) == 6 and found["seconds"] > 0


def test_other_answers_are_found() -> None:
    plain = [{"tokens": [1, 2, 3]}, {"tokens": [4, 5]}, {"tokens": [6]}]
    own = [{"tokens": [1, 2, 3]}, {"tokens": [4, 7]}, {"tokens": [6, 8]}]
    assert drafts.differing(own, plain) == {"answers": 2, "of": 3, "first": [1, 1]}
    assert drafts.differing(plain, plain) == {"answers": 0, "of": 3, "first": []}


def test_a_quick_run_is_kept_and_told(tmp_path, capsys) -> None:
    file = tmp_path / "drafts.json"
    for name in ("arms", "nothing repeats"):
        drafts.main([name, "--quick", "--output", str(file)])
    content = json.loads(file.read_text())
    assert list(content["results"]) == ["arms", "nothing repeats"]
    for found in content["results"].values():
        assert {len(runs) for runs in found["runs"].values()} == {2}
        assert all(way["differ"]["answers"] == 0 for way in found["ways"].values())
    by_model = content["results"]["arms"]["ways"]
    forwards = {way: own["models"]["arm_help"]["forwards"] for way, own in by_model.items()}
    assert forwards["draft"] < forwards["none"] / 2
    alone = content["results"]["nothing repeats"]["ways"]
    assert (
        alone["draft"]["models"]["base"]["forwards"] <= alone["none"]["models"]["base"]["forwards"]
    )
    assert "times the tokens per second" in capsys.readouterr().out
    table = file.with_suffix(".md").read_text()
    assert table == draft_report.text(content) and "| arms | none |" in table
