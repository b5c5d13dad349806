"""A trial: the demo models decode a few tokens, and they are the known ones.

It goes through all of it: the formula, an adapter, a reward model, the cache, the batched step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from .findings import BROKEN, MISSING, OK, Finding, looked_at

FORMULA = "base + arm_help | rerank(reward_help, k=10, w=1)"
PROMPT = "What is the best way to clean the oven this weekend?"
# The best token leads the next by 0.8 nats or more, so that rounding elsewhere changes none.
EXPECTED = (957, 17, 795, 71, 272, 321, 516, 993)
AGAIN = "install descant again: pip install --force-reinstall --no-deps descant"


@looked_at("demo", "weights", BROKEN)
def weights() -> Iterator[Finding]:
    """Whether the demo models' files are in place."""
    from ..demo import WEIGHTS, models

    lacking = []
    for name, spec in models().items():
        folder = Path(spec.get("path") or spec["adapter"])
        needed = ("adapter_config.json", "adapter_model.safetensors")
        needed = ("config.json", "model.safetensors") if "path" in spec else needed
        lacking += [f"{name}/{file}" for file in needed if not (folder / file).is_file()]
    said = f"{len(models())} models in {WEIGHTS}"
    if lacking:
        said += f"; missing: {', '.join(lacking)}"
    state = BROKEN if lacking else OK
    yield Finding("demo", "weights", state, said, AGAIN if lacking else "", {"missing": lacking})


@looked_at("demo", "trial", BROKEN)
def decode(broken: bool) -> Iterator[Finding]:
    """Decode a few tokens on the CPU, and on a GPU if there is one.

    Args:
        broken: a package is missing, so that there is nothing to try yet.
    """
    if broken:
        yield Finding("demo", "trial", MISSING, "not tried: first the packages above")
        return
    import torch

    for device in ("cpu", *(("cuda",) if torch.cuda.is_available() else ())):
        yield _tried(device)


def _tried(device: str) -> Finding:
    from ..api import compile
    from ..demo import models

    start = time.perf_counter()
    name = f"trial on {device}"
    try:
        decoder = compile(FORMULA, models(), device=device)
        made = decoder.generate(PROMPT, max_new_tokens=len(EXPECTED))[0]
    except Exception as error:  # whatever it is, this is what a user would meet
        lines = str(error).strip().splitlines() or [""]
        said = f"failed: {type(error).__name__}: {lines[0]}"
        return Finding("demo", name, BROKEN, said, AGAIN)
    took = time.perf_counter() - start
    ids = tuple(made.token_ids)
    data = {"token_ids": list(ids), "expected": list(EXPECTED), "seconds": took}
    if ids != EXPECTED:
        said = f"failed: it decoded {ids}, and {EXPECTED} is right"
        return Finding("demo", name, BROKEN, said, AGAIN, data)
    said = f"ok: {len(ids)} tokens as known ({made.text!r}), in {took:.1f} s with loading"
    return Finding("demo", name, OK, said, "", data)
