"""Steps of small random models: recorded against eager ones, and eager ones against transformers.

Steps go through the same doors as a user's: ``compile`` and ``generate``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from .findings import BROKEN, NOTE, OK, Finding

if TYPE_CHECKING:
    from ..runtime import Completion, Decoder

SHAPE, GROUPED = "tiny", "tiny-grouped"
NEW, WINDOW = 24, 16  # tokens
LENGTHS = (5, 40, 17, 300)  # of prompts: beyond the window, and beyond a chunk of keys
APART = 0.05  # log-probabilities of recorded and eager steps, in bfloat16


class Trial(NamedTuple):
    """A formula over the models of ``models_of``, and how it is decoded."""

    formula: str
    temperature: float = 0.0
    dtype: str = "float32"


TRIALS = {
    "one model": Trial("base"),
    "one model, bfloat16": Trial("base", dtype="bfloat16"),
    "grouped heads, a sliding window": Trial("grouped"),
    "two models, drawn": Trial("base + 0.5*other", 0.8),
    "rows of LoRA adapters": Trial("base + 0.5*arm_1 - 0.3*arm_2"),
    "rerank": Trial("base | rerank(reward, k=4, w=1.5)"),
    "where": Trial("where(entropy(base) > LEVEL, base + other, base - 0.3*other)"),
}


class Models:
    """Small models with random weights, made when a formula names them."""

    def __init__(self, device: str, folder: Path) -> None:
        self._device, self._folder = device, folder
        self._made: dict[tuple[str, str], Any] = {}

    def of(self, formula: str, dtype: str) -> dict[str, Any]:
        """The models that a formula names, as ``compile`` takes them."""
        return {name: self._model(name, dtype) for name in _makers() if name in formula}

    def _model(self, name: str, dtype: str) -> Any:
        if (name, dtype) not in self._made:
            self._made[name, dtype] = _makers()[name](dtype, self._device, self._folder / name)
        return self._made[name, dtype]


def _makers() -> dict[str, Callable[[str, str, Path], Any]]:
    """How each model is made of a dtype, on a device; an adapter in a folder."""
    import torch

    from ..bench import shapes

    def language(shape: str, seed: int, **more: Any) -> Callable[[str, str, Path], Any]:
        return lambda dtype, device, _: shapes.language_model(
            shape, seed, getattr(torch, dtype), device, **more
        )

    def arm(seed: int) -> Callable[[str, str, Path], Any]:
        return lambda dtype, device, folder: {
            "adapter": str(shapes.lora(SHAPE, seed, folder)), "on": "base",
        }  # fmt: skip

    return {
        "base": language(SHAPE, 0),
        "other": language(SHAPE, 1),
        "grouped": language(GROUPED, 2, sliding_window=WINDOW),
        "arm_1": arm(3),
        "arm_2": arm(4),
        "reward": lambda dtype, device, _: shapes.reward_model(
            SHAPE, 5, getattr(torch, dtype), device
        ),
    }


def prompts() -> list[list[int]]:
    """Random token ids."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 4096, (length,), generator=generator).tolist() for length in LENGTHS]


def recorded(name: str, device: str = "cuda") -> Iterator[Finding]:
    """The tokens of one formula, recorded and eager; what was recorded, and what was not."""
    from ..api import compile
    from ..bench.exact import difference

    trial = TRIALS[name]
    with TemporaryDirectory() as folder:
        models = Models(device, Path(folder)).of(trial.formula, trial.dtype)
        formula = trial.formula
        if "LEVEL" in formula:
            formula = formula.replace("LEVEL", f"{_entropy(models['base']):.6f}")
        eager = compile(formula, models, capture=False)
        decoder = compile(formula, models)
        expected, made = _tokens(decode(eager, trial)), [0]
        problems: list[str] = []
        for _ in range(2):
            different = _difference(_tokens(decode(decoder, trial)), expected)
            if different and trial.dtype == "float32" and not problems:
                problems.append(different)
            made.append(decoder.session.engine.graphs.made)
        message = f"{len(expected)} rows of {NEW} tokens are equal"
        if trial.dtype != "float32":  # where near ties may fall the other way
            apart = difference(decoder, eager, prompts(), NEW)["scores"]
            message = f"log-probabilities are {apart:.2g} apart, at most {APART:g}"
            problems += [message] * (not apart <= APART)
        yield _recorded(name, message, problems, made, decoder)
        yield from masked(trial.dtype, decoder)


def decode(decoder: Decoder, trial: Trial) -> list[Completion]:
    """Every prompt, completed in one batch."""
    return decoder.generate(
        prompts(), max_new_tokens=NEW, eos_token_id=[], temperature=trial.temperature, seed=1,
        progress=False,
    )  # fmt: skip


def masked(dtype: str, decoder: Decoder) -> Iterator[Finding]:
    """Which forwards go by masks, and why."""
    for lane in decoder.session.bound.lanes:
        live = getattr(lane, "live", None)
        if live is None:
            continue
        for part, why in (("steps", live.why_masked), ("prompts", live.why_chunks_masked)):
            if why is not None:
                yield Finding(f"{part}, {dtype}", NOTE, f"by masks, for {why}")


def against_transformers(device: str) -> Iterator[Finding]:
    """Eager steps, against transformers' own model and cache, a text at a time."""
    import torch

    from ..api import compile
    from ..bench import plain

    for name, formula in (("one model", "base"), ("grouped heads, a sliding window", "grouped")):
        with TemporaryDirectory() as folder:
            models = Models(device, Path(folder)).of(formula, "float32")
            decoder = compile(formula, models, capture=False)
            found = _tokens(decode(decoder, Trial(formula)))
            [model] = models.values()
            rows = [torch.tensor([ids], device=device) for ids in prompts()]
            expected = [plain.decode(model, ids, NEW)[0].tolist() for ids in rows]
        different = _difference(found, expected)
        message = different or f"{len(rows)} rows of {NEW} tokens are equal"
        title = f"{name}: eager, against transformers"
        yield Finding(title, BROKEN if different else OK, message)


def _recorded(
    name: str, message: str, problems: list[str], made: list[int], decoder: Decoder
) -> Finding:
    """Whether recorded steps gave what eager ones do, and were recorded once."""
    title, eager = f"{name}: recorded, against eager", decoder.session.engine.graphs.eager()
    first, second = (after - before for before, after in pairwise(made))
    if second:
        problems = [*problems, f"{second} recordings in the second run, where 0 are right"]
    problems = [*problems, *eager]
    message = "; ".join(problems) or f"{message}; {first} recordings, then none"
    data = {"recordings": [first, second], "eager": eager}
    return Finding(title, BROKEN if problems else OK, message, data=data)


def _difference(found: list[list[int]], expected: list[list[int]]) -> str:
    """The first token that differs, in words; empty where none does."""
    for row, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        for at, (token, right) in enumerate(zip(mine, theirs, strict=True)):
            if token != right:
                return f"row {row}, token {at} is {token}, and {right} is right"
    return ""


def _tokens(completions: list[Completion]) -> list[list[int]]:
    return [completion.token_ids for completion in completions]


def _entropy(model: Any) -> float:
    """Halfway between those of a model's tokens after two prompts: steps are above and below.

    No step is at it, where rounding would decide.
    """
    from ..api import compile

    decoder = compile("base", {"base": model}, capture=False)
    both = [decoder.scores(prompt, [])[0].log_softmax(-1) for prompt in prompts()[:2]]
    return sum(float(-(each.exp() * each).sum()) for each in both) / 2
