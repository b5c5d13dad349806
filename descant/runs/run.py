"""``descant run``: prompts to completions, one JSON line each, written as soon as it is finished.

Killed and started again, a run resumes where it stopped: no line is lost and none is doubled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from ..inputs.prompts import Item, read_items, read_prompts, readable
from ..inputs.runfile import RunFile, RunFileError
from ..inputs.settings import suggestion
from .folder import COMPLETIONS, Journal, check_prompts, claim

if TYPE_CHECKING:
    from ..runtime import Completion, Decoder

T = TypeVar("T")
__all__ = ["compiled", "of_one_formula", "read_prompts", "record_of", "run_to_folder"]


def of_one_formula(run: RunFile, name: str | None, how: str = "--formula") -> RunFile:
    """The same run with one of its formulas alone.

    Args:
        run: a run file.
        name: the formula's; None where there is but one.
        how: a user chooses one, for messages.

    Raises:
        RunFileError: no such formula, or several and none chosen.
    """
    if name is None and len(run.named) > 1:
        raise RunFileError(
            f"this run file has several formulas ({', '.join(run.formulas)}); choose one with "
            f"{how}; descant sweep reads them all"
        )
    if name is not None and not run.formulas:
        problem = f"there is no formula {name}: this run file has one formula, without a name"
        raise RunFileError(f"{problem}; leave {how} out")
    if name is not None and name not in run.formulas:
        raise RunFileError(f"there is no formula {name}{suggestion(name, run.formulas)}")
    text = next(iter(run.named.values())) if name is None else run.formulas[name]
    return run.model_copy(update={"formula": text, "formulas": {}})


def compiled(run: RunFile) -> Decoder:
    """The decoder of a run file with one formula.

    Raises:
        RunFileError: it has several; FormulaError, ModelError: as ``compile``.
    """
    from ..api import compile

    run = of_one_formula(run, None)
    if run.parallel is None and processes() > 1:
        raise RunFileError(
            f"{processes()} processes would all do the same; say parallel: terms in the run file, "
            "or sweep: descant sweep shares prompts out"
        )
    if run.merge:
        return _merged(run)
    return compile(
        run.formula, run.models, params=run.params, prompts=run.prompts,
        dtype=run.dtype, device=run.device, parallel=run.parallel,
    )  # fmt: skip


def processes() -> int:
    """How many processes ``torchrun`` or ``accelerate launch`` has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def speaks() -> bool:
    """Whether this is the process that prints, of those that decode together."""
    return os.environ.get("RANK", "0") == "0"


def _merged(run: RunFile) -> Decoder:
    """The decoder of a formula that may read merged adapters, at the parameters' own values."""
    from .expand import settings_of
    from .models import Models

    [setting] = settings_of(run.model_copy(update={"sweep": None}))
    with TemporaryDirectory() as folder:
        return Models(run, None, Path(folder)).decoder(setting, 0)[0]


def begun(
    rows: Sequence[T],
    item_of: Callable[[T], Item],
    run: RunFile,
    decoder: Decoder,
    begin: Callable[[Sequence[T]], Iterator[tuple[int, Completion]]],
) -> tuple[Sequence[T], Iterator[tuple[int, Completion]]]:
    """Begin to decode rows; a prompt that the models cannot read is named, or skipped as asked.

    Args:
        rows: what is decoded.
        item_of: the prompt of one.
        run: with ``data``.
        decoder: of the rows.
        begin: begins them; what it refuses is looked for among the prompts.

    Returns:
        The rows that can be decoded, and what ``begin`` gives of them.

    Raises:
        RunFileError: a prompt that cannot be read; names its row.
    """
    from ..grammar import FormulaError

    assert run.data is not None
    try:
        return rows, begin(rows)
    except FormulaError:
        raise
    except ValueError:
        items = list({item_of(row).id: item_of(row) for row in rows}.values())
        check = partial(decoder.as_completed, max_new_tokens=1)
        fit = {item.id for item in readable(items, run.data, lambda prompt: check([prompt]))}
        if len(fit) == len(items):
            raise
        rows = [row for row in rows if item_of(row).id in fit]
        return rows, begin(rows) if rows else iter(())


def run_to_folder(run: RunFile, decoder: Decoder, folder: Path) -> Iterator[dict[str, Any]]:
    """Complete the run's prompts into ``folder``, skipping what is there already.

    Of several processes that decode together, the first writes.

    Args:
        run: with ``data``.
        decoder: of the same run.
        folder: gets ``completions.jsonl`` and the resolved ``run.yaml``.

    Yields:
        Each record as it is written.

    Raises:
        RunFileError: the folder holds another run, or the data is not readable.
    """
    if run.data is None:
        raise RunFileError("the run file has no data; add data: {path: …}, or give --prompt")
    items, part = read_items(run.data), _part(run.device)
    journal = Journal(folder, COMPLETIONS)
    if part.first:
        claim(run, folder, sweeps=False)
        journal.absorb(_key)
    part.wait()
    records = journal.records()
    part.wait()  # all have read it before anything is written
    check_prompts(((item.id, item.prompt) for item in items), records, run.data.source)
    done = set(map(_key, records))
    samples = run.generate.num_return_sequences
    todo = [one for one in items if any((one.id, i) not in done for i in range(samples))]

    def begin(some: Sequence[Item]) -> Iterator[tuple[int, Completion]]:
        shown = None if part.first else False
        arguments = run.generate.model_dump()
        return decoder.as_completed([one.prompt for one in some], progress=shown, **arguments)

    if not todo:
        return
    rows, found = begun(todo, lambda item: item, run, decoder, begin)
    for row, completion in found:
        item, sample = rows[row // samples], row % samples
        if (item.id, sample) not in done and part.first:
            record = record_of(item.id, sample, completion)
            journal.add([record])
            yield record


def _part(device: str | None) -> Any:
    from .processes import share

    return share(device)


def _key(record: dict[str, Any]) -> tuple[Any, Any]:
    return record["id"], record["sample"]


def record_of(index: int | str, sample: int, completion: Completion) -> dict[str, Any]:
    """One line of ``completions.jsonl``."""
    return {
        "id": index,
        "sample": sample,
        "prompt": completion.prompt,
        "text": completion.text,
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
        "params": completion.params,
        "elapsed": round(completion.seconds, 6),
    }
