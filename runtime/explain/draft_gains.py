"""What drafting promises, computed from bytes of weights before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass

from ...formula.algebra.drafting import AUTO, PROMPT
from ..binding.bound import Bound
from ..loops.speculation.draft_length import LONGEST, RoundCosts, best_length, expected_tokens
from ..loops.speculation.lane_costs import draft_costs, prompt_costs, term_costs
from ..requests.request import DraftOptions

ACCEPTANCES = (0.7, 0.8, 0.9)  # at which gains are stated
_LEAST = 1.05  # a gain at the highest of them that is worth a line
_LINES = 2


@dataclass(frozen=True)
class DraftGain:
    """A draft, and how many times as fast it makes a formula.

    Attributes:
        draft: as ``generate`` takes it.
        costs: of its rounds.
        length: tokens that are drafted, where it was asked for; None for as many as pay.
    """

    draft: str
    costs: RoundCosts
    length: int | None = None

    def speedup(self, acceptance: float, length: int) -> float:
        """Tokens per time over those of ordinary steps.

        Args:
            acceptance: the share of drafted tokens that are accepted where those before them are.
            length: tokens that are drafted per round.
        """
        return expected_tokens(acceptance, length) / self.costs.relative(length)

    def best_length(self, acceptance: float, most: int = LONGEST) -> int:
        """The length with the highest speedup; 0 where ordinary steps are faster."""
        return best_length(acceptance, self.costs, most)

    def best(self, acceptance: float) -> float:
        """The highest speedup; 1 where ordinary steps are faster."""
        return self.speedup(acceptance, self.best_length(acceptance))

    def line(self) -> str:
        """``by base, 4 tokens ahead: 1.3, 1.6 and 2.0 times as fast …``"""
        lengths = map(self.best_length, ACCEPTANCES[1:])
        length = self.length or next(filter(None, lengths), 0)
        if not length:
            problem = f"no gain at an acceptance of {ACCEPTANCES[-1]} or less"
            return f"by {self.draft}: {problem} (computed from bytes)"
        *first, last = (f"{self.speedup(rate, length):.1f}" for rate in ACCEPTANCES)
        *rates, highest = map(str, ACCEPTANCES)
        tokens = f"{length} token{'' if length == 1 else 's'} ahead"
        return (
            f"by {self.draft}, {tokens}: {', '.join(first)} and {last} times as fast at an "
            f"acceptance of {', '.join(rates)} and {highest} (computed from bytes)"
        )


def draft_gains(bound: Bound, draft: DraftOptions | None = None) -> list[DraftGain]:
    """What a draft promises that was asked for, which has the first of the draft plans.

    Where none was, or any: drafts by a single term of the formula that promise a gain, the best
    two, the best first.
    """
    if draft is not None and draft.source != AUTO:
        longest = max(LONGEST, draft.longest)
        if draft.source == PROMPT:
            name, costs = "prompt lookup", prompt_costs(bound, longest=longest)
        else:
            [plan] = bound.draft_plans
            name, costs = plan.plan.formula, draft_costs(bound, plan, longest=longest)
        return [DraftGain(name, costs, draft.length)] if costs.step else []
    gains = [DraftGain(str(bound_term.term), costs) for bound_term, costs in term_costs(bound)]
    worth = [gain for gain in gains if gain.best(ACCEPTANCES[-1]) >= _LEAST]
    return sorted(worth, key=lambda gain: -gain.best(ACCEPTANCES[-1]))[:_LINES]
