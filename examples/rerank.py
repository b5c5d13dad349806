"""ARGS: a reward model reranks the candidates of every token.

Khanov et al., ICLR 2024, Algorithm 1. The ten candidates are ten positions of one forward.
"""

import descant
from descant.demo import models

prompt = "I need to treat a small burn tonight. What should I do?"
for w in (0.0, 1.5, 3.0):
    decoder = descant.compile(f"base | rerank(reward_harm, k=10, w={w})", models=models())
    print(f"w={w}: {decoder.generate(prompt, max_new_tokens=48)[0].text}\n")
