"""Nudging: a small tuned model takes over where the large one is unsure.

Fei, Razeghi and Singh, 2024. The plan names the term that is run only where a row needs it.
"""

import descant
from descant.demo import models

formula = "where(max_prob(large) < t, small_help, large)"
decoder = descant.compile(formula, models=models(), params={"t": 0.2})
print(decoder.plan, "\n")
prompt = "I need to treat a small burn tonight. What should I do?"
for out in decoder.generate(prompt, params={"t": [0.0, 0.2, 0.4]}, max_new_tokens=40):
    print(f"t={out.params['t']}: {out.text}\n")
