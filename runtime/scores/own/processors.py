"""Logits processors of transformers as stages: called row by row, with a state per text.

A processor may keep a state from call to call, which is the row's (``row_states``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from threading import Lock
from types import BuiltinFunctionType, FunctionType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ....errors import ArgumentError
from ....formula.nodes import StageAddress
from ..context import Context
from ..row_states import RowStates, Text

Processor: TypeAlias = Callable[[Tensor, Tensor], Tensor]

# transformers' own that look at ids and scores alone. What some prepare in their first call is for
# a size of the vocabulary, and a device.
STATELESS = frozenset(
    (
        "EpsilonLogitsWarper", "EtaLogitsWarper", "ExponentialDecayLengthPenalty",
        "ForcedBOSTokenLogitsProcessor", "ForcedEOSTokenLogitsProcessor",
        "InfNanRemoveLogitsProcessor", "LogitNormalization", "MinLengthLogitsProcessor",
        "MinNewTokensLengthLogitsProcessor", "MinPLogitsWarper", "NoBadWordsLogitsProcessor",
        "NoRepeatNGramLogitsProcessor", "RepetitionPenaltyLogitsProcessor",
        "SequenceBiasLogitsProcessor", "SuppressTokensAtBeginLogitsProcessor",
        "SuppressTokensLogitsProcessor", "TemperatureLogitsWarper", "TopHLogitsWarper",
        "TopKLogitsWarper", "TopPLogitsWarper", "TypicalLogitsWarper", "WatermarkLogitsProcessor",
    )
)  # fmt: skip

_GUIDES = "guides by rows of its own", "write base@neg + g*(base - base@neg)"
_SPEAKS = "is for a model of speech or audio codebooks", "generate with that model itself"
REFUSED = {  # by their names: why they cannot be a stage, and what to write instead
    "AlternatingCodebooksLogitsProcessor": _SPEAKS,
    "BarkEosPrioritizerLogitsProcessor": _SPEAKS,
    "ClassifierFreeGuidanceLogitsProcessor": _GUIDES,
    "DiaClassifierFreeGuidanceLogitsProcessor": _GUIDES,
    "DiaEOSChannelFilterLogitsProcessor": _SPEAKS,
    "DiaEOSDelayPatternLogitsProcessor": _SPEAKS,
    "EncoderNoRepeatNGramLogitsProcessor": (
        "has an encoder's ids of a fixed batch",
        "register NoRepeatNGramLogitsProcessor, which reads each row's own prompt",
    ),
    "EncoderRepetitionPenaltyLogitsProcessor": (
        "has an encoder's ids of a fixed batch",
        "write … | repetition_penalty(x), which reads each row's own prompt",
    ),
    "FormulaProcessor": ("is a formula", "write that formula, in parentheses, in this one"),
    "PrefixConstrainedLogitsProcessor": (
        "asks by a row's number in the batch, and beams",
        "register a function (ids, scores) that masks by the ids",
    ),
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": _GUIDES,
    "WhisperNoSpeechDetection": _SPEAKS,
    "WhisperTimeStampLogitsProcessor": _SPEAKS,
}

_FUNCTIONS = FunctionType, BuiltinFunctionType
_SHARED = torch.nn.Module, PreTrainedTokenizerBase  # what a state refers to and does not copy


class RowProcessor:
    """A processor that is called for one row at a time.

    Args:
        name: of the stage.
        processor: a function, which keeps no state; or an object, copied for every row as it is
            given here.
        factory: makes a processor for each row; one of the two is given.

    Attributes:
        keeps_state: whether it may have a state.
        doc: of the processor.

    Raises:
        ArgumentError: it is none, or cannot be a stage, or keeps a state and cannot be copied.
    """

    def __init__(
        self, name: str, processor: Processor | None, factory: Callable[[], Processor] | None
    ) -> None:
        if (processor is None) == (factory is None):
            raise ArgumentError(f"give {name} a processor, or factory=: one of the two")
        self._name, self._factory, self._lock = name, factory, Lock()
        self._prepared: dict[tuple[int, torch.device], Processor] = {}
        first = _made(name, factory) if factory else processor
        _check(name, first)
        is_function = isinstance(first, _FUNCTIONS)
        self.doc = None if is_function else type(first).__doc__
        stateless = _is_stateless(first)
        self.keeps_state = not stateless and (factory is not None or not is_function)
        if stateless:
            self._factory = None
        elif factory and _made(name, factory) is first:
            raise ArgumentError(f"the factory of {name} gives one object twice; make a new one")
        self._pristine: Any = first
        if self._factory is None and not is_function:
            copied = _copied(first)
            if copied is None:
                problem = f"{type(first).__name__} cannot be copied for every row"
                raise ArgumentError(f"{name}: {problem}; give factory=, which makes one for each")
            self._pristine = copied[0]

    def __call__(self, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
        """``(slots, V)`` scores of all rows; idle slots, which come last, keep theirs."""
        texts, rows = context.texts(), torch.split(scores, 1)
        if not self.keeps_state:
            call = self._stateless(scores)
            with self._lock:  # one that draws seeds itself first
                done = [call(ids[None], row) for ids, row in zip(texts, rows, strict=False)]
        elif context.row_states is None:
            return scores
        else:
            own = zip(texts, rows, context.row_states(), strict=False)
            done = [self._called(states, address, ids, row) for ids, row, states in own]
        return torch.cat([*done, *rows[len(done) :]])

    def _stateless(self, scores: Tensor) -> Processor:
        """The processor for scores of this size and device."""
        processor: Processor = self._pristine
        if isinstance(processor, _FUNCTIONS):
            return processor
        key = scores.shape[-1], scores.device
        if key not in self._prepared:
            self._prepared[key] = deepcopy(processor)
        return self._prepared[key]

    def _called(self, row: RowStates, address: StageAddress, ids: Tensor, scores: Tensor) -> Tensor:
        """One row's scores; its state after them is kept with its text."""
        text, memo = tuple(ids.tolist()), dict[int, Any]()
        if row.drawn == 0 and self._factory is not None:
            processor = self._factory()
        else:
            processor, memo = self._before(row, address, text)
        result = processor(ids[None].clone(), scores.clone())  # it may keep them
        row.keep(address, text, _kept(processor, memo))
        return result

    def _before(
        self, row: RowStates, address: StageAddress, text: Text
    ) -> tuple[Processor, dict[int, Any]]:
        """A copy of the state before a text, and what in it stands for what.

        Raises:
            ArgumentError: there is none.
        """
        if row.drawn == 0:
            copied = _copied(self._pristine)
            assert copied is not None
            return copied
        if (read := row.before(address, text)) is not None:
            known = row.at(address, row.drawn - 1)
            if (copied := _copied(known[read])) is not None:
                return copied
            return known.pop(read), {}  # the object itself goes along with this row
        problem = f"{self._name} keeps a state, and that of token {row.drawn} is not there"
        cure = "begin again with the prompt"
        if self._factory is not None:
            cure = "a row cannot go back unless it can be copied: leave out draft and searches"
        raise ArgumentError(f"{problem}: {cure}")


def _made(name: str, factory: Callable[[], Processor]) -> Processor:
    """What a factory makes.

    Raises:
        ArgumentError: it takes arguments.
    """
    try:
        return factory()
    except TypeError as error:
        cure = "give one without arguments, such as lambda: Processor(…)"
        raise ArgumentError(f"the factory of {name} fails: {error}; {cure}") from error


def _check(name: str, processor: Any) -> None:
    """Refuse what is no processor, or none of one row.

    Raises:
        ArgumentError: says why, and what to write instead.
    """
    kind = processor if isinstance(processor, type) else type(processor)
    if isinstance(processor, type) or not callable(processor):
        cure = f"give factory=lambda: {kind.__name__}(…)"
        raise ArgumentError(f"{name}: {kind.__name__} is no processor of (ids, scores); {cure}")
    for known in kind.__mro__:
        if known.__name__ in REFUSED and known.__module__.startswith(("transformers.", "descant.")):
            problem, cure = REFUSED[known.__name__]
            raise ArgumentError(f"{name}: {kind.__name__} {problem}; {cure}")
    for each in processor if isinstance(processor, list) else ():
        _check(name, each)


def _is_stateless(processor: Any) -> bool:
    """Whether it is one of transformers that keeps no state, or a list of such."""
    kind = type(processor)
    if kind.__name__ == "LogitsProcessorList":
        return all(map(_is_stateless, processor))
    return kind.__name__ in STATELESS and kind.__module__.startswith("transformers.generation.")


def _copied(processor: Any) -> tuple[Any, dict[int, Any]] | None:
    """A copy, and by the ids of the copied what stands for each; None where it has no copy."""
    memo: dict[int, Any] = _shared(processor)
    try:
        copied = deepcopy(processor, memo)
    except Exception:  # whatever a foreign __deepcopy__ or __reduce__ raises
        return None
    return None if copied is processor else (copied, memo)


def _shared(processor: Any) -> dict[int, Any]:
    """Models and tokenizers that it has, each of which stands for itself in a copy."""
    parts = processor if isinstance(processor, list) else [processor]
    held = [value for part in parts for value in getattr(part, "__dict__", {}).values()]
    return {id(value): value for value in held if isinstance(value, _SHARED)}


def _kept(processor: Any, memo: dict[int, Any]) -> Any:
    """The state after a call, to be kept: its tensors are those of the state before, if equal."""
    tensors = [each for each in memo.get(id(memo), ()) if isinstance(each, Tensor)]
    pairs = [(before, memo[id(before)]) for before in tensors]
    views = Counter(after.untyped_storage().data_ptr() for _, after in pairs)
    same = {
        id(after): before
        for before, after in pairs
        if views[after.untyped_storage().data_ptr()] == 1
        and after.dtype == before.dtype
        and torch.equal(before, after)
    }
    if not same:
        return processor
    return deepcopy(processor, _shared(processor) | same)
