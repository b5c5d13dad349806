"""Contrastive decoding: what a large model knows and a small one does not.

Li et al., ACL 2023. The mask of plausible tokens is what keeps the difference sane.
"""

import descant
from descant.demo import models

formula = "plausible(large, alpha) - 0.5*temp(small, 0.5)"
decoder = descant.compile(formula, models=models(), params={"alpha": 0.1})
prompt = "I need to treat a small burn tonight. What should I do?"
for out in decoder.generate(prompt, params={"alpha": [0.01, 0.1, 0.5]}, max_new_tokens=40):
    print(f"alpha={out.params['alpha']}: {out.text}\n")
