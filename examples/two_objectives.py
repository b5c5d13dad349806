"""Two objectives, several preference vectors, one batch: every row has weights of its own."""

import descant
from descant.demo import PROMPTS, models

decoder = descant.compile("base + (1-a)*arm_help + a*arm_harm", models=models(), params={"a": 0.5})
weights = [0.0, 0.25, 0.5, 0.75, 1.0]
rows = [(prompt, a) for prompt in PROMPTS[:2] for a in weights]
outs = decoder.generate(
    [prompt for prompt, _ in rows],
    params={"a": [a for _, a in rows]},
    temperature=0.7,
    seed=0,
    max_new_tokens=40,
)
for out in outs:
    print(f"{out.params['a']:.2f}  {out.text}")
