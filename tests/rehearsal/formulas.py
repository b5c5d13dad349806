"""A formula or more of every class of methods, and the tiny models that they name."""

from __future__ import annotations

from typing import Any

from checkpoints import renumbered, tokenizer, turned

from .rehearsal import Rehearsal

OTHER = renumbered(turned())  # made where numbers are known

FORMULAS = {
    "one model": "m",
    "sum": "m + 0.5*x",
    "proxy": "m + 0.5*(x - y)",
    "mean": "mean(m + 0.5*x)",
    "union": "max(m, x)",
    "debias": "debias(m, x, 50)",
    "contrastive": "plausible(m, 0.1) - 0.2*temp(x, 0.5)",
    "experts": "top_p(m, 0.9) + 0.5*(x - y)",
    "forward KL": "pmean(-1; 0.5: m, 0.5: x)",
    "mix": "mix(0.7: m, 0.3: x)",
    "no prompt": "1.5*m - 0.5*m@none",
    "prompts": 'm + 0.5*m@"You are a child."',
    "LoRA rows": "m + 0.5*a + 0.5*b",
    "steered rows": "m + 0.5*v + 0.5*a",
    "top-k and top-p": "m | top_k(50) | top_p(0.9)",
    "penalty": "m | repetition_penalty(1.2)",
    "cutoffs": "m | typical_p(0.9) | eta_cutoff(0.01) | top_n_sigma(2) | xtc(0.5, 0.1)",
    "repeats": "m | no_repeat_ngram(3) | dry(0.8)",
    "min-p": "m | min_p(0.1) | temperature(0.7)",
    "rerank": "m | rerank(r, k=5, w=1.5)",
    "rerank, all kept": "m | rerank(r, k=5, w=1, norm=center, keep=all)",
    "rerank, two rewards": "m + 0.5*a | rerank(0.5*r + 0.5*s, k=5)",
    "rerank inside": "(m | rerank(r, k=5, w=1.5)) + x",
    "numbers of the state": "(1 + js(m, x))*m - js(m, x)*x | temperature(1 + 0.1*entropy(m))",
    "numbers that fade": "m + 0.9**step*a - max_prob(x)*a",
    "align": "mix(0.5: m, 0.5: align(z))",
}
WHERE = {
    "where, steps": "where(step < 2, mix(0.4: m, 0.6: x), m)",
    "where, entropy": "where(entropy(m) > 1, m + 0.5*x, m)",
    "where, probability": "where(max_prob(m) < 0.4, x, m)",
}
SEARCHES = {
    "best of": "m | best_of(r, n=4)",
    "blockwise": "m | blockwise(r, beams=2, samples=2, length=8)",
    "blockwise, scores": "m | blockwise(x - y, beams=2, samples=2, length=8)",
    "reject": "m | reject(r)",
}


def models(gpu: Rehearsal) -> dict[str, Any]:
    """What they name: m, x, y, and z of another vocabulary; a and b are adapters on m and v a
    vector, r and s reward models."""
    size = len(tokenizer())

    def language(own: Any) -> dict[str, Any]:
        return {"model": gpu.language_model("tiny", vocab_size=size), "tokenizer": own}

    named = {name: language(tokenizer()) for name in "mxy"} | {"z": language(OTHER)}
    adapters = {name: gpu.lora("m") for name in "ab"}
    adapters["v"] = {"vector": {0: [0.5] * 64, 1: [0.25] * 64}, "on": "m"}
    return named | adapters | {name: gpu.reward_model("tiny", vocab_size=size) for name in "rs"}
