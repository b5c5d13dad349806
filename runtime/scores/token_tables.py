"""What the device keeps of every text, each where a stage looks at it: by token, ``(slots, V)``.

The text itself is by position, ``(slots, room)``: each id plus 1, and 0 behind its end.

A slot that takes over another's text takes over its rows. The host fills a row where a text begins;
from there on drawn tokens are added on the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...formula.words import stages as words
from ...formula.words.stages import Stage


class TokenTable(NamedTuple):
    """One number per token of each text.

    Attributes:
        name: what it is.
        dtype: of its numbers.
        grows: whether drawn tokens are added.
        by_position: whether its columns are positions, and not tokens.
    """

    name: str
    dtype: torch.dtype
    grows: bool
    by_position: bool = False


SEEN = TokenTable("in the prompt or in the answer", torch.bool, True)
COUNTS = TokenTable("times in the answer", torch.int32, True)
ENDS = TokenTable("ends the row", torch.bool, False)
BIAS = TokenTable("added to its score by the request", torch.float32, False)
BREAKS = TokenTable("no match goes over it", torch.bool, False)
TEXT = TokenTable("the prompt and the answer", torch.int32, True, by_position=True)

_OF_STAGES: dict[type[Stage], tuple[TokenTable, ...]] = {
    words.RepetitionPenalty: (SEEN,),
    words.PresencePenalty: (COUNTS,),
    words.FrequencyPenalty: (COUNTS,),
    words.MinTokens: (ENDS,),
    words.RequestBias: (BIAS,),
    words.NoRepeatNgram: (TEXT,),
    words.Dry: (TEXT, BREAKS),
}


def tables_of(stages: Iterable[Stage]) -> tuple[TokenTable, ...]:
    """The tables that some stages look at, each once."""
    used = (table for stage in stages for table in _OF_STAGES.get(type(stage), ()))
    return tuple(dict.fromkeys(used))


def filled(table: TokenTable, rows: Sequence[Mapping[int, float]], columns: int) -> Tensor:
    """``(rows, columns)`` on the host, from the numbers of each row that are not 0."""
    numbers = torch.zeros(len(rows), columns, dtype=table.dtype)
    places = [i * columns + column for i, row in enumerate(rows) for column in row]
    values = [value for row in rows for value in row.values()]
    numbers.view(-1)[places] = torch.tensor(values, dtype=table.dtype)
    return numbers


def add_drawn(tables: Mapping[TokenTable, Tensor], tokens: Tensor) -> None:
    """Add a token to each row, ``(rows,)``."""
    for table, numbers in tables.items():
        if table is SEEN:
            numbers.scatter_(1, tokens[:, None], True)
        elif table is TEXT:  # an idle slot writes its last column again and again
            end = _lengths(numbers).clamp_(max=numbers.shape[1] - 1)
            numbers.scatter_(1, end, (tokens[:, None] + 1).to(numbers.dtype))
        elif table.grows:
            numbers.scatter_add_(1, tokens[:, None], numbers.new_ones(len(tokens), 1))


def add_tokens(tables: Mapping[TokenTable, Tensor], tokens: Sequence[Sequence[int]]) -> None:
    """Add any number of tokens to each of the first rows."""
    places = [(row, token) for row, each in enumerate(tokens) for token in each]
    for table, numbers in tables.items():
        if table is TEXT:
            _append(numbers, tokens)
        elif table.grows:
            rows, ids = (
                torch.tensor(places, dtype=torch.long, device=numbers.device).view(-1, 2).unbind(1)
            )
            numbers.index_put_((rows, ids), numbers.new_ones(len(places)), table is not SEEN)


def along(
    tables: Mapping[TokenTable, Tensor],
    owner: Tensor,
    counts: Sequence[int],
    tokens: Sequence[Sequence[int]],
) -> dict[TokenTable, Tensor]:
    """The tables at several positions of each text, a row per position.

    Args:
        tables: before the first position of each.
        owner: ``(positions,)`` the row that each position is of.
        counts: per row, its positions; the i-th has ``i`` tokens more than the first.
        tokens: per row, those that are added after each.
    """
    added: Tensor | None = None
    rows = dict[TokenTable, Tensor]()
    for table, numbers in tables.items():
        own = numbers.index_select(0, owner)
        if table is TEXT:
            own = _beginnings(numbers, owner, counts, tokens)
        elif table.grows:
            added = _added(numbers, counts, tokens) if added is None else added
            own = own | (added > 0) if table is SEEN else own + added
        rows[table] = own
    return rows


def _lengths(texts: Tensor) -> Tensor:
    """``(rows, 1)`` int64, tokens of each."""
    return (texts > 0).sum(dim=-1, keepdim=True)


def _append(texts: Tensor, tokens: Sequence[Sequence[int]]) -> None:
    """Add any number of tokens behind each of the first texts."""
    places = [(row, at, token) for row, each in enumerate(tokens) for at, token in enumerate(each)]
    if places:
        rows, at, ids = torch.tensor(places, device=texts.device).unbind(1)
        texts.index_put_((rows, _lengths(texts)[rows, 0] + at), (ids + 1).to(texts.dtype))


def _beginnings(
    texts: Tensor, owner: Tensor, counts: Sequence[int], tokens: Sequence[Sequence[int]]
) -> Tensor:
    """``(positions, room)`` the texts up to each position: the arguments are those of ``along``."""
    read, ends = texts.clone(), _lengths(texts)
    _append(read, [ids[: count - 1] for ids, count in zip(tokens, counts, strict=False)])
    ahead = torch.tensor([i for count in counts for i in range(count)], device=texts.device)
    columns = torch.arange(texts.shape[1], device=texts.device)
    kept = columns < ends.index_select(0, owner) + ahead[:, None]
    return torch.where(kept, read.index_select(0, owner), 0)


def _added(numbers: Tensor, counts: Sequence[int], tokens: Sequence[Sequence[int]]) -> Tensor:
    """``(positions, V)`` int32, how often each token was added up to each position."""
    size = sum(counts), numbers.shape[1]
    added = torch.zeros(size, dtype=torch.int32, device=numbers.device)
    start, places = 0, list[tuple[int, int]]()
    for count, ids in zip(counts, tokens, strict=True):
        places += enumerate(ids[: count - 1], start + 1)
        start += count
    if places:
        at = torch.tensor(places, device=numbers.device)
        added[at[:, 0], at[:, 1]] = 1
    for own in torch.split(added, list(counts)):
        torch.cumsum(own, 0, dtype=torch.int32, out=own)
    return added
