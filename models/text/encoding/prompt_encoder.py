"""A prompt as one term of a formula reads it: token ids, or text. Imports no torch.

A process without weights reads prompts by this, too: an encoder pickles with its tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from ....errors import ArgumentError
from ...checkpoint.spec import ModelSpec
from ...errors import ModelError
from ...images.processor import PromptProcessor
from ..chat import fills_in
from ..prompts import is_ids, render, render_text
from .token_count import fewest_tokens

Reading: TypeAlias = "Sequence[int] | str | None"  # None where the term itself is to read


@dataclass(frozen=True)
class PromptEncoder:
    """How a term reads prompts; attributes without a word here are those of ``BoundTerm``.

    Attributes:
        name: of the model.
        system, alone, noimage: of the term.
        reads: for a term of another vocabulary, the ids that it reads for each of the formula's.
    """

    name: str
    spec: ModelSpec
    tokenizer: Any
    system: str | None
    alone: bool
    noimage: bool
    shared: Any = None
    reads: Sequence[Sequence[int]] | None = None
    rows: int | None = None
    rowless: Mapping[int, str] = field(default_factory=dict)
    processor: PromptProcessor | None = None

    def read(self, prompt: Any) -> Sequence[int] | str:
        """The token ids, or the text, that the term reads before the response.

        Raises:
            ModelError: it has no way to read this prompt, or no embedding for a token of it.
        """
        if self.shared is not None:
            text = render_text(
                self.name, self.spec, self.shared, self.tokenizer, prompt, self.system,
                self.alone, self.noimage,
            )  # fmt: skip
            if self.rowless and text:
                self._check_rows(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            return text
        if self.reads is not None and is_ids(prompt):
            self.check(prompt, "give the prompt as text")
            prompt = [own for token in prompt for own in self.reads[token]]
        ids = render(
            self.name, self.spec, self.tokenizer, prompt, self.system, self.alone, self.noimage,
            self.processor,
        )  # fmt: skip
        self._check_rows(ids)
        return ids

    def fewest_tokens(self, prompt: Any) -> int:
        """Tokens of what it reads of a prompt, at least, as far as that is known before."""
        template, is_read = self.spec.template, not self.alone and self.shared is None
        if is_read and isinstance(prompt, str) and (template is None or fills_in(template)):
            return fewest_tokens(self.tokenizer, prompt)
        return 0

    def _check_rows(self, ids: Sequence[int]) -> None:
        if self.rows is not None:
            check_rows(self.name, ids, self.rows, self.rowless)

    def check(self, tokens: Sequence[int], cure: str) -> None:
        """Refuse tokens of the formula that this term cannot read.

        Raises:
            ModelError: no tokens of the term's vocabulary stand for one.
        """
        if self.reads and (unread := [token for token in tokens if not self.reads[token]]):
            problem = f"the token id {unread[0]} cannot be read by {self.name}"
            raise ModelError(problem, cure, self.name)


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt, and what each term reads of it, in the order of their encoders."""

    is_read: ClassVar[bool] = True
    prompt: Any
    readings: Sequence[Reading]


@dataclass(frozen=True)
class PromptEncoders:
    """How all terms of a formula read prompts.

    Attributes:
        encoders: one per term; None for one that reads where the weights are: a function, or a
            model that sees images.
    """

    encoders: Sequence[PromptEncoder | None]

    def read(self, prompt: Any, longest: int | None = None) -> ReadPrompt:
        """Read a prompt.

        Args:
            prompt: of a request, without images.
            longest: tokens that it may have.

        Raises:
            ModelError: as ``PromptEncoder.read``.
            ArgumentError: it is longer.
        """
        readings: list[Reading] = []
        for encoder in self.encoders:
            if encoder is not None and longest is not None:
                fewest = encoder.fewest_tokens(prompt)
                if fewest > longest:
                    problem = f"the prompt has {fewest} tokens or more; here a text may have "
                    raise ArgumentError(f"{problem}{longest}; shorten it")
            reading = None if encoder is None else encoder.read(prompt)
            if (
                longest is not None
                and not isinstance(reading, str)
                and len(reading or ()) > longest
            ):
                problem = f"the prompt has {len(reading or ())} tokens; here a text may have "
                raise ArgumentError(f"{problem}{longest}; shorten it")
            readings.append(reading)
        return ReadPrompt(prompt, readings)


def plain(prompt: Any) -> Any:
    """A prompt as its caller gave it."""
    return prompt.prompt if isinstance(prompt, ReadPrompt) else prompt


def check_rows(name: str, ids: Sequence[int], size: int, tokens: Mapping[int, str]) -> None:
    """Refuse ids that a model has no embedding for.

    Args:
        name: of the model.
        ids: that it is to read.
        size: rows of its embeddings.
        tokens: those of ``tokens_without_rows``.

    Raises:
        ModelError: names the first, and what to do.
    """
    missing = next((token for token in ids if not 0 <= token < size), None)
    if missing is None:
        return
    problem = f"{name} is to read the token id {missing}, and its embeddings have {size} rows"
    cure = f"token ids are 0 to {size - 1}"
    if missing in tokens:
        problem = f"{name} is to read {tokens[missing]!r}, which is the token {missing} of its "
        problem += f"tokenizer, and its embeddings have {size} rows"
        cure = "leave it out of the text, or save the model after "
        cure += "model.resize_token_embeddings(len(tokenizer))"
    raise ModelError(problem, cure, name)
