"""Texts that are given: how likely the formula finds each of their tokens, without drawing any.

A forward reads many tokens of every text at once, and each of them is a row of one step: sums,
operators and stages are those of decoding. Where a stage asks reward models about candidates, texts
are read a token at a time, side by side.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...models import CHUNK
from ..batch.batch import Batch
from ..engine.chunked_step import Chunk
from ..engine.engine import Engine
from ..engine.step import alarms
from ..requests.completions import check_completion
from ..requests.request import Request
from ..scores.context import Context
from ..scores.logprobs import best, log_softmax

FLOATS = 2**25  # of logits in one forward of a lane


@dataclass(frozen=True)
class Likelihood:
    """How likely a completion is after its prompt, in what the formula draws from.

    Attributes:
        logprobs: of each of its tokens; minus infinity for one that the formula excludes.
        greedy: whether each token is the best where it stands.
    """

    logprobs: list[float]
    greedy: list[bool]

    @property
    def total(self) -> float:
        """The sum: the log-probability of the whole completion."""
        return math.fsum(self.logprobs)

    @property
    def is_greedy(self) -> bool:
        """Whether decoding at temperature 0 would give just this."""
        return all(self.greedy)


@dataclass
class _Text:
    """A text that is read once, for all completions that differ in their last token alone.

    Attributes:
        request: the prompt and the numbers.
        read: what is read after the prompt.
        lasts: the last token of each completion, and ``indices``, which completion that is.
        done: how many tokens have been scored.
        found: per token of ``read`` and then of ``lasts``, its log-probability, and whether it is
            the best.
    """

    request: Request
    read: Sequence[int]
    lasts: list[int] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    done: int = 0
    found: list[tuple[float, bool]] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Places that are still to be scored."""
        return len(self.read) + 1 - self.done

    def asked(self, place: int) -> Sequence[int]:
        """The tokens whose likelihood is asked for at a place."""
        return self.read[place : place + 1] or self.lasts

    def likelihoods(self) -> Iterator[tuple[int, Likelihood]]:
        """Of every completion, when all is scored."""
        shared, ends = self.found[: len(self.read)], self.found[len(self.read) :]
        for index, end in zip(self.indices, ends, strict=True):
            logprobs, greedy = zip(*shared, end, strict=True)
            yield index, Likelihood([*logprobs], [*greedy])


def likelihoods(
    engine: Engine,
    requests: Sequence[Request],
    completions: Sequence[Sequence[int]],
    batch_size: int,
    progress: bool | None,
) -> list[Likelihood]:
    """How likely each request's completion is.

    Raises:
        ValueError: a batch size below 1, or as ``check_completion``.
    """
    from tqdm.auto import tqdm

    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    asked = list(zip(requests, completions, strict=True))
    for request, ids in asked:
        check_completion(engine.bound, request, ids, read=len(ids) - 1)
    hidden = not progress if progress is not None else (True if len(asked) < 2 else None)
    found = {}
    with tqdm(total=len(asked), disable=hidden, unit="text", desc="scoring") as bar:
        for index, one in LoglikelihoodLoop(engine).scheduler(asked, batch_size):
            found[index] = one
            bar.update()
    return [found[index] for index in range(len(asked))]


class LoglikelihoodLoop:
    """Scores given completions through an engine's plan and lanes."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.bound, self.step = engine, engine.bound, engine.step
        sizes = [one.token_map.own for one in self.bound.terms if one.token_map]
        self._width = max(self.bound.vocabulary, *sizes, 1)

    @torch.no_grad()
    def scheduler(
        self, asked: Sequence[tuple[Request, Sequence[int]]], slots: int
    ) -> Iterator[tuple[int, Likelihood]]:
        """Score completions.

        Args:
            asked: for each, its prompt and numbers, and its tokens.
            slots: texts that are read at once.

        Yields:
            Which of them, and how likely it is, as soon as that is known.

        Raises:
            FormulaError: NaN, or a place where every token is excluded.
        """
        yield from ((i, Likelihood([], [])) for i, (_, ids) in enumerate(asked) if not ids)
        texts = _shared(asked)
        if not texts:
            return
        with self.engine.turn():
            batch = self.engine.begin([text.request for text in texts], min(slots, len(texts)))
            claim = self.engine.claim
        turn = self._token if self._one_by_one(batch, texts) else self._chunk
        waiting, here = deque(texts), list[_Text]()  # and those in slots
        while waiting or here:
            with self.engine.turn(claim):
                joining = [waiting.popleft() for _ in range(min(batch.room, len(waiting)))]
                if joining:
                    batch.admit([text.request for text in joining])
                    batch.read(math.inf)
                    here += joining
                turn(batch, here)
                over = [slot for slot, text in enumerate(here) if not text.left]
                found = [one for slot in over for one in here[slot].likelihoods()]
                batch.finish(over)
                for slot in reversed(over):
                    here[slot] = here[-1]
                    here.pop()
            yield from found

    def _one_by_one(self, batch: Batch, texts: Sequence[_Text]) -> bool:
        """Whether candidates are asked about at each step, or other processes take part."""
        rewards = [row_map for row_map in batch.row_maps if row_map.term.address is not None]
        asks = any(row_map.needs(text.request) for row_map in rewards for text in texts)
        return asks or self.bound.term_parallel is not None

    def _chunk(self, batch: Batch, here: Sequence[_Text]) -> None:
        """Score the next places of every text, as many as there is room for."""
        rows = max(lane.rows.count for lane in self.bound.lanes)
        most = max(1, min(CHUNK, FLOATS // self._width) // rows)
        counts = [min(text.left, most) for text in here]
        chunk = Chunk(
            self.step, batch, [text.read for text in here], [t.done for t in here], counts
        )
        context = chunk.context()
        self._tell(batch, here, counts, context, chunk.scores(context))
        chunk.commit()

    def _token(self, batch: Batch, here: Sequence[_Text]) -> None:
        """Score the next place of every text."""
        tokens = [text.asked(text.done)[0] for text in here]
        next_tokens = torch.tensor(tokens, device=batch.device)
        context = self.step.context(batch, next_tokens)
        self._tell(batch, here, [1] * len(here), context, self.step.scores(batch, context))
        self.step.commit(batch, context, next_tokens)
        batch.read_on(tokens)

    def _tell(
        self,
        batch: Batch,
        here: Sequence[_Text],
        counts: Sequence[int],
        context: Context,
        masked: Tensor,
    ) -> None:
        """Keep what the scores, ``(sum(counts), V)``, say of the tokens that are asked for."""
        places = [(s, here[s].done + i) for s, count in enumerate(counts) for i in range(count)]
        requests = [batch.requests[slot] for slot, _ in places]
        wrong = alarms(context, masked.amax(dim=-1)).tolist()
        self.engine.raise_for(requests, wrong, list(context.broken), [at for _, at in places])
        pairs = [(i, t) for i, (slot, at) in enumerate(places) for t in here[slot].asked(at)]
        rows, tokens = torch.tensor(pairs, device=masked.device).unbind(1)
        said = log_softmax(masked)[rows, tokens].tolist()
        top = (best(masked)[rows] == tokens).tolist()
        for (row, _), logprob, greedy in zip(pairs, said, top, strict=True):
            here[places[row][0]].found.append((logprob, greedy))
        for text, count in zip(here, counts, strict=True):
            text.done += count


def _shared(asked: Sequence[tuple[Request, Sequence[int]]]) -> list[_Text]:
    """The texts to read: long ones first, and all that follow one prompt side by side."""
    texts: dict[tuple[str, tuple[float, ...], tuple[int, ...]], _Text] = {}
    longest: dict[str, int] = {}  # per prompt, with what follows it
    for index, (request, ids) in enumerate(asked):
        if ids:
            prompt = repr(request.prompt)
            length = max(map(len, request.prompts)) + len(ids)
            longest[prompt] = max(longest.get(prompt, 0), length)
            key = (prompt, tuple(request.values), tuple(ids[:-1]))
            text = texts.setdefault(key, _Text(request, [*ids[:-1]]))
            text.lasts.append(ids[-1])
            text.indices.append(index)
    named = [(prompt, text) for (prompt, *_), text in texts.items()]
    named.sort(key=lambda one: (-longest[one[0]], one[0], -len(one[1].read)))
    return [text for _, text in named]
