"""Whole texts for models with a tokenizer of their own: decoded from tokens, and encoded anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ..errors import ModelError
from .encoding.prompt_encoder import check_rows
from .prompts import PromptText
from .vocabulary import tokens_without_rows

Encoding: TypeAlias = Mapping[str, list[int]]  # as a tokenizer returns it


class Continuation:
    """The text of tokens that continue a prompt, as their tokenizer decodes them.

    Tokens are decoded after a letter: some decoders drop the space before the first word of a text,
    which here is between prompt and response. Special tokens are left out. An incomplete character
    is U+FFFD until its last byte is there.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        letter = list(tokenizer.encode("a", add_special_tokens=False))
        self._letter = letter if self._decoded(letter) else []
        self._skipped = self._decoded(self._letter)

    def texts(self, ids: list[int], candidates: Sequence[int]) -> list[str]:
        """The text of the tokens, and of them followed by each of the candidates."""
        return [self._text(ids), *(self._text([*ids, candidate]) for candidate in candidates)]

    def _text(self, ids: list[int]) -> str:
        text = self._decoded([*self._letter, *ids])
        return text.removeprefix(self._skipped) if self._letter else text

    def _decoded(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


def with_response(prompt: str, response: str) -> str:
    """A prompt and its response, which is encoded with special tokens if the prompt is."""
    return PromptText(prompt + response, getattr(prompt, "special", True))


def encode_texts(
    name: str, tokenizer: Any, texts: Sequence[str], max_length: int | None, size: int | None = None
) -> list[Encoding]:
    """Each text as a tokenizer encodes it for its model: special tokens once, and nothing cut.

    An empty text becomes the token that begins texts, or the one that ends them, if there is one.

    Raises:
        ModelError: a text is longer than the model reads, or no token at all; or it has a token
            beyond the ``size`` rows of the model's embeddings.
    """
    encodings: list[Encoding] = [{}] * len(texts)
    for special in (True, False):
        group = [i for i, text in enumerate(texts) if getattr(text, "special", True) == special]
        plain = [str(texts[i]) for i in group]
        columns = tokenizer(plain, add_special_tokens=special, verbose=False) if group else {}
        for row, i in enumerate(group):
            encoding: Encoding = {key: values[row] for key, values in columns.items()}
            encodings[i] = _one_start(tokenizer, encoding, special)
    for text, checked in zip(texts, encodings, strict=True):
        length = len(checked["input_ids"])
        if length == 0:
            problem = f"the text that {name} reads is empty: {text[:40]!r}…"
            cure = "give it a prompt, or a tokenizer with a token that begins a text"
            raise ModelError(problem, cure, name)
        if max_length and length > max_length:
            problem = f"the text that {name} reads has {length} tokens, and it reads at most"
            cure = "shorten the prompt or give fewer max_new_tokens; nothing is cut silently"
            raise ModelError(f"{problem} {max_length}: {text[:40]!r}…", cure, name)
        if size is not None and max(checked["input_ids"]) >= size:
            check_rows(name, checked["input_ids"], size, tokens_without_rows(tokenizer, size))
    return encodings


def _one_start(tokenizer: Any, encoding: Encoding, special: bool) -> Encoding:
    """Without the second of two tokens that begin a text, where the text has its own."""
    starts = {tokenizer.bos_token_id, tokenizer.cls_token_id} - {None}
    ids = encoding["input_ids"]
    if not ids:
        markers = (*sorted(starts), tokenizer.eos_token_id)
        marker = next((i for i in markers if i is not None), None)
        return encoding if marker is None else {"input_ids": [marker], "attention_mask": [1]}
    if special and len(ids) > 1 and ids[0] == ids[1] and ids[0] in starts:
        return {key: values[1:] for key, values in encoding.items()}
    return encoding
