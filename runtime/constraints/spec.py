"""What an answer is to fit, as data."""

from __future__ import annotations

from dataclasses import dataclass


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
