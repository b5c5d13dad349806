"""What ``bench.drafts`` measures: formulas, who drafts them, their models and their prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from bench import draft_models as make
from descant.demo.chat_model import smollm2

Sizes = dict[str, int]

# How far weights are changed, so that drafts agree as often as is said (see ``agreement``).
ARM, TUNED, UNLIKE = 0.015, 0.01, 0.3
SAID = 0.03  # by the further layers of a larger model
TIMES = 6  # a larger model reads so many times the weights
TEXT = (
    "The ferry leaves Whitby at nine and calls at Saltburn before noon. Passengers with bicycles "
    "board first, then those on foot, and cars come last. On Sundays there is one crossing only, "
    "in the afternoon, and the return is at six. Dogs travel free if they stay on the lower deck. "
    "Tickets are sold on the quay until ten minutes before the hour. In winter the cafe is closed, "
    "and the saloon is heated from eight. Whoever misses the last boat may sleep in the station, "
    "which stays open all night.\n"
)
COPY = f"Original:\n{TEXT}\nCopy:\n"  # whose continuation is the text again


@dataclass(frozen=True)
class Case:
    """A formula that is decoded with drafts and without.

    Attributes:
        models: from the sizes of the smallest, all models that are declared.
        draft: who drafts, ``"prompt"`` among them; no model is asked there.
        asked: tokens per second with the draft over those without it, at least; 0 for nothing.
        prompt: from a seed and a vocabulary; ``new``, tokens of an answer.
        agrees: the share of drafted tokens that was aimed at.
        rounds_only: whether the draft may take no more forwards than nobody.
    """

    formula: str
    draft: str
    models: Callable[[Sizes], dict[str, Any]]
    asked: float = 0.0
    prompt: Callable[[int, int], Any] = lambda seed, size: ids(32, size, seed)
    new: int = 64
    temperature: float = 1.0
    draft_length: int | str = 4
    agrees: float | None = None
    rounds_only: bool = False

    @property
    def by_model(self) -> bool:
        """Whether models draft."""
        return self.draft != "prompt"


def ids(count: int, size: int, seed: int) -> list[int]:
    """So many tokens at random, of which none comes twice."""
    generator = torch.Generator().manual_seed(seed)
    return (3 + torch.randperm(size - 3, generator=generator)[:count]).tolist()


def arms(change: float, sizes: Sizes) -> dict[str, Any]:
    """Three models apart."""
    base = make.language_model(sizes, 0)
    helps, harms = (make.arm(base, change, seed) for seed in (1, 2))
    return {"base": base, "arm_help": helps, "arm_harm": harms}


def weak_to_strong(sizes: Sizes) -> dict[str, Any]:
    """A model, its tuned twin, and one that reads six times their weights."""
    weak = make.language_model(sizes, 0)
    strong = make.deeper(weak, make.layers_for(sizes, TIMES), SAID, 1)
    return {"strong": strong, "weak_tuned": make.arm(weak, TUNED, 2), "weak": weak}


def reranked(sizes: Sizes) -> dict[str, Any]:
    """A large model, a small one like it, and a reward model of the small one's size."""
    small = make.language_model(sizes, 0)
    base = make.deeper(small, make.layers_for(sizes, TIMES), SAID, 1)
    return {"base": base, "small": small, "reward": make.reward_model(sizes, 0.1, 2)}


def smol(sizes: Sizes) -> dict[str, Any]:
    """SmolLM2-135M-Instruct, whatever the sizes, which goes on with a text."""
    return {"smol": {"path": smollm2(), "dtype": "float32", "template": "{prompt}"}}


def alone(sizes: Sizes) -> dict[str, Any]:
    """One model."""
    return {"base": make.language_model(sizes, 0)}


DEXPERTS = "base + 0.5*arm_help - 0.5*arm_harm"
CASES = {
    "arms": Case(DEXPERTS, "base", partial(arms, ARM), 1.4, agrees=0.9),
    "weak to strong": Case(
        "strong + 0.5*(weak_tuned - weak)", "weak_tuned", weak_to_strong, 1.8, agrees=0.9
    ),
    "rerank": Case(
        "base | rerank(reward, k=10, w=1.0)", "small | top_k(10)", reranked, 1.0, agrees=0.8
    ),
    "copying": Case(
        "smol", "prompt", smol, 1.8, prompt=lambda seed, size: COPY, new=128, temperature=0.0
    ),
    "nothing repeats": Case("base", "prompt", alone, rounds_only=True),
    "unlike": Case(DEXPERTS, "base", partial(arms, UNLIKE)),
}
