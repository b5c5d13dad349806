"""Sequential Monte Carlo over texts, one text at a time, and rejection while answers are written.

Whatever draws a token, and every uniform number, is given, so that the rule alone is tested.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

Draw = Callable[[int, int, list[int]], int]  # the round, the row, the answer so far: the next token
Judge = Callable[[Sequence[int]], float]  # of an answer
Ends = Callable[[list[int], list[int]], bool]  # where the segment began, and the answer now


def systematic(weights: Sequence[float], luck: float) -> list[int]:
    """One point per row, evenly spaced over the weights laid end to end."""
    ends = [*accumulate(weights)]
    step = ends[-1] / len(weights)
    return [min(bisect_right(ends, (i + luck) * step), len(ends) - 1) for i in range(len(weights))]


def particles(
    draw: Draw, judge: Judge, luck: Callable[[int], float], n: int, ends: Ends, ess: float,
    over: Callable[[list[int]], bool], best: bool = False,
) -> tuple[list[int], list[float], float]:  # fmt: skip
    """The answer, every particle's log-weight, and the log of the normaliser's estimate."""
    answers: list[list[int]] = [[] for _ in range(n)]
    values, weights, normalizer, made = [0.0] * n, [1.0] * n, 1.0, 0
    while True:
        for row, answer in enumerate(answers):
            start = list(answer)
            while not over(answer) and not (len(answer) > len(start) and ends(start, answer)):
                answer.append(draw(made, row, answer))
        made += 1
        after = [judge(answer) for answer in answers]
        weights = [
            weight and weight * math.exp(new - old)
            for weight, new, old in zip(weights, after, values, strict=True)
        ]
        values, total = after, sum(weights)
        if all(map(over, answers)):
            row = bisect_right([*accumulate(weights)], luck(made) * total)
            row = max(range(n), key=weights.__getitem__) if best else row
            known = [math.log(normalizer * weight) for weight in weights]
            return answers[row], known, math.log(normalizer * total / n)
        chosen = list(range(n))
        if total**2 / sum(weight**2 for weight in weights) < ess * n:
            chosen, normalizer = systematic(weights, luck(made)), normalizer * total / n
            weights = [1.0] * n
        answers = [list(answers[row]) for row in chosen]
        values = [values[row] for row in chosen]


def rejecting(
    draw: Callable[[int, list[int]], int], judge: Judge, n: int, keep: float, every: int,
    over: Callable[[list[int]], bool],
) -> tuple[dict[int, list[int]], list[int]]:  # fmt: skip
    """Speculative rejection (Sun et al. 2024): the answers that are left, by row, and how many
    there are in each stretch of ``every`` tokens."""
    answers: dict[int, list[int]] = {row: [] for row in range(n)}
    counts = []
    while not all(over(answer) for answer in answers.values()):
        counts.append(len(answers))
        for row, answer in answers.items():
            for _ in range(every):
                if not over(answer):
                    answer.append(draw(row, answer))
        if all(over(answer) for answer in answers.values()):
            break
        stay = max(1, math.ceil(keep * len(answers)))
        order = sorted(answers, key=lambda row: (-judge(answers[row]), row))
        answers = {row: answers[row] for row in sorted(order[:stay])}
    return answers, counts
