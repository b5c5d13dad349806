"""transformers' ``generate`` with a formula: a decoding loop for ``custom_generate``.

The loop follows ``GenerationMixin._sample``: the same processors, stopping criteria, padding and
results. A formula's scores take the place of a model's logits, and the noise is descant's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import TemperatureLogitsWarper

from ...errors import ArgumentError
from ..loops.drafted_rows import DraftedRows
from ..loops.external import ExternalRows
from ..requests.answer import Answer
from ..requests.per_row import draft_of
from ..requests.request import Request
from ..scores.logprobs import best
from ..scores.noise import gumbel
from ..session import HasSession, Session
from .generate_request import GenerateRequest, generate_request

ROWS = 32  # decoded at once by a search


@torch.no_grad()
def generate_with(
    decoder: HasSession,
    model: Any,
    input_ids: Tensor,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    generation_config: Any = None,
    synced_gpus: bool = False,
    streamer: Any = None,
    params: Mapping[str, float | Sequence[float]] | None = None,
    seed: int | Sequence[int] | None = None,
    prompts: Sequence[Any] | None = None,
    sample_components: bool = False,
    draft: str | None = None,
    draft_length: int | str | None = None,
    structured_outputs: Any = None,
    **model_kwargs: Any,
) -> Any:
    """The decoding loop of ``model.generate(…, custom_generate=decoder)``.

    Args:
        decoder: of the formula.
        model: what ``generate`` was called on: one of the formula's models, or one with as many
            tokens. Its ``generation_config`` holds; it is not run.
        input_ids: ``(rows, L)``, every prompt ``num_return_sequences`` times, padded on the left.
        logits_processor: applied to the formula's scores.
        stopping_criteria: decide which rows end.
        generation_config: as ``generate`` has prepared it.
        synced_gpus: not honoured.
        streamer: receives the tokens; ``generate`` has given it the prompt.
        params: values for the formula's parameters: a number, or a list with one per prompt.
        seed: of the noise, one for all prompts or one per prompt, as for ``Decoder.generate``. Left
            out, seeds are drawn from torch's global generator.
        prompts: that the models read instead of ``input_ids``, one per prompt: text or chat
            messages, each model by its own template. Answers still follow ``input_ids``.
        sample_components: not honoured.
        draft, draft_length: who proposes tokens, and how many, as for ``Decoder.generate``. The
            rows of a call step together, so that processors see them all: as far as each of them
            draws what was drafted for it.
        structured_outputs: what the answers are, as for ``Decoder.generate``.
        **model_kwargs: the mask, and what else ``generate`` prepares for a model.

    Returns:
        ``(rows, L + new)`` int64 ids; or, with ``return_dict_in_generate``, a
        ``GenerateDecoderOnlyOutput``: its ``logits`` are the formula's scores, its ``scores`` are
        those after the processors.

    Raises:
        ValueError: something that a formula cannot honour, by its name.
        FormulaError, ModelError: as ``Decoder.generate``.
    """
    options = draft_of(draft, draft_length)
    session = decoder.session_of(options.source) if options else decoder.session
    bound = session.bound
    if synced_gpus:
        raise ArgumentError("synced_gpus is for one model split over processes; leave it out")
    if sample_components:
        problem = "sample_components=True has scores of one component, and processors take those of"
        raise ArgumentError(f"{problem} the mixture; call decoder.generate, or leave it out")
    hooks = logits_processor, stopping_criteria, generation_config
    call = generate_request(bound, model, input_ids, *hooks, prompts, model_kwargs)
    rows = len(session.builder.rows(call.prompts, params))
    if rows != len(call.prompts):
        raise ArgumentError(f"params have {rows} values and there are {len(call.prompts)} prompts")
    samples = bool(call.config.do_sample)
    if seed is None:
        drawn = torch.randint(1 << 62, (len(call.prompts),)).tolist() if samples else [0]
        seed = drawn * (len(call.prompts) // len(drawn))
        seed = seed if bound.term_parallel is None else bound.term_parallel.broadcast(seed)
    temperature = _temperature(call) if bound.plan.search else 0.0
    if options and not bound.plan.search:
        temperature = _of_noise(call)
    ends = (
        _ends(call) if bound.looks_at_ends or structured_outputs else ()
    )  # elsewhere the criteria end rows
    requests = session.builder.requests(
        call.prompts, max_new_tokens=call.limit, params=params, seed=seed, eos_token_id=ends,
        temperature=temperature, num_return_sequences=call.repeats, draft=options,
        structured_outputs=structured_outputs,
    )  # fmt: skip
    if bound.plan.search:
        return _searched(session, call, requests, streamer)
    with session.engine.turn():
        session.engine.claimed()  # whatever ran on these lanes before can run no more
        loop = _Loop(session, call, requests, streamer)
    return loop.run()


class _Loop:
    """One call of ``generate``: its rows, their tokens, and the outputs to return."""

    def __init__(
        self, session: Session, call: GenerateRequest, requests: Sequence[Request], streamer: Any
    ) -> None:
        self._call, self._ids, self._streamer = call, call.ids, streamer
        self._engine, self._claim = session.engine, session.engine.claim
        keys = [request.key for request in requests]
        self._keys = torch.tensor(keys, dtype=torch.int32, device=call.ids.device)
        ending, now = session.bound.constraints.ending, time.perf_counter()
        self._answers = [Answer(each, None, now, ends=ending(each)) for each in requests]
        self._external = (
            DraftedRows(session.bound, requests, session.engine.stats)
            if session.engine.drafting
            else ExternalRows(session.bound, requests)
        )
        self._slots = list(range(len(requests)))  # per slot in use, the row
        self._ended = [False] * len(requests)  # rows that draw no more
        config = call.config
        kept = config.return_dict_in_generate and (config.output_scores, config.output_logits)
        self._scores: list[Tensor] | None = [] if kept and kept[0] else None
        self._logits: list[Tensor] | None = [] if kept and kept[1] else None

    def run(self) -> Any:
        """Decode until every row has ended."""
        stream_prompt(self._streamer, self._ids)
        done = torch.zeros(len(self._ids), dtype=torch.bool, device=self._ids.device)
        while not bool(done.all()):
            with self._engine.turn(self._claim):
                done = self._round(done)
        if self._streamer is not None:
            self._streamer.end()
        return output_of(self._call, self._ids, self._scores, self._logits)

    def _round(self, done: Tensor) -> Tensor:
        """Draw a token for every row, or several that were drafted; which rows have ended."""
        answers = [self._answers[row] for row in self._slots]
        for scores in self._external.positions(answers, self._has_ended):
            done = done | self._step(scores)
            self._end(done.tolist())
        if not bool(done.all()):
            self._advance()
        return done

    def _step(self, scores: Tensor) -> Tensor:
        """Draw a token for every row; ``(rows,)`` bool, which of them end with it."""
        logits = self._formula(scores)
        if self._logits is not None:
            self._logits.append(logits.clone())
        scores = self._call.processors(self._ids, logits)
        if self._scores is not None:
            self._scores.append(scores)
        tokens = self._drawn(scores)
        self._ids = torch.cat((self._ids, tokens[:, None]), dim=1)
        if self._streamer is not None:
            self._streamer.put(tokens.cpu())
        kept = None if self._scores is None else tuple(self._scores)
        done: Tensor = self._call.criteria(self._ids, kept).to(self._ids.device)
        for row, token in enumerate(tokens.tolist()):
            if not self._ended[row]:
                self._answers[row].add(token)
        return done | torch.tensor(self._full, device=done.device)

    @property
    def _full(self) -> list[bool]:
        """Per row, whether its answer has as many tokens as it may."""
        return [answer.finish_reason is not None for answer in self._answers]

    def _formula(self, scores: Tensor) -> Tensor:
        """``(rows, width)`` the formula's scores; 0 for the rows that have ended."""
        scores = scores.to(self._ids.device)
        padded = scores.new_zeros(len(self._ids), max(self._call.width, scores.shape[1]))
        padded[:, scores.shape[1] :] = -torch.inf
        slots = {row: slot for slot, row in enumerate(self._slots) if not self._ended[row]}
        padded[list(slots), : scores.shape[1]] = scores[list(slots.values())]
        return padded

    def _drawn(self, scores: Tensor) -> Tensor:
        """``(rows,)`` the next tokens; padding for the rows that have ended."""
        active = torch.tensor([not ended for ended in self._ended], device=scores.device)
        empty = active & ~(scores.amax(dim=-1).abs() < torch.inf)  # of NaN too
        if bool(empty.any()):
            row = int(empty.byte().argmax())
            what = "no token" if float(scores[row].amax()) == -torch.inf else "infinity or NaN"
            cure = "a temperature below 1e-5 leaves nothing to compare"
            raise ArgumentError(f"the logits processors leave {what} for row {row}; {cure}")
        if self._call.config.do_sample:
            drawn = self._ids.shape[1] - self._call.ids.shape[1]
            steps = self._keys.new_full((len(scores),), drawn)
            scores = scores.float() + gumbel(self._keys, steps, scores.shape[-1])
        tokens = best(scores)
        return tokens if bool(active.all()) else torch.where(active, tokens, self._call.pad or 0)

    def _has_ended(self, slot: int) -> bool:
        return self._ended[self._slots[slot]]

    def _end(self, done: Sequence[bool]) -> None:
        """Note which rows draw no more."""
        ended = [d and (f or self._call.ends) for d, f in zip(done, self._full, strict=True)]
        self._ended = [*done] if all(done) else ended
        if any(ended) and not all(done):
            check_padding(self._call)

    def _advance(self) -> None:
        """Feed the tokens to the models, and release the rows that have ended."""
        self._external.advance([list(self._answers[row].tokens) for row in self._slots])
        leave = [slot for slot, row in enumerate(self._slots) if self._ended[row]]
        self._external.finish(leave, self._slots)


def check_padding(call: GenerateRequest) -> None:
    """Refuse a call without a padding token, in which some rows end before others."""
    if call.pad is None:
        raise ArgumentError("some rows end before others; give pad_token_id")


def stream_prompt(streamer: Any, ids: Tensor) -> None:
    """Give a streamer the prompt where it waits for one; it would drop the first token instead.

    ``generate`` passes no ``streamer`` to custom loops, so that a caller passes one by another way.
    """
    if streamer is not None and getattr(streamer, "next_tokens_are_prompt", False):
        streamer.put(ids.cpu())


def output_of(
    call: GenerateRequest, ids: Tensor, scores: list[Tensor] | None, logits: list[Tensor] | None
) -> Any:
    """What ``generate`` returns."""
    if not call.config.return_dict_in_generate:
        return ids
    from transformers.generation import GenerateDecoderOnlyOutput  # imports what no other step does

    steps = (None if kept is None else tuple(kept) for kept in (scores, logits))
    return GenerateDecoderOnlyOutput(ids, *steps)


def _of_noise(call: GenerateRequest) -> float:
    """The temperature of the call, by its own processor; drafts are drawn at the same."""
    if not call.config.do_sample:
        return 0.0
    warpers = [each for each in call.processors if isinstance(each, TemperatureLogitsWarper)]
    return next((float(each.temperature) for each in warpers), 1.0)


def _temperature(call: GenerateRequest) -> float:
    """The temperature of a search's samples.

    Raises:
        ValueError: the call does not sample, or it asks for something that needs every step.
    """
    if not call.config.do_sample:
        raise ArgumentError("a formula that searches chooses among samples; give do_sample=True")
    for processor in call.processors:
        if not isinstance(processor, TemperatureLogitsWarper):
            problem = f"{type(processor).__name__} is for a loop of one text per row"
            cure = "write top_k, top_p, min_p and repetition_penalty in the formula"
            raise ArgumentError(f"{problem}, and the formula searches; {cure}, and give top_k=0")
    for criterion in call.criteria:
        if not hasattr(criterion, "eos_token_id") and not hasattr(criterion, "max_length"):
            problem = f"{type(criterion).__name__} ends one text per row"
            raise ArgumentError(f"{problem}, and the formula searches among several")
    for name in ("output_scores", "output_logits"):
        if getattr(call.config, name) and call.config.return_dict_in_generate:
            raise ArgumentError(f"{name}: a formula that searches has no scores of a token")
    return next((float(processor.temperature) for processor in call.processors), 1.0)


def _ends(call: GenerateRequest) -> list[int]:
    """The ids that end a row, by the call's criteria."""
    ends = [item.eos_token_id.tolist() for item in call.criteria if hasattr(item, "eos_token_id")]
    return [token for tokens in ends for token in tokens]


def _searched(
    session: Session, call: GenerateRequest, requests: Sequence[Request], streamer: Any
) -> Any:
    """The answers of a formula that searches, padded on the right."""
    if streamer is not None:
        raise ArgumentError("streamer: the answer is known when the search has ended")
    eos = frozenset(_ends(call))
    steps = session.decode([replace(request, eos=eos) for request in requests], ROWS)
    drawn = {answer.request.index: answer.tokens for ended in steps for answer in ended}
    longest = max(map(len, drawn.values()))
    if any(len(tokens) < longest for tokens in drawn.values()):
        check_padding(call)
    padding = [call.pad or 0] * longest
    rows = [[*drawn[row], *padding][:longest] for row in range(len(requests))]
    return output_of(call, torch.cat((call.ids, call.ids.new_tensor(rows)), dim=1), None, None)
