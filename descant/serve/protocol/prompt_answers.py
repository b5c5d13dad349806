"""What answers say of their prompts: their text, their tokens, and log-probabilities of these."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from .messages import PromptReading

LEAST = -9999.0  # in place of minus infinity, which JSON has not; as vLLM has it
utf8 = codecs.getincrementaldecoder("utf-8")


def finite(logprob: float) -> float:
    """A log-probability as JSON can have it."""
    return max(logprob, LEAST)


def token_name(token: str, id: int, as_id: bool) -> str:
    """A token as ``logprobs`` name it: its text, or ``token_id:7``."""
    return f"token_id:{id}" if as_id else token


def offsets(pieces: Sequence[bytes]) -> list[int]:
    """Where each token's text begins, in characters, and where the last one's ends."""
    characters = utf8("replace")
    return [*accumulate((len(characters.decode(piece)) for piece in pieces), initial=0)]


@dataclass(frozen=True)
class PromptAnswers:
    """What the choices of a response say of their prompts.

    Attributes:
        rows_each: choices of each prompt.
        readings: of each prompt; none where nothing is said of them.
        echoed: per prompt, the text that its choices begin with; none without ``echo``.
        prompt_logprobs: how many of the best tokens they have at each token; None for nothing.
        ids: whether the ids of prompts are shown.
    """

    rows_each: int = 1
    readings: Sequence[PromptReading] = ()
    echoed: Sequence[str] = ()
    prompt_logprobs: int | None = None
    ids: bool = False

    def text(self, row: int) -> str:
        """What the text of a choice begins with."""
        return self.echoed[row // self.rows_each] if self.echoed else ""

    def fields(self, row: int) -> dict[str, Any]:
        """The fields of a choice that are of its prompt, as vLLM has them."""
        fields: dict[str, Any] = {}
        if self.prompt_logprobs is not None:
            fields["prompt_logprobs"] = self._ranked(self._reading(row), self.prompt_logprobs)
        if self.ids:
            fields["prompt_token_ids"] = self._reading(row).token_ids
        return fields

    def logprobs(self, row: int, best: int, as_ids: bool) -> dict[str, list[Any]]:
        """The prompt's part of a completion's ``logprobs``; nothing precedes the first token.

        Its tokens are what the formula has read, with its template; the offsets are in the prompt.
        """
        reading = self._reading(row)
        names = [
            token_name(token, id, as_ids)
            for token, id in zip(reading.tokens, reading.token_ids, strict=True)
        ]
        tops: list[Any] = [None]
        pairs = zip(names[1:], reading.logprobs[1:], reading.top_logprobs[1:], strict=True)
        for name, logprob, top in pairs:
            others = {token_name(t, id, as_ids): finite(value) for t, _, value, id in top[:best]}
            tops.append({name: finite(logprob)} | others)
        size, start = len(self.text(row)), max(0, reading.text.find(self.text(row)))
        return {
            "tokens": names,
            "token_logprobs": [None, *map(finite, reading.logprobs[1:])],
            "top_logprobs": tops,
            "text_offset": [
                min(max(0, at - start), size) for at in offsets(reading.token_bytes)[:-1]
            ],
        }

    def _reading(self, row: int) -> PromptReading:
        return self.readings[row // self.rows_each]

    def _ranked(self, reading: PromptReading, best: int) -> list[dict[str, Any] | None]:
        """Per token itself and the best ones, by id, each with its rank; nothing for the first."""
        ranked: list[dict[str, Any] | None] = [None]
        for place, id in enumerate(reading.token_ids[1:], 1):
            own = (reading.tokens[place], b"", reading.logprobs[place], id)
            others = enumerate(reading.top_logprobs[place][:best], 1)
            ranked.append(
                {
                    str(id): {"logprob": finite(value), "rank": rank, "decoded_token": token}
                    for rank, (token, _, value, id) in [(reading.ranks[place], own), *others]
                }
            )
        return ranked
