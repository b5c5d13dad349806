"""``descant fit`` with ``gate``: parameters that become heads of the formula."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from .. import disk
from ..inputs.fit_section import FitSection
from ..inputs.runfile import RunFile
from ..inputs.yaml import dump_yaml
from ..results.lock import writing
from ..runs.resume import make_folder
from ..runs.run import compiled
from .rewards.command import FITTED, RESULT, fitted
from .texts import prepare, texts_of

if TYPE_CHECKING:
    from rich.console import Console

    from ..runtime.per_prompt.with_gates import GateFit

GATES, HOLDOUT = "gates", 0.2


def fit_gates(run: RunFile, section: FitSection, folder: Path, console: Console) -> GateFit:
    """Fit gates to completions; write them, and a run file whose formula has them.

    Raises:
        RunFileError: no data, a row without a completion, or another run's folder; and as
            ``Decoder.fit_gates``.
    """
    assert section.gate is not None and section.bounds is not None
    prompts, completions = texts_of(run, section)
    seed = run.generate.seed if section.seed is None else section.seed
    make_folder(folder)
    with disk.resumable(), writing(folder):
        prepare(run, folder)
        found = compiled(run).fit_gates(
            prompts, completions, on=section.gate.on, layer=section.gate.layer,
            bounds=section.bounds, holdout=section.holdout or HOLDOUT, seed=seed,
            batch_size=run.generate.batch_size,
        )  # fmt: skip
        heads = found.save(folder / GATES)
        content = fitted(run, {})
        content["formula"] = found.formula
        kept = {name: v for name, v in content["params"].items() if name not in section.bounds}
        content["params"] = kept
        declared = {name: spec | {"head": f"{GATES}/{name}"} for name, spec in heads.items()}
        content["models"] = {**content["models"], **declared}
        disk.replace(folder / FITTED, dump_yaml(content))
        numbers = {name: getattr(found, name) for name in found.__dataclass_fields__}
        numbers["models"] = [*found.models]
        disk.replace(folder / RESULT, json.dumps(numbers, indent=1, ensure_ascii=False))
    console.print(found.formula, markup=False, highlight=False)
    console.print(
        f"held out: {-found.constant:.4f} nats per token by constants, {-found.held_out:.4f} by "
        f"gates (l2 {found.penalty:g}); of {found.texts} texts learnt, {found.tokens} tokens"
    )
    if not found.helps:
        console.print("the gates are no better than constants: fit those, without gate")
    console.print(f"written: {folder / FITTED}, {folder / RESULT}, {folder / GATES}")
    return found
