"""The hidden states that a term has along completions: what a gate of the formula is fitted to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ...models import ModelError
from ...models.adapters.decoder_layers import layer_outputs
from ..binding.bound import Bound
from ..requests.request import Request

AT_ONCE = 8  # texts in a forward


@torch.no_grad()
def hidden_states(
    bound: Bound,
    model: str,
    layer: int,
    requests: Sequence[Request],
    completions: Sequence[Sequence[int]],
) -> Iterator[tuple[int, Tensor]]:
    """What ``head(model, …)`` reads before each token of completions.

    Args:
        bound: the formula, of whose terms ``model`` is one, with weights of its own.
        layer: a decoder layer, counted from 0.
        requests: the prompts, and ``completions``, token ids of each.

    Yields:
        The index of a completion, and ``(len(ids), hidden)`` float32 on the CPU: row i is before
        token i. Texts of like lengths come one after another.

    Raises:
        ModelError: no such term, or layer, or weights that are not in this process.
    """
    number = _term(bound, model)
    network = getattr(bound.lanes[bound.terms[number].lane], "model", None)
    if network is None or network.device.type == "meta":
        cure = "give a term whose weights are in this process"
        raise ModelError(f"the hidden states of {model} cannot be read here", cure, model)
    texts = [
        [*request.prompts[number], *ids] for request, ids in zip(requests, completions, strict=True)
    ]
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    device = network.get_input_embeddings().weight.device
    for first in range(0, len(order), AT_ONCE):
        batch = order[first : first + AT_ONCE]
        longest = len(texts[batch[-1]])
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(batch):
            ids[row, : len(texts[index])] = torch.tensor(texts[index])
            mask[row, : len(texts[index])] = 1
        seen: dict[int, Tensor] = {}
        with layer_outputs(model, network, [layer], seen.__setitem__):
            inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
            network.base_model(**inputs, use_cache=False)
        states = seen[layer].float().cpu()
        for row, index in enumerate(batch):
            start = len(requests[index].prompts[number]) - 1
            yield index, states[row, start : start + len(completions[index])]


def _term(bound: Bound, model: str) -> int:
    for number, term in enumerate(bound.terms):
        plain = term.term.system is None and not term.term.alone and not term.additions
        if term.term.model == model and plain and term.token_map is None:
            return number
    names = ", ".join(dict.fromkeys(term.term.model for term in bound.terms if not term.additions))
    problem = f"the formula has no term {model} with weights and a prompt of its own"
    raise ModelError(problem, f"give one of its models: {names}", model)
