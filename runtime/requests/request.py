"""What is asked for and what comes back: one request per row, one completion per request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ...formula.nodes import StageAddress
from ...grammar import FormulaError

Reading: TypeAlias = "Sequence[int] | str"


@dataclass(frozen=True)
class Request:
    """One row to decode.

    Attributes:
        index: its place in the answer.
        prompts: per term of the scores, the ids that it reads.
        rewards: per stage and reward model, the ids, or the text, that it reads.
        values: the plan's numbers for this row.
        key: its noise (``noise.seed_key``).
        stops: strings that end it.
        rooms: for each term of another vocabulary, what it reads for each token, and how many
            tokens it has room for.
        logprobs: whether to say how likely its tokens were.
    """

    index: int
    prompt: Any
    prompts: Sequence[Reading]
    rewards: Mapping[StageAddress, Sequence[Reading]]
    values: Sequence[float]
    params: Mapping[str, float]
    temperature: float
    key: tuple[int, int]
    max_new_tokens: int
    eos: frozenset[int]
    stops: tuple[str, ...] = ()
    rooms: Sequence[tuple[Sequence[Sequence[int]], int]] = ()
    logprobs: bool = False


@dataclass
class Completion:
    """What a request was answered.

    Attributes:
        text: without special tokens, and without the stop string that ended it; None where the
            models have no tokenizer.
        token_ids: the generated ids, with the EOS where one ended the row.
        finish_reason: ``"eos"``, ``"stop"`` (a stop string) or ``"length"``.
        params: the parameters' values for this row.
        seconds: from the row's admission to its end.
        prompt: what was asked.
        logprobs: of each token in what it was drawn from, 0 at temperature 0; None where not asked.
    """

    text: str | None
    token_ids: list[int]
    finish_reason: str
    params: dict[str, float]
    seconds: float
    prompt: Any = field(default=None, repr=False)
    logprobs: list[float] | None = field(default=None, repr=False)


def ids_of(
    prompts: Sequence[Reading], rewards: Mapping[StageAddress, Sequence[Reading]]
) -> list[Sequence[int]]:
    """The prompts that are token ids; the others are text, which has no place in a cache."""
    every = [*prompts, *(read for reads in rewards.values() for read in reads)]
    return [read for read in every if not isinstance(read, str)]


class Answer:
    """A completion in the making: tokens so far, and when it is over.

    Attributes:
        finish_reason: None while it goes on; as in a completion, or ``"error"``, of which ``error``
            says more, or ``"cancelled"``.
    """

    def __init__(self, request: Request, tokenizer: Any, started: float) -> None:
        self.request, self.tokenizer, self.started = request, tokenizer, started
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.drawn = 0  # tokens, those among them that the host does not know yet
        self.finish_reason: str | None = None
        self.error: FormulaError | None = None
        self._cut: int | None = None
        self._read = [0] * len(request.rooms)

    def add(self, token: int) -> None:
        """Take the next token, and see whether it is the last."""
        self.tokens.append(token)
        if token in self.request.eos:
            self.finish_reason = "eos"
        elif self.request.stops and self._stopped():
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.request.max_new_tokens or (
            self.request.rooms and self._full(token)
        ):
            self.finish_reason = "length"

    @property
    def over(self) -> bool:
        """Whether its row is to draw no more."""
        return self.finish_reason is not None or self.drawn >= self.request.max_new_tokens

    def copied(self, request: Request) -> Answer:
        """The same answer, going on as another row."""
        copy = Answer(request, self.tokenizer, self.started)
        copy.tokens, copy.finish_reason, copy._cut = [*self.tokens], self.finish_reason, self._cut
        copy._read = [*self._read]
        return copy

    def text(self) -> str | None:
        """The text so far, without special tokens and without the stop string."""
        if self.tokenizer is None:
            return None
        text: str = self.tokenizer.decode(self.tokens, skip_special_tokens=True)
        return text if self._cut is None else text[: self._cut]

    def settled(self) -> str:
        """The text that no later token changes: no half character, no beginning of a stop."""
        text = self.text() or ""
        if self.finish_reason is not None:
            return text
        end = len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
        longest = max(map(len, self.request.stops), default=1) - 1
        for size in range(min(longest, end), 0, -1):
            if any(stop.startswith(text[end - size : end]) for stop in self.request.stops):
                return text[: end - size]
        return text[:end]

    def fail(self, error: FormulaError) -> None:
        """End here, because of an error."""
        self.error, self.finish_reason = error, "error"

    def completion(self, now: float) -> Completion:
        """The finished answer."""
        assert self.finish_reason is not None
        request = self.request
        return Completion(
            self.text(), self.tokens, self.finish_reason, dict(request.params),
            now - self.started, request.prompt, self.logprobs if request.logprobs else None,
        )  # fmt: skip

    def _full(self, token: int) -> bool:
        """Whether a term that reads this token as several of its own can read no more."""
        rooms = self.request.rooms
        pairs = zip(self._read, rooms, strict=True)
        self._read = [read + len(reads[token]) for read, (reads, _) in pairs]
        return any(read >= room for read, (_, room) in zip(self._read, rooms, strict=True))

    def _stopped(self) -> bool:
        text = self.text() or ""
        found = [place for stop in self.request.stops if (place := text.find(stop)) >= 0]
        self._cut = min(found, default=None)
        return bool(found)
