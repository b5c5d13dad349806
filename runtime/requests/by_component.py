"""What may be asked for with ``sample_components=True``, and what to write instead."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import ArgumentError, quoted
from ...formula.algebra.components import LEAVE, why_no_components
from ..binding.bound import Bound


def check_sample_components(
    bound: Bound, asked: bool, temperatures: Sequence[float], logprobs: bool, draft: bool
) -> bool:
    """Whether rows draw components of the formula's mixture.

    Args:
        asked: as in ``Decoder.generate``.
        temperatures: of the rows.
        logprobs: whether those of the tokens are asked for.
        draft: whether tokens are drafted.

    Raises:
        FormulaError: a formula that is no mixture, or more than that.
        ValueError: other arguments that do not go with it.
    """
    if not isinstance(asked, bool):
        raise ArgumentError(f"sample_components is {quoted(asked)}, and it is true or false")
    if not asked:
        return False
    if (error := why_no_components(bound.plan, bound.mapped)) is not None:
        raise error
    for temperature in temperatures:
        if temperature != 1:
            cure = f"leave temperature out, or {LEAVE}"
            problem = f"sample_components=True draws at temperature 1, and not at {temperature:g}"
            raise ArgumentError(f"{problem}; {cure}")
    if logprobs:
        why = "logprobs are of the whole mixture, and only one of its components is run"
        raise ArgumentError(f"{why} with sample_components=True; {LEAVE}, or ask loglikelihood")
    if draft:
        why = "a draft is verified by the whole mixture, and only one of its components is run"
        raise ArgumentError(f"{why} with sample_components=True; leave one of them out")
    return True
