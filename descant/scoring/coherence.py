"""Coherence: how near an answer is to its prompt, by a sentence-embedding model.

The cosine of the two embeddings, as Su et al. 2022 and ARGS report it (theirs by SimCSE).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..extras import require
from ..inputs.runfile import RunFileError
from ..models import is_messages
from ..models.errors import first_line

PACKAGE = "sentence_transformers"


class CoherenceScorer:
    """One embedding model, a folder or hub id that sentence-transformers reads.

    Raises:
        MissingExtra: sentence-transformers is not installed.
        RunFileError: the model cannot be read; ``name`` is the score's.
    """

    def __init__(self, name: str, source: str, device: str) -> None:
        require(f"score.{name}", PACKAGE)
        from sentence_transformers import SentenceTransformer

        try:
            self._model = SentenceTransformer(source, device=device, trust_remote_code=False)
        except (OSError, ValueError) as error:
            problem = f"score.{name}: {source} cannot be read: {first_line(error)}"
            raise RunFileError(problem) from error

    def scores(self, prompts: Sequence[Any], texts: Sequence[str]) -> list[float]:
        """The cosine of each prompt and its answer, from -1 to 1."""
        encode = partial(self._model.encode, normalize_embeddings=True, show_progress_bar=False)
        questions = [plain_text(prompt) for prompt in prompts]
        distinct = list(dict.fromkeys(questions))  # a sweep scores every prompt many times
        vectors = dict(zip(distinct, encode(distinct), strict=True))
        pairs = zip(questions, encode(list(texts)), strict=True)
        return [float(vectors[prompt] @ answer) for prompt, answer in pairs]


def plain_text(prompt: Any) -> str:
    """A prompt as text: of messages, their contents."""
    if is_messages(prompt):
        return "\n".join(message["content"] for message in prompt)
    return prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
