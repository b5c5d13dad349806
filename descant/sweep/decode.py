"""One formula's rows through its decoder, and the lines that are written of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from ..inputs.runfile import TEMPERATURE
from ..runs.expand import Row, Setting
from ..runs.models import Models, merges_at
from ..runs.run import begun
from ..runtime import Completion
from ..runtime.progress import progress_bar


def decode(
    models: Models, setting: Setting, rows: Sequence[Row], before: int, shown: bool
) -> Iterator[list[dict[str, Any]]]:
    """Decode rows of one formula.

    Args:
        models: of the run.
        setting: the formula.
        rows: those that are missing, of one prompt next to each other.
        before: how many there are already, for the bar.
        shown: whether there is a bar; it is for a terminal alone.

    Yields:
        Lines of ``completions.jsonl``, as soon as they are known.
    """
    bar = progress_bar(
        before + len(rows), "row", setting.name, None if shown else False,
        initial=before, smoothing=0.1,
    )  # fmt: skip
    tokens = 0
    with bar:
        for some in _together(models, setting, rows):
            for row, completion in _completed(models, setting, some):
                tokens += len(completion.token_ids)
                bar.update()
                elapsed = bar.format_dict["elapsed"] or 1e-9
                bar.set_postfix_str(f"{tokens / elapsed:.0f} tokens/s", refresh=False)
                yield [record_of(row, completion)]


def _together(models: Models, setting: Setting, rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each decoder: all of them, or those whose merged adapters are the same."""
    merges = [str(merges_at(models.run, setting, i)) for i in range(len(setting.points))]
    ordered = sorted(rows, key=lambda row: merges[row.point])
    return [list(some) for _, some in groupby(ordered, key=lambda row: merges[row.point])]


def _completed(
    models: Models, setting: Setting, rows: Sequence[Row]
) -> Iterator[tuple[Row, Completion]]:
    run = models.run
    decoder, close = models.decoder(setting, rows[0].point)
    given = run.generate.model_dump(exclude={"seed", "num_return_sequences"})
    heats = any(TEMPERATURE in row.params for row in rows)
    names = [name for name in rows[0].params if name != TEMPERATURE]
    likely = any(score.kl for score in (run.score or {}).values()) and not setting.plan.search

    def begin(some: Sequence[Row]) -> Iterator[tuple[int, Completion]]:
        if heats:
            given[TEMPERATURE] = [row.params.get(TEMPERATURE) for row in some]
        return decoder.as_completed(
            [row.item.prompt for row in some],
            params={name: [row.params[name] for row in some] for name in names},
            seed=[row.seed for row in some],
            logprobs=likely,
            progress=False,
            **given,
        )

    try:
        rows, found = begun(rows, lambda row: row.item, run, decoder, begin)
        for number, completion in found:
            yield rows[number], completion
    finally:
        close()


def record_of(row: Row, completion: Completion) -> dict[str, Any]:
    """One line of ``completions.jsonl``."""
    record = {
        "schema": 1,
        "formula": row.setting.name,
        "point": row.point,
        "params": row.params,
        "id": row.item.id,
        "sample": row.sample,
        "prompt": row.item.prompt,
        "text": completion.text,
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
        "seed": row.seed,
        "elapsed": round(completion.seconds, 6),
    }
    if completion.logprobs is not None:
        record["logprob"] = round(sum(completion.logprobs), 3)
    return record
