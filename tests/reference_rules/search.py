"""Search over texts (controlled decoding; weak-to-strong search; CARDS), one text at a time.

Best of n is one block. Whatever draws a token is given, so that the search alone is what is tested.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .plain import logprobs

Draw = Callable[[int, list[int]], int]  # which sample, the answer so far: the next token
Judge = Callable[[Sequence[int]], float]  # of an answer


def blockwise(
    draw: Draw, judge: Judge, beams: int, samples: int, length: int, most: int, eos: int
) -> list[int]:
    """The best answer after as many blocks as there are; a text drawn twice counts once."""
    answers: list[list[int]] = [[] for _ in range(beams * samples)]
    made = 0
    while True:
        for i, answer in enumerate(answers):
            for _ in range(min(length, most - made)):
                if not answer or answer[-1] != eos:
                    answer.append(draw(i, answer))
        made += length
        order = sorted(range(len(answers)), key=lambda i: -judge(answers[i]))
        if made >= most or all(answer[-1] == eos for answer in answers):
            return answers[order[0]]
        kept: list[list[int]] = []
        for i in order:
            if answers[i] not in kept and len(kept) < beams:
                kept.append(answers[i])
        count = len(answers)
        answers = [list(kept[i * len(kept) // count]) for i in range(count)]


@dataclass
class Cards:
    """The settings of CARDS: r*, the entropy that ends a segment, and the softness of a verdict."""

    target: float = 8.5
    entropy: float = 3.0
    beta: float = 0.7
    alpha: float = 0.5
    shortest: int = 4
    longest: int = 64
    retries: int = 20


def cards(
    draw: Callable[[int, int, list[int]], int],
    unsure: Callable[[Sequence[int]], float],
    judge: Judge,
    luck: Callable[[int, int], float],
    rule: Cards,
    most: int,
    eos: int,
) -> list[int]:
    """Algorithm 1 of CARDS, which ends at EOS.

    Args:
        draw: the segment's start, the number of the candidate, the answer so far: the next token.
        unsure: the entropy of what comes after an answer.
        luck: the segment's start and the number of the candidate: a uniform number.
    """
    answer: list[int] = []
    first = (1 - rule.alpha) * judge([]) + rule.alpha * rule.target
    while len(answer) < most and eos not in answer:
        candidates: list[list[int]] = []
        while True:
            candidate = list(answer)
            while len(candidate) < most and eos not in candidate:
                made = len(candidate) - len(answer)
                if made == rule.longest:
                    break
                if made >= rule.shortest and unsure(candidate) >= rule.entropy:
                    break
                candidate.append(draw(len(answer), len(candidates), candidate))
            candidates.append(candidate)
            if len(candidates) > rule.retries:
                candidate = max(candidates, key=judge)
                break
            threshold = min(first + len(candidate) * (rule.target - first) / most, rule.target)
            verdict = (judge(candidate) - threshold) / rule.beta
            if luck(len(answer), len(candidates) - 1) < min(1.0, math.exp(min(verdict, 0))):
                break
        answer = candidate
    return answer


def implicit(tuned: Any, ref: Any, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """The sum over the answer of log tuned minus log ref."""
    total = 0.0
    for i, token in enumerate(answer):
        text = [*prompt, *answer[:i]]
        total += (logprobs(tuned, text)[token] - logprobs(ref, text)[token]).item()
    return total
