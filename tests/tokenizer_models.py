"""Tiny models whose tokenizers differ in kind."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import vocabularies
from checkpoints import llama


def made(tokenizer: Any, seed: int, model: Any = llama, **sizes: Any) -> dict[str, Any]:
    torch.manual_seed(seed)
    found = model(vocab_size=len(tokenizer), **sizes) if model is llama else model()
    ends = tokenizer.convert_tokens_to_ids(tokenizer.eos_token)
    found.config.eos_token_id = found.generation_config.eos_token_id = ends
    return {"model": found.eval(), "tokenizer": tokenizer}


@cache
def models() -> dict[str, Any]:
    """A byte-level model, one with SentencePiece, and one that has bytes alone."""
    return {
        "q": made(vocabularies.qwen_like(), 1),
        "l": made(vocabularies.llama_like(), 2),
        "bytes": made(vocabularies.llama_like(259), 3, max_position_embeddings=512),
    }
