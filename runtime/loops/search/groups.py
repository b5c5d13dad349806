"""The groups of requests, by the stage that searches."""

from __future__ import annotations

from dataclasses import replace

from ....formula import Scalar
from ....formula.words.stages import BestOf, Blockwise, Lookahead, Reject
from ...binding.bound import Bound
from ...requests.answer import Answer, answer_to
from ...requests.request import Request
from ...scores.noise import seed_key
from .blocks import Blocks
from .group import Group
from .lookahead import candidates_of
from .segments import Rule, Segments


def group_of(request: Request, bound: Bound) -> Group:
    """The rows of a request, by the numbers that it gives the stage that searches."""
    plan = bound.plan

    def number(scalar: Scalar) -> float:
        return request.values[plan.columns[scalar]]

    high, low = request.key
    seed = (high << 32) ^ low

    def answers(count: int) -> list[Answer]:
        keys = [seed_key(seed, i) for i in range(count)]
        return [answer_to(replace(request, key=key), bound, 0.0) for key in keys]

    match plan.search:
        case (_, BestOf() as stage):
            return Blocks(answers(int(number(stage.n))), 1, request.max_new_tokens)
        case (_, Blockwise() as stage):
            beams, length = int(number(stage.beams)), int(number(stage.length))
            return Blocks(answers(beams * int(number(stage.samples))), beams, length)
        case (_, Reject() as stage):
            names = ("target", "beta", "alpha", "shortest", "longest", "retries")
            rule = Rule(**{name: number(getattr(stage, name)) for name in names})
            return Segments(answers(int(number(stage.samples))), rule, seed)
        case (_, Lookahead() as stage):
            return candidates_of(request, stage, number, lambda own: answer_to(own, bound, 0.0))
    raise TypeError(f"no group for {plan.search}")
