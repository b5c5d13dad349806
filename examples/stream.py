"""Text as it comes, drawn with a seed: the same seed gives the same text, whatever else runs."""

import descant
from descant.demo import models

decoder = descant.compile("base + arm_help | top_p(0.9)", models=models())
for piece in decoder.stream(
    "How do I boil eggs before my guests arrive?", temperature=0.7, seed=3, max_new_tokens=48
):
    print(piece, end="", flush=True)
print()
