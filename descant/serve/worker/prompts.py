"""What formulas read of prompts, and the log-probabilities of these, between the steps of others.

All prompts that wait for log-probabilities of one formula are scored together: many in one forward,
and one forward between two steps.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ..protocol.messages import PromptReading, ReadPrompts

if TYPE_CHECKING:
    from ...runtime import Decoder, Request, Served
    from ...runtime.loops.loglikelihood import Likelihood, LoglikelihoodLoop

SLICE = 0.002  # seconds in which prompts are read between two steps, but for the last of them
PIECE = 256  # tokens that are scored between two steps of others
TOGETHER = 64  # prompts that are scored in one run, of all requests alike
Reply = tuple[int, Any]  # the number of a command, and its reply or its error


@dataclass(eq=False)
class _Waiting:
    """A command on its way.

    Attributes:
        requests: of its prompts that are read.
        unscored: which of them have no log-probabilities yet.
        alone: whether nobody else is scored with it, since somebody has failed.
    """

    number: int
    command: ReadPrompts
    decoder: Served
    readings: list[PromptReading] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    unscored: list[int] = field(default_factory=list)
    alone: bool = False


@dataclass(eq=False)
class _Run:
    """Prompts of one formula that are scored together.

    Attributes:
        owners: per text, its command and which of its prompts it is.
        loop: scores them, and ``steps`` advance it.
    """

    commands: list[_Waiting]
    owners: list[tuple[_Waiting, int]]
    loop: LoglikelihoodLoop
    steps: Iterator[list[tuple[int, Likelihood]]]


class PromptReads:
    """The prompts that are read for their tokens.

    Args:
        slots: texts that are scored at once.
        max_model_len: tokens of a text, at most.
    """

    def __init__(self, slots: int, max_model_len: int) -> None:
        self._slots, self._max_model_len = slots, max_model_len
        self._unread: deque[_Waiting] = deque()
        self._unscored: deque[_Waiting] = deque()
        self._run: _Run | None = None
        # The last that was scored, with caches of its own; it goes with its formula.
        self._alone: WeakKeyDictionary[Served, Decoder] = WeakKeyDictionary()

    @property
    def busy(self) -> bool:
        """Whether any prompt waits."""
        return bool(self._unread or self._unscored or self._run)

    def add(self, number: int, command: ReadPrompts, decoder: Served) -> None:
        """Queue a command."""
        self._unread.append(_Waiting(number, command, decoder))

    def cancel(self, number: int) -> None:
        """Forget a command; of those that are scored together, the others go on."""
        for queue in (self._unread, self._unscored):
            for waiting in [each for each in queue if each.number == number]:
                queue.remove(waiting)
        if self._run is not None:
            kept = [each for each in self._run.commands if each.number != number]
            self._run = replace(self._run, commands=kept) if kept else None

    def advance(self, others: bool) -> list[Reply]:
        """Read prompts for a moment, then score for a step; the replies that are known now.

        Args:
            others: whether somebody waits for the next step, so that this one is to be short.
        """
        replies: list[Reply] = []
        end = time.perf_counter() + SLICE
        while self._unread:
            replies += self._read_next()
            if time.perf_counter() > end:
                break
        if self._run is None and self._unscored:
            replies += self._start()
        elif self._run is not None:
            from ...models.lanes.prefill import CHUNK

            self._run.loop.most = PIECE if others else CHUNK
            replies += self._score(self._run)
        return replies

    def _read_next(self) -> list[Reply]:
        waiting = self._unread[0]
        try:
            return self._read(waiting)
        except Exception as error:
            self._unread.popleft()
            return [(waiting.number, error)]

    def _start(self) -> list[Reply]:
        waiting = self._unscored[0]
        try:
            self._run = self._started()
        except Exception as error:
            self._unscored.remove(waiting)
            return [(waiting.number, error)]
        return []

    def _read(self, waiting: _Waiting) -> list[Reply]:
        """Read the next prompt of a command."""
        command = waiting.command
        prompt = command.prompts[len(waiting.readings)]
        request, reading = self._reading(waiting, prompt)
        waiting.requests.append(request)
        waiting.readings.append(reading)
        if len(waiting.readings) < len(command.prompts):
            return []
        self._unread.popleft()
        if command.top is None:
            return [(waiting.number, waiting.readings)]
        waiting.unscored = [*range(len(waiting.requests))]
        self._unscored.append(waiting)
        return []

    def _reading(self, waiting: _Waiting, prompt: Any) -> tuple[Request, PromptReading]:
        from ...errors import ArgumentError
        from ...runtime.loops.prompt_tokens import along_prompt, prompt_ids, shown_ids
        from ...runtime.requests.build import refuse_search

        command, session = waiting.command, waiting.decoder.session
        if command.top is not None:
            why = "its answer is chosen among texts"
            refuse_search(session.bound, "log-probabilities of a prompt", why)
        request = self._request(waiting, prompt)
        ids = prompt_ids(session.bound, request)
        most = len(ids) if command.most is None else command.most
        if is_cut := len(ids) > most:
            kept = ids[-most:] if command.side == "left" else ids[:most]
            request, uncut = self._request(waiting, kept), request
            ids = prompt_ids(session.bound, request)
            if ids != kept or any(read != uncut.prompts[0] for read in uncut.prompts):
                problem = "truncate_prompt_tokens is for a formula whose models all read the same"
                raise ArgumentError(f"{problem} tokens, and no prefix; shorten the prompt")
        if command.top is not None:
            along_prompt(session.bound, request)  # whether its tokens can be scored at all
        longest = len(request.prompts[request.longest_term])
        if longest > self._max_model_len:
            problem = f"the prompt has {longest} tokens, and here a text may have"
            raise ArgumentError(f"{problem} {self._max_model_len}; shorten it")
        shown = shown_ids(session.bound, ids)
        tokens, token_bytes = zip(*shown, strict=True) if shown else ((), ())
        text = b"".join(token_bytes).decode("utf-8", "replace")
        return request, PromptReading(ids, longest, is_cut, text, tokens, token_bytes)

    def _request(self, waiting: _Waiting, prompt: Any) -> Request:
        builder = waiting.decoder.session.builder
        [(prompt, params)] = builder.rows(prompt, dict(waiting.command.params))
        request: Request = builder.request(0, prompt, params, max_new_tokens=1, strict=True)
        return request

    def _started(self) -> _Run:
        """Begin to score some prompts of the first that wait, and of others of their formula."""
        from ...runtime.loops.loglikelihood import LoglikelihoodLoop
        from ...runtime.loops.prompt_tokens import along_prompt

        first = self._unscored[0]
        commands = [each for each in self._unscored if each.decoder is first.decoder]
        commands = [first] if first.alone else [each for each in commands if not each.alone]
        share = max(1, TOGETHER // len(commands))
        owners = [(each, place) for each in commands for place in each.unscored[:share]][:TOGETHER]
        decoder = self._with_own_caches(first.decoder)
        bound = decoder.session.bound
        pairs = [along_prompt(bound, waiting.requests[place]) for waiting, place in owners]
        top = max(waiting.command.top or 0 for waiting, _ in owners)
        loop = LoglikelihoodLoop(decoder.session.engine, top)
        steps = loop.steps(pairs, min(self._slots, len(pairs)))
        return _Run([*dict.fromkeys(waiting for waiting, _ in owners)], owners, loop, steps)

    def _with_own_caches(self, decoder: Served) -> Decoder:
        """A decoder of the same formula; kept for the next run, but where it keeps memory."""
        alone = self._alone.get(decoder)
        if alone is None:
            self._alone.clear()
            alone = self._alone[decoder] = decoder.alone()
        if alone.session.engine.graphs.on:
            self._alone.clear()
        for lane in alone.session.bound.lanes:
            lane.forget_prefixes()
        return alone

    def _score(self, run: _Run) -> list[Reply]:
        """Score for a step; who is scored with one that fails is scored again, alone."""
        try:
            results = next(run.steps)
        except StopIteration:
            self._run = None
            for waiting in run.commands:
                if waiting.unscored:  # behind those who had none in this run
                    self._unscored.remove(waiting)
                    self._unscored.append(waiting)
            return []
        except Exception as error:
            self._run = None
            unknown = [each for each in run.commands if each.unscored]
            if len(unknown) == 1:
                self._unscored.remove(unknown[0])
                return [(unknown[0].number, error)]
            for each in unknown:
                each.alone = True
            return []
        replies: list[Reply] = []
        for number, likelihood in results:
            waiting, place = run.owners[number]
            if waiting in run.commands:
                waiting.readings[place] = _scored(waiting, place, likelihood)
                waiting.unscored.remove(place)
                if not waiting.unscored:
                    self._unscored.remove(waiting)
                    replies.append((waiting.number, waiting.readings))
        return replies


def _scored(waiting: _Waiting, place: int, likelihood: Likelihood) -> PromptReading:
    """A reading with the log-probabilities of its tokens."""
    detokenizer, top = waiting.decoder.session.bound.detokenizer, waiting.command.top
    assert detokenizer is not None
    best = [
        [(*detokenizer.alone(token), value, token) for token, value in [*at.items()][:top]]
        for at in likelihood.top_logprobs
    ]
    return replace(
        waiting.readings[place], logprobs=[0.0, *likelihood.logprobs],
        ranks=[0, *likelihood.ranks], top_logprobs=[[], *best],
    )  # fmt: skip
