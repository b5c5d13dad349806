"""The fields of a request that are stages: those of OpenAI's, vLLM's and transformers' users.

Each that is a number is a parameter of a plan that has its stage. No name of a formula is that of
such a parameter, which has spaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .scalar import Parameter, Scalar
from .words import stages as words
from .words.signature import Limits
from .words.stages import Stage


class FieldStage(NamedTuple):
    """A field that is a number, and the stage that it is.

    Attributes:
        neutral: the value that changes nothing; None for the size of the vocabulary.
    """

    field: str
    stage: type[Stage]
    neutral: float | None

    @property
    def limits(self) -> Limits:
        """What its values may be."""
        [argument] = self.stage.arguments().values()
        limits: Limits = argument.metadata["limits"]
        return limits

    @property
    def parameter(self) -> str:
        """Of the plan with this field."""
        return f"{self.field} of the request"

    @property
    def unchanged(self) -> tuple[float, ...]:
        """The values that say that nothing is asked for; of a count of tokens, vLLM's two."""
        return (0, -1) if self.neutral is None else (self.neutral,)

    def made(self) -> Stage:
        """The stage, whose number is the parameter."""
        [key] = self.stage.arguments()
        return self.stage(**{key: Scalar(Parameter(self.parameter), self.field, self.limits)})


# In vLLM's order; a bias of tokens comes before them.
BEFORE = (
    FieldStage("min_tokens", words.MinTokens, 0),
    FieldStage("repetition_penalty", words.RepetitionPenalty, 1),
    FieldStage("frequency_penalty", words.FrequencyPenalty, 0),
    FieldStage("presence_penalty", words.PresencePenalty, 0),
)
# In transformers' order.
AFTER = (
    FieldStage("temperature", words.Temperature, 1),
    FieldStage("top_k", words.TopK, None),
    FieldStage("top_p", words.RequestTopP, 1),
    FieldStage("min_p", words.MinP, 0),
)
NO_FIELDS = (False, False)
PARAMETERS = frozenset(each.parameter for each in (*BEFORE, *AFTER))


class Group(NamedTuple):
    """Which stages of a request a plan has: those before the formula's own, those after them."""

    before: bool = False
    after: bool = False


def fields_of(arguments: Mapping[str, Any], searches_at_random: bool) -> Group:
    """Which stages of requests a call needs, from its arguments, which are not checked yet.

    Those after the formula's own change no token that is the best one.
    """
    heats, samples = _plain(arguments.get("temperature")), arguments.get("do_sample")
    greedy = heats == 0 or samples is False
    greedy |= heats is None and not samples and not searches_at_random
    after = not greedy and any(_asks(arguments.get(each.field), each) for each in AFTER[1:])
    before = any(_asks(arguments.get(each.field), each) for each in BEFORE)
    return Group(before or bool(_plain(arguments.get("logit_bias"))), after)


def _asks(value: Any, field: FieldStage) -> bool:
    """Whether a field has a value that changes anything, for any row."""
    value = _plain(value)
    values = [*value] if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    return any(each is not None and each not in field.unchanged for each in values)


def _plain(value: Any) -> Any:
    """An array or a tensor as numbers of Python's."""
    return value.tolist() if hasattr(value, "tolist") else value
