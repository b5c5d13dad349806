"""The losses against values worked out by hand, and what may have no part in them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from descant.train.batches import Collator, pad
from descant.train.encode import labelled
from descant.train.losses import IGNORED, last_scores, preference_loss, sequence_log_probs

PROMPT, CHOSEN, REJECTED = [1, 5, 6], [7, 8, 9, 2], [9, 2]


def pair() -> dict[str, Any]:
    two = labelled(PROMPT, REJECTED)
    return labelled(PROMPT, CHOSEN) | {f"rejected_{key}": ids for key, ids in two.items()}


def test_log_probabilities_of_logits_written_by_hand() -> None:
    # Two tokens; place 0 gives token 1 probability 3/4, place 1 gives token 0 1/3.
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, math.log(2)], [50.0, -50.0]]])
    both = torch.tensor([[IGNORED, 1, 0]])
    assert sequence_log_probs(logits, both).item() == pytest.approx(math.log(3 / 4 * 1 / 3))
    assert sequence_log_probs(logits, both, mean=True).item() == pytest.approx(math.log(1 / 4) / 2)
    one = torch.tensor([[IGNORED, IGNORED, 0]])
    assert sequence_log_probs(logits, one).item() == pytest.approx(math.log(1 / 3))
    none = torch.full((1, 3), IGNORED)
    assert sequence_log_probs(logits, none, mean=True).item() == 0


def test_the_preference_loss_by_hand() -> None:
    rewards = torch.tensor([[2.0, -1.0], [0.0, 0.0], [-0.5, 1.0]])
    want = [math.log(1 + math.exp(-3.0)), math.log(2), math.log(1 + math.exp(1.5))]
    assert preference_loss(rewards).item() == pytest.approx(sum(want) / 3)


def test_prompt_and_padding_carry_no_gradient() -> None:
    batch = Collator(0)([pair(), pair()])
    assert batch["input_ids"].shape == (2, 2, 7)
    labels = batch["labels"].flatten(0, 1)
    assert labels[0].tolist() == [IGNORED] * 3 + CHOSEN
    assert labels[1].tolist() == [IGNORED] * 3 + REJECTED + [IGNORED] * 2
    assert batch["attention_mask"][0, 1].tolist() == [1] * 5 + [0] * 2

    logits = torch.randn(4, 7, 16, requires_grad=True)
    preference_loss(sequence_log_probs(logits, labels).view(-1, 2)).backward()
    carries = (logits.grad.abs().sum(-1) > 0).tolist()
    # The logits at place i say token i + 1: those of the last prompt token are the first to count.
    assert carries[0] == [False, False, True, True, True, True, False]
    assert carries[1] == [False, False, True, True, False, False, False]


def test_what_is_masked_may_be_anything() -> None:
    labels = Collator(0)([pair()])["labels"].flatten(0, 1)
    logits = torch.randn(2, 7, 16)
    counts = torch.zeros(2, 7, dtype=torch.bool)
    counts[:, :-1] = labels[:, 1:] != IGNORED
    other = torch.where(counts[..., None], logits, torch.full_like(logits, float("nan")))
    assert torch.equal(sequence_log_probs(logits, labels), sequence_log_probs(other, labels))
    assert not torch.equal(
        sequence_log_probs(logits, labels), sequence_log_probs(logits + counts[..., None] *
                                                               torch.randn(16), labels)
    )  # fmt: skip


def test_side_and_length_of_padding_change_nothing(zoo: Any) -> None:
    model = zoo.model("base")
    rows = [labelled(PROMPT, CHOSEN), labelled(PROMPT, REJECTED)]
    found = []
    for batch in (pad(rows, 0), pad([*rows, labelled(PROMPT, [5] * 20)], 3), left(rows)):
        model.zero_grad()
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        sums = sequence_log_probs(logits, batch["labels"])[:2]
        preference_loss(0.1 * sums[None]).backward()
        found.append((sums.detach(), model.lm_head.weight.grad.clone()))
    for sums, gradient in found[1:]:
        torch.testing.assert_close(sums, found[0][0], atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(gradient, found[0][1], atol=1e-5, rtol=1e-4)


def left(rows: list[Any]) -> dict[str, torch.Tensor]:
    """The batch with its padding on the left."""
    batch = pad(rows, 0)
    lengths = batch["attention_mask"].sum(1).tolist()
    turned = {key: torch.stack([row.roll(len(row) - n) for row, n in zip(value, lengths,
                                                                        strict=True)])
              for key, value in batch.items()}  # fmt: skip
    assert turned["attention_mask"].tolist()[1] == [0, 0, 1, 1, 1, 1, 1]
    return turned


def test_a_head_is_read_at_the_last_token() -> None:
    scores = torch.arange(12.0).view(3, 4, 1)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]])
    assert last_scores(scores, mask).tolist() == [3.0, 5.0, 11.0]
