"""Classifiers that read text: the response is decoded, and encoded by their own tokenizer.

The whole text is encoded anew at every step: one more token can change how earlier text is split.
A causal classifier runs only the tokens that its cache does not hold (``CachedTextLane``), any
other classifier runs the whole text.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..cache.rows import Join
from ..checkpoint.description import Description
from ..checkpoint.labels import gives_logs
from ..checkpoint.spec import Steps
from ..combinations import Combination
from ..footprint import Footprint, weights_footprint
from ..lanes.batch_classifier import BatchClassifier, max_tokens
from ..lanes.token_tree import TokenTreeLane
from ..text.full_text import Encoding, encode_texts, with_response
from .answer_lane import AnswerLane
from .steps import reduced, step_ends


class TextRewardLane(AnswerLane):
    """A lane over a classifier that runs the whole text of every candidate at every step.

    Its prompts are rendered, as text.

    Args:
        model, description: of the classifier.
        shared: the tokenizer of the formula's tokens.
        steps: how a process reward scores; None scores whole answers.
    """

    def __init__(
        self, model: Any, description: Description, shared: Any, steps: Steps | None = None
    ) -> None:
        self.model, self.description, self._steps = model, description, steps
        self._max_tokens = max_tokens(model, description.positions)
        self._classifier = self._make_classifier()
        self.adapters = self._classifier.adapters
        super().__init__(shared, self._classifier.device)

    def _make_classifier(self) -> Any:
        own = self.description
        return BatchClassifier(own.name, self.model, own.tokenizer, own.full_text_reason)

    @torch.no_grad()
    def rewards_along(self, candidates: Tensor, after: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """As the protocol's; texts of a row that are the same are scored once."""
        texts: list[list[str]] = []
        index: list[list[int]] = []  # of every answer's texts in the distinct ones
        first = 0
        for prompt, positions, longest in self._answers(candidates, after):
            every = [self._scored(text) for position in positions for _, text in position]
            begun = positions[longest][0][1]  # from which a cache goes on
            answers = dict.fromkeys((begun, *(text for texts in every for text in texts)))
            distinct = {text: i for i, text in enumerate(answers, first)}
            index += [[distinct[text] for text in own] for own in every]
            first += len(distinct)
            texts.append([with_response(prompt, text) for text in distinct])
        outputs = self._outputs(self._encoded(texts))
        if self._steps is None:
            outputs = outputs[[i for [i] in index]]
        else:
            logs = gives_logs(self.description, outputs.shape[-1])
            outputs = torch.stack([reduced(outputs[own], self._steps, logs) for own in index])
        outputs = outputs.view(*candidates.shape[:2], candidates.shape[2] + 1, -1)
        return outputs[:, :, 1:], outputs[:, :, 0]

    def _scored(self, text: str) -> list[str]:
        """What is scored of an answer: its steps' ends, or all of it."""
        return [text] if self._steps is None else step_ends(text, self._steps)

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

    def plan_line(self, candidates: str) -> str:
        reason = self.description.full_text_reason
        what = "the whole text" if self._steps is None else "every step"
        return f"text, {what} of {candidates}, nothing cached ({reason})"

    def footprint(self) -> Footprint:
        """The weights. What a forward works in is unknown: texts are of any length."""
        return self._weights.with_adapters(self.adapters)

    @cached_property
    def _weights(self) -> Footprint:
        return weights_footprint(self.model)


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
        what = "the changed tail" if self._steps is None else "the changed tail and the steps"
        return f"text, {what} of {candidates}{each} over the cached prefix"

    def footprint(self) -> Footprint:
        """The weights, and the cache of the model's own tokens."""
        footprint: Footprint = self._classifier.footprint()
        return replace(footprint, work=())
