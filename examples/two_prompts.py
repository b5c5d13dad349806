"""Classifier-free guidance: one model under two prompts, away from one and towards the other.

The two terms share their weights, so that they are rows of one forward.
"""

import descant
from descant.demo import models

decoder = descant.compile(
    "base@reckless + g*(base@careful - base@reckless)",
    models=models(),
    params={"g": 1.0},
    prompts={
        "careful": "You are careful and warn about dangers.",
        "reckless": "You are reckless and love taking risks.",
    },
)
prompt = "I need to treat a small burn tonight. What should I do?"
for out in decoder.generate(prompt, params={"g": [0.0, 1.0, 1.5, 3.0]}, max_new_tokens=40):
    print(f"g={out.params['g']}: {out.text}\n")
