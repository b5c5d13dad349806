"""Models in memory stay their owner's: mode, hooks, gradients; decoding is in evaluation mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checkpoints import llama, tokenizer
from peft import IA3Config, LoraConfig, PrefixTuningConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForSequenceClassification

import descant
from descant import ModelError

IDS, SETTINGS = [5, 60, 70, 80], {"max_new_tokens": 6, "temperature": 0, "eos_token_id": []}


def with_dropout() -> Any:
    torch.manual_seed(4)
    return llama(attention_dropout=0.5)


def decoder(model: Any, formula: str = "m", **more: Any) -> Any:
    return descant.compile(formula, {"m": {"model": model, "tokenizer": tokenizer()}, **more})


def state(model: nn.Module) -> list[Any]:
    """What its owner may see of a model."""
    return [
        (name, module.training, list(module._forward_hooks), list(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]


def test_every_way_of_reading_it_leaves_a_model_as_it_was() -> None:
    model = with_dropout()
    expected = decoder(with_dropout().eval())
    model.train()
    model.model.layers[0].eval()  # a mode for each module
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, config = state(model), model.config.to_dict()
    one = decoder(model)
    for read in (
        lambda d: [a.token_ids for a in d.generate([IDS, IDS[:2]], **SETTINGS)],
        lambda d: d.scores(IDS, [9, 10]).tolist(),
        lambda d: d.loglikelihood([IDS], [[9, 10]])[0].logprobs,
        lambda d: [*d.stream(IDS, **SETTINGS)],
    ):
        assert read(one) == read(expected)
        assert state(model) == before and model.config.to_dict() == config
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    pieces = one.stream(IDS, **SETTINGS)
    next(pieces)
    assert state(model) == before  # between two steps, too


def test_decoding_follows_weights_and_not_modes() -> None:
    model = with_dropout().eval()
    one = decoder(model)
    first = one.generate([IDS], **SETTINGS)[0].token_ids
    model.train()
    model.gradient_checkpointing_enable()
    assert one.generate([IDS], **SETTINGS)[0].token_ids == first
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    later = one.generate([IDS], **SETTINGS)[0].token_ids
    assert later == decoder(model.eval()).generate([IDS], **SETTINGS)[0].token_ids != first


def test_a_model_whose_forward_fails_is_left_as_it_was() -> None:
    model = with_dropout().train()
    one, before = decoder(model), state(model)
    model.model.norm.forward = None
    with pytest.raises(TypeError):
        one.generate([IDS], **SETTINGS)
    assert state(model) == before


@pytest.mark.parametrize("formula", ["m | rerank(r, k=3, w=1)", "m | best_of(r, n=2)"])
def test_a_reward_that_is_trained_scores_without_dropout(formula) -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.dropout = nn.Linear(32, 1), nn.Dropout(0.5)

        def forward(self, hidden: Any) -> Any:
            return self.linear(self.dropout(hidden))

    torch.manual_seed(1)
    config = LlamaConfig(**{**llama().config.to_dict(), "num_labels": 1, "attention_dropout": 0.5})
    reward = LlamaForSequenceClassification(config)
    reward.score = Dropping()
    spec = {"model": reward, "tokenizer": tokenizer()}
    answers = []
    for mode in (True, False):
        reward.train(mode)
        one = decoder(with_dropout().train(mode), formula, r=spec)
        made = one.generate([IDS], **{**SETTINGS, "temperature": 1.0, "seed": 2})
        answers.append(made[0].token_ids)
        assert reward.score.dropout.training is mode
        answers.append(descant.score("r", ["a stone"], ["in the river"], models={"r": spec}))
    assert answers[:2] == answers[2:]


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4, target_modules=["q_proj", "up_proj"], lora_dropout=0.5),
        LoraConfig(r=4, target_modules=["q_proj"], use_dora=True),
        IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ],
    ids=["lora", "dora", "ia3"],
)
def test_a_peft_model_is_a_term_between_two_updates(config) -> None:
    torch.manual_seed(7)
    policy = get_peft_model(with_dropout(), config)
    one = decoder(policy, "m - 0.5*base", base=decoder_base())
    optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=5.0)
    said = []
    for _ in range(2):
        policy.train()
        loss = policy(torch.tensor([IDS]), labels=torch.tensor([IDS])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        scores = one.scores(IDS, [])[0]
        assert policy.training
        policy.eval()
        with torch.no_grad():
            own = policy(torch.tensor([IDS])).logits[0, -1].log_softmax(-1)
            base = with_dropout().eval()(torch.tensor([IDS])).logits[0, -1].log_softmax(-1)
        assert torch.allclose(scores, own - 0.5 * base, atol=1e-4)
        said.append(scores)
    assert not torch.allclose(*said)


def decoder_base() -> dict[str, Any]:
    return {"model": with_dropout().eval(), "tokenizer": tokenizer()}


def test_a_peft_model_that_reads_more_than_its_prompt_is_named() -> None:
    config = PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    model = get_peft_model(with_dropout(), config)
    with pytest.raises(ModelError, match="a model with PREFIX_TUNING reads more than its prompt"):
        decoder(model)
    with pytest.raises(ModelError, match="the model m: "):
        descant.compile("m", {"m": model})
