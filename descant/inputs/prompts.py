"""Prompts with ids, from the rows of a file or a dataset. Nothing in them is executed."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DescantError, quoted, shortened
from ..models import ModelError
from ..models.images.parts import with_files_of
from .formats import DataError, Fault, Row, read_dataset, read_file, read_json
from .runfile import Data, RunFileError

_log = logging.getLogger("descant")


@dataclass(frozen=True)
class Item:
    """One prompt."""

    id: int | str  # the number of its row, from 0, or the value of the row's ``id`` field
    prompt: Any  # text, chat messages or token ids
    where: str = field(default="", compare=False)  # the file and line, or the dataset and row


def read_items(data: Data) -> list[Item]:
    """The prompts of a data file or a dataset.

    Raises:
        RunFileError: there are none, or a row has no usable prompt; names the row.
    """
    return [item for item, _ in read_rows(data)]


def read_rows(
    data: Data, check: Callable[[Row, str], object] = lambda row, where: None
) -> list[tuple[Item, Any]]:
    """The prompts, and what ``check`` makes of each row, its content and where it is.

    ``check`` raises a ``RunFileError`` for a row that cannot be used.

    Raises:
        RunFileError: as ``read_items``.
    """
    items: dict[int | str, tuple[Item, Any]] = {}
    skipped = 0
    try:
        for number, where, row in _rows(data):
            if data.limit is not None and len(items) >= data.limit:
                break
            try:
                item = _item(number, where, row, data)
                content = check(row, where)
                if item.id in items:
                    first = items[item.id][0].where
                    raise RunFileError(
                        f"{where}: the id {quoted(item.id)} is there already, at {first}"
                    )
            except RunFileError as error:
                _skip(error, data)
                skipped += 1
            else:
                items[item.id] = item, content
    except DataError as error:
        raise RunFileError(str(error)) from error
    if not items:
        what = f" but {skipped} rows that were skipped" if skipped else ""
        raise RunFileError(f"{data.source} holds no prompts{what}")
    if skipped:
        _log.warning("%s: %d rows skipped, %d read", data.source, skipped, len(items))
    return list(items.values())


def command_line_prompt(argument: str, chat: bool) -> Any:
    """A prompt as a command line has it: text, or the path of a JSON file that holds a prompt.

    With ``chat``, a text is one user message.

    Raises:
        RunFileError: no such file, or no prompt in it; or token ids with ``chat``.
    """
    prompt: Any = argument
    if argument.endswith(".json"):
        file = Path(argument)
        if not file.is_file():
            raise RunFileError(f"there is no prompt file {file}")
        try:
            prompt = _prompt(read_json(file), argument, folder=file.parent)
        except DataError as error:
            raise RunFileError(str(error)) from None
    return _as_chat(prompt, argument) if chat else prompt


def readable(items: Sequence[Item], data: Data, check: Callable[[Any], object]) -> list[Item]:
    """The items whose prompts the models can read.

    ``check`` is called with each prompt, and raises where it cannot be read.

    Raises:
        RunFileError: a prompt that cannot be read, unless such rows are skipped; names the row.
    """
    fit = []
    for item in items:
        try:
            check(item.prompt)
        except DescantError as error:
            _skip(RunFileError(f"{item.where}: {error}"), data)
        else:
            fit.append(item)
    if len(fit) < len(items):
        _log.warning("%s: %d rows skipped as unreadable", data.source, len(items) - len(fit))
    return fit


def _skip(error: RunFileError, data: Data) -> None:
    """Log a row that is skipped, or raise its error."""
    if data.bad_rows == "error":
        raise error
    _log.warning("skipped: %s", str(error).splitlines()[0])


def _rows(data: Data) -> Iterator[Row]:
    if data.name is not None:
        rows = read_dataset(data.name, data.config, data.split, data.revision)
    else:
        rows = read_file(Path(data.source))
    if data.shuffle is None:
        return rows
    listed = list(rows)
    random.Random(data.shuffle).shuffle(listed)
    return iter(listed)


def _item(number: int, where: str, row: Any, data: Data) -> Item:
    if isinstance(row, Fault):
        raise RunFileError(f"{where} {row}")
    if isinstance(row, str):
        return Item(number, _prompt(row, where, data.chat), where)
    fields = row if isinstance(row, Mapping) else {}
    for field_name, purpose in ((data.field, ""), (data.id, " for the id")):
        if field_name is not None and field_name not in fields:
            keys = shortened(", ".join(fields)) or "no keys"
            raise RunFileError(f"{where} has no field {field_name}{purpose}; it has {keys}")
    name = number if data.id is None else fields[data.id]
    if isinstance(name, bool) or not isinstance(name, (int, str)) or name == "":
        raise RunFileError(
            f"{where}: the id in {data.id} is {quoted(name)}, not a number or a text"
        )
    folder = None if data.name is not None else Path(data.source).parent
    return Item(name, _prompt(fields[data.field], where, data.chat, folder), where)


def _as_chat(prompt: Any, where: str) -> Any:
    """A text as one user message; messages as they are."""
    if isinstance(prompt, str):
        if not prompt.strip():
            raise RunFileError("the prompt is empty")
        return [{"role": "user", "content": prompt}]
    if isinstance(prompt[0], int):
        problem = f"{where}: the prompt is token ids, and they are no message of a chat"
        raise RunFileError(f"{problem}; give text or messages, or leave chat out")
    return prompt


def _prompt(value: Any, where: str, chat: bool = False, folder: Path | None = None) -> Any:
    """A checked prompt; with ``chat``, messages. Images are files of a ``folder``."""
    if chat:
        return _as_chat(_prompt(value, where, folder=folder), where)
    if not value or (isinstance(value, str) and not value.strip()):
        raise RunFileError(f"{where}: the prompt is empty")
    if isinstance(value, str) or (isinstance(value, list) and all(type(n) is int for n in value)):
        return value
    if isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
        for part in value:
            role, content = part.get("role"), part.get("content")
            if not isinstance(role, str) or not isinstance(content, (str, list)):
                problem = (
                    f"{where}: a message has a role and content, both text; here: {quoted(part)}"
                )
                raise RunFileError(problem)
        try:
            return with_files_of([dict(part) for part in value], folder or Path())
        except ModelError as error:
            raise RunFileError(f"{where}: {error}") from None
    raise RunFileError(f"{where}: a prompt is text, messages or token ids, not {quoted(value)}")
