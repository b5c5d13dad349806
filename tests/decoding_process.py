"""One process of several: decodes every case of a file, and writes what it drew."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import descant


def joined(rank: int, size: int, port: int, cases: str, out: str) -> None:
    """Be one process of a job, as ``torchrun`` would start it."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    main(cases, out)


def main(cases: str, out: str) -> None:
    """Decode, and write ``OUT.rank`` with the tokens of every case and the bytes that met."""
    import own_words  # noqa: F401  what formulas may have

    torch.set_num_threads(1)
    answers: dict[str, Any] = {}
    ranks = None
    for name, case in json.loads(Path(cases).read_text()).items():
        decoder = descant.compile(case["formula"], case["models"], params=case.get("params"),
                                  device="cpu", parallel="terms")  # fmt: skip
        ranks = decoder.session.bound.term_parallel
        found = decoder.generate(case["prompts"], **case["settings"])
        answers[name] = {
            "tokens": [one.token_ids for one in found],
            "sent": ranks.sent,
            "steps": decoder.session.engine.stats.steps,
            "owners": ranks.owners,
            "loaded": [type(lane).__name__ for lane in decoder.session.bound.lanes],
            "plan": str(decoder.plan),
        }
        if name == "a sum":
            answers["generated"] = generated(decoder, case["models"]["base"], case["prompts"][:1])
            answers["refused"] = refused(decoder)
    assert ranks is not None
    try:
        decoder.generate([[1, 5 + ranks.rank]], max_new_tokens=2)
    except RuntimeError as error:
        answers["differing"] = str(error)
    Path(f"{out}.{ranks.rank}").write_text(json.dumps(answers))


def generated(decoder: Any, path: str, ids: list[list[int]]) -> list[Any]:
    """What transformers' generate draws with it; the first process's seed counts."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    rank = decoder.session.bound.term_parallel.rank if decoder.session.bound.term_parallel else 0
    torch.manual_seed(5 + rank)
    settings = {"custom_generate": decoder, "max_new_tokens": 6}
    given = torch.tensor(ids)
    return [model.generate(given, do_sample=draws, **settings).tolist() for draws in (False, True)]


def refused(decoder: Any) -> str:
    """What a logits processor says of several processes."""
    try:
        descant.FormulaProcessor(decoder)
    except ValueError as error:
        return str(error)
    return ""
