"""What callers have in hand, as prompts and token ids: Python's own values, or an error in words.

Tokenizers give mappings and tensors, numpy its own integers; what only looks like token ids (bytes,
truth values, numbers with a fraction) is refused by its name.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import ModelError
from ..images.prompt import ImagePrompt
from .encoding.prompt_encoder import ReadPrompt

KINDS = {
    "prompt": "a prompt is text, chat messages or token ids",
    "completion": "a completion is text or token ids",
}
_IGNORED = {  # of what a tokenizer returns: nothing that a model reads besides the ids
    "attention_mask", "token_type_ids", "special_tokens_mask", "offset_mapping", "length",
    "overflow_to_sample_mapping", "position_ids",
}  # fmt: skip


def prompts_of(value: Any, where: str = "prompt") -> list[Any]:
    """One prompt, or many of them, as a list of prompts; ``where`` names one of them in an error.

    Raises:
        ModelError: what is neither; names it.
    """
    value = _listed(value)
    if isinstance(value, Mapping):
        rows = _encoded(value, where)
        return rows if rows and isinstance(rows[0], list) else [rows]
    if not _is_list(value):
        return [prompt_of(value, where)]
    first = _listed(value[0]) if value else None
    if value and (_is_number(first) or _is_message(first)):
        return [prompt_of(value, where)]
    return [prompt_of(prompt, where) for prompt in value]


def prompt_of(value: Any, where: str = "prompt") -> Any:
    """One prompt: text or messages as they are, token ids as a list of Python's integers.

    Raises:
        ModelError: something else; names it.
    """
    value = _listed(value)
    if isinstance(value, (str, ImagePrompt, ReadPrompt)):
        return value
    if isinstance(value, Mapping):
        return ids_of(value, where)
    if not _is_list(value):
        raise ModelError(f"the {where} is {_named(value)}", KINDS.get(where, ""))
    if value and not _is_message(_listed(value[0])):
        return ids_of(value, where)
    return value


def ids_of(value: Any, where: str) -> list[int]:
    """Token ids as a list of Python's integers.

    Args:
        value: a sequence of integers, an array or a tensor of one dimension, or what a tokenizer
            returns for one text.
        where: what they are, for an error.

    Raises:
        ModelError: something else; names it and its place.
    """
    value = _listed(value)
    if isinstance(value, Mapping):
        value = _of_one(value, where)
    if not _is_list(value):
        raise ModelError(f"the {where} is {_named(value)}", "give a list of token ids")
    ids = []
    for place, item in enumerate(value):
        item = _listed(item)
        try:
            if isinstance(item, bool):
                raise TypeError
            ids.append(operator.index(item))
        except TypeError:
            problem = f"item {place} of the {where} is {_named(item)}, and a token id is an integer"
            raise ModelError(problem, KINDS.get(where, "")) from None
    return ids


def _listed(value: Any) -> Any:
    """Arrays and tensors as lists of Python's numbers, iterators as lists."""
    if isinstance(value, memoryview):
        return bytes(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(value) if isinstance(value, Iterator) else value


def _of_one(value: Mapping[str, Any], where: str) -> list[Any]:
    """The ids of what a tokenizer returns for one text, or for a list of one."""
    rows = _encoded(value, where)
    return list(rows[0]) if len(rows) == 1 and isinstance(rows[0], list) else rows


def _encoded(value: Mapping[str, Any], where: str) -> list[Any]:
    """The ids of what a tokenizer returns, of one text or of many, without their padding."""
    if "input_ids" not in value:
        if "role" in value:
            raise ModelError(f"the {where} is one message", "give a list of messages")
        keys = ", ".join(map(str, value)) or "nothing"
        problem = f"the {where} is a mapping without input_ids; it has {keys}"
        raise ModelError(problem, KINDS.get(where, ""))
    if more := sorted(str(key) for key in value.keys() - {"input_ids"} - _IGNORED):
        problem = f"the {where} has {', '.join(more)} besides its input_ids"
        raise ModelError(problem, "these models read token ids alone")
    ids, mask = _listed(value["input_ids"]), _listed(value.get("attention_mask"))
    if not _is_list(ids):
        raise ModelError(f"input_ids are {_named(ids)}", "give a list of token ids")
    many = bool(ids) and _is_list(_listed(ids[0]))
    rows = [ids_of(row, where) for row in (ids if many else [ids])]
    if mask is not None:
        masks = [ids_of(row, "attention_mask") for row in (mask if many else [mask])]
        if [*map(len, masks)] != [*map(len, rows)]:
            raise ModelError("attention_mask has another shape than input_ids", "leave it out")
        pairs = zip(rows, masks, strict=True)
        rows = [[i for i, read in zip(*pair, strict=True) if read] for pair in pairs]
    return rows if many else rows[0]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _is_number(value: Any) -> bool:
    return hasattr(value, "__index__") or isinstance(value, float)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and "input_ids" not in value


def _named(value: Any) -> str:
    """A value and its type, for a message."""
    return "None" if value is None else f"{value!r:.40} ({type(value).__name__})"
