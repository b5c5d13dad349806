"""Checkpoints to lanes that can step. This package knows nothing of formulas.

What is exported here imports neither torch nor transformers, so that a run file is read, and a
server's clients are answered, without them. The rest is imported from its own module.
"""

from __future__ import annotations

from .checkpoint.resolve import ResolvedModel, resolve, with_bases
from .checkpoint.spec import ModelSpec, make_spec
from .errors import ModelError
from .heads.declared import Heads
from .text.inputs import ids_of, prompt_of, prompts_of
from .text.prompts import Prompt, is_ids, is_messages, render, render_text

__all__ = [
    "Heads",
    "ModelError",
    "ModelSpec",
    "Prompt",
    "ResolvedModel",
    "ids_of",
    "is_ids",
    "is_messages",
    "make_spec",
    "prompt_of",
    "prompts_of",
    "render",
    "render_text",
    "resolve",
    "with_bases",
]
