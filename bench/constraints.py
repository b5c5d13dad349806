"""What a constraint costs: masks by themselves, and steps beside the same steps without.

    OMP_NUM_THREADS=1 python -m bench.constraints        bench/results/constraints.json

The model is SmolLM2-135M-Instruct in float32, whose vocabulary has 49,152 tokens; the schemas are
the 200 of `tests/json_schemas.py`. `masks` walks answers that fit, each token drawn among those
allowed: what it takes per row to go along with the last token and to work out the next mask, for
one row and for several side by side. `steps` decodes 8 and 64 rows with a schema that does not end
early, and without: milliseconds per step, in turn. All times are of the processor, of all threads
together, so that others on the machine do not count.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import descant
from descant.bench.measure import about
from descant.demo.chat_model import smollm2
from descant.runtime.constraints.masks import Masks
from descant.runtime.constraints.spec import Constraint, schema_text
from tests.json_schemas import SCHEMAS

RESULTS = Path(__file__).parent / "results" / "constraints.json"
ROWS = (1, 8, 64)  # side by side
WALK, NEW, RUNS = 40, 8, 3  # tokens of a walk, and of an answer; runs of either way
LONG = {"type": "array", "minItems": 99, "items": {
    "type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"], "additionalProperties": False,
}}  # fmt: skip


def masks(bound: Any, rows: int) -> list[float]:
    """Milliseconds per row of every step over the schemas, so many of them side by side."""
    texts = [schema_text(schema) for schema in SCHEMAS.values()]
    taken: list[float] = []
    for first in range(0, len(texts), rows):
        own = [texts[(first + row) % len(texts)] for row in range(rows)]
        taken += _walk(bound, own)
    return taken


def _walk(bound: Any, texts: Sequence[str]) -> list[float]:
    """The same for one batch; a row that has ended stands still."""
    draw, end = random.Random(len(texts)), frozenset(bound.eos)
    requests = [
        SimpleNamespace(constraint=Constraint("json", text), eos=end, values=(1.0,), states={})
        for text in texts
    ]
    for request in requests:
        for address in bound.constraints.of(request):
            bound.constraints.states(request, address).at([])  # compiled before
    answers: list[list[int]] = [[] for _ in texts]
    taken = []
    for _ in range(WALK):
        step = Masks(bound.constraints, requests, lambda: answers, len(texts), torch.device("cpu"))
        start = time.process_time()
        allowed, flags = step._made
        taken.append((time.process_time() - start) * 1e3 / len(texts))
        octets = allowed[0].numpy().view(np.uint8)
        for row, answer in enumerate(answers):
            if not flags[0, row]:
                answer.append(_drawn(octets[row], bound.vocabulary, end, draw))
        if bool(flags[0].all()):
            break
    return taken


def _drawn(octets: Any, size: int, ends: frozenset[int], draw: random.Random) -> int:
    bits = np.unpackbits(octets, bitorder="little", count=size).nonzero()[0]
    going = [int(bit) for bit in bits if int(bit) not in ends]
    return draw.choice(going) if going else draw.choice(bits.tolist())


def steps(models: dict[str, Any], rows: int) -> dict[str, Any]:
    """A step's milliseconds with a constraint and without, in turn."""
    ways = {"without": "base", "with": "base | json(long)"}
    decoders = {
        way: descant.compile(formula, models=models, schemas={"long": LONG})
        for way, formula in ways.items()
    }
    prompts = [f"List {n} people as JSON:" for n in range(rows)]
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for run in range(RUNS + 1):
        for way, decoder in decoders.items():
            short, long = (
                _seconds(decoder, prompts, tokens) for tokens in (1, 1 + NEW)
            )  # the prompts cost the same in both
            if run:
                taken[way].append((long - short) * 1e3 / NEW)
    ratios = [b / a for a, b in zip(*taken.values(), strict=True)]
    medians = {way: round(statistics.median(each), 2) for way, each in taken.items()}
    return {"ms per step": medians, "ratio": round(statistics.median(ratios), 3)}


def _seconds(decoder: Any, prompts: list[str], tokens: int) -> float:
    start = time.process_time()
    decoder.generate(prompts, max_new_tokens=tokens, temperature=1.0, seed=1, eos_token_id=[])
    return time.process_time() - start


def _spread(taken: Sequence[float]) -> dict[str, float]:
    order = sorted(taken)
    return {
        "median ms": round(statistics.median(order), 4),
        "99% ms": round(order[int(0.99 * len(order))], 4),
        "steps": len(order),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    out = parser.parse_args().out
    loaded = descant.compile("base", models={"base": smollm2()}, dtype="float32")
    bound = loaded.session.bound
    lane = bound.lanes[0]
    models = {"base": {"model": lane.model, "tokenizer": bound.tokenizer}}
    found: dict[str, Any] = {
        "environment": {**about(), "device": "cpu", "vocabulary": bound.vocabulary},
        "masks, per row": {}, "steps": {},
    }  # fmt: skip
    for rows in ROWS:
        found["masks, per row"][f"{rows} rows"] = _spread(masks(bound, rows))
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for rows in ROWS[1:]:
        found["steps"][f"{rows} rows"] = steps(models, rows)
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
