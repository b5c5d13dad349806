"""What a Python function has failed with, where a reward is no finite number."""

from __future__ import annotations

from typing import Any

from ...grammar import FormulaError
from ...models.functions import UserPrompt
from ..binding.bound import Bound, reward_stages
from .request import Request


def reward_failure(bound: Bound, address: Any, request: Request, where: str) -> FormulaError | None:
    """The error of a request whose reward is no finite number, marked where its function stands.

    Args:
        bound: whose stage it is.
        address: of the stage.
        request: whose answer it is.
        where: which row and token.

    Returns:
        None where no function has failed.
    """
    plan = bound.plan
    spans = {known: reward.span for known, _, reward in reward_stages(plan)}
    for bound_term, prompt in zip(bound.rewards[address], request.rewards[address], strict=True):
        if isinstance(prompt, UserPrompt) and (failure := prompt.failure) is not None:
            span = plan.reward_spans[spans[address], bound_term.term]
            error = plan.error(f"{failure.problem}, {where}", span, failure.cure)
            error.__cause__ = failure.__cause__ or failure
            return error
    return None
