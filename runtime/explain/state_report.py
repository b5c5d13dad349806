"""What the states of models cost, for the plan: rows keep them, and candidates copy them."""

from __future__ import annotations

from ..batch.cost import si_bytes
from ..batch.memory import queries, saved_times
from ..binding.bound import Bound


def state_lines(bound: Bound, drafted: bool) -> list[str]:
    """A line per lane whose rows keep something whatever their length.

    Args:
        drafted: whether tokens are drafted, by a model or from the prompt.
    """
    lines = []
    for number, lane in enumerate(bound.lanes):
        if not (size := lane.footprint().row_bytes):
            continue
        parts = [f"{bound.lane_names[number]} keeps {si_bytes(size)} of states in each row"]
        if (candidates := queries(bound, number) - 1) > 0:
            copies = si_bytes(candidates * size)
            parts.append(f"{candidates} candidates copy them, {copies} for each row of a step")
        if drafted or saved_times(bound) > 1:
            parts.append("a copy of them is kept, for texts that are cut back")
        lines.append(f"states      {'; '.join(parts)}")
    return lines
