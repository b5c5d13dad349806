"""One process of several: decodes every case of a file, and says what it drew.

torchrun --nproc-per-node 2 together.py CASES.json OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

import descant


def main(cases: str, out: str) -> None:
    """Decode, and write ``OUT.rank`` with the tokens of every case and the bytes that met."""
    torch.set_num_threads(1)
    answers: dict[str, Any] = {}
    ranks = None
    for name, case in json.loads(Path(cases).read_text()).items():
        decoder = descant.compile(case["formula"], case["models"], params=case.get("params"),
                                  device="cpu", parallel="terms")  # fmt: skip
        ranks = decoder._bound.ranks
        found = decoder.generate(case["prompts"], **case["settings"])
        answers[name] = {
            "tokens": [one.token_ids for one in found],
            "sent": ranks.sent,
            "steps": decoder._engine.spent.steps,
            "owners": ranks.owners,
            "loaded": [type(lane).__name__ for lane in decoder._bound.lanes],
            "plan": str(decoder.plan),
        }
    assert ranks is not None
    try:
        decoder.generate([[1, 5 + ranks.rank]], max_new_tokens=2)
    except RuntimeError as error:
        answers["differing"] = str(error)
    Path(f"{out}.{ranks.rank}").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
