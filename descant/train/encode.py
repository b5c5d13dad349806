"""Examples to token ids, and labels for those that are learnt.

A prompt is rendered as in decoding (``models.text.prompts``): a model is trained on the ids that
it will read. Only a response carries labels.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any

from ..models import ModelError
from ..models.checkpoint.spec import ModelSpec
from ..models.text.chat import RawTextLog, chat_template, reads_raw_text
from ..models.text.encoding.prompt_encoder import check_rows
from ..models.text.prompts import render, render_text, text_ids
from ..models.text.templates import rendered
from ..models.text.vocabulary import tokens_without_rows
from .batches import INDEX, REJECTED, Row
from .examples import Example
from .losses import IGNORED
from .trainfile import TrainFileError

_NAME = "model"
Ids = Sequence[int]


@dataclass
class Counts:
    """How many rows were read, used and left out."""

    rows: int = 0
    used: int = 0
    bad: int = 0
    dropped: int = 0
    truncated: int = 0

    def __str__(self) -> str:
        parts = [f"{self.used} of {self.rows} rows used"]
        parts += [f"{self.bad} skipped as bad"] * bool(self.bad)
        parts += [f"{self.dropped} dropped as too long"] * bool(self.dropped)
        parts += [f"{self.truncated} truncated"] * bool(self.truncated)
        return ", ".join(parts)


@dataclass
class Encoder:
    """Encodes examples for a model.

    Args:
        spec: the model's declaration, with its template and system prompt.
        tokenizer: of transformers.
        ends: the ids that end a text.
        max_length: tokens of prompt and response together.
        drop: drop what is longer; else keep its start.
        size: rows of the model's embeddings, where known.
        ended: end a response with an end of text.
        indexed: say in each row which example it is, and take the tokens that it was drawn in.
        raw_text: warns once of prompts that go past the model's chat template.
    """

    spec: ModelSpec
    tokenizer: Any
    ends: frozenset[int]
    max_length: int
    drop: bool = False
    size: int | None = None
    ended: bool = True
    indexed: bool = False
    raw_text: RawTextLog = field(default_factory=RawTextLog)

    def rows(self, examples: Iterable[Example], counts: Counts, first: int = 0) -> list[Row]:
        """One row per example: a text, or a pair where there are two responses.

        The examples are numbered from ``first`` on.

        Raises:
            TrainFileError: a prompt, or a token, that this model cannot read, with its line.
        """
        rows: list[Row] = []
        warns = reads_raw_text(self.spec, self.tokenizer)
        for number, example in enumerate(examples, first):
            if warns:
                self.raw_text.warn([str(self.spec.path)], [example.prompt])
            try:
                row = self._row(example, counts)
            except ModelError as error:
                raise TrainFileError(f"{example.where}: {error}") from None
            if row is not None:
                rows.append({**row, INDEX: [number]} if self.indexed else row)
        counts.used += len(rows)
        return rows

    def _row(self, example: Example, counts: Counts) -> Row | None:
        responses = (example.chosen, example.rejected)
        sides = [self._side(example.prompt, text) for text in responses if text is not None]
        if self.indexed and example.token_ids is not None:
            sides = [(sides[0][0], list(example.token_ids))]
        if self.size is not None:
            for ids in (ids for side in sides for ids in side):
                check_rows(_NAME, ids, self.size, self._rowless)
        longest = max(len(prompt) + len(response) for prompt, response in sides)
        learnt = all(len(prompt) < self.max_length for prompt, _ in sides)
        if longest > self.max_length and (self.drop or not learnt):
            counts.dropped += 1
            return None
        counts.truncated += longest > self.max_length
        rows = [labelled(*side, end=self.max_length) for side in sides]
        return rows[0] | {REJECTED + key: ids for row in rows[1:] for key, ids in row.items()}

    def _side(self, prompt: Any, answer: str) -> tuple[Ids, Ids]:
        """The ids of a prompt and of a response."""
        if prompt is None:
            return [], self._closed(text_ids(self.tokenizer, answer), special=True)
        prompt_ids = render(_NAME, self.spec, self.tokenizer, prompt, None)
        text = render_text(_NAME, self.spec, self.tokenizer, self.tokenizer, prompt, None)
        ids = text_ids(self.tokenizer, text + answer, text.special)
        response = ids[len(prompt_ids) :]
        if ids[: len(prompt_ids)] != prompt_ids:  # a token spans the border; in decoding none does
            response = list(self.tokenizer(answer, add_special_tokens=False)["input_ids"])
        return prompt_ids, self._closed(response, text.special)

    def _closed(self, ids: list[int], special: bool) -> list[int]:
        """Ids with an end, unless they have it: of text, or of the template's turn."""
        if not self.ended:
            return ids
        closing = self._end if special else self._end_of_turn
        return ids if ids[-len(closing) :] == closing else ids + closing

    @cached_property
    def _rowless(self) -> dict[int, str]:
        return tokens_without_rows(self.tokenizer, self.size or 0)

    @cached_property
    def _end(self) -> list[int]:
        if self.tokenizer.eos_token_id is None:
            raise TrainFileError(f"the tokenizer of {self.spec.path} has no end of text")
        return [int(self.tokenizer.eos_token_id)]

    @cached_property
    def _end_of_turn(self) -> list[int]:
        """The chat template's ids after an answer, up to the first end of text."""
        messages = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]

        template = chat_template(_NAME, self.spec.template, self.tokenizer)

        def text(unfinished: bool) -> str:
            return rendered(self.tokenizer, messages, template, continue_final_message=unfinished)

        closing = text(False)[len(text(True)) :]
        ids = list(self.tokenizer(closing, add_special_tokens=False)["input_ids"])
        ends = [position for position, token in enumerate(ids) if token in self.ends]
        return ids[: ends[0] + 1] if ends else self._end


def labelled(prompt: Ids, response: Ids, end: int | None = None) -> dict[str, Sequence[int]]:
    """Join a prompt and a response, up to ``end`` tokens; only the response carries labels."""
    return {
        "input_ids": array("i", [*prompt, *response][:end]),
        "labels": array("i", [*[IGNORED] * len(prompt), *response][:end]),
    }


def shortened(pairs: Iterable[Row], share: float, seed: int) -> list[Row]:
    """Cut a share of the pairs, both sides to one random number of response tokens, at least 4."""
    rng = Random(seed)
    return [pair if rng.random() < 1 - share else _cut(pair, rng) for pair in pairs]


def _cut(pair: Row, rng: Random) -> Row:
    start = sum(label == IGNORED for label in pair["labels"])
    longest = max(len(pair["labels"]), len(pair[REJECTED + "labels"])) - start
    end = start + rng.randint(4, max(4, longest))
    return {key: ids[:end] for key, ids in pair.items()}
