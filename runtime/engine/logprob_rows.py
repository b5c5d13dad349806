"""Log-probabilities on their way to the host, as rows next to the tokens of a step."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from ..requests.request import TokenLogprobs
from ..scores.logprobs import log_softmax


class AskedRows(Protocol):
    """What is read of a batch."""

    temperatures: Tensor
    processed: Tensor
    any_processed: bool
    top_logprobs: int

    @property
    def width(self) -> int:
        """How many rows, with idle ones."""


def logprob_rows(own: Tensor, masked: Tensor, batch: AskedRows, tokens: Tensor) -> list[Tensor]:
    """``1 + 2k`` rows ``(slots,)`` int64: of the drawn tokens, and of the k best of each slot.

    Floats are their bits. First the drawn tokens' log-probabilities, then the ids of the best, then
    the log-probabilities of these.

    Args:
        own: ``(slots, V)`` what the formula's own stages gave.
        masked: ``(slots, V)`` what tokens are drawn from, before the temperature.
        batch: says which rows want which, and ``top_logprobs``, k.
        tokens: ``(slots,)`` as drawn.
    """
    logprobs = log_softmax(own)
    if batch.any_processed:
        warm = batch.temperatures[: batch.width, None]
        drawn_from = log_softmax(masked / torch.where(warm > 0, warm, 1.0))
        alone = torch.full_like(drawn_from, -torch.inf).scatter_(1, tokens[:, None], 0.0)
        drawn_from = torch.where(warm > 0, drawn_from, alone)
        logprobs = torch.where(batch.processed[: batch.width, None], drawn_from, logprobs)
    rows = [_bits(logprobs.gather(1, tokens[:, None])[:, 0])]
    if batch.top_logprobs:
        best = logprobs.topk(batch.top_logprobs, dim=-1)
        rows += [*best.indices.unbind(1), *(_bits(values) for values in best.values.unbind(1))]
    return rows


def token_logprobs(rows: Tensor, top: int) -> list[TokenLogprobs]:
    """What ``logprob_rows`` gave, per slot, on the host; excluded tokens are left out."""
    ids = rows[1 : 1 + top].T.tolist()
    floats = rows.to(torch.int32).view(torch.float32)
    logprobs, values = floats[0].tolist(), floats[1 + top :].T.tolist()
    best = [
        [(token, value) for token, value in zip(*pair, strict=True) if value > -math.inf]
        for pair in zip(ids, values, strict=True)
    ]
    return list(map(TokenLogprobs, logprobs, best))


def _bits(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.int32).long()
