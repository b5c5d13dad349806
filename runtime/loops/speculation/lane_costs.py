"""What rounds cost by the bytes of weights that their forwards read.

The drafting lanes run a forward of one position for each token. Those of them that belong to the
formula run one more, for their logits serve the verification; every other lane of the formula runs
one forward over all positions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ...binding.bound import Bound
from ...binding.bound_term import BoundTerm
from .draft_length import LONGEST, RoundCosts

CPU_FIRST, CPU_EACH = 0.5, 0.025  # what a forward costs more on a CPU: of several rows, of each


@dataclass(frozen=True)
class LaneCost:
    """What a forward of a lane reads and computes.

    Attributes:
        weight_bytes: that a forward reads.
        operations: floating-point operations per position; 0 where they are not counted.
        on_cpu: whether to count what a CPU takes longer for several rows than for one
            (``bench.drafts``), beside the bytes.
    """

    weight_bytes: float
    operations: float = 0.0
    on_cpu: bool = False

    def cost(self, positions: int, operations_per_byte: float = 0.0) -> float:
        """A forward of so many positions, in bytes: whichever takes longer, reading or computing.

        Args:
            positions: over all rows.
            operations_per_byte: that the device computes in the time in which it reads a byte;
                0 where operations are not counted.
        """
        if self.on_cpu and positions > 1:
            return self.weight_bytes * (1 + CPU_FIRST + CPU_EACH * positions)
        if not operations_per_byte:
            return self.weight_bytes
        return max(self.weight_bytes, positions * self.operations / operations_per_byte)


def round_costs(
    lanes: Sequence[LaneCost],
    drafting: Collection[int] = (),
    others: Iterable[LaneCost] = (),
    operations_per_byte: float = 0.0,
    rows: int = 1,
    longest: int = LONGEST,
) -> RoundCosts:
    """The costs of rounds, in bytes.

    Args:
        lanes: that a step of the formula runs.
        drafting: those of them that draft, by their numbers.
        others: lanes that draft and are not in the formula.
        operations_per_byte: as in ``LaneCost.cost``; left out, only bytes count.
        rows: in the batch.
        longest: the longest draft.
    """

    def forwards(running: Iterable[LaneCost], positions: int) -> float:
        return sum(lane.cost(rows * positions, operations_per_byte) for lane in running)

    one = forwards((lanes[number] for number in drafting), 1)
    verifying = [lane for number, lane in enumerate(lanes) if number not in drafting]
    verify = tuple(one + forwards(verifying, length + 1) for length in range(longest + 1))
    return RoundCosts(step=verify[0], draft=one + forwards(others, 1), verify=verify)


def lanes_of_steps(bound: Bound, measured: bool = False) -> dict[int, LaneCost]:
    """The lanes that steps run, by their numbers: not those of a search's rewards, or of drafts."""
    address, _ = bound.plan.search or (None, None)
    numbers = {term.lane for term in bound.own_terms if term.language or term.address != address}
    return {number: _lane_cost(bound, number, measured) for number in sorted(numbers)}


def draft_costs(
    bound: Bound, draft: Bound, rows: int = 1, measured: bool = False, longest: int = LONGEST
) -> RoundCosts:
    """The costs of rounds that a draft plan over the same lanes drafts.

    Args:
        bound: the formula, and ``draft``, one of its draft plans.
        rows: in the batch.
        measured: whether to count what is known of CPUs beside bytes.
        longest: the longest draft.
    """
    lanes, drafting = lanes_of_steps(bound, measured), {term.lane for term in draft.terms}
    own = {place for place, number in enumerate(lanes) if number in drafting}
    others = [_lane_cost(bound, number, measured) for number in sorted(drafting - lanes.keys())]
    return round_costs(list(lanes.values()), own, others, rows=rows, longest=longest)


def term_costs(bound: Bound, measured: bool = False) -> list[tuple[BoundTerm, RoundCosts]]:
    """The costs of rounds that a single term of the formula drafts: one term per lane, as written.

    Terms of another vocabulary are left out, those of lanes that some steps do not run, and all
    where processes share the lanes, whose forwards run at the same time.
    """
    lanes, spans = lanes_of_steps(bound, measured), bound.plan.spans
    costs, numbers = list(lanes.values()), list(lanes)
    if bound.term_parallel is not None or not sum(lane.weight_bytes for lane in costs):
        return []
    terms: dict[int, BoundTerm] = {}
    seldom = {term.lane for term in bound.conditional}
    for term in sorted(bound.terms, key=lambda each: spans[each.term]):
        if term.token_map is None and term.lane not in seldom:
            terms.setdefault(term.lane, term)
    return [(term, round_costs(costs, {numbers.index(lane)})) for lane, term in terms.items()]


def _lane_cost(bound: Bound, number: int, measured: bool) -> LaneCost:
    lane = bound.lanes[number]
    return LaneCost(lane.footprint().weight_bytes, on_cpu=measured and lane.device.type == "cpu")


def prompt_costs(
    bound: Bound, rows: int = 1, measured: bool = False, longest: int = LONGEST
) -> RoundCosts:
    """The costs of rounds that prompt lookup drafts; arguments are those of ``draft_costs``."""
    return round_costs(list(lanes_of_steps(bound, measured).values()), rows=rows, longest=longest)
