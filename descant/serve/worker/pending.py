"""One row of a request while it is decoded: what of it was told, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..protocol.messages import Counts, Told

if TYPE_CHECKING:
    from ...runtime import Request, Served
    from ...runtime.requests.request import Answer


@dataclass
class Row:
    """One row of a request.

    Attributes:
        asked: the number of the message that asked for it.
        number: in its request.
        pieces: tell of every step, and not only at the end.
        since: when the request came.
        tokenizer: of its formula.
        characters: of the settled text that were told.
        tokens: that were told.
        seen: tokens that were counted.
        last: when the last of them came.
    """

    asked: int
    number: int
    pieces: bool
    since: float
    tokenizer: Any
    characters: int = 0
    tokens: int = 0
    seen: int = 0
    last: float = 0.0

    def piece(self, answer: Answer) -> Told | None:
        """What can be told now that was not; None where that is nothing."""
        if not (self.pieces or answer.finish_reason):
            return None
        text = answer.settled()[self.characters :]
        if not (text or answer.finish_reason):
            return None
        tokens = answer.tokens[self.tokens :]
        logprobs: list[float] = []
        spelled: list[str] = []
        if answer.request.logprobs:
            logprobs = answer.logprobs[self.tokens :]
            spelled = [self.tokenizer.decode([token]) for token in tokens]
        self.characters += len(text)
        self.tokens += len(tokens)
        reason, error = answer.finish_reason, answer.error
        return Told(self.number, text, tokens, logprobs, spelled, reason, error)

    def measure(self, answer: Answer, now: float, counts: Counts) -> None:
        """Count the tokens that came."""
        new = len(answer.tokens) - self.seen
        if new < 1:
            return
        counts.tokens += new
        if self.seen == 0:
            counts.first.append(now - self.since)
        else:
            counts.between.append((now - self.last) / new)
        self.seen, self.last = len(answer.tokens), now


def fitting(
    decoder: Served, prompt: Any, arguments: Mapping[str, Any], most: int
) -> Mapping[str, Any]:
    """The arguments with a number of new tokens: as many as fit, where none is asked for."""
    if "max_new_tokens" in arguments:
        return arguments
    room = decoder.room(prompt, arguments.get("params"))
    return {**arguments, "max_new_tokens": max(1, min(most, room))}


def check_room(request: Request, arguments: Mapping[str, Any]) -> None:
    """Refuse what a model would cut short: nothing is silent.

    Raises:
        ValueError: there is room for fewer tokens than are asked for.
    """
    if request.max_new_tokens < arguments.get("max_new_tokens", 0):
        raise ValueError(
            f"after this prompt the models have room for {request.max_new_tokens} tokens, and "
            f"{arguments['max_new_tokens']} are asked for; leave max_tokens out to get what fits"
        )


def prompt_tokens(request: Request) -> int:
    """Of what the formula's terms read, the longest."""
    return max(len(read) for read in request.prompts if not isinstance(read, str))
