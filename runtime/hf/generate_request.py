"""A call of transformers' ``generate``, checked: unsupported arguments are refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from ...errors import ArgumentError
from ...models import prompts_of
from ..binding.bound import Bound
from .generate_images import parted, prompt_seen

_MODES = ("greedy_search", "sample")
_UNUSED = frozenset(  # arguments that say how a model runs and leave its logits as they are
    ("attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep")
)


@dataclass(frozen=True)
class GenerateRequest:
    """One call of ``generate``.

    Attributes:
        ids: ``(rows, L)`` that the answers follow, padded on the left.
        prompts: that the models read.
        repeats: rows per prompt.
        limit: tokens after which a row ends.
        pad: the token after the end of a row, or None.
        width: columns of the scores: the tokens of the model that ``generate`` was called on.
        ends: whether a row that has ended waits for the others; else all rows continue.
    """

    ids: Tensor
    prompts: list[Any]
    repeats: int
    limit: int
    pad: int | None
    width: int
    ends: bool
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList
    config: GenerationConfig


def generate_request(
    bound: Bound,
    model: Any,
    input_ids: Tensor,
    processors: Any,
    criteria: Any,
    config: GenerationConfig | None,
    prompts: Sequence[Any] | None,
    others: Mapping[str, Any],
) -> GenerateRequest:
    """The request of one call.

    Raises:
        ValueError: something that a formula cannot honour.
    """
    config = config if config is not None else model.generation_config
    criteria = StoppingCriteriaList(criteria or ())
    images, others = parted(others)
    for problem, cure in _problems(config, model, input_ids, others):
        raise ArgumentError(f"{problem}; {cure}")
    repeats = config.num_return_sequences or 1
    count = len(input_ids) // repeats
    if prompts is None:
        prompts = rows_read(input_ids, others.get("attention_mask"))[::repeats]
        if images:
            prompts = [prompt_seen(bound, model, prompts, len(input_ids), images)]
    elif len(prompts := prompts_of(prompts)) != count:
        raise ArgumentError(f"there are {len(prompts)} prompts and {count} rows of input_ids")
    longest = criteria.max_length or config.max_length
    if longest is None and config.max_new_tokens:
        longest = input_ids.shape[1] + config.max_new_tokens
    if longest is None or longest <= input_ids.shape[1]:
        raise ArgumentError("nothing says how long an answer may be; give max_new_tokens")
    pad = getattr(config, "_pad_token_tensor", None)
    pad = config.pad_token_id if pad is None else int(pad)
    ends = any(hasattr(criterion, "eos_token_id") for criterion in criteria)
    return GenerateRequest(
        input_ids, list(prompts), repeats, longest - input_ids.shape[1], pad, _width(bound, model),
        ends, LogitsProcessorList(processors or ()), criteria, config,
    )  # fmt: skip


def rows_read(input_ids: Tensor, attention_mask: Tensor | None) -> list[list[int]]:
    """The tokens of each row of ``(rows, L)`` ids that are no padding.

    Raises:
        ValueError: a mask of another shape, or padding on the right.
    """
    if attention_mask is None:
        return input_ids.tolist()
    if attention_mask.shape != input_ids.shape:
        shapes = f"{tuple(attention_mask.shape)}, and input_ids {tuple(input_ids.shape)}"
        raise ArgumentError(f"attention_mask is {shapes}; give one of the same shape")
    read = attention_mask.bool()
    if not bool(read[:, -1].all()):
        raise ArgumentError(
            "input_ids are padded on the right; set tokenizer.padding_side = 'left'"
        )
    return [row[kept].tolist() for row, kept in zip(input_ids, read, strict=True)]


def _problems(
    config: GenerationConfig, model: Any, input_ids: Tensor, others: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """What cannot be honoured, and what to write instead."""
    if model.config.is_encoder_decoder:
        yield "a formula's models decode only", "call generate on one of them"
    if (config.num_beams or 1) > 1:
        cure = "write a search in the formula: … | blockwise(r, beams=…), or give num_beams=1"
        yield f"num_beams is {config.num_beams}, and a row of a formula is one text", cure
    mode = str(getattr(config.get_generation_mode(), "value", ""))
    if mode not in _MODES:
        yield f"a formula does not do {mode.replace('_', ' ')}", "leave out what asks for it"
    if config.guidance_scale is not None and config.guidance_scale != 1:
        cure = "write base@neg + g*(base - base@neg), and give prompts=…"
        yield "guidance_scale would guide by one model, and not by the formula", cure
    for name in ("output_attentions", "output_hidden_states"):
        if getattr(config, name):
            yield f"{name} is of one model, and a formula has several", "ask the model itself"
    for name, value in others.items():
        if value is not None and name not in _UNUSED:
            yield f"{name} is for one model, and the formula's read input_ids alone", "leave it out"
    cache = others.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        yield "past_key_values is one model's, and the formula's keep their own", "leave it out"
    positions = others.get("position_ids")
    if positions is not None and not _are_positions(positions, others, input_ids):
        yield "position_ids other than those of the tokens are not honoured", "leave it out"
    if input_ids.ndim != 2 or input_ids.shape[1] == 0:
        yield "the formula's models read token ids", "give input_ids, and no inputs_embeds"


def _are_positions(positions: Tensor, others: Mapping[str, Any], input_ids: Tensor) -> bool:
    """Whether ``position_ids`` are those that ``generate`` makes itself."""
    mask = others.get("attention_mask")
    read = (input_ids.new_ones(input_ids.shape) if mask is None else mask).long()
    if positions.shape[-1] != read.shape[-1]:
        return False
    return bool(((positions == read.cumsum(-1) - 1) | (read == 0)).all())


def _width(bound: Bound, model: Any) -> int:
    """Tokens of the model that ``generate`` was called on.

    Raises:
        ValueError: no model of the formula has so many.
    """
    own = int(model.config.get_text_config().vocab_size)
    known = {bound.vocabulary}
    for bound_term in bound.terms:
        if bound_term.token_map is None:
            lane = bound.lanes[bound_term.lane]
            if getattr(lane, "model", None) is model:
                return own
            if hasattr(lane, "config"):
                known.add(int(lane.config.vocab_size))
    if own not in known:
        sizes, cure = " or ".join(map(str, sorted(known))), "call it on one of the formula's models"
        problem = f"generate was called on a model of {own} tokens"
        raise ArgumentError(f"{problem}, and the formula's have {sizes}; {cure}")
    return own
