"""One row of a request while it is decoded, and the checks before it is queued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import ArgumentError
from ..protocol.messages import RowUpdate, StepCounts, Submit

if TYPE_CHECKING:
    from ...runtime import Request, Served
    from ...runtime.requests.answer import Answer


@dataclass
class PendingRow:
    """One row of a request.

    Attributes:
        request: the row's own, of the service.
        command: the number of its ``Submit``.
        submit: the command itself.
        number: of the row in its request.
        counts_prompt: whether it is the one of its prompt's rows that usage counts.
        sent_tokens: in updates.
        counted_tokens: in the metrics.
        last_token_time: when the last of these came.
        thoughts: the marks of thought, where a chat counts their tokens (``Thoughts``); and
            ``thought_state``, where its text is among them.
    """

    request: Request
    command: int
    submit: Submit
    number: int
    counts_prompt: bool = True
    sent_tokens: int = 0
    counted_tokens: int = 0
    last_token_time: float = 0.0
    thoughts: Any = None
    thought_state: int = 0

    def update(self, answer: Answer) -> RowUpdate | None:
        """What the row has gained since its last update; None where that is nothing."""
        reason = answer.finish_reason
        if not (self.submit.stream or reason):
            return None
        text = answer.take()
        if not (text or reason):
            return None
        ids = answer.tokens[self.sent_tokens :]
        with_logprobs = answer.request.logprobs
        logprobs = answer.logprobs[self.sent_tokens :] if with_logprobs else []
        shown = answer.shown_tokens(self.sent_tokens) if with_logprobs else []
        tokens, token_bytes = zip(*shown, strict=True) if shown else ((), ())
        best = answer.shown_best(self.sent_tokens) if with_logprobs else []
        self.sent_tokens += len(ids)
        cached = answer.cached_tokens if reason and self.counts_prompt else 0
        return RowUpdate(
            self.number, text, ids, logprobs, tokens, token_bytes, best, reason,
            cached_tokens=cached, log_weight=answer.log_weight,
            log_normalizer=answer.log_normalizer, reasoning_tokens=self._reasoning_tokens(ids),
        )  # fmt: skip

    def _reasoning_tokens(self, ids: list[int]) -> int:
        if self.thoughts is None:
            return 0
        count: int = self.thoughts.counted(ids, self.thought_state)
        self.thought_state = self.thoughts.after(ids, self.thought_state)
        return count

    def count(self, answer: Answer, now: float, counts: StepCounts) -> None:
        """Count the new tokens and their times."""
        new = len(answer.tokens) - self.counted_tokens
        if new < 1:
            return
        counts.tokens += new
        if self.counted_tokens == 0:
            counts.first_token.append(now - self.submit.arrival_time)
        else:
            counts.next_token += [(now - self.last_token_time) / new] * new
        self.counted_tokens, self.last_token_time = len(answer.tokens), now


def fitting(submit: Submit, decoder: Served, prompt: Any) -> Mapping[str, Any]:
    """The arguments of a command, with as many ``max_new_tokens`` as fit where it has none."""
    if "max_new_tokens" in submit.arguments:
        return submit.arguments
    room = decoder.room(prompt, submit.arguments.get("params"))
    return {**submit.arguments, "max_new_tokens": max(1, min(submit.max_tokens, room))}


def check_room(request: Request, most: int) -> None:
    """Refuse a request that a model's length would cut short.

    Raises:
        ValueError: there is room for fewer than ``most`` tokens.
    """
    if request.max_new_tokens < most:
        raise ArgumentError(
            f"after this prompt the models have room for {request.max_new_tokens} tokens, and "
            f"{most} are asked for; leave max_tokens out to get what fits"
        )
