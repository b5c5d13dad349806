"""How many tokens a text has at least, without reading it: for tokenizers that lose no byte."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

_KEEPS = ("Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
_LONGEST: WeakKeyDictionary[Any, int | None] = WeakKeyDictionary()


def fewest_tokens(tokenizer: Any, text: str) -> int:
    """Tokens of a text, at least; 0 where the tokenizer may leave out any of it.

    >>> fewest_tokens(None, "a" * 10**6)
    0
    """
    if tokenizer is None:
        return 0
    if tokenizer not in _LONGEST:
        _LONGEST[tokenizer] = _longest(tokenizer)
    longest = _LONGEST[tokenizer]
    return 0 if longest is None else -(-len(text) // longest)


def _longest(tokenizer: Any) -> int | None:
    """Bytes of the longest token of byte-level BPE; None of other tokenizers."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    said = json.loads(backend.to_str())
    splits = [*_parts(said["pre_tokenizer"], "pretokenizers")]
    lossless = said["normalizer"] is None and not said["truncation"]
    lossless &= said["model"]["type"] == "BPE" and said["model"]["unk_token"] is None
    lossless &= any(split["type"] == "ByteLevel" for split in splits)
    lossless &= all(split["type"] in ("ByteLevel", "Digits") or _keeps(split) for split in splits)
    added = said["added_tokens"]
    lossless &= not any(token["lstrip"] or token["rstrip"] for token in added)
    vocabulary = said["model"]["vocab"]
    if not lossless or sum(len(token) == 1 for token in vocabulary) < 256:
        return None
    lengths = [*map(len, vocabulary), *(len(token["content"].encode()) for token in added)]
    return max(lengths)


def _parts(part: Mapping[str, Any] | None, key: str) -> Iterator[Mapping[str, Any]]:
    """A part, or those of a sequence of them."""
    if part is not None and part["type"] == "Sequence":
        for each in part[key]:
            yield from _parts(each, key)
    elif part is not None:
        yield part


def _keeps(split: Mapping[str, Any]) -> bool:
    """Whether a split keeps all of a text."""
    return split["type"] == "Split" and split["behavior"] in _KEEPS
