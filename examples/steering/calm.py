"""Calm and agitated answers of a chat model: a steering vector, at several weights in one batch.

Contrastive activation addition (Rimsky et al., ACL 2024) on SmolLM2-135M-Instruct:
`python -m examples.steering.calm`. The vector is made from the pairs beside this file, in seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import descant
from descant.demo.chat_model import smollm2
from descant.train import read_train_file
from descant.train.states.vector import FILE, train_vector

HERE = Path(__file__).parent
FORMULA = "chat[w*calm] | repetition_penalty(1.2)"
QUESTIONS = ("Tell me about the moon.", "What should I do on a rainy day?")
WEIGHTS = (-1.0, -0.5, 0.0, 0.5, 1.0)


def main(argv: Sequence[str] | None = None) -> None:
    """Train the vector unless it is there, and answer each question at each weight."""
    parser = argparse.ArgumentParser(prog="python -m examples.steering.calm")
    parser.add_argument("--model", help="another chat model; SmolLM2 if left out")
    parser.add_argument("--output", type=Path, default=Path("runs/steering/calm"))
    parser.add_argument("--set", action="append", default=[], help="key=value of calm.yaml")
    parser.add_argument("--tokens", type=int, default=40)
    options = parser.parse_args(argv)
    path = options.model or smollm2()
    if not (options.output / FILE).is_file():
        sets = [f"model.path={path}", *options.set]
        train_vector(
            read_train_file("vector", HERE / "calm.yaml", sets, output=str(options.output))
        )
    models = {
        "chat": {"path": path, "dtype": "float32", "template": "chat"},
        "calm": {"vector": str(options.output), "on": "chat"},
    }
    decoder = descant.compile(FORMULA, models, params={"w": 0})
    rows = [(question, weight) for question in QUESTIONS for weight in WEIGHTS]
    completions = decoder.generate(
        [question for question, _ in rows],
        params={"w": [weight for _, weight in rows]},
        max_new_tokens=options.tokens,
        temperature=0,
    )
    for (question, weight), completion in zip(rows, completions, strict=True):
        if weight == WEIGHTS[0]:
            print(f"\n{question}")
        print(f"  w={weight:+.1f}: {completion.text!r}")


if __name__ == "__main__":
    main()
