"""transformers' ``generate`` with a formula: the decoding loop that ``custom_generate`` asks for.

The loop is transformers' own (``GenerationMixin._sample``): processors, stopping criteria, padding
and what is returned are as there. A formula's scores stand where a model's logits stood, and the
noise is descant's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import TemperatureLogitsWarper

from ..loops.decode import decode
from ..loops.external import ExternalRows
from ..requests.request import Answer, Request
from ..scores.logprobs import best
from ..scores.noise import gumbel
from ..session import HasSession, Session
from .generate_request import Asked, asked

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
    **model_kwargs: Any,
) -> Any:
    """The decoding loop of ``model.generate(…, custom_generate=decoder)``.

    Args:
        decoder: of the formula.
        model: what ``generate`` was called on: one of the formula's models, or one with as many
            tokens. It says how to generate (its ``generation_config``), and is not run.
        input_ids: ``(rows, L)``, every prompt ``num_return_sequences`` times, padded on the left.
        logits_processor: applied to the formula's scores.
        stopping_criteria: say which rows end.
        generation_config: as ``generate`` has prepared it.
        synced_gpus: not honoured.
        streamer: is told the tokens; ``generate`` has told it the prompt.
        params: values for the formula's parameters: a number, or a list with one per prompt.
        seed: of the noise, one for all prompts or one per prompt, as for ``Decoder.generate``. Left
            out, seeds are drawn from torch's global generator.
        prompts: what the models read instead of ``input_ids``, one per prompt: text or chat
            messages, each model by its own template. Answers still follow ``input_ids``.
        **model_kwargs: the mask, and what else ``generate`` prepares for a model.

    Returns:
        ``(rows, L + new)`` int64 ids; or a ``GenerateDecoderOnlyOutput``, where that is asked for:
        ``logits`` are the formula's scores, ``scores`` those that the processors have made of them.

    Raises:
        ValueError: something that a formula cannot honour, by its name.
        FormulaError, ModelError: as ``Decoder.generate``.
    """
    session = decoder.session
    bound = session.bound
    if synced_gpus:
        raise ValueError("synced_gpus is for one model split over processes; leave it out")
    ask = asked(
        bound, model, input_ids, logits_processor, stopping_criteria, generation_config, prompts,
        model_kwargs,
    )  # fmt: skip
    rows = len(session.builder.rows(ask.prompts, params))
    if rows != len(ask.prompts):
        raise ValueError(f"params have {rows} values and there are {len(ask.prompts)} prompts")
    draws = bool(ask.config.do_sample)
    if seed is None:
        drawn = torch.randint(1 << 62, (len(ask.prompts),)).tolist() if draws else [0]
        seed = drawn * (len(ask.prompts) // len(drawn))
        seed = seed if bound.term_parallel is None else bound.term_parallel.broadcast(seed)
    requests = session.builder.requests(
        ask.prompts, max_new_tokens=ask.limit, params=params, seed=seed, eos_token_id=(),
        temperature=_temperature(ask) if bound.plan.search else 0.0,
        num_return_sequences=ask.repeats,
    )  # fmt: skip
    if bound.plan.search:
        return _searched(session, ask, requests, streamer)
    with session.engine.turn():
        session.engine.claimed()  # whatever ran on these lanes before can run no more
        loop = _Loop(session, ask, requests, streamer)
    return loop.run()


class _Loop:
    """One call: rows, what they have drawn, and what is told of it."""

    def __init__(
        self, session: Session, ask: Asked, requests: Sequence[Request], streamer: Any
    ) -> None:
        self._ask, self._ids, self._streamer = ask, ask.ids, streamer
        self._engine, self._claim = session.engine, session.engine.claim
        keys = [request.key for request in requests]
        self._keys = torch.tensor(keys, dtype=torch.int32, device=ask.ids.device)
        self._answers = [Answer(request, None, time.perf_counter()) for request in requests]
        self._external = ExternalRows(session.bound, requests)
        self._slots = list(range(len(requests)))  # per slot in use, the row
        self._ended = [False] * len(requests)  # rows that draw no more
        tells = bool(ask.config.return_dict_in_generate)
        self._scores: list[Tensor] | None = [] if tells and ask.config.output_scores else None
        self._logits: list[Tensor] | None = [] if tells and ask.config.output_logits else None

    def run(self) -> Any:
        """Decode until every row has ended."""
        tell_prompt(self._streamer, self._ids)
        done = torch.zeros(len(self._ids), dtype=torch.bool, device=self._ids.device)
        while not bool(done.all()):
            with self._engine.turn(self._claim):
                done = done | self._step()
                self._go_on(done.tolist())
        if self._streamer is not None:
            self._streamer.end()
        return returned(self._ask, self._ids, self._scores, self._logits)

    def _step(self) -> Tensor:
        """Draw a token for every row; ``(rows,)`` bool, which of them end with it."""
        logits = self._formula()
        if self._logits is not None:
            self._logits.append(logits.clone())
        scores = self._ask.processors(self._ids, logits)
        if self._scores is not None:
            self._scores.append(scores)
        tokens = self._drawn(scores)
        self._ids = torch.cat((self._ids, tokens[:, None]), dim=1)
        if self._streamer is not None:
            self._streamer.put(tokens.cpu())
        told = None if self._scores is None else tuple(self._scores)
        done: Tensor = self._ask.criteria(self._ids, told).to(self._ids.device)
        for row, token in enumerate(tokens.tolist()):
            if not self._ended[row]:
                self._answers[row].add(token)
        full = [answer.finish_reason is not None for answer in self._answers]
        return done | torch.tensor(full, device=done.device)

    def _formula(self) -> Tensor:
        """``(rows, width)`` the formula's scores; 0 for the rows that have ended."""
        scores = self._external.scores().to(self._ids.device)
        made = scores.new_zeros(len(self._ids), max(self._ask.width, scores.shape[1]))
        made[:, scores.shape[1] :] = -torch.inf
        made[self._slots, : scores.shape[1]] = scores
        return made

    def _drawn(self, scores: Tensor) -> Tensor:
        """``(rows,)`` the next tokens; padding for the rows that have ended."""
        going = torch.tensor([not ended for ended in self._ended], device=scores.device)
        empty = going & ~(scores.amax(dim=-1) > -torch.inf)  # of NaN too
        if bool(empty.any()):
            row = int(empty.byte().argmax())
            raise ValueError(f"the logits processors leave no token for row {row}")
        if self._ask.config.do_sample:
            steps = self._keys.new_full((len(scores),), self._ids.shape[1] - self._ask.ids.shape[1])
            scores = scores.float() + gumbel(self._keys, steps, scores.shape[-1])
        tokens = best(scores)
        return tokens if bool(going.all()) else torch.where(going, tokens, self._ask.pad or 0)

    def _go_on(self, done: Sequence[bool]) -> None:
        """Hand the tokens on, and leave the rows that have ended."""
        full = [answer.finish_reason is not None for answer in self._answers]
        over = [d and (f or self._ask.ends) for d, f in zip(done, full, strict=True)]
        if all(done):
            return
        if any(over) and self._ask.pad is None:
            raise ValueError("some rows end before others; give pad_token_id")
        self._external.go([list(self._answers[row].tokens) for row in self._slots])
        leave = [slot for slot, row in enumerate(self._slots) if over[row]]
        self._external.finish(leave)
        for slot in reversed(leave):
            self._slots[slot] = self._slots[-1]
            self._slots.pop()
        self._ended = over


def tell_prompt(streamer: Any, ids: Tensor) -> None:
    """Tell a streamer the prompt where it has not been told: it would take the first token for it.

    ``generate`` keeps its own ``streamer`` from custom loops, so that one may come by another way.
    """
    if streamer is not None and getattr(streamer, "next_tokens_are_prompt", False):
        streamer.put(ids.cpu())


def returned(
    ask: Asked, ids: Tensor, scores: list[Tensor] | None, logits: list[Tensor] | None
) -> Any:
    """What ``generate`` returns."""
    if not ask.config.return_dict_in_generate:
        return ids
    from transformers.generation import GenerateDecoderOnlyOutput  # imports what no other step does

    told = [None if some is None else tuple(some) for some in (scores, logits)]
    return GenerateDecoderOnlyOutput(sequences=ids, scores=told[0], logits=told[1])


def _temperature(ask: Asked) -> float:
    """The temperature of a search's samples.

    Raises:
        ValueError: it does not sample, or something else is asked for that needs every step.
    """
    if not ask.config.do_sample:
        raise ValueError("a formula that searches chooses among samples; give do_sample=True")
    for one in ask.processors:
        if not isinstance(one, TemperatureLogitsWarper):
            name = type(one).__name__
            raise ValueError(
                f"{name} is for a loop of one text per row, and the formula searches; write "
                "top_k, top_p, min_p and repetition_penalty in the formula, and give top_k=0"
            )
    for one in ask.criteria:
        if not hasattr(one, "eos_token_id") and not hasattr(one, "max_length"):
            name = type(one).__name__
            raise ValueError(
                f"{name} ends one text per row, and the formula searches among several"
            )
    for name in ("output_scores", "output_logits"):
        if getattr(ask.config, name) and ask.config.return_dict_in_generate:
            raise ValueError(f"{name}: a formula that searches has no scores of a token")
    return next((float(one.temperature) for one in ask.processors), 1.0)


def _searched(session: Session, ask: Asked, requests: Sequence[Request], streamer: Any) -> Any:
    """The answers of a formula that searches, padded on the right."""
    if streamer is not None:
        raise ValueError("streamer: the answer is known when the search has ended")
    ends = [one.eos_token_id.tolist() for one in ask.criteria if hasattr(one, "eos_token_id")]
    eos = frozenset(token for some in ends for token in some)
    found = decode(session.engine, [replace(one, eos=eos) for one in requests], ROWS)
    drawn = {answer.request.index: answer.tokens for told in found for answer in told}
    longest = max(map(len, drawn.values()))
    if ask.pad is None and any(len(tokens) < longest for tokens in drawn.values()):
        raise ValueError("some rows end before others; give pad_token_id")
    answers = ask.ids.new_full((len(requests), longest), ask.pad or 0)
    for row, tokens in drawn.items():
        answers[row, : len(tokens)] = torch.tensor(tokens, device=answers.device)
    return returned(ask, torch.cat((ask.ids, answers), dim=1), None, None)
