"""A reader: one term at its lane, and what it reads of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...formula import Term
from ...formula.nodes import StageAddress
from ...models import ModelError, ModelSpec, is_ids, render, render_text
from ...models.text.token_map import TokenMap


@dataclass(frozen=True)
class BoundTerm:
    """One term at its lane: what its rows are fed with.

    Attributes:
        term: the model and its prompt.
        lane: the lane's index in ``Bound.lanes``.
        adapter: 0 for the bare weights, or the adapter's number on the lane.
        place: the place of the stage that asks for it; None for a term of the scores.
        language: whether its lane gives scores; otherwise it gives rewards.
        shared: for a reward that reads text, the tokenizer that decodes the formula's tokens.
        label: for a reward, which of its head's outputs it is; None for the only one.
        counterparts: for a term of another vocabulary, the formula's tokens in it.
    """

    term: Term
    spec: ModelSpec
    tokenizer: Any
    lane: int
    adapter: int
    place: StageAddress | None = None
    language: bool = True
    label: int | None = None
    shared: Any = None
    token_map: TokenMap | None = None

    def reads(self, prompt: Any) -> list[int] | str:
        """The token ids, or the text, that this term reads before the response."""
        term = self.term
        if self.shared is not None:
            return render_text(
                term.model, self.spec, self.shared, self.tokenizer, prompt, term.system, term.alone
            )
        if self.token_map is not None and is_ids(prompt):
            self.check(prompt, "give the prompt as text")
            prompt = self.term_ids(prompt)
        return render(term.model, self.spec, self.tokenizer, prompt, term.system, term.alone)

    def check(self, tokens: Sequence[int], cure: str) -> None:
        """Refuse tokens of the formula that this term cannot read.

        Raises:
            ModelError: no tokens of the term's vocabulary stand for one.
        """
        if self.token_map is None:
            return
        for token in tokens:
            if not self.token_map.reads[token]:
                problem = f"the token id {token} cannot be read by {self.term.model}"
                raise ModelError(problem, cure, self.term.model)

    def term_ids(self, ids: Sequence[int]) -> list[int]:
        """The formula's tokens as this term reads them; all must be readable."""
        if self.token_map is None:
            return list(ids)
        return [own for token in ids for own in self.token_map.reads[token]]

    def formula_ids(self, ids: Sequence[int]) -> list[int]:
        """What this term has read, as the formula's tokens; those that have none are left out."""
        if self.token_map is None:
            return list(ids)
        ours = self.token_map.formula_ids
        return [ours[token] for token in ids if token in ours]
