"""What ``descant demo --chat`` and the recipe of its arm count in an answer, by rule."""

from __future__ import annotations

import re

ITEM = re.compile(r"^[^\S\n]*(?:[-*•]|\d{1,2}[.)])\s+[*\"(]*[A-Za-z]", re.MULTILINE)
PIRATE = re.compile(
    r"\b(?:a+r+|aye|ye|me|mate|matey|pirates?|captain|sail\w*|ship|seas?|landlubbers?|grog)\b", re.I
)
ITEMS = 2  # a list has at least two
RUN = 4  # words


def words(text: str) -> int:
    """How many words a text has.

    Examples:
        >>> words("Boil water, then wait.")
        4
    """
    return len(text.split())


def repeated(text: str) -> float:
    """The share of a text's runs of four words that it has had before.

    Examples:
        >>> repeated("to be or not to be or not")
        0.2
    """
    every = text.lower().split()
    runs = [tuple(every[i : i + RUN]) for i in range(len(every) - RUN + 1)]
    return (len(runs) - len(set(runs))) / len(runs) if runs else 0.0


def pirate_words(text: str) -> int:
    """How many words of a text are a pirate's.

    Examples:
        >>> pirate_words("Aye, the sea!"), pirate_words("Yes, the season.")
        (2, 0)
    """
    return len(PIRATE.findall(text))


def has_list(text: str) -> bool:
    """Whether two of a text's lines begin with a bullet or a number, and then a word.

    Examples:
        >>> has_list("Two steps: 1. boil, 2. wait"), has_list("1. Boil.\\n2. Wait.")
        (False, True)
    """
    return len(ITEM.findall(text)) >= ITEMS
