"""``/v1/score``: what the run file's reward models say of whole texts, a few at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..grammar import did_you_mean
from ..models import REWARD, ModelError, describe, has_values
from ..models.fakes import RuleReward
from ..scoring.rewards import RewardScorer
from .errors import ApiError

if TYPE_CHECKING:
    from ..runtime import Service
    from .server import Server

AT_ONCE = 8  # texts that are scored between two steps


class Scorers:
    """The reward models of a server; each is read when it is first asked."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._read: dict[str, RewardScorer] = {}  # only the decode thread comes here
        self.names = [name for name in server.specs if self._scores(name)]

    async def scores(
        self, model: str, prompts: Sequence[Any], answers: Sequence[str]
    ) -> list[float]:
        """One reward per answer.

        Raises:
            ApiError: no such reward model, or a text that it cannot read.
        """
        if model not in self.names:
            cure = did_you_mean(model[:100], self.names) or "the run file declares none"
            message = f"there is no reward model {model[:100]!r}; {cure}"
            raise ApiError(404, message, "model", "model_not_found")
        found: list[float] = []
        for first in range(0, len(answers), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            try:
                found += await self._server.job(
                    partial(self._some, model, prompts[some], answers[some])
                )
            except ModelError as error:
                raise ApiError(400, str(error), None, "invalid_value") from None
        return found

    def _some(
        self, model: str, prompts: Sequence[Any], answers: Sequence[str], service: Service
    ) -> list[float]:
        if model not in self._read:
            server = self._server
            self._read[model] = RewardScorer(
                model, server.specs, server.dtype, server.device, service.weights,
                longest=server.limits.max_model_len,
            )  # fmt: skip
        return self._read[model].scores(prompts, answers)

    def _scores(self, name: str) -> bool:
        server = self._server
        home = server.specs[name].on or name
        spec = server.specs.get(home)
        if spec is None or isinstance(spec.model, RuleReward):
            return False
        card = describe(home, spec, server.dtype, server.device)
        return card.kind == REWARD or (card.config is not None and has_values(spec))
