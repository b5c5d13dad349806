"""A bound term: one term, its lane, and how it reads a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ...formula import Scalar, Term
from ...formula.nodes import StageAddress
from ...models import ModelSpec
from ...models.functions import FunctionReward, UserPrompt
from ...models.images.processor import PromptProcessor
from ...models.text.chat import reads_raw_text
from ...models.text.encoding.prompt_encoder import PromptEncoder
from ...models.text.token_map import TokenMap


@dataclass(frozen=True)
class BoundTerm:
    """One term and its lane.

    Attributes:
        term: the model and its prompt.
        spec: the declaration; an adapter's own words where it has them, else its base's.
        tokenizer: the model's own, or None.
        lane: the lane's index in ``Bound.lanes``.
        additions: what its rows add to the weights: pairs of a number of the plan, or None for 1,
            and of what it multiplies, by its number on the lane.
        address: of the stage that uses it; None for a term of the scores.
        language: whether its lane gives scores; otherwise it gives rewards.
        label: for a reward, which of its head's outputs it is; None for the only one.
        shared: for a reward that reads text, the tokenizer that decodes the formula's tokens.
        token_map: for a term of another vocabulary, the formula's tokens in it.
        rows: of the model's embeddings; None where any id can be read.
        rowless: the tokens of its tokenizer that have none, by their ids.
        processor: by which the model reads images; None where it has no eyes.
    """

    term: Term
    spec: ModelSpec
    tokenizer: Any
    lane: int
    additions: tuple[tuple[Scalar | None, int], ...] = ()
    address: StageAddress | None = None
    language: bool = True
    label: int | None = None
    shared: Any = None
    token_map: TokenMap | None = None
    rows: int | None = None
    rowless: Mapping[int, str] = field(default_factory=dict)
    processor: PromptProcessor | None = None

    @property
    def reads_raw_text(self) -> bool:
        """Whether a text prompt goes past the chat template that its tokenizer has."""
        return not self.term.alone and reads_raw_text(self.spec, self.tokenizer)

    @cached_property
    def encoder(self) -> PromptEncoder:
        """How it reads prompts."""
        term = self.term
        return PromptEncoder(
            term.model, self.spec, self.tokenizer, term.system, term.alone, term.noimage,
            self.shared, None if self.token_map is None else self.token_map.reads, self.rows,
            self.rowless,
            self.processor,
        )  # fmt: skip

    def reads(self, prompt: Any) -> Sequence[int] | str | UserPrompt:
        """The token ids, or the text, that this term reads before the response.

        A function is given the prompt as it is.

        Raises:
            ModelError: as ``PromptEncoder.read``.
        """
        return UserPrompt(prompt) if self.is_function else self.encoder.read(prompt)

    @property
    def is_function(self) -> bool:
        """Whether it is a function of texts."""
        return isinstance(self.spec.model, FunctionReward)

    def check(self, tokens: Sequence[int], cure: str) -> None:
        """Refuse tokens of the formula that this term cannot read; as ``PromptEncoder.check``."""
        self.encoder.check(tokens, cure)

    def term_ids(self, ids: Sequence[int]) -> list[int]:
        """The formula's tokens as this term reads them; all must be readable."""
        if self.token_map is None:
            return list(ids)
        return [own for token in ids for own in self.token_map.reads[token]]

    def formula_ids(self, ids: Sequence[int]) -> list[int]:
        """The term's tokens as the formula's; those that have no counterpart are left out."""
        if self.token_map is None:
            return list(ids)
        ours = self.token_map.formula_ids
        return [ours[token] for token in ids if token in ours]
