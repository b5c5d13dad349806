"""A Python function as a reward: a regular expression judges every candidate, and every answer.

It has the signature of TRL's reward functions. In ``rerank`` it is called once per step, with the
candidates of all prompts; in ``best_of`` once, with all answers.
"""

import re

import descant
from descant.demo import PROMPTS, models


def exact(completions, **kwargs):
    """1 for an answer that says how many minutes, and 1 less for each other number."""
    found = [re.findall(r"\b\d+\b(?! minutes)", text) for text in completions]
    timed = [bool(re.search(r"\b\d+ minutes\b", text)) for text in completions]
    return [float(good) - len(others) for good, others in zip(timed, found, strict=True)]


declared = {**models(), "exact": descant.reward(exact)}
for formula in (
    "base + arm_help",
    "base + arm_help | rerank(exact, k=20, w=20)",
    "base + arm_help | best_of(exact, n=8)",
):
    decoder = descant.compile(formula, models=declared)
    print(formula)
    for answer in decoder.generate(PROMPTS[2:5], max_new_tokens=32, seed=0):
        print(f"  {exact([answer.text])[0]:4.1f}  {answer.text}")
