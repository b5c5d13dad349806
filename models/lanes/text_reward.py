"""Reward models that read text: the response is decoded, and encoded by their own tokenizer.

The whole text is encoded anew at every step: one more token can change how earlier text is split.
A causal classifier runs only the tokens that its cache does not hold (``CachedTextLane``), any
other classifier runs the whole text.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..cache.row_items import copy_items, swap_remove
from ..cache.row_lane import RowLane
from ..cache.rows import Join
from ..checkpoint.description import Description
from ..combinations import Combination
from ..footprint import Footprint, weights_footprint
from ..text.full_text import Continuation, Encoding, encode_texts, with_response
from .batch_classifier import BatchClassifier, max_tokens
from .token_tree import TokenTreeLane


class TextRewardLane(RowLane):
    """A lane over a classifier that runs the whole text of every candidate at every step.

    Its rows' texts are the responses alone, in the formula's tokens, whose tokenizer is ``shared``.
    """

    why_eager = "it reads text"

    def __init__(self, model: Any, description: Description, shared: Any) -> None:
        self.model, self.description = model, description
        self._continuation = Continuation(shared)
        self._max_tokens = max_tokens(model, description.positions)
        self._classifier = self._make_classifier()
        self.adapters, self.device = self._classifier.adapters, self._classifier.device
        self.reserve(0, 0)

    def _make_classifier(self) -> Any:
        own = self.description
        return BatchClassifier(own.name, self.model, own.tokenizer, own.full_text_reason)

    def reserve(self, rows: int, capacity: int, tokens: int | None = None) -> None:
        super().reserve(rows, capacity)
        self._prompts: list[str] = []

    def admit(
        self, prompts: Sequence[str], combinations: Sequence[Combination]
    ) -> Generator[int, None, Join]:
        """Take rendered prompts, as text, into new rows."""
        join_prefilled = yield from self._prefill(prompts, combinations)

        def join() -> Sequence[int]:
            numbers = join_prefilled()
            order = sorted(range(len(prompts)), key=numbers.__getitem__)
            empty: list[list[int]] = [[] for _ in prompts]
            self.rows.admit(empty, [0] * len(prompts), [combinations[i] for i in order])
            self._prompts += [prompts[i] for i in order]
            return numbers

        return join

    def _prefill(
        self, prompts: Sequence[str], combinations: Sequence[Combination]
    ) -> Generator[int, None, Join]:
        """Read prompts into a cache, if there is one; what returns the numbers of their rows."""
        yield from ()
        return lambda: range(self.rows.count, self.rows.count + len(prompts))

    def release(self, row: int, text: Sequence[int] = ()) -> int:
        swap_remove(self._prompts, row)
        return super().release(row)

    def rewards(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """``(rows, k)`` candidates to ``(rows, k, labels)`` rewards, and those of the texts."""
        after = torch.zeros(len(candidates), 1, dtype=torch.long)
        rewards, of_texts = self.rewards_along(candidates[:, None], after, 0)
        return rewards[:, 0], of_texts[:, 0]

    @torch.no_grad()
    def rewards_along(self, candidates: Tensor, after: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """As the protocol's; texts of a row that are the same are scored once."""
        texts: list[list[str]] = []
        index: list[int] = []  # of every text in the distinct ones
        first, rows = (
            0,
            zip(self.rows.all_texts(), candidates.tolist(), after.tolist(), strict=True),
        )
        for prompt, (ids, options, behind) in zip(self._prompts, rows, strict=True):
            pairs = zip(options, behind, strict=True)
            continued = [self._continuation.texts(ids[: len(ids) - cut], row) for row, cut in pairs]
            longest = continued[behind.index(min(behind))][0]  # from which a cache goes on
            every = [text for position in continued for text in position]
            distinct = {text: i for i, text in enumerate(dict.fromkeys((longest, *every)), first)}
            index += [distinct[text] for text in every]
            first += len(distinct)
            texts.append([with_response(prompt, text) for text in distinct])
        outputs = self._outputs(self._encoded(texts))[index]
        outputs = outputs.view(*candidates.shape[:2], candidates.shape[2] + 1, -1)
        return outputs[:, :, 1:], outputs[:, :, 0]

    def _outputs(self, rows: Sequence[Sequence[Encoding]]) -> Tensor:
        """``(texts, labels)`` of every row's texts, row after row."""
        pairs = zip(self.rows.combinations, rows, strict=True)
        each = [combination for combination, texts in pairs for _ in texts]
        outputs: Tensor = self._classifier.outputs([text for row in rows for text in row], each)
        return outputs

    def _encoded(self, rows: Sequence[Sequence[str]]) -> list[list[Encoding]]:
        """Every row's texts as the tokenizer encodes them for the model."""
        texts = [text for row in rows for text in row]
        own = self.description
        encodings = iter(encode_texts(own.name, own.tokenizer, texts, self._max_tokens, own.size))
        return [[next(encodings) for _ in row] for row in rows]

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        super().copy_rows(sources, targets)
        copy_items(self._prompts, sources, targets)

    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        """The same: the winner's text is encoded anew at the next step."""
        self.rows.feed(tokens)

    def plan_line(self, candidates: str) -> str:
        reason = self.description.full_text_reason
        return f"text, the whole text of {candidates}, nothing cached ({reason})"

    def footprint(self) -> Footprint:
        """The weights. What a forward works in is unknown: texts are of any length."""
        return self._weights.with_adapters(self.adapters)

    @cached_property
    def _weights(self) -> Footprint:
        return weights_footprint(self.model)

    def graph_key(self, ahead: int) -> Hashable:
        return None


class CachedTextLane(TextRewardLane):
    """A lane over a causal classifier that runs what its cache does not hold of each text."""

    def _make_classifier(self) -> TokenTreeLane:
        return TokenTreeLane(self.model, self.description.size, reads_all=True, knows_answers=False)

    def reserve(self, rows: int, capacity: int, tokens: int | None = None) -> None:
        super().reserve(rows, capacity)
        self._classifier.reserve(rows, capacity)

    def _prefill(
        self, prompts: Sequence[str], combinations: Sequence[Combination]
    ) -> Generator[int, None, Join]:
        ids = [text["input_ids"] for [text] in self._encoded([[prompt] for prompt in prompts])]
        self._classifier.ensure_capacity(max(map(len, ids)))
        join: Join = yield from self._classifier.admit(ids, combinations)
        return join

    def release(self, row: int, text: Sequence[int] = ()) -> int:
        self._classifier.release(row)
        return super().release(row)

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        super().copy_rows(sources, targets)
        self._classifier.copy_rows(sources, targets)

    def _outputs(self, rows: Sequence[Sequence[Encoding]]) -> Tensor:
        ids = [[text["input_ids"] for text in row] for row in rows]
        outputs: Tensor = self._classifier.outputs(ids)
        return outputs

    def plan_line(self, candidates: str) -> str:
        rows, run = self._classifier.rows_scored, self._classifier.tokens_run
        each = f", about {run / rows:.0f} tokens a row in all," if rows else ""
        return f"text, the changed tail of {candidates}{each} over the cached prefix"

    def footprint(self) -> Footprint:
        """The weights, and the cache of the model's own tokens."""
        footprint: Footprint = self._classifier.footprint()
        return replace(footprint, work=())
