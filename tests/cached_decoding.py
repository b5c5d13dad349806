"""transformers' own cached decoding of one text alone: what rows of a lane are held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


@torch.no_grad()
def said_along(model: Any, prompt: Sequence[int], made: Sequence[int] = ()) -> list[Tensor]:
    """What follows a prompt, read in one forward, and each token that is made after it, ``(V,)``.

    As ``model.generate`` reads them.
    """
    own = {}
    if model.config.model_type == "recurrent_gemma":  # does not give back the cache that it makes
        own = {"past_key_values": DynamicCache(config=model.config)}
        model(input_ids=torch.tensor([[0]]), use_cache=False)  # forgets the states of other texts
    out = model(input_ids=torch.tensor([[*prompt]]), use_cache=True, **own)
    name = "cache_params" if "cache_params" in out else "past_key_values"
    cache = own.get(name) or out[name]
    said = [out.logits[0, -1].float()]
    for position, token in enumerate(made, len(prompt)):
        where = {} if name == "cache_params" else {"position_ids": torch.tensor([[position]])}
        ids = torch.tensor([[token]])
        out = model(input_ids=ids, use_cache=True, **where, **{name: cache})
        said.append(out.logits[0, -1].float())
    return said


def generated(model: Any, prompt: Sequence[int], most: int) -> list[int]:
    """The tokens of ``model.generate``, greedy, without an end."""
    ids = torch.tensor([[*prompt]])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return out[0, len(prompt) :].tolist()  # type: ignore[no-any-return]
