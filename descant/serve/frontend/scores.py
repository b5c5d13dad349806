"""``/v1/score``: what the run file's reward models say of whole texts, a few at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...grammar import did_you_mean
from ...models import ModelError
from ..protocol.errors import ApiError
from ..protocol.messages import Score
from .server import Server

AT_ONCE = 8  # texts that are scored between two steps


async def scores(
    server: Server, model: str, prompts: Sequence[Any], answers: Sequence[str]
) -> list[float]:
    """One reward per answer.

    Raises:
        ApiError: no such reward model, or a text that it cannot read.
    """
    if model not in server.rewards:
        cure = did_you_mean(model[:100], server.rewards) or "the run file declares none"
        message = f"there is no reward model {model[:100]!r}; {cure}"
        raise ApiError(404, message, "model", "model_not_found")
    found: list[float] = []
    for first in range(0, len(answers), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        try:
            found += await server.link.ask(Score(model, prompts[some], answers[some]))
        except ModelError as error:
            raise ApiError(400, str(error), None, "invalid_value") from None
    return found
