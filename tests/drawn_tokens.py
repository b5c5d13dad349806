"""What rows draw, by themselves and in a loop of transformers: prompts and settings in common."""

from __future__ import annotations

from typing import Any

import torch

import descant

PROMPTS = [[1, 17, 30, 9], [1, 44], [1, 5, 250, 7, 91, 13], [1, 9, 9]]
MOST, V = 10, 300
SAMPLED = {"temperature": 0.9, "seed": 3}


def tokens(decoder: Any, prompts: Any = PROMPTS, **settings: Any) -> list[list[int]]:
    settings = {"max_new_tokens": MOST, "eos_token_id": []} | settings
    return [one.token_ids for one in decoder.generate(prompts, **settings)]


def in_a_loop(decoder: Any, base: Any, prompts: list[list[int]], beams: int) -> list[list[int]]:
    """Eight tokens by transformers' loop over prompts of one length, without padding."""
    settings = {"num_beams": beams, "do_sample": False, "max_new_tokens": 8, "pad_token_id": 0}
    ids = torch.tensor(prompts)
    out = base.generate(
        ids, attention_mask=torch.ones_like(ids),
        logits_processor=[descant.FormulaProcessor(decoder)], **settings,
    )  # fmt: skip
    return [[token for token in row if token] for row in out[:, ids.shape[1] :].tolist()]


def exchanges(decoder: Any, base: Any, beams: int) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts, and what the loop answers to them: together, alone and again, always the same."""
    prompts = [[1, 9, 9], [1, 60, 3], [1, 44, 5]]
    together = in_a_loop(decoder, base, prompts, beams)
    alone = [in_a_loop(decoder, base, [each], beams)[0] for each in prompts]
    assert together == alone == in_a_loop(decoder, base, prompts, beams)
    return prompts, together
