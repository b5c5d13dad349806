"""Weights of a prompt's own: each term by how well it predicts the prompt.

PackLLM (Mavromatis et al. 2024): the weights are ``softmax(-log PPL / temperature)`` over the terms
(its PackLLM-sim), for the sum of the terms' scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ...errors import ArgumentError
from ...formula.nodes import Linear, Read
from ...formula.plan import Plan
from ...formula.scalar import Parameter
from ...grammar import Span


def prompt_weights(
    decoder: Any, prompts: Sequence[Any], temperature: float = 1.0, batch_size: int = 32
) -> dict[str, list[float]]:
    """For each prompt, how much each term of a sum weighs.

    Every term reads the prompt in its own template. Its log-perplexity is the mean of the negative
    log-probabilities, in nats, of all tokens of what it reads but the first.

    Args:
        decoder: of a formula that is a sum of terms, each with a parameter as its coefficient:
            ``a*one + b*two``.
        prompts: as for ``generate``.
        temperature: of the softmax, above 0; the smaller, the more the best term has.

    Returns:
        Per parameter, its value for each prompt, for ``generate(prompts, params=…)``; those of a
        prompt add up to 1.

    Raises:
        FormulaError: another formula, marked.
        ArgumentError: a temperature that is none, or a prompt of one token.
    """
    if not temperature > 0 or not math.isfinite(temperature):
        raise ArgumentError(f"temperature is {temperature}, and must be a finite number above 0")
    plan = decoder.session.bound.plan
    names = _parameters(plan)
    logs = torch.empty(len(names), len(prompts), dtype=torch.float64)
    for row, name in enumerate(names):
        ids = [_read(decoder, plan, row, prompt) for prompt in prompts]
        one = {other: float(other == name) for other in names}
        read = decoder.loglikelihood(
            [each[:1] for each in ids], [each[1:] for each in ids], params=one,
            batch_size=batch_size, progress=False,
        )  # fmt: skip
        logs[row] = torch.tensor([-each.total / len(each.logprobs) for each in read])
    weights = (-logs / temperature).softmax(0)
    return dict(zip(names, weights.tolist(), strict=True))


def _parameters(plan: Plan) -> list[str]:
    """The parameter of each part of a sum."""
    cure = "write a sum of terms, each with a parameter of its own: a*one + b*two"
    names = list[str]()
    parts = plan.scores.parts if isinstance(plan.scores, Linear) else ()
    for scalar, part in parts:
        if not isinstance(scalar.expression, Parameter) or scalar.expression.name in names:
            problem = f"{scalar} is the coefficient of {part}, and no parameter of its own"
            raise plan.error(problem, scalar.span, cure)
        names.append(scalar.expression.name)
    if len(names) < 2 or plan.stages or any(not isinstance(part, Read) for _, part in parts):
        problem = "weights by perplexity are of a sum of terms, and of nothing else"
        raise plan.error(problem, Span(0, len(plan.source)), cure)
    return names


def _read(decoder: Any, plan: Plan, row: int, prompt: Any) -> list[int]:
    """The ids of a prompt, as the term of a part reads it."""
    term = str(plan.scores.parts[row][1].term)  # type: ignore[union-attr]
    [ids] = [
        [token.id for token in view.tokens]
        for view in decoder.rendered(prompt)
        if view.term == term and view.tokens is not None
    ]
    if len(ids) < 2:
        raise ArgumentError(f"a prompt is one token for {term}, and has no perplexity")
    return ids
