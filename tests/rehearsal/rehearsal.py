"""A rehearsal: the fake device, descant on it, and the accounts of its steps."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import descant

from . import models, patches
from .account import Step
from .device import Device
from .memory import CACHES, WEIGHTS, Memory

ROOM = 2048  # tokens of a text, unless more or fewer are said
_TEXT = 128  # tokens of a prompt that is given as text, at most


class _EnoughError(Exception):
    """All steps that were asked for are over."""


class Rehearsal:
    """A machine with GPUs that compute nothing. One at a time.

    Attributes:
        device: what is given operations; ``device.step`` is the account that is being written.
        done: the accounts that are over: what came before the first step, then every step but the
            last.
    """

    language_model = staticmethod(models.language_model)
    reward_model = staticmethod(models.reward_model)

    def __init__(self) -> None:
        self.device = Device(patches.declared_costs())
        self.done: list[Step] = []
        self._most = sys.maxsize
        self._stack = ExitStack()

    def __enter__(self) -> Rehearsal:
        self._folder = self._stack.enter_context(TemporaryDirectory())
        self._stack.enter_context(warnings.catch_warnings(action="ignore"))
        self._stack.enter_context(patches.patched(self.device, self._begin))
        self._stack.enter_context(self.device)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def lora(self, on: str, rank: int = 16) -> dict[str, str]:
        """An adapter on the attention projections of a declared model, as it is declared."""
        folder = Path(mkdtemp(dir=self._folder))
        models.write_lora(folder, rank)
        return {"adapter": str(folder), "on": on}

    @property
    def memory(self) -> Memory:
        return self.device.memory

    @property
    def accounts(self) -> list[Step]:
        """Of every step so far."""
        return [*self.done, self.device.step][1:]

    @contextmanager
    def apart(self) -> Iterator[Step]:
        """In this context, everything goes into an account of its own, and none of a step."""
        with self.device.into(Step()) as account:
            yield account

    def compile(self, formula: str, models: Mapping[str, Any], **options: Any) -> Any:
        """``descant.compile``."""
        decoder = descant.compile(formula, models=models, **options)
        for lane in patches.lanes_of(decoder.session.bound):
            self._know(lane)
        return decoder

    def steps(
        self, decoder: Any, lengths: Sequence[int | str] = (256,), count: int = 3, room: int = ROOM,
        **settings: Any,
    ) -> list[Step]:  # fmt: skip
        """The first steps of prompts of these lengths, in caches of ``room`` tokens.

        A text may stand for a length. Prompts are alike as far as they go, and are read once,
        unless ``distinct`` is true. The other settings are those of ``generate``.
        """
        longest = max(_TEXT if isinstance(length, str) else length for length in lengths)
        settings = {"max_new_tokens": room - longest - 1, **settings}
        self._most = count
        with suppress(_EnoughError):
            self._decode(decoder, lengths, **settings)
        return self.accounts[:count]

    def run(
        self, decoder: Any, lengths: Sequence[int], tokens: int | Sequence[int], **settings: Any
    ) -> list[Step]:
        """All steps of prompts of these lengths, until each has so many tokens, or each its own.

        The longest go first; where there are fewer ``slots``, the others wait.
        """
        self._most = sys.maxsize
        self._decode(decoder, lengths, max_new_tokens=tokens, **settings)
        return self.accounts

    def _decode(
        self,
        decoder: Any,
        lengths: Sequence[int | str],
        max_new_tokens: int | Sequence[int],
        slots: int = 0,
        distinct: bool = False,
        **settings: Any,
    ) -> None:
        self.done, self.device.step = [], Step()
        first = [5 + distinct * row for row in range(len(lengths))]
        prompts = [
            n if isinstance(n, str) else [token] + [3] * (n - 1)
            for n, token in zip(lengths, first, strict=True)
        ]
        tokens, settings = max_new_tokens, {"eos_token_id": [], **settings}
        most = [tokens] * len(prompts) if isinstance(tokens, int) else tokens
        session, requests = decoder._requests(prompts, {"max_new_tokens": max(most), **settings})
        requests = [replace(each, max_new_tokens=most[each.index]) for each in requests]
        for _ in session.decode(requests, slots or len(prompts)):
            pass

    def _begin(self, lanes: Sequence[Any]) -> None:
        """A step of these lanes is about to be launched."""
        lanes = list(dict.fromkeys(lanes))
        for lane in lanes:
            self._know(lane)
        self.done.append(self.device.step)
        if len(self.done) > self._most:
            self.device.step = Step()
            raise _EnoughError
        live, weights = map(patches.live_bytes, lanes), map(patches.weight_bytes, lanes)
        self.device.step = Step(sum(live), sum(weights))

    def _know(self, lane: Any) -> None:
        """Tell weights and caches from everything else."""
        if hasattr(lane, "model"):
            self.memory.label(patches.weights(lane), WEIGHTS)
            self.memory.label(patches.caches(lane), CACHES)
