"""Which output of a classifier is the reward."""

from __future__ import annotations

from ..errors import ModelError, nearest
from .description import Description
from .reward_head import MULTI_LABEL, OWN_CODE, REGRESSION


def choose_label(description: Description, wanted: int | str | None) -> int | None:
    """The output of a head that is the reward, by its number or name; None for a head with one.

    Raises:
        ModelError: no such label, or several and none chosen, or one and chosen all the same.
    """
    names, single = _outputs(description), _is_single(description)
    independent = getattr(description.config, "problem_type", None) == MULTI_LABEL and not single
    if len(names) == 1 and wanted is None:
        return None
    if len(names) == 1 and not independent:
        problem = f"{description.name} has 1 output and no classes"
        raise ModelError(problem, "leave label out", description.name)
    what = "label" if independent else "class"
    shown = ", ".join(f"{number} ({name})" for number, name in names.items())
    if wanted is None:
        problem = f"{description.name} has {len(names)} outputs, and a reward is one"
        raise ModelError(problem, f"choose a {what} with label=: {shown}", description.name)
    for number, name in names.items():
        if wanted in (number, name):
            return int(number)
    near = nearest(str(wanted), names.values())
    cure = f"did you mean {near}? it has {shown}" if near else f"it has {shown}"
    raise ModelError(f"{description.name} has no {what} {wanted}", cure, description.name)


def has_classes(description: Description) -> bool:
    """Whether a head has several outputs, of which one must be chosen."""
    return len(_outputs(description)) > 1


def _is_single(description: Description) -> bool:
    """Whether there is one output, whatever labels the configuration names."""
    return description.value_head or description.full_text_reason == OWN_CODE


def _outputs(description: Description) -> dict[int, str]:
    named: dict[int, str] = getattr(description.config, "id2label", None) or {}
    return {0: "LABEL_0"} if _is_single(description) or not named else named


def gives_logs(description: Description, outputs: int) -> bool:
    """Whether the rewards of a head of so many outputs are log-probabilities (``rewards_of``)."""
    if _is_single(description):
        return False
    problem = getattr(description.config, "problem_type", None)
    return problem == MULTI_LABEL or (outputs > 1 and problem != REGRESSION)
