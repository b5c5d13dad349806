"""The rows of one formula through its decoder, one record per completion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..formula import Plan
from ..inputs.expand import Row, Setting, without_temperature
from ..inputs.runfile import TEMPERATURE, RunFile
from ..runs.models import Models
from ..runs.run import Completed, decode_readable
from ..runtime import Completion, Decoder
from ..runtime.progress import progress_bar


def decode(
    models: Models, setting: Setting, rows: Sequence[Row], done: int, shown: bool
) -> Iterator[dict[str, Any]]:
    """Decode the missing rows of one formula; yields each record when its completion ends.

    The progress bar, where one is ``shown``, counts the rows that are ``done``, too.
    """
    bar = progress_bar(
        done + len(rows), "row", setting.name, None if shown else False,
        initial=done, smoothing=0.1,
    )  # fmt: skip
    tokens = 0
    with bar:
        for row, completion in _completed(models, setting, rows):
            tokens += len(completion.token_ids)
            bar.update()
            elapsed = bar.format_dict["elapsed"] or 1e-9
            bar.set_postfix_str(f"{tokens / elapsed:.0f} tokens/s", refresh=False)
            yield row.record(completion, models.run)


def _completed(
    models: Models, setting: Setting, rows: Sequence[Row]
) -> Iterator[tuple[Row, Completion]]:
    decoder, close = models.decoder(setting)
    try:
        yield from completed(decoder, models.run, setting.plan, rows)
    finally:
        close()


def completed(
    decoder: Decoder, run: RunFile, plan: Plan, rows: Sequence[Row]
) -> Iterator[tuple[Row, Completion]]:
    """Each row of a run and its completion, when it ends; the rows have the same parameters."""
    generate = run.generate.model_dump(exclude={"seed", "num_return_sequences"})
    swept_temperature = any(TEMPERATURE in row.params for row in rows)
    names = list(without_temperature(rows[0].params))
    if run.has_kl and not plan.search:
        generate |= {"logprobs": True, "logprobs_mode": "processed_logprobs"}

    def start(rows: Sequence[Row]) -> Completed:
        if swept_temperature:
            generate[TEMPERATURE] = [row.params.get(TEMPERATURE) for row in rows]
        return decoder.as_completed(
            [row.item.prompt for row in rows],
            params={name: [row.params[name] for row in rows] for name in names},
            seed=[row.seed for row in rows],
            progress=False,
            **generate,
        )

    rows, completions = decode_readable(rows, run, decoder, start)
    for index, completion in completions:
        yield rows[index], completion
