"""descant: combine language models while they decode, one formula, one batched step.

>>> import descant
>>> from descant.demo import models
>>> decoder = descant.compile("base + 0.5*arm_help", models=models())
>>> print(len(decoder.generate("Hello", max_new_tokens=16)[0].token_ids))
16

Importing this imports neither torch nor transformers; the first ``compile`` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

_here = Path(__file__).parent
if not (_here / "grammar").is_dir():  # a checkout: the packages are beside this folder
    __path__.append(str(_here.parent))

from .errors import DescantError  # noqa: E402
from .grammar import FormulaError, parse  # noqa: E402

if TYPE_CHECKING:
    from .api import compile
    from .extend import Scores, logits_processor, operator, scalar_function, stage
    from .formula.words.signature import Limits
    from .models import ModelError, ModelSpec
    from .models.functions import reward
    from .models.tables import RuleReward, TableModel
    from .runtime import Completion, Decoder
    from .runtime.hf.logits_processor import FormulaProcessor
    from .scoring import score

__version__ = "0.2.0"
__all__ = [
    "Completion",
    "Decoder",
    "DescantError",
    "FormulaError",
    "FormulaProcessor",
    "Limits",
    "ModelError",
    "ModelSpec",
    "RuleReward",
    "Scores",
    "TableModel",
    "__version__",
    "compile",
    "logits_processor",
    "operator",
    "parse",
    "reward",
    "scalar_function",
    "score",
    "stage",
]

_MODULES = {
    ".api": ("compile",),
    ".extend": ("Scores", "logits_processor", "operator", "scalar_function", "stage"),
    ".formula.words.signature": ("Limits",),
    ".lang": (  # the language's words as Python functions, without those that are builtins
        *("model", "param", "prompt", "step", "entropy", "max_prob", "mix", "pmean", "mean"),
        *("align", "plausible", "debias", "where", "top_k", "top_p", "min_p", "rerank"),
        *("temp", "temperature"),
    ),
    ".models": ("ModelError", "ModelSpec"),
    ".models.functions": ("reward",),
    ".models.tables": ("RuleReward", "TableModel"),
    ".runtime": ("Completion", "Decoder"),
    ".runtime.hf.logits_processor": ("FormulaProcessor",),
    ".scoring": ("score",),
}
_LAZY = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use."""
    from importlib import import_module

    if name not in _LAZY:
        raise AttributeError(f"module 'descant' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
