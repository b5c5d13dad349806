"""Small vocabularies with a tokenizer, and tables over them, for tests of constraints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import descant

END = "</s>"
LETTERS = ("a", "b", "c", "ab", "bc", "1")


def tokenizer_of(tokens: Iterable[str], *special: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of just these tokens, the special ones, and an end."""
    words = {word: number for number, word in enumerate([*tokens, *special, END])}
    made = Tokenizer(models.WordLevel(words, unk_token=END))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=END, additional_special_tokens=[*special]
    )


def tables(tokens: Iterable[str] = LETTERS, padding: int = 2, **seeds: int) -> dict[str, Any]:
    """Tables by name, each from its seed, with rows that no token has; and rewards, ``rm…``."""
    tokenizer = tokenizer_of(tokens, "<mark>")
    size = len(tokenizer) + padding
    eos = tokenizer.eos_token_id
    made: dict[str, Any] = {}
    for name, seed in (seeds or {"base": 1, "arm": 2, "rm": 3}).items():
        if name.startswith("rm"):
            made[name] = descant.RuleReward.random(size, seed=seed)
        else:
            table = descant.TableModel.random(size, seed=seed, eos=eos)
            made[name] = {"model": table, "tokenizer": tokenizer}
    return made
