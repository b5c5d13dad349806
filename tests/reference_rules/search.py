"""Block-level search (controlled decoding; weak-to-strong search), one text at a time.

Best of n is one block. Whatever draws a token is given, so that the search alone is what is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def implicit(tuned: Any, ref: Any, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """The sum over the answer of log tuned minus log ref."""
    total = 0.0
    for i, token in enumerate(answer):
        text = [*prompt, *answer[:i]]
        total += (logprobs(tuned, text)[token] - logprobs(ref, text)[token]).item()
    return total
