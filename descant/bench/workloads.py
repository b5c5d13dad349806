"""The measured formulas, and one set of models for all of them."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..api import compile
from . import shapes

W = 1.5
LORA, PROMPTS = "lora", "prompts"


@dataclass(frozen=True)
class Workload:
    """One formula and its models.

    Attributes:
        arms: language models beside the base.
        shares: how they share its weights: ``LORA``, ``PROMPTS``, or not at all.
        k: candidates of a reward model; 0 without one.
    """

    formula: str
    arms: int = 0
    shares: str = ""
    k: int = 0

    @property
    def weights(self) -> frozenset[str]:
        """The models with weights of their own."""
        arms = [] if self.shares else [f"arm_{i}" for i in range(self.arms)]
        return frozenset(("base", *arms, *(("reward",) if self.k else ())))


def fused(arms: int, shares: str = "", k: int = 0) -> Workload:
    """The base and arms at one half, and then perhaps a reward: ``base + 0.5*arm_0 | rerank(…)``.

    >>> fused(1, LORA, k=10).formula
    'base + 0.5*arm_0 | rerank(reward, k=10, w=1.5)'
    """
    formula = " + ".join(["base", *(f"0.5*arm_{i}" for i in range(arms))])
    if k:
        formula += f" | rerank(reward, k={k}, w={W})"
    return Workload(formula, arms, shares, k)


WORKLOADS = {
    "one model": fused(0),
    "two arms": fused(2),
    "two LoRA arms": fused(2, LORA),
    "rerank": fused(0, k=10),
    "LoRA arms, rerank": fused(2, LORA, k=10),
}


class Pool:
    """The models of one shape, each made on first use; ``scratch`` is a folder for adapters."""

    def __init__(self, shape: str, dtype: torch.dtype, device: str, scratch: Path) -> None:
        self.shape, self.dtype, self.device, self.scratch = shape, dtype, device, scratch
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """``base``, ``arm_0``, ``arm_1`` and so on, or ``reward``."""
        if name not in self._made:
            make, seed = shapes.reward_model, 9
            if name != "reward":
                make = shapes.language_model
                seed = 0 if name == "base" else 1 + int(name.removeprefix("arm_"))
            self._made[name] = make(self.shape, seed, self.dtype, self.device)
        return self._made[name]

    def keep(self, names: Iterable[str]) -> None:
        """Drop all the others, and free their memory."""
        for name in set(self._made) - set(names):
            del self._made[name]
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def decoder(self, workload: Workload, capture: bool = True, **arguments: Any) -> Any:
        """The workload, compiled; other arguments are those of ``descant.compile``."""
        models = self.models(workload)
        return compile(workload.formula, models=models, capture=capture, **arguments)

    def models(self, workload: Workload) -> dict[str, Any]:
        """The models of a workload, as ``descant.compile`` takes them.

        Adapters are put on a twin of the base, so that other ways run without them.
        """
        models: dict[str, Any] = {name: self[name] for name in sorted(workload.weights)}
        if workload.shares == LORA:
            models["base"] = shapes.twin(self["base"])
        for i in range(workload.arms):
            if workload.shares == LORA:
                folder = self.scratch / f"{self.shape}-{i}"
                if not folder.is_dir():
                    shapes.lora(self.shape, 1 + i, folder)
                models[f"arm_{i}"] = {"adapter": str(folder), "on": "base"}
            elif workload.shares == PROMPTS:
                prefix = list(range(10 + i, 14 + i))
                models[f"arm_{i}"] = {"model": self["base"], "prefix": prefix}
        return models

    def arms(self, workload: Workload) -> list[Any]:
        """The models that plain transformers runs for the arms.

        Where arms share the base's weights it runs the base again, without the cost of an adapter
        or a longer prompt.
        """
        names = ("base" if workload.shares else f"arm_{i}" for i in range(workload.arms))
        return [self[name] for name in names]

    def prompts(self, rows: int, length: int) -> torch.Tensor:
        """``(rows, length)`` random token ids; more rows begin with the same ones."""
        vocabulary = shapes.SHAPES[self.shape][1]["vocab_size"]
        generator = torch.Generator().manual_seed(0)
        return torch.randint(3, vocabulary, (rows, length), generator=generator).to(self.device)
