"""A reward model that reads text: what was written, decoded, and encoded by its own tokenizer.

For reward models whose tokenizer differs from that of the formula, or that are declared to read
text. Every candidate's whole text goes through the model at every step; nothing is cached.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from .rows import Rows


class TextRewardLane:
    """A lane over a classifier that reads text.

    Args:
        model: a causal classifier of transformers, on its device.
        tokenizer: its own.
        shared: the tokenizer of the formula's tokens.
    """

    def __init__(self, model: Any, tokenizer: Any, shared: Any) -> None:
        self.model, self._tokenizer, self._shared = model, tokenizer, shared
        self.device: torch.device = model.get_input_embeddings().weight.device
        self.reserve(0, 0)

    @property
    def rows(self) -> Rows:
        """The rows in use; their texts are the responses alone."""
        return self._rows

    def reserve(self, rows: int, capacity: int) -> None:
        """Make room for so many rows, empty."""
        self._rows = Rows(rows, capacity, self.device)
        self._prompts: list[str] = []

    def grow(self, capacity: int) -> None:
        """Make room for longer answers, and keep those there are."""
        self._rows.grow(capacity)

    def admit(self, prompts: Sequence[str], adapters: Sequence[int]) -> list[int]:
        """Take rendered prompts, as text, into new rows; their numbers."""
        nothing: list[list[int]] = [[] for _ in prompts]
        new = self._rows.admit(nothing, [0] * len(prompts), adapters)
        self._prompts += prompts
        return list(range(new.start, new.stop))

    def release(self, row: int) -> int:
        """Give a row up; the last row takes its place."""
        last = self._rows.release(row)
        self._prompts[row] = self._prompts[last]
        self._prompts.pop()
        return last

    @torch.no_grad()
    def rewards(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """``(rows, k)`` candidates to ``(rows, k, labels)`` rewards, and those of the texts."""
        texts = []
        for row, (prompt, options) in enumerate(
            zip(self._prompts, candidates.tolist(), strict=True)
        ):
            written = self._rows.texts[row, : int(self._rows.ends[row])].tolist()
            for option in (*([token] for token in options), []):
                texts.append(prompt + self._decoded([*written, *option]))
        count, k = candidates.shape
        scores = self._scores(texts).view(count, k + 1, -1)
        return scores[:, :k], scores[:, k]

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Make each target row what its source was."""
        self._rows.copy(sources, targets)
        copied = [self._prompts[source] for source in sources]
        for target, prompt in zip(targets, copied, strict=True):
            self._prompts[target] = prompt

    def feed(self, tokens: Tensor) -> None:
        """``(rows,)`` tokens that each row goes on with."""
        self._rows.feed(tokens)

    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        """The same: there is no cache whose winner could be moved."""
        self._rows.feed(tokens)

    def weight_bytes(self) -> int:
        """Bytes of weights that a forward reads."""
        embedding = self.model.get_input_embeddings().weight.nbytes
        return int(sum(p.nbytes for p in self.model.parameters()) - embedding)

    def token_bytes(self) -> int:
        """Nothing is cached."""
        return 0

    def held_bytes(self) -> int:
        """Nothing is cached."""
        return 0

    steady = False

    def shape(self, ahead: int) -> Hashable:
        """Texts are read anew, so that nothing is decided beforehand."""
        return None

    def _decoded(self, ids: list[int]) -> str:
        return str(self._shared.decode(ids, skip_special_tokens=True))

    def _scores(self, texts: Sequence[str]) -> Tensor:
        """``(texts, labels)``, each read at its own last token."""
        bos = self._tokenizer.bos_token
        doubled = bool(bos) and all(text.startswith(bos) for text in texts)
        encoded = [
            self._tokenizer(text, add_special_tokens=not doubled)["input_ids"] for text in texts
        ]
        ends = torch.tensor([len(ids) for ids in encoded], device=self.device)
        longest = int(ends.max())
        ids = torch.tensor([[*one, *[0] * (longest - len(one))] for one in encoded])
        mask = torch.arange(longest, device=self.device) < ends[:, None]
        out = self.model.base_model(input_ids=ids.to(self.device), attention_mask=mask.long())
        last = out.last_hidden_state[torch.arange(len(texts), device=self.device), ends - 1]
        return self.model.score(last).float()  # type: ignore[no-any-return]
