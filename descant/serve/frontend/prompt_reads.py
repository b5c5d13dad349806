"""What a request asks of its prompts before they are answered: their tokens, and how likely."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ...errors import DescantError
from ...grammar import FormulaError
from ..protocol import errors
from ..protocol.messages import PromptReading, ReadPrompts
from ..protocol.prompt_answers import PromptAnswers
from ..protocol.schema import GenerationRequest
from .formulas import FormulaCache, FormulaRef
from .worker_link import WorkerLink

FIELDS = ("prompt_logprobs", "echo", "truncate_prompt_tokens", "return_token_ids")


class PromptQueries:
    """Has the prompts of requests read.

    Args:
        formulas, link: of the server.
        max_model_len: tokens of a text, at most.
    """

    def __init__(self, formulas: FormulaCache, link: WorkerLink, max_model_len: int) -> None:
        self._formulas, self._link, self._max_model_len = formulas, link, max_model_len

    async def read(
        self, body: GenerationRequest, ref: FormulaRef, formula: int, prompts: Sequence[Any],
        n: int, encode: Callable[[int, Sequence[Any]], Awaitable[Sequence[Any]]],
    ) -> tuple[PromptAnswers, list[Any]]:  # fmt: skip
        """What answers say of their prompts, and the prompts that are answered.

        Args:
            ref: the formula without stages of the request.
            formula: the one that answers.
            prompts: of the request, with their images.
            n: choices of each.
            encode: has prompts read as the terms of a formula do, outside of the decode process.

        Raises:
            ApiError: a prompt that cannot be read, or has no log-probabilities.
        """
        most, top, echoed = body.truncate_prompt_tokens, body.prompt_top, body.echoed
        if most is not None and not 0 < most <= self._max_model_len:
            if most > 0:
                problem = f"truncate_prompt_tokens is {most}; a text has at most"
                raise errors.invalid_value(
                    f"{problem} {self._max_model_len}", "truncate_prompt_tokens"
                )
            most = self._max_model_len
        wanted = top is not None or most is not None or body.return_token_ids or body.has_no_answer
        readings: list[PromptReading] = []
        encoded = await encode(formula, prompts)
        if wanted or None in (echoed or ()):
            command = (body.params or {}, top, most, body.truncation_side or "left")
            field = next((name for name in FIELDS if getattr(body, name)), None)
            try:
                if top is None:  # any formula over the same models will do
                    readings = await self._link.call(ReadPrompts(formula, encoded, *command))
                else:
                    async with self._formulas.use(ref) as plain:
                        other = await encode(plain, prompts)
                        readings = await self._link.call(ReadPrompts(plain, other, *command))
            except FormulaError as error:
                raise errors.wrong_formula(error, field, 422) from None
            except DescantError as error:
                raise errors.invalid_value(error, field) from None
        kept = [*encoded]
        texts: list[str | None] = [*(echoed or ())]
        for place, reading in enumerate(readings):
            if reading.is_cut:
                kept[place] = reading.token_ids
            if texts and (
                texts[place] is None or (reading.is_cut and isinstance(prompts[place], str))
            ):
                texts[place] = reading.text
        ids = bool(body.return_token_ids)
        echo = [text or "" for text in texts]
        said = PromptAnswers(n, readings, echo, body.prompt_logprobs, ids)
        return said, kept
