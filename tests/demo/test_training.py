"""The losses against values worked out by hand; prompts and padding must carry none of them."""

from __future__ import annotations

import math
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification  # noqa: E402

from descant.demo.corpus import Pair, Reply, examples  # noqa: E402
from descant.demo.tokenizer import (  # noqa: E402
    encode_prompt,
    encode_response,
    prompt_text,
    train_tokenizer,
)
from descant.demo.training import (  # noqa: E402
    IGNORED,
    ArmTrainer,
    PairCollator,
    RewardTrainer,
    Row,
    Schedule,
    arguments,
    arm_loss,
    encode_pair,
    fit,
    labelled,
    pad,
    reward_loss,
    sequence_log_probs,
    truncated,
)

PROMPT, CHOSEN, REJECTED = [1, 5, 6], [7, 8, 9, 2], [9, 2]


def tiny(kind: Any = LlamaForCausalLM, **extra: Any) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **extra,
    )
    return kind(config)


def by_hand(model: Any, prompt: list[int], response: list[int]) -> float:
    """log π(response | prompt), one token at a time, alone and unpadded."""
    total = 0.0
    for i, token in enumerate(response):
        logits = model(input_ids=torch.tensor([[*prompt, *response[:i]]])).logits[0, -1]
        total += float(torch.log_softmax(logits.double(), dim=-1)[token].detach())
    return total


def pair() -> tuple[Row, Row]:
    return labelled(PROMPT, CHOSEN), labelled(PROMPT, REJECTED)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    drawn = examples(100, 0)
    return train_tokenizer([prompt_text(e.request) + e.reply.text for e in drawn], 400)


def test_sequence_log_probs_is_the_sum_over_the_response() -> None:
    model = tiny()
    batch = pad(pair(), 0)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    got = sequence_log_probs(logits, batch["labels"])
    want = [by_hand(model, PROMPT, CHOSEN), by_hand(model, PROMPT, REJECTED)]
    assert got.tolist() == pytest.approx(want, abs=1e-4)


def test_sequence_log_probs_on_logits_written_by_hand() -> None:
    # Vocabulary of two; position 0 gives token 1 probability 3/4, position 1 gives token 0 1/3.
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, math.log(2)], [50.0, -50.0]]])
    labels = torch.tensor([[IGNORED, 1, 0]])
    assert sequence_log_probs(logits, labels).item() == pytest.approx(math.log(3 / 4 * 1 / 3))
    labels = torch.tensor([[IGNORED, IGNORED, 0]])
    assert sequence_log_probs(logits, labels).item() == pytest.approx(math.log(1 / 3))


def test_arm_loss_is_the_papers() -> None:
    chosen, rejected = torch.tensor([-3.0, -1.0]), torch.tensor([-5.0, -0.5])
    want = [math.log(1 + math.exp(-0.5 * 2.0)), math.log(1 + math.exp(-0.5 * -0.5))]
    assert arm_loss(chosen, rejected, 0.5).item() == pytest.approx(sum(want) / 2)


def test_reward_loss_is_bradley_terry() -> None:
    loss = reward_loss(torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 0.0]))
    assert loss.item() == pytest.approx((math.log(1 + math.exp(-3.0)) + math.log(2)) / 2)


def test_prompt_and_padding_carry_no_loss() -> None:
    batch = PairCollator(0)([pair(), pair()])
    assert batch["input_ids"].shape == (4, 7)
    labels = batch["labels"].tolist()
    assert labels[0] == labels[1] == [IGNORED] * 3 + CHOSEN
    assert labels[2] == labels[3] == [IGNORED] * 3 + REJECTED + [IGNORED] * 2
    assert batch["attention_mask"][2].tolist() == [1] * 5 + [0] * 2

    logits = torch.randn(4, 7, 16, requires_grad=True)
    sequence_log_probs(logits, batch["labels"]).sum().backward()
    carries = (logits.grad.abs().sum(-1) > 0).tolist()
    # The logits at position i predict token i + 1: the last prompt token is the first to count.
    assert carries[0] == [False, False, True, True, True, True, False]
    assert carries[2] == [False, False, True, True, False, False, False]


def test_more_padding_changes_nothing() -> None:
    model = tiny()
    narrow = pad(pair(), 0)
    wide = pad([*pair(), labelled(PROMPT, [5] * 20)], 0)
    results = [
        sequence_log_probs(
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits,
            batch["labels"],
        )[:2]
        for batch in (narrow, wide)
    ]
    torch.testing.assert_close(*results, atol=1e-5, rtol=0)


def test_the_arm_trainer_computes_the_loss_of_its_pairs() -> None:
    model = tiny()
    loss = ArmTrainer.compute_loss(SimpleNamespace(beta=0.1), model, PairCollator(0)([pair()]))
    margin = by_hand(model, PROMPT, CHOSEN) - by_hand(model, PROMPT, REJECTED)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-0.1 * margin)), abs=1e-5)


def test_the_reward_trainer_reads_the_last_real_token() -> None:
    model = tiny(LlamaForSequenceClassification, num_labels=1)
    loss = RewardTrainer.compute_loss(SimpleNamespace(), model, PairCollator(0)([pair()]))
    alone = [
        model(input_ids=torch.tensor([[*PROMPT, *response]])).logits.item()
        for response in (CHOSEN, REJECTED)
    ]
    assert loss.item() == pytest.approx(math.log(1 + math.exp(alone[1] - alone[0])), abs=1e-5)


@pytest.mark.parametrize("trainer", [ArmTrainer, RewardTrainer])
def test_a_few_steps_learn_a_preference(trainer: Any, tmp_path: Any) -> None:
    if trainer is ArmTrainer:
        model, beta = tiny(), 0.1
    else:
        model, beta = tiny(LlamaForSequenceClassification, num_labels=1), None
    collator = PairCollator(0)
    fake: Any = SimpleNamespace(beta=0.1)
    before = trainer.compute_loss(fake, model, collator([pair()])).item()
    schedule = Schedule(steps=8, batch=2, lr=1e-2)
    fit(trainer, model, [pair()] * 16, collator, arguments(str(tmp_path), schedule, 0), beta)
    assert trainer.compute_loss(fake, model, collator([pair()])).item() < before - 0.05
    assert not list(tmp_path.rglob("*.bin"))


def test_truncation_cuts_both_sides_alike_and_never_the_prompt() -> None:
    long = labelled(PROMPT, list(range(3, 15))), labelled(PROMPT, list(range(4, 12)))
    for seed in range(20):
        chosen, rejected = truncated(long, Random(seed))
        for cut, whole in zip((chosen, rejected), long, strict=True):
            assert len(cut["input_ids"]) >= len(PROMPT) + 4
            assert cut["input_ids"] == whole["input_ids"][: len(cut["input_ids"])]
            assert len(cut["labels"]) == len(cut["input_ids"])
        longest = len(chosen["input_ids"])
        assert len(rejected["input_ids"]) == min(longest, len(long[1]["input_ids"]))


def test_pairs_share_their_prompt_and_end_with_eos(tokenizer: Any) -> None:
    drawn = Pair("How do I boil eggs?", Reply("Boil them.", 2, 1), Reply("Who knows.", 0, 1))
    chosen, rejected = encode_pair(tokenizer, drawn)
    prompt = encode_prompt(tokenizer, drawn.request)
    for row in (chosen, rejected):
        assert row["input_ids"][: len(prompt)] == prompt
        assert row["labels"][: len(prompt)] == [IGNORED] * len(prompt)
        assert row["labels"][-1] == tokenizer.eos_token_id == 2


def test_the_tokenizer_adds_bos_and_never_eos(tokenizer: Any) -> None:
    ids = tokenizer("Boil the eggs.")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == 1
    assert tokenizer.eos_token_id not in ids
    assert (tokenizer.pad_token_id, tokenizer.decode(ids[1:])) == (0, "Boil the eggs.")
    assert encode_response(tokenizer, "Boil the eggs.") == [*ids[1:], 2]


@pytest.mark.parametrize("system", ["", "Give detailed steps."])
def test_the_chat_template_is_the_template(tokenizer: Any, system: str) -> None:
    messages = [{"role": "user", "content": "How do I boil eggs?"}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == "<s>" + prompt_text("How do I boil eggs?", system)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == encode_prompt(tokenizer, "How do I boil eggs?", system)
