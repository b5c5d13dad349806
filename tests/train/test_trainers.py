"""Each trainer's loss against the model alone: one text at a time, no padding, no batch."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from checkpoints import fresh
from test_losses import CHOSEN, PROMPT, REJECTED, pair
from transformers import TrainingArguments

from descant.train.batches import Collator
from descant.train.trainers import ArmTrainer, DpoTrainer, RewardTrainer, evaluated

TARGETS = ["q_proj", "v_proj"]


def by_hand(model: Any, response: list[int], mean: bool = False) -> float:
    """log π(response | prompt), a token at a time."""
    total = 0.0
    for place, token in enumerate(response):
        logits = model(input_ids=torch.tensor([[*PROMPT, *response[:place]]])).logits[0, -1]
        total += float(torch.log_softmax(logits.double(), dim=-1)[token].detach())
    return total / len(response) if mean else total


def loss(trainer: Any) -> float:
    batch = Collator(0)([pair(), pair()])
    return float(trainer.compute_loss(trainer.model, batch).detach())


def softplus(margin: float) -> float:
    return math.log1p(math.exp(-margin))


@pytest.fixture
def arguments(tmp_path: Any) -> dict[str, Any]:
    return {"args": TrainingArguments(str(tmp_path), use_cpu=True)}


@pytest.mark.parametrize("mean", [False, True])
def test_arm(zoo: Any, arguments: Any, mean: bool) -> None:
    model = fresh(zoo.path("base"))
    margin = by_hand(model, CHOSEN, mean) - by_hand(model, REJECTED, mean)
    trainer = ArmTrainer(model=model, beta=0.3, mean=mean, **arguments)
    assert loss(trainer) == pytest.approx(softplus(0.3 * margin), rel=1e-4)


@pytest.mark.parametrize("lora", [False, True])
def test_dpo_compares_with_the_model_as_it_began(zoo: Any, arguments: Any, lora: bool) -> None:
    began = zoo.model("base")
    model = fresh(zoo.path("base"))
    if lora:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False, lora_dropout=0.1)
        model = get_peft_model(model, config).eval()
    trainer = DpoTrainer(model=model, beta=0.2, **arguments)
    if not lora:
        assert loss(trainer) == pytest.approx(math.log(2))  # nothing is learnt yet
        for weight in model.parameters():
            weight.data += 0.02 * torch.randn(weight.shape, generator=seeded(weight))
    margin = (by_hand(model, CHOSEN) - by_hand(began, CHOSEN)) - (
        by_hand(model, REJECTED) - by_hand(began, REJECTED)
    )
    assert abs(margin) > 0.1
    assert loss(trainer) == pytest.approx(softplus(0.2 * margin), rel=1e-4)


def seeded(weight: torch.Tensor) -> torch.Generator:
    return torch.Generator().manual_seed(weight.numel())


@pytest.mark.parametrize("name", ["rm", "rm_eos"])
def test_reward_reads_the_last_token_even_where_it_is_the_padding(
    zoo: Any, arguments: Any, name: str
) -> None:
    model = fresh(zoo.path(name))

    def alone(response: list[int]) -> float:
        hidden = model.model(input_ids=torch.tensor([[*PROMPT, *response]])).last_hidden_state
        return float(model.score(hidden)[0, -1, 0].detach())

    margin = alone(CHOSEN) - alone(REJECTED)
    assert loss(RewardTrainer(model=model, **arguments)) == pytest.approx(
        softplus(margin), rel=1e-4
    )


def test_an_encoder_rewards_whole_texts(arguments: Any) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                   intermediate_size=16, num_labels=1, initializer_range=0.5)
    ).eval()  # fmt: skip
    sides = [model(torch.tensor([[*PROMPT, *said]])).logits.item() for said in (CHOSEN, REJECTED)]
    trainer = RewardTrainer(model=model, **arguments)
    assert loss(trainer) == pytest.approx(softplus(sides[0] - sides[1]), rel=1e-4)


def test_the_metrics_by_hand() -> None:
    from transformers import EvalPrediction

    rewards = torch.tensor([[2.0, -1.0], [0.0, 0.0], [-0.5, 1.0], [1.0, 0.0]]).numpy()
    assert evaluated(EvalPrediction(rewards, rewards)) == {
        "loss": pytest.approx((softplus(3) + softplus(0) + softplus(-1.5) + softplus(1)) / 4),
        "rewards/chosen": pytest.approx(2.5 / 4),
        "rewards/rejected": pytest.approx(0.0),
        "rewards/accuracies": pytest.approx(2 / 4),
        "rewards/margins": pytest.approx((3 - 1.5 + 1) / 4),
    }


def test_accumulated_batches_are_one_batch(zoo: Any, tmp_path: Any) -> None:
    """Two batches of 2 in one step change the weights as one batch of 4 does."""
    pairs = [pair() | {"input_ids": [*PROMPT, token], "labels": [-100] * 3 + [token]}
             for token in range(10, 18)]  # fmt: skip
    ends = []
    for size, steps in ((4, 1), (2, 2)):
        model = copy.deepcopy(zoo.model("base"))
        arguments = TrainingArguments(
            str(tmp_path), use_cpu=True, per_device_train_batch_size=size, max_steps=2,
            gradient_accumulation_steps=steps, save_strategy="no", remove_unused_columns=False,
            optim="sgd", learning_rate=1e-2, max_grad_norm=0, disable_tqdm=True,
        )  # fmt: skip
        ArmTrainer(
            model=model, beta=0.1, args=arguments, train_dataset=pairs,
            data_collator=Collator(0),
        ).train()  # fmt: skip
        ends.append(model.lm_head.weight.detach())
    assert (ends[0] - zoo.model("base").lm_head.weight).abs().max() > 1e-5
    torch.testing.assert_close(ends[0], ends[1], atol=1e-6, rtol=1e-4)
