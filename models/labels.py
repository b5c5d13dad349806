"""Which output of a classifier is the reward."""

from __future__ import annotations

from .card import Card
from .errors import ModelError


def choose_label(card: Card, wanted: int | str | None) -> int | None:
    """The class that a reward is the log-probability of, or None for a head with one output.

    Args:
        card: the reward model.
        wanted: the number or the name of a class, or None.

    Raises:
        ModelError: no such class, or several and none chosen, or one and chosen all the same.
    """
    names: dict[int, str] = getattr(card.config, "id2label", None) or {0: "LABEL_0"}
    shown = ", ".join(f"{number} ({name})" for number, name in names.items())
    if len(names) == 1:
        if wanted is None:
            return None
        raise ModelError(f"{card.name} has 1 output and no classes", "leave label out", card.name)
    if wanted is None:
        raise ModelError(
            f"{card.name} has {len(names)} outputs, and a reward is one",
            f"choose a class with label=: {shown}",
            card.name,
        )
    for number, name in names.items():
        if wanted in (number, name):
            return int(number)
    raise ModelError(f"{card.name} has no class {wanted}", f"it has {shown}", card.name)
