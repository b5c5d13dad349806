"""What may be asked of a formula that draws particles, and of no other."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import ArgumentError, quoted
from ...formula.words.stages import Particles
from ..binding.bound import Bound


def check_particles(bound: Bound, asked: bool, temperatures: Sequence[float]) -> None:
    """Refuse particles without noise, and all particles of a formula that draws none.

    Args:
        asked: ``return_particles``, as in ``Decoder.generate``.
        temperatures: of the rows.

    Raises:
        ValueError: arguments that do not fit the formula.
    """
    _, stage = bound.plan.search or (None, None)
    if not isinstance(asked, bool):
        raise ArgumentError(f"return_particles is {quoted(asked)}, and it is true or false")
    if isinstance(stage, Particles):
        if not all(temperatures):
            problem = "particles are drawn, and at temperature 0 all of them are one text"
            raise ArgumentError(f"{problem}; give a temperature above 0, or leave it out")
    elif asked:
        problem = "return_particles is for a formula that ends in particles"
        raise ArgumentError(f"{problem}, and this is {bound.plan.formula}")
