"""Repetition and diversity of a text, by n-grams of its words. No model is needed.

The measures that ARGS reports, as Su et al. 2022 define them (*A Contrastive Framework for Neural
Text Generation*, section 4.2): ``rep_n = 1 - distinct n-grams / n-grams`` over the words between
spaces, and ``diversity = (1 - rep_2)(1 - rep_3)(1 - rep_4)``. ``distinct_n`` is that of Li et al.
2016, of one text. All are between 0 and 1.
"""

from __future__ import annotations


def repetition(text: str, n: int) -> float:
    """The share of a text's n-grams that occur earlier in it; 0 for a text without any.

    >>> repetition("a b a b a b", 2)
    0.6
    """
    words = text.split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def word_measures(text: str, tokens: int) -> dict[str, float]:
    """Every measure of a text that needs no model; ``length`` is its tokens."""
    rep = {n: repetition(text, n) for n in (1, 2, 3, 4)}
    return {
        "length": float(tokens),
        "distinct_1": 1 - rep[1],
        "distinct_2": 1 - rep[2],
        **{f"rep_{n}": rep[n] for n in (2, 3, 4)},
        "diversity": (1 - rep[2]) * (1 - rep[3]) * (1 - rep[4]),
    }
