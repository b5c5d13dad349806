"""One formula with several endings, as decoders over weights that are read once.

Other repositories take top-k and top-p with each call; for descant they are part of the formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..api import declared, plan_of, where

if TYPE_CHECKING:
    from ..runtime import Decoder


class Decoders:
    """Decoders of a formula, each with stages after it.

    Args:
        formula: up to the stages.
        models: as for ``descant.compile``.
        params: the formula's parameters.
    """

    def __init__(
        self, formula: str, models: Mapping[str, Any], params: Mapping[str, float] | None = None
    ) -> None:
        self.formula, self._params = formula, params
        from ..runtime import WeightPool

        self._specs, self._pool = declared(models), WeightPool()
        self._made: dict[str, Decoder] = {}

    def with_stages(self, *stages: str) -> Decoder:
        """The decoder of the formula with these stages after it."""
        from ..runtime import Decoder, bind

        text = " | ".join((self.formula, *stages))
        if text not in self._made:
            plan = plan_of(text, self._specs, self._params)
            bound = bind(plan, self._specs, *where(None, None), pool=self._pool)
            self._made[text] = Decoder(bound, self._params)
        return self._made[text]
