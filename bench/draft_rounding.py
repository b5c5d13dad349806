"""How rarely a draft changes a token by rounding, and how often some drafts agree.

    python -m bench.draft_rounding        bench/results/draft-rounding.json

A forward over several positions rounds otherwise than forwards of one, so that a near tie may fall
the other way. Rows of the bundled models are sampled with a draft and without; after the first
token that differs, a row's texts are two, and no more of it is counted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import descant
from descant.bench.measure import about
from descant.demo import PROMPTS, models

RESULTS = Path(__file__).parent / "results" / "draft-rounding.json"
FORMULA = "base + 0.5*large_help - 0.5*small_help"
SHARPER = "base + 0.5*arm_help + 0.5*arm_harm"  # whose weights add up to 2
ROWS, NEW, LENGTH = 200, 100, 4


def compared(dtype: str, draft: str, rows: int = ROWS, new: int = NEW) -> dict[str, Any]:
    """Tokens drawn from equal texts, and how many of these differ."""
    specs = {k: {**v, "dtype": dtype} if "path" in v else v for k, v in models().items()}
    decoder = descant.compile(FORMULA, specs)
    lanes = {str(lane.dtype).removeprefix("torch.") for lane in decoder.lanes}
    assert lanes == {dtype}, lanes
    prompts = [PROMPTS[row % len(PROMPTS)] for row in range(rows)]
    settings: dict[str, Any] = {
        "max_new_tokens": new, "temperature": 1.0, "seed": list(range(rows)), "eos_token_id": [],
        "batch_size": 50, "progress": False,
    }  # fmt: skip
    plain = decoder.generate(prompts, **settings)
    drafted = decoder.generate(prompts, draft=draft, draft_length=LENGTH, **settings)
    tokens = differ = 0
    for one, other in zip(plain, drafted, strict=True):
        pairs = enumerate(zip(one.token_ids, other.token_ids, strict=False), 1)
        first = next((at for at, (a, b) in pairs if a != b), None)
        tokens += first or len(one.token_ids)
        differ += first is not None
    return {"formula": FORMULA, "dtype": dtype, "draft": draft, "tokens": tokens, "differ": differ}


def kept(formula: str, draft: str, rows: int = ROWS, new: int = NEW) -> dict[str, Any]:
    """Drafted tokens, and how many of them the formula drew."""
    decoder = descant.compile(formula, models())
    prompts = [PROMPTS[row % len(PROMPTS)] for row in range(rows)]
    decoder.generate(
        prompts, max_new_tokens=new, temperature=1.0, seed=list(range(rows)), eos_token_id=[],
        draft=draft, draft_length=LENGTH, batch_size=50, progress=False,
    )  # fmt: skip
    stats = decoder.session.engine.stats
    return {"formula": formula, "draft": draft, "drafted": stats.drafted, "kept": stats.accepted}


def main() -> None:
    """Measure, print, and keep the numbers."""
    found: dict[str, Any] = {"about": about(), "rows": ROWS, "new": NEW, "draft_length": LENGTH}
    pairs = [(dtype, draft) for dtype in ("float32", "bfloat16") for draft in ("base", "prompt")]
    found["rounding"] = [compared(*pair) for pair in pairs]
    found["kept"] = [kept(SHARPER, draft) for draft in ("base", "2*base")]
    for each in (*found["rounding"], *found["kept"]):
        print(each, flush=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
