"""A formula as a reference model: a torch module whose logits are the formula's.

For what asks a frozen model how likely texts are, like TRL's trainers: ``ref_model=Reference(…)``.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ...runtime.loops.distributions import distributions


class Reference(nn.Module):
    """The logits of a formula, as a transformers model gives its own.

    Args:
        decoder: of a formula that does not search; every term reads the same ids.
    """

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self._decoder = decoder
        self.config = decoder.session.bound.described[0].config

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        logits_to_keep: int = 0,
        **ignored: Any,
    ) -> Any:
        """Log-probabilities in place of logits, which are the same but for a shift.

        Args:
            input_ids: ``(n, L)``, padded on any side.
            attention_mask: ``(n, L)``, 0 for padding.
            logits_to_keep: so many of the last positions; 0 is all.

        Returns:
            ``logits``, ``(n, L or logits_to_keep, V)`` float32; zeros at padding.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        texts = [row[keep.bool()].tolist() for row, keep in zip(input_ids, mask, strict=True)]
        session = self._decoder.session
        rows = session.builder.rows([text[:1] for text in texts], None)
        completions = [[*text[1:], text[-1]] for text in texts]  # what follows the last, too
        requests = [
            session.builder.request(number, *row, max_new_tokens=len(ids), strict=True)
            for number, (row, ids) in enumerate(zip(rows, completions, strict=True))
        ]
        found = distributions(session.engine, requests, completions)
        logits = found[0].new_zeros(*input_ids.shape, found[0].shape[-1])
        for own, keep, row in zip(logits, mask, found, strict=True):
            own[keep.bool()] = row
        return SimpleNamespace(logits=logits[:, -logits_to_keep:].to(input_ids.device))
