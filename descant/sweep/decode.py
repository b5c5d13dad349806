"""The rows of one formula through its decoder, one completion each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..formula import Plan
from ..inputs.expand import Row, without_temperature
from ..inputs.runfile import TEMPERATURE, RunFile
from ..runs.run import Completed, decode_readable
from ..runtime import Completion, Decoder


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
