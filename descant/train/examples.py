"""Rows of data files and datasets to examples: a prompt and one or two responses.

The columns of each row decide its format. Nothing here knows of tokens or models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..inputs import formats
from ..inputs.formats import DataError, Fault, Row
from .trainfile import Data, TrainFileError

Message = Mapping[str, str]
Label = bool | int | str
TURN = re.compile(r"\n\n(Human|Assistant):")
_KEYS = ("role", "content")
_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class Example:
    """What a model learns from.

    Attributes:
        prompt: text or chat messages; None where ``chosen`` is a whole text to learn.
        chosen: the response, or the better one; empty where a teacher is to answer.
        rejected: the worse one; None for ``sft``, ``distill`` and ``probe``.
        where: the file and line, or the dataset and row.
        label: of ``probe``: what the text is.
        token_ids: the response's, where somebody has drawn them.
    """

    prompt: str | Sequence[Message] | None
    chosen: str
    rejected: str | None
    where: str
    label: Label | None = None
    token_ids: Sequence[int] | None = None


def read_examples(data: Data, method: str, *, chat: bool = False) -> tuple[list[Example], int]:
    """Read the rows of a file or a dataset.

    The columns of a row are ``prompt, chosen, rejected`` as texts or messages;
    ``chosen, rejected`` as messages that begin alike, or as texts of HH-RLHF that do;
    ``prompt, response_0, response_1`` with ``better_response_id`` or ``safer_response_id``
    (PKU-SafeRLHF). ``sft`` learns the chosen response of any of these, and reads ``prompt,
    completion``, ``messages`` (it learns the last one) and ``text`` (it learns all of it).
    ``probe`` reads these three, with a ``label``; ``distill`` the first two, and ``prompt`` alone.

    Args:
        data: where they are; ``bad_rows`` decides what happens to unusable ones.
        method: ``sft``, ``distill`` and ``probe`` need no rejected response.
        chat: split the texts of HH-RLHF into messages, for a template to render.

    Returns:
        The examples, and how many rows were skipped.

    Raises:
        TrainFileError: no such data, or an unusable row, with its line and the fault.
    """
    examples: list[Example] = []
    skipped = 0
    try:
        for _, where, row in islice(_rows(data), data.limit):
            try:
                if isinstance(row, Fault):
                    raise row
                examples.append(example_of(row, where, data.dimension, method, chat=chat))
            except Fault as fault:
                if data.bad_rows == "error":
                    raise TrainFileError(f"{where}: {fault}") from None
                skipped += 1
    except DataError as error:
        raise TrainFileError(str(error)) from error
    if not examples:
        raise TrainFileError(f"{data.path} holds no rows that can be used ({skipped} skipped)")
    return examples, skipped


def example_of(
    row: Any, where: str, dimension: str | None, method: str, *, chat: bool = False
) -> Example:
    """The example of one row.

    Raises:
        Fault: this method can learn nothing from it.
    """
    if not isinstance(row, Mapping):
        raise Fault("is not a mapping of columns")
    if method == "probe":
        return replace(_one_response(row, where, chat), label=_label(row))
    if method == "distill":
        return _of_teacher(row, where, chat)
    prompt: str | Sequence[Message]
    if "response_0" in row and "response_1" in row:
        prompt, chosen, rejected = _by_verdict(row, dimension)
    elif "chosen" in row and "rejected" in row:
        prompt, chosen, rejected = _pair(row)
    elif method == "sft":
        return _one_response(row, where, chat)
    else:
        raise Fault(f"has no chosen and rejected; it has {', '.join(map(str, row)) or 'nothing'}")
    if chosen == rejected:
        raise Fault("chosen and rejected are the same")
    if chat and isinstance(prompt, str) and TURN.match(prompt):
        prompt, chosen, rejected = _turns(prompt), chosen.strip(), rejected.strip()
    return Example(prompt, chosen, None if method == "sft" else rejected, where)


def _by_verdict(row: Mapping[str, Any], dimension: str | None) -> tuple[str, str, str]:
    if dimension is None:
        cure = "say data.dimension: better (helpful) or safer (harmless)"
        raise TrainFileError(f"these rows have two responses and two verdicts: {cure}")
    column = f"{dimension}_response_id"
    winner = str(row.get(column))  # a number, or text of a table
    if winner not in ("0", "1"):
        raise Fault(f"{column} is {row.get(column)!r}, neither 0 nor 1")
    chosen, rejected = (_text(row, f"response_{side}") for side in (winner, 1 - int(winner)))
    return _text(row, "prompt", filled=True), chosen, rejected


def _pair(row: Mapping[str, Any]) -> tuple[str | Sequence[Message], str, str]:
    sides = [row["chosen"], row["rejected"]]
    prompt = row.get("prompt")
    as_text = prompt is None or isinstance(prompt, str)
    opening = [] if as_text else _messages(prompt, "prompt")
    if all(isinstance(side, str) for side in sides):
        if prompt is None:
            return _hh(*sides)
        if prompt == "":
            raise Fault("prompt is empty")
        return prompt if as_text else opening, sides[0], sides[1]
    chosen = opening + _messages(sides[0], "chosen")
    rejected = opening + _messages(sides[1], "rejected")
    if isinstance(prompt, str) and len(chosen) == len(rejected) == 1:
        opening = [{"role": "user", "content": prompt}]
        chosen, rejected = opening + chosen, opening + rejected
    ends = [side[-1]["role"] == "assistant" for side in (chosen, rejected)]
    if chosen[:-1] != rejected[:-1] or len(chosen) < 2 or not all(ends):
        raise Fault("chosen and rejected must be the same messages up to a last assistant's")
    return chosen[:-1], chosen[-1]["content"], rejected[-1]["content"]


def _hh(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Split two dialogues after the last ``Assistant:`` that they share."""
    length = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b),
                  min(len(chosen), len(rejected)))  # fmt: skip
    turns = [turn for turn in TURN.finditer(chosen, 0, length) if turn[1] == "Assistant"]
    if not turns:
        problem = "has no prompt, and chosen and rejected do not begin alike up to an"
        raise Fault(rf"{problem} \n\nAssistant:")
    cut = turns[-1].end()
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _turns(prompt: str) -> Sequence[Message]:
    """A dialogue of HH-RLHF, without the empty last turn, as messages."""
    _, *parts = TURN.split(prompt)
    turns: list[Message] = [{"role": _ROLES[speaker], "content": turn.strip()}
             for speaker, turn in zip(parts[::2], parts[1::2], strict=True)]  # fmt: skip
    return turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns


def _one_response(row: Mapping[str, Any], where: str, chat: bool) -> Example:
    if "messages" in row:
        messages = _messages(row["messages"], "messages")
        if messages[-1]["role"] != "assistant" or len(messages) < 2:
            raise Fault("messages must end with the assistant's answer")
        return Example(messages[:-1], messages[-1]["content"], None, where)
    if "prompt" in row and "completion" in row:
        prompt, completion = row["prompt"], row["completion"]
        if isinstance(prompt, str) and isinstance(completion, str):
            prompt = _text(row, "prompt", filled=True)
            turns = _turns(prompt) if chat and TURN.match(prompt) else prompt
            return Example(turns, completion, None, where)
        messages = _messages(prompt, "prompt") + _messages(completion, "completion")
        return _one_response({"messages": messages}, where, chat)
    if "text" in row:
        return Example(None, _text(row, "text", filled=True), None, where)
    problem = "has neither prompt and completion, nor messages, nor text, nor chosen and rejected"
    raise Fault(f"{problem}; it has {', '.join(map(str, row)) or 'nothing'}")


def _of_teacher(row: Mapping[str, Any], where: str, chat: bool) -> Example:
    """A prompt with its answer, or without one."""
    if {"messages", "completion"} & row.keys():
        example = _one_response(row, where, chat)
        if not example.chosen:
            raise Fault("the answer is empty")
        return example
    if "prompt" not in row:
        raise Fault(f"has no prompt; it has {', '.join(map(str, row)) or 'nothing'}")
    if isinstance(row["prompt"], str):
        prompt = _text(row, "prompt", filled=True)
        turns = _turns(prompt) if chat and TURN.match(prompt) else prompt
        return Example(turns, "", None, where)
    return Example(_messages(row["prompt"], "prompt"), "", None, where)


def _label(row: Mapping[str, Any]) -> Label:
    label = row.get("label")
    if not isinstance(label, Label) or label == "":
        raise Fault(f"label is {'missing' if label is None else 'neither text nor a whole number'}")
    return label


def _text(row: Mapping[str, Any], column: str, *, filled: bool = False) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise Fault(f"{column} is {'missing' if value is None else 'not text'}")
    if filled and not value:
        raise Fault(f"{column} is empty")
    return value


def _messages(value: Any, column: str) -> list[dict[str, str]]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not len(value):
        raise Fault(f"{column} is neither text nor chat messages")
    for message in value:
        texts = [isinstance(message, Mapping) and message.get(key) for key in _KEYS]
        if not all(isinstance(text, str) for text in texts):
            raise Fault(f"{column} holds a message without a role and a content that are text")
    return [{key: message[key] for key in _KEYS} for message in value]


def _rows(data: Data) -> Iterator[Row]:
    file = Path(data.path)
    if file.is_file():
        if formats.kind_of(file) not in (*formats.JSON, *formats.TABLES, *formats.PARQUET):
            raise TrainFileError(f"{file} is none of .jsonl, .json, .csv and .parquet")
        return formats.read_file(file)
    if not file.exists() and (file.suffix or data.path.startswith((".", "/", "~"))):
        raise TrainFileError(f"there is no data file {file}")
    return formats.read_dataset(data.path, data.name, data.split, data.revision)
