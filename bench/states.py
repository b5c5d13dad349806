"""A step of a model with states beside its bare forward, in turn, and the memory of the states.

    OMP_NUM_THREADS=1 python -m bench.states          bench/results/states.json

One step of ours and one of a plain transformers loop follow each other, on texts of the same
length; the result is the median over all pairs, without prefill. Beside it: what the plan says that
caches take, and what is allocated.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, DynamicCache

import descant
from bench.steps import WARM, ours, paired
from descant.bench.measure import about
from descant.models.cache.kv_cache import takes_states
from descant.runtime.batch.memory import cache_bytes

RESULTS = Path(__file__).parent / "results" / "states.json"
PROMPT, STEPS, RUNS = 32, 60, 5
TARGET = 1.1
SIZES = {
    "vocab_size": 32000, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
MAMBA = {
    "mamba_d_ssm": 1024, "mamba_n_heads": 16, "mamba_d_head": 64, "mamba_n_groups": 1,
    "mamba_d_state": 64, "mamba_chunk_size": 64,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3_5_text": {
        "head_dim": 64, "linear_num_key_heads": 4, "linear_num_value_heads": 8,
        "linear_key_head_dim": 64, "linear_value_head_dim": 64,
        "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 2,
    },
    "falcon_h1": MAMBA,
    "lfm2": {
        "layer_types": (["conv"] * 3 + ["full_attention"]) * 2, "block_auto_adjust_ff_dim": False,
    },
    "mamba2": {
        "state_size": 64, "num_heads": 16, "head_dim": 64, "n_groups": 1, "expand": 2,
        "chunk_size": 64,
    },
}  # fmt: skip


def model_of(family: str) -> Any:
    """A random member of a family, of ``SIZES``."""
    config = CONFIG_MAPPING[family](**{**SIZES, **FAMILIES[family]})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def bare(model: Any, prompts: Tensor) -> Callable[[], object]:
    """One step of the model alone: a forward and the best token."""
    name = "cache_params" if takes_states(type(model).forward) else "past_key_values"
    cache, tokens, place = DynamicCache(config=model.config), prompts[:, -1:], prompts.shape[1] - 1
    with torch.no_grad():
        model(input_ids=prompts[:, :-1], use_cache=True, **{name: cache})

    @torch.no_grad()
    def step() -> None:
        nonlocal tokens, place
        where = {} if name == "cache_params" else {"position_ids": torch.tensor([[place]])}
        out = model(input_ids=tokens, use_cache=True, **{name: cache}, **where)
        tokens, place = out.logits[:, -1].argmax(-1, keepdim=True), place + 1

    return step


def measure(family: str, batch: int, runs: int) -> dict[str, Any]:
    """Milliseconds of every pair of steps, the median of their ratios, and the caches' bytes."""
    model = model_of(family)
    decoder = descant.compile("base", {"base": model})
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, SIZES["vocab_size"], (batch, PROMPT), generator=generator)
    pairs = list[list[float]]()
    for _ in range(runs):
        pairs += paired(ours(decoder, prompts), bare(model, prompts), STEPS)
    [lane] = decoder.session.bound.lanes
    cache = lane.blocks.cache
    return {
        "ratio": statistics.median(own / other for own, other in pairs),
        "ours_ms": statistics.median(own for own, _ in pairs),
        "bare_ms": statistics.median(other for _, other in pairs),
        "plan_bytes": cache_bytes(decoder.session.bound, batch, lane.rows.capacity),
        "allocated_bytes": sum(each.nbytes for each in (*cache.states, *cache._tensors())),
        "pairs": [[round(each, 3) for each in pair] for pair in pairs],
    }


def main() -> None:
    """Measure each family at each batch size, and keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    found = {}
    for family in FAMILIES:
        for batch in (1, 8):
            each = found[f"{family}, batch {batch}"] = measure(family, batch, arguments.runs)
            print(
                f"{family:15} batch {batch}: {each['ratio']:.3f} of a bare forward "
                f"({each['ours_ms']:.2f} and {each['bare_ms']:.2f} ms), target {TARGET}; caches "
                f"{each['plan_bytes']:,} bytes by the plan, {each['allocated_bytes']:,} allocated"
            )
    sizes = {"sizes": SIZES, "families": FAMILIES, "prompt": PROMPT, "steps": STEPS, "warm": WARM}
    record = {"about": {**about(), **sizes, "dtype": "float32"}, "target": TARGET, "found": found}
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
