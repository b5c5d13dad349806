"""Whether captured and eager steps of one formula decode the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

TOP = 20  # of the most likely tokens of each step, whose log-probabilities are compared


@dataclass(frozen=True)
class Difference:
    """Between two runs over the same prompts.

    Attributes:
        same: every token is the same.
        share: of the tokens, those that are the same at the same position.
        scores: the largest difference of a log-probability, of the likeliest tokens that both runs
            name, up to each row's first token that differs.
    """

    same: bool
    share: float
    scores: float


def scored(decoder: Any, prompts: Sequence[Sequence[int]], new: int) -> list[Any]:
    """Greedy completions, with the log-probabilities of the likeliest tokens."""
    completions: list[Any] = decoder.generate(
        list(prompts), max_new_tokens=new, eos_token_id=[], batch_size=len(prompts),
        logprobs=True, top_logprobs=TOP, progress=False,
    )  # fmt: skip
    return completions


def difference(a: Any, b: Any, prompts: Sequence[Sequence[int]], new: int) -> dict[str, Any]:
    """Two decoders over the same prompts: the fields of ``Difference``."""
    equal: list[bool] = []
    apart = [0.0]
    for one, other in zip(scored(a, prompts, new), scored(b, prompts, new), strict=True):
        same = [x == y for x, y in zip(one.token_ids, other.token_ids, strict=True)]
        comparable = [*same, False].index(False) + 1
        tops = list(zip(one.top_logprobs, other.top_logprobs, strict=True))[:comparable]
        for mine, theirs in tops:
            pairs = [(mine[token], theirs[token]) for token in mine.keys() & theirs.keys()]
            apart += [0.0 if x == y else abs(x - y) for x, y in pairs]
        equal += same
    return asdict(Difference(all(equal), sum(equal) / len(equal), max(apart)))
