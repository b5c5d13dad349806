"""The method section of a run's folder: what was done, with what, and whose methods it has.

Everything is from the folder. What it does not record is left out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..api import declared, where
from ..disk import reading
from ..inputs.expand import Setting, drafting_models, settings_of, without_temperature
from ..inputs.grid import Point
from ..inputs.runfile import RunFile, RunFileError
from ..inputs.sections import Generate, ScoreSpec
from ..models import ModelError, ModelSpec, with_bases
from ..report.forest import CAPTION
from ..results.effects import point_text, reference_of, scores_of
from ..results.folder import COMPLETIONS, META, resolved_run
from ..scoring.declared import language_model
from ..scoring.expressions import is_expression, models_of, reward_expression
from .blocks import Block, Code, Figure, Heading, Paragraph, Table, Text, latex, markdown
from .citations import Citation, citations
from .recognised import forms

_ALWAYS = ("max_new_tokens", "num_return_sequences", "seed")  # of ``generate``
_VERSIONS = ("descant", "torch", "transformers", "python")
_DIGITS = 16  # of a hash
_LISTED = 12  # values of a swept name; beyond, its ends
Meta = Mapping[str, Any]


def section(folder: Path | str, *, as_latex: bool = False) -> str:
    """The method section of a run or a sweep, as Markdown or LaTeX, with BibTeX entries.

    Raises:
        RunFileError: the folder holds no run.
    """
    folder = Path(folder)
    run, meta = resolved_run(folder), _meta(folder)
    if not (folder / f"{COMPLETIONS}.jsonl").is_file():
        raise RunFileError(f"{folder} holds no run: there is no {COMPLETIONS}.jsonl")
    settings = settings_of(run)
    blocks: list[Block] = [
        *_formulas(run, settings),
        *_models(run, settings, meta),
        *_setup(run, meta),
        *_scores(run, settings),
        *_figures(run, settings, folder),
    ]
    texts = [part for block in blocks if isinstance(block, Paragraph) for part in block.text]
    works = list(dict.fromkeys(part for part in texts if isinstance(part, Citation)))
    return (latex if as_latex else markdown)(blocks, works)


def _meta(folder: Path) -> Meta:
    file = folder / META
    if not file.is_file():
        return {}
    try:
        with reading(file):
            return dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError:
        raise RunFileError(f"{file} is not JSON; remove it") from None


def _formulas(run: RunFile, settings: Sequence[Setting]) -> Iterator[Block]:
    yield Heading("Method", 2)
    plural = len(settings) > 1
    yield Paragraph((
        f"Answers were decoded with {'each of these formulas' if plural else 'this formula'} over "
        "language models. A name is a model's next-token log-probability, and the next token is "
        "drawn from the softmax of the scores that the formula gives.",
    ))  # fmt: skip
    for setting in settings:
        name = f"{setting.name}: " if plural else ""
        yield Paragraph((name, Code(setting.text)))
    for name, written in {**run.merge, **run.prompts}.items():
        kind = "the sum of adapters" if name in run.merge else "the system prompt"
        yield Paragraph((Code(name), f" is {kind} ", Code(written), "."))
    known: dict[Any, list[str]] = {}
    for setting in settings:
        points = [{**run.params, **without_temperature(point)} for point in setting.points]
        found = forms(setting.plan, declared(run.models), points, partial(_is_language_model, run))
        for form in found:
            known.setdefault(form, []).append(setting.name)
    for form, names in known.items():
        whose = " and ".join(names) if plural else "The formula"
        text: list[Any] = [
            f"{whose} {'have' if len(names) > 1 else 'has'} the form of {form.name} "
        ]
        for number, key in enumerate(form.keys):
            work = citations()[key]
            text += [", " if number else "(", f"{work.short} ", work]
        yield Paragraph((*text, ")."))


def _is_language_model(run: RunFile, name: str) -> bool:
    """Whether a declared model is one; False where its files are gone."""
    specs = declared(run.models)
    try:
        language_model(name, specs, *where(run.dtype, None))
    except ModelError:
        return False
    return True


def _models(run: RunFile, settings: Sequence[Setting], meta: Meta) -> Iterator[Block]:
    yield Heading("Models", 3)
    origins, specs = meta.get("models", {}), declared(run.models)
    used = _used(run, settings, specs)
    rows: list[tuple[str | Code, ...]] = []
    for name, spec in specs.items():
        if name not in used:
            continue
        origin = origins.get(name, {})
        hashes = origin.get("sha256", {}).items()
        files = ", ".join(f"{file} {digest[:_DIGITS]}" for file, digest in hashes)
        identity = origin.get("commit") or files
        rows.append((
            Code(name), Code(_source(spec)), Code(identity) if identity else "unknown",
            _options(spec, run),
        ))  # fmt: skip
    caption = (
        "The models by their names in the formula, each with the commit of the hub that was read, "
        f"or the first {_DIGITS} digits of the SHA-256 of its files."
    )
    yield Table(caption, ("name", "model", "identity", ""), rows)


def _used(
    run: RunFile, settings: Sequence[Setting], specs: Mapping[str, ModelSpec]
) -> Collection[str]:
    """The models that formulas and scores read, and what those stand on."""
    names = {name for setting in settings for name in setting.plan.declared}
    names |= drafting_models(run, specs)
    for score in (run.score or {}).values():
        if score.reward and is_expression(score.reward, specs, run.params):
            names |= {*models_of(reward_expression(score.reward, specs, run.params))}
        elif score.model:
            names.add(score.model)
    return with_bases([name for name in names if name in specs], specs)


def _source(spec: ModelSpec) -> str:
    source = spec.path or spec.adapter or spec.vector or spec.head
    return source if isinstance(source, str) else type(spec.model).__name__


def _options(spec: ModelSpec, run: RunFile) -> str:
    """What a declaration says besides its source."""
    kind = "adapter" if spec.adapter else "steering vector" if spec.vector else "head"
    parts = [f"{kind} on {spec.on}"] if spec.on else []
    if dtype := spec.dtype or (None if spec.on else run.dtype):
        parts.append(f"in {dtype}")
    if spec.quantization is not None:
        parts.append("quantised")
    if spec.revision is not None:
        parts.append(f"revision {spec.revision}")
    return ", ".join(parts)


def _setup(run: RunFile, meta: Meta) -> Iterator[Block]:
    yield Heading("Data and settings", 3)
    data, of = run.data, meta.get("data", {})
    if data is not None:
        count = f"{of['prompts']:,} prompts" if "prompts" in of else "Prompts"
        text: list[str | Code | Citation] = [f"{count} from ", Code(data.source)]
        facts = [
            (data.name, f"split {data.split}"),
            (data.revision, f"revision {data.revision}"),
            (data.shuffle is not None, f"shuffled with seed {data.shuffle}"),
            (data.limit, f"the first {data.limit}"),
        ]
        text.append("".join(f", {fact}" for holds, fact in facts if holds))
        if "sha256" in of:
            text += [" (SHA-256 ", Code(of["sha256"]), ")"]
        yield Paragraph((*text, "."))
    settings = run.generate.model_dump()
    defaults = Generate().model_dump()
    shown = {
        key: value for key, value in settings.items()
        if key in _ALWAYS or (value != defaults[key] and key != "batch_size")
    }  # fmt: skip
    listed = [part for key, value in shown.items() for part in (", ", Code(f"{key} = {value}"))]
    yield Paragraph(("Settings: ", *listed[1:], "."))
    if run.sweep:
        values = [Code(f"{name} = {_values(name, run.points)}") for name in run.points[0]]
        listed = [part for value in values for part in (", ", value)]
        seeds = "the seed of a completion is a function of the run's seed, the formula, its "
        yield Paragraph((
            f"{len(run.points)} points were swept: ", *listed[1:], f"; {seeds}",
            "parameters, the prompt and the number of the sample.",
        ))  # fmt: skip
    elif run.params:
        fixed = [Code(f"{name} = {value:g}") for name, value in run.params.items()]
        listed = [part for value in fixed for part in (", ", value)]
        yield Paragraph(("Parameters: ", *listed[1:], "."))
    software = [f"{name} {meta[name]}" for name in _VERSIONS if name in meta]
    if software:
        parts = [f"Software: {', '.join(software)}; on {meta.get('device')}"]
        if git := meta.get("git"):
            parts.append(f"; git revision {git['revision']}{', changed since' * git['dirty']}")
        yield Paragraph(("".join(parts), "."))


def _values(name: str, points: Sequence[Point]) -> str:
    values = list(dict.fromkeys(point[name] for point in points))
    if len(values) > _LISTED:
        return f"{min(values):g} to {max(values):g}, {len(values)} values"
    return ", ".join(f"{value:g}" for value in values)


def _scores(run: RunFile, settings: Sequence[Setting]) -> Iterator[Block]:
    if not run.score:
        return
    yield Heading("Scores", 3)
    for name, score in run.score.items():
        yield Paragraph((Code(name), *_score(score), "."))
    bootstrap, holm = citations()["efron1993bootstrap"], citations()["holm1979simple"]
    yield Paragraph((
        "Means are over prompts, the samples of a prompt averaged first, with 95 % percentile "
        "bootstrap intervals over prompts ", bootstrap, ".",
    ))  # fmt: skip
    counts = {setting.name: len(setting.points) for setting in settings}
    if sum(counts.values()) > 1 and scores_of(run):
        against = point_text(*reference_of(run, counts))
        yield Paragraph((
            "Points were compared with ", Code(against), " by paired differences over prompts: the "
            "mean difference with its bootstrap interval, in standard deviations of the "
            "differences (d_z), and the p-value of a two-sided sign-flip test, corrected over all "
            "points for each score by Holm's procedure ", holm, ".",
        ))  # fmt: skip


def _score(score: ScoreSpec) -> Text:
    kind, value = score.source
    match kind:
        case "reward":
            return " is the reward ", Code(value)
        case "perplexity":
            return " is the perplexity under ", Code(value)
        case "kl":
            return " estimates the KL divergence of the answers from ", Code(value)
        case "coherence":
            return " is the cosine of prompt and answer by ", Code(value)
    ends = " to ".join(score.between or ())
    return " is the share of the gap in ", Code(value), " that is recovered, from ", Code(ends)


def _figures(run: RunFile, settings: Sequence[Setting], folder: Path) -> Iterator[Block]:
    counts = {setting.name: len(setting.points) for setting in settings}
    captions = {}
    if run.objectives:
        names = " and ".join(name.removeprefix("-") for name in run.objectives)
        captions["front"] = (
            f"Means of {names} at every point, with 95 % bootstrap intervals. Filled points are on "
            "the front of their formula."
        )
    if run.score:
        captions["effects"] = CAPTION.format(against=point_text(*reference_of(run, counts)))
    for name, caption in captions.items():
        if (folder / f"{name}.png").is_file():
            yield Figure(name, caption)
