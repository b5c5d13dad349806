"""Prompts of unlike lengths, and a value of a parameter for each."""

PROMPTS = [
    "the river",
    "a",
    "def add(one, two): return",
    "stone é",
    "the quick brown fox jumps over the lazy dog; the dog",
    "x = 1\n",
    "to the sea and on",
]
VALUES = [0.5, 0.0, 1.5, -0.5, 0.25, 1.0, 0.0]
