"""Calm answers to stressed users alone: a probe decides at each token whether the vector steers.

After conditional activation steering (Lee et al., ICLR 2025), on SmolLM2-135M-Instruct:
`python -m examples.steering.conditional`. Vector and probe are made from the rows beside this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import descant
from descant.demo.chat_model import smollm2
from descant.train import read_train_file
from descant.train.states.probe import HEAD, train_probe
from descant.train.states.vector import FILE, train_vector

HERE = Path(__file__).parent
FORMULA = "where(head(chat, stressed) > 0, chat[w*calm], chat) | repetition_penalty(1.2)"
REQUESTS = (
    "Help, I have lost my wallet and the shop closes in five minutes!",
    "I am so nervous, my interview is in an hour!",
    "How do I wash a car?",
    "Tell me about dolphins.",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Train the vector and the probe unless they are there, and answer with both and with none."""
    parser = argparse.ArgumentParser(prog="python -m examples.steering.conditional")
    parser.add_argument("--model", help="another chat model; SmolLM2 if left out")
    parser.add_argument("--layers", nargs=2, default=(20, 14), help="of the vector and the probe")
    parser.add_argument("--output", type=Path, default=Path("runs/steering"))
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args(argv)
    path, (calm, stressed) = options.model or smollm2(), options.layers
    folders = {name: options.output / name for name in ("calm", "stressed")}
    if not (folders["calm"] / FILE).is_file():
        sets = [f"model.path={path}", f"layers={calm}"]
        output = str(folders["calm"])
        train_vector(read_train_file("vector", HERE / "calm.yaml", sets, output=output))
    if not (folders["stressed"] / HEAD).is_file():
        sets = [f"model.path={path}", f"layer={stressed}"]
        output = str(folders["stressed"])
        train_probe(read_train_file("probe", HERE / "stressed.yaml", sets, output=output))
    models = {
        "chat": {"path": path, "dtype": "float32", "template": "chat"},
        "calm": {"vector": str(folders["calm"]), "on": "chat"},
        "stressed": {"head": str(folders["stressed"]), "on": "chat", "layer": int(stressed)},
    }
    decoder = descant.compile(FORMULA, models, params={"w": 0})
    rows = [(request, weight) for request in REQUESTS for weight in (0.0, 1.0)]
    completions = decoder.generate(
        [request for request, _ in rows],
        params={"w": [weight for _, weight in rows]},
        max_new_tokens=options.tokens,
        temperature=0,
    )
    for (request, weight), completion in zip(rows, completions, strict=True):
        if weight == 0:
            print(f"\n{request}")
        print(f"  w={weight:+.1f}: {completion.text!r}")


if __name__ == "__main__":
    main()
