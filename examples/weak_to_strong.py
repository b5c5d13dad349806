"""Weak to strong: a small model's tuning, added to a large model that was never tuned.

Proxy tuning and emulated fine-tuning: strong + b*(weak_tuned - weak). The terms differ in size, and
the two weak ones share their weights, so that they are rows of one forward.
"""

import descant
from descant.demo import models

decoder = descant.compile("large + b*(small_help - small)", models=models(), params={"b": 1.0})
print(decoder.plan, "\n")
for out in decoder.generate(
    "Give me tips to pack a suitcase in one evening.", params={"b": [0.0, 1.0]}, max_new_tokens=48
):
    print(f"b={out.params['b']}: {out.text}\n")
