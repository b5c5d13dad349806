"""One row of a request while it is decoded, and the checks before it is queued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..protocol.messages import RowUpdate, StepCounts

if TYPE_CHECKING:
    from ...runtime import Request, Served
    from ...runtime.requests.request import Answer


@dataclass
class PendingRow:
    """One row of a request.

    Attributes:
        command: the number of its ``Submit``.
        number: of the row in its request.
        stream: send an update after every step, and not only at the end.
        arrival_time: of the request.
        tokenizer: of its formula.
        sent_characters: of the settled text.
        sent_tokens: in updates.
        counted_tokens: in the metrics.
        last_token_time: when the last of these came.
    """

    command: int
    number: int
    stream: bool
    arrival_time: float
    tokenizer: Any
    sent_characters: int = 0
    sent_tokens: int = 0
    counted_tokens: int = 0
    last_token_time: float = 0.0

    def update(self, answer: Answer) -> RowUpdate | None:
        """What the row has gained since its last update; None where that is nothing."""
        reason = answer.finish_reason
        if not (self.stream or reason):
            return None
        text = answer.settled()[self.sent_characters :]
        if not (text or reason):
            return None
        ids = answer.tokens[self.sent_tokens :]
        logprobs: list[float] = []
        tokens: list[str] = []
        if answer.request.logprobs:
            logprobs = answer.logprobs[self.sent_tokens :]
            tokens = [self.tokenizer.decode([id]) for id in ids]
        self.sent_characters += len(text)
        self.sent_tokens += len(ids)
        return RowUpdate(self.number, text, ids, logprobs, tokens, reason, answer.error)

    def count(self, answer: Answer, now: float, counts: StepCounts) -> None:
        """Count the new tokens and their times."""
        new = len(answer.tokens) - self.counted_tokens
        if new < 1:
            return
        counts.tokens += new
        if self.counted_tokens == 0:
            counts.first_token.append(now - self.arrival_time)
        else:
            counts.next_token.append((now - self.last_token_time) / new)
        self.counted_tokens, self.last_token_time = len(answer.tokens), now


def with_max_new_tokens(
    decoder: Served, prompt: Any, arguments: Mapping[str, Any], max_tokens: int
) -> Mapping[str, Any]:
    """The arguments with ``max_new_tokens``: as many as fit, where it is left out."""
    if "max_new_tokens" in arguments:
        return arguments
    room = decoder.room(prompt, arguments.get("params"))
    return {**arguments, "max_new_tokens": max(1, min(max_tokens, room))}


def check_room(request: Request, arguments: Mapping[str, Any]) -> None:
    """Refuse a request that a model's length would cut short.

    Raises:
        ValueError: there is room for fewer tokens than ``max_new_tokens``.
    """
    if request.max_new_tokens < arguments.get("max_new_tokens", 0):
        raise ValueError(
            f"after this prompt the models have room for {request.max_new_tokens} tokens, and "
            f"{arguments['max_new_tokens']} are asked for; leave max_tokens out to get what fits"
        )


def prompt_tokens(request: Request) -> int:
    """Tokens of the longest prompt among the formula's terms."""
    return max(len(ids) for ids in request.prompts if not isinstance(ids, str))
