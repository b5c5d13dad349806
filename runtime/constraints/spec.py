"""What an answer is to fit, as data."""

from __future__ import annotations

from dataclasses import dataclass

from ...formula.nodes import StageAddress

FIELD: StageAddress = (None, -1)  # of the constraint that a request brings, among its stages
# Why a row can neither go on nor end: no token of the vocabulary goes on with its answer; or what
# comes before excludes all that do.
SPELT, MASKED = "spelt", "masked"


@dataclass(frozen=True)
class Constraint:
    """What an answer is to fit.

    Attributes:
        kind: ``"json"``, ``"regex"``, ``"grammar"`` or ``"choice"``.
        text: the schema as canonical JSON, the expression, the grammar, or the choices as a JSON
            list.
    """

    kind: str
    text: str
