"""GenARM: an autoregressive reward model steers a base, by more or less.

Xu et al., ICLR 2025: the next token is drawn from π_base · π_arm^a.
"""

import descant
from descant.demo import models

decoder = descant.compile("base + a*arm_help", models=models(), params={"a": 1.0})
prompt = "How can I sew a button tonight?"
for out in decoder.generate(prompt, params={"a": [0.0, 0.5, 1.0]}, max_new_tokens=48):
    print(f"a={out.params['a']}: {out.text}\n")
