"""How much of a text a token would repeat, from the ids of the text on its device.

A text is a row of ``(rows, room)``: each id plus 1, and 0 behind its end.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

LONGEST_MATCH = 50  # tokens that dry looks back at most, as its author's code does
_LARGEST = 1e30  # of a penalty: float32 holds more, and a sum with a score stays finite


def repeated(text: Tensor, vocabulary: int, context: int, breaks: Tensor | None = None) -> Tensor:
    """``(rows, V)`` int64, the longest n-gram of the text that a token would end again.

    It is 1 for a token that is in the text, n for one that followed the text's last n - 1 tokens
    there, and 0 for one that is not in it.

    Args:
        text: ``(rows, room)``.
        vocabulary: tokens to tell of.
        context: tokens before one that are looked at; longer n-grams count as ``context + 1``.
        breaks: ``(rows, V)`` bool, tokens that no n-gram goes over.
    """
    rows, room = text.shape
    matches = text.new_ones(rows, room)
    if context:
        length = (text > 0).sum(dim=-1, keepdim=True)
        padded = pad(text, (context, 0), value=-1)
        before = padded.unfold(1, context, 1)[:, :room]  # rows, room, context
        steps = torch.arange(context, device=text.device)
        last = padded.gather(1, length + steps)
        differs = before != last[:, None]
        if breaks is not None:
            ids = (last.long() - 1).clamp(0, vocabulary - 1)
            differs = differs | breaks.gather(1, ids)[:, None]
        # up to which place the two differ, counted from the farthest
        reach = (differs * (steps + 1).to(torch.uint8)).amax(dim=-1)
        matches = context + 1 - reach.int()
    tokens = text.long().clamp(max=vocabulary + 1)
    longest = matches.new_zeros(rows, vocabulary + 2)
    longest.scatter_reduce_(1, tokens, matches, "amax")
    return longest[:, 1 : vocabulary + 1]


def no_repeat_ngram(scores: Tensor, text: Tensor, n: Tensor, most: int) -> Tensor:
    """Masks tokens that would end an n-gram again; transformers' NoRepeatNGramLogitsProcessor.

    Args:
        scores: ``(rows, V)``.
        text: ``(rows, room)``.
        n: ``(rows, 1)``; 0 masks nothing.
        most: the largest of them.
    """
    longest = repeated(text, scores.shape[-1], most - 1)
    return scores.masked_fill((longest >= n) & (n > 0), -torch.inf)


def dry(
    scores: Tensor,
    text: Tensor,
    breaks: Tensor,
    multiplier: Tensor,
    base: Tensor,
    allowed_length: Tensor,
) -> Tensor:
    """Takes ``multiplier * base**(match - allowed_length)`` from tokens that would repeat a match.

    The match is what of the text's end comes before the token elsewhere in it, without any token
    that breaks, and counts from ``allowed_length`` on: DRY (p-e-w 2024), as its author's code for
    text-generation-webui has it.

    Args:
        scores: ``(rows, V)``.
        text: ``(rows, room)``.
        breaks: ``(rows, V)`` bool.
        multiplier, base, allowed_length: ``(rows, 1)``.
    """
    match = repeated(text, scores.shape[-1], LONGEST_MATCH, breaks) - 1
    penalty = (multiplier * base ** (match - allowed_length)).clamp(max=_LARGEST)
    counts = (match >= allowed_length) & (match > 0) & ~breaks & (multiplier > 0)
    return torch.where(counts, scores - penalty, scores)
