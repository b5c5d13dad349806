"""A formula as a transformers ``LogitsProcessor``: for those who own their loop.

The caller runs one of the formula's models and passes its logits; the processor runs every other
term, batched over those that share weights, with caches of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import LogitsProcessor

from ...errors import ArgumentError
from ...formula import Term
from ...models.lanes.external import ExternalLane
from ..binding.bound import Bound
from ..binding.bound_term import BoundTerm
from ..loops.external import ExternalRows, Ids
from ..requests.build import refuse_search
from ..session import HasSession
from .generate_request import rows_read


class FormulaProcessor(LogitsProcessor):
    """Turns the logits of one of a formula's models into the formula's scores.

    It takes every formula that does not search. Between calls, beams may be exchanged and tokens
    removed: each row continues from the longest prefix of its ids that the models have read. The
    ids of the first call are the prompts, until a call brings others.

    Args:
        decoder: of the formula; where it is used between two calls, everything is read again.
        base: the term whose logits come from the loop: the model that is generated from.
        attention_mask: ``(prompts, L)`` the prompts' own; needed where any is padded, on the left.
            One such processor is for one call of ``generate``.
        params: values for the formula's parameters: a number, or a list with one per prompt.

    Raises:
        ValueError: the formula has no such term, or it searches.

    Examples:
        >>> import torch, descant
        >>> base, arm = (descant.TableModel.random(vocabulary=8, seed=seed) for seed in (1, 2))
        >>> decoder = descant.compile("base + 0.5*arm", models={"base": base, "arm": arm})
        >>> processor = descant.FormulaProcessor(decoder)
        >>> processor(torch.tensor([[3, 1]]), base.table[[1]]).argmax().item()
        5
    """

    def __init__(
        self,
        decoder: HasSession,
        base: str = "base",
        attention_mask: Tensor | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        bound, why = decoder.session.bound, "it chooses among whole texts, and not among tokens"
        if bound.term_parallel is not None:
            raise ArgumentError('a processor is for one process; leave parallel="terms" out')
        refuse_search(bound, "a processor", why)
        self._bound, self._lane = with_external_lane(bound, base)
        self._session, self._params, self._base = decoder.session, params, base
        self._mask = None if attention_mask is None else torch.as_tensor(attention_mask)
        self._external: ExternalRows | None = None
        self._prompts = torch.empty(0, 0, dtype=torch.long)
        self._length = 0  # of the ids in the last call
        self._claim: object = None

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The formula's scores.

        Args:
            input_ids: ``(rows, L)``.
            scores: ``(rows, V)`` or more columns, the logits of the base.

        Returns:
            The same shape, float32; minus infinity for what the formula excludes.
        """
        size = self._bound.vocabulary
        if input_ids.ndim != 2 or scores.ndim != 2 or len(input_ids) != len(scores):
            shapes = f"{tuple(input_ids.shape)} and scores {tuple(scores.shape)}"
            cure = "a processor is given (rows, L) and (rows, V)"
            raise ArgumentError(f"input_ids are {shapes}; {cure}")
        if scores.shape[1] < size:
            sizes = f"{scores.shape[1]} logits, and the formula's models have {size} tokens"
            raise ArgumentError(f"{self._base} has {sizes}; generate from one of them")
        external = self._rows(input_ids)
        answers: list[Ids] = input_ids[:, self._prompts.shape[1] :].tolist()
        external.advance([self._readable(answer) for answer in answers])
        self._length = input_ids.shape[1]
        owners = external.owners(len(self._bound.lanes) - 1)
        self._lane.next_logits = scores.to(self._lane.device)[owners]
        formula_scores = external.scores().to(scores.device)
        return pad(formula_scores, (0, scores.shape[1] - size), value=-torch.inf)

    def _rows(self, input_ids: Tensor) -> ExternalRows:
        """The rows of this generation; new ones where the ids are those of another."""
        engine, start = self._session.engine, self._prompts.shape[1]
        same = (
            self._external is not None
            and len(input_ids) == len(self._prompts)
            and start <= input_ids.shape[1] <= self._length + 1
            and torch.equal(input_ids[:, :start], self._prompts)
        )
        if same and self._external is not None and engine.claim is self._claim:
            return self._external
        if not same:
            if self._external is not None and self._mask is not None:
                problem = "these prompts are others than before, and the attention_mask is of those"
                raise ArgumentError(f"{problem}; make a FormulaProcessor for each call of generate")
            self._prompts = input_ids.clone()
        self._claim = engine.claimed()  # whatever ran on these lanes before can run no more
        self._external = self._started(self._prompt_ids(self._prompts))
        return self._external

    def _prompt_ids(self, input_ids: Tensor) -> list[Ids]:
        """The prompt ids of each row, without padding.

        Raises:
            ValueError: a prompt seems to be padded and there is no mask, or one of another shape.
        """
        if self._mask is None:
            token = self._padding
            if len(input_ids) > 1 and token is not None and bool((input_ids[:, 0] == token).any()):
                cure = "say what is padding: FormulaProcessor(…, attention_mask=…)"
                raise ArgumentError(f"a prompt begins with {token}, the padding token; {cure}")
            return rows_read(input_ids, None)
        rows, count = len(input_ids), len(self._mask)
        if rows % count:
            raise ArgumentError(
                f"attention_mask has {count} rows, and there are {rows} of input_ids"
            )
        mask = self._mask.repeat_interleave(rows // count, dim=0)
        return rows_read(input_ids, mask.to(input_ids.device))

    def _started(self, prompts: list[Ids]) -> ExternalRows:
        """New rows with these prompts."""
        params = dict(self._params or {})
        for name, values in params.items():
            if not isinstance(values, (int, float)):
                if len(prompts) % len(values):
                    raise ArgumentError(f"{name} has {len(values)} values for {len(prompts)} rows")
                repeats = len(prompts) // len(values)
                params[name] = [value for value in values for _ in range(repeats)]
        ends = None if self._bound.looks_at_ends else ()  # else the loop knows where
        requests = self._session.builder.requests(
            prompts, max_new_tokens=1, params=params, seed=0, eos_token_id=ends, temperature=0.0
        )
        return ExternalRows(self._bound, requests)

    @property
    def _padding(self) -> int | None:
        token = getattr(self._bound.tokenizer, "pad_token_id", None)
        return None if token is None else int(token)

    def _readable(self, answer: Ids) -> Ids:
        """An answer up to the padding after its end, where some model has no such token."""
        token = self._padding
        if token in answer and token >= self._bound.vocabulary:
            return answer[: answer.index(token)]
        for bound_term in self._bound.terms:
            token_map = bound_term.token_map
            if token_map is not None and token in answer and not token_map.reads[token]:
                return answer[: answer.index(token)]
        return answer


def with_external_lane(bound: Bound, base: str) -> tuple[Bound, ExternalLane]:
    """The same plan with one more lane, for this term alone: the caller sets its logits.

    Raises:
        ValueError: the formula has no such term.
    """
    term = Term(base)
    if term not in bound.plan.terms:
        terms = ", ".join(map(str, bound.plan.terms))
        raise ArgumentError(f"the formula has no term {base}; it has {terms}: say base=…")
    if head := next((read for read in bound.plan.heads if read.term == term), None):
        problem = f"{head} reads a layer of {base}, and the loop gives its logits alone"
        raise bound.plan.error(problem, bound.plan.head_spans[head], "call decoder.generate")
    replaced = bound.terms[bound.plan.terms.index(term)]
    used = sorted({item.lane for item in bound.all_terms if item is not replaced})
    external = ExternalLane(bound.vocabulary, bound.lanes[replaced.lane].device)

    def moved(bound_term: BoundTerm) -> BoundTerm:
        if bound_term is replaced:
            return replace(bound_term, lane=len(used), additions=())
        return replace(bound_term, lane=used.index(bound_term.lane))

    changed = replace(
        bound,
        terms=tuple(map(moved, bound.terms)),
        rewards={address: tuple(map(moved, terms)) for address, terms in bound.rewards.items()},
        lanes=(*(bound.lanes[number] for number in used), external),
        lane_names=(*(bound.lane_names[number] for number in used), base),
    )
    return changed, external
