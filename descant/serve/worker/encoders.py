"""How the formulas of the decode process read prompts, for the processes that read them.

Our own processes send each other these bytes, as multiprocessing does its messages; nothing that
comes from anywhere else is unpickled.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...models.text.encoding.prompt_encoder import PromptEncoder, PromptEncoders
from ..protocol.messages import FormulaEncoders

KNOWN = 64  # formulas whose encoders a process keeps


class EncoderPickles:
    """Pickles encoders; tokenizers that formulas share are pickled once."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}  # by the ids of tokenizers
        self._tokenizers: list[Any] = []  # whose ids stay theirs
        self._pickled: list[bytes] = []

    def of(self, encoders: PromptEncoders) -> FormulaEncoders:
        """The encoders of a formula, for prompts that are text."""
        try:
            mine = [each and self._portable(each) for each in encoders.encoders]
            file = io.BytesIO()
            pickler = _Pickler(file, self._numbers)
            pickler.dump(PromptEncoders(mine))
        except Exception:  # a tokenizer that somebody has written may not pickle
            return FormulaEncoders(None, {})
        parts = {number: self._pickled[number] for number in sorted(pickler.used)}
        return FormulaEncoders(file.getvalue(), parts)

    def _portable(self, encoder: PromptEncoder) -> PromptEncoder:
        for tokenizer in (encoder.tokenizer, encoder.shared):
            if tokenizer is not None and id(tokenizer) not in self._numbers:
                self._pickled.append(pickle.dumps(tokenizer))
                self._tokenizers.append(tokenizer)
                self._numbers[id(tokenizer)] = len(self._numbers)
        spec = encoder.spec.model_copy(update={"model": None})
        return replace(encoder, spec=spec, reads=None)  # token ids are not read elsewhere


class _Pickler(pickle.Pickler):
    """Writes the numbers of tokenizers in their place."""

    def __init__(self, file: io.BytesIO, numbers: Mapping[int, int]) -> None:
        super().__init__(file)
        self._numbers = numbers
        self.used: set[int] = set()

    def persistent_id(self, obj: Any) -> int | None:
        number = self._numbers.get(id(obj))
        if number is not None:
            self.used.add(number)
        return number


class Parts:
    """What checks of a process have in common: tokenizers, and how formulas read prompts."""

    def __init__(self) -> None:
        self._parts: dict[int, Any] = {}
        self._encoders: OrderedDict[bytes, PromptEncoders] = OrderedDict()

    def add(self, new: Mapping[int, bytes]) -> None:
        """Take parts that come with a check."""
        for number, pickled in new.items():
            self._parts[number] = pickle.loads(pickled)

    def encoders(self, pickled: bytes) -> PromptEncoders:
        """How a formula reads prompts."""
        if pickled not in self._encoders:
            self._encoders[pickled] = _Unpickler(io.BytesIO(pickled), self._parts).load()
            while len(self._encoders) > KNOWN:
                self._encoders.popitem(last=False)
        self._encoders.move_to_end(pickled)
        return self._encoders[pickled]


class _Unpickler(pickle.Unpickler):
    """Finds parts by their numbers."""

    def __init__(self, file: io.BytesIO, parts: Mapping[int, Any]) -> None:
        super().__init__(file)
        self._parts = parts

    def persistent_load(self, pid: Any) -> Any:
        return self._parts[pid]
