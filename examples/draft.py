"""Drafted: the arm proposes tokens, and the large model reads several of them at once.

No token changes: what a row draws depends on its scores, its seed and the number of the step alone.
"""

import descant
from descant.demo import models

decoder = descant.compile("large + arm_help", models=models())
prompt = "How can I sew a button tonight?"
settings = {"max_new_tokens": 48, "temperature": 1.0, "seed": 3}
[plain] = decoder.generate(prompt, **settings)
[drafted] = decoder.generate(prompt, draft="2*arm_help", **settings)
assert drafted.token_ids == plain.token_ids
print(drafted.text, "\n")
print(decoder.plan)  # "drafted" says how many tokens were kept, and what each one cost
