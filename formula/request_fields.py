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
        argument: of the stage; left out, its first.
        off: other values that change nothing.
    """

    field: str
    stage: type[Stage]
    neutral: float | None
    argument: str = ""
    off: tuple[float, ...] = ()

    @property
    def key(self) -> str:
        """The argument of the stage that it is."""
        return self.argument or next(iter(self.stage.arguments()))

    @property
    def limits(self) -> Limits:
        """What its values may be."""
        limits: Limits = self.stage.arguments()[self.key].metadata["limits"]
        return limits

    @property
    def parameter(self) -> str:
        """Of the plan with this field."""
        return f"{self.field} of the request"

    @property
    def unchanged(self) -> tuple[float, ...]:
        """The values that say that nothing is asked for; of a count of tokens, vLLM's two."""
        return (0, -1) if self.neutral is None else (self.neutral, *self.off)

    @property
    def number(self) -> Scalar:
        """The parameter, as an argument of the stage."""
        return Scalar(Parameter(self.parameter), self.field, self.limits)


# In vLLM's order; a bias of tokens comes before them.
BEFORE = (
    FieldStage("min_tokens", words.MinTokens, 0),
    FieldStage("repetition_penalty", words.RepetitionPenalty, 1),
    FieldStage("frequency_penalty", words.FrequencyPenalty, 0),
    FieldStage("presence_penalty", words.PresencePenalty, 0),
)
# They look at the text, and so a request without them has none of their stages.
REPEATS = (
    FieldStage("no_repeat_ngram_size", words.NoRepeatNgram, 0),
    FieldStage("dry_multiplier", words.Dry, 0),
    FieldStage("dry_base", words.Dry, 1.75, "base"),
    FieldStage("dry_allowed_length", words.Dry, 2, "allowed_length"),
)
# End a match of ``dry``, where a request names none: llama.cpp's and text-generation-webui's.
SEQUENCE_BREAKERS = ("\n", ":", '"', "*")
# In transformers' order, with what the local-model servers have.
AFTER = (
    FieldStage("temperature", words.Temperature, 1),
    FieldStage("top_k", words.TopK, None),
    FieldStage("top_p", words.RequestTopP, 1),
    FieldStage("min_p", words.MinP, 0),
    FieldStage("typical_p", words.TypicalP, 1),
    FieldStage("epsilon_cutoff", words.EpsilonCutoff, 0),
    FieldStage("eta_cutoff", words.EtaCutoff, 0),
    FieldStage("top_n_sigma", words.TopNSigma, 0, off=(-1,)),
    FieldStage("xtc_probability", words.Xtc, 0),
    FieldStage("xtc_threshold", words.Xtc, 0.1, "threshold"),
)
PARAMETERS = frozenset(each.parameter for each in (*BEFORE, *REPEATS, *AFTER))


class Group(NamedTuple):
    """Which stages of a request a plan has.

    Attributes:
        before: those before the formula's own.
        after: those after them.
        repeats: those before that look at the text, behind the others.
    """

    before: bool = False
    after: bool = False
    repeats: bool = False


NO_FIELDS = Group()


def stages_of(fields: Iterable[FieldStage]) -> list[Stage]:
    """The stages of some fields, in their order, with every field of a stage."""
    numbers: dict[type[Stage], dict[str, Scalar]] = {}
    for each in fields:
        numbers.setdefault(each.stage, {})[each.key] = each.number
    return [stage(**arguments) for stage, arguments in numbers.items()]


def fields_of(arguments: Mapping[str, Any], searches_at_random: bool) -> Group:
    """Which stages of requests a call needs, from its arguments, which are not checked yet.

    Those after the formula's own change no token that is the best one.
    """
    heats, samples = _plain(arguments.get("temperature")), arguments.get("do_sample")
    greedy = heats == 0 or samples is False
    greedy |= heats is None and not samples and not searches_at_random
    after = not greedy and any(_asks(arguments.get(each.field), each) for each in AFTER[1:])
    before = any(_asks(arguments.get(each.field), each) for each in BEFORE)
    repeats = any(_asks(arguments.get(each.field), each) for each in REPEATS)
    return Group(before or bool(_plain(arguments.get("logit_bias"))), after, repeats)


def _asks(value: Any, field: FieldStage) -> bool:
    """Whether a field has a value that changes anything, for any row."""
    value = _plain(value)
    values = [*value] if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    return any(each is not None and each not in field.unchanged for each in values)


def _plain(value: Any) -> Any:
    """An array or a tensor as numbers of Python's."""
    return value.tolist() if hasattr(value, "tolist") else value
