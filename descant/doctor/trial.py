"""A trial: the demo models decode a few tokens, which must be the known ones.

It uses everything: the formula, an adapter, a reward model, the cache, the batched step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .findings import BROKEN, MISSING, Finding, checked, failure
from .packages import python, required

FORMULA = "base + arm_help | rerank(reward_help, k=10, w=1)"
PROMPT = "What is the best way to clean the oven this weekend?"
# The best token leads the next by 0.8 nats or more, so that rounding elsewhere changes none.
EXPECTED = (957, 17, 795, 71, 272, 321, 516, 993)
AGAIN = "install descant again: pip install --force-reinstall --no-deps descant"


def weights() -> Iterator[Finding]:
    """Whether the demo models' files are in place."""
    from ..demo import WEIGHTS, models

    missing = []
    for name, spec in models().items():
        folder = Path(spec.get("path") or spec["adapter"])
        kind = "" if "path" in spec else "adapter_"
        needed = (f"{kind}config.json", f"{kind}model.safetensors")
        missing += [f"{name}/{file}" for file in needed if not (folder / file).is_file()]
    message = f"{len(models())} models in {WEIGHTS}"
    message += f"; missing: {', '.join(missing)}" if missing else ""
    yield checked("weights", message, AGAIN if missing else "", BROKEN, missing=missing)


def decode() -> Iterator[Finding]:
    """Decode a few tokens on the CPU, and on a GPU if there is one; not without the packages."""
    if any(finding.state == BROKEN for finding in (*python(), *required())):
        yield Finding("trial", MISSING, "not tried: first the packages above")
        return
    import torch

    for device in ("cpu", *(("cuda",) if torch.cuda.is_available() else ())):
        yield _trial(device)


def _trial(device: str) -> Finding:
    from ..api import compile
    from ..demo import models

    start = time.perf_counter()
    name = f"trial on {device}"
    try:
        decoder = compile(FORMULA, models(), device=device)
        completion = decoder.generate(PROMPT, max_new_tokens=len(EXPECTED))[0]
    except Exception as error:  # whatever it is, a user would meet it
        return Finding(name, BROKEN, f"failed: {failure(error)}", AGAIN)
    seconds = time.perf_counter() - start
    ids = tuple(completion.token_ids)
    data: dict[str, Any] = {"token_ids": list(ids), "expected": list(EXPECTED), "seconds": seconds}
    if ids != EXPECTED:
        problem = f"failed: it decoded {ids}, and {EXPECTED} is right"
        return Finding(name, BROKEN, problem, AGAIN, data)
    message = f"ok: {len(ids)} tokens as known ({completion.text!r}), "
    return checked(name, f"{message}in {seconds:.1f} s with loading", **data)
