"""``descant run``: prompts to completions, one JSON line each, written as soon as it is finished.

Killed and started again, a run goes on where it stopped: no line is lost and none is doubled.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .data import read_items, read_prompts
from .folder import COMPLETIONS, Journal, claim
from .runfile import RunFile, RunFileError

if TYPE_CHECKING:
    from .runtime import Completion, Decoder

__all__ = ["compiled", "read_prompts", "record_of", "run_to_folder"]


def compiled(run: RunFile) -> Decoder:
    """The decoder of a run file.

    Raises:
        RunFileError: it has several formulas; FormulaError, ModelError: as ``compile``.
    """
    from .api import compile

    if run.formulas:
        names = ", ".join(run.formulas)
        raise RunFileError(
            f"this run file has several formulas ({names}); descant sweep reads them"
        )
    return compile(
        run.formula, run.models, params=run.params, prompts=run.prompts,
        dtype=run.dtype, device=run.device,
    )  # fmt: skip


def run_to_folder(run: RunFile, decoder: Decoder, folder: Path) -> Iterator[dict[str, Any]]:
    """Complete the run's prompts into ``folder``, skipping what is there already.

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
    items = read_items(run.data)
    claim(run, folder)
    journal = Journal(folder, COMPLETIONS)
    journal.absorb(_key)
    done = set(map(_key, journal.records()))
    samples = run.generate.num_return_sequences
    todo = [one for one in items if any((one.id, i) not in done for i in range(samples))]
    arguments = run.generate.model_dump()
    found = decoder.as_completed([item.prompt for item in todo], **arguments) if todo else ()
    for row, completion in found:
        item, sample = todo[row // samples], row % samples
        if (item.id, sample) not in done:
            record = record_of(item.id, sample, completion)
            journal.add([record])
            yield record


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
