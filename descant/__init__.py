"""descant: combine language models while they decode, one formula, one batched step.

>>> import descant
>>> decoder = descant.compile("base + 0.5*arm", models={"base": base, "arm": arm})  # doctest: +SKIP
>>> decoder.generate("Hello", max_new_tokens=16)[0].text  # doctest: +SKIP

Importing this imports neither torch nor transformers; the first ``compile`` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

_here = Path(__file__).parent
if not (_here / "grammar").is_dir():  # a checkout: the packages are beside this folder
    __path__.append(str(_here.parent))

from .grammar import FormulaError, parse  # noqa: E402

if TYPE_CHECKING:
    from .api import compile
    from .models import ModelError, ModelSpec
    from .models.tables import RuleReward, TableModel
    from .runtime import Completion, Decoder
    from .runtime.hf.logits_processor import FormulaProcessor
    from .scoring import score

__version__ = "0.1.0"
__all__ = [
    "Completion",
    "Decoder",
    "FormulaError",
    "FormulaProcessor",
    "ModelError",
    "ModelSpec",
    "RuleReward",
    "TableModel",
    "__version__",
    "compile",
    "parse",
    "score",
]

_LAZY = {
    "compile": ".api",
    "logits_processor": ".extend",
    "scalar_function": ".extend",
    "score": ".scoring",
    "stage": ".extend",
    "Completion": ".runtime",
    "Decoder": ".runtime",
    "FormulaProcessor": ".runtime.hf.logits_processor",
    "ModelError": ".models",
    "ModelSpec": ".models",
    "RuleReward": ".models.tables",
    "TableModel": ".models.tables",
}
# The language's words as Python functions, without those that are builtins.
_LANGUAGE = frozenset(
    ("model", "param", "prompt", "step", "entropy", "max_prob", "mix", "pmean", "mean", "temp")
) | {"align", "plausible", "debias", "where", "top_k", "top_p", "min_p", "rerank", "temperature"}


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use."""
    from importlib import import_module

    if name not in _LAZY and name not in _LANGUAGE:
        raise AttributeError(f"module 'descant' has no attribute {name!r}")
    value = getattr(import_module(_LAZY.get(name, ".lang"), __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
