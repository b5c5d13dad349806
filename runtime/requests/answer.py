"""An answer: a completion in progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ..binding.bound import Bound
from .answer_text import AnswerText
from .request import Completion, Request, TokenLogprobs


@dataclass(eq=False)
class Answer:
    """A completion in progress: its tokens so far, and whether it has ended.

    Attributes:
        content: its text; None where the models have no tokenizer, or nobody reads text.
        drawn: how many tokens, with those that are not copied to the host yet.
        finish_reason: None until the end; then as in a completion, or ``"cancelled"``, or
            ``"error"`` with its ``error``.
        cached_tokens: of its ``prompt_tokens``, how many were in the prefix cache when it was let
            in.
        log_weight, log_normalizer: as in a completion.
        particles: all of them, where the formula draws particles; each an answer that has ended.
        ends: tells whether nothing but the end may follow tokens; None without constraints.
    """

    request: Request
    content: AnswerText | None
    started: float
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[dict[int, float]] = field(default_factory=list)
    drawn: int = 0
    finish_reason: str | None = None
    error: Exception | None = None
    cached_tokens: int = 0
    log_weight: float | None = None
    log_normalizer: float | None = None
    particles: Sequence[Answer] = ()
    ends: Callable[[Sequence[int]], bool] | None = None
    _read: Sequence[int] = ()

    @property
    def read_by_others(self) -> Sequence[int]:
        """For each of the request's ``rooms``, the tokens of the answer that its term has read."""
        return self._read or [0] * len(self.request.rooms)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the longest prompt among the formula's terms, that of ``longest_term``."""
        return len(self.request.prompts[self.request.longest_term])

    @property
    def found_in_text(self) -> int:
        """How often the text that segments of a search end with has come."""
        assert self.content is not None
        self.content.read(self.tokens)
        return self.content.found

    def extend(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> None:
        """Append tokens, each with its log-probabilities if there are any, up to the last."""
        for number, token in enumerate(tokens):
            if self.finish_reason is not None:
                return
            if logprobs:
                own = logprobs[number]
                self.logprobs.append(own.logprob)
                self.top_logprobs.append(dict(own.top[: self.request.top_logprobs]))
            self.add(token)

    def add(self, token: int) -> None:
        """Append the next token, and check whether it is the last."""
        self.tokens.append(token)
        if token in self.request.eos:
            stops = token in self.request.text.stop_token_ids
            self.finish_reason = "stop" if stops else "eos"
        elif (self.content and self.request.stops and self.content.read(self.tokens)) or (
            self.ends is not None and self.ends(self.tokens)
        ):
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.request.max_new_tokens or (
            self.request.rooms and self._full(token)
        ):
            stopped = self.content and self.request.stops and self.content.end(self.tokens)
            self.finish_reason = "stop" if stopped else "length"

    def copied(self, request: Request) -> Answer:
        """The same answer, continued in another row."""
        content = self.content and self.content.copied()
        return replace(
            self, request=request, content=content, tokens=[*self.tokens], logprobs=[],
            top_logprobs=[], drawn=0,
        )  # fmt: skip

    def take(self) -> str:
        """The text since the last call that no later token changes.

        It has no half character and no part of a stop string, and all pieces together are the text.
        """
        if self.content is None:
            return ""
        self._read_text()
        return self.content.take()

    def shown_tokens(self, start: int) -> list[tuple[str, bytes]]:
        """The tokens from a position on: each as a string by itself, and its bytes in the text.

        A special token has its name and no bytes. The bytes of all tokens are the text, but for a
        stop string.
        """
        if self.content is None:
            return []
        self._read_text()
        return self.content.shown(self.tokens, start)

    def shown_best(self, start: int) -> list[list[tuple[str, bytes, float, int]]]:
        """The most likely tokens from a position on.

        Each as ``shown_tokens`` has it, with its log-probability and its id.
        """
        if self.content is None:
            return []
        alone = self.content.alone
        return [
            [(*alone(token), value, token) for token, value in best.items()]
            for best in self.top_logprobs[start:]
        ]

    def fail(self, error: Exception) -> None:
        """End here, because of an error."""
        self.error, self.finish_reason = error, "error"

    def completion(self, now: float) -> Completion:
        """The finished answer."""
        assert self.finish_reason is not None
        self._read_text()
        request, content = self.request, self.content
        return Completion(
            None if content is None else content.text(), self.tokens, self.finish_reason,
            dict(request.params), now - self.started, request.prompt,
            self.logprobs if request.logprobs else None,
            self.top_logprobs if request.top_logprobs else None,
            cached_tokens=self.cached_tokens, log_weight=self.log_weight,
            log_normalizer=self.log_normalizer,
            particles=[each.completion(now) for each in self.particles]
            if request.return_particles
            else None,
        )  # fmt: skip

    def _read_text(self) -> None:
        if self.content is not None:
            read = self.content.read if self.finish_reason is None else self.content.end
            read(self.tokens)

    def _full(self, token: int) -> bool:
        """Whether a term that reads tokens as several of its own has no room left."""
        rooms = self.request.rooms
        pairs = zip(self.read_by_others, rooms, strict=True)
        self._read = [read + len(reads[token]) for read, (reads, _) in pairs]
        return any(read >= room for read, (_, room) in zip(self._read, rooms, strict=True))


def answer_to(request: Request, bound: Bound, started: float, until: str = "") -> Answer:
    """The answer to a request, without a token; its text says how often ``until`` has come."""
    detokenizer, term = bound.detokenizer, bound.text_term
    if detokenizer is None:
        return Answer(request, None, started)
    content = AnswerText(
        detokenizer, request.prompts[term], request.stops, until, request.text, request.eos
    )
    return Answer(request, content, started, ends=bound.constraints.ending(request))
