"""Which keys each query may see: the model's own rule, asked at each row's own positions.

A model's code asks transformers for one mask per kind of attention layer it has (full, sliding
window, chunked, ...) and gives the rule as a function of two positions. During a lane's forward the
answer is that rule at the positions of the rows; nothing here knows families or kinds of layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function

from ..errors import ModelError


@dataclass
class _Queries:
    """The queries of one forward, ``(n, q)`` each.

    Attributes:
        asked: whether the model has asked for a mask.
        idle: the mask that hides nothing, where there is one.
        given: the masks that the model was given, by their ids.
        folded: those, as ``folded`` has made them, by id and number of heads.
    """

    positions: Tensor
    slots: Tensor
    limit: int
    starts: Tensor | None
    together: bool
    asked: bool = False
    idle: Tensor | None = None
    given: dict[int, Tensor] = field(default_factory=dict)
    folded: dict[tuple[int, int], Tensor] = field(default_factory=dict)


_now: ContextVar[_Queries | None] = ContextVar("the forward of a lane", default=None)


def inside() -> bool:
    """Whether this is the forward of a lane."""
    return _now.get() is not None


def hides_nothing(mask: Any) -> bool:
    """Whether this is a mask of this forward by which every query sees every key."""
    queries = _now.get()
    return queries is not None and mask is not None and mask is queries.idle


def folded(mask: Tensor, each: int, dtype: torch.dtype) -> Tensor:
    """A mask as attention adds it; made once for all layers, where the model takes it as given.

    Args:
        mask: ``(n, 1, q, L)``, bool or what is added.
        each: query heads that share a key: they are rows of it.
        dtype: of the queries.

    Returns:
        ``(n, 1, each * q, L)``, with minus infinity for what is hidden.
    """
    queries, key = _now.get(), (id(mask), each)
    known = queries is not None and queries.given.get(id(mask)) is mask
    if queries is not None and key in queries.folded and known:
        return queries.folded[key]
    n, _, q, length = mask.shape
    added = mask
    if mask.dtype == torch.bool:
        added = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)
    rows = added[:, :, None].expand(n, 1, each, q, length).reshape(n, 1, each * q, length)
    if queries is not None and known:
        queries.folded[key] = rows
    return rows


@contextmanager
def row_masks(
    positions: Tensor,
    slots: Tensor,
    limit: int,
    starts: Tensor | None = None,
    together: bool = False,
) -> Iterator[None]:
    """Within this, masks are those of rows that have lengths of their own.

    Args:
        positions: ``(n, q)`` the place of each query in its text.
        slots: ``(n, q)`` the place of each query's key in the cache; where queries are alternatives
            for one position, each has a slot of its own and sees what is before them, and itself.
        limit: the keys to look at are 0 up to ``limit``.
        starts: ``(n, q)`` for alternatives of several tokens, the place where each one's own
            begin: a query sees what is before that, and its own up to itself, in slots side by
            side.
        together: there is one query a row, and every key is before it, or its own.

    Raises:
        ModelError: the model asked for none, so that it made a mask of its own.
    """
    queries = _Queries(positions, slots, limit, starts, together)
    token = _now.set(queries)
    try:
        yield
    finally:
        _now.reset(token)
    if not queries.asked:
        raise ModelError(
            "this model's code makes its masks by itself, and rows of different lengths cannot be",
            "use a model whose code in transformers asks masking_utils for its masks",
        )


def allowed(rule: Callable[..., Any], queries: _Queries) -> Tensor:
    """``(n, 1, q, limit)``, True where a query may look.

    Args:
        rule: whether a query sees a key: of row, head, the query's position and the key's.
        queries: of this forward.
    """
    device = queries.positions.device
    places = queries.positions[:, None, :, None]
    keys = torch.arange(queries.limit, device=device)[None, None, None]
    rows = torch.arange(len(places), device=device)[:, None, None, None]
    head, slots = torch.zeros_like(rows[:1]), queries.slots[:, None, :, None]
    seen = rule(rows, head, places, keys)
    if queries.starts is None:
        return (seen & (keys < places)) | (keys == slots)  # type: ignore[no-any-return]
    starts = queries.starts[:, None, :, None]
    own = (keys <= slots) & (keys >= slots - (places - starts))  # side by side, up to itself
    mine = own & rule(rows, head, places, keys + places - slots)
    return (seen & (keys < starts)) | mine  # type: ignore[no-any-return]


def _answering(usual: Callable[..., Any], additive: bool) -> Callable[..., Any]:
    """An entry of transformers' table of masks: ours in the forward of a lane, else the usual."""

    def mask(*args: Any, **asked: Any) -> Any:
        queries = _now.get()
        if queries is None:
            return usual(*args, **asked)
        if "allow_is_bidirectional_skip" in asked:
            raise ModelError("this model reads both ways", "use a causal model")
        queries.asked = True
        if queries.together and asked["mask_function"] is causal_mask_function:
            shape = (len(queries.positions), 1, 1, queries.limit)
            found = queries.idle = queries.slots.new_ones((), dtype=torch.bool).expand(shape)
        else:
            found = allowed(asked["mask_function"], queries)
        queries.given[id(found)] = found
        if not additive:
            return found
        dtype = asked["dtype"]
        return torch.zeros_like(found, dtype=dtype).masked_fill_(~found, torch.finfo(dtype).min)

    return mask


for _name, _additive in (("sdpa", False), ("eager", True)):
    AttentionMaskInterface.register(
        _name, _answering(ALL_MASK_ATTENTION_FUNCTIONS[_name], _additive)
    )
