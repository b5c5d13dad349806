"""A trial: whether a model, as rows of a lane, says what it says alone.

A model of a family that the tests do not cover is tried once, on a few tokens, when it is loaded:
some short forwards beside gigabytes of reading. In half precision this finds what is grossly wrong;
that a model asks for its masks, and reads one way, is seen in every forward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..cache.kv_cache import RowCache, Window, read
from ..checkpoint.architectures import REWARDS, TERMS
from ..errors import ModelError, first_line

LENGTHS = (11, 4, 7)
ALTERNATIVES = 3
FAULTS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)


def tried(name: str, model: Any, reward: bool) -> list[str]:
    """A model of a family that is not tested is tried; what the plan says of it.

    Raises:
        ModelError: the trial failed.
    """
    family = model.config.model_type
    by_slot = reward and getattr(model.config, "alibi", False)  # a flag of falcon: two families
    if family in (REWARDS if reward else TERMS) and not by_slot:
        return []
    trial(name, model, ALTERNATIVES if reward else 1)
    return [f"{name}: {family} is not among the tested families; a trial on a few tokens agreed"]


def trial(name: str, model: Any, alternatives: int) -> None:
    """Read two texts of different lengths and what may follow them, as rows and alone.

    Args:
        name: the declared name.
        model: the model, on its device.
        alternatives: tokens to read at once after each text, as a reward model does; 1 for a term.

    Raises:
        ModelError: what the rows gave is not what the model gives alone.
    """
    try:
        found, expected = _as_rows(model, alternatives), _alone(model, alternatives)
    except FAULTS as error:
        problem = f"cannot be run as rows: {first_line(error)}"
    else:
        each = ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).flatten()
        # In half precision the experts of a single token may be others: by most of them, then.
        off = (each.max() if _exact(model) else each.median()).item()
        if off < (1e-3 if _exact(model) else 0.1):
            return
        problem = f"gives other numbers as rows than alone: {off:.0%} off"
    raise ModelError(
        f"{name} ({model.config.model_type}) is of a family that is not among the tested, and it "
        + problem,
        "use a family of docs/models.md"
        + (", or declare the reward with read: text" if alternatives > 1 else ""),
        name,
    )


def _texts(model: Any, alternatives: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens ``(2, length)``, what follows ``(2, alternatives)``, and how many are of the text."""
    embedding = model.get_input_embeddings().weight
    count, longest = len(LENGTHS), max(LENGTHS)
    ids = torch.arange(count * (longest + alternatives), device=embedding.device) * 37 + 5
    tokens = (ids % len(embedding)).view(count, -1)
    return tokens[:, :longest], tokens[:, longest:], torch.tensor(LENGTHS, device=ids.device)


@torch.no_grad()
def _as_rows(model: Any, alternatives: int) -> Tensor:
    texts, after, lengths = _texts(model, alternatives)
    rows, longest = texts.shape
    cache, index = RowCache(rows, 32), torch.arange(rows, device=texts.device)[:, None]
    places = torch.arange(longest, device=texts.device).expand(rows, -1)
    read(model.base_model, cache, Window(slice(0, rows), index, places, 32), texts, places)
    places = lengths[:, None].expand(after.shape)
    slots = places + torch.arange(alternatives, device=texts.device)
    window = Window(slice(0, rows), index, slots, 32)
    return read(model.base_model, cache, window, after, places).last_hidden_state.float()  # type: ignore[no-any-return]


@torch.no_grad()
def _alone(model: Any, alternatives: int) -> Tensor:
    texts, after, _ = _texts(model, alternatives)
    found = []
    for text, length, some in zip(texts, LENGTHS, after, strict=True):
        for token in some:
            whole = torch.cat((text[:length], token[None]))[None]
            out = model.base_model(input_ids=whole, use_cache=False)
            found.append(out.last_hidden_state[0, -1])
    return torch.stack(found).view(len(LENGTHS), alternatives, -1).float()


def _exact(model: Any) -> bool:
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return kinds <= {torch.float32, torch.float64}
