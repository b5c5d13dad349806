"""Log-likelihoods: how likely the formula finds each token of a given completion; nothing is drawn.

A forward reads many tokens of every text at once, and each of them is a row of one step: sums,
operators and stages are those of decoding. Where a stage asks reward models about candidates, texts
are read a token at a time, side by side.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...models.lanes.prefill import CHUNK
from ..batch.batch import Batch
from ..batch.pages import pages_to_end
from ..batch.rewrite import append
from ..engine.chunked_step import Chunk
from ..engine.engine import Engine
from ..progress import progress_bar
from ..requests.completions import check_completion
from ..requests.per_row import at_least_one
from ..requests.request import Request
from ..scores.context import Context
from ..scores.logprobs import best, log_softmax
from .teacher_forcing import check, commit, scored

FLOATS = 2**25  # of logits in one forward of a lane


@dataclass(frozen=True)
class Likelihood:
    """How likely a completion is after its prompt, in what the formula draws from.

    Attributes:
        logprobs: of each of its tokens; minus infinity for one that the formula excludes.
        greedy: whether each token is the best where it stands.
        ranks: of each token, how many tokens are as likely or more; where the best are asked for.
        top_logprobs: at each token, the best ones, likewise; no excluded one.
    """

    logprobs: list[float]
    greedy: list[bool]
    ranks: list[int] = field(default_factory=list, repr=False)
    top_logprobs: list[dict[int, float]] = field(default_factory=list, repr=False)

    @property
    def total(self) -> float:
        """The sum: the log-probability of the full completion."""
        return math.fsum(self.logprobs)

    @property
    def is_greedy(self) -> bool:
        """Whether decoding at temperature 0 would give just this."""
        return all(self.greedy)


class _Score(NamedTuple):
    """A token's log-probability, whether it is the best, its rank, and the best ones."""

    logprob: float
    greedy: bool
    rank: int
    top: dict[int, float]


@dataclass
class _Text:
    """A text that is read once, for all completions that differ in their last token alone.

    Attributes:
        request: the prompt and the numbers.
        read: what is read after the prompt.
        lasts: the last token of each completion, and ``indices``, which completion that is.
        done: how many tokens have been scored.
        scores: per token of ``read`` and then of ``lasts``.
    """

    request: Request
    read: Sequence[int]
    lasts: list[int] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    done: int = 0
    scores: list[_Score] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Positions that are still to be scored."""
        return len(self.read) + 1 - self.done

    def tokens_at(self, position: int) -> Sequence[int]:
        """The tokens to score at a position."""
        return self.read[position : position + 1] or self.lasts

    def likelihoods(self) -> Iterator[tuple[int, Likelihood]]:
        """Of every completion, when all is scored."""
        shared, ends = self.scores[: len(self.read)], self.scores[len(self.read) :]
        for index, end in zip(self.indices, ends, strict=True):
            yield index, Likelihood(*map(list, zip(*shared, end, strict=True)))


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
    at_least_one("batch_size", batch_size)
    pairs = list(zip(requests, completions, strict=True))
    for request, ids in pairs:
        check_completion(engine.bound, request, ids, read=len(ids) - 1)
    results = {}
    with progress_bar(len(pairs), "text", "scoring", progress) as bar:
        for index, likelihood in LoglikelihoodLoop(engine).run(pairs, batch_size):
            results[index] = likelihood
            bar.update()
    return [results[index] for index in range(len(pairs))]


class LoglikelihoodLoop:
    """Scores given completions through an engine's plan and lanes.

    Args:
        engine: whose plan it is.
        top: how many of the best tokens each position has; None for no ranks, either.

    Attributes:
        most: positions of all texts in one forward; it may change between two steps.
    """

    def __init__(self, engine: Engine, top: int | None = None) -> None:
        self.engine, self.bound, self._top, self.most = engine, engine.bound, top, CHUNK
        sizes = [term.token_map.other_size for term in self.bound.terms if term.token_map]
        self._width = max(self.bound.vocabulary, *sizes, 1)

    def run(
        self, pairs: Sequence[tuple[Request, Sequence[int]]], slots: int
    ) -> Iterator[tuple[int, Likelihood]]:
        """Score completions: requests, each with its tokens; so many texts are read at once.

        Yields:
            Which of them, and how likely it is, as soon as that is known.

        Raises:
            FormulaError: NaN, or a position where every token is excluded.
        """
        for results in self.steps(pairs, slots):
            yield from results

    @torch.no_grad()
    def steps(
        self, pairs: Sequence[tuple[Request, Sequence[int]]], slots: int
    ) -> Iterator[list[tuple[int, Likelihood]]]:
        """``run``, a step at a time, for those who have other things to do in between.

        Yields:
            After each step, what ``run`` yields of it.
        """
        yield [(i, Likelihood([], [])) for i, (_, ids) in enumerate(pairs) if not ids]
        waiting = deque(_shared(pairs))
        if not waiting:
            return
        requests = [text.request for text in waiting]
        with self.engine.turn():
            batch = self.engine.begin(requests, min(slots, len(requests)))
            claim = self.engine.claim
        score = self._token if self._by_token(batch, requests) else self._chunk
        texts: list[_Text] = []  # per slot
        while waiting or texts:
            with self.engine.turn(claim):
                joining = _that_fit(batch, texts, waiting)
                if joining:
                    batch.admit([text.request for text in joining])
                    batch.read(math.inf)
                    texts += joining
                score(batch, texts)
                over = [slot for slot, text in enumerate(texts) if not text.left]
                results = [result for slot in over for result in self.results(texts[slot])]
                for slot in over:
                    texts[slot].request.states.clear()
                batch.finish(over, texts)
            yield results

    def combined(self, context: Context) -> Tensor:
        """``(positions, V)`` the scores of a chunk."""
        return self.engine.step.combined(context)

    def keep(
        self, texts: Sequence[_Text], positions: Sequence[tuple[int, int]], scores: Tensor
    ) -> None:
        """Keep what is wanted of scores: per row of ``(positions, V)``, of a slot's position."""
        _keep(texts, positions, scores, self._top)

    def results(self, text: _Text) -> Iterator[tuple[int, Any]]:
        """Of every completion of a text, when all of it is scored."""
        return text.likelihoods()

    def _by_token(self, batch: Batch, requests: Sequence[Request]) -> bool:
        """Whether candidates are scored at each step, or other processes take part."""
        rewards = [row_map for row_map in batch.row_maps if row_map.term.address is not None]
        reranks = any(row_map.needs(request) for row_map in rewards for request in requests)
        return reranks or self.bound.term_parallel is not None

    def _chunk(self, batch: Batch, texts: Sequence[_Text]) -> None:
        """Score the next positions of every text, as many as there is room for."""
        lane_rows = max(lane.rows.count for lane in self.bound.lanes)
        most = max(1, min(self.most, FLOATS // self._width) // lane_rows)
        counts = [min(text.left, most) for text in texts]
        done = [text.done for text in texts]
        unread, after = list[Sequence[int]](), list[Sequence[int]]()
        for text, count in zip(texts, counts, strict=True):
            unread.append(text.read[max(text.done - 1, 0) : text.done + count - 1])
            after.append(text.read[text.done : text.done + count])
        append(batch, unread)
        chunk = Chunk(self.engine.step, batch, counts, after)
        context = chunk.context()
        scores = self.combined(context)
        positions = [(i, done[i] + ahead) for i, n in enumerate(counts) for ahead in range(n)]
        rows = [(batch.requests[slot], at) for slot, at in positions]
        check(self.engine, batch, context, scores, rows)
        self.keep(texts, positions, scores)
        chunk.commit()

    def _token(self, batch: Batch, texts: Sequence[_Text]) -> None:
        """Score the next position of every text."""
        tokens = [text.tokens_at(text.done)[0] for text in texts]
        done = [text.done for text in texts]
        next_tokens = torch.tensor(tokens, device=batch.device)
        context, scores = scored(self.engine, batch, done, next_tokens)
        self.keep(texts, list(enumerate(done)), scores)
        commit(self.engine, batch, context, tokens)


def _that_fit(batch: Batch, texts: Sequence[_Text], waiting: deque[_Text]) -> list[_Text]:
    """Take texts that wait, as many as there are slots and pages for beside those being read."""
    taken, joining = Counter[int](), list[_Text]()
    for text in texts:
        taken.update(pages_to_end(batch, text.request, text.read))
    while waiting and len(joining) < batch.room:
        taken.update(pages_to_end(batch, waiting[0].request, waiting[0].read))
        full = any(count > batch.bound.lanes[lane].all_pages for lane, count in taken.items())
        if full and (texts or joining):
            break
        joining.append(waiting.popleft())
    return joining


def _keep(
    texts: Sequence[_Text], positions: Sequence[tuple[int, int]], scores: Tensor, top: int | None
) -> None:
    """Keep the log-probabilities of tokens, and their ranks where the best are asked for."""
    pairs = [(row, t) for row, (i, at) in enumerate(positions) for t in texts[i].tokens_at(at)]
    rows, tokens = torch.tensor(pairs, device=scores.device).unbind(1)
    all_logprobs = log_softmax(scores)
    logprobs = all_logprobs[rows, tokens]
    greedy = (best(scores)[rows] == tokens).tolist()
    ranks, tops = [0] * len(pairs), [dict[int, float]()] * len(scores)
    if top is not None:
        least = all_logprobs[rows] >= logprobs[:, None]
        ranks = least.sum(dim=-1).tolist()
        values, ids = (each.tolist() for each in all_logprobs.topk(top, dim=-1))
        tops = [
            {token: value for token, value in zip(*best_of_row, strict=True) if value > -math.inf}
            for best_of_row in zip(ids, values, strict=True)
        ]
    scored_tokens = zip(pairs, logprobs.tolist(), greedy, ranks, strict=True)
    for (row, _), logprob, is_best, rank in scored_tokens:
        texts[positions[row][0]].scores.append(_Score(logprob, is_best, rank, tops[row]))
    for slot, _ in positions:
        texts[slot].done += 1


def _shared(pairs: Sequence[tuple[Request, Sequence[int]]]) -> list[_Text]:
    """The texts to read: long ones first, and all that follow one prompt side by side."""
    texts: dict[tuple[str, tuple[float, ...], tuple[int, ...]], _Text] = {}
    longest: dict[str, int] = {}  # per prompt, with what follows it
    for index, (request, ids) in enumerate(pairs):
        if ids:
            prompt = repr(request.prompt)
            length = max(map(len, request.prompts)) + len(ids)
            longest[prompt] = max(longest.get(prompt, 0), length)
            key = (prompt, tuple(request.values), tuple(ids[:-1]))
            text = texts.setdefault(key, _Text(request, [*ids[:-1]]))
            text.lasts.append(ids[-1])
            text.indices.append(index)
    order = sorted(texts, key=lambda key: (-longest[key[0]], key[0], -len(key[2])))
    return [texts[key] for key in order]
