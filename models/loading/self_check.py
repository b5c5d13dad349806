"""A self check: whether a model computes the same as rows of a lane as it does alone.

A model of an architecture that the tests do not cover is checked once, on a few tokens, when it is
loaded: a few short forwards. In half precision this finds gross errors; whether a model asks for
its masks and is causal is checked in every forward.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..backbone import backbone_of
from ..cache.kv_cache import RowCache, run_rows
from ..cache.layers.states import layer_kinds
from ..cache.window import Window
from ..checkpoint.architectures import BY_TOKEN, IMAGE_TEXT, REWARDS, TERMS
from ..errors import ModelError, first_line
from ..eval_mode import evaluating

LENGTHS = (11, 4, 7)
ALTERNATIVES = 3
CAPACITY = 32
FAULTS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)


def self_check(name: str, model: Any, reward: bool) -> list[str]:
    """Check a model whose architecture is not among the tested ones; notes for the plan.

    Texts of different lengths, and what may follow them, are read as rows and alone.

    Raises:
        ModelError: as rows, the model fails or computes other hidden states.
    """
    family = model.config.model_type
    alibi = reward and getattr(model.config, "alibi", False)  # a flag of falcon: two architectures
    if family in (REWARDS if reward else TERMS | IMAGE_TEXT) and not alibi:
        return []
    alternatives = ALTERNATIVES if reward else 1
    try:
        with evaluating(model.modules()):
            rows, expected = _as_rows(model, alternatives), _alone(model, alternatives)
    except FAULTS as error:
        problem = f"cannot be run as rows: {first_line(error)}"
    else:
        errors = ((rows - expected).norm(dim=-1) / expected.norm(dim=-1)).flatten()
        dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
        exact = dtypes <= {torch.float32, torch.float64}
        # In half precision a token may go to other experts, so that the median counts.
        error_size = (errors.max() if exact else errors.median()).item()
        if error_size < (1e-3 if exact else 0.1):
            note = "is not among the tested families; a trial on a few tokens agreed"
            return [f"{name}: {family} {note}"]
        problem = f"gives other numbers as rows than alone: {error_size:.0%} off"
    problem = f"{name} ({family}) is of a family that is not among the tested, and it {problem}"
    by_text = ", or declare the reward with read: text" if reward else ""
    raise ModelError(problem, f"use a family of `descant docs models`{by_text}", name)


def _texts(model: Any, alternatives: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens ``(texts, longest)``, what follows ``(texts, alternatives)``, and texts' lengths."""
    embedding = model.get_input_embeddings().weight
    count, longest = len(LENGTHS), max(LENGTHS)
    ids = torch.arange(count * (longest + alternatives), device=embedding.device) * 37 + 5
    tokens = (ids % len(embedding)).view(count, -1)
    return tokens[:, :longest], tokens[:, longest:], torch.tensor(LENGTHS, device=ids.device)


@torch.no_grad()
def _as_rows(model: Any, alternatives: int) -> Tensor:
    texts, following, lengths = _texts(model, alternatives)
    rows, longest = texts.shape
    kinds = layer_kinds(model.config.get_text_config())
    cache, index = RowCache(rows, CAPACITY, kinds=kinds), torch.arange(rows, device=texts.device)

    def run(tokens: Tensor, positions: Tensor, places: Tensor, **settings: Any) -> Tensor:
        window = Window(places, CAPACITY, slice(0, rows), index[:, None])
        window = replace(window, **settings)
        hidden: Tensor = run_rows(backbone_of(model), cache, window, tokens, positions)[0]
        return hidden

    at_once = model.config.get_text_config().model_type in BY_TOKEN
    if states := any(kind.states for kind in kinds):
        for row, length in enumerate(LENGTHS):  # alone, for padding would count, and in two parts
            own: dict[str, Any] = {"rows": slice(row, row + 1), "index": index[row : row + 1, None]}
            parts = ((0, length),) if at_once else ((0, length // 2), (length // 2, length))
            for start, end in parts:
                positions = torch.arange(start, end, device=texts.device)[None]
                where = texts[row : row + 1, start:end], positions, positions
                run(*where, **own, start=start, limit=end)
    else:
        positions = torch.arange(longest, device=texts.device).expand(rows, -1)
        run(texts, positions, positions)
    positions = lengths[:, None].expand(following.shape)
    places = positions + torch.arange(alternatives, device=texts.device)
    copies = alternatives if states and alternatives > 1 else 0
    return run(following, positions, places, copies=copies).view(rows, alternatives, -1).float()


@torch.no_grad()
def _alone(model: Any, alternatives: int) -> Tensor:
    texts, following, _ = _texts(model, alternatives)
    hidden = []
    for text, length, tokens in zip(texts, LENGTHS, following, strict=True):
        for token in tokens:
            ids = torch.cat((text[:length], token[None]))[None]
            out = backbone_of(model)(input_ids=ids, use_cache=False)
            hidden.append(out.last_hidden_state[0, -1])
    return torch.stack(hidden).view(len(LENGTHS), alternatives, -1).float()
