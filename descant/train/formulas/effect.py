"""What a trained model does in the formula that it is for: the check at the end of a training.

An accuracy on pairs says little of answers: pairs may be told apart by their length alone, and a
model that hardly moved can still rank them. So held-out prompts are answered with the model at
several weights, and its answers held against the base's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ...api import compile
from ...errors import DescantError
from ..examples import Example
from ..trainfile import TrainFile

FORMULAS = {"arm": "base + w*arm", "dpo": "base + w*(arm - base)", "sft": "base + w*(arm - base)"}
PAGE = "arm-does-nothing"
IDLE, STRONG = 0.02, 1.0  # nats per token: below, answers hardly change; above, the base is left
BY_LENGTH = 0.9  # share of pairs whose shorter response was chosen


@dataclass(frozen=True)
class AtWeight:
    """What the model does to answers at one weight.

    Attributes:
        weight: w of the formula.
        kl: nats per token, of the formula from the base, along the formula's answers.
        learnt: likewise, from the formula with the model as it was before training.
        tokens: of an answer, in the mean, its end counted.
        win_rate: the share of prompts whose answer has a higher reward than the base's: the reward
            that was trained, a sum over tokens (or a mean, with ``length_normalization``). Draws
            count half.
        win_rate_per_token: likewise, of means over tokens.
    """

    weight: float
    kl: float
    learnt: float
    tokens: float
    win_rate: float
    win_rate_per_token: float

    def __str__(self) -> str:
        return (
            f"w={self.weight:<4g} KL {self.kl:.3f} nats per token ({self.learnt:.3f} of training), "
            f"{self.tokens:.1f} tokens, wins {self.win_rate:.0%} ({self.win_rate_per_token:.0%} "
            "per token)"
        )


@dataclass(frozen=True)
class Effect:
    """The check of a training.

    Attributes:
        formula: ``arm`` is the trained model.
        prompts: how many, and ``held_out``, whether the training left them out.
        tokens: of the base's answers, in the mean.
        rows: by weight.
        shorter: the share of pairs whose chosen response has less than four fifths of the other's
            characters; None without pairs, and where rewards are means over tokens.
    """

    formula: str
    prompts: int
    held_out: bool
    tokens: float
    rows: list[AtWeight]
    shorter: float | None

    def content(self) -> dict[str, Any]:
        """As ``training.json`` keeps it."""
        return asdict(self)

    def findings(self) -> list[str]:
        """What stands out, each with what to try; nothing where all is in its healthy range."""
        found = list[str]()
        if self.shorter is not None and self.shorter >= BY_LENGTH:
            cure = "balance the lengths, or train with length_normalization: true"
            found.append(
                f"a far shorter response is chosen in {self.shorter:.0%} of the pairs: sums favour "
                f"it, so the accuracy says little: {cure}"
            )
        if all(row.learnt < IDLE for row in self.rows):
            cure = "a larger learning_rate or more epochs, then a smaller beta"
            found.append(f"the training changes nothing (KL below {IDLE} at every weight): {cure}")
        elif all(row.kl > STRONG for row in self.rows):
            cure = "smaller weights, or a larger beta"
            found.append(f"answers leave the base at every weight (KL above {STRONG:g}): {cure}")
        if all(row.win_rate_per_token <= 0.5 for row in self.rows):
            found.append("no weight makes answers that the model itself prefers, token for token")
        lengths = [row.tokens / self.tokens for row in self.rows]
        if min(lengths) < 0.5 or max(lengths) > 2:
            found.append(
                f"answers have {min(lengths):.2g} to {max(lengths):.2g} times the base's length: "
                "look at what the chosen responses have in common"
            )
        return found


def effect(
    recipe: TrainFile,
    examples: Sequence[Example],
    held_out: bool,
    device: str,
    seed: int,
    say: Callable[[str], None],
) -> Effect | None:
    """Answer some prompts with a trained model at several weights, and measure.

    Args:
        recipe: of the training, whose output folder is complete.
        examples: whose prompts are answered, as many as ``recipe.check`` says.
        held_out: whether the training left them out.
        device: where the formula decodes.
        seed: of the answers.
        say: is called with each line.

    Returns:
        The check; None where the method has no formula, or no example has a prompt, or the formula
        cannot be decoded, which is said and harms no training.
    """
    check, formula = recipe.check, FORMULAS.get(recipe.method)
    prompts = {str(each.prompt): each.prompt for each in examples if each.prompt is not None}
    if check is None or formula is None or not prompts:
        return None
    chosen: list[Any] = [*prompts.values()][: check.prompts]
    try:
        decoder = compile(formula, _models(recipe), params={"w": 1.0}, device=device)
        weights = [0.0, *check.weights]
        answers = decoder.generate(
            [prompt for prompt in chosen for _ in weights],
            params={"w": weights * len(chosen)},
            max_new_tokens=check.max_new_tokens, temperature=1.0, seed=seed, progress=False,
        )  # fmt: skip
        measured = [
            _measured(decoder, prompt, answers[i * len(weights) + j].token_ids, recipe, weights[j])
            for i, prompt in enumerate(chosen)
            for j in range(len(weights))
        ]
    except DescantError as error:
        say(f"the trained model was not checked: {error}")
        return None
    table = torch.tensor(measured, dtype=torch.float64).view(len(chosen), len(weights), 5)
    base, guided = table[:, 0], table[:, 1:]
    rows = []
    for j, weight in enumerate(check.weights):
        kl, learnt, tokens, reward, per_token = guided[:, j].unbind(-1)
        rows.append(
            AtWeight(
                weight, float(kl.sum() / tokens.sum()), float(learnt.sum() / tokens.sum()),
                float(tokens.mean()), _wins(reward, base[:, 3]), _wins(per_token, base[:, 4]),
            )
        )  # fmt: skip
    base_tokens = float(base[:, 2].mean())
    found = Effect(formula, len(chosen), held_out, base_tokens, rows, _shorter(recipe, examples))
    _tell(found, say)
    return found


def _models(recipe: TrainFile) -> dict[str, Any]:
    """The base as it was trained on, and the trained model, as formulas declare them."""
    spec = recipe.model.model_dump(exclude_unset=True)
    if recipe.lora is not None:
        return {"base": spec, "arm": {"adapter": recipe.output, "on": "base"}}
    trained = {k: v for k, v in spec.items() if k not in ("revision", "tokenizer")}
    return {"base": spec, "arm": trained | {"path": recipe.output}}


def _measured(
    decoder: Any, prompt: Any, ids: Sequence[int], recipe: TrainFile, weight: float
) -> list[float]:
    """Of one answer: the sums over tokens of both divergences, tokens, reward, and its mean."""
    base, both = (
        decoder.scores(prompt, ids[:-1], params={"w": value}).double() for value in (0.0, 1.0)
    )
    of_base = base.log_softmax(-1)
    arm = (both - base + (base if recipe.method != "arm" else 0)).log_softmax(-1)
    untrained = of_base if recipe.method == "arm" else torch.zeros_like(of_base)
    moved = arm if recipe.method == "arm" else arm - of_base
    formula = (of_base + weight * moved).log_softmax(-1)
    before = (of_base + weight * untrained).log_softmax(-1)
    drawn = torch.tensor(ids, device=arm.device)[:, None]
    rewards = moved.gather(1, drawn)
    mean = float(rewards.mean())
    reward = mean if recipe.length_normalization else float(rewards.sum())
    return [_divergence(formula, of_base), _divergence(formula, before), len(ids), reward, mean]


def _divergence(formula: Tensor, other: Tensor) -> float:
    """The sum over positions of KL(formula, other), nats."""
    return float(torch.nn.functional.kl_div(other, formula, reduction="sum", log_target=True))


def _wins(rewards: Tensor, others: Tensor) -> float:
    return float(((rewards > others) + 0.5 * (rewards == others)).double().mean())


def _shorter(recipe: TrainFile, examples: Sequence[Example]) -> float | None:
    pairs = [(len(e.chosen), len(e.rejected)) for e in examples if e.rejected is not None]
    if recipe.method != "arm" or recipe.length_normalization or not pairs:
        return None
    return sum(5 * chosen < 4 * rejected for chosen, rejected in pairs) / len(pairs)


def _tell(found: Effect, say: Callable[[str], None]) -> None:
    kind = "held-out prompts" if found.held_out else "prompts of the training"
    say(f"check    {found.formula}, {found.prompts} {kind}; the base: {found.tokens:.1f} tokens")
    for row in found.rows:
        say(f"         {row}")
    say(
        f"healthy  KL {IDLE} to {STRONG:g}, wins above 50%, half to twice the base's tokens; "
        f"more: descant docs {PAGE}"
    )
    for line in found.findings():
        say(f"note     {line}")
