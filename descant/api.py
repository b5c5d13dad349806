"""``compile``: a formula string and declared models to a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from inspect import signature
from typing import Any

import torch

from .async_service import AsyncDecoder
from .errors import ArgumentError, ArgumentTypeError
from .formula import Names, Plan, make_plan
from .grammar import did_you_mean
from .lang import Expression
from .models import Heads, ModelError, ModelSpec, make_spec
from .models.cache_config import CacheConfig
from .models.checkpoint.spec import RENAMED
from .models.images.fetch import Fetcher
from .models.images.sources import Sources
from .runtime import Decoder, DraftBinder, TermParallel, WeightPool, bind
from .runtime.constraints.spec import schema_text


def compile(
    formula: str | Expression,
    models: Mapping[str, Any],
    *,
    params: Mapping[str, float] | None = None,
    prompts: Mapping[str, str] | None = None,
    schemas: Mapping[str, Any] | None = None,
    grammars: Mapping[str, str] | None = None,
    dtype: Any = None,
    device: Any = None,
    capture: bool = True,
    enable_prefix_caching: bool = True,
    gpu_memory_utilization: float = 0.9,
    parallel: str | None = None,
    allowed_media_domains: Sequence[str] = (),
    max_num_seqs: int = 32,
    max_model_len: int | None = None,
    **others: Any,
) -> Decoder:
    """Turn a formula into a decoder.

    Args:
        formula: text, or built with the operators of ``descant.lang``; see the language reference.
        models: every model that the formula names: a path or hub id, a transformers model in
            memory, a mapping of ``ModelSpec``'s options, or a ``ModelSpec``.
        params: the formula's parameters and their values where a request gives none.
        prompts: system prompts by name, for ``model@name``.
        schemas: JSON schemas by name, for ``json(name)``: each a mapping, JSON text, or a
            pydantic model.
        grammars: grammars by name, for ``grammar(name)``, in llguidance's Lark.
        dtype: of models that name none; left out, each checkpoint's own.
        device: of models that name none; left out, the GPU if there is one.
        capture: on a GPU, replay repeated steps as CUDA graphs; the plan says what is recorded, and
            what is not and why. Without, ``where`` skips models that no row needs, and waits.
        enable_prefix_caching: keep what was read of a text, for prompts that begin with the same
            tokens; no token of an answer depends on it.
        gpu_memory_utilization: the share of a GPU's memory that may be taken, above 0, at most 1.
        parallel: ``"terms"``: each of the processes that ``torchrun`` or ``accelerate launch`` has
            started holds some of the models, and all of them give the same answers.
        allowed_media_domains: hosts that images of prompts are fetched from; ``*`` for any. None by
            default: images come as files, as data or from PIL.
        max_num_seqs: rows that ``astream`` and ``agenerate`` decode at once, of all callers.
        max_model_len: tokens of a text there, prompt and answer; left out, what the models can
            read, up to 8192.

    Returns:
        A decoder: ``generate``, ``stream``, ``astream``, ``scores``, and ``plan`` to print.

    Raises:
        FormulaError: anything wrong with the formula, or a model that does not fit into it, marked
            at its span.
        ModelError: a declaration or a checkpoint that cannot be read.
        TypeError: an unknown argument, and where it belongs.
        ValueError: a share of memory, or a way of ``parallel``, that there is not.

    Examples:
        >>> import descant
        >>> base, arm = (descant.TableModel.random(vocabulary=8, seed=seed) for seed in (1, 2))
        >>> decoder = descant.compile("base + 0.5*arm", models={"base": base, "arm": arm})
        >>> decoder.generate([3, 1], max_new_tokens=4)[0].token_ids
        [5, 4, 0, 5]
    """
    _refuse(others)
    cache = CacheConfig(enable_prefix_caching, gpu_memory_utilization)
    specs = declared(models)
    plan = plan_of(formula, specs, params, prompts, schemas, grammars)
    word, default = where(dtype, device)
    term_parallel = term_parallel_of(parallel, default)
    if term_parallel is not None:
        default = str(term_parallel.device)
    pool, names = WeightPool(), names_of(specs, params, prompts, schemas, grammars)
    bound = bind(plan, specs, word, default, term_parallel=term_parallel, pool=pool)
    if allowed_media_domains:
        bound = replace(bound, sources=Sources(fetch=Fetcher(allowed_media_domains)))
    binder = DraftBinder(specs, names, word, default, pool)
    asynchronous = partial(AsyncDecoder, slots=max_num_seqs, max_model_len=max_model_len)
    return Decoder(
        bound, params, capture, cache=cache, draft_binder=binder, make_asynchronous=asynchronous,
        by_rewards=_by_rewards,
    )  # fmt: skip


def _by_rewards(decoder: Any, prompts: Any, reward: Any, **options: Any) -> Any:
    """``Decoder.fit`` by rewards, whose module is built upon this one."""
    rewards = import_module(".fit.rewards.in_memory", __package__)
    return rewards.fit_by_rewards(decoder, prompts, reward, **options)


def term_parallel_of(parallel: str | None, device: str) -> TermParallel | None:
    """The processes that share a formula's models, if any."""
    if parallel is None:
        return None
    if parallel != "terms":
        raise ArgumentError(f'parallel is {parallel!r}; there is "terms"')
    return TermParallel(device)


def declared(models: Mapping[str, Any]) -> dict[str, ModelSpec]:
    """The specs of declared models.

    Raises:
        ModelError: an unknown option, or not exactly one source; models without names.
    """
    if not isinstance(models, Mapping):
        problem = f"models is a {type(models).__name__}, and the formula knows models by name"
        raise ModelError(problem, 'write models={"base": …}')
    return {name: make_spec(name, value) for name, value in models.items()}


def plan_of(
    formula: str | Expression,
    specs: Mapping[str, ModelSpec],
    params: Mapping[str, float] | None = None,
    prompts: Mapping[str, str] | None = None,
    schemas: Mapping[str, Any] | None = None,
    grammars: Mapping[str, str] | None = None,
) -> Plan:
    """The checked plan of a formula; loads nothing."""
    names = names_of(specs, params, prompts, schemas, grammars)
    plan = make_plan(formula if isinstance(formula, str) else str(formula), names)
    if params is not None and plan.params:
        plan.values(dict(params))
    return plan


def names_of(
    specs: Mapping[str, ModelSpec],
    params: Mapping[str, float] | None,
    prompts: Mapping[str, str] | None,
    schemas: Mapping[str, Any] | None = None,
    grammars: Mapping[str, str] | None = None,
) -> Names:
    """The names that a formula may use."""
    return Names(
        frozenset(specs), frozenset(params or ()), dict(prompts or {}), Heads(specs),
        {name: schema_text(value, f"schemas.{name}") for name, value in (schemas or {}).items()},
        dict(grammars or {}),
    )  # fmt: skip


def where(dtype: Any, device: Any) -> tuple[str | None, str]:
    """The dtype and the device of models that name none, as words.

    Raises:
        ModelError: not a dtype, or not a device that torch has here.
    """
    word = None if dtype is None else str(dtype).removeprefix("torch.")
    if word not in (None, "float32", "bfloat16", "float16", "auto"):
        raise ModelError(f"{word} is not a dtype", "use float32, bfloat16, float16 or auto")
    if device is None:
        return word, "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ModelError(f"{device} is not a device", "use cpu, cuda, cuda:1 or mps") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelError("there is no CUDA device here", 'leave device out, or write "cpu"')
    return word, str(chosen)


def _refuse(others: Mapping[str, Any]) -> None:
    """Refuse arguments that ``compile`` does not take, with a cure."""
    known = signature(compile).parameters.keys() - {"others"}
    for name in others:
        cure = did_you_mean(name, known)
        if name == "torch_dtype":
            cure = "it is called dtype here"
        elif name in ModelSpec.model_fields or name in RENAMED:
            own = RENAMED.get(name, f"{name}: …")
            cure = f"that is an option of each model, beside its path: {own}"
        raise ArgumentTypeError(f"compile has no argument {name}; {cure}")
