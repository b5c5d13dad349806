"""Whether captured and eager steps of one formula decode the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Difference:
    """Between two runs over the same prompts.

    Attributes:
        same: every token is the same.
        share: of the tokens, those that are the same at the same position.
        scores: the largest difference of a score, up to each row's first token that differs; a
            token that one run excludes and the other does not counts as infinite.
    """

    same: bool
    share: float
    scores: float


def scored(decoder: Any, prompts: Sequence[Sequence[int]], new: int) -> tuple[Tensor, Tensor]:
    """Greedy tokens ``(rows, new)`` and the scores they were drawn from, ``(rows, new, V)``.

    The rows must have no other neighbours and one length, so that they stay in their order.
    """
    engine = decoder.session.engine
    step, drawn, score = engine.step, engine.graphs.draw, engine.step.scores
    buffers: dict[Any, Tensor] = {}  # made by eager steps, and written to by replays, too
    kept: list[Tensor] = []

    def scores(batch: Any, context: Any, forwarded: bool = False) -> Tensor:
        out = score(batch, context, forwarded)
        if out.shape not in buffers:
            buffers[out.shape] = torch.empty_like(out)
        buffers[out.shape].copy_(out)
        if not engine.graphs.on:
            kept.append(out.cpu().clone())
        return out

    def draw(batch: Any) -> Any:
        output = drawn(batch)
        [buffer] = buffers.values()
        kept.append(buffer[: batch.count].cpu().clone())
        return output

    step.scores, engine.graphs.draw = scores, draw
    try:
        done = decoder.generate(
            list(prompts), max_new_tokens=new, eos_token_id=[], batch_size=len(prompts),
            progress=False,
        )  # fmt: skip
    finally:
        del step.scores, engine.graphs.draw
    return torch.tensor([completion.token_ids for completion in done]), torch.stack(
        kept[:new], dim=1
    )


def difference(a: Any, b: Any, prompts: Sequence[Sequence[int]], new: int) -> dict[str, Any]:
    """Two decoders over the same prompts: the fields of ``Difference``."""
    (ids, scores), (others, other_scores) = (scored(decoder, prompts, new) for decoder in (a, b))
    equal = ids == others
    agreed = equal.long().cumprod(1).roll(1, 1)
    agreed[:, 0] = 1
    apart = (scores - other_scores).abs()
    apart[(scores == -torch.inf) & (other_scores == -torch.inf)] = 0.0
    worst = apart.amax(dim=-1)[agreed.bool()].max()
    return asdict(Difference(bool(equal.all()), float(equal.float().mean()), float(worst)))
