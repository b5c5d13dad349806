"""What a Python function has failed with, where a reward is NaN."""

from __future__ import annotations

from collections.abc import Iterable

from ...formula import Plan
from ...grammar import FormulaError
from ...models.functions import UserPrompt
from ..binding.bound_term import BoundTerm
from .request import Request


def reward_failure(
    plan: Plan, terms: Iterable[tuple[int, BoundTerm]], request: Request, where: str
) -> FormulaError | None:
    """The error of a request whose reward is NaN, marked where its function stands.

    Args:
        plan: whose reward it is.
        terms: the models of the stage, each with its number there.
        request: whose answer it is.
        where: which row and token.

    Returns:
        None where no function has failed.
    """
    for number, bound_term in terms:
        if bound_term.address is None or bound_term.language:
            continue
        prompt = request.rewards[bound_term.address][number]
        if isinstance(prompt, UserPrompt) and (failure := prompt.failure) is not None:
            problem = f"{failure.problem}, {where}" if where else failure.problem
            error = plan.error(problem, plan.spans[bound_term.term], failure.cure)
            error.__cause__ = failure.__cause__ or failure
            return error
    return None
